"""Runs a model over chunks of articles: encode and plan, forward, decode, each in a thread of its own.

Turns lists of articles into lists of results, in order. Holds two chunks at a time; knows nothing of files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace

import torch
from transformers import PreTrainedTokenizerFast

from khabar.inference.decode import decode
from khabar.inference.planning import plan_batches
from khabar.inference.results import TaggedArticle
from khabar.inference.stages import run_stages
from khabar.models.article import Article
from khabar.models.batch import Batch, WindowSettings, collate
from khabar.models.encoding import EncodedArticle, encode_articles
from khabar.models.errors import KhabarError
from khabar.models.model import KhabarModel, KhabarOutput

log = logging.getLogger(__name__)

CHUNKS_AHEAD = 2  # while one is at the model, the next is encoded
BATCH_PIECES = {"cpu": 8192, "cuda": 32768}
# How memory that runs out shows where it is no OutOfMemoryError: a CPU's, and that of CUDA's own libraries.
_OUT_OF_MEMORY = ("DefaultCPUAllocator", "ALLOC_FAILED")

Result = TaggedArticle | KhabarError


@dataclass(kw_only=True)
class _Chunk:
    """Articles that came together, and their results as they come in."""

    articles: Sequence[Article]
    results: dict[int, Result] = field(default_factory=dict)


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


class Engine:
    """A model at work on one stream of chunks; another stream takes an engine of its own.

    Args:
        model: A model in evaluation mode, on the device it is to run on.
        tokenizer: Its tokenizer.
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
        *,
        batch_pieces: int | None = None,
        bf16: bool = False,
    ) -> None:
        if batch_pieces is not None and batch_pieces < 1:
            raise ValueError(f"batch_pieces must be at least 1, got {batch_pieces}")
        self._model = model
        self._tokenizer = tokenizer
        self._device = model.device
        self._bf16 = bf16
        self._windows = WindowSettings.from_tokenizer(tokenizer, window=model.config.window, stride=model.config.stride)
        self._batch_pieces = batch_pieces or BATCH_PIECES[self._device.type]
        # Its steps from word to word are many and small: a processor takes them faster than a GPU.
        self._crf = model.crf if self._device.type == "cpu" else deepcopy(model.crf).cpu()

    def run(self, chunks: Iterable[Sequence[Article]]) -> Iterator[list[Result]]:
        """Tag chunks as they come. They are read in the caller's thread, at most `CHUNKS_AHEAD` ahead.

        Yields:
            A chunk's results in the order of its articles; a KhabarError stands for an article for which the
            device has too little memory.

        Raises:
            KhabarError: If a text is not valid Unicode.
            Whatever `chunks` raises, once the results before it are out.
        """
        return run_stages(chunks, [self._encode, self._forward, self._decode], ahead=CHUNKS_AHEAD)

    def run_one(self, article: Article) -> Result:
        """Tag one article in the caller's thread."""
        (results,) = self._decode(self._forward(self._encode(iter([[article]]))))
        return results[0]

    def _encode(self, chunks: Iterator[Sequence[Article]]) -> Iterator[_Work]:
        config = self._model.config
        for articles in chunks:
            encoded = encode_articles(
                [article.text for article in articles],
                self._tokenizer,
                max_segment_words=config.max_segment_words,
                segments=[article.segment_spans for article in articles],
            )
            batches = plan_batches(
                [one.n_pieces for one in encoded],
                window=config.window,
                stride=config.stride,
                batch_pieces=self._batch_pieces,
            )
            chunk = _Chunk(articles=articles)
            for indices in batches or [[]]:
                yield self._work(chunk, indices, [encoded[index] for index in indices])

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

    @torch.inference_mode()
    def _results(self, done: _Done) -> Sequence[Result]:
        work = done.work
        if work.batch is None:
            return []
        articles = [work.chunk.articles[index] for index in work.indices]
        if done.output is None:
            return [
                KhabarError(
                    f"a text of {len(article.text):,} characters needs more memory than {self._device} has; "
                    "allowed: shorter texts, or a device with more"
                )
                for article in articles
            ]
        if done.arrived is not None:
            done.arrived.synchronize()
        return decode(
            [article.text for article in articles],
            [article.id for article in articles],
            work.encoded,
            work.batch,
            done.output,
            self._crf,
            self._model.config,
        )

    def _decode(self, passes: Iterator[_Done]) -> Iterator[list[Result]]:
        """Turn outputs into results, and put each chunk's in its articles' order."""
        for done in passes:
            chunk = done.work.chunk
            chunk.results.update(zip(done.work.indices, self._results(done), strict=True))
            if len(chunk.results) == len(chunk.articles):
                yield [chunk.results[index] for index in range(len(chunk.articles))]
