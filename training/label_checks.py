"""Checks that the labels of sources that are used together mean something to one model.

Turns what sources declare and what they hold into the model's labels and into messages. Reads no file.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations

from khabar.models.messages import nearest
from khabar.training.source import SourceCounts
from khabar.training.source_spec import SourceSpec

_SIGNS, _DIGITS = re.compile(r"[\W_]+"), re.compile(r"\d+")
_CODE = 5  # letters; labels of fewer are codes


def model_labels(sources: Iterable[tuple[SourceSpec, SourceCounts]]) -> set[str]:
    """Gather the entity labels: the targets of all maps, and what is found in sources without a map."""
    labels: set[str] = set()
    for spec, counts in sources:
        if spec.entities is None:
            labels.update(counts.entities.keys() - spec.ignore)
        else:
            labels.update(target for targets in spec.entities.values() for target in targets)
    return labels


def model_topics(sources: Iterable[tuple[SourceSpec, SourceCounts]]) -> set[str]:
    """Gather the topics likewise."""
    topics: set[str] = set()
    for spec, counts in sources:
        topics.update(counts.topics if spec.topics is None else spec.topics.values())
    return topics


def lookalikes(labels: Collection[str]) -> list[tuple[str, str]]:
    """Find pairs of labels that are spelt alike: the same but for case and signs, or one letter.

    Such pairs are often one label and a slip of the pen. Labels of fewer than five letters are taken to be codes, of
    which one letter tells apart, and so are numbered ones.
    """
    letters = {label: _SIGNS.sub("", label.casefold()) for label in sorted(labels)}
    # Spellings that are alike have one in common, whole or without a letter.
    sharing: dict[str, list[str]] = defaultdict(list)
    for label, spelt in letters.items():
        for key in {spelt, *(spelt[:n] + spelt[n + 1 :] for n in range(len(spelt)) if len(spelt) >= _CODE)}:
            sharing[key].append(label)
    pairs = {pair for found in sharing.values() for pair in combinations(found, 2)}
    return sorted((one, other) for one, other in pairs if _alike(letters[one], letters[other]))


def label_problems(
    spec: SourceSpec, counts: SourceCounts, *, labels: Collection[str], topics: Collection[str]
) -> list[str]:
    """Say which labels and topics of a source mean nothing to the model, and which of its claims are untrue.

    Args:
        spec: The source as declared.
        counts: What it holds.
        labels: The model's entity labels.
        topics: The model's topics.
    """
    return [
        *_problems(
            spec,
            counts.entities,
            set(labels),
            maps=spec.entities or {},
            ignore=spec.ignore,
            unannotated=spec.unannotated,
            words=("entity labels", "entities", "ignore", "unannotated", "a label"),
        ),
        *_problems(
            spec,
            counts.source_topics,
            set(topics),
            maps={name: (target,) for name, target in (spec.topics or {}).items()},
            ignore=spec.ignore_topics,
            unannotated=spec.unannotated_topics,
            words=("topics", "topics", "ignore_topics", "unannotated_topics", "a topic"),
        ),
    ]


def _alike(one: str, other: str) -> bool:
    if one == other:
        return one != ""
    if abs(len(one) - len(other)) > 1 or min(len(one), len(other)) < _CODE:
        return False
    if _DIGITS.sub("", one) == _DIGITS.sub("", other):
        return False
    n = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return (
        one[n + 1 :] == other[n + 1 :]  # another letter
        or one[n + 1 :] == other[n:]  # one more
        or one[n:] == other[n + 1 :]  # one less
        or (one[n : n + 2] == other[n : n + 2][::-1] and one[n + 2 :] == other[n + 2 :])  # two that changed places
    )


def _problems(
    spec: SourceSpec,
    found: Mapping[str, int],
    known: set[str],
    *,
    maps: Mapping[str, Sequence[str]],
    ignore: frozenset[str],
    unannotated: frozenset[str],
    words: tuple[str, str, str, str, str],
) -> list[str]:
    labels, map_key, ignore_key, unannotated_key, a_label = words
    by_number = sorted(found, key=lambda label: -found[label])
    stray = [label for label in by_number if label not in {*maps, *ignore, *known}]
    messages = []
    if stray:
        listed = ", ".join(f"{label} ({found[label]})" for label in stray)
        messages.append(
            f"{spec.path} has {labels} of unknown meaning: {listed}; allowed: the model's {labels.split()[-1]} "
            f"({', '.join(sorted(known)) or 'none'}), or an entry for each under `{map_key}` or `{ignore_key}`"
        )
    messages += [
        f'{unannotated_key} names "{label}", which is not {a_label} of the model{nearest(label, sorted(known))}'
        for label in sorted(unannotated - known)
    ]
    messages += [
        f'{spec.path} marks "{label}" ({found[label]}), which {unannotated_key} says it never does'
        for label in sorted(unannotated & found.keys() - maps.keys() - ignore)
    ]
    targets = {target for labels in maps.values() for target in labels}
    messages += [
        f'{map_key} maps to "{target}", which is not {a_label} of the model{nearest(target, sorted(known))}'
        for target in sorted(targets - known)
    ]
    return messages
