import pickle
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from khabar.inference.work import Planning, Sealed, widen
from khabar.models.batch import WindowSettings, collate
from khabar.models.encoding import encode_articles
from khabar.training.batching import BatchPlan


def in_lists(batches):
    return [batch.tolist() for batch in batches]


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=80), st.integers(1, 4000), st.integers(0, 3))
def test_every_epoch_sees_each_article_once_in_the_same_number_of_batches(lengths, batch_pieces, seed):
    plan = BatchPlan(lengths, batch_pieces=batch_pieces, seed=seed)
    for epoch in (0, 1):
        batches = in_lists(plan.batches(epoch))
        assert len(batches) == plan.n_batches
        assert all(batches)
        assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
        again = BatchPlan(np.array(lengths, dtype=np.int32), batch_pieces=batch_pieces, seed=seed)
        assert batches == in_lists(again.batches(epoch))


def test_epochs_and_seeds_differ_and_batches_hold_articles_of_like_length():
    lengths = np.random.default_rng(0).integers(10, 500, 400).tolist()
    plan = BatchPlan(lengths, batch_pieces=4000, seed=0)
    first, second = in_lists(plan.batches(0)), in_lists(plan.batches(1))
    assert first != second != in_lists(BatchPlan(lengths, batch_pieces=4000, seed=1).batches(1))
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in first)
    assert padded < 1.15 * sum(lengths)
    assert max(sum(lengths[i] for i in batch) for batch in first) < 1.5 * 4000


def test_many_articles_longer_than_a_batch_leave_no_batch_empty():
    lengths = [10] * 2000 + [5000] * 1000
    batches = BatchPlan(lengths, batch_pieces=1000, seed=0).batches(0)
    assert min(map(len, batches)) == 1
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(3000))


TEXTS = ["قتل شخصان في بغداد.\nوقال المتحدث إن التحقيق بدأ.", "", "عاجل", "شهدت تونس مظاهرة كبيرة جدا. " * 12]


def test_encoded_articles_and_their_work_arrive_as_they_were_sent(tokenizer, windows):
    articles = encode_articles(TEXTS, tokenizer, max_segment_words=5)
    sealed = Sealed(articles)
    assert sealed.open() is articles
    twice = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(sealed))))
    for one, other in zip(articles, twice.open(), strict=True):
        for field in fields(one):
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))
    assert pickle.loads(pickle.dumps(Sealed([]))).open() == []

    (work,) = Planning(windows=windows, batch_pieces=10_000).works(articles)
    arrived = pickle.loads(pickle.dumps(work))
    for works in ([work], work.halves(windows)), ([arrived], arrived.halves(windows)):
        for whole, other in zip([work, *work.halves(windows)], [*works[0], *works[1]], strict=True):
            assert (whole.indices, whole.n_pieces) == (other.indices, other.n_pieces)
            for name, tensor in whole.batch.tensors().items():
                assert torch.equal(widen(other.batch.tensors()[name]), tensor)
    assert arrived.batch.input_ids.dtype == torch.int32, "half as long on its way"


@pytest.fixture
def windows(tokenizer):
    return WindowSettings.from_tokenizer(tokenizer, window=16, stride=9)


def test_a_batch_points_from_pieces_to_windows_segments_and_words(tokenizer, windows):
    articles = encode_articles(TEXTS, tokenizer, max_segment_words=20)
    batch = collate(articles, windows)
    assert batch.input_ids.shape == batch.attention_mask.shape
    assert (batch.input_ids[:, 0] == tokenizer.cls_token_id).all()
    assert ((batch.input_ids == tokenizer.pad_token_id) == (batch.attention_mask == 0)).all()
    read = batch.input_ids.flatten()[batch.piece_states]
    assert read.tolist() == [piece for article in articles for piece in article.input_ids.tolist()]
    assert batch.segment_articles.tolist() == [row for row, article in enumerate(articles) for _ in article.segments]
    first_pieces = batch.segment_words[batch.word_mask]
    spelled = [tokenizer.convert_ids_to_tokens(int(read[piece])) for piece in first_pieces]
    wanted = [
        tokenizer.convert_ids_to_tokens(int(article.input_ids[piece]))
        for article in articles
        for piece in article.word_pieces
    ]
    assert spelled == wanted
    assert not any(piece.startswith("##") for piece in spelled)
    assert torch.equal(batch.piece_segments, batch.piece_segments.sort().values)


def test_an_empty_batch_and_impossible_windows_are_refused(tokenizer, windows):
    with pytest.raises(ValueError, match="at least one article"):
        collate([], windows)
    with pytest.raises(ValueError, match=r"must be in \[1, window - 2 = 14\]"):
        WindowSettings.from_tokenizer(tokenizer, window=16, stride=15)
    tokenizer_without = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, pad_token="[PAD]")
    with pytest.raises(ValueError, match="no cls_token_id, sep_token_id"):
        WindowSettings.from_tokenizer(tokenizer_without, window=16, stride=9)
