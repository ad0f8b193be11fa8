"""Shows how a long scoring run is getting on: a line on a terminal that is taken away at the end, or lines in a log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from khabar.inference.progress import Progress
    from khabar.inference.sources import Source

log = logging.getLogger(__name__)


@contextmanager
def scoring_progress(sources: Sequence[Source], *, hidden: bool) -> Iterator[Progress]:
    """Show on a terminal how it is getting on, in one line that is taken away at the end; in a log, once a minute."""
    from khabar.inference.progress import Progress

    if not sys.stderr.isatty():
        yield Progress(sources, write=log.info, seconds=60)
    elif hidden:  # results come on the same terminal
        yield Progress()
    else:
        try:
            yield Progress(sources, write=_show, seconds=0.5)
        finally:
            _show("")


def _show(line: str) -> None:
    """Write a line over the one before."""
    sys.stderr.write(f"\r{line}\x1b[K")
    sys.stderr.flush()
