"""How the service stops: what it took is answered whole, nobody can hold it up, and it ends in the time it is given."""

import asyncio
import json
import signal
import time
from collections import Counter
from contextlib import contextmanager

import httpx
import pytest
from connections import TEXT, answers, connect, request_bytes, serving

N_CLIENTS = 64

# Serves a model that never comes to an end.
STUCK = """
import sys, threading
from khabar.cli_common import one_line_errors, quiet_libraries
from khabar.inference.service.app import create_app
from khabar.inference.service.server import serve
from khabar.inference.service.settings import ServiceSettings
from khabar.inference.tagger import Tagger, load

class Stuck(Tagger):
    def tag_chunks(self, chunks, **_):
        for _ in chunks:
            print("at the model", file=sys.stderr, flush=True)
            threading.Event().wait()
        yield []

quiet_libraries()
tagger = load("embedded", device="cpu")
tagger.__class__ = Stuck
settings = ServiceSettings(port=0, shutdown_seconds=float(sys.argv[1]))
one_line_errors(serve)(create_app(tagger, settings), settings)
"""


@pytest.mark.slow
def test_a_stop_under_load_loses_no_request_that_was_taken(tiny_model_folder, body):
    outcomes: Counter[object] = Counter()
    content = body(*[TEXT * 20] * 3)

    async def client(url):
        async with httpx.AsyncClient(timeout=120) as http:
            while True:
                try:
                    answer = await http.post(f"{url}/v1/tag", json=content)
                except httpx.ConnectError:
                    return  # it does not listen any more
                except httpx.TransportError as error:
                    outcomes[type(error).__name__] += 1
                    return
                if answer.status_code == 200:
                    assert [article["id"] for article in answer.json()["articles"]] == ["a0", "a1", "a2"]
                else:
                    assert answer.json()["error"]["code"] == "stopping"
                    await asyncio.sleep(0.1)
                outcomes[answer.status_code] += 1

    async def load(process, port):
        clients = [asyncio.create_task(client(f"http://127.0.0.1:{port}")) for _ in range(N_CLIENTS)]
        while outcomes[200] < N_CLIENTS:
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.05)
        process.send_signal(signal.SIGTERM)  # changes nothing
        await asyncio.gather(*clients)

    with serving("--model", str(tiny_model_folder)) as (process, port):
        asyncio.run(load(process, port))
        assert process.wait(60) == 143
        # Who connects as the service ends may find the connection reset; whatever was taken is answered.
        assert process.stderr.read().splitlines() == [
            "stopping: takes no more requests",
            f"stopped: took {outcomes[200]} requests, answered all",
        ]
    assert outcomes[503]


def test_clients_that_hold_back_their_bodies_do_not_hold_up_a_stop(tagger, server_of):
    with server_of(tagger, body_seconds=30, shutdown_seconds=30) as (_, port):
        slow = [connect(port) for _ in range(3)]
        for connection in slow:
            connection.sendall(request_bytes(b"{", length=100))
        assert answers(port)
    for connection in slow:  # the service has stopped
        answer = connection.recv(65536)
        assert b"503 Service Unavailable" in answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "stopping"
        connection.close()


@contextmanager
def stuck_at_the_model(shutdown_seconds):
    """Give a service whose model never answers, and the connection of the request that it is at work on."""
    with serving("-c", STUCK, shutdown_seconds) as (process, port), connect(port) as connection:
        connection.sendall(request_bytes(json.dumps({"articles": [{"text": TEXT}]}).encode()))
        assert process.stderr.readline() == "at the model\n"
        yield process, connection


@pytest.mark.slow
def test_a_model_that_never_comes_to_an_end_does_not_keep_a_stop_from_its_own():
    with stuck_at_the_model("1") as (process, connection):
        process.send_signal(signal.SIGTERM)
        answer = connection.recv(65536)
        assert b"503 Service Unavailable" in answer
        assert process.wait(60) == 143
        assert process.stderr.read().splitlines() == [
            "stopping: takes no more requests",
            "stopped: took 1 requests, answered not all",
        ]


@pytest.mark.slow
def test_a_second_interrupt_ends_it_at_once():
    with stuck_at_the_model("600") as (process, _):
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
