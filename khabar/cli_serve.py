"""`khabar serve`: a model behind HTTP. Knows flags; what is served and how is in khabar.inference.service."""

from __future__ import annotations

import importlib.util
from typing import Annotated

import typer

from khabar.cli_common import load_tagger, one_line_errors
from khabar.models.errors import MissingExtraError

_NEEDED = ("fastapi", "prometheus_client", "pydantic_settings", "uvicorn")


@one_line_errors
def serve(
    *,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Model folder or hub id; embedded, the default, comes with khabar."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen at (127.0.0.1: this machine only).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen at (8000); 0 takes a free one.")] = None,
    device: Annotated[
        str | None, typer.Option(help="auto (a GPU if there is one, the default), cpu, cuda or cuda:N.")
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(help="What runs the model: torch (the default), compiled or onnx, as for khabar score."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="auto (the default), fp32 or bf16: as for khabar score.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", help="Processes that encode texts and read results beside the model's (0)."),
    ] = None,
    tokens_file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Let in only requests with one of its tokens, one a line, as a bearer."),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Let in everybody at an address that others can reach.")
    ] = False,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Let pages of this origin call the service; may be given again."),
    ] = None,
    max_body_bytes: Annotated[int | None, typer.Option(metavar="N", help="Largest body (8388608).")] = None,
    max_articles: Annotated[int | None, typer.Option(metavar="N", help="Most articles of a request (256).")] = None,
    max_characters: Annotated[int | None, typer.Option(metavar="N", help="Longest text (50000).")] = None,
    max_waiting_characters: Annotated[
        int | None, typer.Option(metavar="N", help="While as many wait, answer 503 (2000000).")
    ] = None,
    max_reading_bytes: Annotated[
        int | None, typer.Option(metavar="N", help="Most bytes of bodies being read, of all clients (67108864).")
    ] = None,
    max_connections: Annotated[int | None, typer.Option(metavar="N", help="Most connections (512).")] = None,
    batch_characters: Annotated[
        int | None,
        typer.Option(metavar="N", help="Most characters scored at a time; else as suits the device."),
    ] = None,
    gather_ms: Annotated[
        float | None,
        typer.Option(metavar="MS", help="Longest that an idle model waits for requests that keep coming (50)."),
    ] = None,
    head_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="How long a connection may take to begin a request (10).")
    ] = None,
    body_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="How long a body may take to arrive (30).")
    ] = None,
    shutdown_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="How long a stop waits for what was taken (30).")
    ] = None,
) -> None:
    """Serve a model over HTTP: POST /v1/tag, a page at /, /metrics. Each flag is a KHABAR_… variable too.

    Stops on SIGTERM or Ctrl-C, once all it took is answered.
    """
    if any(importlib.util.find_spec(package) is None for package in _NEEDED):
        raise MissingExtraError("serve", "khabar serve")

    from khabar.inference.service.settings import read_settings

    settings = read_settings(
        model=model,
        host=host,
        port=port,
        device=device,
        runtime=runtime,
        precision=precision,
        workers=workers,
        tokens_file=tokens_file,
        no_auth=no_auth or None,
        cors_origins=cors_origin or None,
        max_body_bytes=max_body_bytes,
        max_articles=max_articles,
        max_characters=max_characters,
        max_waiting_characters=max_waiting_characters,
        max_reading_bytes=max_reading_bytes,
        max_connections=max_connections,
        batch_characters=batch_characters,
        gather_ms=gather_ms,
        head_seconds=head_seconds,
        body_seconds=body_seconds,
        shutdown_seconds=shutdown_seconds,
    )

    from khabar.inference.service.app import create_app
    from khabar.inference.service.server import serve as serve_app

    with load_tagger(
        settings.model,
        device=settings.device,
        runtime=settings.runtime,
        precision=settings.precision,
        workers=settings.workers,
    ) as tagger:
        serve_app(create_app(tagger, settings), settings)
