"""Requests of many clients at one model: they go together, in turns, and none loses or leaves anything."""

import asyncio
import multiprocessing

import pytest
from fakes import ends_at_poison

from khabar.inference.tagger import Tagger

TEXT = "قال الوزير إن الاجتماع عقد في بغداد."


def test_results_are_the_taggers_own_in_the_order_of_the_request(tagger, client_of, body):
    texts = [TEXT * (1 + i % 3) for i in range(12)] + ["", "خبر"]

    async def run():
        async with client_of(tagger) as (_, client):
            return await asyncio.gather(*(client.post("/v1/tag", json=body(text, *texts)) for text in texts))

    alone = [tagger.tag(text).to_json() for text in texts]
    for i, answer in enumerate(asyncio.run(run())):
        assert answer.status_code == 200
        rows = answer.json()["articles"]
        assert [row["id"] for row in rows] == [f"a{j}" for j in range(15)]
        for row, expected in zip(rows, [alone[i], *alone], strict=True):
            # In another batch the last bit of a sum may differ.
            assert row["topic_scores"] == pytest.approx(expected["topic_scores"], abs=2e-4)
            assert row["segments"] == expected["segments"]
            assert [_span(entity) for entity in row["entities"]] == [_span(entity) for entity in expected["entities"]]


def _span(entity):
    return entity["label"], entity["start"], entity["end"], entity["text"]


def test_what_comes_while_the_model_works_goes_together(held_tagger, client_of, body, until):
    async def run():
        async with client_of(held_tagger) as (app, client):
            first = asyncio.create_task(client.post("/v1/tag", json=body(TEXT)))
            await asyncio.to_thread(until, lambda: held_tagger.batches)
            others = [asyncio.create_task(client.post("/v1/tag", json=body(TEXT))) for _ in range(10)]
            while app.batcher.waiting_articles < 9:  # one may have been read ahead
                await asyncio.sleep(0.005)
            held_tagger.go.set()
            return [answer.status_code for answer in await asyncio.gather(first, *others)]

    assert asyncio.run(run()) == [200] * 11
    assert len(held_tagger.batches[0]) == 1
    assert sum(map(len, held_tagger.batches)) == 11
    assert max(map(len, held_tagger.batches)) >= 9


def test_a_small_request_does_not_wait_for_the_whole_of_a_large_one(held_tagger, client_of, body, until):
    finished = []

    async def post(client, name, texts):
        answer = await client.post("/v1/tag", json=body(*texts))
        finished.append(name)
        return answer.status_code

    async def run():
        async with client_of(held_tagger, batch_characters=200) as (app, client):
            large = asyncio.create_task(post(client, "large", [TEXT] * 60))
            await asyncio.to_thread(until, lambda: held_tagger.batches)
            small = asyncio.create_task(post(client, "small", [TEXT]))
            waiting = app.batcher.waiting_articles
            while app.batcher.waiting_articles <= waiting and not small.done():
                await asyncio.sleep(0.005)
            held_tagger.go.set()
            return await asyncio.gather(large, small)

    assert asyncio.run(run()) == [200, 200]
    assert finished == ["small", "large"]
    assert max(map(len, held_tagger.batches)) <= 2


def test_a_cancelled_request_frees_its_place_and_is_never_scored(held_tagger, client_of, until):
    async def run():
        async with client_of(held_tagger) as (app, client):

            def post(name):
                return client.post("/v1/tag", json={"articles": [{"id": name, "text": TEXT}] * 3})

            async def waiting(n):
                while app.batcher.waiting_articles != n:
                    await asyncio.sleep(0.005)

            first = asyncio.create_task(post("first"))
            await asyncio.to_thread(until, lambda: held_tagger.batches)
            # While one batch is at the model, the next is read ahead; what comes then waits.
            second = asyncio.create_task(post("second"))
            await asyncio.sleep(0.1)
            third = asyncio.create_task(post("third"))
            before = app.batcher.waiting_articles
            await waiting(before + 3)
            third.cancel()
            await waiting(before)
            held_tagger.go.set()
            await asyncio.gather(first, second)
            assert app.batcher.idle
            assert app.batcher.waiting_characters == 0

    asyncio.run(run())
    assert "third" not in {name for batch in held_tagger.batches for name in batch}


def test_a_full_queue_answers_503_with_retry_after_until_there_is_room(held_tagger, client_of, body, until):
    async def run():
        async with client_of(held_tagger, max_waiting_characters=300) as (app, client):
            taken = [asyncio.create_task(client.post("/v1/tag", json=body(TEXT)))]
            await asyncio.to_thread(until, lambda: held_tagger.batches)
            while app.batcher.waiting_characters < 300:
                taken.append(asyncio.create_task(client.post("/v1/tag", json=body(TEXT))))
                await asyncio.sleep(0.02)
            refused = await client.post("/v1/tag", json=body(TEXT))
            held_tagger.go.set()
            assert {answer.status_code for answer in await asyncio.gather(*taken)} == {200}
            return refused, await client.post("/v1/tag", json=body(TEXT))

    refused, later = asyncio.run(run())
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.json()["error"]["code"] == "busy"
    assert "allowed: new requests while it is less than 300" in refused.json()["error"]["message"]
    assert later.status_code == 200


def test_an_article_on_which_the_model_fails_fails_alone(held_tagger, client_of, body, until, caplog):
    async def run():
        async with client_of(held_tagger) as (_, client):
            first = asyncio.create_task(client.post("/v1/tag", json=body(TEXT)))
            await asyncio.to_thread(until, lambda: held_tagger.batches)
            others = [asyncio.create_task(client.post("/v1/tag", json=body(text))) for text in (TEXT, "سم", TEXT)]
            held_tagger.go.set()
            answers = await asyncio.gather(first, *others)
            return [*answers, await client.post("/v1/tag", json=body(TEXT))]

    answers = asyncio.run(run())
    assert [answer.status_code for answer in answers] == [200, 200, 500, 200, 200]
    error = answers[2].json()["error"]
    assert error["code"] == "internal"
    assert error["place"] == "articles[0]"
    assert "the model fails" not in answers[2].text
    assert "سم" not in caplog.text


@pytest.mark.slow
def test_a_worker_process_that_is_killed_is_replaced(tiny_model, tokenizer, client_of, body):
    async def run():
        with Tagger(tiny_model, tokenizer, workers=1) as tagger:
            async with client_of(tagger) as (_, client):
                answers = [await client.post("/v1/tag", json=body(TEXT))]
                (child,) = multiprocessing.active_children()
                child.kill()
                child.join()
                answers += [await client.post("/v1/tag", json=body(TEXT)) for _ in range(2)]
                return [answer.status_code for answer in answers]

    assert asyncio.run(run()) == [200, 200, 200]


class PoisonableTagger(Tagger):
    """One whose worker ends where it reads a certain article's results."""

    def tag_chunks(self, chunks, *, batch_pieces=None):
        return self.map_chunks(ends_at_poison, chunks, batch_pieces=batch_pieces)


@pytest.mark.slow
def test_an_article_that_ends_a_worker_is_alone_to_blame(tiny_model, tokenizer, client_of, body):
    async def run():
        with PoisonableTagger(tiny_model, tokenizer, workers=1) as tagger:
            async with client_of(tagger, gather_ms=200) as (_, client):
                texts = (TEXT, "سم", TEXT, TEXT)
                answers = await asyncio.gather(*(client.post("/v1/tag", json=body(text)) for text in texts))
                return [answer.status_code for answer in answers]

    assert asyncio.run(run()) == [200, 500, 200, 200]


def test_a_stopping_service_finishes_what_it_took_and_refuses_more(held_tagger, client_of, body, until):
    async def run():
        async with client_of(held_tagger) as (app, client):
            assert (await client.get("/health/ready")).status_code == 200
            taken = asyncio.create_task(client.post("/v1/tag", json=body(TEXT)))
            await asyncio.to_thread(until, lambda: held_tagger.batches)
            app.batcher.drain()
            refused = await client.post("/v1/tag", json=body(TEXT))
            states = [(await client.get(f"/health/{name}")).status_code for name in ("live", "ready")]
            assert not app.batcher.idle
            held_tagger.go.set()
            return refused, states, await taken

    refused, states, taken = asyncio.run(run())
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "stopping"
    assert "Retry-After" in refused.headers
    assert states == [200, 503]
    assert taken.status_code == 200
