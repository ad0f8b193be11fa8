"""What the service answers to right and wrong requests, and what it tells of itself."""

import asyncio
import json
import mimetypes

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from khabar.inference.service.access import read_tokens
from khabar.inference.service.app import create_app
from khabar.inference.service.bodies import parse_body
from khabar.inference.service.errors import ServiceError
from khabar.inference.service.page import page_routes
from khabar.inference.service.settings import ServiceSettings
from khabar.models.errors import KhabarError

JSON = {"Content-Type": "application/json"}
LIMITS = ServiceSettings(max_articles=3, max_characters=20, max_body_bytes=2048)


@pytest.mark.parametrize(
    ("content", "status", "place", "message"),
    [
        (b"", 400, "body", "not JSON"),
        (b"\xff\xfe\x00", 400, "body", "not UTF-8: byte 0xff at byte 1"),
        (b'{"articles": [}', 400, "body", "not JSON"),
        (b'{"articles": [], "articles": []}', 400, "body", '"articles" stands twice'),
        (b'{"articles": NaN}', 400, "body", "NaN"),
        (b"[" * 100 + b"]" * 100, 422, "body", "allowed: an object"),
        (b"[" * 100_000, 400, "body", "nested too deep"),
        (b"1" * 5000, 400, "body", "digits"),
        (b"[]", 422, "body", "allowed: an object"),
        (b"null", 422, "body", "allowed: an object"),
        (b"{}", 422, "articles", "articles is missing; allowed: a list"),
        (b'{"article": []}', 422, "body", 'did you mean "articles"?'),
        (b'{"articles": {}}', 422, "articles", "articles is {}; allowed: a list"),
        (b'{"articles": []}', 422, "articles", "has 0 articles; allowed: 1 to 3"),
        (b'{"articles": [{"text": ""}, {"text": ""}, {"text": ""}, {"text": ""}]}', 422, "articles", "allowed: 1 to 3"),
        (b'{"articles": [{"text": ""}, 7]}', 422, "articles[1]", "an article is a JSON object, got 7"),
        (b'{"articles": [{}]}', 422, "articles[0]", "text is missing"),
        (b'{"articles": [{"text": null}]}', 422, "articles[0]", "text is null; allowed: a string"),
        (b'{"articles": [{"text": "", "id": 7}]}', 422, "articles[0]", "id is 7; allowed: a string"),
        (b'{"articles": [{"text": "", "txt": ""}]}', 422, "articles[0]", 'did you mean "text"?'),
        (b'{"articles": [{"text": "a\\ud800"}]}', 422, "articles[0]", "half a surrogate pair (\\ud800) at character 1"),
        (
            b'{"articles": [{"text": "%s"}]}' % (b"x" * 21),
            422,
            "articles[0].text",
            "21 characters; allowed: at most 20",
        ),
        (b'{"articles": [{"text": "", "id": "%s"}]}' % (b"x" * 501), 422, "articles[0].id", "allowed: at most 500"),
    ],
)
def test_a_wrong_body_is_refused_with_its_place_and_what_is_allowed(content, status, place, message):
    with pytest.raises(ServiceError) as caught:
        parse_body(content, LIMITS)
    assert (caught.value.status, caught.value.place) == (status, place)
    assert message in caught.value.message
    assert json.loads(caught.value.response().body)["error"]["message"] == caught.value.message


def test_a_right_body_gives_its_articles():
    articles = parse_body('{"articles": [{"text": "خبر", "id": "a"}, {"text": "", "id": null}]}'.encode(), LIMITS)
    assert [(article.id, article.text) for article in articles] == [("a", "خبر"), (None, "")]


def test_requests_and_answers(tagger, client_of, body, tmp_path):
    async def run():
        async with client_of(tagger, max_body_bytes=2048, max_articles=3, max_characters=20) as (_, client):

            async def status(path="/v1/tag", method="POST", **request):
                answer = await client.request(method, path, **request)
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
                assert answer.headers["Referrer-Policy"] == "no-referrer"
                if answer.status_code >= 400:
                    assert answer.headers["Content-Type"] == "application/json"
                    assert set(answer.json()["error"]) == {"code", "message", "place"}
                return answer.status_code

            async def endless():
                while True:
                    yield b" " * 512

            assert await status(json=body("خبر")) == 200
            assert await status(content=b'{"articles": [{"text": "a"}]}', headers={"Content-Type": "text/plain"}) == 415
            assert await status(content=b"{}") == 415
            assert await status(content=b"{}", headers=JSON | {"Content-Encoding": "gzip"}) == 415
            assert await status(content=b"x" * 2049, headers=JSON) == 413
            assert await status(content=endless(), headers=JSON) == 413
            assert await status(content=b"{", headers=JSON) == 400
            assert await status(json=body("خبر" * 7)) == 422
            assert await status("/v1/tag", "GET") == 405
            assert await status("/v1/tag/", json=body("خبر")) == 404
            assert await status("/v1/%00%ff/../../etc/passwd", "GET") == 404
            metrics = (await client.get("/metrics")).text
            model = (await client.get("/v1/model")).json()
            return metrics, model, await client.get("/v1/tag"), await client.options("/v1/tag")

    metrics, model, not_allowed, options = asyncio.run(run())
    assert model == {
        "model": "tiny 1.0",
        "khabar": model["khabar"],
        "device": "cpu",
        "topics": ["attack", "statement"],
        "thresholds": {"attack": 0.5, "statement": 0.5},
        "bands": {},
        "entity_labels": ["LOCATION", "PERSON", "تاريخ"],
        "limits": {"max_body_bytes": 2048, "max_articles": 3, "max_characters": 20},
    }
    assert not_allowed.headers["Allow"] == "POST"
    assert "Access-Control-Allow-Origin" not in options.headers
    assert 'khabar_requests_total{route="/v1/tag",status="200"} 1.0' in metrics
    assert 'khabar_requests_total{route="/v1/tag",status="413"} 2.0' in metrics
    assert 'khabar_requests_total{route="other",status="404"} 2.0' in metrics
    assert 'khabar_request_seconds_count{route="/v1/tag"}' in metrics
    assert "khabar_batch_articles_count 1.0" in metrics
    assert "khabar_articles_total 1.0" in metrics
    assert "khabar_characters_total 3.0" in metrics
    assert "khabar_waiting_articles 0.0" in metrics
    pieces = next(line for line in metrics.splitlines() if line.startswith("khabar_pieces_total"))
    assert float(pieces.split()[1]) > 2


def test_mounted_in_another_application_it_counts_its_own_routes(tagger, client_of, body):
    async def run():
        async with client_of(tagger) as (app, _):
            outer = Starlette(routes=[Mount("/news/khabar", app=app)])
            transport = httpx.ASGITransport(app=outer)
            async with httpx.AsyncClient(transport=transport, base_url="http://outer") as client:
                answer = await client.post("/news/khabar/v1/tag", json=body("خبر"))
                return answer.status_code, (await client.get("/news/khabar/metrics")).text

    status, metrics = asyncio.run(run())
    assert status == 200
    assert 'khabar_requests_total{route="/v1/tag",status="200"} 1.0' in metrics


def test_a_body_that_comes_too_slowly_is_given_up(tagger, client_of):
    async def slow():
        yield b"{"
        await asyncio.sleep(30)

    async def run():
        async with client_of(tagger, body_seconds=0.05) as (_, client):
            return await client.post("/v1/tag", content=slow(), headers=JSON)

    answer = asyncio.run(run())
    assert answer.status_code == 408
    assert answer.json()["error"]["code"] == "body_too_slow"


def test_many_large_bodies_at_a_time_are_refused_before_they_fill_the_memory(tagger, client_of):
    async def half(ready, go):
        yield b" " * 1500
        ready.set()
        await go.wait()
        yield b"{}"

    async def run():
        ready, go = asyncio.Event(), asyncio.Event()
        async with client_of(tagger, max_reading_bytes=2048) as (_, client):
            first = asyncio.create_task(client.post("/v1/tag", content=half(ready, go), headers=JSON))
            await ready.wait()
            await asyncio.sleep(0.01)
            refused = await client.post("/v1/tag", content=b" " * 1000 + b"{}", headers=JSON)
            go.set()
            return (await first).status_code, refused, await client.post("/v1/tag", content=b"{}", headers=JSON)

    first, refused, later = asyncio.run(run())
    assert (first, refused.status_code, later.status_code) == (422, 503, 422)
    assert refused.headers["Retry-After"] == "1"


def test_tokens_guard_articles_model_and_metrics(tagger, client_of, body, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("# who\nfirst-token-of-two\n\nsecond-token-of-two==\n", encoding="utf-8")

    async def run():
        async with client_of(tagger, tokens_file=tokens) as (_, client):
            for given in (
                None,
                "Bearer wrong-token-of-two",
                "Basic first-token-of-two",
                "Bearer",
                "Bearer first-token-of-tw",
                "Bearer # who",
            ):
                headers = {} if given is None else {"Authorization": given}
                for path in ("/v1/model", "/metrics"):
                    answer = await client.get(path, headers=headers)
                    assert answer.status_code == 401
                    assert answer.headers["WWW-Authenticate"] == "Bearer"
                    assert answer.json()["error"]["code"] == "unauthorized"
                # Refused before the body is read: it would be refused too.
                assert (await client.post("/v1/tag", content=b"{", headers=headers | JSON)).status_code == 401
            for known in ("first-token-of-two", "second-token-of-two=="):
                headers = {"Authorization": f"bearer {known}"}
                assert (await client.post("/v1/tag", json=body("خبر"), headers=headers)).status_code == 200
            for path in ("/health/live", "/health/ready", "/openapi.json"):
                assert (await client.get(path)).status_code == 200
            schema = (await client.get("/openapi.json")).json()
            assert "401" in schema["paths"]["/v1/tag"]["post"]["responses"]
            assert schema["paths"]["/v1/tag"]["post"]["security"]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no token"),
        (b"# only a remark\n", "holds no token"),
        (b"long-enough-a-token\nshort\n", ":2: not a token; allowed: at least 16"),
        (b"a token with blanks in it\n", ":1: not a token"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_wrong_file_of_tokens_is_refused_without_showing_it(tmp_path, content, message):
    path = tmp_path / "tokens"
    path.write_bytes(content)
    with pytest.raises(KhabarError, match="tokens") as caught:
        read_tokens(path)
    assert message in str(caught.value)
    assert "blanks" not in str(caught.value)
    with pytest.raises(KhabarError, match="No such file"):
        read_tokens(tmp_path / "none")


def test_no_page_of_another_origin_is_let_in_unless_asked(tagger, client_of):
    preflight = {"Origin": "https://desk.example", "Access-Control-Request-Method": "POST"}

    async def run():
        async with client_of(tagger, cors_origins=("https://desk.example",)) as (_, client):
            for origin, allowed in (("https://desk.example", True), ("https://other.example", False)):
                answer = await client.options("/v1/tag", headers=preflight | {"Origin": origin})
                assert (answer.headers.get("Access-Control-Allow-Origin") == origin) is allowed

    asyncio.run(run())


def test_the_page_and_its_files_are_served_and_nothing_else(tmp_path):
    from starlette.applications import Starlette
    from starlette.testclient import TestClient

    folder = tmp_path / "page"
    folder.mkdir()
    assert list(page_routes(folder)) == []
    (folder / "index.html").write_text("<!doctype html>", encoding="utf-8")
    (folder / "style.css").write_text("body {}", encoding="utf-8")
    (folder / ".hidden").write_text("x", encoding="utf-8")
    (tmp_path / "secret").write_text("x", encoding="utf-8")
    client = TestClient(Starlette(routes=list(page_routes(folder))))
    assert client.get("/").headers["Content-Type"] == "text/html; charset=utf-8"
    assert client.get("/style.css").headers["Content-Type"] == "text/css; charset=utf-8"
    assert client.head("/style.css").status_code == 200
    for path in ("/index.html", "/.hidden", "/../secret", "/%2e%2e/secret", "/..%2fsecret", "/secret"):
        assert client.get(path).status_code == 404


def test_a_script_is_one_whatever_the_machine_calls_it(tmp_path):
    from starlette.applications import Starlette
    from starlette.testclient import TestClient

    table = tmp_path / "mime.types"
    table.write_text("text/plain js css\n", encoding="utf-8")  # as some machines have it; no browser would run it
    try:
        mimetypes.init([str(table)])
        client = TestClient(Starlette(routes=list(page_routes())))
        types = {name: client.get(f"/{name}").headers["Content-Type"] for name in ("page.js", "style.css", "icon.svg")}
    finally:
        mimetypes.init()
    assert types["page.js"].partition(";")[0] in ("text/javascript", "application/javascript")
    assert types["style.css"] == "text/css; charset=utf-8"
    assert types["icon.svg"] == "image/svg+xml"


def test_head_is_answered_where_get_is(tagger, server_of):
    with server_of(tagger) as (_, port), httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for path in ("/", "/health/live", "/health/ready", "/v1/model", "/metrics", "/openapi.json"):
            head, whole = client.head(path), client.get(path)
            assert head.status_code == whole.status_code == 200
            assert not head.content
            assert head.headers["Content-Type"] == whole.headers["Content-Type"]
        assert client.head("/v1/tag").status_code == 405
        assert client.head("/nowhere").status_code == 404


def test_the_description_is_whole(tagger):
    schema = create_app(tagger, ServiceSettings(max_articles=7, max_characters=70)).openapi()
    assert set(schema["paths"]) == {"/v1/tag", "/v1/model", "/health/live", "/health/ready"}
    tag = schema["paths"]["/v1/tag"]["post"]
    assert set(tag["responses"]) == {"200", "400", "408", "413", "415", "422", "500", "503"}
    assert "security" not in tag
    request = tag["requestBody"]["content"]["application/json"]
    articles = request["schema"]["properties"]["articles"]
    assert articles["maxItems"] == 7
    assert articles["items"]["properties"]["text"]["maxLength"] == 70
    for example in request["examples"].values():
        assert parse_body(json.dumps(example["value"]).encode(), ServiceSettings())
    for status, response in tag["responses"].items():
        name = "TagAnswer" if status == "200" else "ErrorAnswer"
        assert response["content"]["application/json"]["schema"] == {"$ref": f"#/components/schemas/{name}"}


def test_answers_fit_their_description(tagger, client_of, body):
    from khabar.inference.service.schemas import ErrorAnswer, ModelAnswer, TagAnswer

    async def run():
        async with client_of(tagger) as (_, client):
            TagAnswer.model_validate((await client.post("/v1/tag", json=body("خبر", ""))).json())
            ModelAnswer.model_validate((await client.get("/v1/model")).json())
            ErrorAnswer.model_validate((await client.get("/nowhere")).json())

    asyncio.run(run())
