"""Writes a model's card: the content of its metrics.json as a README.md that a hub can show.

Turns plain data into Markdown with front matter. Knows no model and no article, and measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCardData

from khabar.training.bootstrap import FEWEST_ARTICLES
from khabar.training.evaluate import parts_of
from khabar.training.figures import f1_interval, percent
from khabar.training.provenance import settings_yaml

# Of a label with fewer examples a model has seen little of its variety; the limits name such labels.
FEW_EXAMPLES = 50

_PARTS = {
    "article": "Topics of articles",
    "segment": "Topics of segments",
    "entities": "Entities, exact span and label",
}
_LISTED = "`, `"


def render_card(metrics: Mapping[str, Any]) -> str:
    """Write the card.

    Args:
        metrics: The content of metrics.json, as training writes it.

    Returns:
        Markdown with Hugging Face front matter.
    """
    sections = [
        _head(metrics),
        *_labels(metrics),
        *_scores(metrics),
        *_seeds(metrics),
        *_growth(metrics),
        *_calibration(metrics),
        *_data(metrics),
        *_limits(metrics),
        *_reproduction(metrics),
    ]
    return "\n\n".join(sections)


def _head(metrics: Mapping[str, Any]) -> str:
    base = metrics["settings"]["encoder"]
    tasks = ["topic-classification"] * bool(metrics["labels"]["topics"])
    tasks += ["named-entity-recognition"] * bool(metrics["labels"]["entity_labels"])
    front = ModelCardData(
        language="ar",
        library_name="khabar",
        tags=["khabar", "arabic", "news", *tasks],
        metrics=["f1", "precision", "recall"],
        base_model=base if base and base.count("/") == 1 and not base.startswith(".") else None,
    )
    return (
        f"---\n{front.to_yaml()}\n---\n\n# {metrics['model']}\n\n"
        "Reads Arabic news in one pass: topics, with the segments that show them, and entities, with exact character "
        f"offsets in the raw text. Trained with khabar {metrics['versions']['khabar']}; "
        f"{metrics['n_parameters']:,} parameters; the encoder is of type {metrics['encoder']}.\n\n"
        '```python\nimport khabar\n\ntagger = khabar.load("path/to/this/folder")\narticle = tagger.tag("…")\n```'
    )


def _labels(metrics: Mapping[str, Any]) -> list[str]:
    labels = metrics["labels"]
    return [
        "## Labels",
        "\n".join(
            f"- {name}: `{_LISTED.join(labels[key])}`"
            for key, name in (("topics", "topics"), ("entity_labels", "entity labels"))
            if labels[key]
        ),
    ]


def _scores(metrics: Mapping[str, Any]) -> list[str]:
    report = metrics["dev"]
    if report is None:
        return ["## Scores", "Not measured: the run had no dev set."]
    anew = "dev_thresholds_fitted" in metrics  # by a calibration after training, which noted this
    fitted = metrics["dev_thresholds_fitted"] if anew else bool(metrics["calibration"])
    epoch = "the epoch" if metrics.get("epoch_chosen_on_dev", True) else ""  # 0.15 and before did not say
    chosen = " and ".join(filter(None, [epoch, "the thresholds" if fitted else ""]))
    note = (
        f"On {metrics['settings']['dev']} ({report['articles']:,} articles), in percent. Intervals hold 95 % of "
        f"{report['bootstrap']['resamples']:,} bootstrap resamples of the articles; there is none for a label that "
        f"fewer than {FEWEST_ARTICLES} articles have."
        f"{f' The same articles chose {chosen}, so scores on others will be lower.' if chosen else ''}"
        f"{' Those of topics are from before the calibration below.' if anew else ''}"
    )
    sections = ["## Scores", note]
    for name, part in parts_of(report).items():
        rows = [*part["labels"].items(), ("micro", part["micro"]), ("macro", part["macro"])]
        table = [
            [
                label,
                f"{row['support']:,}",
                *(percent(row[measure]) for measure in ("precision", "recall", "f1")),
                f1_interval(row["intervals"]),
            ]
            for label, row in rows
        ]
        header = ["", "gold", "precision", "recall", "F1", "95 % of F1"]
        sections += [f"### {_PARTS[name]}", _table(header, table)]
    return sections


def _seeds(metrics: Mapping[str, Any]) -> list[str]:
    seeds = metrics.get("seeds")
    if seeds is None:
        return [f"One run, with seed {metrics['settings']['seed']}: how far seeds differ has not been measured."]
    rows = [
        [
            name.replace("_", " "),
            *(percent(run["dev"][name]) for run in seeds["runs"]),
            percent(seeds["mean"][name]),
            percent(seeds["std"][name]),
        ]
        for name in seeds["mean"]
    ]
    header = ["", *(f"seed {run['seed']}" for run in seeds["runs"]), "mean", "std. dev."]
    note = (
        f"{len(seeds['runs'])} runs that differ in nothing but the seed; this is the one with the best score, seed "
        f"{seeds['kept']}. The mean is the better guess of what another run would give."
    )
    return ["### Seeds", note, _table(header, rows)]


def _growth(metrics: Mapping[str, Any]) -> list[str]:
    if metrics["settings"]["from_model"] is None:
        return []
    text = f"Grown from `{metrics['settings']['from_model']}`, whose labels were kept."
    if not metrics["growth"]:
        return ["### Known labels", f"{text} They have not been measured."]
    rows = [[one["label"], percent(one["before"]), percent(one["after"])] for one in metrics["growth"]]
    return ["### Known labels", f"{text} F1 on dev, in percent:", _table(["", "before", "after"], rows)]


def _calibration(metrics: Mapping[str, Any]) -> list[str]:
    thresholds, temperatures, bands = (metrics[f"topic_{name}"] for name in ("thresholds", "temperatures", "bands"))
    if not thresholds:
        return []
    report = metrics["calibration"]
    fitted = report["topics"] if report else {}
    rows = [
        [
            topic,
            f"{temperatures[topic]:.2f}",
            f"{thresholds[topic]:.2f}",
            f"{bands[topic][0]:.2f} to {bands[topic][1]:.2f}" if topic in bands else "none",
            f"{fitted[topic]['positives']:,}" if topic in fitted else "-",
            ("yes" if fitted[topic]["shared"] else "no") if topic in fitted else "-",
        ]
        for topic in thresholds
    ]
    note = "Thresholds are not fitted: they are the defaults, or those of the model that was started from."
    if report:
        aim = report["wanted_precision"]
        error = report["decisions"]["calibration_error"]
        note = (
            f"Fitted on {report['corpus']} ({report['n_articles']:,} articles), for "
            f"{'the best F1' if aim is None else f'a precision of {aim:g}'}. Expected calibration error: "
            f"{percent(error['before'])} % before, {percent(error['after'])} % after, "
            f"{percent(error['held_out'])} % held out. A shared fit is that of all topics together, for a topic with "
            "too few examples."
        )
    header = ["topic", "temperature", "threshold", "uncertain", "gold", "shared"]
    return ["## Thresholds and calibration", note, _table(header, rows)]


def _data(metrics: Mapping[str, Any]) -> list[str]:
    sources = [(use, source) for use in ("train", "dev") for source in metrics["data"][use]]
    rows = [
        [
            source["name"],
            use,
            *(f"{source[key]:,}" for key in ("articles", "with_topics", "with_segment_topics", "with_entities")),
            source["licence"] or "not stated",
        ]
        for use, source in sources
    ]
    header = ["file", "use", "articles", "with topics", "with topics of segments", "with entities", "licence"]
    sections = ["## Data", _table(header, rows)]
    sections.append("\n".join(f"- `{source['name']}`: sha256 `{source['sha256']}`" for _, source in sources))
    taught = [
        f"- `{source['name']}`: what its labels leave open was filled in by `{_LISTED.join(source['teachers'])}`"
        for _, source in sources
        if source["teachers"]
    ]
    if taught:
        sections.append("\n".join(taught))
    for key, title in (("topics", "topic, in articles"), ("entities", "entity label")):
        labels = dict.fromkeys(label for _, source in sources for label in source[key])
        if labels:
            table = [[label, *(f"{source[key].get(label, 0):,}" for _, source in sources)] for label in labels]
            sections.append(_table([title, *(f"{source['name']} ({use})" for use, source in sources)], table))
    return sections


def _limits(metrics: Mapping[str, Any]) -> list[str]:
    counts: dict[str, int] = dict.fromkeys((*metrics["labels"]["topics"], *metrics["labels"]["entity_labels"]), 0)
    for source in metrics["data"]["train"]:
        for label, n in (*source["topics"].items(), *source["entities"].items()):
            counts[label] = counts.get(label, 0) + n
    known = {*metrics["labels"]["topics"], *metrics["labels"]["entity_labels"]}
    few = [f"`{label}` ({n:,})" for label, n in counts.items() if label in known and n < FEW_EXAMPLES]
    limits = ["It has learned from the data above; on other kinds of text, other times and places it is less sure."]
    if few:
        limits.append(f"Labels with fewer than {FEW_EXAMPLES} examples under their own name: {', '.join(few)}.")
    if metrics["dev"] is not None:
        gold = {
            label
            for part in parts_of(metrics["dev"]).values()
            for label, row in part["labels"].items()
            if row["support"]
        }
        unmeasured = [f"`{label}`" for label in sorted(known - gold)]
        if unmeasured:
            limits.append(f"Not measured, since dev has none of it: {', '.join(unmeasured)}.")
    lost = metrics["entities_lost"]
    n_lost, n_widened, n_cut = (lost[f"n_{kind}"] for kind in ("without_pieces", "inside_words", "across_segments"))
    if n_lost or n_widened or n_cut:
        limits.append(
            f"Of the training entities, {n_lost:,} have no piece and were left out, {n_widened:,} start or end inside "
            f"a word and were widened to it, {n_cut:,} reach beyond a segment's end and were cut there."
        )
    limits.append(
        "Its topics and entities are statements about a text, not about the world, and some are wrong: a person should "
        "look before anything is done because of them."
    )
    return ["## Limits", "\n".join(f"- {limit}" for limit in limits)]


def _reproduction(metrics: Mapping[str, Any]) -> list[str]:
    seeds, search = metrics.get("seeds"), metrics.get("search")
    flags = "" if seeds is None else f" --seeds {len(seeds['runs'])} --seed {seeds['runs'][0]['seed']}"
    sections = ["## How to make it again"]
    if search is not None:
        sections.append(
            f"The settings were chosen by the dev score of {len(search['trials'])} trials (`khabar train --search`), "
            "which makes that score a little too good; metrics.json lists the trials."
        )
    processes = metrics["processes"]
    start = "khabar" if processes == 1 else f"accelerate launch --num_processes {processes} -m khabar"
    versions = ", ".join(f"{name} {number}" for name, number in metrics["versions"].items())
    sections += [
        f"```\n{start} train --config settings.yaml --output NEW{flags}\n```",
        "from where it was first run: relative paths count from there; of absolute ones settings.yaml has only names.",
        f"```yaml\n{settings_yaml(metrics['settings'])}```",
        f"Made with {versions}; {metrics['steps']:,} steps, {metrics['seconds']:,} seconds.",
    ]
    return sections


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
