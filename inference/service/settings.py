"""The settings of the service: flags, then KHABAR_… variables, then these defaults.

Turns what the user gave into one frozen object, or into an error that names each wrong setting.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from khabar.inference.runtimes import Precision, Runtime
from khabar.models.errors import KhabarError
from khabar.models.messages import show

PREFIX = "KHABAR_"
ALMOST = 0.9  # how like a setting's a variable's name is that must be meant for it


class ServiceSettings(BaseSettings):
    """How to serve; each field is a flag (`--max-articles`) and a variable (`KHABAR_MAX_ARTICLES`).

    Attributes:
        model: Model folder or hub id; `embedded` comes with khabar.
        device: auto, cpu, cuda or cuda:N.
        runtime: What runs the model.
        precision: auto, fp32 or bf16.
        workers: Processes that encode texts and read results beside the model's.
        host: Address to listen at.
        port: Port to listen at; 0 takes a free one.
        tokens_file: File of the tokens that let clients in, one a line; None lets in everybody.
        no_auth: Lets in everybody also where others than this machine can reach the service.
        cors_origins: Origins whose pages may call the service from a browser; `*` for all.
        max_body_bytes: Largest request body.
        max_articles: Most articles of a request.
        max_characters: Longest text of an article, in characters.
        max_waiting_characters: While this many characters wait to be scored, nothing more is taken.
        max_reading_bytes: Most bytes of bodies that are being read, all clients together.
        max_connections: Most connections; at the limit, the one that has kept the service waiting longest goes.
        batch_characters: Most characters scored at a time; a longer article goes alone. None suits the device.
        gather_ms: Longest, in milliseconds, that an idle model waits for requests that keep coming.
        head_seconds: How long a client may take to send the head of a request, or to think between two.
        body_seconds: How long a client may take to send a body.
        shutdown_seconds: How long a stop waits for what was taken, and for clients to read their answers.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    model: str = "embedded"
    device: str = "auto"
    runtime: Runtime = "torch"
    precision: Precision = "auto"
    workers: int = Field(default=0, ge=0)
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    tokens_file: Path | None = None
    no_auth: bool = False
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    max_body_bytes: int = Field(default=8 * 2**20, ge=1024)
    max_articles: int = Field(default=256, ge=1)
    max_characters: int = Field(default=50_000, ge=1)
    max_waiting_characters: int = Field(default=2_000_000, ge=1)
    max_reading_bytes: int = Field(default=64 * 2**20, ge=1024)
    max_connections: int = Field(default=512, ge=1)
    batch_characters: int | None = Field(default=None, ge=1)
    gather_ms: float = Field(default=50.0, ge=0, le=1000)
    head_seconds: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    body_seconds: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    shutdown_seconds: float = Field(default=30.0, gt=0, allow_inf_nan=False)

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Read a variable's origins, commas between them."""
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse what no browser would ever say it is."""
        for origin in origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/?#@\s]+", origin):
                raise ValueError(
                    f"{show(origin)} is no origin; allowed: https://host, with :port where it has one, or *"
                )
        return origins


def read_settings(**flags: Any) -> ServiceSettings:
    """Put flags and variables together.

    Args:
        flags: Settings by name; None stands for a flag that was not given.

    Raises:
        KhabarError: If a setting is unknown or out of its range, if a variable's name is almost that of a setting, or
            if the service would be open to others than this machine without tokens.
    """
    known = {PREFIX + name.upper() for name in ServiceSettings.model_fields}
    for name in sorted(os.environ):
        # Others may have variables with the same prefix; but a limit or a guard must not be lost to a slip.
        if name.startswith(PREFIX) and name not in known:
            for meant in difflib.get_close_matches(name, known, n=1, cutoff=ALMOST):
                raise KhabarError(f"{name} is not a setting; did you mean {meant}?")
    try:
        settings = ServiceSettings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        raise KhabarError("\n".join(map(_line, error.errors()))) from None
    if settings.tokens_file is not None and settings.no_auth:
        raise KhabarError("--tokens-file and --no-auth do not go together; allowed: one of them")
    if settings.tokens_file is None and not settings.no_auth and not is_loopback(settings.host):
        raise KhabarError(
            f"host {show(settings.host)} lets others than this machine in; allowed: --tokens-file FILE, "
            "--no-auth to let in everybody, or a loopback host such as 127.0.0.1"
        )
    return settings


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address; of names, `localhost` alone is trusted to be one."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _line(error: Any) -> str:
    name = str(error["loc"][0])
    return f"{name} (--{name.replace('_', '-')}, {PREFIX}{name.upper()}): {error['msg']}"
