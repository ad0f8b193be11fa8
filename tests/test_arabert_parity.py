"""Our pieces of raw text are those of AraBERT v0.2: the `arabert` package, then BERT's tokenizer."""

from __future__ import annotations

import io
from itertools import islice
from pathlib import Path

import pytest
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece

from khabar.models.text import EMAIL, LINK, MENTION, load_tokenizer

N_LINES = 20_000
STEP = 26  # lines from all over the corpus, which has 532,442


@pytest.fixture(scope="module")
def lines(shared_data: Path) -> list[str]:
    zstandard = pytest.importorskip("zstandard")
    with (shared_data / "text" / "news.txt.zst").open("rb") as file:
        stream = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8", newline="\n")
        paragraphs = (line.rstrip("\n") for line in stream if not line.isspace())
        return list(islice(paragraphs, 0, N_LINES * STEP, STEP))


def published_tokenizer(vocabulary: Path) -> Tokenizer:
    """BERT's tokenizer as AraBERT v0.2 configures it: case kept, its three own pieces never split."""
    pieces = vocabulary.read_text(encoding="utf-8").split("\n")[:-1]
    tokenizer = Tokenizer(WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([LINK, EMAIL, MENTION])
    return tokenizer


@pytest.mark.parametrize("n_lines", [N_LINES // 10, pytest.param(N_LINES, marks=pytest.mark.slow)])
def test_pieces_are_those_of_the_arabert_package(shared_data: Path, lines: list[str], n_lines: int) -> None:
    reason = "needs the package arabert: pip install 'khabar[dev]'"
    preprocess = pytest.importorskip("arabert.preprocess", reason=reason)
    lines = lines[:: N_LINES // n_lines]
    folder = shared_data / "tokenizers" / "arabert-v01"
    cleaned = list(map(preprocess.ArabertPreprocessor("bert-base-arabertv02").preprocess, lines))
    theirs = published_tokenizer(folder / "vocab.txt").encode_batch(cleaned, add_special_tokens=False)
    ours = load_tokenizer(folder).backend_tokenizer.encode_batch(lines, add_special_tokens=False)

    different = [(a.tokens, b.tokens) for a, b in zip(ours, theirs, strict=True) if a.tokens != b.tokens]
    for one, other in different:
        print(around_difference(one, other))  # shown by pytest -rP, and when the test fails
    assert len(lines) == n_lines
    assert len(different) <= n_lines / 1000, f"{len(different)} of {n_lines} lines differ"


def around_difference(ours: list[str], theirs: list[str]) -> str:
    """The first pieces that differ, with three before them."""
    same = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    window = slice(max(same - 3, 0), same + 5)
    return f"ours: {' '.join(ours[window])} | arabert: {' '.join(theirs[window])}"
