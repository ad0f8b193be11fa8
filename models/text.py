"""Turns raw Arabic text into word pieces with offsets in the raw text.

AraBERT v0.2's cleaning is the normalizer and pre-tokenizer of tokenizer.json: a saved tokenizer needs no
code of ours. Knows nothing of articles, segments or models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from tokenizers.trainers import WordPieceTrainer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from khabar.models.errors import KhabarError, ModelFolderError

# Pieces that stand for a link, an e-mail address and a mention in AraBERT's vocabularies.
LINK, EMAIL, MENTION = STANDING = "[رابط]", "[بريد]", "[مستخدم]"
SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

# Members of character classes, spelled out: `\s` and `\w` mean different sets to Python and to `tokenizers`.
SPACE = "\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
LATIN = "A-Za-z"
ARABIC = "\u0621-\u063a\u0641-\u064a"
DIGIT = "0-9\u0660-\u0669\u06f0-\u06f9"
MARK = (  # vowel signs and tatweel: they leave no trace in pieces
    "\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed"
)
# All that AraBERT keeps beside letters and digits.
SYMBOLS = "!\"#$%'()*+,-.:;<=>?@[\\]^_`{|}~«»·–—‘’“”…،؛؟٪٫٬ٱٲٳٴ"

_ADDRESS = f"{LATIN}{ARABIC}0-9_"
_HOST = f"\\-{LATIN}0-9@:%._+~#="
# While text is rewritten, a private-use character stands for the first one of a link, address or mention.
_HEADS = {LINK: "\ue000", EMAIL: "\ue001", MENTION: "\ue002"}

_STANDING = "|".join(map(re.escape, STANDING))

# What leaves no piece, and the one HTML entity that does.
ENTITY = "&(?:#[0-9]{1,7}|#x[0-9A-Fa-f]{1,6}|amp|apos|lt|gt|nbsp|quot|[lr]aquo|[lr][sd]quo|[nm]dash|hellip);"
QUOTE_ENTITY = "&(?:quot|#34|#x22);"
TAG = f"</?[{LATIN}][^<>]{{0,500}}>"

_HOST_NAME = (  # from its first character: «news.example», or a one-letter name under .com
    f"(?<![{_HOST}])[{_HOST}](?=[{_HOST}]{{0,64}}\\.(?:com|(?<=[{_HOST}]{{2}}\\.)[a-z]{{2,6}})(?![{_ADDRESS}]))"
)
# What becomes one piece: the piece, a pattern of the first character, the characters of the rest. Bounded
# repeats keep the search linear on long runs without a space.
REPLACED: tuple[tuple[str, str, str], ...] = (
    (LINK, f"(?:{_HOST_NAME}|h(?=ttp)|w(?=ww)|:(?=//))", f"{_HOST}/?&"),
    (
        EMAIL,
        f"(?<![{_ADDRESS}.\\-])[{_ADDRESS}](?=[{_ADDRESS}.\\-]{{0,64}}@[{_ADDRESS}])",
        f"{_ADDRESS}@.\\-",
    ),
    (MENTION, f"@(?=[{_ADDRESS}])", _ADDRESS),
)


def cleaning() -> normalizers.Normalizer:
    """Build the normalizer that turns raw text into what AraBERT v0.2 was trained on, keeping offsets.

    Source: the steps of `ArabertPreprocessor._preprocess_v2` (PyPI package `arabert`), written anew.
    Differs on purpose where that one deletes text between a stray ``<`` and ``>``, cuts words at a rare vowel
    sign, or takes an address apart.
    """
    replace = normalizers.Replace
    steps = _rewriting()
    steps.append(replace(Regex(f"[{MARK}]"), ""))
    steps.extend(replace(Regex(f"[{chr(0x660 + n)}{chr(0x6F0 + n)}]"), str(n)) for n in range(10))
    steps.append(replace(Regex(r"(\D)(?=\1\1)"), ""))  # a character three times or more: twice
    steps.append(replace("/", "-"))
    kept = re.sub(r"([\[\]\\^&~\-])", r"\\\1", SYMBOLS)
    steps.append(replace(Regex(f"[^{kept}{LATIN}{ARABIC}0-9{SPACE}]"), " "))
    return normalizers.Sequence(steps)


def _rewriting() -> list[normalizers.Normalizer]:
    """Build the steps that take entities and tags out and put a piece in the place of links, addresses and mentions."""
    replace = normalizers.Replace
    heads = "".join(_HEADS.values())
    steps: list[normalizers.Normalizer] = [
        replace(Regex(f"[{heads}]"), " "),
        replace(Regex(QUOTE_ENTITY), ' " '),
        replace(Regex(ENTITY), " "),
        replace(Regex(TAG), " "),
    ]
    for piece, first, rest in REPLACED:
        # In two steps, so that the piece's offsets reach from the first to the last character it stands for.
        head = _HEADS[piece]
        steps.append(replace(Regex(first), head))
        steps.append(replace(Regex(f"(?<={head})[{rest}{head}]+"), piece[1:] + " "))
    return [*steps, replace(Regex(f"[{heads}]"), " [")]


def splitting() -> pre_tokenizers.PreTokenizer:
    """Build the pre-tokenizer: runs of letters and digits, cut between digit and Arabic; symbols alone."""
    run = f"(?:[{LATIN}]|[0-9](?![{ARABIC}])|[{ARABIC}](?![0-9]))*[{LATIN}0-9{ARABIC}]"
    return pre_tokenizers.Split(Regex(f"{_STANDING}|{run}|[^{SPACE}]"), behavior="removed", invert=True)


def build_tokenizer(vocab: Sequence[str] | Mapping[str, int]) -> PreTrainedTokenizerFast:
    """Build a WordPiece tokenizer over raw text from a vocabulary.

    Special pieces written out in an article ("[SEP]") are read as text, never as special pieces.

    Args:
        vocab: Pieces in the order of their ids, or a map from piece to id; SPECIAL_PIECES must be among them.
            Continuations begin with ``##``.

    Raises:
        KhabarError: If a piece occurs twice, ids have gaps, or a special piece is missing.
    """
    ids = dict(vocab) if isinstance(vocab, Mapping) else {piece: i for i, piece in enumerate(vocab)}
    if len(ids) != len(vocab):
        twice = next(piece for i, piece in enumerate(vocab) if ids[piece] != i)
        raise KhabarError(f"vocabulary: the piece {twice!r} occurs more than once")
    if sorted(ids.values()) != list(range(len(ids))):
        raise KhabarError(f"vocabulary: ids must be 0 to {len(ids) - 1}, each once")
    for piece in SPECIAL_PIECES:
        if piece not in ids:
            raise KhabarError(f"vocabulary: the special piece {piece!r} is missing among {len(ids)} pieces")
    pad, unk, cls, sep, mask = SPECIAL_PIECES
    backend = Tokenizer(WordPiece(ids, unk_token=unk, max_input_chars_per_word=100))
    backend.normalizer = cleaning()
    backend.pre_tokenizer = splitting()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, ids[cls]), (sep, ids[sep])],
    )
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=pad,
        unk_token=unk,
        cls_token=cls,
        sep_token=sep,
        mask_token=mask,
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
    )


def train_vocabulary(lines: Iterable[str], size: int) -> list[str]:
    """Train a WordPiece vocabulary on raw text, seen through the cleaning; same text, same pieces.

    Args:
        lines: Raw text, one paragraph or article an item; read once, never held.
        size: Pieces wanted, special pieces included. Small corpora may give fewer.

    Returns:
        The pieces in the order of their ids: special pieces, single characters, then by frequency.

    Raises:
        KhabarError: If size does not leave room for the special pieces and every single character.
    """
    in_words = re.compile(f"[{LATIN}{ARABIC}0-9]")
    letters = [character for character in map(chr, range(0x650)) if in_words.match(character)]
    # Single characters are given with their ids: the trainer would number them in the random order of a hash
    # map, and break ties between equally frequent pairs by those numbers.
    first = [
        *SPECIAL_PIECES,
        *STANDING,
        *sorted([*letters, *SYMBOLS]),
        *("##" + letter for letter in letters),
    ]
    if size < len(first):
        raise KhabarError(f"vocabulary size must be at least {len(first)} (every single character), got {size}")
    backend = Tokenizer(WordPiece({SPECIAL_PIECES[1]: 0}, unk_token=SPECIAL_PIECES[1]))
    backend.normalizer = normalizers.Sequence([cleaning(), normalizers.Replace(Regex(_STANDING), " ")])
    backend.pre_tokenizer = splitting()
    trainer = WordPieceTrainer(vocab_size=size, min_frequency=2, special_tokens=list(first), show_progress=False)
    backend.train_from_iterator(lines, trainer)
    ids = backend.get_vocab(with_added_tokens=False)
    return sorted(ids, key=ids.__getitem__)


def load_tokenizer(name_or_folder: str | Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a model folder or hub id, ready for raw text.

    Folders saved by khabar and tokenizers of other models are taken as they are. Those of AraBERT v0.1 and
    v0.2, which expect cleaned text, are rebuilt around their vocabulary with the cleaning inside.

    Raises:
        ModelFolderError: If the folder or id does not exist, cannot be reached, or holds no usable tokenizer.
        KhabarError: If the vocabulary needs text segmented by Farasa (AraBERT v1 and v2).
    """
    name, folder = str(name_or_folder), Path(name_or_folder)
    check_segmentation(name)
    if not folder.is_dir():
        return _prepared(_from_hub(name), name)
    vocab_file = folder / "vocab.txt"
    if not (folder / "tokenizer.json").is_file():
        if not vocab_file.is_file():
            raise ModelFolderError(f"{name}: no tokenizer here; expected tokenizer.json or vocab.txt")
        pieces = _read_vocabulary(vocab_file)
        if LINK in pieces:
            return _build_arabert({piece: i for i, piece in enumerate(pieces)}, name)
    try:
        return _prepared(AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False), name)
    except KhabarError:
        raise
    except Exception as error:  # damaged files surface as many kinds of error, some of them bare `Exception`
        reason = str(error).strip().partition("\n")[0]
        raise ModelFolderError(f"{name}: the tokenizer cannot be read: {reason}") from error


def check_segmentation(name: str) -> None:
    """Refuse, by its name, an encoder that reads segmented text.

    Raises:
        KhabarError: If it is AraBERT v1 or v2.
    """
    if _FARASA_NAME.search(name.rstrip("/")):
        raise _needs_farasa(name)


_FARASA_NAME = re.compile(r"(?:^|/)bert-(?:base|large)-arabert(?:v1|v2)?$")


def _from_hub(name: str) -> object:
    if not re.fullmatch(r"[\w.\-]+(?:/[\w.\-]+)?", name) or name.startswith("."):
        raise ModelFolderError(f"{name}: no such folder")
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelFolderError(
            f"{name}: neither a folder here nor a model that could be fetched from the hub; "
            "give a local model folder, or connect to a network and check the id"
        ) from error


def _prepared(tokenizer: object, name: str) -> PreTrainedTokenizerFast:
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelFolderError(
            f"{name}: {type(tokenizer).__name__} gives no offsets in the text; allowed: fast tokenizers"
        )
    pieces = tokenizer.get_vocab()
    normalizer = json.loads(tokenizer.backend_tokenizer.to_str())["normalizer"]
    if LINK not in pieces or (normalizer is not None and normalizer["type"] == "Sequence"):
        return tokenizer
    return _build_arabert(pieces, name)


def _build_arabert(pieces: Mapping[str, int], name: str) -> PreTrainedTokenizerFast:
    if {"ال+", "و+", "+ة"} <= pieces.keys():
        raise _needs_farasa(name)
    return build_tokenizer(pieces)


def _read_vocabulary(path: Path) -> list[str]:
    """Read vocab.txt: one piece a line, its id the line's number counted from 0."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: a piece may be U+2028
    except UnicodeDecodeError as error:
        raise ModelFolderError(f"{path}: not UTF-8 at byte {error.start}") from error
    return [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]


def _needs_farasa(name: str) -> KhabarError:
    return KhabarError(
        f"{name}: AraBERT v1 and v2 expect text segmented by Farasa, which khabar does not use; "
        "allowed: AraBERT v0.1 and v0.2, such as aubmindlab/bert-base-arabertv02"
    )
