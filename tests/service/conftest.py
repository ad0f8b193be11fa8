"""Runs the service inside a test: over ASGI, or over sockets in a thread; and a tagger that can be held still."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import pytest

from khabar.inference.service.app import Service, create_app
from khabar.inference.service.server import build_server, listen
from khabar.inference.service.settings import ServiceSettings
from khabar.inference.tagger import Result, Tagger
from khabar.models.article import Article
from khabar.models.model import KhabarModel

POISON = "سم"  # a text on which HeldTagger fails


class HeldTagger(Tagger):
    """Keeps results back until it is let go, and remembers what came together."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.go = threading.Event()
        self.batches: list[list[str | None]] = []

    def tag_chunks(
        self, chunks: Iterable[Sequence[Article]], *, batch_pieces: int | None = None
    ) -> Generator[list[Result], None, None]:
        def seen() -> Iterator[Sequence[Article]]:
            for chunk in chunks:
                if chunk:
                    self.batches.append([article.id for article in chunk])
                if any(article.text == POISON for article in chunk):
                    raise RuntimeError("the model fails")
                yield chunk

        for results in super().tag_chunks(seen(), batch_pieces=batch_pieces):
            if results:
                self.go.wait()
            yield results


@asynccontextmanager
async def _client_of(tagger: Tagger, **settings: Any) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """Give a running service and a client of it, without sockets."""
    app = create_app(tagger, ServiceSettings(**settings))
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service", timeout=60) as client,
    ):
        try:
            yield app, client
        finally:
            if isinstance(tagger, HeldTagger):
                tagger.go.set()


@contextmanager
def _server_of(tagger: Tagger, *, send_buffer: int | None = None, **settings: Any) -> Iterator[tuple[Service, int]]:
    """Give a running service and the port it listens at; `send_buffer` is how much the system takes of an answer."""
    chosen = ServiceSettings(port=0, **settings)
    app = create_app(tagger, chosen)
    server = build_server(app, chosen)
    listener = listen(chosen.host, chosen.port)
    if send_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        _until(lambda: server.started)
        yield app, listener.getsockname()[1]
    finally:
        if isinstance(tagger, HeldTagger):
            tagger.go.set()
        server.should_exit = True
        thread.join()


def _until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


def _body(*texts: str) -> dict[str, object]:
    """Give a request for texts, with ids a0, a1 …"""
    return {"articles": [{"id": f"a{i}", "text": text} for i, text in enumerate(texts)]}


@pytest.fixture
def encoder_config(recurrent_config):
    """One kind of encoder is enough here: the tagger's own tests try each."""
    return recurrent_config


@pytest.fixture
def tagger(tiny_model: KhabarModel, tokenizer) -> Tagger:
    """The tiny model at work."""
    return Tagger(tiny_model, tokenizer)


@pytest.fixture
def held_tagger(tiny_model: KhabarModel, tokenizer) -> HeldTagger:
    """The tiny model, which gives nothing before `go` is set, and fails on a POISON."""
    return HeldTagger(tiny_model, tokenizer)


@pytest.fixture
def client_of():
    """Call it with a tagger and settings for a service and a client, without sockets."""
    return _client_of


@pytest.fixture
def server_of():
    """Call it with a tagger and settings for a service and its port."""
    return _server_of


@pytest.fixture
def until():
    """Call it with a condition to wait for."""
    return _until


@pytest.fixture
def body():
    """Call it with texts for the body of a request."""
    return _body
