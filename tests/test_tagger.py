"""From raw text to results: order, offsets, invariance, streams, and articles of any length."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from khabar.inference.engine import CHUNKS_AHEAD
from khabar.inference.planning import LOOK_AHEAD
from khabar.inference.tagger import Tagger, load
from khabar.models.article import Article, Segment
from khabar.models.errors import DeviceError, KhabarError

NEWS_CHARACTERS = "قالبغدادووبل \n.،\u064b\u0640\u200f5F😀\x00«»"
TEXTS = [
    "قتل شخصان بانفجار سيارة مفخخة شمال بغداد.\nوقال المتحدث سالم الحداد إن التحقيق بدأ.",
    "",
    "عاجل",
    "شهدت العاصمة تونس مظاهرة شارك فيها المئات. " * 30,
    "\u200fأعلنت «الوزارة» في بيـــان: 5 قتلى بـبغداد!\n\n😀 F-16 \u0651",
]


@pytest.fixture
def tagger(tiny_model, tokenizer):
    return Tagger(tiny_model, tokenizer)


def same(one, other):
    assert (one.text, one.segments and [(s.start, s.end, s.topics) for s in one.segments]) == (
        other.text,
        other.segments and [(s.start, s.end, s.topics) for s in other.segments],
    )
    assert [(e.label, e.start, e.end) for e in one.entities] == [(e.label, e.start, e.end) for e in other.entities]
    assert one.topic_scores == pytest.approx(other.topic_scores, abs=1e-5)
    assert [e.score for e in one.entities] == pytest.approx([e.score for e in other.entities], abs=1e-4)


def test_results_do_not_depend_on_the_batch(tagger):
    alone = [tagger.tag(text) for text in TEXTS]
    assert any(result.entities for result in alone)
    assert any(result.topics for result in alone)
    for batch_pieces in (1, 100, 10_000):
        for one, other in zip(alone, tagger.tag_many(TEXTS, batch_pieces=batch_pieces), strict=True):
            same(one, other)


def test_an_articles_topics_have_segments_that_show_them(tagger):
    for result in tagger.tag_many(TEXTS):
        for topic in result.topics:
            assert topic.segments
            assert all(topic.label in result.segments[index].topics for index in topic.segments)
            assert topic.score == pytest.approx(max(s.scores[topic.label] for s in result.segments))
        shown = {label for segment in result.segments for label in segment.topics}
        assert shown == {topic.label for topic in result.topics}


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.sampled_from(NEWS_CHARACTERS) | st.characters(exclude_categories=["Cs"]), max_size=120))
def test_spans_are_surfaces_of_the_raw_text(text):
    result = PROPERTY_TAGGER[0].tag(text)
    assert result.text == text
    assert result.characters == result.characters_read == len(text)
    last = 0
    for entity in result.entities:
        assert last <= entity.start < entity.end <= len(text)
        assert entity.text == text[entity.start : entity.end]
        assert entity.text.strip()
        assert 0 <= entity.score <= 1
        last = entity.end
    visible = [i for i, c in enumerate(text) if not c.isspace()]
    covered = {i for s in result.segments for i in range(s.start, s.end)}
    assert covered.issuperset(visible) or not result.segments


PROPERTY_TAGGER = []


@pytest.fixture(autouse=True)
def _property_tagger(tagger):
    PROPERTY_TAGGER[:] = [tagger]


def test_an_articles_own_segments_are_kept(tagger):
    text = TEXTS[0]
    article = Article(text=text, id="x", segments=(Segment(start=0, end=10), Segment(start=10, end=len(text))))
    result = tagger.tag(article)
    assert result.id == "x"
    assert [(s.start, s.end) for s in result.segments] == [(0, 10), (10, len(text))]


def test_an_endless_stream_is_tagged_as_it_comes(tagger):
    n_read = 0

    def endless():
        nonlocal n_read
        for index in itertools.count():
            n_read += 1
            yield Article(text=TEXTS[index % len(TEXTS)][:80], id=str(index))

    results = list(itertools.islice(tagger.tag_many(endless()), 300))
    assert [result.id for result in results] == [str(index) for index in range(300)]
    assert n_read == CHUNKS_AHEAD * LOOK_AHEAD["cpu"].articles


def test_nothing_of_a_very_long_article_is_cut(tagger):
    """20,000 words, of which the last paragraph alone reports an attack: it is read, by itself and in its place."""
    filler = "ارتفعت أسعار القمح في البورصات العالمية بنسبة كبيرة بعد موجة جفاف ضربت حقول الشمال.\n"
    attack = "قتل شخصان بانفجار سيارة مفخخة قرب سوق شعبية شمال بغداد."
    text = filler * (20_000 // len(filler.split())) + attack
    assert len(text.split()) > 19_900
    windows, read_states, piece_states = [], tagger.model.read, []
    tagger.model.encoder.register_forward_pre_hook(
        lambda _encoder, _given, named: windows.append(named["input_ids"]), with_kwargs=True
    )
    tagger.model.read = lambda states, **of_batch: (
        piece_states.append(of_batch["piece_states"]) or read_states(states, **of_batch)
    )
    result = tagger.tag(text)
    assert result.characters_read == result.characters == len(text)
    last = result.segments[-1]
    assert text[last.start : last.end] == attack
    # The pieces the model's heads saw, read back from the windows, end with the attack.
    assert len(windows) > 1
    (places,) = piece_states
    seen = torch.cat(windows).flatten()[places]
    attack_ids = tagger.tokenizer(attack, add_special_tokens=False)["input_ids"]
    assert seen[-len(attack_ids) :].tolist() == attack_ids
    ahead = tagger.tokenizer(filler, add_special_tokens=False)["input_ids"]
    assert len(seen) == len(ahead) * text.count(filler) + len(attack_ids)


def test_half_a_surrogate_pair_is_refused_with_its_place(tagger):
    with pytest.raises(KhabarError, match=r"\\ud83d\) at character 3"):
        tagger.tag("قال\ud83d")


def test_impossible_batches_are_refused(tagger):
    with pytest.raises(ValueError, match="batch_pieces must be at least 1, got 0"):
        list(tagger.tag_many(["a"], batch_pieces=0))


def test_bfloat16_is_asked_for_and_changes_scores_a_little(tiny_model_folder):
    exact, rough = (load(tiny_model_folder, device="cpu", precision=precision) for precision in ("fp32", "bf16"))
    scores = [list(tagger.tag(TEXTS[3]).topic_scores.values()) for tagger in (exact, rough)]
    assert scores[0] != scores[1]
    assert scores[0] == pytest.approx(scores[1], abs=0.1)
    assert load(tiny_model_folder, device="cpu").tag(TEXTS[3]) == exact.tag(TEXTS[3])


def test_an_unknown_precision_is_refused(tiny_model_folder):
    with pytest.raises(KhabarError, match="precision is 'fp8', must be one of auto, fp32, bf16"):
        load(tiny_model_folder, precision="fp8")
    with pytest.raises(KhabarError, match="an exported model has its own"):
        load(tiny_model_folder, runtime="onnx", precision="bf16")


def test_results_as_json_are_what_score_writes(tagger):
    row = tagger.tag(Article(text=TEXTS[0], id="a1")).to_json()
    assert list(row) == [
        "id",
        "topics",
        "uncertain",
        "topic_scores",
        "segments",
        "entities",
        "characters",
        "characters_read",
        "model",
    ]
    assert row["id"] == "a1"
    assert row["model"] == "tiny 1.0"
    assert row["characters"] == len(TEXTS[0])
    for entity in row["entities"]:
        assert list(entity) == ["label", "start", "end", "text", "score"]
        assert entity["text"] == TEXTS[0][entity["start"] : entity["end"]]


def test_a_saved_model_tags_the_same(tagger, tiny_model_folder):
    loaded = load(tiny_model_folder, device="cpu")
    for one, other in zip(tagger.tag_many(TEXTS), loaded.tag_many(TEXTS), strict=True):
        same(one, other)
    assert loaded.topics == ["attack", "statement"]
    assert loaded.entity_labels == ["LOCATION", "PERSON", "تاريخ"]


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "mps", "meta", None])
def test_an_unknown_device_is_refused(tiny_model_folder, device):
    with pytest.raises(DeviceError, match="must be auto, cpu, cuda or cuda:N"):
        load(tiny_model_folder, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_an_error(tiny_model_folder):
    with pytest.raises(DeviceError, match="sees no CUDA device"):
        load(tiny_model_folder, device="cuda")


@pytest.mark.gpu
def test_a_gpu_gives_the_same_entities_and_topics(tiny_model_folder):
    on_cpu, on_gpu = load(tiny_model_folder, device="cpu"), load(tiny_model_folder, device="cuda")
    for one, other in zip(on_cpu.tag_many(TEXTS), on_gpu.tag_many(TEXTS), strict=True):
        assert one.topic_scores == pytest.approx(other.topic_scores, abs=0.1)  # bf16
        assert [(s.start, s.end) for s in one.segments] == [(s.start, s.end) for s in other.segments]


@pytest.mark.parametrize("wrong", [{"text": "عاجل"}, None, b"text", 5])
def test_what_is_no_article_is_named(tagger, wrong):
    for tag in (tagger.tag, lambda item: list(tagger.tag_many([item])), lambda item: list(tagger.tag_chunks([[item]]))):
        with pytest.raises(KhabarError, match=r"an article is .*; allowed: its text as a str, or a khabar.Article"):
            tag(wrong)
    with pytest.raises(KhabarError, match="articles is a str; allowed: a list or another iterable of texts"):
        list(tagger.tag_many("عاجل"))
    assert [len(results) for results in tagger.tag_chunks([["عاجل", Article(text="قتل شخصان")]])] == [2]


def test_a_topic_is_reported_from_its_threshold_on(tiny_model, tokenizer):
    text = "قصف الجيش مواقع في حلب."
    topic, score = max(Tagger(tiny_model, tokenizer).tag(text).topic_scores.items(), key=lambda item: item[1])
    for threshold, is_reported in ((score, True), (math.nextafter(score, 1), False)):
        tiny_model.config.topic_thresholds[topic] = threshold
        reported = Tagger(tiny_model, tokenizer).tag(text).topics
        assert (topic in {one.label for one in reported}) == is_reported
