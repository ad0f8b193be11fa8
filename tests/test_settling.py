"""What settings leave open is settled by the encoder and by how much there is to read."""

import numpy as np
import pytest
from transformers import BertConfig

from khabar.models.config import KhabarConfig
from khabar.models.errors import KhabarError
from khabar.models.folder import load_model
from khabar.training.batching import BatchPlan
from khabar.training.settings import TrainSettings
from khabar.training.settling import settle

OPEN = TrainSettings(corpora=("a.jsonl",), output="model")


def settled(n_articles, *, pieces=200, encoder=None, settings=OPEN, n_processes=1):
    lengths = np.full(n_articles, pieces, dtype=np.int32)
    done = settle(settings, encoder or BertConfig(), lengths, n_processes=n_processes)
    return done.batch_pieces, done.epochs, done.learning_rate


def test_few_articles_are_read_in_small_batches_and_more_often():
    assert settled(1_000_000) == (8192, 10, 5e-5)
    assert settled(2500) == (5000, 10, 5e-5)
    assert settled(500) == (1024, 10, 5e-5)
    assert settled(200) == (1024, 10, 5e-5)
    assert settled(20) == (1024, 40, 5e-5)
    assert settled(1, pieces=0) == (1024, 40, 5e-5)


@pytest.mark.parametrize("n_processes", [1, 2, 8])
@pytest.mark.parametrize(
    ("n_articles", "pieces"), [(60, 200), (130, 300), (400, 200), (5000, 200), (20, 4000), (30, 3000), (15, 2000)]
)
def test_every_run_has_steps_enough(n_articles, pieces, n_processes):
    batch_pieces, epochs, _ = settled(n_articles, pieces=pieces, n_processes=n_processes)
    plan = BatchPlan(np.full(n_articles, pieces), batch_pieces=batch_pieces, seed=0)
    assert -(-plan.n_batches // n_processes) * epochs >= 400 or epochs == 40
    assert epochs == 10 or batch_pieces == 1024


def test_processes_share_what_an_epoch_holds():
    assert settled(20_000) == (8192, 10, 5e-5)
    assert settled(20_000, n_processes=8) == (5000, 10, 5e-5)


def test_what_is_given_stands():
    given = TrainSettings(corpora=("a.jsonl",), output="model", epochs=3, batch_pieces=500, learning_rate=0.5)
    assert settled(20, settings=given) == (500, 3, 0.5)
    larger = TrainSettings(corpora=("a.jsonl",), output="model", batch_pieces=4096)
    assert settled(100, settings=larger)[:2] == (4096, 40)


def test_an_encoder_says_what_rate_suits_it():
    assert settled(20, encoder=BertConfig(fine_tuning_rate=2e-4))[2] == 2e-4
    assert settled(20, encoder=BertConfig(fine_tuning_rate=None))[2] == 5e-5
    model, _ = load_model("embedded")
    assert settled(20, encoder=model.encoder.config)[2] == 1e-3


def test_a_finished_model_is_changed_at_a_fifth_of_the_rate():
    growing = TrainSettings(corpora=("a.jsonl",), output="model", from_model="old", dev="b.jsonl")
    assert settled(20, settings=growing)[2] == pytest.approx(1e-5)
    assert settled(20, settings=growing, encoder=BertConfig(fine_tuning_rate=1e-3))[2] == pytest.approx(2e-4)


def test_a_trained_model_keeps_its_encoders_rate(tmp_path):
    config = KhabarConfig(encoder=BertConfig(fine_tuning_rate=2e-4), topics=["a"], window=32, stride=20)
    config.save_pretrained(tmp_path)
    assert KhabarConfig.from_pretrained(tmp_path).encoder.fine_tuning_rate == 2e-4


@pytest.mark.parametrize("rate", ["fast", 0, -1e-3, 1.0, True, float("nan")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(KhabarError, match=r"fine_tuning_rate in the encoder's config.* is .*; allowed: a number"):
        settled(20, encoder=BertConfig(fine_tuning_rate=rate))
    given = TrainSettings(corpora=("a.jsonl",), output="model", learning_rate=1e-4)
    assert settled(20, encoder=BertConfig(fine_tuning_rate=rate), settings=given)[2] == 1e-4
