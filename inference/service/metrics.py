"""What the service tells Prometheus of itself.

Turns what happens to requests and batches into metrics in a registry of their own. Knows no texts and no clients.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from torch import nn

from khabar.inference.positions import Positions
from khabar.inference.service.batcher import Batcher

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
OTHER_ROUTE = "other"  # any path the service does not know: a client cannot fill the registry


class Metrics:
    """The metrics of one service, each named `khabar_…`.

    Args:
        routes: The paths that are told apart.
    """

    def __init__(self, routes: Iterable[str]) -> None:
        self._routes = frozenset(routes)
        self.registry = CollectorRegistry()
        self._requests = Counter("khabar_requests", "Requests answered.", ["route", "status"], registry=self.registry)
        self._seconds = Histogram(
            "khabar_request_seconds",
            "From a request's head to its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._batch_articles = Histogram(
            "khabar_batch_articles", "Articles of a batch.", buckets=_SIZES, registry=self.registry
        )
        self._batch_seconds = Histogram(
            "khabar_batch_seconds",
            "From a batch's start, or the end of the one before, to its end.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._articles = Counter("khabar_articles", "Articles scored.", registry=self.registry)
        self._characters = Counter("khabar_characters", "Characters scored.", registry=self.registry)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        route = path if path in self._routes else OTHER_ROUTE
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def scored(self, articles: int, characters: int, seconds: float) -> None:
        """Count a batch."""
        self._batch_articles.observe(articles)
        self._batch_seconds.observe(seconds)
        self._articles.inc(articles)
        self._characters.inc(characters)

    def watch(self, batcher: Batcher, encoder: nn.Module) -> None:
        """Show how much waits at a batcher, and the pieces an encoder reads."""
        articles = Gauge("khabar_waiting_articles", "Articles that wait for the model.", registry=self.registry)
        articles.set_function(lambda: batcher.waiting_articles)
        characters = Gauge("khabar_waiting_characters", "Characters that wait for the model.", registry=self.registry)
        characters.set_function(lambda: batcher.waiting_characters)
        self.registry.register(_Pieces(encoder))

    def text(self) -> bytes:
        """Give all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _Pieces(Collector):
    """Counts the pieces an encoder reads, windows' overlaps and special pieces included, padding not."""

    def __init__(self, encoder: nn.Module) -> None:
        self._positions = Positions(encoder)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Give the count, as a registry asks for it."""
        yield CounterMetricFamily("khabar_pieces", "Word pieces read by the encoder.", value=self._positions.pieces)
