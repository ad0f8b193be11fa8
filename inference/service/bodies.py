"""Reads the body of a request, within limits of size and time, and turns it into articles.

Turns bytes as they come into Articles, or into an error that names the limit. Knows nothing of scoring.
"""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from khabar.inference.service.errors import ServiceError, busy, stopping
from khabar.inference.service.settings import ServiceSettings
from khabar.models.article import Article, parse_article
from khabar.models.article_reader import parse_json
from khabar.models.messages import nearest, show

MAX_ID_CHARACTERS = 500
ARTICLE_KEYS = ("id", "text")
_CLOSE = {"Connection": "close"}  # what is left of the body is not read


class BodyReader:
    """Reads the bodies of all clients, so that together they stay within the memory they may fill."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._held = 0  # bytes of bodies not yet turned into articles
        self._deadlines: set[asyncio.Timeout] = set()  # of bodies that are being read
        self._stopping = False

    def give_up(self) -> None:
        """Wait for no body any longer: the service is stopping."""
        self._stopping = True
        for deadline in self._deadlines:
            deadline.reschedule(asyncio.get_running_loop().time())

    async def articles(self, request: Request) -> list[Article]:
        """Read a request's articles.

        Raises:
            ServiceError: If the body is of another type, too large, too slow, not JSON, or not articles within
                the limits; or if the service stops before the body is whole.
            ClientDisconnect: If the client goes before its body is whole.
        """
        _check_headers(request, self._settings.max_body_bytes)
        body = bytearray()
        deadline = asyncio.timeout(0 if self._stopping else self._settings.body_seconds)
        self._deadlines.add(deadline)
        try:
            async with deadline:
                async for chunk in request.stream():
                    body += chunk
                    self._held += len(chunk)
                    self._check_size(len(body))
            return parse_body(bytes(body), self._settings)
        except TimeoutError:
            if self._stopping:
                raise stopping() from None
            raise ServiceError(
                408,
                "body_too_slow",
                f"the body was not whole after {self._settings.body_seconds:g} seconds",
                place="body",
                headers=_CLOSE,
            ) from None
        finally:
            self._deadlines.discard(deadline)
            self._held -= len(body)

    def _check_size(self, n_bytes: int) -> None:
        if n_bytes > self._settings.max_body_bytes:
            raise _too_large(self._settings.max_body_bytes)
        if self._held > self._settings.max_reading_bytes:
            raise busy("too many large bodies at a time; come again", 1)


def parse_body(body: bytes, settings: ServiceSettings) -> list[Article]:
    """Turn a body, `{"articles": [{"id": …, "text": …}, …]}`, into articles.

    Raises:
        ServiceError: 400 if it is not JSON; 422 if it is not articles within the limits. The first problem is named.
    """
    try:
        row = parse_json(body)
    except ValueError as error:
        raise ServiceError(400, "not_json", f"the body is {error}", place="body") from None
    if not isinstance(row, dict):
        raise _invalid(f"the body is {show(row)}; allowed: an object with the key articles", "body")
    for key in row:
        if key != "articles":
            raise _invalid(f"{show(key)} is not a known key{nearest(key, ['articles'])}", "body")
    items = row.get("articles")
    if not isinstance(items, list):
        seen = show(items) if "articles" in row else "missing"
        raise _invalid(f"articles is {seen}; allowed: a list of objects with a text", "articles")
    if not 1 <= len(items) <= settings.max_articles:
        raise _invalid(
            f"the request has {len(items):,} articles; allowed: 1 to {settings.max_articles:,}",
            "articles",
            code="too_many_articles" if items else "invalid",
        )
    return [_article(item, f"articles[{i}]", settings.max_characters) for i, item in enumerate(items)]


def _article(item: object, place: str, max_characters: int) -> Article:
    for key in item if isinstance(item, dict) else ():
        if key not in ARTICLE_KEYS:
            raise _invalid(f"{show(key)} is not a known key{nearest(key, ARTICLE_KEYS)}", place)
    article, problems = parse_article(item)
    if article is None:
        raise _invalid(problems[0], place)
    if len(article.text) > max_characters:
        raise _invalid(
            f"text has {len(article.text):,} characters; allowed: at most {max_characters:,}",
            f"{place}.text",
            code="text_too_long",
        )
    if article.id is not None and len(article.id) > MAX_ID_CHARACTERS:
        raise _invalid(f"id has {len(article.id):,} characters; allowed: at most {MAX_ID_CHARACTERS:,}", f"{place}.id")
    return article


def _check_headers(request: Request, max_body_bytes: int) -> None:
    media_type = request.headers.get("content-type", "")
    # A page of another site can send anything but JSON without being asked whether it may.
    if media_type.partition(";")[0].strip().lower() != "application/json":
        raise ServiceError(
            415,
            "not_json",
            f"the content type is {show(media_type)}; allowed: application/json",
            place="headers.content-type",
        )
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise ServiceError(
            415,
            "compressed",
            f"the content encoding is {show(encoding)}; allowed: a body that is not compressed",
            place="headers.content-encoding",
        )
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length) > max_body_bytes:
        raise _too_large(max_body_bytes)


def _too_large(max_body_bytes: int) -> ServiceError:
    return ServiceError(
        413, "body_too_large", f"the body is too large; allowed: at most {max_body_bytes:,} bytes", place="body"
    )


def _invalid(message: str, place: str, *, code: str = "invalid") -> ServiceError:
    return ServiceError(422, code, message, place=place)
