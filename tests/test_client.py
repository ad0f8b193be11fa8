"""The Python clients against servers that misbehave, and what is known before anything is sent."""

import asyncio
import inspect
import json
import logging
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import khabar
from khabar.client import (
    FailedError,
    NotKhabarError,
    RefusedError,
    RemoteError,
    TimedOutError,
    UnauthorizedError,
    UnavailableError,
)
from khabar.client_exchange import Cutter, Limits, retry_after
from khabar.models.article import Article, Segment
from khabar.models.errors import KhabarError

TEXT = "وصل الوزير إلى بغداد."
RESULT = {
    "id": None,
    "topics": [],
    "uncertain": [],
    "topic_scores": {},
    "segments": [],
    "entities": [],
    "characters": len(TEXT),
    "characters_read": len(TEXT),
    "model": "fake 1.0",
}
JSON_TYPE = {"Content-Type": "application/json"}


def answer(status, content, headers=None):
    """Give an answer of a server, which sends all of it."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()

    def send(handler):
        handler.send_response(status)
        for name, value in (JSON_TYPE | (headers or {}) | {"Content-Length": str(len(body))}).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return send


def error(status, code, message, place=None, headers=None):
    return answer(status, {"error": {"code": code, "message": message, "place": place}}, headers)


def cut(handler):
    """Begin a good answer, and go."""
    body = json.dumps({"articles": [RESULT]}).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.close_connection = True


def gone(handler):
    """Go without an answer."""
    handler.close_connection = True


def slow(handler):
    time.sleep(1)
    good(handler)


good = answer(200, {"articles": [RESULT]})
BUSY = error(503, "busy", "2,000,000 characters wait to be scored")


@pytest.fixture
def server():
    """Call it with answers, in their order, the last of them for ever, for an address and the requests that came."""

    @contextmanager
    def serving(*answers):
        requests = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                requests.append((self.path, dict(self.headers), body))
                answers[min(len(requests), len(answers)) - 1](self)

            def do_GET(self):
                self.do_POST()

            def log_message(self, *arguments):
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
            httpd.daemon_threads = True
            thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield f"http://127.0.0.1:{httpd.server_port}", requests
            finally:
                httpd.shutdown()
                thread.join()

    return serving


def sync_tag(url, text=TEXT, **options):
    with khabar.Client(url, **options) as client:
        return client.tag(text)


def async_tag(url, text=TEXT, **options):
    async def run():
        async with khabar.AsyncClient(url, **options) as client:
            return await client.tag(text)

    return asyncio.run(run())


@pytest.fixture(params=[sync_tag, async_tag], ids=["sync", "async"])
def tag(request):
    return request.param


@pytest.mark.parametrize(
    "answers",
    [
        [BUSY],
        [answer(503, b"<html>no upstream</html>", {"Content-Type": "text/html"})],
        [answer(502, b"")],
        [cut],
        [gone],
        [BUSY, cut, gone],
    ],
    ids=["503", "proxy-503", "502", "cut", "gone", "all"],
)
def test_what_may_go_well_the_next_time_is_asked_again(server, tag, answers):
    with server(*answers, good) as (url, requests):
        assert tag(url).text == TEXT
        assert len(requests) == len(answers) + 1
        assert len({body for _, _, body in requests}) == 1


def test_the_service_says_when_to_come_again(server, tag):
    with server(error(503, "busy", "full", headers={"Retry-After": "1"}), good) as (url, requests):
        started = time.monotonic()
        assert tag(url).text == TEXT
        assert time.monotonic() - started >= 1
        assert len(requests) == 2
    with server(error(503, "busy", "full", headers={"Retry-After": "3600"})) as (url, requests):
        with pytest.raises(UnavailableError, match="full") as caught:
            tag(url)
        assert caught.value.retry_after == 3600
        assert len(requests) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("7", 7),
        (" 0 ", 0),
        ("-1", 0),
        ("soon", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 21 Oct 2015 07:28:00", 0),
        # The processes that share the tests must all name it alike, and they start within different seconds.
        pytest.param(
            format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True),
            pytest.approx(86400, abs=600),
            id="tomorrow",
        ),
    ],
)
def test_retry_after_is_seconds_or_a_date(header, seconds):
    assert retry_after(header) == seconds


def test_a_busy_service_is_asked_again_within_the_usual_patience():
    batcher = pytest.importorskip("khabar.inference.service.batcher", reason="needs khabar[serve]")
    patience = inspect.signature(khabar.Client).parameters["patience"].default
    assert patience > 2 * batcher.LONGEST_RETRY


def test_patience_ends(server, tag):
    with server(BUSY) as (url, requests):
        with pytest.raises(UnavailableError, match=r"wait to be scored \(asked \d+ times in \d seconds\)") as caught:
            tag(url, patience=0.6)
        assert len(requests) > 1
        assert (caught.value.status, caught.value.code) == (503, "busy")
    with server(cut) as (url, requests):
        with pytest.raises(UnavailableError, match="peer closed connection"):
            tag(url, patience=0)
        assert len(requests) == 1


def test_an_address_where_nobody_listens_is_named(tag):
    with pytest.raises(UnavailableError, match=r"http://127.0.0.1:9/v1/tag: cannot be reached: .*[Rr]efused|failed"):
        tag("http://127.0.0.1:9", patience=0)


def test_a_slow_answer_is_given_up_and_not_asked_for_again(server, tag):
    with server(slow) as (url, requests):
        with pytest.raises(TimedOutError, match=r"/v1/tag: no answer within 0.2 seconds"):
            tag(url, timeout=0.2)
        assert len(requests) == 1


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        (error(401, "unauthorized", "the request has no token"), UnauthorizedError, "the request has no token"),
        (answer(403, b"no"), UnauthorizedError, "403 Forbidden"),
        (error(413, "body_too_large", "allowed: at most 8 bytes", "body"), RefusedError, "allowed: at most 8 bytes"),
        (answer(413, b"<html>"), RefusedError, "413"),
        (error(422, "invalid", "text is 7", "articles[0]"), RefusedError, r"articles\[0\]: text is 7"),
        (error(404, "not_found", "Not Found"), RefusedError, "/v1/tag: Not Found"),
        (error(500, "internal", "the model failed", "articles[0]"), FailedError, r"articles\[0\]: the model failed"),
        (answer(504, b"<html>"), FailedError, "504 Gateway Timeout"),
        (answer(599, b""), FailedError, "599"),
        (answer(404, b"<html>", {"Content-Type": "text/html"}), NotKhabarError, '404 Not Found and "text/html"'),
        (answer(301, b"", {"Location": "http://127.0.0.1:9/"}), NotKhabarError, "301 Moved Permanently"),
        (answer(200, b"<html>", {"Content-Type": "text/html"}), NotKhabarError, '200 OK and "text/html"'),
        (answer(200, b"[" * 100_000), NotKhabarError, "200 OK"),
        (answer(200, []), NotKhabarError, "allowed: an object"),
        (answer(200, {"articles": []}), NotKhabarError, "0 results for 1 articles"),
        (answer(200, {"articles": [RESULT | {"characters": 3}]}), NotKhabarError, r"articles\[0\].characters is 3"),
        (answer(200, b"\x1f\x8b", {"Content-Encoding": "gzip"}), NotKhabarError, "no khabar service|200 OK"),
    ],
)
def test_any_other_answer_is_one_clear_error_at_once(server, tag, reply, kind, message):
    with server(reply) as (url, requests):
        with pytest.raises(kind, match=message) as caught:
            tag(url)
        assert isinstance(caught.value, RemoteError)
        assert isinstance(caught.value, KhabarError)
        assert str(caught.value).startswith(url)
        assert len(requests) == 1


def test_bytes_that_are_no_http_are_no_khabar_service(server, tag):
    def noise(handler):
        handler.wfile.write(b"220 mail.example ESMTP\r\n")
        handler.close_connection = True

    with server(noise) as (url, _), pytest.raises(UnavailableError, match="cannot be reached"):
        tag(url, patience=0)


@pytest.mark.parametrize("model", [{}, {"limits": {}}, [], {"model": 1}])
def test_a_model_that_cannot_be_read_is_no_khabar_service(server, model):
    with server(answer(200, model)) as (url, _), khabar.Client(url) as client:
        with pytest.raises(NotKhabarError, match="not the answer of a khabar service"):
            client.model()
        with pytest.raises(NotKhabarError, match="not the answer of a khabar service"):
            list(client.tag_many([TEXT]))


def test_what_is_sent(server):
    with server(good) as (url, requests):
        sync_tag(f"{url}/behind/a/proxy/", token="a-token-of-the-test")
        path, headers, body = requests[0]
    assert path == "/behind/a/proxy/v1/tag"
    assert headers["Authorization"] == "Bearer a-token-of-the-test"
    assert headers["Content-Type"] == "application/json"
    assert headers["User-Agent"] == f"khabar/{khabar.__version__}"
    assert json.loads(body) == {"articles": [{"text": TEXT}]}


def test_a_new_try_is_logged_and_says_nothing_of_the_text(server, caplog):
    with caplog.at_level(logging.INFO, logger="khabar"), server(BUSY, good) as (url, _):
        sync_tag(url)
    (record,) = [record for record in caplog.records if record.name == "khabar.client"]
    assert "wait to be scored; asked again in" in record.getMessage()
    assert TEXT not in record.getMessage()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "127.0.0.1:8000"}, "allowed: the address of a service, such as http://127.0.0.1:8000"),
        ({"url": "ftp://127.0.0.1"}, "allowed: the address"),
        ({"url": "http://"}, "allowed: the address"),
        ({"url": "http://x:port"}, "allowed: the address"),
        ({"url": "http://x:99999"}, "allowed: the address"),
        ({"url": "http://x/?a=b"}, "allowed: the address"),
        ({"url": "http://a..b"}, "allowed: the address"),
        ({"url": "http://خبر..com"}, "allowed: the address"),
        ({"url": f"http://{'x' * 64}.com"}, "allowed: the address"),
        ({"url": None}, "url is null"),
        ({"url": "http://me:secret@x"}, "allowed: an address alone, and token="),
        ({"url": "http://me:secret@a..b"}, "allowed: an address alone, and token="),
        ({"url": "http://x", "token": "se\ncret"}, "cannot stand in a header"),
        ({"url": "http://x", "token": "سر"}, "cannot stand in a header"),
        ({"url": "http://x", "token": ""}, "cannot stand in a header"),
        ({"url": "http://x", "timeout": 0}, "timeout is 0, must be above 0"),
        ({"url": "http://x", "patience": -1}, "patience is -1, must be at least 0"),
    ],
)
@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_a_client_that_cannot_work_is_not_made(kind, arguments, message):
    with pytest.raises(KhabarError, match=message) as caught:
        getattr(khabar, kind)(**arguments)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://أخبار24.com", "http://خبر۲.com:80/", "http://[::1]:8000", "http://a_b.example.", "https://10.0.0.7"]
)
def test_hosts_of_every_kind_are_taken(url):
    khabar.Client(url).close()


def test_a_text_is_not_taken_for_its_letters():
    with pytest.raises(KhabarError, match="articles is a str"):
        next(khabar.Client("http://127.0.0.1:9").tag_many("خبر"))
    with pytest.raises(KhabarError, match="articles is a str"):
        asyncio.run(anext(khabar.AsyncClient("http://127.0.0.1:9").tag_many("خبر")))


@pytest.mark.parametrize(
    ("article", "message"),
    [
        ("a\ud800", r"articles\[0\] has half a surrogate pair"),
        (7, r"articles\[0\] is 7; allowed: a text or an Article"),
        (Article(text="خبر", segments=(Segment(start=0, end=3),)), "has segments of its own"),
    ],
)
def test_an_article_that_no_service_takes_is_refused_before_it_is_sent(tag, article, message):
    with pytest.raises(KhabarError, match=message):
        tag("http://127.0.0.1:9", article)


def test_requests_are_cut_where_the_next_article_would_not_fit():
    def sizes(lengths, **limits):
        cutter = Cutter(Limits(**({"max_body_bytes": 10_000, "max_articles": 3, "max_characters": 50} | limits)))
        full = [request for length in lengths for request in cutter.add("x" * length)] + cutter.rest()
        assert [request.first for request in full] == [
            sum(len(before.articles) for before in full[:i]) for i in range(len(full))
        ]
        for request in full:
            assert len(json.loads(request.body)["articles"]) == len(request.articles)
            assert len(request.articles) == 1 or len(request.body) <= limits.get("max_body_bytes", 10_000)
        return [len(request.articles) for request in full]

    assert sizes([]) == []
    assert sizes([1] * 7) == [3, 3, 1]
    assert sizes([1] * 6) == [3, 3]
    assert sizes([1, 51, 1, 1]) == [1, 1, 2]
    assert sizes([51, 51]) == [1, 1]
    # Each is 11 bytes and its text, and a comma or, for all, the frame of 15.
    assert sizes([10] * 4, max_body_bytes=15 + 21 + 1 + 21) == [2, 2]
    assert sizes([10] * 4, max_body_bytes=15 + 21 + 21) == [1, 1, 1, 1]
    assert sizes([40] * 2, max_body_bytes=20) == [1, 1]


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_client_loads_none_of_the_heavy_packages(server):
    with server(good) as (url, _):
        done = run_python(
            f"import sys, khabar\n"
            f"with khabar.Client({url!r}) as client: assert client.tag({TEXT!r}).text == {TEXT!r}\n"
            "print(*sorted(sys.modules))"
        )
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "httpx" in loaded
    assert not loaded & {"torch", "transformers", "tokenizers", "numpy", "safetensors", "pydantic", "fastapi", "typer"}


@pytest.mark.parametrize("missing", ["httpx", "tenacity"])
def test_without_its_packages_a_client_says_what_to_install(missing):
    done = run_python(
        f"import sys; sys.modules[{missing!r}] = None\n"
        "import khabar\n"
        "from khabar import Client, AsyncClient\n"
        "for kind in (Client, AsyncClient):\n"
        "    try: kind('http://127.0.0.1:9')\n"
        "    except khabar.KhabarError as error: print(error)\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"khabar.{kind} needs an optional part of khabar: pip install 'khabar[client]'"
        for kind in ("Client", "AsyncClient")
    ]
