"""Reads the YAML that lists a corpus's sources, their label maps and what they leave unannotated.

Turns the file into SourceSpecs, or into the list of all that is wrong with it. Opens no source.

    sources:
      - path: gold/train.jsonl
      - path: news.bio
        entities: {PERS: PERSON, ORG: [ORGANIZATION, MILITARY]}
        unannotated: [DATE]
        ignore: [MISC]
        proclitics: false
        weight: 0.5
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeGuard

import yaml

from khabar.models.article_reader import read_bytes
from khabar.models.errors import CorpusError, Problem
from khabar.models.messages import nearest, show

Format = Literal["articles", "conll"]

_ENDINGS: dict[str, Format] = {
    ".jsonl": "articles",
    ".json": "articles",
    ".bio": "conll",
    ".conll": "conll",
    ".iob": "conll",
    ".tsv": "conll",
    ".txt": "conll",
}
_FORMATS = ("articles", "conll")
_SOURCE_KEYS = ("path", "format", "entities", "unannotated", "ignore", "proclitics", "weight")


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """One source of a corpus, as declared.

    Attributes:
        entities: Source label to the model's labels; None when the source's labels are the model's.
        declared_in: The YAML that names it, and there `line`; None for a path given by itself.
    """

    path: Path
    format: Format
    entities: Mapping[str, tuple[str, ...]] | None = None
    unannotated: frozenset[str] = frozenset()
    ignore: frozenset[str] = frozenset()
    proclitics: bool = True
    weight: float = 1.0
    declared_in: Path | None = None
    line: int | None = None


def format_of(path: str | Path) -> Format | None:
    """Tell a source's format from its ending; None when the ending says nothing."""
    return _ENDINGS.get(Path(path).suffix.lower())


def read_corpus_file(path: str | Path) -> list[SourceSpec]:
    """Read a YAML of sources; their paths are relative to the YAML's folder.

    Raises:
        CorpusError: If the YAML is malformed, or a key or value is not allowed; lists every such place.
        KhabarError: If the file cannot be read.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_double_keys(root)
        document = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise _error(path, None, f"not UTF-8: byte 0x{error.object[error.start]:02x}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error)
        raise _error(path, mark.line + 1 if mark else None, f"not YAML: {reason}") from None
    if not isinstance(document, dict):
        raise _error(path, None, "a corpus file is a mapping with the key `sources`")
    problems = [
        Problem(file=str(path), message=f"{show(key)} is not a known key{nearest(str(key), ['sources'])}")
        for key in document
        if key != "sources"
    ]
    sources = document.get("sources")
    if not isinstance(sources, list) or not sources:
        message = f"sources is {show(sources)}; allowed: a list of one or more sources"
        raise CorpusError([*problems, Problem(file=str(path), message=message)])
    specs: list[SourceSpec] = []
    for i, (source, line) in enumerate(zip(sources, _source_lines(root, len(sources)), strict=True)):
        checker = _SourceChecker(f"sources[{i}]")
        spec = checker.check(source, Path(path), line)
        problems += [Problem(file=str(path), line=line, message=message) for message in checker.messages]
        if spec is not None:
            specs.append(spec)
    if problems:
        raise CorpusError(problems)
    return specs


class _SourceChecker:
    """Checks one source's mapping and gathers what is wrong with it."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.messages: list[str] = []

    def check(self, source: object, declared_in: Path, line: int | None) -> SourceSpec | None:
        if not isinstance(source, dict):
            self._wrong("", source, "a mapping with at least `path`")
            return None
        self.messages += [
            f"{self.place}: {show(key)} is not a known key{nearest(str(key), _SOURCE_KEYS)}"
            for key in source
            if key not in _SOURCE_KEYS
        ]
        path = source.get("path")
        kind: Format | None = None
        if isinstance(path, str) and path:
            kind = self._format(source, path)
        else:
            self._wrong("path", path, "a path relative to this file")
        entities = self._entities(source)
        unannotated, ignore = self._labels(source, "unannotated"), self._labels(source, "ignore")
        proclitics = source.get("proclitics", kind == "articles")
        if not isinstance(proclitics, bool):
            self._wrong("proclitics", proclitics, "true or false")
        weight = source.get("weight", 1.0)
        if not _is_number(weight) or not math.isfinite(weight) or weight <= 0:
            self._wrong("weight", weight, "a number above 0")
        self._contradictions(entities or {}, unannotated, ignore)
        if self.messages or kind is None:
            return None
        return SourceSpec(
            path=declared_in.parent / str(path),
            format=kind,
            entities=entities,
            unannotated=unannotated,
            ignore=ignore,
            proclitics=proclitics,
            weight=float(weight),
            declared_in=declared_in,
            line=line,
        )

    def _wrong(self, key: str, value: object, allowed: str) -> None:
        place = f"{self.place}.{key}" if key else self.place
        self.messages.append(f"{place} is {show(value)}; allowed: {allowed}")

    def _format(self, source: Mapping[str, object], path: str) -> Format | None:
        if "format" not in source:
            kind = format_of(path)
            if kind is None:
                endings = ", ".join(_ENDINGS)
                self._wrong("path", path, f"an ending of {endings}, or a `format` ({', '.join(_FORMATS)})")
            return kind
        value = source["format"]
        if value == "articles":
            return "articles"
        if value == "conll":
            return "conll"
        self._wrong("format", value, ", ".join(_FORMATS))
        return None

    def _entities(self, source: Mapping[str, object]) -> dict[str, tuple[str, ...]] | None:
        if "entities" not in source:
            return None
        value = source["entities"]
        if not isinstance(value, dict):
            self._wrong("entities", value, "a mapping of this source's labels to the model's")
            return None
        labels: dict[str, tuple[str, ...]] = {}
        for label, targets in value.items():
            if not isinstance(label, str):
                self._wrong("entities", label, "labels that are strings (quote no, yes, on, off and numbers)")
                continue
            targets = [targets] if isinstance(targets, str) else targets
            if not _is_labels(targets) or not targets:
                allowed = "a label of the model or a list of them (`ignore` takes those that are none)"
                self._wrong(f"entities.{label}", targets, allowed)
                continue
            labels[label] = tuple(dict.fromkeys(targets))
        return labels

    def _labels(self, source: Mapping[str, object], key: str) -> frozenset[str]:
        value = source.get(key, [])
        if _is_labels(value):
            return frozenset(value)
        self._wrong(key, value, "a list of labels")
        return frozenset()

    def _contradictions(
        self, entities: Mapping[str, tuple[str, ...]], unannotated: frozenset[str], ignore: frozenset[str]
    ) -> None:
        targets = {target for labels in entities.values() for target in labels}
        self.messages += [
            f"{self.place}: {show(label)} is both in entities and in ignore; allowed: one of them"
            for label in sorted(entities.keys() & ignore)
        ]
        self.messages += [
            f"{self.place}: {show(label)} is unannotated, yet entities maps to it; allowed: one of them"
            for label in sorted(targets & unannotated)
        ]


def _is_labels(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) and item.strip() for item in value)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refuse_double_keys(root: yaml.Node) -> None:
    """Raise for two equal keys in one mapping: PyYAML lets the last one win."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))  # an alias is the same node again, and may even lead round in a circle
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
            continue
        keys: set[str] = set()
        for key, value in node.value:
            if key.value in keys:
                raise yaml.MarkedYAMLError(problem=f"key {show(key.value)} stands twice", problem_mark=key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                keys.add(key.value)
            waiting.append(value)


def _source_lines(root: yaml.Node, n_sources: int) -> list[int | None]:
    """Give the line at which each source begins; None when they come by way of a merge key."""
    for key, value in root.value:
        if key.value == "sources":
            return [item.start_mark.line + 1 for item in value.value]
    return [None] * n_sources


def _error(path: str | Path, line: int | None, message: str) -> CorpusError:
    return CorpusError([Problem(file=str(path), line=line, message=message)])
