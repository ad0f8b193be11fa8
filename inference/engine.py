"""Runs a model over chunks of articles: encode, plan, forward, decode, gather, each in a thread of its own.

Turns lists of articles into lists of results, in order. Holds a few chunks at a time; knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from khabar.inference.decode import Labels
from khabar.inference.forward import Forward, Pass, Work
from khabar.inference.results import TaggedArticle
from khabar.inference.stages import Step, run_stages
from khabar.inference.threads import take_threads
from khabar.inference.workers import Workers, result_of
from khabar.models.article import Article
from khabar.models.encoding import EncodedArticle
from khabar.models.errors import KhabarError

CHUNKS_AHEAD = 2  # while one is at the model, the next is encoded; and one more for each worker
QUEUE_LENGTH = 2  # what waits between two steps; likewise, and one more for each forward pass at a time

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
class _Planned:
    """Some of a chunk's articles, ready for the model; of an empty chunk, nothing."""

    chunk: _Chunk
    work: Work | None


@dataclass(frozen=True, kw_only=True)
class _Passed:
    """What the model gave for them, whole or in parts, or will give."""

    chunk: _Chunk
    passes: Future[list[Pass]] | list[Pass]


@dataclass(frozen=True, kw_only=True)
class _Decoding:
    """Some of a chunk's articles, and their results, which may still be on their way."""

    chunk: _Chunk
    indices: Sequence[int]
    decoded: Future[list[TaggedArticle]] | list[Result]


class Engine:
    """A model at work on one stream of chunks; another stream takes an engine of its own.

    Args:
        passes: The model's forward passes, of this engine alone.
        labels: The model's.
        workers: What encodes the texts and reads the results.
    """

    def __init__(self, passes: Forward, labels: Labels, workers: Workers) -> None:
        self._passes, self._labels, self._workers = passes, labels, workers

    def run(self, chunks: Iterable[Sequence[Article]]) -> Iterator[list[Result]]:
        """Tag chunks as they come. They are read in the caller's thread, a few ahead.

        Yields:
            A chunk's results in the order of its articles; a KhabarError stands for an article for which the
            device has too little memory.

        Raises:
            KhabarError: If a text is not valid Unicode.
            Whatever `chunks` raises, once the results before it are out.
        """
        at_once = self._passes.at_once
        steps = self._steps if at_once == 1 else self._steps_at_once
        ahead = CHUNKS_AHEAD + self._workers.n
        return run_stages(chunks, steps, ahead=ahead, queue_length=QUEUE_LENGTH + self._workers.n + at_once - 1)

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

    @property
    def _steps_at_once(self) -> list[Step]:
        return [self._encode, self._plan, self._forward_at_once, self._decode_beside, self._gather]

    def _encode(self, chunks: Iterator[Sequence[Article]]) -> Iterator[_Encoding]:
        for articles in chunks:
            yield _Encoding(chunk=_Chunk(articles=articles), encoded=self._workers.encode(articles))

    def _plan(self, chunks: Iterator[_Encoding]) -> Iterator[_Planned]:
        for encoding in chunks:
            encoded = result_of(encoding.encoded)
            if not encoded:
                yield _Planned(chunk=encoding.chunk, work=None)
            for work in self._passes.plan(encoded):
                yield _Planned(chunk=encoding.chunk, work=work)

    def _forward(self, works: Iterator[_Planned]) -> Iterator[_Passed]:
        for planned in works:
            yield _Passed(chunk=planned.chunk, passes=self._run(planned.work))

    def _forward_at_once(self, works: Iterator[_Planned]) -> Iterator[_Passed]:
        """Run several passes at a time, each on one processor: the small operations of one do not share out well."""
        with ThreadPoolExecutor(self._passes.at_once, "khabar-pass", take_threads, (1,)) as pool:
            try:
                for planned in works:
                    passes: Future[list[Pass]] | list[Pass]
                    if len(planned.chunk.articles) == 1:  # someone may be waiting for it: all processors
                        passes = self._run(planned.work)
                    else:
                        passes = pool.submit(self._run, planned.work)
                    yield _Passed(chunk=planned.chunk, passes=passes)
            except BaseException:  # nobody takes what has not begun
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _run(self, work: Work | None) -> list[Pass]:
        return [] if work is None else list(self._passes.run(work))

    def _decode_beside(self, passes: Iterator[_Passed]) -> Iterator[_Decoding]:
        """Read results with one thread: the processors are taken."""
        take_threads(1)
        yield from self._decode(passes)

    def _decode(self, passes: Iterator[_Passed]) -> Iterator[_Decoding]:
        for passed in passes:
            chunk = passed.chunk
            if not chunk.articles:
                yield _Decoding(chunk=chunk, indices=[], decoded=[])
            for done in passed.passes if isinstance(passed.passes, list) else passed.passes.result():
                yield self._decoding(chunk, done)

    def _decoding(self, chunk: _Chunk, done: Pass) -> _Decoding:
        articles = [chunk.articles[index] for index in done.work.indices]
        logits = done.logits()
        decoded: Future[list[TaggedArticle]] | list[Result]
        if logits is None:
            decoded = [self._passes.too_long(article.text) for article in articles]
        else:
            decoded = self._workers.decode(articles, done.work.encoded, logits, self._labels)
        return _Decoding(chunk=chunk, indices=done.work.indices, decoded=decoded)

    def _gather(self, decodings: Iterator[_Decoding]) -> Iterator[list[Result]]:
        """Put each chunk's results in its articles' order."""
        for decoding in decodings:
            chunk, decoded = decoding.chunk, decoding.decoded
            results = decoded if isinstance(decoded, list) else result_of(decoded)
            chunk.results.update(zip(decoding.indices, results, strict=True))
            if len(chunk.results) == len(chunk.articles):
                yield [chunk.results[index] for index in range(len(chunk.articles))]
