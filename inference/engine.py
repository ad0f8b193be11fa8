"""Runs a model over chunks of articles: encode, plan, ready, forward, decode, gather, each in a thread of its own.

On a CPU, forward and decode of several batches run at once, each in a thread with its share of the processors.
Turns lists of articles into lists of results, in order. Holds a few chunks at a time; knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

from khabar.inference.decode import Labels
from khabar.inference.forward import Forward, Pass
from khabar.inference.results import TaggedArticle, unchanged
from khabar.inference.stages import Closed, Step, run_stages
from khabar.inference.threads import done_at_once, lanes
from khabar.inference.work import Sealed, Work
from khabar.inference.workers import Pending, TextWork, Workers
from khabar.models.article import Article
from khabar.models.errors import KhabarError

# While one chunk is at the model, the next is encoded. With workers one more is planned meanwhile, and so many are
# encoded that each of them has something to do.
CHUNKS_AHEAD = 2
ENCODED_TOGETHER = 128  # articles: workers share a GPU's chunk among them
SHORT = 512  # articles: done here before workers have started
QUEUE_LENGTH = 2  # what waits between two steps; likewise, and one more for each pass that runs beside another

Finish = Callable[[TaggedArticle], Any]  # what becomes of a result, where it is read


@dataclass(kw_only=True)
class _Chunk:
    """Articles that came together, who works on them, and their results as they come in."""

    articles: Sequence[Article]
    workers: Workers
    finish: Any
    results: dict[int, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Encoding:
    """A chunk on its way through a tokenizer."""

    chunk: _Chunk
    encoded: Sequence[Pending[Sealed]]


@dataclass(frozen=True, kw_only=True)
class _Planning:
    """A chunk that is being planned."""

    chunk: _Chunk
    works: Pending[list[Work]]


@dataclass(frozen=True, kw_only=True)
class _Planned:
    """Some of a chunk's articles, ready for the model; of an empty chunk, nothing."""

    chunk: _Chunk
    work: Work | None


@dataclass(frozen=True, kw_only=True)
class _Passed:
    """What the model gave for them, or for a part of them."""

    chunk: _Chunk
    done: Pass | None


@dataclass(frozen=True, kw_only=True)
class _Decoding:
    """Some of a chunk's articles, and their results, which may still be on their way."""

    chunk: _Chunk
    indices: Sequence[int]
    decoded: Pending[list[Any]] | list[KhabarError]


class Engine:
    """A model at work on one stream of chunks, once; another stream, also a later one, takes an engine of its own.

    Args:
        passes: The model's forward passes, of this engine alone.
        labels: The model's.
        workers: What encodes the texts and reads the results.
        finish: What becomes of each result, where it is read.

    Raises:
        KhabarError: If there are worker processes, and `finish` cannot be sent to them.
    """

    def __init__(self, passes: Forward, labels: Labels, workers: Workers, finish: Finish = unchanged) -> None:
        self._passes, self._labels, self._workers = passes, labels, workers
        self._finish, self._sent = finish, workers.sendable(finish)

    def run(self, chunks: Iterable[Sequence[Article]]) -> Iterator[list[Any]]:
        """Tag chunks as they come. They are read in the caller's thread, a few ahead.

        Yields:
            A chunk's results in the order of its articles; a KhabarError stands for an article for which the
            device has too little memory.

        Raises:
            KhabarError: If a text is not valid Unicode.
            Whatever `chunks` raises, once the results before it are out.
        """
        at_once = self._passes.at_once
        return run_stages(
            chunks,
            self._steps if at_once == 1 else self._steps_at_once,
            enough=self._enough,
            queue_length=QUEUE_LENGTH + self._workers.n + at_once - 1,
            stop=self._passes.stop,
        )

    def _enough(self, chunks: Sequence[Sequence[Article]]) -> bool:
        """Say whether enough chunks are on their way: few, but so many that nobody waits for work."""
        if not self._workers.n:
            return len(chunks) >= CHUNKS_AHEAD
        encoding = islice(chunks, CHUNKS_AHEAD + 1, None)
        return sum(max(1, len(_starts(articles))) for articles in encoding) >= self._workers.n

    def run_one(self, article: Article) -> Any:
        """Tag one article in the caller's thread."""
        items: Iterator[Any] = iter([[article]])
        for step in self._steps:
            items = step(items)
        (results,) = items
        return results[0]

    @property
    def _steps(self) -> list[Step]:
        return [self._encode, self._plan, self._ready, self._forward, self._decode, self._gather]

    @property
    def _steps_at_once(self) -> list[Step]:
        return [self._encode, self._plan, self._ready, self._share_out, self._arrived, self._gather]

    def _encode(self, chunks: Iterator[Sequence[Article]]) -> Iterator[_Encoding]:
        for number, articles in enumerate(chunks):
            starts = _starts(articles)
            if not starts or (number == 0 and len(articles) <= SHORT and self._workers.spare_short):
                chunk = _Chunk(articles=articles, workers=self._workers.here(), finish=self._finish)
            else:
                chunk = _Chunk(articles=articles, workers=self._workers, finish=self._sent)
            parts = [articles[start : start + ENCODED_TOGETHER] for start in starts]
            # Not in front of what the model waits for: batches and results of chunks before this one.
            encoded = [chunk.workers.submit_when_room(TextWork.encode, part) for part in parts]
            yield _Encoding(chunk=chunk, encoded=encoded)

    def _plan(self, chunks: Iterator[_Encoding]) -> Iterator[_Planning]:
        for encoding in chunks:
            parts = [part.result() for part in encoding.encoded]
            works = encoding.chunk.workers.submit(TextWork.plan, parts, self._passes.planning)
            yield _Planning(chunk=encoding.chunk, works=works)

    def _ready(self, chunks: Iterator[_Planning]) -> Iterator[_Planned]:
        for planning in chunks:
            works = planning.works.result()
            if not works:
                yield _Planned(chunk=planning.chunk, work=None)
            for work in works:
                yield _Planned(chunk=planning.chunk, work=self._passes.ready(work))

    def _forward(self, works: Iterator[_Planned]) -> Iterator[_Passed]:
        for planned in works:
            if planned.work is None:
                yield _Passed(chunk=planned.chunk, done=None)
                continue
            for done in self._passes.run(planned.work):
                yield _Passed(chunk=planned.chunk, done=done)

    def _decode(self, passes: Iterator[_Passed]) -> Iterator[_Decoding]:
        for passed in passes:
            chunk, done = passed.chunk, passed.done
            if done is None:
                yield _Decoding(chunk=chunk, indices=[], decoded=[])
                continue
            articles = [chunk.articles[index] for index in done.work.indices]
            logits = done.logits()
            decoded: Pending[list[Any]] | list[KhabarError]
            if logits is None:
                decoded = [self._passes.too_long(article.text) for article in articles]
            else:
                decoded = chunk.workers.submit(
                    TextWork.decode, articles, done.work.encoded, logits, self._labels, chunk.finish
                )
            yield _Decoding(chunk=chunk, indices=done.work.indices, decoded=decoded)

    def _share_out(self, works: Iterator[_Planned]) -> Iterator[Future[list[_Decoding]]]:
        """Give each batch to a thread with few processors; the small operations of one do not share out over many."""
        pool = lanes(self._passes.at_once, torch.get_num_threads())
        on_their_way: list[Future[list[_Decoding]]] = []
        try:
            for planned in works:
                # Someone may be waiting for an article alone: this thread has all processors.
                submit = pool.submit if len(planned.chunk.articles) > 1 else done_at_once
                future = submit(self._tag, planned)
                on_their_way = [*(other for other in on_their_way if not other.done()), future]
                yield future
        except (Closed, GeneratorExit):  # nobody waits any more
            for future in on_their_way:
                future.cancel()
            raise
        finally:
            wait(on_their_way)

    def _tag(self, planned: _Planned) -> list[_Decoding]:
        return list(self._decode(self._forward(iter([planned]))))

    def _arrived(self, futures: Iterator[Future[list[_Decoding]]]) -> Iterator[_Decoding]:
        for future in futures:
            yield from future.result()

    def _gather(self, decodings: Iterator[_Decoding]) -> Iterator[list[Any]]:
        """Put each chunk's results in its articles' order."""
        for decoding in decodings:
            chunk, decoded = decoding.chunk, decoding.decoded
            results = decoded if isinstance(decoded, list) else decoded.result()
            chunk.results.update(zip(decoding.indices, results, strict=True))
            if len(chunk.results) == len(chunk.articles):
                yield [chunk.results[index] for index in range(len(chunk.articles))]


def _starts(articles: Sequence[Article]) -> range:
    """Give where the parts begin in which a chunk is encoded."""
    return range(0, len(articles), ENCODED_TOGETHER)
