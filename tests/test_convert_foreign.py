"""Other tools' files, as those tools write them: what is read, what is left out with a count, what is wrong."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from khabar.models.article import Article, Entity, Segment
from khabar.models.errors import CorpusError, KhabarError
from khabar.training.convert import label_studio
from khabar.training.convert.formats import FORMATS
from khabar.training.convert.gathering import OVERLAPPING, Losses

TEXT = "😀 زار الوزير بغداد أمس"
BAGHDAD = (TEXT.index("بغداد"), TEXT.index("بغداد") + 5)


def read(name: str, path: Path) -> tuple[list[Article], Losses]:
    losses = Losses()
    return FORMATS[name].read(path, losses), +losses


def write_rows(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def problems(name: str, path: Path) -> list[str]:
    with pytest.raises(CorpusError) as caught:
        read(name, path)
    return [str(problem).removeprefix(str(path)) for problem in caught.value.problems]


def names(article: Article) -> list[tuple[str, str]]:
    return [(article.text[entity.start : entity.end], entity.label) for entity in article.entities or ()]


# Label Studio


def labelled(start: int, end: int, text: str, label: str, control: str = "ner") -> dict[str, Any]:
    value = {"start": start, "end": end, "text": text, "labels": [label]}
    return {"id": f"r{start}", "from_name": control, "to_name": "text", "type": "labels", "value": value}


def chosen(*topics: str) -> dict[str, Any]:
    return {"id": "c", "from_name": "about", "to_name": "text", "type": "choices", "value": {"choices": list(topics)}}


def task(*annotations: dict[str, Any], **data: object) -> dict[str, Any]:
    return {"id": 17, "data": {"text": TEXT, **data}, "annotations": list(annotations), "predictions": []}


def export(folder: Path, *tasks: object) -> Path:
    path = folder / "export.json"
    path.write_text(json.dumps(tasks, ensure_ascii=False, indent=2), encoding="utf-8")
    return path


def test_label_studio_counts_code_points(tmp_path):
    path = export(tmp_path, task({"result": [labelled(*BAGHDAD, "بغداد", "LOC"), chosen("visit")]}))
    assert read("label-studio", path) == (
        [Article(text=TEXT, id="17", topics=("visit",), entities=(Entity(start=13, end=18, label="LOC"),))],
        {},
    )


def test_label_studio_offsets_in_utf16_units_are_found_out_by_the_names(tmp_path):
    path = export(tmp_path, task({"result": [labelled(BAGHDAD[0] + 1, BAGHDAD[1] + 1, "بغداد", "LOC")]}))
    assert problems("label-studio", path) == [
        ':2: entities[0] (14 to 19) is "غداد " in the text; allowed: what the file says it is, "بغداد"'
    ]


def test_label_studio_names_with_line_breaks_match(tmp_path):
    broken = {"id": 1, "data": {"text": "أبو\nظبي"}, "annotations": [{"result": [labelled(0, 7, "أبو\\nظبي", "LOC")]}]}
    ((article,), losses) = read("label-studio", export(tmp_path, broken))
    assert names(article) == [("أبو\nظبي", "LOC")]
    assert not losses


def test_label_studio_what_is_not_chosen_is_none_where_it_was_asked_for(tmp_path):
    asked = task({"result": []}, annotates=["topics", "entities", "segments", "segment_topics"], id="a")
    other = task({"result": []}, annotates=["entities"], id="b")
    unasked = task({"result": []}, id="c")
    untouched = task(annotates=["topics"], id="d")
    articles, _ = read("label-studio", export(tmp_path, asked, other, unasked, untouched))
    assert [(one.topics, one.entities, one.segments) for one in articles] == [
        ((), (), ()),
        (None, (), None),
        (None, None, None),
        (None, None, None),
    ]


def test_label_studio_kinds_that_occur_were_asked_of_all_where_nothing_says(tmp_path):
    marked = task({"result": [labelled(*BAGHDAD, "بغداد", "LOC")]}, id="a")
    empty = task({"result": []}, id="b")
    articles, _ = read("label-studio", export(tmp_path, marked, empty))
    assert [(one.topics, one.entities) for one in articles] == [
        (None, (Entity(start=13, end=18, label="LOC"),)),
        (None, ()),
    ]


def test_label_studio_segments_with_their_topics(tmp_path):
    first = labelled(0, 12, TEXT[:12], label_studio.SEGMENT, label_studio.SEGMENTS)
    second = labelled(13, 18, TEXT[13:18], label_studio.SEGMENT, label_studio.SEGMENTS)
    of_second = {**second, "from_name": label_studio.SEGMENT_TOPICS, "type": "choices"}
    of_second["value"] = {"start": 13, "end": 18, "text": "بغداد", "choices": ["visit"]}
    kinds = ["topics", "segments", "segment_topics"]
    ((article,), _) = read(
        "label-studio", export(tmp_path, task({"result": [of_second, second, first]}, annotates=kinds))
    )
    assert article.segments == (Segment(start=0, end=12, topics=()), Segment(start=13, end=18, topics=("visit",)))
    assert article.topics == ("visit",)


def test_label_studio_leaves_out_and_says_so(tmp_path):
    nested = [
        labelled(*BAGHDAD, "بغداد", "LOC"),
        labelled(6, 18, TEXT[6:18], "PERSON"),
        labelled(6, 12, TEXT[6:12], "X"),
    ]
    relation = {"type": "relation", "from_id": "r6", "to_id": "r13"}
    first = task(
        {"result": [], "was_cancelled": True}, {"result": [chosen("x")]}, {"result": [*nested, relation]}, url="u"
    )
    second = {"data": {"text": "نص", "id": "b"}, "predictions": [{"result": []}]}
    (one, other), losses = read("label-studio", export(tmp_path, first, second))
    assert names(one) == [(TEXT[6:18], "PERSON")]
    assert other == Article(text="نص", id="b")
    assert losses == {
        OVERLAPPING: 2,
        'results of the type "relation"': 1,
        'values of the key "data.url"': 1,
        "annotations that were skipped (cancelled)": 1,
        "further annotations of a task (the ground truth is taken, else the last)": 1,
        "tasks with predictions and no annotation, taken as not annotated": 1,
    }


@pytest.mark.parametrize(
    ("annotator", "topics"), [(None, ("b",)), ("1", ("a",)), ("2", ("b",)), ("sara@a.example", ("b",))]
)
def test_label_studio_annotations_of_one_annotator(tmp_path, annotator, topics):
    by_first = {"completed_by": 1, "result": [chosen("a")]}
    by_second = {"completed_by": {"id": 2, "email": "sara@a.example"}, "result": [chosen("b")]}
    (article,) = label_studio.read(export(tmp_path, task(by_first, by_second)), Losses(), annotator)
    assert article.topics == topics


def test_label_studio_an_unknown_annotator_is_an_error(tmp_path):
    path = export(tmp_path, task({"completed_by": 1, "result": []}))
    with pytest.raises(KhabarError, match=r'no annotation by "3"; allowed: 1'):
        label_studio.read(path, Losses(), "3")


def test_label_studio_wrong_tasks_are_named_by_line(tmp_path):
    path = tmp_path / "export.json"
    path.write_text(
        '[{"data": {"text": "نص", "id": "a"}},\n{"data": {"body": "نص"}},\n3,\n{"data": {"text": "نص", "id": "a"}},\n'
        '{"data": {"text": "نص"}, "annotations": [{"result": [{"type": "labels", "value": {"start": 0, "end": 9, '
        '"labels": ["X"]}}]}]}\n,{"data"}]',
        encoding="utf-8",
    )
    assert problems("label-studio", path) == [
        ":2: the task's data holds \"body\"; allowed: an object with the article's text as text",
        ":3: an item of the list is an object, got 3",
        ':4: id is "a", the id of line 1 too; allowed: each id once',
        ":5: entities[0].end is 9, past the end of the text (2)",
        ":6: not JSON: Expecting ':' delimiter at column 9",
    ]


def test_label_studio_json_min_is_one_error(tmp_path):
    value = {"start": 13, "end": 18, "text": "بغداد", "labels": ["LOC"]}
    one = {"text": TEXT, "id": 17, "ner": [value], "annotator": 1, "annotation_id": 3, "lead_time": 8.1}
    path = export(tmp_path, one, {**one, "id": 18})
    with pytest.raises(KhabarError) as caught:
        read("label-studio", path)
    assert str(caught.value) == f"{path} is Label Studio's export JSON-MIN; allowed: its export JSON"


def test_a_file_that_is_no_list_is_no_export(tmp_path):
    path = write_rows(tmp_path / "x.json", {"text": "نص"})
    assert problems("label-studio", path) == [':1: the file begins with "{\\"text\\": \\"نص\\"}"; allowed: a JSON list']


def test_a_number_too_long_for_python_is_named(tmp_path):
    (tmp_path / "x.json").write_text('[{"id": ' + "9" * 5000 + "}]", encoding="utf-8")
    assert problems("label-studio", tmp_path / "x.json") == [":1: not JSON that can be used: a number of 5,000 digits"]


# doccano


def test_doccano_counts_utf16_units(tmp_path):
    # As an export of sequence labelling has it, and as one with relations.
    path = write_rows(
        tmp_path / "all.jsonl",
        {"id": 1, "text": TEXT, "label": [[14, 19, "LOC"]], "Comments": []},
        {"id": 2, "text": TEXT, "entities": [{"id": 7, "label": "LOC", "start_offset": 14, "end_offset": 19}]},
    )
    articles, losses = read("doccano", path)
    assert [names(article) for article in articles] == [[("بغداد", "LOC")]] * 2
    assert [article.id for article in articles] == ["1", "2"]
    assert not losses


def test_doccano_labels_are_topics_or_entities_as_the_file_shows(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", {"text": "نص", "label": []}, {"text": "نص", "label": ["visit"]})
    assert [article.topics for article in read("doccano", path)[0]] == [(), ("visit",)]
    path = write_rows(tmp_path / "b.jsonl", {"text": "نص", "label": []}, {"text": "نص", "label": [[0, 2, "X"]]})
    assert [len(article.entities) for article in read("doccano", path)[0]] == [0, 1]
    articles, losses = read("doccano", write_rows(tmp_path / "c.jsonl", {"text": "نص", "label": []}))
    assert articles == [Article(text="نص")]
    assert losses == {"empty label lists that do not show what they are of, taken as not annotated": 1}


def test_doccano_a_label_that_is_no_list_is_named_whatever_others_hold(tmp_path):
    rows = [{"text": "نص", "label": "visit"}, {"text": "نص", "label": ["visit"]}]
    for kept in (rows, rows[:1]):
        path = write_rows(tmp_path / "a.jsonl", *kept)
        assert problems("doccano", path) == [':1: label is "visit"; allowed: a list of topics, or of entities']


def test_doccano_wrong_rows_are_all_named(tmp_path):
    path = write_rows(
        tmp_path / "all.jsonl",
        {"text": TEXT, "entities": [[1, 4, "X"], [0, 99, "X"]]},
        {"text": TEXT, "entities": [["0", 4, "X"]]},
        ["نص"],
    )
    allowed = "allowed: offsets in UTF-16 units, in the text and not in a character's midst"
    forms = "[start, end, label], or an object with start_offset, end_offset and label"
    assert sorted(problems("doccano", path)) == [
        f":1: entities[0] is from 1 to 4; {allowed}",
        f":1: entities[1] is from 0 to 99; {allowed}",
        f':2: entities[0] is ["0", 4, "X"]; allowed: {forms}',
        ':3: a line is a JSON object, got ["نص"]',
    ]


# Prodigy


def test_prodigy_spans_options_and_answers(tmp_path):
    path = write_rows(
        tmp_path / "db-out.jsonl",
        {
            "text": TEXT,
            "meta": {"source": "وكالة", "page": 3},
            "_input_hash": 1,
            "tokens": [{"text": "😀", "start": 0, "end": 1, "id": 0}],
            "spans": [{"start": 13, "end": 18, "token_start": 3, "token_end": 3, "label": "LOC", "text": "بغداد"}],
            "options": [{"id": "visit", "text": "visit"}, {"id": "attack", "text": "attack"}],
            "accept": ["visit"],
            "answer": "accept",
        },
        {"text": TEXT, "spans": [], "answer": "accept"},
        {"text": TEXT, "spans": [], "answer": "reject"},
        {"text": TEXT, "spans": [], "answer": "ignore"},
    )
    (first, second), losses = read("prodigy", path)
    assert (first.source, first.topics, names(first)) == ("وكالة", ("visit",), [("بغداد", "LOC")])
    assert (second.topics, second.entities) == (None, ())
    assert losses == {
        'values of the key "meta.page"': 1,
        'tasks answered with "reject"': 1,
        'tasks answered with "ignore"': 1,
    }


def test_prodigy_binary_answers_are_refused(tmp_path):
    path = write_rows(tmp_path / "binary.jsonl", {"text": TEXT, "label": "visit", "answer": "accept"})
    (message,) = problems("prodigy", path)
    assert message.startswith(':1: label is "visit"; allowed: spans and accept')


# brat


def brat_folder(folder: Path, ann: str, text: str = TEXT) -> Path:
    folder.joinpath("doc.txt").write_text(text, encoding="utf-8", newline="")
    folder.joinpath("doc.ann").write_text(ann, encoding="utf-8", newline="")
    return folder


def test_brat_fragments_nesting_and_what_is_no_entity(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_text("نص بلا ملف", encoding="utf-8")
    folder = brat_folder(
        tmp_path,
        "T1\tLOC 13 18\tبغداد\nT2\tPERSON 6 12;13 18\tالوزير بغداد\nT3\tX 2 5;13 18\tزار بغداد\n"
        "R1\tAt Arg1:T1 Arg2:T2\n#1\tAnnotatorNotes T1\tملاحظة\n\n",
    )
    (first, second), losses = read("brat", folder)
    assert names(first) == [("الوزير بغداد", "PERSON")]
    assert (second.id, second.entities) == ("sub/b", None)
    assert losses == {
        OVERLAPPING: 1,
        "annotations that are no entities: relations, events, attributes, notes": 2,
        "entities in several places (discontinuous)": 1,
    }


def test_brat_names_around_line_breaks_are_written_in_fragments(tmp_path):
    article = Article(id="a", text="في أبو\n\tظبي.", entities=(Entity(start=3, end=11, label="LOC"),))
    FORMATS["brat"].write([article], tmp_path / "out", Losses())
    assert (tmp_path / "out" / "a.ann").read_text(encoding="utf-8") == "T1\tLOC 3 6;8 11\tأبو ظبي\n"
    assert "LOC\n" in (tmp_path / "out" / "annotation.conf").read_text(encoding="utf-8")
    assert read("brat", tmp_path / "out") == ([article], {})


def test_brat_wrong_lines_are_all_named(tmp_path):
    folder = brat_folder(tmp_path, "T1\tLOC 14 18\tبغداد\nT2\tLOC 13\tبغداد\nT3\tLOC 13 99\tبغداد\nT4\tLOC 9 5\tx\n")
    assert [message.removeprefix("/doc.ann") for message in problems("brat", folder)] == [
        ':1: 14 18 is "غداد" in the text; allowed: what the line says it is, "بغداد"',
        ':2: the line is "T2\\tLOC 13\\tبغداد"; allowed: T1, tab, a label and offsets, tab, the text there',
        ":3: the offsets are 13 99; allowed: in order and within the text (22 characters)",
        ":4: the offsets are 9 5; allowed: in order and within the text (22 characters)",
    ]


def test_brat_ids_that_cannot_be_file_names_are_counted(tmp_path):
    ids = ["a/b", "..", "A", "a", "x" * 200, None, "article-1"]
    articles = [Article(text="نص", id=one) for one in ids]
    losses = Losses()
    FORMATS["brat"].write(articles, tmp_path / "out", losses)
    assert losses == {"ids that cannot be file names": 4}
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.txt")) == [
        *("A", "article-1", "article-2", "article-3", "article-4", "article-5", "article-6"),
    ]


def test_an_id_of_more_bytes_than_a_file_name_may_have_is_replaced(tmp_path):
    articles = [
        Article(id="国" * 99, text="زار بغداد", entities=()),
        Article(id="خبر" * 33, text="زار دمشق", entities=()),
    ]
    losses = Losses()
    FORMATS["brat"].write(articles, tmp_path / "out", losses)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.txt")) == ["article-1.txt", f"{'خبر' * 33}.txt"]
    assert losses == {"ids that cannot be file names": 1}


# CSV


def test_a_table_made_by_hand(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('text,topics,editor\nنص,visit; attack,سارة\n"نص\nثان",-,\nثالث,,\n', encoding="utf-8")
    articles, losses = read("csv", path)
    assert [(one.text, one.topics) for one in articles] == [
        ("نص", ("visit", "attack")),
        ("نص\nثان", ()),
        ("ثالث", None),
    ]
    assert losses == {'values of the key "editor"': 1}


def test_wrong_rows_of_a_table_are_all_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("id,text,topics\na,نص\nb,نص,x; x\nb,نص,\n".encode() + b"c,\xd8,\n")
    assert [message.split(";")[0] for message in problems("csv", path)] == [
        ":2: 2 fields",
        ':3: topics[1] is "x" again',
        ":5: not UTF-8: byte 0xd8 in column text at character 1",
    ]
    path.write_text("id,body\na,نص\n", encoding="utf-8")
    with pytest.raises(KhabarError, match=r't\.csv:1: the columns are "id", "body"; needed: "text"'):
        read("csv", path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "id;text;topics\n",
            ':1: the columns are "id;text;topics": fields seem to be separated by ";"; allowed: commas',
        ),
        ("id\ttext\n", ':1: the columns are "id\\ttext": fields seem to be separated by tabs; allowed: commas'),
        (
            "text\nزار الوزير مدينة بغداد أمس\n",
            " is not in UTF-8 and looks like Windows-1256; allowed: UTF-8 (iconv -f cp1256 -t utf-8)",
        ),
    ],
)
def test_a_table_of_another_form_is_one_error(tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content.encode("cp1256"))
    with pytest.raises(KhabarError) as caught:
        read("csv", path)
    assert str(caught.value) == f"{path}{message}"


@pytest.mark.parametrize(
    ("column", "guess"), [("topic", '; did you mean "topic"?'), ("Topics", '; did you mean "Topics"?'), ("label", "")]
)
def test_a_table_whose_labels_are_in_an_unknown_column_is_an_error(tmp_path, column, guess):
    path = tmp_path / "t.csv"
    path.write_text(f"id,text,{column}\na,نص,visit\n", encoding="utf-8")
    with pytest.raises(KhabarError) as caught:
        read("csv", path)
    assert str(caught.value) == (
        f'{path}:1: the columns are "id", "text", "{column}"; needed: "topics", with a table\'s labels (empty where '
        f"nobody has looked){guess}"
    )


def test_a_table_of_texts_alone_is_not_annotated(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,text\na,نص\n", encoding="utf-8")
    assert read("csv", path) == ([Article(text="نص", id="a")], {})


# spaCy


def test_docs_that_spacy_made(tmp_path):
    import spacy
    from spacy.tokens import DocBin, Span

    nlp = spacy.blank("ar")
    marked, partly, plain = (nlp(TEXT) for _ in range(3))
    marked.ents = [Span(marked, 3, 4, label="LOC")]
    marked.cats = {"visit": 0.9, "attack": 0.1}
    marked.spans["sc"] = [Span(marked, 0, 1, label="x")]
    partly.set_ents([Span(partly, 3, 4, label="LOC")], default="missing")
    DocBin(docs=[marked, partly, plain]).to_disk(tmp_path / "a.spacy")
    articles, losses = read("spacy", tmp_path / "a.spacy")
    assert [(one.text, one.topics, names(one)) for one in articles] == [
        (TEXT, ("visit",), [("بغداد", "LOC")]),
        (TEXT, None, []),
        (TEXT, None, []),
    ]
    assert [one.entities is None for one in articles] == [False, True, True]
    assert losses == {
        "spans of the group sc": 1,
        "docs whose entities are annotated in part, taken as not annotated": 1,
    }


def test_spacy_can_train_on_what_is_written(tmp_path):
    import spacy
    from spacy.tokens import DocBin
    from spacy.training import Example

    text = "والجيش في بغداد.\nانتهى"
    article = Article(
        text=text,
        entities=(Entity(start=1, end=6, label="MILITARY"), Entity(start=10, end=15, label="LOC")),
        topics=("visit",),
    )
    FORMATS["spacy"].write([article, Article(text="نص", topics=())], tmp_path / "a.spacy", Losses())
    nlp = spacy.blank("ar")
    recognizer, categorizer = nlp.add_pipe("ner"), nlp.add_pipe("textcat_multilabel")
    docs = list(DocBin().from_disk(tmp_path / "a.spacy").get_docs(nlp.vocab))
    examples = [Example(nlp.make_doc(doc.text), doc) for doc in docs]
    assert docs[1].cats == {"visit": 0.0}
    nlp.initialize(lambda: examples)
    assert set(recognizer.labels) == {"MILITARY", "LOC"}
    assert set(categorizer.labels) == {"visit"}
    assert nlp.update(examples)["ner"] > 0


def test_what_is_no_docbin_is_refused(tmp_path):
    (tmp_path / "a.spacy").write_bytes(b"not one")
    with pytest.raises(KhabarError, match="is no DocBin that spaCy can read"):
        read("spacy", tmp_path / "a.spacy")


# datasets


def test_a_dataset_of_tagged_tokens(tmp_path):
    from datasets import ClassLabel, Dataset, Features, List, Value

    features = Features(
        {
            "id": Value("int64"),
            "tokens": List(Value("string")),
            "ner_tags": List(ClassLabel(names=["O", "B-LOC", "I-LOC"])),
        }
    )
    rows = [{"id": 4, "tokens": ["في", "أبو", "ظبي", "."], "ner_tags": [0, 1, 2, 0]}]
    Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "d")
    ((article,), _) = read("datasets", tmp_path / "d")
    assert (article.id, article.text, names(article)) == ("4", "في أبو ظبي.", [("أبو ظبي", "LOC")])


def test_rows_of_a_dataset_that_are_no_articles_are_named(tmp_path):
    from datasets import Dataset, Features, List, Value

    rows = [{"tokens": "في بغداد", "ner_tags": "O B-LOC"}]
    Dataset.from_list(rows).save_to_disk(tmp_path / "plain")
    with pytest.raises(CorpusError, match="tokens or ner_tags is no list"):
        read("datasets", tmp_path / "plain")
    features = Features({"tokens": List(Value("string")), "ner_tags": List(Value("string"))})
    rows = [{"tokens": ["في"], "ner_tags": ["O"]}, {"tokens": None, "ner_tags": ["O"]}]
    Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "null")
    with pytest.raises(CorpusError) as caught:
        read("datasets", tmp_path / "null")
    assert [problem.line for problem in caught.value.problems] == [2]


def test_numbers_of_a_dataset_s_articles_become_ids(tmp_path):
    from datasets import Dataset

    Dataset.from_list([{"id": 5, "text": "خبر"}]).save_to_disk(tmp_path / "d")
    ((article,), _) = read("datasets", tmp_path / "d")
    assert article.id == "5"


def test_folders_with_several_datasets_or_other_columns_are_refused(tmp_path):
    from datasets import Dataset, DatasetDict

    other = Dataset.from_list([{"body": "نص"}])
    DatasetDict({"train": other, "test": other}).save_to_disk(tmp_path / "d")
    with pytest.raises(KhabarError, match=r"holds several datasets; give one of them: .*d/train, .*d/test"):
        read("datasets", tmp_path / "d")
    with pytest.raises(KhabarError, match="has the columns body; allowed: text, or tokens and ner_tags"):
        read("datasets", tmp_path / "d" / "train")
    with pytest.raises(KhabarError, match="cannot be read as a folder of datasets"):
        read("datasets", tmp_path)


# Whatever a file holds, it is read or refused with its place.

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 40) | st.text("نصa\n", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["text", "id", "start"]), inner, max_size=2)
    ),
    max_leaves=4,
)
FULL = Article(
    text=TEXT,
    id="a",
    source="وكالة",
    topics=("visit",),
    segments=(Segment(start=0, end=12, topics=("visit",)), Segment(start=13, end=18)),
    entities=(Entity(start=13, end=18, label="LOC"),),
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a JSON value, with each of its keys or indices."""
    if not isinstance(value, dict | list):
        return []
    keys = list(value) if isinstance(value, dict) else range(len(value))
    return [place for key in keys for place in [(value, key), *places(value[key])]]


@pytest.mark.parametrize("name", ["label-studio", "doccano", "prodigy"])
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_files_are_refused_and_never_crash(name, tmp_path, data):
    path = tmp_path / "corpus"
    FORMATS[name].write([FULL], path, Losses())
    content = json.loads(path.read_text(encoding="utf-8"))
    container, key = data.draw(st.sampled_from(places(content)))
    container[key] = data.draw(json_values)
    path.write_text(json.dumps(content), encoding="utf-8")
    with suppress(CorpusError):
        read(name, path)
