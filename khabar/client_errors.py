"""What may go wrong between a client and a service, as errors to catch. Knows nothing of how either works."""

from __future__ import annotations

from khabar.models.errors import KhabarError


class RemoteError(KhabarError):
    """A service gave no result.

    Attributes:
        status: HTTP status of its answer; None where there was none.
        code: What happened, in the service's own word; None where it gave none.
    """

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None) -> None:
        self.status, self.code = status, code
        super().__init__(message)


class UnauthorizedError(RemoteError):
    """The service does not know the token, or wants one."""


class RefusedError(RemoteError):
    """The service does not take the request as it is: an article or the whole is beyond its limits."""


class FailedError(RemoteError):
    """The service took the request and failed on it."""


class TimedOutError(RemoteError):
    """The service did not answer in time."""


class NotKhabarError(RemoteError):
    """What answers is no khabar service, or one that this client does not understand."""


class UnavailableError(RemoteError):
    """The service cannot be reached, or is too busy; another try may go well.

    Attributes:
        retry_after: Seconds after which the service wants to be asked again; 0 where it has not said.
    """

    def __init__(
        self, message: str, *, status: int | None = None, code: str | None = None, retry_after: float = 0.0
    ) -> None:
        self.retry_after = retry_after
        super().__init__(message, status=status, code=code)
