"""Runs a model over chunks of articles: encode, plan, forward, decode, gather, each in a thread of its own.

Turns lists of articles into lists of results, in order. Holds a few chunks at a time; knows nothing of files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from khabar.inference.decode import Labels, Logits
from khabar.inference.planning import plan_batches
from khabar.inference.results import TaggedArticle
from khabar.inference.stages import Step, run_stages
from khabar.inference.workers import Workers, result_of
from khabar.models.article import Article
from khabar.models.batch import Batch, WindowSettings, collate
from khabar.models.encoding import EncodedArticle
from khabar.models.errors import KhabarError
from khabar.models.model import KhabarModel, KhabarOutput

log = logging.getLogger(__name__)

CHUNKS_AHEAD = 2  # while one is at the model, the next is encoded; and one more for each worker
QUEUE_LENGTH = 2  # what waits between two steps; likewise
BATCH_PIECES = {"cpu": 2048, "cuda": 32768}  # a CPU: what its caches hold
# How memory that runs out shows where it is no OutOfMemoryError: a CPU's, and that of CUDA's own libraries.
_OUT_OF_MEMORY = ("DefaultCPUAllocator", "ALLOC_FAILED")

Result = TaggedArticle | KhabarError


@dataclass(kw_only=True)
class _Chunk:
    """Articles that came together, and their results as they come in."""

    articles: Sequence[Article]
    results: dict[int, Result] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Encoding:
    """A chunk on its way through a tokenizer."""

    chunk: _Chunk
    encoded: Future[list[EncodedArticle]]


@dataclass(frozen=True, kw_only=True)
class _Work:
    """Some of a chunk's articles, ready for the model. An empty chunk is work without a batch."""

    chunk: _Chunk
    indices: Sequence[int]
    encoded: Sequence[EncodedArticle]
    batch: Batch | None


@dataclass(frozen=True, kw_only=True)
class _Done:
    """Work, and what the model gave for it; no output where the memory ran out."""

    work: _Work
    output: KhabarOutput | None
    arrived: torch.cuda.Event | None = None  # when the output is in the computer's own memory


@dataclass(frozen=True, kw_only=True)
class _Decoding:
    """Some of a chunk's articles, and their results, which may still be on their way."""

    chunk: _Chunk
    indices: Sequence[int]
    decoded: Future[list[TaggedArticle]] | list[Result]


class Engine:
    """A model at work on one stream of chunks; another stream takes an engine of its own.

    Args:
        model: A model in evaluation mode, on the device it is to run on.
        tokenizer: Its tokenizer.
        workers: What encodes the texts and reads the results.
        batch_pieces: Most pieces in a forward pass, padding included; a longer article goes alone. None
            means a number that suits the device.
        bf16: Whether the model's products are computed in bfloat16.

    Raises:
        ValueError: If batch_pieces is below 1.
    """

    def __init__(
        self,
        model: KhabarModel,
        tokenizer: PreTrainedTokenizerFast,
        workers: Workers,
        *,
        batch_pieces: int | None = None,
        bf16: bool = False,
    ) -> None:
        if batch_pieces is not None and batch_pieces < 1:
            raise ValueError(f"batch_pieces must be at least 1, got {batch_pieces}")
        self._model = model
        self._workers = workers
        self._device = model.device
        self._bf16 = bf16
        self._windows = WindowSettings.from_tokenizer(tokenizer, window=model.config.window, stride=model.config.stride)
        self._labels = Labels.of(model.config)
        self._batch_pieces = batch_pieces or BATCH_PIECES[self._device.type]

    def run(self, chunks: Iterable[Sequence[Article]]) -> Iterator[list[Result]]:
        """Tag chunks as they come. They are read in the caller's thread, a few ahead.

        Yields:
            A chunk's results in the order of its articles; a KhabarError stands for an article for which the
            device has too little memory.

        Raises:
            KhabarError: If a text is not valid Unicode.
            Whatever `chunks` raises, once the results before it are out.
        """
        more = self._workers.n
        return run_stages(chunks, self._steps, ahead=CHUNKS_AHEAD + more, queue_length=QUEUE_LENGTH + more)

    def run_one(self, article: Article) -> Result:
        """Tag one article in the caller's thread."""
        items: Iterator[Any] = iter([[article]])
        for step in self._steps:
            items = step(items)
        results: list[Result]
        (results,) = items
        return results[0]

    @property
    def _steps(self) -> list[Step]:
        return [self._encode, self._plan, self._forward, self._decode, self._gather]

    def _encode(self, chunks: Iterator[Sequence[Article]]) -> Iterator[_Encoding]:
        for articles in chunks:
            yield _Encoding(chunk=_Chunk(articles=articles), encoded=self._workers.encode(articles))

    def _plan(self, chunks: Iterator[_Encoding]) -> Iterator[_Work]:
        config = self._model.config
        for encoding in chunks:
            encoded = result_of(encoding.encoded)
            batches = plan_batches(
                [one.n_pieces for one in encoded],
                window=config.window,
                stride=config.stride,
                batch_pieces=self._batch_pieces,
            )
            for indices in batches or [[]]:
                yield self._work(encoding.chunk, indices, [encoded[index] for index in indices])

    def _work(self, chunk: _Chunk, indices: Sequence[int], encoded: Sequence[EncodedArticle]) -> _Work:
        batch = collate(encoded, self._windows) if indices else None
        if batch is not None and self._device.type == "cuda":
            # From pinned memory the copy to the GPU goes on while this thread does something else.
            batch = replace(batch, **{name: tensor.pin_memory() for name, tensor in batch.tensors().items()})
        return _Work(chunk=chunk, indices=indices, encoded=encoded, batch=batch)

    def _forward(self, works: Iterator[_Work]) -> Iterator[_Done]:
        """Run the model over each work: whole, or in halves where it does not fit the memory."""
        for planned in works:
            waiting = [planned]
            while waiting:
                work = waiting.pop()
                done = self._pass(work)
                if done.output is None and len(work.indices) > 1:
                    waiting += reversed(self._halves(work))
                else:
                    yield done

    @torch.inference_mode()
    def _pass(self, work: _Work) -> _Done:
        if work.batch is None:
            return _Done(work=work, output=None)
        device = self._device
        try:
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._bf16):
                output = self._model(
                    **{name: tensor.to(device, non_blocking=True) for name, tensor in work.batch.tensors().items()}
                )
            if device.type != "cuda":
                return _Done(work=work, output=output)
            tensors = {item.name: getattr(output, item.name) for item in fields(output) if item.name != "loss"}
            output = KhabarOutput(**{name: tensor.to("cpu", non_blocking=True) for name, tensor in tensors.items()})
            arrived = torch.cuda.Event()
            arrived.record()
            return _Done(work=work, output=output, arrived=arrived)
        except (torch.cuda.OutOfMemoryError, MemoryError):
            return _Done(work=work, output=None)
        except RuntimeError as error:
            if not any(sign in str(error) for sign in _OUT_OF_MEMORY):
                raise
            return _Done(work=work, output=None)

    def _halves(self, work: _Work) -> list[_Work]:
        """Cut work in two, and let no later batch be as large as it was."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        n_pieces = sum(one.n_pieces for one in work.encoded)
        self._batch_pieces = max(1, min(self._batch_pieces, n_pieces // 2))
        log.warning("out of memory on %s at %s pieces; goes on with half as many", self._device, f"{n_pieces:,}")
        middle = len(work.indices) // 2
        return [
            self._work(work.chunk, work.indices[half], work.encoded[half])
            for half in (slice(middle), slice(middle, None))
        ]

    def _decode(self, passes: Iterator[_Done]) -> Iterator[_Decoding]:
        for done in passes:
            work = done.work
            articles = [work.chunk.articles[index] for index in work.indices]
            decoded: Future[list[TaggedArticle]] | list[Result]
            if done.output is None or work.batch is None:
                decoded = [self._too_long(article) for article in articles]
            else:
                if done.arrived is not None:
                    done.arrived.synchronize()
                logits = Logits.of(done.output, work.batch.word_mask)
                decoded = self._workers.decode(articles, work.encoded, logits, self._labels)
            yield _Decoding(chunk=work.chunk, indices=work.indices, decoded=decoded)

    def _too_long(self, article: Article) -> KhabarError:
        return KhabarError(
            f"a text of {len(article.text):,} characters needs more memory than {self._device} has; "
            "allowed: shorter texts, or a device with more"
        )

    def _gather(self, decodings: Iterator[_Decoding]) -> Iterator[list[Result]]:
        """Put each chunk's results in its articles' order."""
        for decoding in decodings:
            chunk, decoded = decoding.chunk, decoding.decoded
            results = decoded if isinstance(decoded, list) else result_of(decoded)
            chunk.results.update(zip(decoding.indices, results, strict=True))
            if len(chunk.results) == len(chunk.articles):
                yield [chunk.results[index] for index in range(len(chunk.articles))]
