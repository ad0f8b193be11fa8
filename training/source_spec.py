"""What a corpus's YAML may say of a source: its keys, their values, and how a wrong one is named.

Turns one source's mapping into a SourceSpec. Knows nothing of YAML, and opens no source.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeGuard, get_args

from khabar.models.errors import KhabarError
from khabar.models.messages import nearest, show

Format = Literal["articles", "conll"]
Split = Literal["train", "dev", "test"]

ENDINGS: dict[str, Format] = {
    ".jsonl": "articles",
    ".json": "articles",
    ".bio": "conll",
    ".conll": "conll",
    ".iob": "conll",
    ".iob2": "conll",
    ".tsv": "conll",
    ".txt": "conll",
}
FORMATS: tuple[Format, ...] = get_args(Format)
SPLITS: tuple[Split, ...] = get_args(Split)
_SOURCE_KEYS = (
    "path",
    "format",
    "split",
    "entities",
    "unannotated",
    "ignore",
    "topics",
    "unannotated_topics",
    "ignore_topics",
    "proclitics",
    "weight",
    "licence",
    "teacher",
)


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """One source of a corpus, as declared.

    Attributes:
        split: What the source is for; None where nobody has said.
        entities: Source label to the model's labels; None when the source's labels are the model's.
        unannotated: The model's labels that the source never marks.
        ignore: Source labels that stand for none of the model's.
        topics: Source topic to the model's topic; None when the source's topics are the model's.
        unannotated_topics: The model's topics that the source never gives.
        ignore_topics: Source topics that stand for none of the model's.
        proclitics: Whether its spans leave out joined proclitics; None where nobody has said.
        licence: Under what terms texts and labels are; None where nobody has said.
        teachers: Models that say what the source's labels leave open (see teaching.py).
        declared_in: The YAML that names it, and there `line`; None for a path given by itself.
    """

    path: Path
    format: Format
    split: Split | None = None
    entities: Mapping[str, tuple[str, ...]] | None = None
    unannotated: frozenset[str] = frozenset()
    ignore: frozenset[str] = frozenset()
    topics: Mapping[str, str] | None = None
    unannotated_topics: frozenset[str] = frozenset()
    ignore_topics: frozenset[str] = frozenset()
    proclitics: bool | None = None
    weight: float = 1.0
    licence: str | None = None
    teachers: tuple[str, ...] = ()
    declared_in: Path | None = None
    line: int | None = None

    def map_topics(self, topics: Collection[str]) -> tuple[str, ...]:
        """Give the model's topics for the source's, each once, in their order."""
        mapped = self.topics or {}
        return tuple(dict.fromkeys(mapped.get(topic, topic) for topic in topics if topic not in self.ignore_topics))


def format_of(path: str | Path) -> Format | None:
    """Tell a source's format from its ending; None when the ending says nothing."""
    return ENDINGS.get(Path(path).suffix.lower())


def is_yaml(path: str | Path) -> bool:
    """Tell whether a path's ending is that of a list of sources."""
    return Path(path).suffix.lower() in (".yaml", ".yml")


def refuse_other_formats(paths: Iterable[str | Path]) -> None:
    """Refuse files that by their ending hold no articles, where nothing else can be read.

    Raises:
        KhabarError: Naming the file and what makes articles of it.
    """
    for path in paths:
        ending = Path(path).suffix.lower()
        if format_of(path) == "conll" or ending in (".csv", ".parquet"):
            raise KhabarError(
                f"{path}: {ending} is not read here; allowed: articles, JSON Lines (.jsonl), which "
                "`khabar data convert` makes of other formats"
            )
        if is_yaml(path):
            raise KhabarError(f"{path}: a list of sources is not read here; allowed: the .jsonl files that it names")


def refuse_repeated(paths: Iterable[str | Path]) -> None:
    """Refuse a file that is given twice, be it by another name.

    Raises:
        KhabarError: Naming it.
    """
    seen: set[Path] = set()
    for path in paths:
        place = Path(path).resolve()
        if place in seen:
            raise KhabarError(f"{path} is given twice; allowed: each file once")
        seen.add(place)


class SourceChecker:
    """Checks one source's mapping and gathers what is wrong with it."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.messages: list[str] = []

    def check(self, source: object, declared_in: Path, line: int | None) -> SourceSpec | None:
        """Read a source's mapping; None, and `messages`, when anything is wrong with it."""
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
        split: Split | None = None
        if "split" in source:
            split = self._split(source["split"])
        entities, topics = self._entities(source), self._topics(source)
        unannotated, ignore = self._labels(source, "unannotated"), self._labels(source, "ignore")
        no_topics, ignore_topics = self._labels(source, "unannotated_topics"), self._labels(source, "ignore_topics")
        proclitics = source.get("proclitics")
        if "proclitics" in source and not isinstance(proclitics, bool):
            self._wrong("proclitics", proclitics, "true or false")
        weight = source.get("weight", 1.0)
        if not _is_number(weight) or not math.isfinite(weight) or weight <= 0:
            self._wrong("weight", weight, "a number above 0")
        licence = source.get("licence")
        if licence is not None and not (isinstance(licence, str) and licence.strip()):
            self._wrong("licence", licence, "a name or a sentence, such as CC BY 4.0")
        teachers = self._teachers(source, declared_in, split)
        self._contradictions("entities", entities or {}, unannotated, ignore)
        self._contradictions("topics", {name: (to,) for name, to in (topics or {}).items()}, no_topics, ignore_topics)
        if self.messages or kind is None:
            return None
        return SourceSpec(
            path=declared_in.parent / str(path),
            format=kind,
            split=split,
            entities=entities,
            unannotated=unannotated,
            ignore=ignore,
            topics=topics,
            unannotated_topics=no_topics,
            ignore_topics=ignore_topics,
            proclitics=proclitics,
            weight=float(weight),
            licence=licence,
            teachers=teachers,
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
                endings = ", ".join(ENDINGS)
                self._wrong("path", path, f"an ending of {endings}, or a `format` ({', '.join(FORMATS)})")
            return kind
        value = source["format"]
        kind = next((kind for kind in FORMATS if kind == value), None)
        if kind is None:
            self._wrong("format", value, ", ".join(FORMATS))
        return kind

    def _split(self, value: object) -> Split | None:
        split = next((split for split in SPLITS if split == value), None)
        if split is None:
            self._wrong("split", value, ", ".join(SPLITS))
        return split

    def _teachers(self, source: Mapping[str, object], declared_in: Path, split: Split | None) -> tuple[str, ...]:
        """Read the models' names: a folder beside the YAML, or what `khabar.load` takes."""
        if "teacher" not in source:
            return ()
        value = source["teacher"]
        names = [value] if isinstance(value, str) else value
        if not _is_labels(names) or not names:
            self._wrong("teacher", value, "a model (a folder, a hub id or embedded), or a list of them")
            return ()
        if split in ("dev", "test"):
            self._wrong("teacher", value, f"no teacher where split is {split}: what is measured on must be labelled")
        beside = [declared_in.parent / name for name in names]
        return tuple(str(path) if path.is_dir() else name for name, path in zip(names, beside, strict=True))

    def _topics(self, source: Mapping[str, object]) -> dict[str, str] | None:
        if "topics" not in source:
            return None
        value = source["topics"]
        if not isinstance(value, dict):
            self._wrong("topics", value, "a mapping of this source's topics to the model's")
            return None
        topics: dict[str, str] = {}
        for name, target in value.items():
            if not isinstance(name, str):
                self._wrong("topics", name, "topics that are strings (quote no, yes, on, off and numbers)")
            elif not isinstance(target, str) or not target.strip():
                self._wrong(
                    f"topics.{name}", target, "a topic of the model (`ignore_topics` takes those that are none)"
                )
            else:
                topics[name] = target
        return topics

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
        self, key: str, mapped: Mapping[str, tuple[str, ...]], unannotated: frozenset[str], ignore: frozenset[str]
    ) -> None:
        targets = {target for labels in mapped.values() for target in labels}
        ignoring = "ignore" if key == "entities" else "ignore_topics"
        self.messages += [
            f"{self.place}: {show(label)} is both in {key} and in {ignoring}; allowed: one of them"
            for label in sorted(mapped.keys() & ignore)
        ]
        self.messages += [
            f"{self.place}: {show(label)} is unannotated, yet {key} maps to it; allowed: one of them"
            for label in sorted(targets & unannotated)
        ]


def _is_labels(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) and item.strip() for item in value)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
