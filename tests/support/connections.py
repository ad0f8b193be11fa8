"""Talks to the service as no well-behaved client would, and runs `khabar serve` as a process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

TEXT = "قال الوزير إن الاجتماع عقد في بغداد."


def request_bytes(content: bytes, length: int | None = None) -> bytes:
    """Give the bytes of a request for tags; its body may be said to be longer than it is."""
    n = len(content) if length is None else length
    head = f"POST /v1/tag HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {n}\r\n\r\n"
    return head.encode() + content


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def closed(connection: socket.socket) -> bool:
    """Whether the other side closes the connection, by its end or by a reset."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def answers(port: int) -> bool:
    """Whether the service answers an orderly client."""
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/tag", json={"articles": [{"text": TEXT}]}, timeout=60)
    return answer.status_code == 200 and len(answer.json()["articles"]) == 1


@contextmanager
def serving(*command: str, **popen: Any) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run `khabar serve` with flags, or a script that serves; give the process and its port. It is killed in the end.

    Args:
        command: Flags, or `-c` and a script.
        popen: As for subprocess.Popen.
    """
    if command[:1] != ("-c",):
        command = ("-m", "khabar", "serve", "--port", "0", "--device", "cpu", *command)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KHABAR_")}
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True, env=environment, **popen)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        assert " on http://127.0.0.1:" in line, line + process.stderr.read()
        yield process, int(line.rsplit(":", 1)[1])
    finally:
        process.kill()
        process.communicate()
