"""Who may call the service: bearer tokens from a file.

Turns a file into tokens and a request's header into yes or an error. Keeps digests only, not the tokens.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

from khabar.inference.service.errors import ServiceError
from khabar.models.errors import KhabarError

MIN_LENGTH = 16
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # Source: RFC 6750, section 2.1


class Tokens:
    """The tokens that let clients in.

    Args:
        digests: SHA-256 of each.
    """

    def __init__(self, digests: list[bytes]) -> None:
        self._digests = digests

    def check(self, header: str | None) -> None:
        """Check a request's Authorization header.

        Raises:
            ServiceError: 401, if it holds none of the tokens.
        """
        scheme, _, given = (header or "").partition(" ")
        digest = hashlib.sha256(given.strip().encode("utf-8", "backslashreplace")).digest()
        known = False
        for one in self._digests:  # all of them, each in constant time: how long it takes tells nothing
            known |= hmac.compare_digest(one, digest)
        if scheme.lower() != "bearer" or not known:
            seen = "no token" if header is None else "an unknown token"
            raise ServiceError(
                401,
                "unauthorized",
                f"the request has {seen}; allowed: a header Authorization: Bearer TOKEN with a known token",
                place="headers.authorization",
                headers={"WWW-Authenticate": "Bearer"},
            )


def read_tokens(path: Path) -> Tokens:
    """Read a file of tokens, one a line; blank lines and lines that start with # are left out.

    Raises:
        KhabarError: If the file cannot be read, holds no token, or one that is too short or cannot stand in a
            header. No message shows a token.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise KhabarError(f"tokens file {path} cannot be read: {reason}") from None
    digests: list[bytes] = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        if len(line) < MIN_LENGTH or not _TOKEN.fullmatch(line):
            raise KhabarError(
                f"{path}:{number}: not a token; allowed: at least {MIN_LENGTH} letters, digits and signs of ._~+/-"
            )
        digests.append(hashlib.sha256(line.encode()).digest())
    if not digests:
        raise KhabarError(f"tokens file {path} holds no token; allowed: one a line")
    return Tokens(digests)
