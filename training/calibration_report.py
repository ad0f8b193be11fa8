"""The report of a calibration: what was fitted to each topic, and what it is worth.

Turns fits and outcomes into one dataclass fit for JSON, and that into a table. Fits and decides nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from khabar.training.figures import percent, text_table
from khabar.training.outcomes import (
    Compared,
    Measures,
    calibration_error,
    log_loss,
    macro_f1,
    micro_f1,
    precision,
    recall,
    share,
    uncertain,
)
from khabar.training.thresholds import Fitted


@dataclass(frozen=True, kw_only=True)
class TopicCalibration:
    """One topic of the report.

    Attributes:
        positives: Decisions whose gold has the topic.
        shared: Whether the fit is shared, since too few decisions have the topic, or lack it.
        fitted: What was stored.
        calibration_error: Expected calibration error.
        f1: F1; precision and recall likewise.
        uncertain: Share of decisions inside the band.
    """

    positives: int
    shared: bool
    fitted: Fitted
    calibration_error: Measures
    f1: Measures
    precision: Measures
    recall: Measures
    uncertain: Measures


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All topics of articles, or of segments, together.

    Attributes:
        n: Articles, or segments.
        calibration_error: Expected calibration error.
        log_loss: Mean negative log-likelihood of the gold, in nats.
        macro_f1: Mean F1 of the topics that have gold.
        micro_f1: F1 of all decisions.
        micro_precision: Share of right ones among all topics reported.
        uncertain: Share of decisions inside a band.
        errors_uncertain: Share of the wrong decisions that are inside a band.
        reported_right: Share of right decisions above the bands.
        absent_right: Share of right decisions below the bands.
    """

    n: int
    calibration_error: Measures
    log_loss: Measures
    macro_f1: Measures
    micro_f1: Measures
    micro_precision: Measures
    uncertain: Measures
    errors_uncertain: Measures
    reported_right: Measures
    absent_right: Measures


@dataclass(frozen=True, kw_only=True)
class CalibrationReport:
    """What was fitted, and what it is worth.

    Attributes:
        n_articles: Articles with annotated topics, their own or those of segments.
        n_segments: Annotated segments of those that have no topics of their own.
        n_folds: Folds of the held-out measures.
        wanted_precision: What thresholds were chosen by; None for the best F1.
        certainty: What bands were chosen by.
        topics: One entry a topic, in the model's order.
        decisions: What thresholds are for: articles with topics of their own, and those segments.
        segments: All annotated segments. None without any.
    """

    n_articles: int
    n_segments: int
    n_folds: int
    wanted_precision: float | None
    certainty: float
    topics: Mapping[str, TopicCalibration]
    decisions: Summary
    segments: Summary | None

    def to_json(self) -> dict[str, Any]:
        """Give nested plain data, as metrics.json holds it."""
        return asdict(self)


def build_report(
    fitted: Mapping[str, Fitted],
    *,
    shared: Sequence[str],
    decisions: Compared,
    segments: Compared,
    n_articles: int,
    n_segments: int,
    n_folds: int,
    wanted_precision: float | None,
    certainty: float,
) -> CalibrationReport:
    """Measure what was fitted.

    Args:
        fitted: One fit a topic, in the order of the arrays' columns.
        shared: The topics whose fit is shared.
        decisions: The decisions that thresholds are for.
        segments: All annotated segments, maybe none.
        n_articles: As `CalibrationReport` describes it, like the four that follow.
        n_segments: Likewise.
        n_folds: Likewise.
        wanted_precision: Likewise.
        certainty: Likewise.
    """
    topics = {}
    for k, (topic, fit) in enumerate(fitted.items()):
        column = decisions.topic(k)
        topics[topic] = TopicCalibration(
            positives=int(column.gold.sum()),
            shared=topic in shared,
            fitted=fit,
            calibration_error=column.measure(calibration_error),
            f1=column.measure(micro_f1),
            precision=column.measure(precision),
            recall=column.measure(recall),
            uncertain=column.measure(uncertain),
        )
    return CalibrationReport(
        n_articles=n_articles,
        n_segments=n_segments,
        n_folds=n_folds,
        wanted_precision=wanted_precision,
        certainty=certainty,
        topics=topics,
        decisions=_summary(decisions),
        segments=_summary(segments) if len(segments.gold) else None,
    )


def _summary(level: Compared) -> Summary:
    return Summary(
        n=len(level.gold),
        calibration_error=level.measure(calibration_error),
        log_loss=level.measure(log_loss),
        macro_f1=level.measure(macro_f1),
        micro_f1=level.measure(micro_f1),
        micro_precision=level.measure(precision),
        uncertain=level.measure(uncertain),
        errors_uncertain=level.measure(lambda gold, out: share(out.uncertain, out.decided != gold)),
        reported_right=level.measure(lambda gold, out: share(gold, out.decided & ~out.uncertain)),
        absent_right=level.measure(lambda gold, out: share(~gold, ~out.decided & ~out.uncertain)),
    )


def render_calibration(report: CalibrationReport) -> str:
    """Lay a report out as plain text: decisions in percent, temperatures and probabilities as they are."""
    summary, segments = report.decisions, report.segments
    header = [
        *("", "gold", "temp.", "threshold", "band", "ECE: before", "after", "held out"),
        *("F1: at 0.5", "fitted", "held out", "precision", "uncertain"),
    ]
    rows = [_topic_row(topic, one) for topic, one in report.topics.items()]
    rows.append(["all, F1 macro", "", "", "", "", *_summary_cells(summary, summary.macro_f1)])
    if segments is not None:
        rows.append(["segments, F1 micro", "", "", "", "", *_summary_cells(segments, segments.micro_f1)])
    lines = text_table([header, *rows])
    lines.insert(-1 if segments is None else -2, "")
    return "\n".join([_title(report), *lines, "", *_notes(report)])


def _topic_row(topic: str, one: TopicCalibration) -> list[str]:
    fit = one.fitted
    return [
        topic + (" *" if one.shared else ""),
        f"{one.positives:,}",
        f"{fit.temperature:.2f}",
        f"{fit.threshold:.2f}",
        f"{fit.band[0]:.2f}-{fit.band[1]:.2f}" if fit.band else "none",
        *_cells(one.calibration_error),
        *_cells(one.f1),
        percent(one.precision.held_out),
        percent(one.uncertain.held_out),
    ]


def _summary_cells(summary: Summary, f1: Measures) -> list[str]:
    return [
        *_cells(summary.calibration_error),
        *_cells(f1),
        percent(summary.micro_precision.held_out),
        percent(summary.uncertain.held_out),
    ]


def _cells(measures: Measures) -> list[str]:
    return [percent(value) for value in (measures.before, measures.after, measures.held_out)]


def _title(report: CalibrationReport) -> str:
    aim = "the best F1" if report.wanted_precision is None else f"a precision of {report.wanted_precision:.2f}"
    n = f"{report.n_articles:,} articles"
    if report.n_segments:
        n += f", by {report.n_segments:,} segments where they have no topics of their own"
    return f"thresholds for {aim} on {n}; bands for {100 * report.certainty:g} % right outside them"


def _notes(report: CalibrationReport) -> list[str]:
    notes = [
        f"held out: each article by a fit to the others, in {report.n_folds} folds; so are precision and uncertain"
    ]
    shared = [topic for topic, one in report.topics.items() if one.shared]
    if shared:
        notes.append(
            "* too few articles with it, or without it, for a fit of its own: temperature and threshold are shared "
            "by all topics, and there is no band"
        )
    missed = [topic for topic, one in report.topics.items() if not one.fitted.reached]
    if missed:
        notes.append(f"the wanted precision is out of reach, the highest is taken: {', '.join(missed)}")
    summary = report.decisions
    outside = summary.reported_right.held_out, summary.absent_right.held_out
    notes.append(
        f"outside the bands, held out: {percent(outside[0])} % of what is reported is right, "
        f"{percent(outside[1])} % of what is not; inside them are "
        f"{percent(summary.errors_uncertain.held_out)} % of the errors"
    )
    return notes
