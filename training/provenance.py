"""Says what a run was made from: its corpora with counts, hashes and licences, its settings, its versions.

Turns corpora and settings into plain data without paths of this machine. Knows nothing of models.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from khabar import __version__
from khabar.training.corpora import Corpus
from khabar.training.settings import TrainSettings

_PATHS = ("corpora", "dev", "output", "encoder", "from_model")
_PACKAGES = ("torch", "transformers", "tokenizers", "accelerate")


def shown_path(path: str) -> str:
    """Give a path as others may see it: a relative one (or a hub id) as it is, of an absolute one its name."""
    return Path(path).name if Path(path).is_absolute() or path.startswith("~") else path


def describe_source(corpus: Corpus) -> dict[str, Any]:
    """Describe a source as metrics.json and the model card hold it.

    Returns:
        `{"name", "sha256", "licence", "teachers", "articles", "with_topics", "with_segment_topics", "with_entities",
        "topics": {label: articles}, "entities": {label: entities}}`; entities by the source's own labels, and a
        topic counts once an article, whether the article or a segment of it has it.
    """
    return {
        "name": shown_path(corpus.name),
        "sha256": sha256_of(Path(corpus.name)),
        "licence": corpus.licence,
        "teachers": [shown_path(name) for name in corpus.articles.spec.teachers],
        **corpus.counts.to_json(),
    }


def public_settings(settings: TrainSettings) -> dict[str, Any]:
    """Give the settings as plain data, paths as `shown_path` shows them."""
    values = asdict(settings) | {"corpora": list(settings.corpora)}
    for name in _PATHS:
        value = values[name]
        if isinstance(value, str):
            values[name] = shown_path(value)
        elif value is not None:
            values[name] = [shown_path(path) for path in value]
    return values


def settings_yaml(settings: Mapping[str, Any]) -> str:
    """Write settings as a file that `khabar train --config` reads, in the order of their declaration."""
    ordered = {field.name: settings[field.name] for field in fields(TrainSettings)}
    text: str = yaml.safe_dump(ordered, allow_unicode=True, sort_keys=False)
    return text


def versions() -> dict[str, str]:
    """Name the versions of what a run's outcome depends on."""
    return {"khabar": __version__, "python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def sha256_of(path: Path) -> str:
    """Give the digest of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
