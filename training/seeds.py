"""Trains with several seeds: the runs' mean and spread, and the model that is best on dev.

Knows runs as folders with metrics; how one is made is train.py's matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from types import MappingProxyType
from typing import Any

from khabar.models.errors import KhabarError
from khabar.models.ranges import check_range
from khabar.training.evaluate import selection_score
from khabar.training.figures import text_table
from khabar.training.material import Material, refuse_poor_judge
from khabar.training.settings import TrainSettings
from khabar.training.train import TrainResult, check_output_folder, finish_run, open_run, release


def train_seeds(
    settings: TrainSettings,
    n_seeds: int,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress_bar: bool = True,
    more_metrics: Mapping[str, Any] = MappingProxyType({}),
) -> TrainResult:
    """Train with `settings.seed`, the next seed and so on, and save the model that is best on dev.

    Runs lie in `runs/seed-N` of the output until all are done.

    Args:
        settings: What to train on and how; `dev` must be there.
        n_seeds: Number of runs, at least 2.
        resume: Take finished runs as they are, and go on with the one that was interrupted.
        overwrite: Replace an earlier model in the output folder.
        progress_bar: Show a bar on standard error.
        more_metrics: As in `train`.

    Returns:
        The best run's folder and metrics, with those of all runs under `"seeds"` (see `summarize_seeds`).

    Raises:
        KhabarError: If there is no dev set, or as `train` does.
    """
    check_range("seeds", n_seeds, at_least=2)
    if settings.dev is None:
        raise KhabarError("several seeds are compared on dev, and the best is kept: --seeds needs --dev")
    work = Path(settings.output) / "runs"
    check_output_folder(settings.output, going_on=resume and work.exists(), overwrite=overwrite)
    runs = [replace(settings, seed=settings.seed + k) for k in range(n_seeds)]
    opened = [open_run(run, work / f"seed-{run.seed}", resume=resume) for run in runs]
    material = Material(settings)
    refuse_poor_judge(material, "--seeds")
    metrics = [
        finish_run(run, material, checkpoints, progress_bar=progress_bar)
        for run, checkpoints in zip(runs, opened, strict=True)
    ]
    seeds = summarize_seeds(metrics)
    kept = [run.seed for run in runs].index(seeds["kept"])
    return release(settings, opened[kept].finished, {**metrics[kept], "seeds": seeds, **more_metrics}, work=work)


def summarize_seeds(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum up the dev measures of runs that differ in their seed.

    Args:
        runs: The content of each one's metrics.json.

    Returns:
        `{"kept": seed, "runs": [{"seed", "best_epoch", "dev": {measure: value}}], "mean": {measure: value},
        "std": {measure: value}}`, with the measures of `selection_score` and their sample standard deviation. Of
        equal scores the first is kept.
    """
    rows = [
        {"seed": run["settings"]["seed"], "best_epoch": run["best_epoch"], "dev": selection_score(run["dev"])}
        for run in runs
    ]
    columns = {name: [row["dev"][name] for row in rows] for name in rows[0]["dev"]}
    return {
        "kept": max(rows, key=lambda row: row["dev"]["score"])["seed"],
        "runs": rows,
        "mean": {name: mean(values) for name, values in columns.items()},
        "std": {name: stdev(values) for name, values in columns.items()},
    }


def render_seeds(seeds: Mapping[str, Any]) -> str:
    """Lay a summary out as plain text, in percent."""
    runs = seeds["runs"]
    header = ["", *(f"seed {run['seed']}" for run in runs), "mean", "std. dev."]
    rows = [
        [name, *(f"{100 * value:.1f}" for value in (*(run["dev"][name] for run in runs), seeds["mean"][name], std))]
        for name, std in seeds["std"].items()
    ]
    return "\n".join([f"dev measures of {len(runs)} seeds", *text_table([header, *rows])])
