"""The service as an ASGI application: routes, and what each does.

Turns a tagger and settings into an application. Knows nothing of sockets.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from khabar import __version__
from khabar.inference.service.access import Tokens, read_tokens
from khabar.inference.service.batcher import Batcher, ScoringError
from khabar.inference.service.bodies import BodyReader
from khabar.inference.service.errors import CLIENT_GONE, ServiceError, from_http, stopping
from khabar.inference.service.frame import Frame
from khabar.inference.service.metrics import Metrics
from khabar.inference.service.page import page_routes
from khabar.inference.service.schemas import HealthAnswer, ModelAnswer, TagAnswer, errors, request_body
from khabar.inference.service.settings import ServiceSettings
from khabar.inference.tagger import Result, Tagger
from khabar.models.errors import KhabarError

_WARM_UP = "خبر"
_NO_STORE = {"Cache-Control": "no-store"}


class Service(FastAPI):
    """The application, with what whoever starts and stops it needs to know.

    Attributes:
        batcher: Does the work.
        bodies: Reads what there is to do.
        model_name: Name and version of the model.
    """

    batcher: Batcher
    bodies: BodyReader
    model_name: str


def create_app(tagger: Tagger, settings: ServiceSettings | None = None) -> Service:
    """Build the service for one model.

    Args:
        tagger: The model at work.
        settings: Limits and tokens; None for the defaults and KHABAR_… variables.

    Raises:
        KhabarError: If the file of tokens cannot be used.
    """
    settings = settings or ServiceSettings()
    tokens = None if settings.tokens_file is None else read_tokens(settings.tokens_file)
    pages = list(page_routes())
    metrics = Metrics([*(page.path for page in pages), *_PATHS])
    batcher = Batcher(
        tagger,
        max_waiting_characters=settings.max_waiting_characters,
        batch_characters=settings.batch_characters,
        gather_seconds=settings.gather_ms / 1000,
        on_batch=metrics.scored,
    )
    metrics.watch(batcher, tagger.model.encoder)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        # A model's first run takes longer: no client should wait for that.
        await asyncio.to_thread(tagger.tag, _WARM_UP)
        batcher.start()
        try:
            yield
        finally:
            await asyncio.to_thread(batcher.close)

    app = Service(
        title="khabar",
        description="Topics with evidence and entities with exact offsets, read from Arabic news.",
        version=__version__,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        exception_handlers={ServiceError: _answer_error, HTTPException: _answer_error},
    )
    app.batcher, app.bodies, app.model_name = batcher, BodyReader(settings), tagger.model.config.full_name
    app.router.routes += pages
    _add_routes(app, tagger, settings, metrics, tokens)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After"],
        )
    app.add_middleware(Frame, metrics=metrics, batcher=batcher)
    return app


_PATHS = ("/v1/tag", "/v1/model", "/health/live", "/health/ready", "/metrics", "/openapi.json")


def _add_routes(
    app: Service, tagger: Tagger, settings: ServiceSettings, metrics: Metrics, tokens: Tokens | None
) -> None:
    bodies, batcher = app.bodies, app.batcher
    guard: list[Any] = [] if tokens is None else [Depends(HTTPBearer(auto_error=False)), Depends(_checked_by(tokens))]
    refused = () if tokens is None else (401,)

    @app.post(
        "/v1/tag",
        summary="Tag articles",
        response_model=TagAnswer,
        responses=errors(400, *refused, 408, 413, 415, 422, 500, 503),
        openapi_extra={"requestBody": request_body(settings)},
        dependencies=guard,
    )
    async def tag(request: Request) -> Response:
        """Find topics with their evidence, and entities, in each article."""
        try:
            articles = await bodies.articles(request)
            results = await _unless_gone(request, batcher.tag(articles))
        except ClientDisconnect:
            return Response(status_code=CLIENT_GONE)
        return _answer(results)

    @app.get(
        "/v1/model",
        summary="Describe the model",
        response_model=ModelAnswer,
        responses=errors(*refused),
        dependencies=guard,
    )
    async def model() -> dict[str, Any]:
        """Labels, thresholds, version, and the limits of a request."""
        return _model(tagger, settings)

    @app.get("/health/live", summary="Is it there?", response_model=HealthAnswer)
    async def live() -> dict[str, str]:
        """Answer as long as the service runs at all."""
        return {"status": "ok"}

    @app.get("/health/ready", summary="Does it take requests?", response_model=HealthAnswer, responses=errors(503))
    async def ready() -> dict[str, str]:
        """Answer 503 once the service is stopping."""
        if not batcher.ready:
            raise stopping()
        return {"status": "ready"}

    @app.get("/metrics", include_in_schema=False, dependencies=guard)
    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _checked_by(tokens: Tokens) -> Callable[[Request], Awaitable[None]]:
    async def check(request: Request) -> None:
        tokens.check(request.headers.get("authorization"))

    return check


async def _answer_error(_request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        error = from_http(error)
    if not isinstance(error, ServiceError):
        raise error
    return error.response()


async def _unless_gone(
    request: Request, tagging: Coroutine[Any, Any, list[Result | ScoringError]]
) -> list[Result | ScoringError]:
    """Wait for results as long as the client does.

    Raises:
        ClientDisconnect: If it has gone; what it waited for is cancelled.
    """
    results = asyncio.ensure_future(tagging)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((results, gone), return_when=asyncio.FIRST_COMPLETED)
        if not results.done():
            raise ClientDisconnect
        return await results
    finally:
        results.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answer(results: Sequence[Result | ScoringError]) -> Response:
    rows = []
    for index, result in enumerate(results):
        place = f"articles[{index}]"
        if isinstance(result, KhabarError):
            raise ServiceError(422, "cannot_score", str(result), place=place)
        if isinstance(result, ScoringError):
            raise ServiceError(500, "internal", "the model failed on this article; the log says how", place=place)
        rows.append(result.to_json())
    content = json.dumps({"articles": rows}, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    return Response(content, media_type="application/json", headers=_NO_STORE)


def _model(tagger: Tagger, settings: ServiceSettings) -> dict[str, Any]:
    config = tagger.model.config
    return {
        "model": config.full_name,
        "khabar": __version__,
        "device": tagger.device,
        "topics": tagger.topics,
        "thresholds": dict(config.topic_thresholds),
        "bands": {topic: list(band) for topic, band in config.topic_bands.items()},
        "entity_labels": tagger.entity_labels,
        "limits": {
            "max_body_bytes": settings.max_body_bytes,
            "max_articles": settings.max_articles,
            "max_characters": settings.max_characters,
        },
    }
