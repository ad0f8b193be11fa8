"""Articles as a folder of Hugging Face `datasets` (save_to_disk), and back: a column for each of an article's keys.

Reads folders of tagged tokens too, columns `tokens` and `ner_tags`. Knows nothing of hubs: nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from khabar.models.article import ARTICLE_KEYS, Article
from khabar.models.errors import KhabarError, MissingExtraError
from khabar.models.messages import show
from khabar.training.conll import is_tag, tagged_article
from khabar.training.convert.gathering import Gatherer, Losses, origin
from khabar.training.convert.spacing import natural_spaces

if TYPE_CHECKING:
    from datasets import Dataset

_TOKENS, _TAGS = "tokens", "ner_tags"


def write(articles: Sequence[Article], path: Path, _losses: Losses) -> None:
    """Write a dataset; what is not annotated or not known is null.

    Raises:
        MissingExtraError: If `datasets` is not installed.
    """
    _need_datasets()
    from datasets import Dataset, Features, List, Value

    text, number = Value("string"), Value("int64")
    labels = List(text)
    features = Features(
        {key: text for key in ARTICLE_KEYS if key not in ("segments", "topics", "entities")}
        | {
            "segments": List({"start": number, "end": number, "topics": labels}),
            "topics": labels,
            "entities": List({"start": number, "end": number, "label": text}),
        }
    )
    rows = [dict.fromkeys(ARTICLE_KEYS) | article.to_json() for article in articles]
    for row in rows:
        row["segments"] = row["segments"] and [{"topics": None} | part for part in row["segments"]]
    Dataset.from_list(rows, features=features).save_to_disk(path)


def read(path: Path, losses: Losses) -> list[Article]:
    """Read a dataset with an article's columns, of which `text` must be there, or with those of tagged tokens.

    Raises:
        CorpusError: Listing every row that is no article.
        KhabarError: If the folder holds no dataset, several, or one with other columns.
        MissingExtraError: If `datasets` is not installed.
    """
    _need_datasets()
    from datasets import DatasetDict, load_from_disk

    try:
        dataset = load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise KhabarError(f"{path} cannot be read as a folder of datasets: {error}") from None
    if isinstance(dataset, DatasetDict):
        parts = ", ".join(str(path / name) for name in dataset)
        raise KhabarError(f"{path} holds several datasets; give one of them: {parts}")
    columns = dataset.column_names
    gatherer = Gatherer(path, losses)
    if "text" in columns:
        _add_articles(dataset, gatherer)
    elif _TOKENS in columns and _TAGS in columns:
        _add_tagged(dataset, gatherer)
    else:
        raise KhabarError(f"{path} has the columns {', '.join(columns)}; allowed: text, or {_TOKENS} and {_TAGS}")
    return gatherer.articles()


def _need_datasets() -> None:
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("train", "converting from and to a folder of datasets") from None
    datasets.disable_progress_bars()


def _add_articles(dataset: Dataset, gatherer: Gatherer) -> None:
    for number, row in enumerate(dataset, start=1):
        gatherer.leave_out_keys(row, ARTICLE_KEYS)
        known = {key: value for key, value in row.items() if key in ARTICLE_KEYS and value is not None} | origin(row)
        if isinstance(known.get("segments"), list):
            known["segments"] = [_without_null_topics(part) for part in known["segments"]]
        gatherer.add(number, known)


def _without_null_topics(part: Any) -> Any:
    if isinstance(part, dict) and part.get("topics") is None:
        return {key: value for key, value in part.items() if key != "topics"}
    return part


def _add_tagged(dataset: Dataset, gatherer: Gatherer) -> None:
    names = getattr(getattr(dataset.features[_TAGS], "feature", None), "names", None)
    for number, row in enumerate(dataset, start=1):
        gatherer.leave_out_keys(row, (_TOKENS, _TAGS, "id"))
        tokens, tags = row[_TOKENS], row[_TAGS]
        lists = isinstance(tokens, list) and isinstance(tags, list)
        if not lists or not all(isinstance(token, str) for token in tokens):
            gatherer.wrong(number, f"{_TOKENS} or {_TAGS} is no list; allowed: a list of words, and one of their tags")
            continue
        if names is not None:
            tags = [names[tag] if 0 <= tag < len(names) else tag for tag in tags]
        wrong = [tag for tag in tags if not isinstance(tag, str) or not is_tag(tag)]
        if wrong or len(tokens) != len(tags):
            seen = f"the tag {show(wrong[0])}" if wrong else f"{len(tags)} tags for {len(tokens)} tokens"
            gatherer.wrong(number, f"{_TAGS} has {seen}; allowed: O, B-LABEL or I-LABEL for each token")
            continue
        article = tagged_article(tokens, natural_spaces(tokens), tags, None)
        gatherer.add(number, article.to_json() | origin({"id": row.get("id")}))
