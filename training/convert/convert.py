"""Converts labelled articles from one format to another, by way of Articles, and says what is lost on the way.

Knows files and folders as wholes; what is in them is the formats' matter.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from khabar.inference.fields import FieldNames
from khabar.inference.sinks import check_output, whole_file, whole_folder
from khabar.models.article import Article
from khabar.models.errors import KhabarError
from khabar.training.convert import label_studio, topics_table
from khabar.training.convert.formats import Format, choose_format
from khabar.training.convert.gathering import Losses


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What a conversion did.

    Attributes:
        articles: What was read.
        source: The format that was read.
        target: The format that was written.
        not_read: What the input holds and an article cannot, to how often.
        not_written: What the articles hold and the output does not, likewise.
    """

    articles: Sequence[Article]
    source: Format
    target: Format
    not_read: Losses
    not_written: Losses


def convert(
    source: str | Path,
    target: str | Path,
    *,
    from_format: str | None = None,
    to_format: str | None = None,
    annotator: str | None = None,
    fields: FieldNames | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Convert a file or folder of labelled articles. The output appears when it is whole.

    Args:
        source: What to read.
        target: What to write.
        from_format: Name of the format to read; None goes by the ending, or a folder's files.
        to_format: Name of the format to write, likewise.
        annotator: Whose annotations to take from an export of Label Studio, see there; None takes all.
        fields: The columns of text and id in a table (csv); None means `text` and `id`.
        overwrite: Replace a file that is there. A folder never is.

    Raises:
        CorpusError: Listing everything that is wrong with the input.
        KhabarError: If the input cannot be read or holds no articles, a format is not clear, a label or topic cannot
            be spelt in the output's format, or something is in the output's place.
        MissingExtraError: If a format's library is not installed.
    """
    reading = choose_format(source, from_format, "--from")
    writing = choose_format(target, to_format, "--to")
    if annotator is not None:
        if reading.name != "label-studio":
            raise KhabarError(f"an annotator is given, and {source} is read as {reading.name}; allowed: label-studio")
        reading = replace(reading, read=partial(label_studio.read, annotator=annotator))
    if fields is not None and fields != FieldNames():
        if reading.name != "csv":
            raise KhabarError(f"fields of text and id are given, and {source} is read as {reading.name}; allowed: csv")
        reading = replace(reading, read=partial(topics_table.read, fields=fields))
    source, target = Path(source), Path(target)
    if not source.exists():
        raise KhabarError(f"{source}: no such file or folder")
    _check_target(source, target, writing, overwrite=overwrite)
    not_read, not_written = Losses(), Losses()
    articles = reading.read(source, not_read)
    if not articles:
        raise KhabarError(f"{source} has no articles")
    not_written.update(_without_place(articles, writing))
    with whole_folder(target) if writing.is_folder else whole_file(target) as place:
        writing.write(articles, place, not_written)
    return Conversion(articles=articles, source=reading, target=writing, not_read=+not_read, not_written=+not_written)


def _check_target(source: Path, target: Path, writing: Format, *, overwrite: bool) -> None:
    if target.resolve() == source.resolve():
        raise KhabarError(f"{target} is what is to be converted; give another output")
    if target.is_dir() or (target.exists() and writing.is_folder):
        raise KhabarError(f"{target} is there already; give another output, for {writing.name} goes to a new place")
    if target.exists() and not overwrite:
        raise KhabarError(f"{target} is there already; give another output, or --overwrite")
    check_output(target)


def _without_place(articles: Iterable[Article], writing: Format) -> Losses:
    return Losses(
        f"articles' {key}, for which {writing.name} has no place"
        for article in articles
        for key in article.to_json()
        if key not in writing.holds
    )
