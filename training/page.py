"""Writes an evaluation's report: one HTML page that needs nothing else, and its numbers as JSON beside it.

Turns the dict of khabar.training.report into files. Measures nothing.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from khabar.inference.sinks import whole_file
from khabar.models.errors import KhabarError
from khabar.training import charts
from khabar.training.bootstrap import FEWEST_ARTICLES
from khabar.training.comparison import HEADLINES, PART_NAMES
from khabar.training.curves import Bin, Curve, Reliability
from khabar.training.evaluate import parts_of
from khabar.training.report import MOST_CHARTED

PAGE, DATA = "index.html", "report.json"


def render_page(report: Mapping[str, Any]) -> str:
    """Lay a report out as an HTML page without scripts or anything that has to be fetched."""
    return template("report.html.j2").render(
        report=report,
        parts=parts_of(report),
        part_names=PART_NAMES,
        headlines=HEADLINES,
        fewest_articles=FEWEST_ARTICLES,
        most_charted=MOST_CHARTED,
        percent=_percent,
        span=_span,
        interval_bar=charts.interval_bar,
        curve_chart=_curve_chart,
        reliability_chart=_reliability_chart,
        difference_reach=_difference_reach,
    )


def template(name: str) -> Template:
    """Open one of this folder's templates; every value it is given is escaped."""
    environment = Environment(
        loader=PackageLoader("khabar.training", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def check_folder(folder: str | Path) -> None:
    """See, before long work, that a report can be written.

    Raises:
        KhabarError: If it is a file, or cannot be made or written in.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise KhabarError(f"{folder} is a file; allowed: a folder for {PAGE} and {DATA}")
    parent = folder.resolve()
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise KhabarError(f"{folder}: {parent} cannot be written in")


def write_report(report: Mapping[str, Any], folder: str | Path) -> None:
    """Write the page and its numbers into a folder, which is made if need be; they appear when both are written."""
    folder = Path(folder)
    contents = {
        DATA: json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False) + "\n",
        PAGE: render_page(report),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as files:
        for name, content in contents.items():
            files.enter_context(whole_file(folder / name)).write_text(content, encoding="utf-8")


def _percent(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return "–"
    shown = f"{100 * value:{'+' if sign else ''}.1f}"
    return "0.0" if float(shown) == 0 else shown.replace("-", "−")


def _span(ends: Sequence[float] | None, *, sign: bool = False) -> str:
    if ends is None:
        return ""
    low, high = (_percent(end, sign=sign) for end in ends)
    return f"{low} to {high}"


def _curve_chart(chart: Mapping[str, Any], row: Mapping[str, Any], title: str) -> Markup:
    curve = Curve(**{key: tuple(values) for key, values in chart["curve"].items()})
    point = None if row["f1"] is None or not row["predicted"] else (row["recall"], row["precision"])
    return charts.curve_chart(curve, point=point, title=title)


def _reliability_chart(chart: Mapping[str, Any], title: str) -> Markup:
    found = chart["reliability"]
    bins = tuple(Bin(**one) for one in found["bins"])
    return charts.reliability_chart(Reliability(bins=bins, error=found["error"]), title=title)


def _difference_reach(tests: Mapping[str, Any]) -> float:
    """The furthest end of any interval, so that all differences can be drawn on one scale."""
    rows = [row for part in tests.values() for row in (*part["labels"].values(), part["micro"], part["macro"])]
    return max((abs(end) for row in rows if row["interval"] for end in row["interval"]), default=0.0) or 1.0
