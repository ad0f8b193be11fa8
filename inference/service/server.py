"""Serves the application over sockets: connections that keep the service waiting go, and a stop loses nothing.

Turns an application and settings into a running server. Knows nothing of models.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from types import FrameType
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from khabar.inference.service.app import Service
from khabar.inference.service.settings import ServiceSettings
from khabar.models.errors import KhabarError

log = logging.getLogger(__name__)

BACKLOG = 1024  # connections the system holds until the service takes them
SHORTEST_DRAIN = 0.5  # seconds in which a stopping service still says so
LAST_ANSWERS = 0.1  # seconds for those who connected at the last moment


class Protocol(H11Protocol):
    """A connection that may not keep the service waiting.

    Between requests and until a request's head is whole there is one deadline, which no byte puts off.
    """

    head_seconds: float
    max_connections: int

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection; at the limit, another goes for it."""
        super().connection_made(transport)
        self.waiting_since = time.monotonic()
        self._deadline: asyncio.TimerHandle | None = None
        if len(self.connections) > self.max_connections:
            self._make_room()
        self._watch()

    def _make_room(self) -> None:
        others = [cast("Protocol", one) for one in self.connections if one is not self]
        waiting = [one for one in others if one.waits_for_client]
        (min(waiting, key=lambda one: one.waiting_since) if waiting else self).transport.abort()

    @property
    def waits_for_client(self) -> bool:
        """Whether it is the client's turn: to send a request or the rest of one, or to read the answer."""
        return self._waits_for_head or self.cycle.more_body

    @property
    def _waits_for_head(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        return cycle is None or cycle.response_complete

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self.waiting_since = time.monotonic()
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_watching()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if not self._waits_for_head:
            self._stop_watching()
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.head_seconds, self.transport.abort)

    def _stop_watching(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no HTTP, in the service's form."""
        body = json.dumps({"error": {"code": "not_http", "message": msg, "place": None}}).encode()
        head = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n"
        self.transport.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.transport.close()


class Server(uvicorn.Server):
    """A server that, told to stop, first finishes what it took, and meanwhile answers others with 503."""

    def __init__(self, config: uvicorn.Config, app: Service) -> None:
        super().__init__(config)
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say where."""
        await super().startup(sockets)
        for server in self.servers:
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                shown = f"[{host}]" if ":" in host else host
                log.info("serving %s on http://%s:%d", self._app.model_name, shown, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take nothing more from the moment the signal comes."""
        self._app.batcher.drain()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what was taken, then close."""
        batcher = self._app.batcher
        batcher.drain()
        started = time.monotonic()
        limit = started + (self.config.timeout_graceful_shutdown or 0)
        log.info("stopping: takes no more requests")
        while not self.force_exit and time.monotonic() < limit:
            if batcher.idle and time.monotonic() > started + SHORTEST_DRAIN:
                break
            await asyncio.sleep(0.02)
        for server in self.servers:
            server.close()
        await asyncio.sleep(LAST_ANSWERS)
        await super().shutdown(sockets)
        log.info("stopped: took %d requests, answered %s", batcher.n_requests, "all" if batcher.idle else "not all")


def serve(app: Service, settings: ServiceSettings) -> None:
    """Serve until a signal tells to stop.

    Raises:
        KhabarError: If the address cannot be listened at.
    """
    # What clients send wrong is no matter for the log, nor is each step of a start.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    with listen(settings.host, settings.port) as listener:
        build_server(app, settings).run(sockets=[listener])


def build_server(app: Service, settings: ServiceSettings) -> Server:
    """Put an application behind the connections it is to have."""
    limits: dict[str, Any] = {"head_seconds": settings.head_seconds, "max_connections": settings.max_connections}
    config = uvicorn.Config(
        app,
        http=type("LimitedProtocol", (Protocol,), limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=max(1, round(settings.head_seconds)),
        timeout_graceful_shutdown=max(1, round(settings.shutdown_seconds)),
    )
    return Server(config, app)


def listen(host: str, port: int) -> socket.socket:
    """Open a socket at an address.

    Raises:
        KhabarError: If it cannot be listened at.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise KhabarError(f"cannot listen at {host}:{port}: {error.strerror or error}") from None
    return listener
