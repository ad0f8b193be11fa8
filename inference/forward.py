"""Runs a model over encoded articles: in planned batches, some windows at a time, and fewer where memory runs out.

Turns encoded articles into logits in the computer's own memory. Knows nothing of texts, labels or streams.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from khabar.inference.decode import Logits
from khabar.inference.stages import Closed
from khabar.inference.work import Planning, Work, widen
from khabar.models.batch import WindowSettings
from khabar.models.encoding import EncodedArticle
from khabar.models.errors import KhabarError
from khabar.models.model import KhabarModel

log = logging.getLogger(__name__)

BATCH_PIECES = {"cpu": 2048, "cuda": 65536}  # a CPU: what its caches hold
# How memory that runs out shows where it is no OutOfMemoryError: a CPU's, oneDNN's (for other reasons it cannot make a
# primitive's descriptor), and that of CUDA's own libraries.
_OUT_OF_MEMORY = re.compile(r"DefaultCPUAllocator|could not create a primitive(?! descriptor)|ALLOC_FAILED")


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Work, and what the model gave for it: logits that may still be on their way, or None, without memory."""

    work: Work
    given: Logits | None
    encoded: bool = True  # False: the encoder was already too large for the memory, not only the heads
    arrived: torch.cuda.Event | None = None  # when the logits are in the computer's own memory

    def logits(self) -> Logits | None:
        """Wait for the logits; None for an article for which the device has too little memory."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.given


class Forward:
    """A model's forward passes. One thread may plan while others run.

    Args:
        model: A model in evaluation mode, on the device it is to run on.
        tokenizer: Its tokenizer.
        batch_pieces: Most pieces that are encoded at a time, padding included, but at least a window; a longer
            article goes alone, some of its windows at a time. None means a number that suits the device.
        bf16: Whether the model's products are computed in bfloat16.
        at_once: Works that will be run at the same time; a short list too is cut into as many.

    Raises:
        KhabarError: If batch_pieces is below 1.
    """

    def __init__(
        self,
        model: KhabarModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        batch_pieces: int | None = None,
        bf16: bool = False,
        at_once: int = 1,
    ) -> None:
        if batch_pieces is not None and batch_pieces < 1:
            raise KhabarError(f"batch_pieces must be at least 1, got {batch_pieces}")
        self._model = model
        self._device = model.device
        self._bf16 = bf16
        self.planning = Planning(
            windows=WindowSettings.from_tokenizer(tokenizer, window=model.config.window, stride=model.config.stride),
            batch_pieces=batch_pieces or BATCH_PIECES[self._device.type],
            at_once=at_once,
        )
        self._places = threading.BoundedSemaphore(at_once)  # each pass takes one, or, to be alone, all
        self._clearing = threading.Lock()
        self._stopped = threading.Event()

    @property
    def at_once(self) -> int:
        """Works that may be run at the same time."""
        return self.planning.at_once

    def plan(self, encoded: Sequence[EncodedArticle]) -> list[Work]:
        """Cut a list of articles into work of like length; together each article once."""
        return [self.ready(work) for work in self.planning.works(encoded)]

    def ready(self, work: Work) -> Work:
        """Lay work that was planned elsewhere where the device reads it while the computer does something else."""
        if self._device.type != "cuda":
            return work
        pinned = {name: tensor.pin_memory() for name, tensor in work.batch.tensors().items()}
        return replace(work, batch=replace(work.batch, **pinned))

    def run(self, work: Work) -> Iterator[Pass]:
        """Run the model over work: whole, or in halves where it does not fit the memory, in the end alone.

        Raises:
            Closed: If the passes were stopped meanwhile.
        """
        waiting = [work]
        while waiting:
            part = waiting.pop()
            if self._is_too_large(part):  # planned before that was known
                waiting += reversed(self._halves(part))
                continue
            n_windows, width = part.batch.input_ids.shape
            windows = min(n_windows, max(1, self.planning.batch_pieces // width))
            with self._places:
                done = self._pass(part, windows)
            if done.given is None and len(part.indices) > 1:
                self._learn(part)
                waiting += reversed(self._halves(part))
                continue
            yield done if done.given is not None else self._pass_alone(part, windows)

    def stop(self) -> None:
        """Let every pass end before it encodes more windows, for good: nobody waits for what it gives."""
        self._stopped.set()

    def _pass_alone(self, work: Work, windows: int) -> Pass:
        """Pass an article that did not fit, while no other is at the model: again, then fewer windows at a time."""
        with self._alone():
            self._free()
            done = self._pass(work, windows)
            while not done.encoded and windows > 1:
                windows //= 2
                log.warning("out of memory on %s; a long text goes on %s windows at a time", self._device, windows)
                self._free()
                done = self._pass(work, windows)
        return done

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other pass runs, and let none begin meanwhile."""
        with self._clearing, ExitStack() as places:
            for _ in range(self.at_once):
                places.enter_context(self._places)
            yield

    def too_long(self, text: str) -> KhabarError:
        """Make the error for a text of which the logits are None."""
        return KhabarError(
            f"a text of {len(text):,} characters needs more memory than {self._device.type} has; "
            "allowed: shorter texts, or a device with more"
        )

    @torch.inference_mode()
    def _pass(self, work: Work, windows: int) -> Pass:
        """Pass work, so many windows at a time through the encoder, and all through the heads."""
        device, encoded = self._device, False
        try:
            # Each weight is used once: a cache of cast ones saves nothing, and who waits for its lock can wait
            # for ever where another one compiles.
            with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16, cache_enabled=False):
                tensors = work.batch.tensors()
                word_mask = tensors.pop("word_mask")  # is read here, with the logits
                given = {name: widen(tensor.to(device, non_blocking=True)) for name, tensor in tensors.items()}
                states = self._encode(given.pop("input_ids"), given.pop("attention_mask"), windows)
                encoded = True
                output = self._model.read(states, **given)
            logits = Logits.of(output, word_mask, bf16=self._bf16)
            if device.type != "cuda":
                return Pass(work=work, given=logits)
            arrived = torch.cuda.Event(blocking=True)  # who waits leaves the processor to others
            arrived.record(torch.cuda.current_stream(device))  # of this GPU, which need not be the first
            return Pass(work=work, given=logits, arrived=arrived)
        except (torch.cuda.OutOfMemoryError, MemoryError):
            return Pass(work=work, given=None, encoded=encoded)
        except RuntimeError as error:
            if not _OUT_OF_MEMORY.search(str(error)):
                raise
            return Pass(work=work, given=None, encoded=encoded)

    def _encode(self, input_ids: Tensor, attention_mask: Tensor, windows: int) -> Tensor:
        n_windows = len(input_ids)
        states = self._model.encode(input_ids[:windows], attention_mask[:windows])
        if windows >= n_windows:
            return states
        whole = states.new_empty((n_windows, *states.shape[1:]))
        whole[:windows] = states
        for first in range(windows, n_windows, windows):
            if self._stopped.is_set():
                del states, whole  # whoever holds the error would hold them too
                raise Closed
            some = slice(first, first + windows)
            states = self._model.encode(input_ids[some], attention_mask[some])
            whole[some] = states
        return whole

    def _is_too_large(self, work: Work) -> bool:
        return len(work.indices) > 1 and work.n_pieces > self.planning.batch_pieces

    def _learn(self, work: Work) -> None:
        """Let no later batch be as large as one that did not fit."""
        self._free()
        self.planning = self.planning.smaller(work.n_pieces // 2)
        log.warning("out of memory on %s at %s pieces; goes on with half as many", self._device, f"{work.n_pieces:,}")

    def _free(self) -> None:
        """Give memory that the allocator keeps for later back to the device."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _halves(self, work: Work) -> list[Work]:
        return [self.ready(half) for half in work.halves(self.planning.windows)]
