"""The whole model: batch invariance, saving, losses that follow what is annotated."""

import pytest
import torch
from transformers import AutoModel

from khabar.inference.tagger import Tagger
from khabar.models import tags
from khabar.models.batch import WindowSettings, collate
from khabar.models.config import KhabarConfig
from khabar.models.encoding import encode_articles
from khabar.models.errors import ModelFolderError
from khabar.models.folder import load_model, save_model
from khabar.models.model import NOT_ANNOTATED, KhabarModel

TEXTS = [
    "قتل شخصان بانفجار سيارة مفخخة شمال بغداد.\nوقال المتحدث سالم الحداد إن التحقيق بدأ.",
    "",
    "عاجل",
    "شهدت العاصمة تونس مظاهرة شارك فيها المئات. " * 30,
    "ارتفعت أسعار القمح.\n\nوأضاف البيان أن القوات الأمنية عثرت على مخزن للأسلحة في قرية.\nتوقعت هيئة الأرصاد أمطارا.",
]


def run(model, tokenizer, texts):
    settings = WindowSettings.from_tokenizer(tokenizer, window=model.config.window, stride=model.config.stride)
    encoded = encode_articles(texts, tokenizer, max_segment_words=model.config.max_segment_words)
    batch = collate(encoded, settings)
    with torch.inference_mode():
        return encoded, batch, model(**batch.tensors())


def test_a_segment_without_pieces_reports_nothing(tiny_model, tokenizer):
    tiny_model.topic_head.out.bias.data.fill_(9.0)  # certain of everything that it reads
    _, _, output = run(tiny_model, tokenizer, ["قتل شخصان.\n\u200f\nوقال المتحدث.", "\u200f"])
    scores = output.segment_topic_logits.sigmoid()
    assert (scores[[0, 2]] > 0.5).all()
    assert (scores[[1, 3]] < 1e-6).all()
    assert output.article_topic_logits.sigmoid()[:, 0].round().tolist() == [1.0, 0.0]


def test_a_batch_gives_the_same_as_one_article_at_a_time(tiny_model, tokenizer):
    encoded, batch, together = run(tiny_model, tokenizer, TEXTS)
    first = 0
    for row, text in enumerate(TEXTS):
        _, one_batch, alone = run(tiny_model, tokenizer, [text])
        rows = slice(first, first + len(encoded[row].segments))
        first = rows.stop
        close = {"atol": 1e-5, "rtol": 0}
        torch.testing.assert_close(together.article_topic_logits[row], alone.article_topic_logits[0], **close)
        torch.testing.assert_close(together.segment_topic_logits[rows], alone.segment_topic_logits, **close)
        mask = one_batch.word_mask
        width = mask.shape[1]
        torch.testing.assert_close(together.emissions[rows, :width][mask], alone.emissions[mask], **close)
        torch.testing.assert_close(together.proclitic_logits[rows, :width][mask], alone.proclitic_logits[mask], **close)
        assert int(batch.word_mask[rows].sum()) == len(encoded[row].words)


def test_long_articles_fill_several_windows_and_lose_nothing(tiny_model, tokenizer):
    encoded, batch, _ = run(tiny_model, tokenizer, TEXTS)
    assert encoded[3].n_pieces > 3 * tiny_model.config.window
    flat = batch.input_ids.flatten()[batch.piece_states]
    ids = [piece for article in encoded for piece in article.input_ids.tolist()]
    assert flat.tolist() == ids  # every piece is read from a window that holds it


def test_saved_and_loaded_it_answers_the_same(tiny_model, tokenizer, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    loaded, info = KhabarModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    before, after = run(tiny_model, tokenizer, TEXTS)[2], run(loaded.eval(), tokenizer, TEXTS)[2]
    for name in ("segment_topic_logits", "article_topic_logits", "emissions", "proclitic_logits"):
        # Weights are equal to the bit; sums may still differ in the last one with where the tensors lie in memory.
        torch.testing.assert_close(getattr(before, name), getattr(after, name), atol=1e-5, rtol=0)
    saved = tiny_model.state_dict()
    assert saved.keys() == loaded.state_dict().keys()
    assert all(torch.equal(saved[name], value) for name, value in loaded.state_dict().items())
    assert [path.suffix for path in tmp_path.iterdir() if path.stat().st_size > 5000] == [".safetensors"]


def test_an_encoder_given_keeps_its_weights(encoder_config, tmp_path):
    encoder = AutoModel.from_config(encoder_config)
    encoder.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    config = KhabarConfig(encoder=loaded.config, topics=["a"], entity_labels=["X"], window=32, stride=20)
    model = KhabarModel(config, loaded)
    before = {name: value for name, value in encoder.state_dict().items() if not name.startswith("pooler")}
    assert before.keys() == model.encoder.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in model.encoder.state_dict().items())


def targets(model, encoded, batch):
    n_segments, n_words = batch.word_mask.shape
    return {
        "segment_topics": torch.full((n_segments, len(model.config.topics)), torch.nan),
        "article_topics": torch.full((len(encoded), len(model.config.topics)), torch.nan),
        "allowed_tags": torch.ones(n_segments, n_words, tags.n_tags(len(model.config.entity_labels)), dtype=torch.bool),
        "proclitics": torch.full((n_segments, n_words), NOT_ANNOTATED),
    }


def test_what_is_not_annotated_costs_nothing(tiny_model, tokenizer):
    encoded, batch, _ = run(tiny_model, tokenizer, TEXTS)
    loss = tiny_model(**batch.tensors(), **targets(tiny_model, encoded, batch)).loss
    assert loss.item() == 0.0


@pytest.mark.parametrize("part", ["segment_topics", "article_topics", "allowed_tags", "proclitics"])
def test_each_annotated_part_teaches_its_own_head(tiny_model, tokenizer, part):
    encoded, batch, _ = run(tiny_model, tokenizer, TEXTS)
    wanted = targets(tiny_model, encoded, batch)
    if part == "allowed_tags":
        wanted[part][0, 0] = False
        wanted[part][0, 0, 1] = True
    elif part == "proclitics":
        wanted[part][0, 0] = 1
    else:
        wanted[part][0, 0] = 1.0
    tiny_model.zero_grad()
    loss = tiny_model(**batch.tensors(), **wanted).loss
    loss.backward()
    assert loss.item() > 0
    heads = {
        "topics": tiny_model.topic_head.out.weight,
        "tags": tiny_model.entity_head.tags.weight,
        "proclitics": tiny_model.entity_head.proclitics.weight,
    }
    learned = {name for name, weight in heads.items() if weight.grad is not None and weight.grad.abs().max() > 0}
    assert learned == {{"allowed_tags": "tags", "proclitics": "proclitics"}.get(part, "topics")}
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in tiny_model.encoder.parameters())


def test_a_weight_scales_its_segments_losses(tiny_model, tokenizer):
    encoded, batch, _ = run(tiny_model, tokenizer, TEXTS)
    wanted = targets(tiny_model, encoded, batch)
    wanted["segment_topics"][:] = 1.0
    wanted["allowed_tags"][..., 1:] = False
    n_segments = len(batch.segment_articles)
    with torch.no_grad():
        losses = [
            tiny_model(**batch.tensors(), **wanted, segment_weights=weights).loss
            for weights in (torch.ones(n_segments), torch.full((n_segments,), 0.5), torch.zeros(n_segments))
        ]
        parts = [tiny_model(**batch.tensors(), **wanted, segment_weights=row).loss for row in torch.eye(n_segments)]
    torch.testing.assert_close(losses[1], losses[0] / 2)
    assert losses[2] == 0
    torch.testing.assert_close(torch.stack(parts).sum(), losses[0])


def test_an_untrained_model_cuts_no_letters_off_names(encoder_config, tokenizer):
    config = KhabarConfig(encoder=encoder_config, topics=["a"], entity_labels=["X"], window=32, stride=20)
    output = run(KhabarModel(config).eval(), tokenizer, TEXTS)[2]
    assert not output.proclitic_logits.argmax(-1).any()


def test_a_new_topic_head_keeps_the_spread_of_what_it_reads(encoder_config):
    config = KhabarConfig(encoder=encoder_config, topics=[f"t{k}" for k in range(50)], entity_labels=["X"])
    head = KhabarModel(config).topic_head
    read = torch.randn(2000, head.dense.in_features)
    for linear, states in ((head.dense, read), (head.out, read[:, : head.out.in_features])):
        assert linear(states).std().item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"topics": ["a", "a"]}, "topics lists a more than once"),
        ({"topics": ["a"], "topic_thresholds": {"b": 0.5}}, "must have exactly the topics"),
        ({"topics": ["a"], "topic_thresholds": {"a": 1.5}}, r"topic_thresholds.a is 1.5, must be in \[0, 1\]"),
        ({"stride": 0}, "stride is 0"),
        ({"window": 16, "stride": 15}, r"must be in \[1, window - 2 = 14\]"),
        ({"max_segment_words": 0}, "max_segment_words is 0"),
        ({"encoder": {"hidden_size": 3}}, "no model_type"),
    ],
)
def test_settings_that_disagree_are_refused(encoder_config, settings, message):
    with pytest.raises(ModelFolderError, match=message):
        KhabarConfig(**{"encoder": encoder_config, **settings})


@pytest.mark.parametrize(("topics", "entity_labels"), [(["a"], []), ([], ["X"])])
def test_a_model_of_topics_alone_or_entities_alone_is_whole(bert_config, tokenizer, tmp_path, topics, entity_labels):
    config = KhabarConfig(encoder=bert_config, topics=topics, entity_labels=entity_labels, window=32, stride=20)
    model = KhabarModel(config).eval()
    save_model(model, tokenizer, tmp_path)
    tagger = Tagger(*load_model(tmp_path))
    encoded, batch, _ = run(model, tokenizer, TEXTS)
    loss = model(**batch.tensors(), **targets(model, encoded, batch)).loss
    assert loss.item() == 0.0
    for text, result in zip(TEXTS, tagger.tag_many(TEXTS), strict=True):
        assert result.topic_scores.keys() == set(topics)
        assert {entity.label for entity in result.entities} <= set(entity_labels)
        assert result.characters_read == len(text)


def test_a_loaded_encoder_keeps_the_attention_that_it_chose(bert_config):
    encoder = AutoModel.from_config(bert_config)
    chosen = encoder.config._attn_implementation
    config = KhabarConfig(encoder=encoder.config, topics=["a"], entity_labels=["X"], window=32, stride=20)
    assert KhabarModel(config, encoder).encoder.config._attn_implementation == chosen is not None
    other = KhabarConfig(
        encoder=bert_config, topics=["a"], entity_labels=["X"], window=32, stride=20, attn_implementation="eager"
    )
    assert other.encoder._attn_implementation == "eager"


def test_what_a_tokenizer_was_last_called_with_changes_nothing(tokenizer):
    texts = ["وصل الوزير إلى بغداد", "وقع انفجار قرب مبنى المحافظة في البصرة صباح اليوم"]
    before = encode_articles(texts, tokenizer, max_segment_words=24)
    tokenizer(texts, padding=True, truncation=True, max_length=4)
    after = encode_articles(texts, tokenizer, max_segment_words=24)
    assert [one.input_ids.tolist() for one in after] == [one.input_ids.tolist() for one in before]
