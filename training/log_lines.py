"""Says in a log how long work is getting on, a line a minute. Knows time alone."""

from __future__ import annotations

import logging
import time

SECONDS = 60  # between two lines


class LogLines:
    """Lines of a log, at most one in so many seconds.

    Args:
        logger: Takes them.
        shown: Whether there are any: where a bar says the same, they would be in its way.
    """

    def __init__(self, logger: logging.Logger, *, shown: bool) -> None:
        self._logger = logger
        self._shown = shown
        self._last = time.monotonic()

    def line(self, message: str, *values: object) -> None:
        """Write a line, as `logging` takes it, if it is time for one."""
        if self._shown and time.monotonic() - self._last >= SECONDS:
            self._last = time.monotonic()
            self._logger.info(message, *values)
