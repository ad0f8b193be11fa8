"""The page at `/` and its files, read once.

Turns a folder of files into routes, one for each: no path of a request ever reaches the disk.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = Path(__file__).parent / "page"
INDEX = "index.html"


def page_routes(folder: Path = FOLDER) -> Iterator[Route]:
    """Give a route for each file of a folder, that of index.html at `/`; none where there is no index.html."""
    if not (folder / INDEX).is_file():
        return
    for file in sorted(folder.iterdir()):
        if file.is_file() and not file.name.startswith("."):
            path = "/" if file.name == INDEX else f"/{file.name}"
            yield Route(path, _answer(file), methods=["GET"], include_in_schema=False)


def _answer(file: Path) -> Callable[[Request], Awaitable[Response]]:
    content = file.read_bytes()
    # Of Python's own table: that of the machine may call a script plain text, which browsers then do not run.
    media_type = mimetypes.MimeTypes().guess_type(file.name)[0] or "application/octet-stream"

    async def answer(_request: Request) -> Response:
        # Another version of khabar may be served at the same address tomorrow.
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})

    return answer
