"""Puts right what can be put right without looking: writes corrected copies of files of articles.

Turns lines of JSON into the same lines, corrected or, for an exact duplicate, left out, and says each change. Never
touches a text, nor a label that says something; lines that are no articles, corrected or not, stay as they are.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from khabar.inference.sinks import whole_file
from khabar.models.article import parse_article
from khabar.models.article_reader import parse_json, read_lines
from khabar.models.errors import KhabarError, Problem
from khabar.models.messages import show
from khabar.models.words import split_words
from khabar.training.check_spans import trimmed
from khabar.training.source_spec import refuse_other_formats


def fix_files(files: Sequence[str | Path], folder: str | Path) -> tuple[list[Path], list[Problem]]:
    """Write a corrected copy of each file, under its own name, into a folder.

    Spaces and other unseen characters go from entities' ends, and with them entities of nothing else; entities and
    topics given twice, and articles that are equal but for their ids, are kept once; lines end as on Unix. Lines
    without a change are copied byte for byte. The copies appear when all are written.

    Args:
        files: Files of articles, JSON Lines.
        folder: Made where there is none; none of its files is replaced.

    Returns:
        The copies, and all changes with their places in the files given.

    Raises:
        KhabarError: If a file cannot be read or its ending says that it is of another format, or a copy would replace
            a file or another copy.
    """
    refuse_other_formats(files)
    folder = Path(folder)
    targets = [folder / Path(file).name for file in files]
    if folder.exists() and not folder.is_dir():
        raise KhabarError(f"{folder} is a file; allowed: a folder, there or new")
    for place, target in enumerate(targets):
        if target.exists():
            raise KhabarError(f"{target} is there already and would be replaced; allowed: another folder")
        if target in targets[:place]:
            raise KhabarError(f"two files are called {target.name}; allowed: files with different names")
    changes: list[Problem] = []
    fixed = [b"".join(_fixed_lines(str(file), changes)) for file in files]
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as copies:
        for target, content in zip(targets, fixed, strict=True):
            copies.enter_context(whole_file(target)).write_bytes(content)
    return targets, changes


def _fixed_lines(file: str, changes: list[Problem]) -> Iterator[bytes]:
    first: dict[str, int] = {}
    n_carriage_returns = 0
    for number, line in read_lines(file):
        kept = line.removesuffix(b"\r")
        n_carriage_returns += kept != line
        try:
            row = parse_json(kept)
        except ValueError:
            row = None
        messages = list(_fix(row)) if isinstance(row, dict) else []
        if isinstance(row, dict) and parse_article(row)[0] is not None:
            earlier = first.setdefault(_content(row), number)
            if earlier != number:
                changes.append(Problem(file=file, line=number, message=f"left out: equal to line {earlier}"))
                continue
            changes += [Problem(file=file, line=number, message=message) for message in messages]
            if messages:
                kept = json.dumps(row, ensure_ascii=False).encode()
        yield kept + b"\n"
    if n_carriage_returns:
        message = f"{n_carriage_returns:,} lines ended with CR LF; now with LF"
        changes.append(Problem(file=file, message=message))


def _content(row: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in row.items() if key != "id"}, sort_keys=True)


def _fix(row: dict[str, Any]) -> Iterator[str]:
    """Correct an article's object in place, and say what was changed."""
    yield from _drop_repeats(row, "topics", "topics")
    segments = row.get("segments")
    for i, segment in enumerate(segments if isinstance(segments, list) else ()):
        if isinstance(segment, dict):
            yield from _drop_repeats(segment, "topics", f"segments[{i}].topics")
    text, entities = row.get("text"), row.get("entities")
    if isinstance(text, str) and isinstance(entities, list):
        kept, words = [], split_words(text)
        for i, entity in enumerate(entities):
            span = _usable_span(entity, len(text))
            shorter = span and trimmed(words, *span)
            if span and shorter is None:
                yield f"entities[{i}] left out: nothing of {span[0]} to {span[1]} can be seen"
                continue
            if span and shorter and span != shorter:
                entity["start"], entity["end"] = shorter
                yield (
                    f"entities[{i}] from {span[0]} to {span[1]} now goes from {shorter[0]} to {shorter[1]}: "
                    f"{show(text[slice(*shorter)])}"
                )
            kept.append(entity)
        row["entities"] = kept
    yield from _drop_repeats(row, "entities", "entities")


def _drop_repeats(item: dict[str, Any], key: str, place: str) -> Iterator[str]:
    values = item.get(key)
    if not isinstance(values, list):
        return
    kept: list[object] = []
    for i, value in enumerate(values):
        if value in kept:
            yield f"{place}[{i}] left out: {show(value)} again"
        else:
            kept.append(value)
    item[key] = kept


def _usable_span(entity: object, n_characters: int) -> tuple[int, int] | None:
    if not isinstance(entity, dict):
        return None
    start, end = entity.get("start"), entity.get("end")
    if type(start) is int and type(end) is int and 0 <= start < end <= n_characters:
        return start, end
    return None
