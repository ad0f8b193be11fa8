"""ANERcorp as a benchmark: its train and test sentences, read alone or joined, and its measure.

Turns a tagger's results into F1 by exact spans of whole tokens. Knows nothing of training or encoders.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from khabar.inference.results import spans_of
from khabar.inference.tagger import Tagger
from khabar.models.article import Article, Entity
from khabar.models.errors import KhabarError
from khabar.training.conll import iter_conll
from khabar.training.metrics import Span, entity_metrics


class Anercorp:
    """ANERcorp's train and test sentences, and the benchmark's measure: exact spans of whole tokens.

    Args:
        folder: Holds train.bio and test.bio.
        join: Most words of an article that consecutive sentences are put together to; 0 reads each alone.
    """

    def __init__(self, folder: Path, join: int = 0) -> None:
        self.train_file = folder / "train.bio"
        self.test = list(iter_conll(folder / "test.bio"))
        self._join = join
        sentences = _token_sentences(folder / "test.bio")
        if len(sentences) != len(self.test):
            raise KhabarError(f"{folder / 'test.bio'}: {len(sentences)} sentences, {len(self.test)} articles")
        self._tokens = [_locate(article.text, tokens) for article, tokens in zip(self.test, sentences, strict=True)]

    def training_file(self, folder: Path) -> Path:
        """Give the train split as it is to be learned from.

        Joined articles are written to a folder. Of articles khabar learns that a joined letter in a span is the name's.
        """
        if not self._join:
            return self.train_file
        path = folder / "joined.jsonl"
        rows = [_joined(group).to_json() for group in _groups(list(iter_conll(self.train_file)), self._join)]
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    def tag(self, tagger: Tagger) -> list[list[Span]]:
        """Tag the test split; spans by sentence."""
        groups = _groups(self.test, self._join)
        found: list[list[Span]] = []
        for group, result in zip(groups, tagger.tag_many(map(_joined, groups)), strict=True):
            start = 0
            for sentence in group:
                stop = start + len(sentence.text)
                cut = ((max(a, start), min(b, stop), label) for a, b, label in spans_of(result.entities))
                found.append([(a - start, b - start, label) for a, b, label in cut if a < b])
                start = stop + 1
        return found

    def measure(self, predicted: Sequence[Sequence[Span]]) -> dict[str, float | None]:
        """Measure each test sentence's predicted character spans, widened to whole tokens."""
        gold = [spans_of(article.entities or ()) for article in self.test]
        widened = [_widen(spans, tokens) for spans, tokens in zip(predicted, self._tokens, strict=True)]
        report = entity_metrics(gold, widened)
        without = entity_metrics(_without_misc(gold), _without_misc(widened))
        return {
            "anercorp_micro": report["micro"]["f1"],
            "anercorp_macro": report["macro"]["f1"],
            "anercorp_micro_without_misc": without["micro"]["f1"],
            **{f"anercorp_{label}": row["f1"] for label, row in report["labels"].items()},
        }


def _token_sentences(path: Path) -> list[list[str]]:
    blocks = path.read_text(encoding="utf-8").split("\n\n")
    return [[line.split()[0] for line in block.splitlines() if line.strip()] for block in blocks if block.strip()]


def _locate(text: str, tokens: Sequence[str]) -> list[tuple[int, int]]:
    """Find tokens, which stand in the text in their order, as character spans."""
    spans = []
    position = 0
    for token in tokens:
        start = text.index(token, position)
        position = start + len(token)
        spans.append((start, position))
    return spans


def _widen(spans: Sequence[Span], tokens: Sequence[tuple[int, int]]) -> list[Span]:
    """Stretch spans to the tokens they touch; of two that then meet, the first stays."""
    widened: list[Span] = []
    for start, end, label in sorted(spans):
        touched = [token for token in tokens if token[0] < end and start < token[1]]
        if touched and (not widened or widened[-1][1] <= touched[0][0]):
            widened.append((touched[0][0], touched[-1][1], label))
    return widened


def _without_misc(sentences: Sequence[Sequence[Span]]) -> list[list[Span]]:
    return [[span for span in spans if span[2] != "MISC"] for spans in sentences]


def _groups(sentences: Sequence[Article], most_words: int) -> list[list[Article]]:
    """Put consecutive sentences together, up to so many words; one that has more stays alone."""
    groups: list[list[Article]] = []
    n_words = 0
    for sentence in sentences:
        n_more = len(sentence.text.split())
        if not groups or n_words + n_more > most_words:
            groups.append([])
            n_words = 0
        groups[-1].append(sentence)
        n_words += n_more
    return groups


def _joined(sentences: Sequence[Article]) -> Article:
    """Make one article of sentences, a space between two."""
    text = ""
    entities: list[Entity] = []
    for sentence in sentences:
        text += " " * bool(text)
        before = len(text)
        moved = (replace(one, start=one.start + before, end=one.end + before) for one in sentence.entities or ())
        entities.extend(moved)
        text += sentence.text
    return Article(text=text, entities=tuple(entities))
