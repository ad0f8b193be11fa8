"""A real `khabar serve` under abuse: it answers the others meanwhile, stays up, and does not grow."""

import gzip
import json
import socket
import struct
import threading
from pathlib import Path

import httpx
import psutil
import pytest
from connections import TEXT, answers, closed, connect, request_bytes, serving

resource = pytest.importorskip("resource", reason="needs limits of open files")

pytestmark = pytest.mark.slow

MB = 2**20
FEW_FILES = 300  # as some systems allow at first
N_IDLE = 1000
JSON = {"Content-Type": "application/json"}
CHUNKED = b"POST /v1/tag HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def service():
    """The process and the port of a service that gives clients two seconds, and was given few open files."""

    def few_files():
        resource.setrlimit(resource.RLIMIT_NOFILE, (FEW_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    flags = ["--head-seconds", "2", "--body-seconds", "2"]
    with serving(*flags, preexec_fn=few_files) as (process, port):
        yield process, port
        assert process.poll() is None
        answer = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert 'status="500"' not in answer


@pytest.fixture
def port(service):
    """The port, for a test after which the service must answer as before."""
    process, port = service
    yield port
    assert process.poll() is None
    assert answers(port)


@pytest.fixture
def many_files():
    """Let the test have as many connections as it wants to make."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = N_IDLE + 200
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"needs {wanted:,} open files: the system allows {hard:,}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _status(connection) -> bytes:
    """The status of the answer on a connection; nothing where there is none."""
    try:
        return connection.recv(65536)[9:12]
    except ConnectionError:
        return b""


def test_a_thousand_idle_connections_and_slow_heads_leave_room_for_others(port, many_files):
    idle = []
    for i in range(N_IDLE):
        idle.append(connect(port))
        if i % 2:
            idle[-1].sendall(b"POST /v1/tag HTTP/1.1\r\nHost:")
        if i % 100 == 0:
            assert answers(port)
    for _ in range(5):
        assert answers(port)
    for connection in idle:
        assert closed(connection)
        connection.close()


def test_bodies_of_100_mb_are_refused_and_never_held(service, port):
    process, _ = service
    answers(port)
    before = psutil.Process(process.pid).memory_info().rss
    peak = before
    size = 100 * MB
    with connect(port) as declared:
        declared.sendall(request_bytes(b"", length=size))
        assert _status(declared) == b"413"  # before a byte of the body
    with connect(port) as unread:
        unread.sendall(request_bytes(b"", length=size))
        for _ in range(100):
            try:
                unread.sendall(b" " * MB)
            except ConnectionError:
                break
            peak = max(peak, psutil.Process(process.pid).memory_info().rss)
    with connect(port) as chunked:
        chunked.sendall(CHUNKED)
        for _ in range(9):
            chunked.sendall(b"%x\r\n" % MB + b" " * MB + b"\r\n")
        assert _status(chunked) == b"413"
        peak = max(peak, psutil.Process(process.pid).memory_info().rss)
    bomb = gzip.compress(bytes(size))
    for encoding, status in (("gzip", 415), ("identity", 400)):
        answer = httpx.post(
            f"http://127.0.0.1:{port}/v1/tag", content=bomb, headers=JSON | {"Content-Encoding": encoding}
        )
        assert answer.status_code == status
        peak = max(peak, psutil.Process(process.pid).memory_info().rss)
    assert peak - before < 50 * MB


def test_chunks_of_one_byte_do_not_keep_others_from_their_answers(port):
    stopped = threading.Event()
    statuses = []

    def flood():
        with connect(port) as connection:
            connection.sendall(CHUNKED)
            try:
                while not stopped.is_set():
                    connection.sendall(b"1\r\n \r\n" * 10_000)
            except OSError:
                statuses.append(_status(connection))

    thread = threading.Thread(target=flood)
    thread.start()
    for _ in range(5):
        assert answers(port)
    thread.join(60)
    stopped.set()
    thread.join()
    assert statuses
    assert set(statuses) <= {b"408", b""}


@pytest.mark.parametrize(
    "content",
    [
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX : a\r\n\r\n",
        b"POST /v1/tag HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/tag HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/tag HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n{}",
        b"POST /v1/tag HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/tag HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # a client that speaks TLS
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * MB + b"\r\n\r\n",
        b"GET /" + b"a" * MB + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=lambda content: repr(content[:40]),
)
def test_what_is_no_http_is_refused_and_the_connection_closed(port, content):
    with connect(port) as connection:
        try:
            connection.sendall(content)
        except ConnectionError:
            return  # closed in the middle of a flood
        assert _status(connection)[:1] in (b"4", b"")
        assert closed(connection)


def test_hostile_json_is_refused_in_one_answer_each(port):
    deep = b'{"articles": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    objects = b'{"articles": [{"text": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}]}"
    keys = b'{"articles": [{' + b",".join(b'"%d": 1' % (i % 60_000) for i in range(60_001)) + b"}]}"
    many = b'{"articles": [' + b"[]," * 1_000_000 + b"[]]}"
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=JSON, timeout=60) as client:
        for content, status in (
            (deep, 400),
            (objects, 400),
            (many, 422),
            (keys, 400),
            (b'{"articles": [{"text": "a", "text": "b"}]}', 400),
            (b'{"articles": [{"text": "a", "id": 1e999}]}', 422),
            (b'{"articles": [{"text": "\\udc00\\ud800"}]}', 422),
            (b'{"articles": [{"text": "\xed\xa0\x80"}]}', 400),
            (b"\xef\xbb\xbf{}", 400),
        ):
            answer = client.post("/v1/tag", content=content)
            assert answer.status_code == status
            assert len(answer.content) < 1000


def test_clients_that_reset_their_connections_leave_nothing_behind(port, until):
    content = json.dumps({"articles": [{"text": TEXT * 20}] * 5}).encode()
    for i in range(60):
        connection = connect(port)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # ends with a reset
        whole = request_bytes(content)
        connection.sendall(whole if i % 2 else whole[: len(whole) // 2])
        connection.close()

    def rests():
        lines = httpx.get(f"http://127.0.0.1:{port}/metrics").text.splitlines()
        return "khabar_waiting_articles 0.0" in lines and "khabar_waiting_characters 0.0" in lines

    until(rests)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_no_connection_stays_open(service, port, until):
    process, _ = service
    files = Path(f"/proc/{process.pid}/fd")
    until(lambda: len(list(files.iterdir())) < 40)
