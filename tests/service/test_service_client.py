"""The Python clients against the real service: the results of a local Tagger, in requests within the limits."""

import asyncio
import json
import runpy
import threading

import pytest

import khabar
from khabar.client import RefusedError, UnauthorizedError, UnavailableError
from khabar.client_exchange import MOST_CHARACTERS
from khabar.models.article import Article

TEXTS = [
    "قتل شخصان بانفجار سيارة مفخخة شمال بغداد.\nوقال المتحدث سالم الحداد إن التحقيق بدأ.",
    "",
    "عاجل",
    "شهدت العاصمة تونس مظاهرة شارك فيها المئات. " * 6,
    "\u200fأعلنت «الوزارة» في بيـــان: 5 قتلى بـبغداد!\n\n😀 F-16 \u0651",
]


def assert_alike(results, expected):
    """Compare results but for the last digit of a probability, which depends on what is scored together."""
    for one, other in zip(results, expected, strict=True):
        assert without_scores(one) == without_scores(other)
        assert one.topic_scores == pytest.approx(other.topic_scores, abs=2e-4)
        assert [e.score for e in one.entities] == pytest.approx([e.score for e in other.entities], abs=2e-4)


def without_scores(result):
    row = result.to_json() | {"topic_scores": list(result.topic_scores)}
    for item in [*row["topics"], *row["entities"]]:
        item["score"] = None
    return row


@pytest.fixture
def articles():
    return [Article(text=TEXTS[i % len(TEXTS)], id=None if i % 7 == 0 else f"a{i}") for i in range(23)]


def test_results_are_those_of_a_local_tagger(tagger, server_of, articles):
    local = list(tagger.tag_many(articles))
    assert any(result.topics for result in local)
    assert any(result.entities for result in local)
    with server_of(tagger, max_articles=5) as (app, port), khabar.Client(f"http://127.0.0.1:{port}/") as client:
        results = list(client.tag_many(iter(articles)))
        assert_alike(results, local)
        assert [result.text for result in results] == [article.text for article in articles]
        assert_alike([client.tag(articles[1]), client.tag(TEXTS[0])], [local[1], local[0]])
        assert app.batcher.n_requests == 5 + 2
        assert list(client.tag_many([])) == []


def test_an_async_client_gives_the_same(tagger, server_of, articles):
    async def one_by_one():
        for article in articles:
            yield article

    async def run(port):
        async with khabar.AsyncClient(f"http://127.0.0.1:{port}") as client:
            model = await client.model()
            streamed = [result async for result in client.tag_many(one_by_one())]
            listed = [result async for result in client.tag_many(articles)]
            at_once = await asyncio.gather(*map(client.tag, articles))
            return model, streamed, listed, at_once

    with server_of(tagger, max_articles=5) as (_, port):
        with khabar.Client(f"http://127.0.0.1:{port}") as client:
            model, results = client.model(), list(client.tag_many(articles))
        model_too, *others = asyncio.run(run(port))
    assert model_too == model
    for other in others:
        assert_alike(other, results)


def test_the_model_tells_of_itself(tagger, server_of):
    with server_of(tagger, max_characters=700) as (_, port), khabar.Client(f"http://127.0.0.1:{port}") as client:
        model = client.model()
    assert model.name == "tiny 1.0"
    assert list(model.topics) == tagger.topics == list(model.thresholds)
    assert list(model.entity_labels) == tagger.entity_labels
    assert model.limits.max_characters == 700


def test_results_come_as_a_stream_and_articles_are_read_one_request_ahead(tagger, server_of, articles):
    read = 0

    def counted():
        nonlocal read
        for article in articles:
            read += 1
            yield article

    with server_of(tagger, max_articles=4) as (_, port), khabar.Client(f"http://127.0.0.1:{port}") as client:
        for n_results, _ in enumerate(client.tag_many(counted()), start=1):
            assert read <= n_results + 4


def test_requests_stay_within_the_limits_on_bytes_and_characters(tagger, server_of):
    texts = ["خبر " * 150] * 9
    with server_of(tagger, max_body_bytes=2800) as (app, port), khabar.Client(f"http://127.0.0.1:{port}") as client:
        assert len(list(client.tag_many(texts))) == 9
        assert app.batcher.n_requests == 5
    long = ["", "م" * (MOST_CHARACTERS // 2), "م" * (MOST_CHARACTERS // 2), "م"]
    with server_of(tagger) as (app, port), khabar.Client(f"http://127.0.0.1:{port}") as client:
        assert [result.characters for result in client.tag_many(long)] == [len(text) for text in long]
        assert app.batcher.n_requests == 2


def test_an_article_that_is_too_long_is_named_after_the_results_before_it(tagger, server_of):
    texts = ["خبر"] * 7 + ["x" * 21] + ["خبر"]
    with server_of(tagger, max_characters=20) as (_, port), khabar.Client(f"http://127.0.0.1:{port}") as client:
        results = client.tag_many(texts)
        assert [next(results).text for _ in range(7)] == ["خبر"] * 7
        with pytest.raises(
            RefusedError, match=r"articles\[7\].text: text has 21 characters; allowed: at most 20"
        ) as at:
            next(results)
        assert (at.value.status, at.value.code) == (422, "text_too_long")
        with pytest.raises(RefusedError, match=r"articles\[0\].id: id has 501 characters"):
            client.tag(Article(text="خبر", id="x" * 501))


def test_a_body_that_is_too_large_is_refused_in_the_services_words(tagger, server_of):
    with server_of(tagger, max_body_bytes=1024) as (_, port), khabar.Client(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(RefusedError, match="allowed: at most 1,024 bytes") as caught:
            client.tag("خبر" * 400)
        assert caught.value.status == 413


def test_a_token_opens_the_service(tagger, server_of, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-that-is-known\n")
    with server_of(tagger, tokens_file=tokens) as (_, port):
        url = f"http://127.0.0.1:{port}"
        with khabar.Client(url, token="a-token-that-is-known") as client:
            assert client.tag("خبر").text == "خبر"
        for token, message in ((None, "no token"), ("a-token-that-is-not", "an unknown token")):
            with khabar.Client(url, token=token) as client, pytest.raises(UnauthorizedError, match=message) as caught:
                client.tag("خبر")
            assert "a-token" not in str(caught.value) + repr(client)


def test_a_full_service_is_asked_again_until_it_has_room(held_tagger, server_of, until):
    with server_of(held_tagger, max_waiting_characters=1) as (app, port):
        url = f"http://127.0.0.1:{port}"
        done = []

        def ask():
            with khabar.Client(url) as client:
                done.append(client.tag("خبر").text)

        first = threading.Thread(target=ask)
        first.start()
        until(lambda: held_tagger.batches)
        second = threading.Thread(target=ask)
        second.start()
        until(lambda: app.batcher.waiting_articles)
        with khabar.Client(url, patience=0) as client, pytest.raises(UnavailableError, match="wait to be scored") as at:
            client.tag("خبر")
        assert (at.value.status, at.value.code, at.value.retry_after) == (503, "busy", 1)
        third = threading.Thread(target=ask)
        third.start()
        until(lambda: app.batcher.waiting_articles == 1)
        held_tagger.go.set()
        for thread in (first, second, third):
            thread.join()
        assert done == ["خبر"] * 3


def test_one_client_serves_many_threads(tagger, server_of, articles):
    with server_of(tagger) as (_, port), khabar.Client(f"http://127.0.0.1:{port}") as client:
        expected = list(client.tag_many(articles))
        seen = {}

        def work(index):
            seen[index] = list(client.tag_many(articles))

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(seen) == 8
    for results in seen.values():
        assert_alike(results, expected)


def test_the_example_script_writes_what_score_writes(tagger, server_of, examples, articles, monkeypatch):
    monkeypatch.delenv("KHABAR_TOKEN", raising=False)
    tagged = runpy.run_path(str(examples / "services" / "remote.py"))["tagged"]
    lines = [json.dumps({"id": article.id, "text": article.text}) for article in articles]
    with server_of(tagger) as (_, port):
        rows = [json.loads(line) for line in tagged(f"http://127.0.0.1:{port}", lines)]
    assert [row["id"] for row in rows] == [article.id for article in articles]
    assert [set(row) for row in rows] == [set(result.to_json()) for result in tagger.tag_many(articles)]
