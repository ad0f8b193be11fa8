"""The tokenizer: its cleaning, its offsets in the raw text for any input, training, saving and loading."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from wild import wild_texts

from khabar.models.errors import KhabarError, ModelFolderError
from khabar.models.text import MARK, build_tokenizer, load_tokenizer, train_vocabulary
from khabar.models.words import split_words

LINES = [
    "أعلنت وزارة الدفاع العراقية مقتل خمسة من عناصر التنظيم في قضاء مخمور يوم الاثنين 6 كانون الأول 2021.",
    'وقال المتحدث باسم الوزارة، في بيان: "القوات ردت على الهجوم"، مؤكدا أن الوضع تحت السيطرة!',
    "اجتمع رئيس الإقليم مع قائد قوات التحالف الدولي لبحث التعاون (F-16 و CNN) بنسبة 20.5 % في بغداد؟",
] * 3


@pytest.fixture(scope="module")
def tiny() -> PreTrainedTokenizerFast:
    return build_tokenizer(train_vocabulary(LINES, 320))


def pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> list[tuple[str, str]]:
    """Each piece with the part of the raw text it stands for."""
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    names = tokenizer.convert_ids_to_tokens(encoding["input_ids"])
    return [(name, text[a:b]) for name, (a, b) in zip(names, encoding["offset_mapping"], strict=True)]


def spelled(tokenizer: PreTrainedTokenizerFast, text: str) -> str:
    """The cleaned text, one space between what the pre-tokenizer parts."""
    return " ".join(name for name, _ in pieces(tokenizer, text)).replace(" ##", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (" \n\t\xa0", ""),
        ("قَالَ إنّ الــعراق", "قال إن العراق"),
        ("رااااائع!!!!", "راائع ! !"),
        ("111", "111"),
        ("٢٠٢١م و2021م", "2021 م و 2021 م"),
        ("F16 لـCNN", "F16 لCNN"),
        ("(بغداد)،«بغداد»", "( بغداد ) ، « بغداد »"),
        ("5/6", "5 - 6"),
        ("انظر https://a.example/b?c=1، ثم", "انظر [رابط] ، ثم"),
        ("news.iq/x و x.com", "[رابط] و [رابط]"),
        ("20.5 و U.S. و د.محمد", "20 . 5 و U . S . و د . محمد"),
        ("راسلنا A_b@Mail.IQ أو @user_1.", "راسلنا [بريد] أو [مستخدم] ."),
        ("كتب [رابط] هنا", "كتب [رابط] هنا"),
        ("[SEP] [رَابط] [ رابط ]", "[ SEP ] [رابط] [ رابط ]"),
        ("&quot;نعم&quot;&nbsp;لا &amp; R&D", '" نعم " لا R D'),
        ("<b>نعم</b><br/>3 < 4 > 2", "نعم 3 < 4 > 2"),
        ("أب\u200fجد 👍🏽", "أب جد"),
        ("\0", ""),
    ],
)
def test_cleaning(tiny: PreTrainedTokenizerFast, text: str, expected: str) -> None:
    assert spelled(tiny, text) == expected


@pytest.mark.parametrize(
    ("text", "piece", "surface"),
    [
        ("في https://a.example/b ثم", "[رابط]", "https://a.example/b"),
        ("راسلنا A_b@Mail.IQ الآن", "[بريد]", "A_b@Mail.IQ"),
        ("قال @user_1:", "[مستخدم]", "@user_1"),
        ("كتب [رَابط]", "[رابط]", "[رَابط]"),
        ("كتب [رابط]]]]", "[رابط]", "[رابط]]]"),
    ],
)
def test_replaced_pieces_span_what_they_stand_for(
    tiny: PreTrainedTokenizerFast, text: str, piece: str, surface: str
) -> None:
    assert (piece, surface) in pieces(tiny, text)


def folded(text: str) -> str:
    """What a piece and its surface must agree in: no marks, one kind of digit, repeats as one."""
    for value in range(10):
        text = text.replace(chr(0x660 + value), str(value)).replace(chr(0x6F0 + value), str(value))
    text = re.sub(f"[{MARK}]", "", text).replace("/", "-")
    return "".join(character for character, _ in itertools.groupby(text))


@given(wild_texts)
@settings(max_examples=300, deadline=None)
def test_offsets_for_any_text(tiny: PreTrainedTokenizerFast, text: str) -> None:
    encoding = tiny(text, add_special_tokens=False, return_offsets_mapping=True)
    words = split_words(text)
    last = 0
    for identifier, (start, end) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
        piece = tiny.convert_ids_to_tokens(identifier)
        assert last <= start < end <= len(text)
        last = end
        assert any(first <= start and end <= stop for first, stop in words), "a piece must not straddle two words"
        surface = text[start:end]
        if piece == '"' and surface == ";":
            assert re.search("&(quot|#34|#x22);$", text[:end])
        elif piece not in {"[UNK]", "[رابط]", "[بريد]", "[مستخدم]"}:
            assert folded(surface) == folded(piece.removeprefix("##"))


@given(wild_texts)
@settings(max_examples=100, deadline=None)
def test_special_pieces_never_come_from_text(tiny: PreTrainedTokenizerFast, text: str) -> None:
    special = {tiny.pad_token_id, tiny.cls_token_id, tiny.sep_token_id, tiny.mask_token_id}
    assert not special & set(tiny.backend_tokenizer.encode(f"[SEP]{text}[MASK]", add_special_tokens=False).ids)


@given(st.lists(wild_texts, min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_saved_tokenizer_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, tiny: PreTrainedTokenizerFast, batch: list[str]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "saved-tokenizer"
    if not folder.exists():
        tiny.save_pretrained(folder)
    for loaded in (load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)):
        again = loaded(batch, return_offsets_mapping=True)
        once = tiny(batch, return_offsets_mapping=True)
        assert again["input_ids"] == once["input_ids"]
        assert again["offset_mapping"] == once["offset_mapping"]


def test_sequences_begin_and_end(tiny: PreTrainedTokenizerFast) -> None:
    assert tiny.convert_ids_to_tokens(tiny("م").input_ids) == ["[CLS]", "م", "[SEP]"]


def test_long_runs_without_spaces_take_linear_time(tiny: PreTrainedTokenizerFast) -> None:
    for unit in ("a", "a.", "a@", "<a", "&quot", "ـ", "ا1", "http"):
        text = unit * (50_000 // len(unit))
        assert tiny.backend_tokenizer.encode(text) is not None
        assert split_words(text)


def test_vocabulary_is_complete_and_repeatable() -> None:
    vocabulary = train_vocabulary(iter(LINES), 320)
    assert vocabulary == train_vocabulary(iter(LINES), 320)
    assert len(vocabulary) == len(set(vocabulary)) == 320
    assert vocabulary[:8] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[رابط]", "[بريد]", "[مستخدم]"]
    assert "ال" in vocabulary
    assert "##]" not in vocabulary
    unseen = build_tokenizer(vocabulary)("ظظز؛ xQz {٫} ١٩", add_special_tokens=False).input_ids
    assert 1 not in unseen, "every character that cleaning keeps has a piece"


def test_vocabulary_from_few_words_is_smaller_than_asked() -> None:
    assert len(train_vocabulary(["كلمة واحدة", "كلمة"], 5000)) < 300


def test_vocabulary_size_must_hold_every_character() -> None:
    with pytest.raises(KhabarError, match=r"at least \d+ .* got 10"):
        train_vocabulary(LINES, 10)


def test_build_refuses_bad_vocabularies() -> None:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    with pytest.raises(KhabarError, match=r"'ا' occurs more than once"):
        build_tokenizer([*special, "ا", "ب", "ا"])
    with pytest.raises(KhabarError, match=r"'\[MASK\]' is missing among 5 pieces"):
        build_tokenizer([*special[:4], "ا"])
    with pytest.raises(KhabarError, match="ids must be 0 to 5"):
        build_tokenizer({**{piece: i for i, piece in enumerate(special)}, "ا": 9})


def test_arabert_folder_gets_the_cleaning(tmp_path: Path) -> None:
    vocabulary = train_vocabulary(LINES, 320)
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    for _ in range(2):  # as a bare vocabulary, then with the tokenizer.json that transformers makes of it
        loaded = load_tokenizer(tmp_path)
        assert spelled(loaded, "قَالَ: x.com") == "قال : [رابط]"
        assert loaded.pad_token_id == 0
        AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
        (tmp_path / "vocab.txt").unlink(missing_ok=True)
        assert (tmp_path / "tokenizer.json").is_file()


def test_other_tokenizers_are_taken_as_they_are(tmp_path: Path) -> None:
    pieces_of_bert = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "قال", "a", "b"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces_of_bert) + "\n", encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    loaded = load_tokenizer(tmp_path)
    assert loaded.backend_tokenizer.normalizer.__class__.__name__ == "BertNormalizer"
    assert len(loaded) == 8


def test_farasa_vocabularies_are_refused(tmp_path: Path) -> None:
    vocabulary = [*train_vocabulary(LINES, 320), "ال+", "و+", "+ة"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    for name in (tmp_path, "aubmindlab/bert-base-arabertv2", "aubmindlab/bert-base-arabert"):
        with pytest.raises(KhabarError, match="Farasa"):
            load_tokenizer(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such/folder", "no such folder"),
        ("./nothing", "no such folder"),
        ("aubmindlab/bert-base-arabertv02", "give a local model folder, or connect to a network"),
    ],
)
def test_missing_tokenizers_say_what_to_do(name: str, message: str) -> None:
    with pytest.raises(ModelFolderError, match=message):
        load_tokenizer(name)


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"expected tokenizer.json or vocab.txt"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.txt").write_bytes(b"a\n\xff\n")
    with pytest.raises(ModelFolderError, match="not UTF-8 at byte 2"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelFolderError, match="cannot be read"):
        load_tokenizer(tmp_path)
