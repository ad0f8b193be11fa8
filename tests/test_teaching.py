"""Teachers: finished models say what a source's own labels leave open, and nothing where these speak."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from khabar.inference.tagger import Tagger, load
from khabar.models import tags
from khabar.models.article import Article, Entity, Segment
from khabar.models.encoding import encode_articles
from khabar.models.errors import CorpusError, KhabarError
from khabar.models.folder import save_model
from khabar.models.model import NOT_ANNOTATED
from khabar.training.corpora import Annotation, load_corpora
from khabar.training.data import collect_labels, open_examples, teacher_digests
from khabar.training.provenance import describe_source
from khabar.training.targets import LabelSet, LostEntities, make_targets
from khabar.training.teaching import Answer, Teachers, likely_tags
from khabar.training.train import train

TEXTS = ["قتل شخصان في بغداد.\nوقال المتحدث إن التحقيق بدأ.", "", "ًً", "عاجل", "شهدت تونس مظاهرة كبيرة. " * 30]
# Other labels and another order than the tiny model's: `statement` and `PERSON` are gone, two are new.
LABELS = LabelSet(topics=("رياضة", "attack"), entity_labels=("نادٍ", "تاريخ", "LOCATION"))


def targets_of(articles, encoded, annotation=None):
    annotation = annotation or Annotation(entity_map={label: (label,) for label in LABELS.entity_labels})
    return [
        make_targets(article, one, annotation, LABELS, LostEntities())
        for article, one in zip(articles, encoded, strict=True)
    ]


def completed(folders, tokenizer, articles, annotation=None):
    encoded = encode_articles(
        [article.text for article in articles],
        tokenizer,
        max_segment_words=24,
        segments=[article.segment_spans for article in articles],
    )
    before = targets_of(articles, encoded, annotation)
    teachers = Teachers([str(folder) for folder in folders], LABELS, device="cpu")
    return encoded, before, teachers.complete([article.text for article in articles], encoded, before)


def column(label):
    place = LABELS.entity_labels.index(label)
    return [tags.begin_tag(place), tags.inside_tag(place)]


@pytest.fixture
def other_teacher(tmp_path, tiny_model, tokenizer):
    """A second tiny model: other weights under the same labels, in another order."""
    torch.manual_seed(5)
    config = replace_config(tiny_model.config, topics=["statement", "attack"])
    other = type(tiny_model)(config).eval()
    for head in (other.topic_head, other.entity_head):
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    save_model(other, tokenizer, tmp_path / "other-model")
    return tmp_path / "other-model"


def replace_config(config, **changes):
    """The same model with other labels."""
    of_topics = {"topic_temperatures": {}, "topic_thresholds": {}, "topic_bands": {}}
    return type(config)(**{**config.to_dict(), "encoder": config.encoder, **of_topics, **changes})


def test_an_article_without_labels_learns_what_the_teacher_says(tiny_model_folder, tokenizer):
    articles = [Article(text=text) for text in TEXTS]
    encoded, _, taught = completed([tiny_model_folder], tokenizer, articles)
    results = list(load(tiny_model_folder, device="cpu").tag_many(articles))
    assert any(result.entities for result in results)
    for one, target, result in zip(encoded, taught, results, strict=True):
        assert np.isnan(target.article_topics[0]), "the teacher does not know رياضة"
        assert target.article_topics[1] == pytest.approx(result.topic_scores["attack"], abs=1e-5)
        scores = [segment.scores["attack"] for segment in result.segments]
        np.testing.assert_allclose(target.segment_topics[:, 1], scores, atol=1e-5)
        assert target.allowed_tags[:, column("نادٍ")].all(), "of a label that it does not know it says nothing"
        firsts = {entity.start: entity.label for entity in result.entities}
        for (start, end), allowed in zip(one.words, target.allowed_tags, strict=True):
            label = next((firsts[place] for place in range(start, end) if place in firsts), None)
            if label == "PERSON":  # none of the labels to learn: outside to them
                assert allowed[tags.OUTSIDE]
            elif label is not None:
                assert allowed[column(label)[0]]
    sure = np.concatenate([target.allowed_tags for target in taught])
    assert (~sure).sum() > 0, "some tags are unlikely"


def test_what_the_source_says_stands(tiny_model_folder, tokenizer):
    text = TEXTS[0]
    cut = text.index("\n")
    article = Article(
        text=text,
        topics=("attack",),
        segments=(Segment(start=0, end=cut, topics=("attack",)), Segment(start=cut + 1, end=len(text), topics=())),
        entities=(Entity(start=text.index("بغداد"), end=text.index("بغداد") + 5, label="LOCATION"),),
    )
    annotation = Annotation(
        entity_map={"LOCATION": ("LOCATION",)},
        unannotated=frozenset(["تاريخ", "نادٍ"]),
        unannotated_topics=frozenset(["رياضة"]),
    )
    ((one,), (before,), (after,)) = completed([tiny_model_folder], tokenizer, [article], annotation)
    np.testing.assert_array_equal(after.article_topics, before.article_topics)
    np.testing.assert_array_equal(after.segment_topics, before.segment_topics)
    assert (before.allowed_tags | ~after.allowed_tags).all(), "no tag that the source rules out"
    assert after.allowed_tags.any(axis=1).all()
    word = next(place for place, (start, _) in enumerate(one.words) if start == text.index("بغداد"))
    np.testing.assert_array_equal(after.allowed_tags[word], before.allowed_tags[word])
    assert after.proclitics[word] == before.proclitics[word] == 0
    assert (after.allowed_tags[:, column("تاريخ")] != before.allowed_tags[:, column("تاريخ")]).any()


def test_no_segment_shows_a_topic_that_the_article_lacks(tiny_model_folder, tokenizer):
    articles = [Article(text=TEXTS[0], topics=()), Article(text=TEXTS[0], topics=("attack",))]
    _, before, (without, with_it) = completed([tiny_model_folder], tokenizer, articles)
    assert (without.segment_topics[:, 1] == 0).all()
    assert np.isnan(before[1].segment_topics[:, 1]).all()
    assert ((with_it.segment_topics[:, 1] > 0) & (with_it.segment_topics[:, 1] < 1)).all()


def test_teachers_answer_with_their_mean(tiny_model_folder, other_teacher, tokenizer):
    articles = [Article(text=text) for text in TEXTS]
    one, other, both = (
        completed(folders, tokenizer, articles)[2]
        for folders in ([tiny_model_folder], [other_teacher], [tiny_model_folder, other_teacher])
    )
    for a, b, mean in zip(one, other, both, strict=True):
        np.testing.assert_allclose(mean.article_topics[1], (a.article_topics[1] + b.article_topics[1]) / 2, atol=1e-5)
        assert (a.article_topics[1] != b.article_topics[1]) or not a.allowed_tags.size


BEGIN, INSIDE, OUT = *column("LOCATION"), tags.OUTSIDE


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ([[BEGIN, INSIDE]], [{BEGIN}, {INSIDE}]),
        ([[BEGIN, OUT], [OUT, OUT]], [{BEGIN, OUT}, {OUT}]),
        ([[BEGIN, OUT], [BEGIN, OUT], [OUT, OUT]], [{BEGIN, OUT}, {OUT}]),
        ([[BEGIN, INSIDE], [BEGIN, INSIDE], [BEGIN, INSIDE], [OUT, OUT]], [{BEGIN}, {INSIDE}]),
        ([[BEGIN, INSIDE], [BEGIN, INSIDE], [BEGIN, OUT], [OUT, OUT]], [{BEGIN}, {INSIDE, OUT}]),
        ([[BEGIN, INSIDE], [BEGIN, INSIDE], [BEGIN, INSIDE], [OUT, OUT], [OUT, OUT]], [{BEGIN, OUT}, {INSIDE, OUT}]),
    ],
)
def test_teachers_who_disagree_leave_it_open_unless_one_stands_against_three(tokenizer, said, left):
    (encoded,) = encode_articles(["بغداد اليوم"], tokenizer, max_segment_words=24)
    n_tags = tags.n_tags(len(LABELS.entity_labels))
    chosen = np.eye(n_tags, dtype=np.float32)[np.array(said)]  # (n_teachers, n_words, n_tags)
    answer = Answer(
        segment_topics=np.zeros((1, 2), dtype=np.float32),
        article_topics=np.zeros(2, dtype=np.float32),
        tags=(0.94 * chosen + 0.06 / n_tags).mean(axis=0),
        best=chosen.mean(axis=0),
        proclitics=np.zeros((2, 2), dtype=np.float32),
    )
    kept = likely_tags(encoded, np.ones((2, n_tags), dtype=bool), answer)
    assert [set(np.flatnonzero(row)) for row in kept] == left


def test_every_segment_keeps_a_legal_path(tiny_model_folder, tokenizer):
    """Also where the source rules out what the teacher holds likely."""
    text = TEXTS[0]
    start = text.index("شخصان")
    articles = [
        Article(text=text, entities=(Entity(start=start, end=start + len("شخصان في بغداد"), label=label),))
        for label in LABELS.entity_labels
    ]
    annotation = Annotation(
        entity_map={"نادٍ": LABELS.entity_labels, "تاريخ": ("تاريخ",), "LOCATION": ("LOCATION", "تاريخ")},
        unannotated=frozenset(LABELS.entity_labels),
    )
    encoded, _, taught = completed([tiny_model_folder], tokenizer, articles, annotation)
    n_labels = len(LABELS.entity_labels)
    starts, moves = tags.legal_starts(n_labels).numpy(), tags.legal_transitions(n_labels).numpy()
    for one, target in zip(encoded, taught, strict=True):
        for segment in range(len(one.segments)):
            reached = starts
            for row in target.allowed_tags[one.word_segments == segment]:
                reached = reached & row
                assert reached.any()
                reached = moves[reached].any(axis=0)


def write_rows(path, rows):
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def write_yaml(path, *sources):
    path.write_text(json.dumps({"sources": list(sources)}, ensure_ascii=False), encoding="utf-8")  # JSON is YAML
    return path


def test_a_model_learns_from_texts_alone(tmp_path, news_rows, train_settings):
    """A student that never sees a label knows what its teacher knows."""
    teacher = train(replace(train_settings, epochs=60, output=str(tmp_path / "teacher")), progress_bar=False)
    write_rows(tmp_path / "texts.jsonl", [{"text": row["text"]} for row in news_rows(48)])
    corpora = write_yaml(tmp_path / "taught.yaml", {"path": "texts.jsonl", "teacher": "teacher"})
    settings = replace(train_settings, corpora=(str(corpora),), epochs=60)
    result = train(settings, progress_bar=False)
    assert result.metrics["labels"] == teacher.metrics["labels"]
    assert result.metrics["data"]["train"][0]["teachers"] == ["teacher"]
    for part in ("article", "segment"):
        assert result.metrics["dev"]["topics"][part]["micro"]["f1"] > 0.9
    assert result.metrics["dev"]["entities"]["micro"]["f1"] > 0.9
    card = (result.folder / "README.md").read_text(encoding="utf-8")
    assert "`texts.jsonl`: what its labels leave open was filled in by `teacher`" in card


def test_examples_are_made_anew_when_the_teacher_changes(tmp_path, tiny_model, tiny_model_folder, tokenizer):
    write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in TEXTS])
    corpora = load_corpora([write_yaml(tmp_path / "a.yaml", {"path": "texts.jsonl", "teacher": "tiny-model"})])
    labels = collect_labels(corpora)
    assert labels == LabelSet(topics=("attack", "statement"), entity_labels=("LOCATION", "PERSON", "تاريخ"))
    assert describe_source(corpora[0])["teachers"] == ["tiny-model"]

    def scores():
        store = open_examples(
            corpora,
            tokenizer,
            labels,
            max_segment_words=24,
            teachers=teacher_digests(corpora),
            folder=tmp_path / "cache",
            device="cpu",
        )
        return store[[0]][0].targets.article_topics

    first, again = scores(), scores()
    np.testing.assert_array_equal(first, again)
    results = Tagger(tiny_model, tokenizer).tag(TEXTS[0]).topic_scores
    np.testing.assert_allclose(first, [results["attack"], results["statement"]], atol=0.0051)  # kept in percent
    with torch.no_grad():
        tiny_model.topic_head.out.bias += 1.0
    save_model(tiny_model, tokenizer, tiny_model_folder)
    assert (scores() > first).all()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            {"teacher": 5},
            "sources[0].teacher is 5; allowed: a model (a folder, a hub id or embedded), or a list of them",
        ),
        ({"teacher": []}, "sources[0].teacher is []; allowed: a model"),
        ({"teacher": "m", "split": "dev"}, "no teacher where split is dev: what is measured on must be labelled"),
    ],
)
def test_a_wrong_teacher_is_refused_where_it_stands(tmp_path, source, message):
    write_rows(tmp_path / "texts.jsonl", [{"text": "عاجل"}])
    with pytest.raises(CorpusError) as caught:
        load_corpora([write_yaml(tmp_path / "a.yaml", {"path": "texts.jsonl", **source})])
    assert message in str(caught.value)


def test_a_teacher_that_is_missing_or_knows_nothing_here_is_named(
    tmp_path, corpus, tiny_model, tiny_model_folder, tokenizer, train_settings
):
    def trained(*sources):
        return train(
            replace(train_settings, corpora=(str(write_yaml(tmp_path / "a.yaml", *sources)),)), progress_bar=False
        )

    write_rows(tmp_path / "texts.jsonl", [{"text": "عاجل"}])
    with pytest.raises(KhabarError, match=r"a\.yaml:1: teacher: \./nowhere: no such model folder"):
        trained({"path": "train.jsonl"}, {"path": "texts.jsonl", "teacher": "./nowhere"})

    stranger = type(tiny_model)(replace_config(tiny_model.config, topics=["رياضة"], entity_labels=["نادٍ"]))
    save_model(stranger, tokenizer, tmp_path / "stranger")
    with pytest.raises(KhabarError, match=r"teacher .*stranger knows none of the labels to learn \(LOCATION, attack"):
        trained({"path": "train.jsonl"}, {"path": "texts.jsonl", "teacher": "stranger"})
    with pytest.raises(KhabarError, match=r"tiny-model and .*stranger have different labels \(LOCATION, PERSON, atta"):
        trained({"path": "train.jsonl"}, {"path": "texts.jsonl", "teacher": ["tiny-model", "stranger"]})


def test_proclitics_are_learned_where_the_teacher_is_sure(tmp_path, tiny_model, tokenizer):
    place = tiny_model.config.entity_labels.index("LOCATION")
    with torch.no_grad():  # every word begins a place, with one letter before it
        tiny_model.entity_head.tags.weight.zero_()
        tiny_model.entity_head.tags.bias.zero_()
        tiny_model.entity_head.tags.bias[tags.begin_tag(place)] = 20.0
        tiny_model.entity_head.proclitics.weight.zero_()
        tiny_model.entity_head.proclitics.bias[:] = torch.tensor([0.0, 10.0, 0.0])
    save_model(tiny_model, tokenizer, tmp_path / "sure")
    articles = [Article(text="ببغداد وتونس")]
    _, (before,), (after,) = completed([tmp_path / "sure"], tokenizer, articles)
    assert (before.proclitics == NOT_ANNOTATED).all()
    assert after.proclitics.tolist() == [NOT_ANNOTATED] * 2, "نادٍ, unknown to the teacher, is still possible"
    labels = replace(LABELS, entity_labels=("LOCATION",))
    encoded = encode_articles([articles[0].text], tokenizer, max_segment_words=24)
    blank = [make_targets(articles[0], encoded[0], Annotation(), labels, LostEntities())]
    (sure,) = Teachers([str(tmp_path / "sure")], labels, device="cpu").complete(["ببغداد وتونس"], encoded, blank)
    assert sure.allowed_tags.tolist() == [[False, True, False]] * 2
    assert sure.proclitics.tolist() == [1, 1]


def test_old_labels_are_kept_alive_by_the_old_model(tmp_path, tiny_model_folder, tokenizer, corpus, news_rows):
    """Growing: a corpus of new labels alone, with the old model as its teacher, still teaches the old ones."""
    from khabar.training.data import encode_corpora
    from khabar.training.growing import grown_labels, mask_absent

    rows = [
        {"text": row["text"], "topics": ["weather"] if len(row["segments"]) == 1 else [], "entities": []}
        for row in news_rows(6)
    ]
    write_rows(tmp_path / "new.jsonl", rows)
    source = {"path": "new.jsonl", "teacher": "tiny-model"}
    corpora = load_corpora(
        [write_yaml(tmp_path / "grow.yaml", source)],
        more_topics=["attack", "statement"],
        more_entity_labels=["LOCATION", "PERSON", "تاريخ"],
    )
    known = LabelSet(topics=("attack", "statement"), entity_labels=("LOCATION", "PERSON", "تاريخ"))
    labels = grown_labels(known, collect_labels(corpora))
    assert labels.topics == ("attack", "statement", "weather")
    batches = encode_corpora(
        mask_absent(corpora, labels), tokenizer, labels, max_segment_words=24, lost=LostEntities(), device="cpu"
    )
    results = load(tiny_model_folder, device="cpu").tag_many([row["text"] for row in rows])
    for example, row, result in zip([one for batch in batches for one in batch], rows, results, strict=True):
        expected = [result.topic_scores["attack"], result.topic_scores["statement"], "weather" in row["topics"]]
        np.testing.assert_allclose(example.targets.article_topics, expected, atol=1e-5)
        assert not example.targets.allowed_tags.all()


def test_a_teacher_short_of_memory_reads_fewer_texts_at_once(monkeypatch, tiny_model, tiny_model_folder, tokenizer):
    articles = [Article(text=text) for text in TEXTS]
    _, _, whole = completed([tiny_model_folder], tokenizer, articles)
    encode, read = type(tiny_model).encode, type(tiny_model).read

    def of_two_windows(model, input_ids, attention_mask):
        if len(input_ids) > 2:
            raise MemoryError
        return encode(model, input_ids, attention_mask)

    monkeypatch.setattr(type(tiny_model), "encode", of_two_windows)
    _, _, halved = completed([tiny_model_folder], tokenizer, articles)
    for one, other in zip(halved, whole, strict=True):
        np.testing.assert_allclose(one.article_topics, other.article_topics, atol=1e-5)
        np.testing.assert_array_equal(one.allowed_tags, other.allowed_tags)

    def of_few_articles(model, states, piece_states, **rest):
        if len(piece_states) > 30:
            raise MemoryError
        return read(model, states, piece_states, **rest)

    monkeypatch.setattr(type(tiny_model), "read", of_few_articles)
    with pytest.raises(KhabarError, match=f"a text of {len(TEXTS[-1])} characters needs more memory than cpu has"):
        completed([tiny_model_folder], tokenizer, articles)


def test_what_segments_show_stands_for_the_article_too(tiny_model_folder, tokenizer):
    text = TEXTS[0]
    cut = text.index("\n")

    def taught(first, second):
        segments = (Segment(start=0, end=cut, topics=first), Segment(start=cut + 1, end=len(text), topics=second))
        return completed([tiny_model_folder], tokenizer, [Article(text=text, segments=segments)])[2][0]

    assert taught(("attack",), ()).article_topics.tolist() == [0, 1]
    assert taught((), ()).article_topics.tolist() == [0, 0]
    assert taught(("attack",), None).article_topics[1] == 1
    partly = taught((), None)
    assert 0 < partly.article_topics[1] < 1
    assert partly.segment_topics[0, 1] == 0 < partly.segment_topics[1, 1]
