"""Finds and connects to a Ray cluster, and says how many workers it has room for and what each has to itself.

Knows Ray's resources; knows nothing of inputs or outputs.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from khabar.inference.runtimes import check_runtime
from khabar.models.errors import DeviceError, KhabarError, MissingExtraError

if TYPE_CHECKING:
    from khabar.inference.tagger import Tagger


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """What the workers are.

    Attributes:
        model: As for `khabar.load`; a folder must be there on every machine.
        device: `auto` (GPUs if the cluster has some), `cpu` or `cuda`. A worker has one GPU, or one processor.
        runtime: As for `khabar.load`.
        precision: As for `khabar.load`.
        workers: How many; None takes as many as the cluster has room for.
        chunks_in_stretch: Most chunks that a worker is given at once and puts into one part; None takes a number that
            suits the device.

    Raises:
        DeviceError: If the device is another.
        KhabarError: If there are no workers, or there is no such runtime or precision, or they do not go together.
    """

    model: str = "embedded"
    device: str = "auto"
    runtime: str = "torch"
    precision: str = "auto"
    workers: int | None = None
    chunks_in_stretch: int | None = None

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise DeviceError(f"device is {self.device!r}; allowed with --engine ray: auto, cpu, cuda")
        check_runtime(self.runtime, self.precision, self.device)
        if self.workers is not None and self.workers < 1:
            raise KhabarError(f"workers is {self.workers}, must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Workers, and how many processors and GPUs each of them has to itself."""

    n_workers: int
    n_cpus: int
    n_gpus: int

    @property
    def device(self) -> str:
        """The kind of device that each computes on."""
        return "cuda" if self.n_gpus else "cpu"


@contextmanager
def cluster() -> Iterator[Any]:
    """Connect to a cluster, quietly, and leave it at the end.

    It is the one that the process is connected to already, else that of `RAY_ADDRESS`, else a new one on this machine.

    Yields:
        The module `ray`.

    Raises:
        KhabarError: If the cluster cannot be reached or started.
        MissingExtraError: If Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters comes as an error
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingExtraError("ray", "--engine ray") from None
    if ray.is_initialized():
        yield ray
        return
    on_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    address = os.environ.get("RAY_ADDRESS", "local")
    dashboard = False if address == "local" else None  # of another's cluster there is nothing to say
    try:
        ray.init(address=address, include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise KhabarError(f"no connection to a Ray cluster at {address}: {error}") from None
    try:
        if on_main_thread:
            signal.signal(signal.SIGTERM, before)  # Ray has set its own
        yield ray
    finally:
        ray.shutdown()


def find_room(ray: Any, options: RayOptions) -> Pool:
    """Find room for the workers that are asked for.

    Raises:
        DeviceError: If the cluster has no such device.
        KhabarError: If it has not as many.
    """
    machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
    n_gpus = sum(int(machine.get("GPU", 0)) for machine in machines)
    on_gpu = options.device == "cuda" or (options.device == "auto" and options.runtime != "onnx" and n_gpus > 0)
    if on_gpu and not n_gpus:
        raise DeviceError("device is 'cuda', but the Ray cluster has no GPU; allowed: auto, cpu")
    if on_gpu:
        room = n_gpus
        shares = [int(machine.get("CPU", 0) // machine["GPU"]) for machine in machines if machine.get("GPU", 0) >= 1]
        n_cpus = max(1, min(shares))  # they tokenise for the GPU
    else:
        room, n_cpus = sum(int(machine.get("CPU", 0)) for machine in machines), 1
    n_workers = room if options.workers is None else options.workers
    if not 0 < n_workers <= room:
        kind = "GPUs" if on_gpu else "processors"
        raise KhabarError(f"{n_workers} workers are asked for, but the Ray cluster has {room} {kind}, one for each")
    return Pool(n_workers=n_workers, n_cpus=n_cpus, n_gpus=int(on_gpu))


def load_tagger(options: RayOptions, pool: Pool) -> Tagger:
    """Load a worker's tagger, in the worker."""
    # A worker's share of its machine's processors; tokenizers would take all of them.
    os.environ["RAYON_NUM_THREADS"] = str(pool.n_cpus)
    os.environ.setdefault("OMP_NUM_THREADS", str(pool.n_cpus))

    from khabar.inference.tagger import load
    from khabar.inference.workers import usual_number
    from khabar.models.products import multiply_by_onednn

    multiply_by_onednn()
    helpers = usual_number(pool.device, pool.n_cpus)
    return load(
        options.model, device=pool.device, runtime=options.runtime, precision=options.precision, workers=helpers
    )
