"""The service over real sockets: clients that are slow, silent, gone, hostile or many."""

import asyncio
import json
import random
import socket
import subprocess
import sys
import threading
import time

import pytest
from connections import TEXT, answers, closed, connect, request_bytes

from khabar.inference.service.server import listen


def test_a_client_that_goes_frees_its_place(held_tagger, server_of, until, body):
    with server_of(held_tagger) as (app, port):
        content = json.dumps(body(*[TEXT] * 5)).encode()
        with connect(port) as first:
            first.sendall(request_bytes(content))
            until(lambda: held_tagger.batches)
            with connect(port) as second, connect(port) as third:
                second.sendall(request_bytes(content))
                time.sleep(0.1)
                before = app.batcher.waiting_articles
                third.sendall(request_bytes(content))
                until(lambda: app.batcher.waiting_articles == before + 5)
                third.close()
                until(lambda: app.batcher.waiting_articles == before)
                held_tagger.go.set()
                assert b"200 OK" in first.recv(65536)
                assert b"200 OK" in second.recv(65536)
        until(lambda: app.batcher.idle)
        assert sum(map(len, held_tagger.batches)) == 10


def test_slow_heads_and_silent_connections_are_closed_and_others_are_served(tagger, server_of):
    with server_of(tagger, head_seconds=0.5, body_seconds=0.5) as (_, port):
        silent, drop, half = connect(port), connect(port), connect(port)
        half.sendall(request_bytes(b"{", length=100))
        drop.sendall(b"POST /v1/tag HTTP/1.1\r\n")
        stopped = threading.Event()

        def dribble():
            while not stopped.wait(0.05):
                try:
                    drop.sendall(b"X-A: b\r\n")
                except OSError:
                    return

        thread = threading.Thread(target=dribble)
        thread.start()
        assert answers(port)
        assert b"408 Request Timeout" in half.recv(65536)
        for connection in (silent, drop, half):
            assert closed(connection)
        stopped.set()
        thread.join()
        assert answers(port)
        for connection in (silent, drop, half):
            connection.close()


def _small_reader(port):
    """A connection of which the system takes little before the client reads."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", port))
    return connection


def _all_of(connection, pause=0.0):
    """Read until the other side closes."""
    answer = b""
    try:
        while part := connection.recv(8192):
            answer += part
            time.sleep(pause)
    except ConnectionError:
        pass
    return answer


LONG = [(TEXT + "\n") * 100] * 20  # has long answers


def test_an_answer_that_is_read_slowly_arrives_whole(tagger, server_of, body):
    content = request_bytes(json.dumps(body(*LONG)).encode())
    with server_of(tagger, send_buffer=4096, head_seconds=0.3) as (_, port), _small_reader(port) as connection:
        connection.sendall(content)
        started = time.monotonic()
        answer = _all_of(connection, pause=0.02)
        assert time.monotonic() - started > 0.6  # long enough to be cut off
        assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["articles"]) == 20


@pytest.mark.parametrize(("header", "n_requests"), [(b"Connection: close\r\n", 1), (b"", 3)])
def test_a_client_that_never_reads_its_answers_is_given_up(tagger, server_of, body, until, header, n_requests):
    content = request_bytes(json.dumps(body(*LONG)).encode()).replace(b"Host", header + b"Host")
    with server_of(tagger, send_buffer=4096, head_seconds=0.3) as (app, port), _small_reader(port) as connection:
        connection.sendall(content * n_requests)
        until(lambda: app.batcher.n_requests)
        until(lambda: app.batcher.idle)
        time.sleep(1.5)
        with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
            json.loads(_all_of(connection).partition(b"\r\n\r\n")[2])  # not even the first is whole
        assert answers(port)


def test_more_idle_connections_than_there_may_be_stop_nobody(tagger, server_of):
    with server_of(tagger, max_connections=20) as (_, port):
        idle = [connect(port) for _ in range(60)]
        assert answers(port)
        idle[0].settimeout(5)
        assert closed(idle[0])  # the longest to wait went first
        assert answers(port)
        for connection in idle:
            connection.close()


def test_random_bytes_and_large_bodies_do_no_harm(tagger, server_of, body):
    rng = random.Random(0)
    good = request_bytes(json.dumps(body(TEXT)).encode())
    with server_of(tagger, max_body_bytes=4096, head_seconds=1, body_seconds=1) as (app, port):
        for i in range(60):
            noise = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 400)))
            if i % 3 == 1:
                place = rng.randrange(len(good))
                noise = good[:place] + noise + good[place:]
            elif i % 3 == 2:
                noise = request_bytes(noise)
            with connect(port) as connection:
                connection.sendall(noise)
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(65536)
                assert not answer or answer.split()[1] in (b"200", b"400", b"404", b"405", b"413", b"415", b"422")
        with connect(port) as connection:
            connection.sendall(b"\x00\x01\r\n\r\n")
            answer = connection.recv(65536)
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "not_http"
        with connect(port) as connection:
            connection.sendall(request_bytes(b"x" * 100, length=100 * 2**20))
            assert b"413" in connection.recv(65536)
        assert answers(port)
        assert app.batcher.idle


def test_requests_one_after_the_other_on_a_connection_are_answered_in_order(tagger, server_of):
    with server_of(tagger) as (_, port), connect(port) as connection:
        one, other = (request_bytes(json.dumps({"articles": [{"id": name, "text": TEXT}]}).encode()) for name in "ab")
        connection.sendall(one + other)
        seen = b""
        while seen.count(b'"model":"tiny 1.0"') < 2:
            seen += connection.recv(65536)
        assert seen.index(b'"id":"a"') < seen.index(b'"id":"b"')


def test_answers_are_not_delayed_by_the_system():
    """Nagle's algorithm and a client's delayed acknowledgement make 40 ms of an answer in two parts."""

    async def run():
        seen = asyncio.get_running_loop().create_future()

        async def accepted(_, writer):
            connection = writer.get_extra_info("socket")
            seen.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = listen("127.0.0.1", 0)
        async with await asyncio.start_server(accepted, sock=listener):
            await asyncio.open_connection(*listener.getsockname())
            return await seen

    assert asyncio.run(run())


def test_the_command_says_what_is_wrong_before_it_loads_a_model(tmp_path):
    for arguments, message in (
        (["--host", "0.0.0.0"], "--no-auth"),
        (["--port", "99999"], "KHABAR_PORT"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "khabar", "serve", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
        assert "Traceback" not in done.stderr
