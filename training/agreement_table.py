"""Lays agreement out for a terminal: tables of topics and entities, and the list of disagreements.

Turns Agreement into lines. Measures nothing.
"""

from collections.abc import Iterator, Mapping, Sequence

from khabar.inference.render import plain, shorten
from khabar.training.agreement import Agreement, Disagreement, TopicRow
from khabar.training.figures import percent, text_table

_TEXT_SHOWN = 80


def describe_agreement(agreement: Agreement, first: str, second: str) -> str:
    """Word the measures; `first` and `second` are the files' names."""
    matched = agreement.matched
    lines = [f"A = {first}, B = {second}: {len(matched.pairs):,} articles in both"]
    lines += [
        f"{n:,} only in {side}, not compared"
        for side, n in (("A", matched.only_first), ("B", matched.only_second))
        if n
    ]
    parts = [
        *_part("topics of {:,} articles", agreement.n_with_topics, _topic_table(agreement.article_topics)),
        *_part("topics of {:,} segments", agreement.n_segments, _topic_table(agreement.segment_topics)),
        *_part("entities of {:,} articles", agreement.n_with_entities, _entity_table(agreement)),
    ]
    if agreement.segments_apart:
        n = agreement.segments_apart
        parts += ["", f"{n:,} segments with topics are not so in the other file, and are not compared"]
    return "\n".join([*lines, *(parts or ["nothing in them was labelled by both"])])


def list_disagreements(disagreements: Sequence[Disagreement]) -> Iterator[str]:
    """Word each disagreement in a line: place, what A says, what B says, and the text."""
    for one in disagreements:
        place = "" if one.start is None else f", {one.start} to {one.end}"
        text = f": {shorten(plain(one.text), _TEXT_SHOWN)}" if one.text else ""
        yield f"{one.article}{place}: A {one.first or 'nothing'}, B {one.second or 'nothing'}{text}"


def _part(title: str, n: int, table: Sequence[str]) -> list[str]:
    return ["", title.format(n), *(table or ["  none"])] if n else []


def _topic_table(rows: Mapping[str, TopicRow]) -> list[str]:
    cells = [
        (
            topic,
            "-" if row.kappa is None else f"{row.kappa:.3f}",
            percent(row.observed),
            *(f"{n:,}" for n in (row.first, row.second, row.both)),
        )
        for topic, row in rows.items()
    ]
    return _table(("", "kappa", "agree", "A", "B", "both"), cells)


def _entity_table(agreement: Agreement) -> list[str]:
    rows = [*agreement.entities.items(), ("all", agreement.all_entities)] if agreement.entities else []
    cells = [
        (
            label,
            percent(row.exact_f1),
            percent(row.overlapping_f1),
            *(f"{n:,}" for n in (row.first, row.second, row.exact, row.overlapping)),
        )
        for label, row in rows
    ]
    return _table(("", "exact F1", "overlap F1", "A", "B", "exact", "overlap"), cells)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"  {line}" for line in text_table([head, *rows])] if rows else []
