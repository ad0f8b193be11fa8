"""Topics with evidence and entities with exact offsets, read from Arabic news in one pass.

    import khabar
    tagger = khabar.load()
    article = tagger.tag("…")
    article.topics, article.entities

Importing khabar loads none of the heavy packages: a public name does when it is first used.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from khabar.client import AsyncClient, Client
    from khabar.inference.results import Entity, Segment, TaggedArticle, Topic
    from khabar.inference.tagger import Tagger, load
    from khabar.models.article import Article
    from khabar.models.errors import KhabarError

__version__ = "0.19.0"

__all__ = [
    "Article",
    "AsyncClient",
    "Client",
    "Entity",
    "KhabarError",
    "Segment",
    "TaggedArticle",
    "Tagger",
    "Topic",
    "__version__",
    "load",
]

_HOME = {
    "Article": "khabar.models.article",
    "AsyncClient": "khabar.client",
    "Client": "khabar.client",
    "Entity": "khabar.inference.results",
    "KhabarError": "khabar.models.errors",
    "Segment": "khabar.inference.results",
    "TaggedArticle": "khabar.inference.results",
    "Tagger": "khabar.inference.tagger",
    "Topic": "khabar.inference.results",
    "load": "khabar.inference.tagger",
}

# A library says nothing of itself: without this, its warnings would reach standard error where logging is not set up.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'khabar' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value  # found without this function from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
