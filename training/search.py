"""Searches for the settings that do best on dev: trials of a few epochs' training, each told by those before it.

Turns settings and a number of trials into better settings and a table. The study is kept in a folder, so that a
search that was interrupted goes on. Knows trials by their scores alone.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from khabar import __version__
from khabar.inference.sinks import FileSink
from khabar.models.device import choose_device
from khabar.models.errors import KhabarError, MissingExtraError
from khabar.models.ranges import check_range
from khabar.training.checkpoints import Checkpoints, refuse_changes
from khabar.training.figures import text_table
from khabar.training.loop import make_accelerator
from khabar.training.material import Material, refuse_poor_judge
from khabar.training.processes import join_processes, on_main
from khabar.training.settings import TrainSettings
from khabar.training.settling import SettledSettings
from khabar.training.train import check_output_folder, learn, open_run, settled_for

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

# Encoders differ by orders of magnitude in the rate that suits them, so the settings say where to look: from a
# fifth of the given rate to five times as much, on a logarithmic scale.
RATE_FACTOR = 5.0
# From "the lowest layers of twelve hardly learn" (0.7^12 is 1 %) to "all layers learn alike".
LAYER_DECAY = (0.7, 1.0)
# Above 0.4 heads of one layer lose more signal than noise.
HEAD_DROPOUT = (0.0, 0.4)
# No average, and averages over some ten, hundred and thousand steps.
AVERAGE_DECAYS = (0.0, 0.9, 0.99, 0.999)
# New heads settle within a pass or two; more frozen epochs only take away from the others.
FROZEN_EPOCHS = 2
# So many trials run to their end before any is cut short: a median of fewer says little.
UNCUT_TRIALS = 4
# A trial is not cut short in this first share of its epochs: with a rising rate or a frozen encoder it is still late.
UNCUT_EPOCHS = 1 / 3


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search gives.

    Attributes:
        settings: The best trial's settings.
        trials: `{"number", "state", "epochs", "score", "settings"}` of each trial, for metrics.json; a state is
            "complete" or "pruned" (cut short), a score the best of its epochs.
    """

    settings: TrainSettings
    trials: list[dict[str, Any]]


def search(
    settings: TrainSettings,
    n_trials: int,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress_bar: bool = True,
) -> SearchResult:
    """Try settings in `n_trials` runs and give those with the best dev score.

    The first trial is the settings as they are; the others change learning rates, layer decay, head dropout, the
    weights' moving average and the frozen epochs. Trials that fall behind the median of the others are cut short.
    The study and a table of its trials stay in `search/` of the output.

    Args:
        settings: Where the search starts; `dev` must be there.
        n_trials: Trials in all, those of an interrupted search included.
        resume: Go on with the study that is there.
        overwrite: Whether the run after the search may replace an earlier model in the output folder, that of a
            finished search too.
        progress_bar: Show a bar on standard error.

    Raises:
        MissingExtraError: If optuna is not installed.
        KhabarError: If there is no dev set, a study is there and it is not to be resumed, or the study is of other
            settings.

    Source: the tree-structured Parzen estimator of Bergstra et al. 2011, "Algorithms for Hyper-Parameter
        Optimization"; stopping below the median, Golovin et al. 2017, "Google Vizier", section 3.2.
    """
    check_range("search", n_trials, at_least=1)
    if settings.dev is None:
        raise KhabarError("settings are compared on dev: --search needs --dev")
    if find_spec("optuna") is None:
        raise MissingExtraError("search", "searching for settings")
    folder = Path(settings.output) / "search"
    runs = [folder.with_name(name) for name in ("checkpoints", "runs")]  # of the run after the search, or of several
    check_output_folder(settings.output, going_on=resume and any(path.exists() for path in runs), overwrite=overwrite)
    join_processes(choose_device(settings.device))
    if not resume:  # what the run after the search would refuse is better refused now
        on_main(lambda: Checkpoints(runs[0], {}).begin(resume=False))
    study = _Study(folder)
    on_main(lambda: study.admit(resume=resume))
    material = Material(settings)  # what is wrong with the corpora shows before the study is begun
    refuse_poor_judge(material, "--search")
    make_accelerator(settings)  # a precision that the device lacks is refused before articles are encoded
    settings = settled_for(settings, material)
    on_main(lambda: study.open(settings, material.origin))
    while (changes := on_main(lambda: study.ask(n_trials))) is not None:
        trial = replace(settings, **changes)
        checkpoints = open_run(trial, folder / "running", resume=True)
        run = learn(
            trial,
            material,
            checkpoints,
            watcher=study.watch,
            progress_bar=progress_bar,
        )
        run.accelerator.free_memory()
        on_main(study.tell)
    best, trials = on_main(study.results)
    return SearchResult(settings=replace(settings, **best), trials=trials)


class _Study:
    """An optuna study on disk, one trial after the other. Only the main process opens and asks it."""

    settings: SettledSettings
    study: optuna.Study
    trial: optuna.Trial

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scores: list[float] = []
        self.cut_short = False

    @property
    def _file(self) -> Path:
        return self.folder / "study.db"

    def admit(self, *, resume: bool) -> None:
        """Refuse a study that is there and not to be resumed."""
        if self._file.exists() and not resume:
            raise KhabarError(
                f"{self.folder} holds an earlier search; go on with --resume, or choose another --output, or remove "
                "that folder to begin anew"
            )

    def open(self, settings: SettledSettings, origin: Mapping[str, Any]) -> None:
        """Open the study of such settings, and of trials on such material, that is there, or a new one."""
        import optuna

        self.settings = settings
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.study = optuna.create_study(
            study_name="khabar",
            # Which characters of a path a URL must escape differs between versions of SQLAlchemy.
            storage=optuna.storages.RDBStorage(
                "sqlite:///study.db", engine_kwargs={"creator": partial(sqlite3.connect, self._file.resolve())}
            ),
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=UNCUT_TRIALS, n_warmup_steps=math.ceil(self.settings.epochs * UNCUT_EPOCHS)
            ),
        )
        self._confirm("settings", {"khabar": __version__} | asdict(settings), "under other settings")
        self._confirm("origin", origin, "from other material")

    def ask(self, n_trials: int) -> dict[str, Any] | None:
        """Begin the next trial, or the interrupted one again; None when all are behind it."""
        import optuna

        n_done = len(self._done())
        interrupted = [trial for trial in self.study.trials if not trial.state.is_finished()]
        if n_done >= n_trials:
            return None
        if not interrupted:
            # What a trial before left behind, had it been interrupted just before its end.
            shutil.rmtree(self.folder / "running", ignore_errors=True)
        for trial in interrupted:
            if trial.state == optuna.trial.TrialState.RUNNING:
                self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                self.study.enqueue_trial(trial.params)
        if not self.study.trials:
            self.study.enqueue_trial({name: getattr(self.settings, name) for name in self._space()})
        # Seeded anew for each trial, so that a resumed search makes the suggestions of an uninterrupted one.
        self.study.sampler = optuna.samplers.TPESampler(seed=self.settings.seed + n_done)
        self.trial, self.scores, self.cut_short = self.study.ask(self._space()), [], False
        logger.info("trial %d of %d: %s", n_done + 1, n_trials, _words(self.trial.params))
        return dict(self.trial.params)

    def watch(self, epoch: int, score: float) -> bool:
        """Take an epoch's score; say whether the trial is to be cut short."""
        self.scores.append(score)
        self.trial.report(score, epoch)
        self.cut_short = epoch < self.settings.epochs and bool(self.trial.should_prune())
        return self.cut_short

    def tell(self) -> None:
        """End the trial and write the table of all."""
        import optuna

        self.trial.set_user_attr("score", max(self.scores))
        if self.cut_short:
            self.study.tell(self.trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self.study.tell(self.trial, max(self.scores))
        shutil.rmtree(self.folder / "running", ignore_errors=True)
        with FileSink(self.folder / "trials.json") as sink:
            sink.write(json.dumps(self.results()[1], indent=1))

    def results(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Give the best trial's changes of the settings, and all trials."""
        trials = [
            {
                "number": number,
                "state": trial.state.name.lower(),
                "epochs": len(trial.intermediate_values),
                "score": trial.user_attrs["score"],
                "settings": trial.params,
            }
            for number, trial in enumerate(self._done(), start=1)
        ]
        whole = [trial for trial in trials if trial["state"] == "complete"]
        return dict(max(whole, key=lambda trial: trial["score"])["settings"]) if whole else {}, trials

    def _done(self) -> list[optuna.trial.FrozenTrial]:
        from optuna.trial import TrialState

        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))

    def _confirm(self, name: str, values: Mapping[str, Any], how: str) -> None:
        now = json.loads(json.dumps(values))
        refuse_changes(self.study.user_attrs.get(name, now), now, f"{self.folder}: cannot resume {how}")
        self.study.set_user_attr(name, now)

    def _space(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """Say where to look for each setting; what the settings are themselves is always inside."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        given = self.settings
        rates = {
            name: FloatDistribution(rate / RATE_FACTOR, rate * RATE_FACTOR, log=True)
            for name in ("learning_rate", "head_learning_rate")
            if (rate := getattr(given, name))
        }
        shares = {
            name: FloatDistribution(min(low, getattr(given, name)), max(high, getattr(given, name)))
            for name, (low, high) in (("layer_decay", LAYER_DECAY), ("head_dropout", HEAD_DROPOUT))
        }
        decays = sorted({*AVERAGE_DECAYS, given.average_decay})
        frozen = max(min(FROZEN_EPOCHS, given.epochs - 1), given.frozen_epochs)
        return {
            **rates,
            **shares,
            "average_decay": CategoricalDistribution(decays),
            "frozen_epochs": IntDistribution(0, frozen),
        }


def render_trials(trials: Sequence[Mapping[str, Any]]) -> str:
    """Lay trials out as plain text, the best ones first; scores in percent."""
    names = list(trials[0]["settings"])
    header = ["trial", "score", "epochs", "", *names]
    rows = [
        [
            str(trial["number"]),
            f"{100 * trial['score']:.1f}",
            str(trial["epochs"]),
            "cut short" if trial["state"] == "pruned" else "",
            *(f"{trial['settings'][name]:.3g}" for name in names),
        ]
        for trial in sorted(trials, key=lambda trial: (trial["state"], -trial["score"]))
    ]
    return "\n".join(text_table([header, *rows], n_left=0))


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())
