"""Articles as spaCy's DocBin, and back: entities as `ents`, topics as `cats`, segments as the span group "segments".

Turns texts into Docs whose words are khabar's, so that every labelled span is a span of tokens and the text comes back
exactly. Knows nothing of pipelines. Offsets count code points.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from khabar.models.article import Article, Entity, Segment
from khabar.models.article_reader import read_bytes
from khabar.models.errors import KhabarError, MissingExtraError
from khabar.training.convert.gathering import Gatherer, Losses, origin
from khabar.training.convert.pieces import cut_words, gaps_around

if TYPE_CHECKING:
    from spacy.tokens import Doc, Span
    from spacy.vocab import Vocab

_SEGMENTS = "segments"  # the name of a span group; its attribute `topics` has each segment's, None where not annotated
_DATA = "khabar"  # the key of a doc's user data: origin, and which kinds are annotated
_ANNOTATES = "annotates"
_LEAST_PROBABLE = 0.5  # what is less probable is not the doc's topic


def write(articles: Sequence[Article], path: Path, _losses: Losses) -> None:
    """Write a DocBin with user data. An article with topics has a value in `cats` for every topic of any article.

    Tokens of an article without annotated entities have a missing IOB tag, as spaCy's training wants it.

    Raises:
        MissingExtraError: If spaCy is not installed.
    """
    _need_spacy()
    from spacy.tokens import DocBin
    from spacy.vocab import Vocab

    vocab = Vocab()
    topics = list(dict.fromkeys(topic for article in articles for topic in article.topics or ()))
    docs = DocBin(store_user_data=True)
    for article in articles:
        docs.add(_to_doc(article, topics, vocab))
    docs.to_disk(path)


def read(path: Path, losses: Losses) -> list[Article]:
    """Read a DocBin, of any pipeline or training set.

    Raises:
        CorpusError: Listing every doc that is no article.
        KhabarError: If the file is no DocBin.
        MissingExtraError: If spaCy is not installed.
    """
    _need_spacy()
    from spacy.tokens import DocBin
    from spacy.vocab import Vocab

    content = read_bytes(path)
    try:
        docs = list(DocBin(store_user_data=True).from_bytes(content).get_docs(Vocab()))
    except Exception as error:  # spaCy lets through whatever its decoders raise
        raise KhabarError(f"{path} is no DocBin that spaCy can read ({type(error).__name__}: {error})") from None
    gatherer = Gatherer(path, losses)
    for number, doc in enumerate(docs, start=1):
        gatherer.add(number, _to_row(doc, losses))
    return gatherer.articles()


def _need_spacy() -> None:
    try:
        import spacy  # noqa: F401
    except ImportError:
        raise MissingExtraError("spacy", "converting from and to spaCy's DocBin") from None


def _to_doc(article: Article, topics: Sequence[str], vocab: Vocab) -> Doc:
    from spacy.tokens import Doc, SpanGroup

    parts: list[Entity | Segment] = [*(article.entities or ()), *(article.segments or ())]
    words, spaces = _tokens(article.text, {part.start for part in parts}, {part.end for part in parts})
    doc = Doc(vocab, words=words, spaces=spaces)
    row = article.to_json()
    kinds = [kind for kind in ("topics", "segments", "entities") if kind in row]
    doc.user_data[_DATA] = origin(row) | {_ANNOTATES: kinds}
    if article.entities is not None:
        doc.set_ents([_span(doc, entity, entity.label) for entity in article.entities])
    if article.topics is not None:
        others = {topic: 0.0 for topic in topics if topic not in article.topics}
        doc.cats = dict.fromkeys(article.topics, 1.0) | others
    if article.segments:
        spans = [_span(doc, part) for part in article.segments]
        attrs = {"topics": [None if part.topics is None else list(part.topics) for part in article.segments]}
        doc.spans[_SEGMENTS] = SpanGroup(doc, name=_SEGMENTS, attrs=attrs, spans=spans)
    return doc


def _span(doc: Doc, part: Entity | Segment, label: str = "") -> Span:
    span = doc.char_span(part.start, part.end, label=label)
    if span is None:  # `_tokens` cuts at all of them
        raise RuntimeError(f"no tokens from {part.start} to {part.end}")
    return span


def _tokens(text: str, starts: Collection[int], ends: Collection[int]) -> tuple[list[str], list[bool]]:
    """Cut a text into tokens, each with one space behind it or none; all other white space is tokens too."""
    edges = sorted({*starts, *ends})
    pieces = cut_words(text, edges)
    words: list[str] = []
    spaces: list[bool] = []
    place = 0
    for gap, piece in zip(gaps_around(text, pieces), [*pieces, None], strict=True):
        end = place + len(gap)
        # A span that begins at the space, or ends behind it, needs it as a token.
        if gap.startswith(" ") and words and place not in starts and place + 1 not in ends:
            spaces[-1] = True
            place += 1
        cuts = [place, *edges[bisect_right(edges, place) : bisect_left(edges, end)], end]
        runs = [text[first:last] for first, last in pairwise(cuts) if first < last]
        if piece is not None:
            runs.append(text[slice(*piece)])
            end = piece[1]
        words += runs
        spaces += [False] * len(runs)
        place = end
    return words, spaces


def _to_row(doc: Doc, losses: Losses) -> dict[str, Any]:
    data = doc.user_data.get(_DATA, {})
    row: dict[str, Any] = {"text": doc.text, **origin(data)}
    kinds = data.get(_ANNOTATES, ())
    known = [token.ent_iob != 0 for token in doc]
    if any(known) and not all(known):
        losses["docs whose entities are annotated in part, taken as not annotated"] += 1
    elif any(known) or "entities" in kinds:
        row["entities"] = [{"start": ent.start_char, "end": ent.end_char, "label": ent.label_} for ent in doc.ents]
    if doc.cats or "topics" in kinds:
        row["topics"] = [topic for topic, value in doc.cats.items() if value >= _LEAST_PROBABLE]
    if "segments" in kinds:
        row["segments"] = []
    for name, group in doc.spans.items():
        if name != _SEGMENTS:
            losses[f"spans of the group {name}"] += len(group)
            continue
        topics = group.attrs.get("topics") or [None] * len(group)
        row["segments"] = [
            {"start": span.start_char, "end": span.end_char} | ({} if its is None else {"topics": list(its)})
            for span, its in zip(group, topics, strict=False)
        ]
    return row
