"""Column files of tagged tokens: sentences, nested columns, and how every wrong line is named."""

from pathlib import Path

import pytest

from khabar.models.article import Article
from khabar.models.errors import CorpusError, KhabarError
from khabar.training.conll import bio_spans, iter_conll

DATA = Path(__file__).parent / "data"


def surfaces(article: Article) -> list[tuple[str, str]]:
    return [(article.text[entity.start : entity.end], entity.label) for entity in article.entities or ()]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("", []),
        ("O O", []),
        ("B-A I-A O B-A", [(0, 2, "A"), (3, 4, "A")]),
        ("B-A B-A I-A", [(0, 1, "A"), (1, 3, "A")]),
        ("B-A I-B", [(0, 1, "A"), (1, 2, "B")]),
        ("I-A I-A O", [(0, 2, "A")]),
        ("O I-A", [(1, 2, "A")]),
    ],
)
def test_bio_spans(tags, expected):
    assert bio_spans(tags.split()) == expected


def test_conll_sentences_become_articles():
    first, second = iter_conll(DATA / "tokens.bio")
    assert first.text == "زار سليم العبيدي مدينة بعقوبة أمس ."
    assert surfaces(first) == [("سليم العبيدي", "PERS"), ("بعقوبة", "LOC")]
    assert (first.id, second.id) == ("tokens.bio:1", "tokens.bio:9")
    assert first.topics is None
    assert first.segments is None


def test_nested_columns_give_the_outermost_entity():
    first, second = iter_conll(DATA / "nested.txt")
    assert surfaces(first) == [("مدير بلدية الرمادي", "OCC"), ("سوق الفلوجة", "FAC")]
    assert surfaces(second) == [("نقيب المهندسين", "OCC")]


def test_an_ignored_label_yields_to_the_name_inside_it():
    first, second = iter_conll(DATA / "nested.txt", ignore=["OCC"])
    assert surfaces(first) == [("مدير", "OCC"), ("بلدية الرمادي", "ORG"), ("سوق الفلوجة", "FAC")]
    assert surfaces(second) == [("نقيب", "OCC"), ("المهندسين", "ORG")]


def test_the_last_column_is_the_tag_when_others_are_not_tags(tmp_path):
    path = tmp_path / "four.conll"
    path.write_text("-DOCSTART- -X- -X- O\n\nبغداد NNP I-NP B-LOC\nآمنة JJ I-NP O\n", encoding="utf-8")
    (article,) = iter_conll(path)
    assert surfaces(article) == [("بغداد", "LOC")]


def test_phrases_beside_entities_are_no_outer_entities(tmp_path):
    path = tmp_path / "phrases.conll"
    path.write_text("زار B-VP O\nالوزير B-NP O\nبغداد B-NP B-LOC\n", encoding="utf-8")
    (article,) = iter_conll(path)
    assert surfaces(article) == [("بغداد", "LOC")]


def test_what_an_even_file_of_tags_is_taken_for_is_said(tmp_path, caplog):
    path = tmp_path / "even.bio"
    path.write_text("رئيس B-OCC O\nبلدية I-OCC B-ORG\nالفلوجة I-OCC I-ORG\n", encoding="utf-8")
    (article,) = iter_conll(path)
    assert surfaces(article) == [("رئيس بلدية الفلوجة", "OCC")]
    assert "even.bio: what stands in several columns is taken for entities in one another" in caplog.text
    caplog.clear()
    rows = ["كلمة O"] * 200 + ["بغداد B-PER B-LOC"]
    path.write_text("\n".join(rows), encoding="utf-8")
    list(iter_conll(path))
    assert "even.bio: what stands in several columns" in caplog.text, "one line of many may be a slip"
    caplog.clear()
    list(iter_conll(DATA / "nested.txt"))
    assert not caplog.text, "lines of different lengths speak for themselves"


def test_lines_with_other_columns_than_most_are_listed(tmp_path):
    path = tmp_path / "pos.conll"
    rows = ["-DOCSTART-", "", *["كلمة NN O"] * 5, "بغداد B-LOC", "في أبو ظبي B-LOC", "نينوى NNP B-LOC"]
    path.write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(CorpusError) as caught:
        list(iter_conll(path))
    assert [str(problem) for problem in caught.value.problems] == [
        f"{path}:8: 2 columns; allowed: 3, as on most lines of the file",
        f"{path}:9: 4 columns; allowed: 3, as on most lines of the file",
    ]


def test_tokens_with_spaces_are_kept_where_tabs_separate(tmp_path):
    path = tmp_path / "tabs.bio"
    path.write_bytes("\ufeffأبو ظبي\tB-LOC\r\nغدا\tO\r\n".encode())
    (article,) = iter_conll(path)
    assert article.text == "أبو ظبي غدا"
    assert surfaces(article) == [("أبو ظبي", "LOC")]


def test_all_wrong_lines_of_a_column_file_are_listed(tmp_path):
    path = tmp_path / "wrong.bio"
    path.write_bytes("بغداد B_LOC\nاليوم\n".encode() + b"\xd8 O\n" + "حلب I-\nنينوى O\n".encode())
    with pytest.raises(CorpusError) as caught:
        list(iter_conll(path))
    assert [str(problem) for problem in caught.value.problems] == [
        f'{path}:1: the tag of "بغداد" is "B_LOC"; allowed: O, B-LABEL, I-LABEL',
        f'{path}:2: "اليوم" has no tag; allowed: a token and its tag, separated by a tab or spaces',
        f"{path}:3: not UTF-8: byte 0xd8 at byte 1 of the line",
        f'{path}:4: the tag of "حلب" is "I-"; allowed: O, B-LABEL, I-LABEL',
    ]


def test_a_column_file_in_windows_1256_is_one_error(tmp_path):
    path = tmp_path / "old.bio"
    path.write_bytes("بغداد B-LOC\nاليوم O\nمدينة O\nجميلة O\n".encode("cp1256"))
    with pytest.raises(KhabarError, match="looks like Windows-1256") as caught:
        list(iter_conll(path))
    assert not isinstance(caught.value, CorpusError)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_column_file_in_utf16_is_one_error(tmp_path, encoding):
    path = tmp_path / "wide.bio"
    path.write_bytes("\ufeffبغداد\tB-LOC\nاليوم\tO\n".encode(encoding))
    with pytest.raises(KhabarError, match="is in UTF-16; allowed: UTF-8") as caught:
        list(iter_conll(path))
    assert not isinstance(caught.value, CorpusError)
