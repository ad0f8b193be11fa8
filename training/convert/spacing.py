"""What stands between a text's tokens: guessed for files that do not say it, and written to a column for those that do.

Knows tokens and the gaps around them; nothing of tags or files. Gaps are one more than tokens: what stands before each
token, and behind the last.
"""

import re
from collections.abc import Sequence

# Universal Dependencies' SpaceAfter and UDPipe's SpacesBefore and SpacesAfter; where nothing is said, a space follows.
_NOTHING_SAID, _JOINED = "_", "SpaceAfter=No"
_BEFORE, _AFTER = "SpacesBefore=", "SpacesAfter="
_WRITTEN = {" ": r"\s", "\t": r"\t", "\r": r"\r", "\n": r"\n", "|": r"\p", "\\": r"\\"}
_MEANT = {written: char for char, written in _WRITTEN.items()}
_COLUMN = re.compile(rf"_|{_JOINED}|{_AFTER}[^|]*|{_BEFORE}[^|]*(?:\|(?:{_JOINED}|{_AFTER}[^|]*))?")

_CLOSING, _OPENING = set(".،,؛;:!؟?)]}»”’%٪…"), set("([{«“‘")
_EITHER = '"'


def single_spaces(tokens: Sequence[str]) -> list[str]:
    """Give gaps of one space between tokens."""
    return ["", *[" "] * (len(tokens) - 1), ""] if tokens else [""]


def natural_spaces(tokens: Sequence[str]) -> list[str]:
    """Guess gaps as news is written: none before closing punctuation or after opening, one space elsewhere.

    Straight double quotes open and close in turn; where one is left over, all of a sentence's keep their spaces.
    Everything else keeps its space too, split-off one-letter words among them: nothing tells whether the text had
    them joined.
    """
    gaps = single_spaces(tokens)
    paired = sum(token == _EITHER for token in tokens) % 2 == 0
    opens = False
    for i, token in enumerate(tokens):
        if token == _EITHER and paired:
            opens = not opens
        closing, opening = token == _EITHER and paired and not opens, token == _EITHER and paired and opens
        if i and (closing or set(token) <= _CLOSING):
            gaps[i] = ""
        if i + 1 < len(tokens) and (opening or set(token) <= _OPENING):
            gaps[i + 1] = ""
    return gaps


def write_gaps(gaps: Sequence[str]) -> list[str]:
    """Write gaps as a column: one cell a token, the first token's also holding what stands before it."""
    cells = []
    for i, after in enumerate(gaps[1:]):
        parts = [_BEFORE + _write(gaps[0])] if i == 0 and gaps[0] else []
        if after != " ":
            parts.append(_AFTER + _write(after) if after else _JOINED)
        cells.append("|".join(parts) or _NOTHING_SAID)
    return cells


def read_gaps(cells: Sequence[str]) -> list[str]:
    """Read a column that `write_gaps` could have written; the inverse."""
    gaps = [""]
    for cell in cells:
        after = " "
        for part in cell.split("|"):
            if part == _JOINED:
                after = ""
            elif part.startswith(_AFTER):
                after = _read(part.removeprefix(_AFTER))
            elif part.startswith(_BEFORE):
                gaps[-1] += _read(part.removeprefix(_BEFORE))
        gaps.append(after)
    return gaps


def is_spacing(cell: str) -> bool:
    """Whether a cell could stand in a column of gaps; `_`, which says nothing, could."""
    return _COLUMN.fullmatch(cell) is not None


def _write(gap: str) -> str:
    return "".join(_WRITTEN.get(char, char) for char in gap)


def _read(written: str) -> str:
    return re.sub(r"\\(.)", lambda match: _MEANT.get(match[0], match[0]), written, flags=re.DOTALL)
