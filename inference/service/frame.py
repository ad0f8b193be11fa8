"""What every request and answer goes through: security headers, metrics, and the last net for errors.

Wraps an ASGI application. Knows nothing of what it answers.
"""

from __future__ import annotations

import logging
import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from khabar.inference.service.batcher import Batcher
from khabar.inference.service.errors import CLIENT_GONE, ServiceError
from khabar.inference.service.metrics import Metrics

log = logging.getLogger(__name__)

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Frame:
    """Puts headers on each answer and counts it; an error nobody caught becomes a 500 and a line in the log."""

    def __init__(self, app: ASGIApp, metrics: Metrics, batcher: Batcher) -> None:
        self._app = app
        self._metrics = metrics
        self._batcher = batcher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # the server leaves the body out
            scope = {**scope, "method": "GET"}
        started = time.perf_counter()
        status: int | None = None

        async def framed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                if self._batcher.stopping:
                    headers["Connection"] = "close"  # the client's next request is for another server
            await send(message)

        try:
            await self._app(scope, receive, framed)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if status is not None:
                raise
            error = ServiceError(500, "internal", "the service failed on this request; its log says how")
            await error.response()(scope, receive, framed)
        finally:
            seconds = time.perf_counter() - started
            # Where the service is mounted in another application, the path begins with its place there.
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            self._metrics.answered(path, CLIENT_GONE if status is None else status, seconds)
