"""What the clients of a service say and hear: articles into requests within its limits, answers into results or errors.

Turns articles into bodies, and answers into what the library gives. Sends nothing: that is client.py's work.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

from khabar.client_errors import (
    FailedError,
    NotKhabarError,
    RefusedError,
    UnauthorizedError,
    UnavailableError,
)
from khabar.inference.result_reader import Fields, read_result
from khabar.inference.results import TaggedArticle
from khabar.models.article import Article
from khabar.models.errors import KhabarError
from khabar.models.messages import show

if TYPE_CHECKING:
    import httpx

MOST_CHARACTERS = 100_000  # of a request: enough to fill a model, few enough to be answered in seconds
_ENDS = len('{"articles":[]}')


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request to a service may hold.

    Attributes:
        max_body_bytes: Largest body.
        max_articles: Most articles.
        max_characters: Longest text of an article.
    """

    max_body_bytes: int
    max_articles: int
    max_characters: int


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """The model behind a service.

    Attributes:
        name: Name and version, as results carry them.
        khabar: Version of khabar.
        device: Kind of device it runs on.
        topics: Topics it knows.
        thresholds: The probability from which each topic is reported.
        bands: Where some topics' probabilities are called uncertain: from, to.
        entity_labels: Entity labels it knows.
        limits: Limits of a request.
    """

    name: str
    khabar: str
    device: str
    topics: tuple[str, ...]
    thresholds: Mapping[str, float]
    bands: Mapping[str, tuple[float, float]]
    entity_labels: tuple[str, ...]
    limits: Limits


@dataclass(frozen=True, kw_only=True)
class TagRequest:
    """Some of the articles a user gave, as one request.

    Attributes:
        articles: The articles.
        first: Place of the first of them among all that were given.
        body: The request's body.
    """

    articles: Sequence[Article]
    first: int
    body: bytes


class Cutter:
    """Cuts a stream of articles into requests; holds the articles of one.

    Args:
        limits: The service's; None for a single article, of which the service itself says whether it is too long.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits
        self._articles: list[Article] = []
        self._rows: list[bytes] = []
        self._n_characters = self._n_bytes = self._n_sent = 0

    def add(self, item: str | Article) -> list[TagRequest]:
        """Take an article, and give the requests that are full with it.

        Raises:
            KhabarError: If the service could not take such an article.
        """
        article = Article(text=item) if isinstance(item, str) else item
        row = _row(article, f"articles[{self._n_sent + len(self._articles)}]")
        full: list[TagRequest] = []
        # The service refuses all of a request for one article that is too long: such a one goes alone.
        too_long = self._limits is not None and len(article.text) > self._limits.max_characters
        if self._articles and (too_long or not self._has_room(article, row)):
            full += self.rest()
        self._articles.append(article)
        self._rows.append(row)
        self._n_characters += len(article.text)
        self._n_bytes += len(row) + 1
        if too_long or (self._limits is not None and len(self._articles) == self._limits.max_articles):
            full += self.rest()
        return full

    def _has_room(self, article: Article, row: bytes) -> bool:
        return self._n_characters + len(article.text) <= MOST_CHARACTERS and (
            self._limits is None or self._n_bytes + len(row) + _ENDS <= self._limits.max_body_bytes
        )

    def rest(self) -> list[TagRequest]:
        """Give what has been taken and not yet given, if anything."""
        if not self._articles:
            return []
        body = b'{"articles":[' + b",".join(self._rows) + b"]}"
        request = TagRequest(articles=self._articles, first=self._n_sent, body=body)
        self._n_sent += len(self._articles)
        self._articles, self._rows, self._n_characters, self._n_bytes = [], [], 0, 0
        return [request]


def _row(article: object, place: str) -> bytes:
    if not isinstance(article, Article):
        raise KhabarError(f"{place} is {show(article)}; allowed: a text or an Article")
    if article.segment_spans is not None:
        raise KhabarError(f"{place} has segments of its own, which a service does not take; allowed: segments=None")
    row = {"text": article.text} if article.id is None else {"id": article.id, "text": article.text}
    try:
        return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError:
        raise KhabarError(f"{place} has half a surrogate pair; allowed: whole Unicode characters") from None


def read_results(row: object, request: TagRequest, address: str) -> list[TaggedArticle]:
    """Read the answer to a request for tags.

    Raises:
        NotKhabarError: If it is not the results of the request's articles.
    """
    try:
        rows = Fields(row).get("articles", list)
        if len(rows) != len(request.articles):
            raise KhabarError(f"{len(rows)} results for {len(request.articles)} articles")
        return [
            read_result(row, article.text, place=f"articles[{i}].")
            for i, (row, article) in enumerate(zip(rows, request.articles, strict=True), start=request.first)
        ]
    except KhabarError as error:
        raise _not_understood(address, error) from None


def read_model(row: object, address: str) -> ServedModel:
    """Read the answer to a request for the model.

    Raises:
        NotKhabarError: If it does not describe a model.
    """
    try:
        model = Fields(row)
        limits = Fields(model.get("limits", dict), "limits.")
        bands = Fields(model.get("bands", dict), "bands.")
        return ServedModel(
            name=model.get("model", str),
            khabar=model.get("khabar", str),
            device=model.get("device", str),
            topics=model.strings("topics"),
            thresholds=model.probabilities("thresholds"),
            bands={topic: _pair(bands, topic) for topic in model.get("bands", dict)},
            entity_labels=model.strings("entity_labels"),
            limits=Limits(
                max_body_bytes=limits.get("max_body_bytes", int),
                max_articles=limits.get("max_articles", int),
                max_characters=limits.get("max_characters", int),
            ),
        )
    except KhabarError as error:
        raise _not_understood(address, error) from None


def read_answer(response: httpx.Response, *, first: int = 0) -> object:
    """Give the JSON of a good answer.

    Args:
        response: The answer, whole.
        first: Place of the request's first article among all that were given, which the error is to name.

    Raises:
        RemoteError: What any other answer means.
    """
    address, status = str(response.request.url), response.status_code
    try:
        row = json.loads(response.content)
    except (ValueError, RecursionError):
        row = None
    if status == HTTPStatus.OK and row is not None:
        return row
    code, message = _said(row, first)
    said = f"{address}: {message or _status(status)}"
    if status in (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE):
        after = retry_after(response.headers.get("Retry-After"))
        raise UnavailableError(said, status=status, code=code, retry_after=after)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise UnauthorizedError(said, status=status, code=code)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise FailedError(said, status=status, code=code)
    # A proxy in front of a service has limits too, and words of its own.
    if message or status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        raise RefusedError(said, status=status, code=code)
    kind = response.headers.get("Content-Type", "no type")
    raise NotKhabarError(
        f"{address}: no khabar service: it answers {_status(status)} and {show(kind)}; "
        "allowed: the address at which `khabar serve` listens",
        status=status,
    )


def retry_after(header: str | None) -> float:
    """Read a Retry-After header, seconds or a date, as seconds from now; 0 where there is none to be read."""
    if header is None:
        return 0.0
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _said(row: object, first: int) -> tuple[str | None, str | None]:
    """Find the service's code and its message, with the place that is meant, in an answer that is an error."""
    error = row.get("error") if isinstance(row, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return None, None
    code, message, place = error.get("code"), error["message"], error.get("place")
    if isinstance(place, str) and place.startswith("articles["):
        place = re.sub(r"\d+", lambda found: str(first + int(found[0])), place, count=1)
        message = f"{place}: {message}"
    return code if isinstance(code, str) else None, message


def _status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _pair(bands: Fields, topic: str) -> tuple[float, float]:
    low_high = bands.get(topic, list)
    if len(low_high) != 2 or not all(isinstance(value, int | float) for value in low_high):
        raise KhabarError(f"bands.{topic} is {show(low_high)}; allowed: two probabilities")
    return float(low_high[0]), float(low_high[1])


def _not_understood(address: str, error: KhabarError) -> NotKhabarError:
    return NotKhabarError(f"{address}: not the answer of a khabar service: {error}", status=HTTPStatus.OK.value)
