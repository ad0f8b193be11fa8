"""Corpora: YAML lists of sources, label maps, and how every wrong thing in them is named."""

import json
import re
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from khabar.models.article import Article, Entity
from khabar.models.errors import CorpusError, KhabarError
from khabar.training import label_checks
from khabar.training.convert.formats import FORMATS
from khabar.training.corpora import Annotation, as_gold, load_corpora, load_corpus
from khabar.training.label_checks import lookalikes

DATA = Path(__file__).parent / "data"
ORGANISATIONS = ["ORGANIZATION", "MILITARY"]


def surfaces(article: Article) -> list[tuple[str, str]]:
    return [(article.text[entity.start : entity.end], entity.label) for entity in article.entities or ()]


def write_yaml(folder: Path, *sources: dict[str, object]) -> Path:
    path = folder / "corpus.yaml"
    path.write_text(json.dumps({"sources": list(sources)}), encoding="utf-8")  # JSON is YAML
    return path


def messages(path: Path) -> list[str]:
    with pytest.raises(CorpusError) as caught:
        load_corpus(path)
    return [problem.message for problem in caught.value.problems]


ARTICLES = {"path": str(DATA / "articles.jsonl")}
TOKENS = {
    "path": str(DATA / "tokens.bio"),
    "entities": {"PERS": "PERSON", "LOC": "LOCATION", "ORG": ORGANISATIONS},
    "unannotated": ["DATE", "WEAPON"],
    "ignore": ["MISC"],
}


def test_a_file_of_articles_is_a_corpus_with_its_own_labels():
    (corpus,) = load_corpus(DATA / "articles.jsonl")
    assert corpus.annotation.labels_of("PERSON") == ("PERSON",)
    assert not corpus.annotation.unannotated
    assert corpus.annotation.proclitics
    assert corpus.topics == (
        "attack",
        "military_meeting",
        "political_meeting",
        "protest",
        "security_operation",
        "statement",
    )
    assert len(corpus.entity_labels) == 7


def test_sources_with_a_label_map(tmp_path):
    articles, tokens = load_corpus(write_yaml(tmp_path, ARTICLES, {**TOKENS, "weight": 0.5}))
    assert articles.counts.articles == len(list(articles.articles)) == 6
    assert tokens.annotation == Annotation(
        entity_map={"PERS": ("PERSON",), "LOC": ("LOCATION",), "ORG": ("ORGANIZATION", "MILITARY")},
        unannotated=frozenset({"DATE", "WEAPON"}),
        ignore=frozenset({"MISC"}),
        proclitics=False,
        weight=0.5,
    )
    assert tokens.annotation.labels_of("ORG") == ("ORGANIZATION", "MILITARY")
    assert tokens.annotation.labels_of("MISC") == ()
    assert tokens.topics == ()
    assert tokens.entity_labels == ("LOCATION", "MILITARY", "ORGANIZATION", "PERSON")
    assert all(article.topics is None and article.segments is None for article in tokens.articles)


def test_ignored_labels_reach_the_reader_of_nested_columns(tmp_path):
    source = {
        "path": str(DATA / "nested.txt"),
        "entities": {"ORG": ORGANISATIONS, "FAC": "LOCATION", "GPE": "LOCATION"},
        "ignore": ["OCC"],
    }
    (corpus,) = load_corpus(write_yaml(tmp_path, source))
    assert ("بلدية الرمادي", "ORG") in surfaces(next(iter(corpus.articles)))


def test_paths_are_relative_to_the_yaml_and_a_format_can_be_named(tmp_path):
    (tmp_path / "news").mkdir()
    (tmp_path / "news" / "tokens.dat").write_text("حلب B-LOC\n", encoding="utf-8")
    path = write_yaml(tmp_path, {"path": "news/tokens.dat", "format": "conll"})
    (corpus,) = load_corpus(path)
    assert surfaces(next(iter(corpus.articles))) == [("حلب", "LOC")]


@pytest.mark.parametrize("ending", FORMATS["conll"].endings)
def test_tagged_tokens_have_the_endings_that_converting_knows(tmp_path, ending):
    path = tmp_path / f"tokens{ending}"
    path.write_text("حلب B-LOC\n", encoding="utf-8")
    (corpus,) = load_corpus(path)
    assert surfaces(next(iter(corpus.articles))) == [("حلب", "LOC")]


def test_label_maps_may_name_labels_that_never_occur(tmp_path):
    entities = {**TOKENS["entities"], "EVENT": "LOCATION"}
    assert load_corpus(write_yaml(tmp_path, ARTICLES, {**TOKENS, "entities": entities}))


def test_labels_that_mean_nothing_are_listed_with_their_counts(tmp_path):
    source = {**TOKENS, "entities": {"PERS": "PERSON"}}
    assert messages(write_yaml(tmp_path, ARTICLES, {**source, "ignore": []})) == [
        (
            f"{TOKENS['path']} has entity labels of unknown meaning: LOC (1), ORG (1), MISC (1); allowed: "
            "the model's labels (ARMED_GROUP, DATE, LOCATION, MILITARY, ORGANIZATION, PERSON, WEAPON), or an "
            "entry for each under `entities` or `ignore`"
        )
    ]


def test_a_source_label_that_is_the_models_needs_no_entry(tmp_path):
    (tmp_path / "a.bio").write_text("حلب B-LOCATION\nسليم B-PERS\n", encoding="utf-8")
    source = {"path": "a.bio", "entities": {"PERS": "PERSON"}}
    corpus = load_corpus(write_yaml(tmp_path, ARTICLES, source))[1]
    assert corpus.annotation.entity_map == {"PERS": ("PERSON",), "LOCATION": ("LOCATION",)}


def test_labels_are_checked_across_all_paths(tmp_path):
    tokens = write_yaml(tmp_path, TOKENS)
    assert 'unannotated names "DATE", which is not a label of the model' in messages(tokens)[0]
    assert len(load_corpora([DATA / "articles.jsonl", tokens])) == 2


def test_labels_of_a_model_that_exists_are_binding(tmp_path):
    tokens = write_yaml(tmp_path, TOKENS)
    known = ["PERSON", "LOCATION", "ORGANIZATION", "MILITARY", "DATE", "WEAPON"]
    assert load_corpora([tokens], entity_labels=known)
    with pytest.raises(CorpusError, match='entities maps to "MILITARY", which is not a label of the model'):
        load_corpora([tokens], entity_labels=[label for label in known if label != "MILITARY"])
    with pytest.raises(CorpusError, match=r"articles\.jsonl: has topics of unknown meaning: .*attack \(1\)"):
        load_corpora([DATA / "articles.jsonl"], topics=["protest", "military_meeting"])


def test_untrue_claims_are_errors(tmp_path):
    (tmp_path / "a.bio").write_text("سليم B-PERSON\nأمس B-DATE\n", encoding="utf-8")
    source = {"path": "a.bio", "entities": {"PERS": "PERSON"}, "unannotated": ["DATE", "WEAPN"]}
    assert messages(write_yaml(tmp_path, ARTICLES, source)) == [
        (
            'unannotated names "WEAPN", which is not a label of the model; did you mean "WEAPON"?; allowed: '
            "ARMED_GROUP, DATE, LOCATION, MILITARY, ORGANIZATION, PERSON, WEAPON"
        ),
        f'{tmp_path / "a.bio"} marks "DATE" (1), which unannotated says it never does',
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"path": 3}, "sources[0].path is 3; allowed: a path relative to this file"),
        ({"path": "a.docx"}, 'sources[0].path is "a.docx"; allowed: an ending of .jsonl,'),
        ({"format": "xml"}, 'sources[0].format is "xml"; allowed: articles, conll'),
        ({"entities": ["PERS"]}, 'sources[0].entities is ["PERS"]; allowed: a mapping'),
        (
            {"entities": {"PERS": []}},
            "sources[0].entities.PERS is []; allowed: a label of the model or a list",
        ),
        ({"entities": {"PERS": 1}}, "sources[0].entities.PERS is 1; allowed: a label of the model or a list"),
        ({"unannotated": "DATE"}, 'sources[0].unannotated is "DATE"; allowed: a list of labels'),
        ({"ignore": [1]}, "sources[0].ignore is [1]; allowed: a list of labels"),
        ({"proclitics": 1}, "sources[0].proclitics is 1; allowed: true or false"),
        ({"weight": 0}, "sources[0].weight is 0; allowed: a number above 0"),
        ({"weight": True}, "sources[0].weight is true; allowed: a number above 0"),
        ({"split": "valid"}, 'sources[0].split is "valid"; allowed: train, dev, test'),
        ({"topics": ["a"]}, 'sources[0].topics is ["a"]; allowed: a mapping of this source'),
        ({"topics": {"a": ["b"]}}, 'sources[0].topics.a is ["b"]; allowed: a topic of the model'),
        ({"topics": {"a": "b"}, "ignore_topics": ["a"]}, '"a" is both in topics and in ignore_topics; allowed: one'),
        ({"topics": {"a": "b"}, "unannotated_topics": ["b"]}, '"b" is unannotated, yet topics maps to it'),
        ({"unannotated_topics": "a"}, 'sources[0].unannotated_topics is "a"; allowed: a list of labels'),
        ({"wieght": 1}, 'sources[0]: "wieght" is not a known key; did you mean "weight"?; allowed: path,'),
        ({"ignore": ["LOC"]}, 'sources[0]: "LOC" is both in entities and in ignore; allowed: one of them'),
        (
            {"unannotated": ["PERSON"]},
            'sources[0]: "PERSON" is unannotated, yet entities maps to it; allowed: one of them',
        ),
        ({"path": "absent.bio"}, "absent.bio: no such file"),
    ],
)
def test_wrong_sources(tmp_path, change, expected):
    (message,) = messages(write_yaml(tmp_path, {**TOKENS, **change}))
    assert expected in message


def test_all_problems_of_a_yaml_are_listed_at_their_lines(tmp_path):
    path = tmp_path / "corpus.yaml"
    path.write_text("source: 1\nsources:\n  - path: a.bio\n    weight: -1\n    no: x\n  - 5\n", encoding="utf-8")
    with pytest.raises(CorpusError) as caught:
        load_corpus(path)
    assert [(problem.line, problem.message) for problem in caught.value.problems] == [
        (None, '"source" is not a known key; did you mean "sources"?; allowed: sources'),
        (
            3,
            (
                "sources[0]: false is not a known key; allowed: "
                "path, format, split, entities, unannotated, ignore, topics, unannotated_topics, ignore_topics, "
                "proclitics, weight, licence, teacher"
            ),
        ),
        (3, "sources[0].weight is -1; allowed: a number above 0"),
        (6, "sources[1] is 5; allowed: a mapping with at least `path`"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "a corpus file is a mapping with the key `sources`"),
        ("- 1", "a corpus file is a mapping with the key `sources`"),
        ("sources: []", "sources is []; allowed: a list of one or more sources"),
        ("sources: {", "not YAML: "),
        ("sources:\n  - path: a\n    path: b", 'not YAML: key "path" stands twice'),
        ("sources: &a [*a]", "sources[0] is "),
        ("sources:\n  - path: {{ CORPUS }}", "not YAML: found unhashable key"),
        ("sources:\n  - path: a\n    licence: 2021-13-45", "not YAML: month must be in 1..12"),
    ],
)
def test_wrong_yaml(tmp_path, text, expected):
    path = tmp_path / "corpus.yaml"
    path.write_text(text, encoding="utf-8")
    assert expected in messages(path)[0]


def test_problems_of_all_sources_are_listed_together(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text("\n", encoding="utf-8")
    found = messages(write_yaml(tmp_path, {"path": "a.jsonl"}, {"path": "b.jsonl"}))
    assert found == ["text is missing; allowed: a string", f"{tmp_path / 'b.jsonl'} has no articles"]


def test_an_unknown_ending_is_an_error():
    with pytest.raises(KhabarError, match=r"news\.parquet: a corpus's ending says what it is; allowed: \.jsonl"):
        load_corpus("news.parquet")


def test_as_gold_gives_the_models_labels(tmp_path):
    source = {**TOKENS, "entities": {"PERS": "PERSON", "LOC": "LOCATION", "ORG": "ORGANIZATION"}}
    del source["unannotated"]
    (corpus,) = load_corpus(write_yaml(tmp_path, source))
    first, second = as_gold(corpus)
    assert first.entities == (
        Entity(start=4, end=16, label="PERSON"),
        Entity(start=23, end=29, label="LOCATION"),
    )
    assert surfaces(second) == [("نقابة المعلمين", "ORGANIZATION")]


def test_as_gold_says_where_names_keep_their_proclitics(tmp_path, caplog):
    for rows, said in (("ببغداد B-LOC\n", True), ("اليوم O\n", False)):
        path = tmp_path / "a.bio"
        path.write_text(rows, encoding="utf-8")
        (corpus,) = load_corpus(path)
        as_gold(corpus)
        assert ("a.bio: its names keep the" in caplog.text) is said
        caplog.clear()
    path.write_text("ب SpaceAfter=No O\nبغداد _ B-LOC\n", encoding="utf-8")
    (corpus,) = load_corpus(path)
    (article,) = as_gold(corpus)
    assert (article.text, corpus.annotation.proclitics) == ("ببغداد ", True)
    path.write_text("ببغداد B-LOC\n", encoding="utf-8")
    (corpus,) = load_corpus(write_yaml(tmp_path, {"path": str(path), "proclitics": True}))
    as_gold(corpus)
    assert "keep the" not in caplog.text


def test_as_gold_refuses_what_cannot_be_measured(tmp_path):
    _, tokens = load_corpus(write_yaml(tmp_path, ARTICLES, TOKENS))
    with pytest.raises(KhabarError, match="ORG stands for ORGANIZATION or MILITARY; DATE is not annotated"):
        as_gold(tokens)


@pytest.mark.parametrize(
    ("path", "n_sentences", "n_entities"),
    [
        ("anercorp/train.bio", 4284, 9002),
        ("newsfane/newsfane_without_anercorp_test.bio", 3867, None),
        ("wojood/train.txt", 2138, None),
        ("aqmar/train.txt", 1328, 3088),
    ],
)
def test_public_corpora_are_read(shared_data, path, n_sentences, n_entities):
    (corpus,) = load_corpus(shared_data / "ner" / path)
    assert corpus.counts.articles == n_sentences
    if n_entities is not None:
        assert sum(len(article.entities) for article in corpus.articles) == n_entities


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("PERSON", "Person"),
        ("military_meeting", "military-meeting"),
        ("PERSON", "PERSN"),
        ("PERSON", "PERSONS"),
        ("LOCATION", "LOCATOIN"),
        ("WEAPON", "WEAPOM"),
        ("منظمة", "منضمة"),
        ("loc", "LOC"),
    ],
)
def test_labels_that_are_spelt_alike(one, other):
    assert lookalikes({one, other, "something else"}) == [tuple(sorted((one, other)))]


@pytest.mark.parametrize(
    "labels",
    [
        ("military_meeting", "political_meeting"),
        ("LOC", "ORG", "GPE", "PER", "PERS"),
        ("EVENT1", "EVENT2", "EVENT12"),
        ("+", "-"),
        ("IMPORT", "EXPORT"),
        ("هجوم", "هدوء"),
    ],
)
def test_labels_that_are_not(labels):
    assert lookalikes(labels) == []


@given(st.sets(st.text("abcAB1-", min_size=1, max_size=7), max_size=30))
def test_no_pair_that_is_spelt_alike_is_missed(labels):
    spelt = {label: re.sub(r"[\W_]+", "", label.casefold()) for label in labels}
    expected = [pair for pair in combinations(sorted(labels), 2) if label_checks._alike(*map(spelt.get, pair))]
    assert lookalikes(labels) == expected


def test_a_slip_in_a_map_is_pointed_out(tmp_path, caplog):
    names = tmp_path / "names.bio"
    names.write_text("قال O\nسالم B-PERS\nمن O\nجنيف B-LOC\n", encoding="utf-8")
    more = tmp_path / "more.bio"
    more.write_text("زار O\nخالد B-PERSON\nدمشق B-LOC\n", encoding="utf-8")
    both = tmp_path / "both.yaml"
    both.write_text(
        "sources:\n  - path: names.bio\n    entities: {PERS: PERSN, LOC: LOC}\n  - path: more.bio\n", encoding="utf-8"
    )
    with caplog.at_level("WARNING", logger="khabar"):
        load_corpus(both)
    assert caplog.messages == ['entity labels "PERSN" and "PERSON" are spelt alike: one label, or two?']
    caplog.clear()
    load_corpora([both], entity_labels=["LOC", "PERSN", "PERSON"])
    assert caplog.messages == []


def test_a_file_that_is_given_twice_is_refused(tmp_path):
    path = tmp_path / "names.bio"
    path.write_text("قال O\nسالم B-PERS\n", encoding="utf-8")
    (tmp_path / "sub").mkdir()
    with pytest.raises(KhabarError, match=r"names\.bio is given twice; allowed: each file once"):
        load_corpora([path, tmp_path / "sub" / ".." / "names.bio"])
