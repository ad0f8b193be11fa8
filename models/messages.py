"""Words for error messages: quotes the value that was seen and names what is allowed.

Turns any value into one short line. Knows nothing of where the value came from.
"""

import difflib
import json
from collections.abc import Callable, Collection, Iterable, Mapping

_MAX_SHOWN = 60  # characters of a wrong value quoted in a message
_MAX_NAMED = 30  # allowed names listed in a message


def show(value: object) -> str:
    """Quote a wrong value for a message: as JSON, on one line, cut when long."""
    quoted = ""
    try:
        for part in json.JSONEncoder(ensure_ascii=False, default=repr).iterencode(value):
            quoted += part
            if len(quoted) > _MAX_SHOWN:
                break  # the rest may be megabytes
    except (ValueError, RecursionError):
        quoted = f"a {type(value).__name__}"
    # Half a surrogate pair cannot be printed: show its escape.
    quoted = quoted.encode("utf-8", "backslashreplace").decode("utf-8")
    return quoted if len(quoted) <= _MAX_SHOWN else quoted[:_MAX_SHOWN] + "…"


def not_utf8(error: UnicodeDecodeError) -> str:
    """Say which byte, counted from 1, is not UTF-8."""
    return f"not UTF-8: byte 0x{error.object[error.start]:02x} at byte {error.start + 1}"


def changes(before: Mapping[str, object], now: Mapping[str, object], shown: Callable[[object], str]) -> str:
    """Name what is no longer as it was: `name was x, is y`, joined by semicolons; empty where nothing has changed.

    Args:
        before: Values by name; one that is missing is None.
        now: Likewise.
        shown: Puts a value into words.
    """
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    return "; ".join(f"{name} was {shown(before.get(name))}, is {shown(now.get(name))}" for name in names)


def nearest(value: str, known: Collection[str]) -> str:
    """End a message about an unknown name: `; did you mean "x"?` when one is near, then all the known."""
    names = sorted(known) if isinstance(known, set | frozenset) else list(known)
    more = f" … ({len(names)} in all)" if len(names) > _MAX_NAMED else ""
    return f"{did_you_mean(value, names)}; allowed: {', '.join(names[:_MAX_NAMED]) or 'none'}{more}"


def did_you_mean(value: str, names: Iterable[str]) -> str:
    """Guess a name that was meant, as `; did you mean "x"?`; empty where none is near."""
    names = list(names)
    close = difflib.get_close_matches(value.lower(), [name.lower() for name in names], n=1, cutoff=0.7)
    guess = next((name for name in names if close and name.lower() == close[0]), None)
    return "" if guess is None else f'; did you mean "{guess}"?'
