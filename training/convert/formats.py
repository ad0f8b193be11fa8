"""The formats that can be converted, what each can hold of an article, and which one a path is of.

Turns a path into a Format. Reading and writing are in a module for each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from khabar.models.article import ARTICLE_KEYS, Article
from khabar.models.article_reader import read_articles
from khabar.models.errors import KhabarError
from khabar.models.messages import nearest, show
from khabar.training.convert import (
    brat,
    dataset_folder,
    doccano,
    label_studio,
    prodigy,
    spacy_docs,
    tagged_tokens,
    topics_table,
)
from khabar.training.convert.gathering import Losses, write_json_lines


@dataclass(frozen=True, kw_only=True)
class Format:
    """One format.

    Attributes:
        name: As the command's options have it.
        read: Gives a file's or a folder's articles, and counts what it leaves out.
        write: Writes articles to a new file, or into a new or empty folder, and counts what it leaves out of those
            that it can hold.
        holds: The keys of an article for which there is a place.
        endings: File endings that no other format has.
        is_folder: Whether it is a folder rather than a file.
    """

    name: str
    read: Callable[[Path, Losses], list[Article]]
    write: Callable[[Sequence[Article], Path, Losses], None]
    holds: frozenset[str] = frozenset(ARTICLE_KEYS)
    endings: tuple[str, ...] = ()
    is_folder: bool = False


def _read_lines(path: Path, _losses: Losses) -> list[Article]:
    return read_articles(path)


def _write_lines(articles: Sequence[Article], path: Path, _losses: Losses) -> None:
    write_json_lines((article.to_json() for article in articles), path)


FORMATS = {
    one.name: one
    for one in (
        Format(name="jsonl", read=_read_lines, write=_write_lines, endings=(".jsonl",)),
        Format(
            name="conll",
            read=tagged_tokens.read,
            write=tagged_tokens.write,
            holds=frozenset({"text", "entities"}),
            endings=(".conll", ".bio", ".iob", ".iob2"),
        ),
        Format(name="spacy", read=spacy_docs.read, write=spacy_docs.write, endings=(".spacy",)),
        Format(name="label-studio", read=label_studio.read, write=label_studio.write),
        Format(name="doccano", read=doccano.read, write=doccano.write),
        Format(name="prodigy", read=prodigy.read, write=prodigy.write),
        Format(
            name="brat",
            read=brat.read,
            write=brat.write,
            holds=frozenset({"id", "text", "entities"}),
            is_folder=True,
        ),
        Format(
            name="csv",
            read=topics_table.read,
            write=topics_table.write,
            holds=frozenset(topics_table.COLUMNS),
            endings=(".csv",),
        ),
        Format(name="datasets", read=dataset_folder.read, write=dataset_folder.write, is_folder=True),
    )
}


def choose_format(path: str | Path, name: str | None, option: str) -> Format:
    """Give the format of that name, or where there is none, the one that a path's ending or a folder's files show.

    Args:
        path: The file or folder, which need not be there.
        name: What the user said, if anything.
        option: The option with which to say it, for messages.

    Raises:
        KhabarError: If there is no such format, or the path does not show one.
    """
    if name is not None:
        if name not in FORMATS:
            raise KhabarError(f"{option} is {show(name)}{nearest(name, FORMATS)}")
        return FORMATS[name]
    place = Path(path)
    if place.is_dir():
        if (place / "dataset_info.json").exists() or (place / "dataset_dict.json").exists():
            return FORMATS["datasets"]
        if next(place.rglob("*.ann"), None) is not None:
            return FORMATS["brat"]
        seen = "the folder's files do"
    else:
        ending = place.suffix.lower()
        for one in FORMATS.values():
            if ending in one.endings:
                return one
        seen = f"the ending {ending or '(none)'} does"
    raise KhabarError(f"{path}: {seen} not say which format it is; give {option}, one of {', '.join(FORMATS)}")
