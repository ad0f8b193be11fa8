"""What the service says when it does not do what was asked: one kind of error, one form of answer.

Turns an error into an HTTP response. Knows nothing of what may go wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from khabar.models.errors import KhabarError

CLIENT_GONE = 499  # nobody reads it; it tells such requests apart in the metrics


class ServiceError(KhabarError):
    """A request that is not served.

    Attributes:
        status: HTTP status.
        code: What happened, as a word for programs.
        message: What was seen and what is allowed, for people.
        place: Part of the request that is meant, such as `articles[3].text`.
        headers: Headers of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        place: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status, self.code, self.message, self.place = status, code, message, place
        self.headers = dict(headers or {})
        super().__init__(message)

    def response(self) -> JSONResponse:
        """Give the answer that says so."""
        error = {"code": self.code, "message": self.message, "place": self.place}
        return JSONResponse({"error": error}, status_code=self.status, headers=self.headers)


def busy(message: str, retry_after: int, *, code: str = "busy") -> ServiceError:
    """Say that the service cannot take a request now, and in how many seconds to come again."""
    return ServiceError(503, code, message, headers={"Retry-After": str(retry_after)})


def stopping() -> ServiceError:
    """Say that the service takes no requests any longer."""
    return busy("the service is stopping; come again", 1, code="stopping")


def from_http(error: HTTPException) -> ServiceError:
    """Give an error of the web framework, such as an unknown path, the service's form."""
    phrase = HTTPStatus(error.status_code).phrase
    return ServiceError(error.status_code, phrase.lower().replace(" ", "_"), phrase, headers=error.headers)
