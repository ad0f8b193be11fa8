"""Scores articles on many machines: Ray Data reads the inputs, and a pool of workers scores them.

Turns sources into a folder of parts, which appears whole or not at all. Knows Ray Data; what each
worker reads and writes stands in stretches.
"""

from __future__ import annotations

import logging
import pickle
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from khabar.inference.outputs import output_format
from khabar.inference.part import errors_path
from khabar.inference.progress import Progress
from khabar.inference.ray_cluster import Pool, RayOptions, cluster, find_room, load_tagger
from khabar.inference.score import ScoreOptions, ScoreSummary
from khabar.inference.sinks import check_output
from khabar.inference.sources import Source
from khabar.inference.stretches import (
    CHUNKS_IN_STRETCH,
    Failed,
    Place,
    Rules,
    ScoredStretch,
    Staging,
    StretchScorer,
    check_whole,
    count_rows,
    read_stretches,
)
from khabar.models.errors import KhabarError


def check_results_folder(path: str | Path, options: ScoreOptions, sources: Sequence[Source]) -> None:
    """See, before long work, that inputs, options and output are such as many machines can work on.

    Raises:
        KhabarError: If they are not; the message says what is allowed.
        MissingExtraError: If the output's format needs a package that is not installed.
    """
    path = Path(path)
    if options.result_format != "json" or options.group_duplicates:
        raise KhabarError("--engine ray does not go with --format text or --group-duplicates")
    for source in sources:
        if source.is_standard_input or not (source.is_folder or Path(source.name).is_file()):
            raise KhabarError(f"{source.name} is a stream, which only --engine local can read; give files and folders")
    if output_format(path) not in ("jsonl", "parquet"):
        raise KhabarError(
            f"{path}: --engine ray writes a folder of JSON Lines or Parquet; allowed: a name ending .jsonl, "
            ".jsonl.gz, .jsonl.zst or .parquet"
        )
    if path.exists() or path.is_symlink():
        raise KhabarError(f"{path} is there already; --engine ray makes a new folder: remove it, or give another name")
    check_output(path)


def score_sources_on_ray(
    sources: Sequence[Source],
    output: str | Path,
    ray_options: RayOptions,
    *,
    options: ScoreOptions | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> ScoreSummary:
    """Score sources into a folder of parts, each what the local engine writes, with the rows in order.

    Runs on the cluster that the process is connected to, else on that of `RAY_ADDRESS`, else on one of its own
    on this machine. Inputs and output must be on a disk that every machine sees under the same path.

    Args:
        sources: What `open_sources` gave: files and folders.
        output: The folder, which must not be there; bad rows go to `OUTPUT.errors.jsonl`.
        ray_options: What the workers are.
        options: How rows are scored.
        strict: Stop at a bad row.
        progress: Is told what is scored.

    Raises:
        KhabarError: If the output cannot be written, an input cannot be read, or workers fail; or, if `strict`,
            at a bad row. Nothing is left then.
        DeviceError: If the cluster has no such device.
        MissingExtraError: If Ray is not installed.
    """
    options, progress = options or ScoreOptions(), progress or Progress()
    check_results_folder(output, options, sources)
    output = Path(output)
    if Path(ray_options.model).exists():
        ray_options = replace(ray_options, model=str(Path(ray_options.model).resolve()))
    started = time.perf_counter()
    scored: dict[Place, ScoredStretch] = {}
    with _staging(output) as staging, cluster() as ray:
        pool = find_room(ray, ray_options)
        rules = Rules(
            max_characters=options.max_characters,
            strict=strict,
            directory=Path.cwd(),
            chunks_in_stretch=ray_options.chunks_in_stretch or CHUNKS_IN_STRETCH[pool.device],
        )
        scorer = StretchScorer(partial(load_tagger, ray_options, pool), staging, rules)
        for stretch in _scored(ray, list(sources), scorer, pool, rules):
            if stretch.place not in scored:
                scored[stretch.place] = stretch
                progress.scored(stretch.n_articles)
        check_whole(scored, len(sources))
        _into_place(staging, output, [place for place in sorted(scored) if scored[place].n_bad_rows])
    return ScoreSummary(
        n_articles=sum(stretch.n_articles for stretch in scored.values()),
        n_bad_rows=sum(stretch.n_bad_rows for stretch in scored.values()),
        seconds=time.perf_counter() - started,
    )


@contextmanager
def _staging(output: Path) -> Iterator[Staging]:
    """Make the folder for unfinished output beside its place, and take it away at the end."""
    place = output.resolve()
    n_endings = 2 if place.suffix.lower() in (".gz", ".zst") else 1
    staging = Staging(folder=place.with_name(f"{place.name}.partial"), ending="".join(place.suffixes[-n_endings:]))
    try:
        staging.make()
    except FileExistsError:
        raise KhabarError(
            f"{staging.folder} is there: another run is writing it, or was killed; wait for it, or remove the folder"
        ) from None
    try:
        yield staging
    finally:
        shutil.rmtree(staging.folder, ignore_errors=True)


def _scored(
    ray: Any, sources: Sequence[Source], scorer: StretchScorer, pool: Pool, rules: Rules
) -> Iterator[ScoredStretch]:
    """Let the cluster score the sources; gives what it has done as it comes.

    Raises:
        KhabarError: If something ends the run.
    """
    from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy
    from ray.exceptions import RayError

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    before = context.target_max_block_size, context.enable_progress_bars
    # A block holds one stretch, so that each can go to another worker.
    context.target_max_block_size, context.enable_progress_bars = 1, False

    def read(function: Callable[..., Any], things: Sequence[object]) -> Any:
        # Readers have no processor to themselves: workers may take all, and wait for them.
        packed = [{"thing": pickle.dumps(thing)} for thing in things]
        return ray.data.from_items(packed, override_num_blocks=len(packed)).map_batches(
            partial(function, rules),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=0,
            compute=TaskPoolStrategy(size=min(pool.n_workers, len(packed))),
        )

    def counted() -> list[int]:
        # Rows of the last input come before no others.
        numbered = [(source, number) for number, source in enumerate(sources[:-1])]
        return [n_rows for _, n_rows in sorted(_outcomes(read(_count, numbered)))] if numbered else []

    try:
        inputs, n_before = [], 0
        for number, (source, n_rows) in enumerate(zip(sources, [*counted(), 0], strict=True), start=1):
            inputs.append((source, number, n_before))
            n_before += n_rows
        results = read(_read, inputs).map_batches(
            _Worker,
            fn_constructor_args=(scorer,),
            compute=ActorPoolStrategy(size=pool.n_workers, max_tasks_in_flight_per_actor=2),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=pool.n_cpus,
            num_gpus=pool.n_gpus,
        )
        yield from _outcomes(results)
    except RayError as error:
        raise KhabarError(f"Ray has given up: {str(error).strip().splitlines()[-1]}") from error
    finally:
        context.target_max_block_size, context.enable_progress_bars = before


# What Ray carries is a table of one row, whose only column holds anything at all as bytes.


def _table(thing: object) -> Any:
    import pyarrow as pa

    return pa.table({"thing": pa.array([pickle.dumps(thing)], pa.large_binary())})


def _thing(row: Mapping[str, Any]) -> Any:
    return pickle.loads(row["thing"])  # noqa: S301  # of this run's own processes


def _outcomes(dataset: Any) -> Iterator[Any]:
    """Give what workers give, until one says that the run cannot go on."""
    for thing in map(_thing, dataset.iter_rows()):
        if isinstance(thing, Failed):
            raise KhabarError(thing.reason)
        yield thing


def _count(rules: Rules, table: Any) -> Any:
    source, number = _thing(table.to_pylist()[0])
    n_rows = count_rows(source, rules)
    return _table(n_rows if isinstance(n_rows, Failed) else (number, n_rows))


def _read(rules: Rules, table: Any) -> Iterator[Any]:
    source, number, n_before = _thing(table.to_pylist()[0])
    yield from map(_table, read_stretches(source, number, n_before, rules))


class _Worker:
    """A scorer in a process of its own, which Ray starts anew when it is killed."""

    def __init__(self, scorer: StretchScorer) -> None:
        self._scorer = scorer

    def __call__(self, table: Any) -> Any:
        stretch = _thing(table.to_pylist()[0])
        return table if isinstance(stretch, Failed) else _table(self._scorer.score(stretch))


def _into_place(staging: Staging, output: Path, with_bad_rows: Sequence[Place]) -> None:
    """Move everything into place, bad rows first: who finds the output finds them."""
    try:
        errors, gathered = errors_path(output), staging.folder / "gathered"
        if with_bad_rows:
            with gathered.open("wb") as stream:
                for place in with_bad_rows:
                    with staging.bad_rows(place).open("rb") as lines:
                        shutil.copyfileobj(lines, stream)
            gathered.replace(errors)
        else:
            errors.unlink(missing_ok=True)
        staging.parts.rename(output)
    except OSError as error:
        raise KhabarError(f"{output} cannot be written: {error.strerror or error}") from None
