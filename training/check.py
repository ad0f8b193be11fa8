"""Checks files of labelled articles: reads them as far as they can be read and lists all that is found.

Turns paths into articles and findings. How each thing is found is in check_text, check_spans and check_corpus.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from khabar.models.article_reader import iter_numbered_articles
from khabar.models.errors import CorpusError, KhabarError
from khabar.models.messages import nearest
from khabar.training.check_corpus import check_corpus
from khabar.training.check_finding import KINDS, SEVERITIES, Finding, PlacedArticle, Severity
from khabar.training.check_spans import check_spans
from khabar.training.check_text import check_text
from khabar.training.source_spec import refuse_other_formats


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Files that have been looked at.

    Attributes:
        files: As the user named them.
        articles: Those that can be read, in the order of files and lines.
        findings: The gravest first, of equals in that order; what is about several articles last.
        n_more: How many further errors there are in files with more than MOST_KEPT.
    """

    files: Sequence[str]
    articles: Sequence[PlacedArticle]
    findings: Sequence[Finding]
    n_more: int = 0

    def count(self, severity: Severity) -> int:
        """How many findings are so grave."""
        more = self.n_more if severity == "error" else 0
        return sum(finding.severity == severity for finding in self.findings) + more

    def totals(self) -> str:
        """Say in a line how many findings of each severity there are."""
        counts = [(severity, self.count(severity)) for severity in SEVERITIES]
        return ", ".join(f"{n:,} {severity}{'' if n == 1 else 's'}" for severity, n in counts)


def check_ignored(kinds: Collection[str]) -> None:
    """See that these kinds of findings can be left out.

    Raises:
        KhabarError: If one is not known, or an error.
    """
    allowed = [kind for kind, (severity, _) in KINDS.items() if severity != "error"]
    for kind in kinds:
        if kind not in allowed:
            raise KhabarError(f"ignore is {kind!r}, which is not a kind that can be ignored{nearest(kind, allowed)}")


def check_files(files: Sequence[str | Path], *, ignore: Collection[str] = ()) -> Checked:
    """Check the articles of files, by themselves and against each other.

    Args:
        files: Files of articles, JSON Lines.
        ignore: Kinds of findings that are left out; errors cannot be.

    Raises:
        KhabarError: If a kind to ignore is not known or an error, or a file's ending says that it is of another format.
    """
    check_ignored(ignore)
    refuse_other_formats(files)
    names = list(dict.fromkeys(map(str, files)))
    articles: list[PlacedArticle] = []
    findings: list[Finding] = []
    n_more = 0
    for file in names:
        n_before = len(articles)
        try:
            for line, article in iter_numbered_articles(file):
                articles.append(PlacedArticle(file=file, line=line, article=article))
        except CorpusError as error:
            findings += [Finding(kind="format", message=p.message, file=p.file, line=p.line) for p in error.problems]
            n_more += error.n_more
        except KhabarError as error:
            findings.append(Finding(kind="format", message=str(error).removeprefix(file).lstrip(": "), file=file))
        else:
            if len(articles) == n_before:
                findings.append(Finding(kind="format", message="no articles; allowed: one a line", file=file))
    for placed in articles:
        findings += check_text(placed)
        findings += check_spans(placed)
    findings += check_corpus(articles)
    order = {file: place for place, file in enumerate(names)}
    found = [finding for finding in findings if finding.kind not in ignore]
    found.sort(
        key=lambda finding: (
            SEVERITIES.index(finding.severity),
            order.get(finding.file or "", len(order)),
            finding.line or 0,
            finding.span or (0, 0),
        )
    )
    return Checked(files=names, articles=articles, findings=found, n_more=n_more)
