"""The service over real sockets: clients that are slow, silent, gone, hostile or many; and a stop under load."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

TEXT = "قال الوزير إن الاجتماع عقد في بغداد."


def _connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def _request(content: bytes, length: int | None = None) -> bytes:
    n = len(content) if length is None else length
    head = f"POST /v1/tag HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {n}\r\n\r\n"
    return head.encode() + content


def _answers(port, body):
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/tag", json=body(TEXT), timeout=60)
    return answer.status_code == 200


def _closed(connection) -> bool:
    """Whether the other side closes the connection, by its end or by a reset."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def test_a_client_that_goes_frees_its_place(held_tagger, server_of, until, body):
    with server_of(held_tagger) as (app, port):
        content = json.dumps(body(*[TEXT] * 5)).encode()
        with _connect(port) as first:
            first.sendall(_request(content))
            until(lambda: held_tagger.batches)
            with _connect(port) as second, _connect(port) as third:
                second.sendall(_request(content))
                time.sleep(0.1)
                before = app.batcher.waiting_articles
                third.sendall(_request(content))
                until(lambda: app.batcher.waiting_articles == before + 5)
                third.close()
                until(lambda: app.batcher.waiting_articles == before)
                held_tagger.go.set()
                assert b"200 OK" in first.recv(65536)
                assert b"200 OK" in second.recv(65536)
        until(lambda: app.batcher.idle)
        assert sum(map(len, held_tagger.batches)) == 10


def test_slow_heads_and_silent_connections_are_closed_and_others_are_served(tagger, server_of, body):
    with server_of(tagger, head_seconds=0.5, body_seconds=0.5) as (_, port):
        silent, drop, half = _connect(port), _connect(port), _connect(port)
        half.sendall(_request(b"{", length=100))
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
        assert _answers(port, body)
        assert b"408 Request Timeout" in half.recv(65536)
        for connection in (silent, drop, half):
            assert _closed(connection)
        stopped.set()
        thread.join()
        assert _answers(port, body)
        for connection in (silent, drop, half):
            connection.close()


def test_more_idle_connections_than_there_may_be_stop_nobody(tagger, server_of, body):
    with server_of(tagger, max_connections=20) as (_, port):
        idle = [_connect(port) for _ in range(60)]
        assert _answers(port, body)
        idle[0].settimeout(5)
        assert _closed(idle[0])  # the longest to wait went first
        assert _answers(port, body)
        for connection in idle:
            connection.close()


def test_random_bytes_and_large_bodies_do_no_harm(tagger, server_of, body):
    rng = random.Random(0)
    good = _request(json.dumps(body(TEXT)).encode())
    with server_of(tagger, max_body_bytes=4096, head_seconds=1, body_seconds=1) as (app, port):
        for i in range(60):
            noise = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 400)))
            if i % 3 == 1:
                place = rng.randrange(len(good))
                noise = good[:place] + noise + good[place:]
            elif i % 3 == 2:
                noise = _request(noise)
            with _connect(port) as connection:
                connection.sendall(noise)
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(65536)
                assert not answer or answer.split()[1] in (b"200", b"400", b"404", b"405", b"413", b"415", b"422")
        with _connect(port) as connection:
            connection.sendall(b"\x00\x01\r\n\r\n")
            answer = connection.recv(65536)
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "not_http"
        with _connect(port) as connection:
            connection.sendall(_request(b"x" * 100, length=100 * 2**20))
            assert b"413" in connection.recv(65536)
        assert _answers(port, body)
        assert app.batcher.idle


def test_requests_one_after_the_other_on_a_connection_are_answered_in_order(tagger, server_of, body):
    with server_of(tagger) as (_, port), _connect(port) as connection:
        one, other = (_request(json.dumps({"articles": [{"id": name, "text": TEXT}]}).encode()) for name in "ab")
        connection.sendall(one + other)
        seen = b""
        while seen.count(b'"model":"tiny 1.0"') < 2:
            seen += connection.recv(65536)
        assert seen.index(b'"id":"a"') < seen.index(b'"id":"b"')


@pytest.mark.slow
def test_a_stop_under_load_loses_no_request_that_was_taken(tiny_model_folder, body):
    command = [sys.executable, "-m", "khabar", "serve", "--port", "0", "-m", str(tiny_model_folder), "--device", "cpu"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    line = process.stderr.readline()
    url = line.split()[-1]
    assert url.startswith("http://127.0.0.1:"), line
    outcomes: list[object] = []
    content = body(*[TEXT * 20] * 20)

    def load():
        with httpx.Client(timeout=120) as client:
            while True:
                try:
                    answer = client.post(f"{url}/v1/tag", json=content)
                except httpx.ConnectError:
                    return  # it does not listen any more
                except httpx.TransportError as error:
                    outcomes.append(error)
                    return
                outcomes.append(answer.status_code)
                if answer.status_code == 200:
                    assert len(answer.json()["articles"]) == 20
                else:
                    assert answer.json()["error"]["code"] == "stopping"
                    time.sleep(0.05)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    while outcomes.count(200) < 8:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert process.wait(60) == 143
    assert 503 in outcomes
    # Who connects as the service ends may find the connection reset; whatever was taken is answered.
    n_taken = outcomes.count(200)
    assert process.stderr.read().splitlines() == [
        "stopping: takes no more requests",
        f"stopped: took {n_taken} requests, answered all",
    ]


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
