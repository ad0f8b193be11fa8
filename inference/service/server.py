"""Serves the application over sockets: connections that keep the service waiting go, and a stop loses nothing.

Turns an application and settings into a running server. Knows nothing of models.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import time
from contextlib import suppress
from types import FrameType
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from khabar.inference.service.app import Service
from khabar.inference.service.settings import ServiceSettings
from khabar.models.errors import KhabarError

log = logging.getLogger(__name__)

BACKLOG = 1024  # connections the system holds until the service takes them
ACCEPTED = 32  # of them taken at a time
TURNS = 4  # of the event loop, from a connection's arrival until the one that goes for it is closed
SPARE_FILES = 128  # open files beside connections: the model's, the page's, the workers'
READ_BYTES = 16 * 1024  # of one client at a time: a body in chunks of a byte takes long, and others wait meanwhile
SHORTEST_DRAIN = 0.5  # seconds in which a stopping service still says so
LAST_ANSWERS = 0.1  # seconds for those who connected at the last moment


class Protocol(H11Protocol, asyncio.BufferedProtocol):
    """A connection that may not keep the service waiting.

    Between requests and until a request's head is whole there is one deadline, which no byte puts off. An answer that
    the client does not read has one too, which is put off as long as some of it has been read by then.
    """

    head_seconds: float
    max_connections: int

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection; at the limit, another goes for it."""
        super().connection_made(transport)
        self.waiting_since = time.monotonic()
        self._deadline: asyncio.TimerHandle | None = None
        self._n_unread = 0  # bytes of answers that waited for the client when the deadline was set
        self._buffer = memoryview(bytearray(READ_BYTES))
        if len(self.connections) > self.max_connections:
            self._make_room()
        self._watch()

    def _make_room(self) -> None:
        others = [cast("Protocol", one) for one in self.connections if one is not self]
        waiting = [one for one in others if one.waits_for_client]
        gone = min(waiting, key=lambda one: one.waiting_since) if waiting else self
        self.connections.discard(gone)  # at once: the next to come needs another's place
        gone.transport.abort()

    @property
    def waits_for_client(self) -> bool:
        """Whether it is the client's turn: to send a request or the rest of one, or to read the answer."""
        return self._waits_for_head or self.flow.write_paused or self.cycle.more_body

    @property
    def _waits_for_head(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        return cycle is None or cycle.response_complete

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Say where the next bytes go."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes."""
        self.data_received(bytes(self._buffer[:nbytes]))
        self._watch()

    def pause_writing(self) -> None:
        """Begin to wait until the client reads."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        super().resume_writing()
        self._stop_watching()
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
        if not self._waits_for_head and not self.flow.write_paused:
            self._stop_watching()
        elif self._deadline is None and self in self.connections:
            self._n_unread = self.transport.get_write_buffer_size()
            self._deadline = self.loop.call_later(self.head_seconds, self._overdue)

    def _overdue(self) -> None:
        self._deadline = None
        if self.transport.get_write_buffer_size() < self._n_unread:
            self._watch()
        else:
            self.transport.abort()

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
    """A server that, told to stop, first finishes what it took, and meanwhile answers others with 503.

    Attributes:
        told_by: The signal that told it to stop.
    """

    def __init__(self, config: uvicorn.Config, app: Service, shutdown_seconds: float) -> None:
        super().__init__(config)
        self.told_by = signal.SIGTERM
        self._app = app
        self._shutdown_seconds = shutdown_seconds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say where."""
        await super().startup(sockets)
        for sock in sockets or []:
            sock.listen(BACKLOG)  # asyncio has set how many it takes at a time
        for server in self.servers:
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                shown = f"[{host}]" if ":" in host else host
                log.info("serving %s on http://%s:%d", self._app.model_name, shown, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take nothing more from the moment the signal comes."""
        self.told_by = signal.Signals(sig)
        self._app.batcher.drain()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what was taken, then close; at the end of the time that a stop may take, close anyway."""
        batcher = self._app.batcher
        batcher.drain()
        started = time.monotonic()
        limit = started + self._shutdown_seconds
        log.info("stopping: takes no more requests")
        while not self.force_exit and time.monotonic() < limit:
            if batcher.idle and time.monotonic() > started + SHORTEST_DRAIN:
                break
            await asyncio.sleep(0.02)
        all_answered = batcher.idle
        if not all_answered:
            batcher.give_up()
            self.force_exit = True
        self._app.bodies.give_up()
        for server in self.servers:
            server.close()
        await asyncio.sleep(LAST_ANSWERS)
        # Some clients may not have read their answers yet.
        self.config.timeout_graceful_shutdown = max(0.1, limit - time.monotonic())  # type: ignore[assignment]
        await super().shutdown(sockets)
        if self.force_exit:
            await self.lifespan.shutdown()  # uvicorn leaves that out, and logs what becomes of it
        log.info("stopped: took %d requests, answered %s", batcher.n_requests, "all" if all_answered else "not all")


def serve(app: Service, settings: ServiceSettings) -> None:
    """Serve until a signal tells to stop.

    Raises:
        KhabarError: If the address cannot be listened at, or the system does not allow so many connections.
    """
    # What clients send wrong is no matter for the log, nor is each step of a start.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    _allow_files(settings.max_connections)
    server = build_server(app, settings)
    try:
        with listen(settings.host, settings.port) as listener:
            server.run(sockets=[listener])
    finally:
        if app.batcher.gave_up:
            # A thread inside the model cannot be told to end, and would crash the interpreter as that ends.
            os._exit(128 + server.told_by)


def _allow_files(max_connections: int) -> None:
    """Let the process open as many files as it may have connections: by default that is few on some systems.

    Raises:
        KhabarError: If the system does not allow it.
    """
    try:
        import resource
    except ImportError:
        return  # Windows: no such limit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Running out is not an option: asyncio then tries again, more often each time.
    needed = max_connections + TURNS * ACCEPTED + SPARE_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise KhabarError(
            f"max_connections (--max-connections, KHABAR_MAX_CONNECTIONS) is {max_connections:,}, which takes "
            f"{needed:,} open files, and the system allows {hard:,}; allowed: fewer connections, or a higher ulimit -Hn"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        with suppress(ValueError):  # some systems have another limit behind this one
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


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
        backlog=ACCEPTED,
        timeout_keep_alive=max(1, round(settings.head_seconds)),
    )
    return Server(config, app, settings.shutdown_seconds)


def listen(host: str, port: int) -> socket.socket:
    """Open a socket at an address.

    Raises:
        KhabarError: If it cannot be listened at.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # Where the protocol is not named, asyncio leaves Nagle's delay on: 40 ms an answer.
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, UnicodeError) as error:  # the latter for names that cannot be looked up
        raise KhabarError(f"cannot listen at {host}:{port}: {getattr(error, 'strerror', None) or error}") from None
    return listener
