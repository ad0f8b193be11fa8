"""Articles as tagged tokens (CoNLL, BIO): a word a line, what follows it, its tag; and back, through conll.py.

Writes three columns, token, spacing and tag: programs that take the first and the last column read the file, and the
text comes back exactly. Knows nothing of topics: the format has no place for them.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

from khabar.models.article import Article, Entity
from khabar.models.errors import KhabarError
from khabar.models.messages import show
from khabar.models.words import Span
from khabar.training.conll import iter_conll
from khabar.training.convert.gathering import Losses
from khabar.training.convert.pieces import cut_words, gaps_around
from khabar.training.convert.spacing import natural_spaces, write_gaps

_NOT_ANNOTATED = "articles without annotated entities: as tagged tokens they would say that there are none"
_WITHOUT_WORDS = "articles without a word"


def read(path: Path, losses: Losses) -> list[Article]:
    """Read a file of tagged tokens, the outermost of nested entities alone.

    Where the file does not say how its tokens are spaced, they are as news is written (see natural_spaces).

    Raises:
        CorpusError: Listing everything that is wrong in the file.
        KhabarError: If it cannot be read.
    """
    return list(iter_conll(path, gaps=natural_spaces, left_out=losses))


def write(articles: Sequence[Article], path: Path, losses: Losses) -> None:
    """Write articles as blocks of lines with a blank line between them.

    Raises:
        KhabarError: If a label has a space in it, or no article can be written.
    """
    blocks = []
    for article in articles:
        if article.entities is None:
            losses[_NOT_ANNOTATED] += 1
            continue
        for entity in article.entities:
            if len(entity.label.split()) != 1:
                raise KhabarError(f"the label {show(entity.label)} has a space; allowed in tagged tokens: none")
        edges = (offset for entity in article.entities for offset in (entity.start, entity.end))
        pieces = cut_words(article.text, edges)
        if not pieces:
            losses[_WITHOUT_WORDS] += 1
            continue
        tokens = [article.text[start:end] for start, end in pieces]
        spacing = write_gaps(gaps_around(article.text, pieces))
        rows = zip(tokens, spacing, _tags(pieces, article.entities, losses), strict=True)
        blocks.append("".join("\t".join(row) + "\n" for row in rows))
    if not blocks:
        reasons = (f"{losses[what]:,} {what}" for what in (_NOT_ANNOTATED, _WITHOUT_WORDS) if losses[what])
        raise KhabarError(f"nothing can be written: {'; '.join(reasons)}")
    path.write_text("\n".join(blocks), encoding="utf-8", newline="")


def _tags(pieces: Sequence[Span], entities: Sequence[Entity], losses: Losses) -> list[str]:
    tags = ["O"] * len(pieces)
    for entity in entities:
        first = bisect_left(pieces, entity.start, key=itemgetter(0))
        inside = range(first, bisect_right(pieces, entity.end, lo=first, key=itemgetter(1)))
        if not inside:
            losses["entities without a visible character"] += 1
            continue
        if (pieces[inside[0]][0], pieces[inside[-1]][1]) != (entity.start, entity.end):
            losses["spaces and unseen marks at the edges of entities"] += 1
        tags[inside[0]] = f"B-{entity.label}"
        for i in inside[1:]:
            tags[i] = f"I-{entity.label}"
    return tags
