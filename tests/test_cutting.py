"""What is remembered of tokens: texts are cut as if nothing were, whoever cuts them and whatever was cut before."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import PreTokenizer, Whitespace
from transformers import PreTrainedTokenizerFast
from wild import wild_texts

from khabar.models import cutting
from khabar.models.cutting import Cut, Cutter
from khabar.models.text import build_tokenizer
from khabar.models.words import split_words

# What the cleaning looks for, and what only looks like it.
_RARE = st.text(st.sampled_from("&<>@\ue000\ue0012\u0662\u06f3;:/.-_ \nabchtpwمماا؟ـ"), max_size=30)
TEXTS = [
    "أعلنت وزارة الدفاع مقتل خمسة من عناصر التنظيم، في قضاء مخمور.",
    "وقالت الوزارة  في بيان\nإن القوات ردت على الهجوم https://a.example/x?y=1",
    "",
    "في <a href='x.com'>بغداد</a> قتل خمسة",
    "واااااا " + "م" * 150,
    " في قضاء مخمور ",
]


def another_of(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Build another one of the same pieces, to change."""
    return build_tokenizer(tokenizer.get_vocab())


def plainly(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Cut a text whole, without any of what is tested here: ids, where they begin, and words that have pieces."""
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    starts = [start for start, _ in encoding.offsets]
    words = [(start, end) for start, end in split_words(text) if any(start <= at < end for at in starts)]
    return encoding.ids, starts, words


def seen(cut: Cut) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    words = [(start, end) for start, end in cut.words.tolist()]
    firsts = [min(i for i, at in enumerate(cut.starts) if start <= at < end) for start, end in words]
    assert cut.word_pieces.tolist() == firsts
    return cut.ids.tolist(), cut.starts.tolist(), words


@given(st.lists(st.one_of(wild_texts, _RARE), max_size=6))
@settings(max_examples=500, deadline=None)
def test_texts_are_cut_as_if_each_stood_alone(tokenizer: PreTrainedTokenizerFast, batch: list[str]) -> None:
    expected = [plainly(tokenizer, text) for text in batch]
    assert [seen(cut) for cut in Cutter.of(tokenizer).cut(batch)] == expected
    assert [seen(cut) for cut in Cutter.of(tokenizer).cut(batch)] == expected, "as it is remembered"
    assert [seen(cut) for cut in Cutter(tokenizer).cut(batch)] == expected, "by one that knows nothing yet"


def test_what_was_cut_once_is_not_cut_again(tokenizer: PreTrainedTokenizerFast, monkeypatch) -> None:
    cutter = Cutter(tokenizer)
    expected = [seen(cut) for cut in cutter.cut(TEXTS)]
    asked: list[str] = []
    whole = cutter._cut_whole

    def recorded(texts: Sequence[str]) -> list[Cut]:
        asked.extend(texts)
        return whole(texts)

    monkeypatch.setattr(cutter, "_cut_whole", recorded)
    assert [seen(cut) for cut in cutter.cut(TEXTS)] == expected
    assert asked == [TEXTS[3]], "a tag reaches across spaces"
    cutter.cut([f"{TEXTS[0]} بغداد؟!", "مخمور."])
    assert asked == [TEXTS[3], "بغداد؟!"]


def test_it_forgets_all_when_it_remembers_much(tokenizer: PreTrainedTokenizerFast, monkeypatch) -> None:
    monkeypatch.setattr(cutting, "MOST_REMEMBERED", 10)
    cutter = Cutter(tokenizer)
    held = []
    for text in TEXTS * 3:
        assert seen(cutter.cut([text])[0]) == plainly(tokenizer, text)
        held.append(cutter._memory.size)
    assert max(held) <= 10 * 17 + max(len(text) + 10 * len(text.split(" ")) for text in TEXTS)
    assert any(later < earlier for earlier, later in pairwise(held))


@pytest.mark.parametrize("table", ["pieces", "words"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_what_is_interrupted_while_it_learns_leaves_nothing_wrong(tokenizer, monkeypatch, table, moment) -> None:
    cutter = Cutter(tokenizer)
    cutter.cut(TEXTS[:2])
    rows = getattr(cutter._memory, table)
    put = rows.put

    def interrupted(*given: object) -> None:
        if moment == "after":
            put(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(rows, "put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cutter.cut(["ثلاث كلمات جديدة، ورابعة"])
    monkeypatch.undo()
    for text in [*TEXTS, "كلمات أخرى من الأخبار"] * 2:
        assert seen(cutter.cut([text])[0]) == plainly(tokenizer, text)


def test_several_threads_may_cut_at_once(tokenizer: PreTrainedTokenizerFast, monkeypatch) -> None:
    monkeypatch.setattr(cutting, "MOST_REMEMBERED", 200)
    words = [word for text in TEXTS for word in text.split()]
    texts = [" ".join(f"{one}{n % 7}{other}" for n, other in enumerate(words)) for one in words]
    expected = [plainly(tokenizer, text) for text in texts]
    cutter = Cutter(tokenizer)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: cutter.cut([texts[n % len(texts)]])[0], range(20 * len(texts))))
    for n, cut in enumerate(found):
        assert seen(cut) == expected[n % len(texts)]


def test_a_cutter_knows_its_tokenizer_and_leaves_no_padding(tokenizer: PreTrainedTokenizerFast) -> None:
    own = another_of(tokenizer)
    cutter = Cutter.of(own)
    assert Cutter.of(own) is cutter
    own(["قال", "قال إن الوزير"], padding=True, truncation=True, max_length=3)
    assert [len(cut.ids) for cut in cutter.cut(["م؟", "م؟ م؟ م؟"])] == [2, 6]
    own.add_special_tokens({"additional_special_tokens": [AddedToken("في", special=True)]})
    assert [seen(cut) for cut in Cutter.of(own).cut(TEXTS)] == [plainly(own, text) for text in TEXTS]


@pytest.mark.parametrize("added", ["خبرجديد", "##م", "قضاء مخمور"])
def test_pieces_that_were_added_are_found(tokenizer: PreTrainedTokenizerFast, added: str) -> None:
    own = another_of(tokenizer)
    Cutter.of(own).cut([added])
    own.add_tokens([added])
    (cut,) = Cutter.of(own).cut([added])
    assert own.convert_ids_to_tokens(cut.ids.tolist()) == [added]


def test_special_pieces_in_a_text_are_found_where_a_tokenizer_says_so(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    own = another_of(tokenizer)
    text = "قال [SEP] م"
    for copy in (own, deepcopy(own), pickle.loads(pickle.dumps(own))):
        assert own.sep_token_id not in Cutter.of(copy).cut([text])[0].ids
        copy.split_special_tokens = False
        assert own.sep_token_id in Cutter.of(copy).cut([text])[0].ids
        copy.split_special_tokens = True


def test_a_tokenizer_that_splits_or_cleans_otherwise_cuts_whole_texts(tokenizer: PreTrainedTokenizerFast) -> None:
    own = another_of(tokenizer)
    Cutter.of(own).cut(TEXTS)
    own.backend_tokenizer.pre_tokenizer = Whitespace()
    assert [seen(cut) for cut in Cutter.of(own).cut(TEXTS)] == [plainly(own, text) for text in TEXTS]
    own.backend_tokenizer.normalizer = Lowercase()
    assert [cut.ids.tolist() for cut in Cutter.of(own).cut(TEXTS)] == [plainly(own, text)[0] for text in TEXTS]


def test_a_tokenizer_with_a_part_written_in_python_is_taken_as_it_is(tokenizer: PreTrainedTokenizerFast) -> None:
    class Whole:
        def pre_tokenize(self, _text: object) -> None:
            """Leave it whole."""

    own = another_of(tokenizer)
    own.backend_tokenizer.pre_tokenizer = PreTokenizer.custom(Whole())
    assert len(Cutter.of(own).cut(["م"])[0].ids) == 1
