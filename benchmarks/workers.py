"""Measures how many articles a second the model's own process could prepare and finish, if the model took no time.

    python benchmarks/workers.py [--workers 0 1 4] [--count N] [--words 250]

In place of the model stands a function that at once gives the same entities and topics for all. The rest is that of a
run on a GPU, once from a file to a file as `khabar score` does it, once with results as objects (`tag_many`). With
workers, the model's process is what bounds a fast GPU; the workers' own work is bounded by their number. Prints
processor time; other programs disturb it little.
"""

import argparse
import gc
import io
import json
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from speed import EXAMPLES, varied

from khabar.inference.forward import BATCH_PIECES
from khabar.inference.planning import LOOK_AHEAD, in_chunks
from khabar.inference.results import TaggedArticle, unchanged
from khabar.inference.score import score_sources
from khabar.inference.sources import open_sources
from khabar.inference.tagger import Tagger, load
from khabar.models import tags
from khabar.models.article import Article
from khabar.models.article_reader import read_articles
from khabar.models.errors import KhabarError
from khabar.models.model import KhabarModel, KhabarOutput
from khabar.models.words import MAX_PROCLITICS

WORDS_A_NAME = 12  # of news: one entity in so many words
SURE = 8.0  # a logit

T = TypeVar("T")


class Instant:
    """Gives a model's output at once, and counts the time that this takes all the same."""

    def __init__(self, model: KhabarModel) -> None:
        self.seconds = 0.0
        self._n_topics, self._n_tags = len(model.config.topics), tags.n_tags(len(model.config.entity_labels))

    def __call__(self, word_mask: torch.Tensor, article_rows: torch.Tensor, **_: Any) -> KhabarOutput:
        """Stand in for the model's forward."""
        began = time.thread_time()
        shape = word_mask.shape
        emissions = torch.zeros(*shape, self._n_tags)
        emissions[..., tags.OUTSIDE] = SURE / 2
        emissions[:, ::WORDS_A_NAME, tags.begin_tag(0)] = SURE
        output = KhabarOutput(
            segment_topic_logits=torch.full((len(word_mask), self._n_topics), -SURE),
            article_topic_logits=torch.full((len(article_rows), self._n_topics), -SURE),
            emissions=emissions,
            proclitic_logits=torch.zeros(*shape, MAX_PROCLITICS + 1),
        )
        self.seconds += time.thread_time() - began
        return output


class AsOnGpu:
    """A tagger on a CPU that takes articles together as one on a GPU does."""

    device = "cuda"

    def __init__(self, tagger: Tagger) -> None:
        self._tagger = tagger

    def map_chunks(
        self, function: Callable[[TaggedArticle], T], chunks: Iterable[Sequence[Article]]
    ) -> Generator[list[T | KhabarError], None, None]:
        """Tag chunks in a GPU's batches."""
        return self._tagger.map_chunks(function, chunks, batch_pieces=BATCH_PIECES["cuda"])


def score_file(tagger: AsOnGpu, rows: Path) -> int:
    """Score a file into another one; give the number of results."""
    return score_sources(tagger, open_sources([rows]), rows.with_name("results.jsonl"), errors=io.BytesIO()).n_articles


def tag_objects(tagger: AsOnGpu, articles: Sequence[Article]) -> int:
    """Tag articles as `tag_many` does, and let the results go; give their number."""
    chunks = in_chunks(articles, lambda article: len(article.text), LOOK_AHEAD[tagger.device])
    return sum(map(len, tagger.map_chunks(unchanged, chunks)))


def measure(work: Callable[[AsOnGpu], int], workers: int, count: int) -> tuple[float, float]:
    """Give the processor seconds of this process and the seconds by the clock for one article."""
    with load("embedded", device="cpu", workers=workers) as tagger:
        instant = Instant(tagger.model)
        tagger.model.forward = instant  # type: ignore[method-assign, assignment]
        work(AsOnGpu(tagger))  # the workers start
        gc.freeze()  # as `khabar score` does
        instant.seconds = 0.0
        cpu, clock = time.process_time(), time.perf_counter()
        n_results = work(AsOnGpu(tagger))
        cpu, clock = time.process_time() - cpu - instant.seconds, time.perf_counter() - clock
        gc.unfreeze()
    assert n_results == count
    return cpu / count, clock / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--count", type=int, default=8192, help="articles of a run")
    parser.add_argument("--words", type=int, default=250, help="mean length of an article")
    options = parser.parse_args()
    torch.set_num_threads(1)  # one pass at a time, as on a GPU
    texts = varied([article.text for article in read_articles(EXAMPLES)], options.count, options.words)
    print("| | workers | ms an article of this process | articles/s it could do | ms by the clock |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        with rows.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        works: dict[str, Callable[[AsOnGpu], int]] = {
            "file to file": partial(score_file, rows=rows),
            "objects": partial(tag_objects, articles=read_articles(rows)),
        }
        for workers in options.workers:
            for name, work in works.items():
                cpu, clock = measure(work, workers, options.count)
                print(f"| {name} | {workers} | {1000 * cpu:.2f} | {1 / cpu:,.0f} | {1000 * clock:.2f} |", flush=True)


if __name__ == "__main__":
    main()
