"""Gathers the articles of many requests into batches for one model, and hands each request its own results.

Requests wait in their order of arrival and take turns, an article each, so that a small one never waits for the
whole of a large one. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from khabar.inference.service.errors import busy, stopping
from khabar.inference.tagger import Result, Tagger
from khabar.models.article import Article

log = logging.getLogger(__name__)

BATCH_CHARACTERS = {"cpu": 100_000, "cuda": 1_000_000}
BATCH_ARTICLES = 512
LEAST_CHARACTERS = 100  # what an article counts for at least: also an empty one costs
QUIET_SHARE = 0.05  # of the last batch's seconds: once no request comes for so long, an idle model starts
LONGEST_RETRY = 15  # seconds: well within a client's patience; there is room long before all that waits is done
SPEED_BATCHES = 8  # that the estimate of speed looks back on


class ScoringError(Exception):
    """The model failed on an article, and not for want of memory; the log says how."""


@dataclass(eq=False, kw_only=True)
class _Job:
    """The articles of one request, and their results as they come in."""

    articles: Sequence[Article]
    done: asyncio.Future[list[Result | ScoringError]]
    results: dict[int, Result | ScoringError] = field(default_factory=dict)
    n_taken: int = 0  # articles that have left for the model

    @property
    def characters_left(self) -> int:
        return sum(map(_weight, self.articles[self.n_taken :]))


@dataclass(kw_only=True)
class _Batch:
    """Articles that go through the model together, each as its request and its index in it."""

    places: list[tuple[_Job, int]] = field(default_factory=list)
    characters: int = 0
    taken_at: float = field(default_factory=time.perf_counter)

    @property
    def articles(self) -> list[Article]:
        return [job.articles[index] for job, index in self.places]


class Batcher:
    """One model at work for many requests.

    Args:
        tagger: Used by one thread of the batcher's own.
        max_waiting_characters: While as many wait, no request is taken.
        batch_characters: Most characters of a batch; None suits the device.
        gather_seconds: Longest that an idle model waits for requests that keep coming.
        on_batch: Is told of each batch: how many articles and characters, and how many seconds it took.

    Attributes:
        stopping: Whether nothing more is taken.
        gave_up: Whether it was left with the model at work.
        waiting_articles: Articles that wait for the model.
        waiting_characters: Their characters, each article's at least `LEAST_CHARACTERS`.
        n_requests: Requests taken so far.
    """

    def __init__(
        self,
        tagger: Tagger,
        *,
        max_waiting_characters: int,
        batch_characters: int | None = None,
        gather_seconds: float = 0.0,
        on_batch: Callable[[int, int, float], object] = lambda *_: None,
    ) -> None:
        self._tagger = tagger
        self._max_waiting_characters = max_waiting_characters
        self._batch_characters = batch_characters or BATCH_CHARACTERS[tagger.device]
        self._gather_seconds = gather_seconds
        self._on_batch = on_batch
        self._changed = threading.Condition()
        self._jobs: deque[_Job] = deque()  # that have articles left to take
        self._open: set[_Job] = set()  # taken and not yet answered
        self._n_at_model = 0  # articles
        self.stopping = False
        self._closed = False
        self.gave_up = False
        # On a GPU the next batch is encoded meanwhile; a processor has no time for that, and larger batches win.
        self._reads_ahead = tagger.device == "cuda"
        self._characters_per_second = 0.0
        self._batch_seconds = 0.0  # of the last batch
        self.waiting_articles = 0
        self.waiting_characters = 0
        self.n_requests = 0
        self._thread = threading.Thread(target=self._work, name="khabar-batcher", daemon=True)

    def start(self) -> None:
        """Start to work."""
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self._thread.is_alive() and not self.stopping

    @property
    def idle(self) -> bool:
        """Whether every request that was taken has its results, and the model is at rest."""
        return not self._open and not self._n_at_model

    def drain(self) -> None:
        """Take no more requests, and finish those that were taken. A signal's handler may call it."""
        self.stopping = True

    def give_up(self) -> None:
        """Tell every request that is still open to come again, and leave the model to itself. For the event loop."""
        self.gave_up = True
        for job in self._open:
            if not job.done.done():
                job.done.set_exception(stopping())

    def close(self) -> None:
        """Stop once the batches at the model are done, unless it was given up; what waits is not scored."""
        with self._changed:
            self._closed = self.stopping = True
            self._changed.notify_all()
        if not self.gave_up:
            self._thread.join()

    async def tag(self, articles: Sequence[Article]) -> list[Result | ScoringError]:
        """Tag a request's articles, together with those of other requests. Cancelling it frees its place.

        Returns:
            A result an article, in their order; or the error that stands for it.

        Raises:
            ServiceError: 503, if too much waits or the service is stopping.
        """
        job = _Job(articles=articles, done=asyncio.get_running_loop().create_future())
        with self._changed:
            if not self.ready:
                raise stopping()
            if self.waiting_characters >= self._max_waiting_characters:
                raise busy(
                    f"{self.waiting_characters:,} characters wait to be scored; allowed: new requests while it is "
                    f"less than {self._max_waiting_characters:,}",
                    self._seconds_to_wait(),
                )
            self._jobs.append(job)
            self._count(len(articles), job.characters_left)
            self._open.add(job)
            self.n_requests += 1
            self._changed.notify_all()
        try:
            return await job.done
        finally:
            with self._changed:
                self._open.discard(job)
                if job in self._jobs:  # the client has gone before all was at the model
                    self._jobs.remove(job)
                    self._count(job.n_taken - len(articles), -job.characters_left)

    def _count(self, articles: int, characters: int) -> None:
        self.waiting_articles += articles
        self.waiting_characters += characters

    def _seconds_to_wait(self) -> int:
        if not self._characters_per_second:
            return 1
        return min(max(1, math.ceil(self.waiting_characters / self._characters_per_second)), LONGEST_RETRY)

    def _work(self) -> None:
        while not self._closed:
            at_model: deque[_Batch] = deque()
            try:
                chunks = (batch.articles for batch in self._batches(at_model))
                done_at = 0.0
                with closing(self._tagger.tag_chunks(chunks)) as tagged:
                    for results in tagged:
                        done_at = self._measure(at_model[0], done_at)  # first: who has an answer finds it counted
                        batch = at_model.popleft()
                        self._n_at_model -= len(batch.places)
                        _deliver(batch, results)
            except Exception:
                log.exception("a batch failed; its articles are tried one by one")
                for batch in at_model:
                    _deliver(batch, list(map(self._alone, batch.articles)))
                self._n_at_model = 0

    def _alone(self, article: Article) -> Result | ScoringError:
        try:
            (results,) = self._tagger.tag_chunks([[article]])
            return results[0]
        except Exception as error:
            log.exception("an article of %d characters failed", len(article.text))
            return ScoringError(f"{type(error).__name__} in the model")

    def _batches(self, at_model: deque[_Batch]) -> Iterator[_Batch]:
        """Give batches as they gather, until the batcher is closed.

        The tagger reads some batches ahead before it gives results. Empty ones let it give those it has.
        """
        while True:
            with self._changed:
                working = any(batch.places for batch in at_model)
                if not working:
                    self._changed.wait_for(lambda: self._jobs or self._closed)
                    self._gather()
                if self._closed:
                    return
                batch = _Batch() if working and not self._reads_ahead else self._take()
            at_model.append(batch)
            yield batch

    def _gather(self) -> None:
        """Wait until a batch is full or requests stop coming; what it costs is little beside a batch's own time."""
        end = time.perf_counter() + self._gather_seconds
        quiet = QUIET_SHARE * self._batch_seconds
        while not self._closed and self.waiting_characters < self._batch_characters:
            n_seen = self.n_requests
            self._changed.wait(max(0.0, min(quiet, end - time.perf_counter())))
            if self.n_requests == n_seen:
                return

    def _take(self) -> _Batch:
        batch = _Batch()
        while self._jobs and len(batch.places) < BATCH_ARTICLES:
            job = self._jobs[0]
            weight = _weight(job.articles[job.n_taken])
            if batch.places and batch.characters + weight > self._batch_characters:
                break
            batch.places.append((job, job.n_taken))
            batch.characters += weight
            job.n_taken += 1
            self._jobs.popleft()
            if job.n_taken < len(job.articles):
                self._jobs.append(job)  # behind the others: they take turns
        self._n_at_model += len(batch.places)
        self._count(-len(batch.places), -batch.characters)
        return batch

    def _measure(self, batch: _Batch, done_at: float) -> float:
        """Note how fast a batch was, behind the one that was done then; give the time that is now."""
        now = time.perf_counter()
        if batch.places:
            seconds = now - max(batch.taken_at, done_at)
            speed = batch.characters / max(seconds, 1e-9)
            before = self._characters_per_second or speed
            self._characters_per_second = before + (speed - before) / SPEED_BATCHES
            self._batch_seconds = seconds
            n_characters = sum(len(job.articles[index].text) for job, index in batch.places)
            self._on_batch(len(batch.places), n_characters, seconds)
        return now


def _weight(article: Article) -> int:
    return max(len(article.text), LEAST_CHARACTERS)


def _deliver(batch: _Batch, results: Sequence[Result | ScoringError]) -> None:
    for (job, index), result in zip(batch.places, results, strict=True):
        job.results[index] = result
        if len(job.results) == len(job.articles):
            job.done.get_loop().call_soon_threadsafe(_finish, job)


def _finish(job: _Job) -> None:
    if not job.done.done():  # else the client has gone
        job.done.set_result([job.results[i] for i in range(len(job.articles))])
