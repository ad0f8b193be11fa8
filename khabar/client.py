"""A khabar service seen from Python: the calls and results of a Tagger, from a model that runs elsewhere.

Sends requests and asks again where that may help. What they hold is client_exchange.py's matter. Loads no torch, and
httpx and tenacity only once a client is made.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar
from urllib.parse import SplitResult, urlsplit

from khabar import __version__
from khabar.client_errors import (
    FailedError,
    NotKhabarError,
    RefusedError,
    RemoteError,
    TimedOutError,
    UnauthorizedError,
    UnavailableError,
)
from khabar.client_exchange import Cutter, Limits, ServedModel, TagRequest, read_answer, read_model, read_results
from khabar.inference.results import TaggedArticle
from khabar.models.article import Article, refuse_one_text
from khabar.models.errors import KhabarError, MissingExtraError
from khabar.models.messages import show
from khabar.models.ranges import check_range

if TYPE_CHECKING:
    import httpx
    from tenacity import RetryCallState

__all__ = [
    "AsyncClient",
    "Client",
    "FailedError",
    "Limits",
    "NotKhabarError",
    "RefusedError",
    "RemoteError",
    "ServedModel",
    "TimedOutError",
    "UnauthorizedError",
    "UnavailableError",
]

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
FIRST_PAUSE = 0.25  # seconds; the longest first one: each is drawn at random, and the range doubles
LONGEST_PAUSE = 20.0

T = TypeVar("T")


class _Connection:
    """What both clients have: where the service is, who asks, and how long to wait."""

    def __init__(self, url: str, *, token: str | None = None, timeout: float = 120.0, patience: float = 60.0) -> None:
        check_range("timeout", timeout, above=0)
        check_range("patience", patience, at_least=0)
        try:
            import httpx
            import tenacity  # noqa: F401
        except ImportError:
            raise MissingExtraError("client", f"khabar.{type(self).__name__}") from None
        self.url = _checked(url)
        self._timeout, self._patience = timeout, patience
        self._limits: Limits | None = None
        headers = {"User-Agent": f"khabar/{__version__}", "Content-Type": "application/json"}
        if token is not None:
            if not re.fullmatch(r"[!-~]+", token):
                raise KhabarError("the token cannot stand in a header; allowed: letters, digits and signs of ASCII")
            headers["Authorization"] = f"Bearer {token}"
        # A client shared by many threads or tasks lets them wait for a connection: that is no fault.
        seconds = httpx.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS), pool=None)
        self._open(headers=headers, timeout=seconds)

    def _open(self, **options: Any) -> None:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    @contextmanager
    def _asking(self, path: str) -> Iterator[str]:
        """Give the address of a path, and turn what may happen on the way there and back into khabar's errors."""
        import httpx

        address = self.url + path
        try:
            yield address
        except (httpx.ConnectTimeout, httpx.NetworkError, httpx.ProxyError, httpx.RemoteProtocolError) as error:
            raise UnavailableError(f"{address}: cannot be reached: {str(error) or type(error).__name__}") from error
        except httpx.TimeoutException as error:
            raise TimedOutError(f"{address}: no answer within {self._timeout:g} seconds") from error
        except httpx.HTTPError as error:
            raise NotKhabarError(f"{address}: no khabar service: {str(error) or type(error).__name__}") from error

    def _tries(self) -> dict[str, Any]:
        """Say when and how often to ask again, as options of tenacity's."""
        from tenacity import retry_if_exception_type, stop_before_delay, wait_random_exponential

        backed_off = wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE)
        return {
            "retry": retry_if_exception_type(UnavailableError),
            "wait": lambda state: _unavailable(state).retry_after + backed_off(state),
            "stop": stop_before_delay(self._patience),
            "before_sleep": lambda state: log.info(
                "%s; asked again in %.1f seconds", _unavailable(state), state.upcoming_sleep
            ),
            "retry_error_callback": _give_up,
        }


class Client(_Connection):
    """A khabar service, with the calls of a `Tagger`. Safe to use from several threads at once.

        with khabar.Client("http://127.0.0.1:8000") as client:
            article = client.tag("…")

    Args:
        url: Address of the service, such as `http://127.0.0.1:8000`.
        token: A token it knows, where it wants one.
        timeout: Seconds to wait for the answer to a request.
        patience: Seconds for which a service that is busy or cannot be reached is asked again; 0 asks once.

    Raises:
        KhabarError: If one of them cannot be right.
        MissingExtraError: If the extra `client` is not installed.
    """

    def _open(self, **options: Any) -> None:
        import httpx

        self._http = httpx.Client(**options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def model(self) -> ServedModel:
        """Ask for the model's labels, thresholds and name, and for the limits of a request.

        Raises:
            RemoteError: As `tag`.
        """
        return read_model(self._ask("GET", "/v1/model"), self.url)

    def tag(self, article: str | Article) -> TaggedArticle:
        """Tag one article: its raw text, or an Article without segments of its own.

        Raises:
            UnavailableError: If the service is too busy or cannot be reached, for all of the patience.
            UnauthorizedError: If it wants another token.
            RefusedError: If the article is beyond its limits.
            TimedOutError: If it does not answer in time.
            FailedError: If it fails.
            NotKhabarError: If it is no khabar service.
            KhabarError: If the article is not valid Unicode, or has segments.
        """
        cutter = Cutter()
        cutter.add(article)
        return self._tag(cutter.rest()[0])[0]

    def tag_many(self, articles: Iterable[str | Article]) -> Iterator[TaggedArticle]:
        """Tag articles as a stream, in their order, in requests as large as the service takes them.

        Args:
            articles: Raw texts or Articles; any iterable, read one request ahead.

        Raises:
            RemoteError: As `tag`; of a request that holds an article that is not taken, there are no results. The
                error names the article by its place in all that were given.
        """
        refuse_one_text(articles)
        cutter = None
        for article in articles:
            cutter = cutter or Cutter(self._known_limits())
            for request in cutter.add(article):
                yield from self._tag(request)
        for request in cutter.rest() if cutter else []:
            yield from self._tag(request)

    def _known_limits(self) -> Limits:
        self._limits = self._limits or self.model().limits
        return self._limits

    def _tag(self, request: TagRequest) -> list[TaggedArticle]:
        row = self._ask("POST", "/v1/tag", body=request.body, first=request.first)
        return read_results(row, request, self.url)

    def _ask(self, method: str, path: str, *, body: bytes | None = None, first: int = 0) -> object:
        from tenacity import Retrying

        def once() -> httpx.Response:
            with self._asking(path) as address:
                return self._http.request(method, address, content=body)

        return Retrying(**self._tries())(lambda: read_answer(once(), first=first))


class AsyncClient(_Connection):
    """`Client` for asyncio: the same calls, awaited. Belongs to the event loop that first uses it.

    async with khabar.AsyncClient("http://127.0.0.1:8000") as client:
        article = await client.tag("…")
    """

    def _open(self, **options: Any) -> None:
        import httpx

        self._http = httpx.AsyncClient(**options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def model(self) -> ServedModel:
        """Ask for the model, as `Client.model` does."""
        return read_model(await self._ask("GET", "/v1/model"), self.url)

    async def tag(self, article: str | Article) -> TaggedArticle:
        """Tag one article, as `Client.tag` does."""
        cutter = Cutter()
        cutter.add(article)
        return (await self._tag(cutter.rest()[0]))[0]

    async def tag_many(
        self, articles: Iterable[str | Article] | AsyncIterable[str | Article]
    ) -> AsyncIterator[TaggedArticle]:
        """Tag articles as a stream, as `Client.tag_many` does; they may come from an asynchronous iterable too."""
        refuse_one_text(articles)
        cutter = None
        async for article in _as_async(articles):
            cutter = cutter or Cutter(await self._known_limits())
            for request in cutter.add(article):
                for result in await self._tag(request):
                    yield result
        for request in cutter.rest() if cutter else []:
            for result in await self._tag(request):
                yield result

    async def _known_limits(self) -> Limits:
        self._limits = self._limits or (await self.model()).limits
        return self._limits

    async def _tag(self, request: TagRequest) -> list[TaggedArticle]:
        row = await self._ask("POST", "/v1/tag", body=request.body, first=request.first)
        return read_results(row, request, self.url)

    async def _ask(self, method: str, path: str, *, body: bytes | None = None, first: int = 0) -> object:
        from tenacity import AsyncRetrying

        async def once() -> object:
            with self._asking(path) as address:
                response = await self._http.request(method, address, content=body)
            return read_answer(response, first=first)

        return await AsyncRetrying(**self._tries())(once)


def _checked(url: str) -> str:
    """Give an address without its last slash.

    Raises:
        KhabarError: If it is not one at which a service can be.
    """
    import httpx

    allowed = "allowed: the address of a service, such as http://127.0.0.1:8000"
    if not isinstance(url, str):
        raise KhabarError(f"url is {show(url)}; {allowed}")
    if "@" in url:  # messages name the address, and must not show a password
        raise KhabarError("the address has a user's name in it; allowed: an address alone, and token=…")
    try:
        parts = urlsplit(url)
        _ = parts.port  # reads it
        httpx.URL(url).raw_host.decode("ascii").encode("idna")  # as it will be looked up
    except (ValueError, httpx.InvalidURL):
        parts = SplitResult("", "", "", "", "")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise KhabarError(f"url is {show(url)}; {allowed}")
    return url.rstrip("/")


def _unavailable(state: RetryCallState) -> UnavailableError:
    error = state.outcome.exception() if state.outcome else None
    if not isinstance(error, UnavailableError):
        raise TypeError(f"nothing to ask again for after {error!r}")
    return error


def _give_up(state: RetryCallState) -> NoReturn:
    error = _unavailable(state)
    n, seconds = state.attempt_number, state.seconds_since_start or 0.0
    raise UnavailableError(
        f"{error} (asked {n} times in {seconds:.0f} seconds)" if n > 1 else str(error),
        status=error.status,
        code=error.code,
        retry_after=error.retry_after,
    ) from error.__cause__


async def _as_async(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
