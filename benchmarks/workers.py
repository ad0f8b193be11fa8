"""Measures how many articles a second the model's own process could prepare and finish, if the model took no time.

    python benchmarks/workers.py [--workers 0 1 4] [--count N] [--words 250] [--articles FILE.jsonl]

In place of the model stands a function that at once gives the same entities and topics for all. The rest is that of a
run on a GPU, once from a file to a file as `khabar score` does it, once with results as objects (`tag_many`). With
workers, the model's process is what bounds a fast GPU; the workers' own work is bounded by their number. Prints
processor time; other programs disturb it little. Then what a worker does with an article, on one processor: at first,
and with words that it has met before, as most of news are; of articles laid out of a few texts, as these are unless
others are given, it soon has met all.
"""

import argparse
import gc
import io
import json
import multiprocessing
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from contest import MB
from speed import EXAMPLES, varied

from khabar.inference.decode import Labels, Logits
from khabar.inference.forward import BATCH_PIECES
from khabar.inference.lines import result_line
from khabar.inference.planning import LOOK_AHEAD, in_chunks
from khabar.inference.results import TaggedArticle, unchanged
from khabar.inference.score import score_sources
from khabar.inference.sources import open_sources
from khabar.inference.tagger import Tagger, load
from khabar.inference.workers import TextWork
from khabar.models import tags
from khabar.models.article import Article
from khabar.models.article_reader import read_articles
from khabar.models.errors import KhabarError
from khabar.models.model import KhabarModel, KhabarOutput
from khabar.models.words import MAX_PROCLITICS

WORDS_A_NAME = 12  # of news: one entity in so many words
SURE = 8.0  # a logit
SHOWN = 1024  # articles, for a worker's own work

T = TypeVar("T")


class Instant:
    """Gives a model's output at once, and counts the time that this takes all the same."""

    def __init__(self, model: KhabarModel) -> None:
        self.seconds = 0.0
        self._n_topics, self._n_tags = len(model.config.topics), tags.n_tags(len(model.config.entity_labels))

    def __call__(self, *_: Any, segment_words: torch.Tensor, article_rows: torch.Tensor, **__: Any) -> KhabarOutput:
        """Stand in for the model's heads."""
        began = time.thread_time()
        shape = segment_words.shape
        emissions = torch.zeros(*shape, self._n_tags)
        emissions[..., tags.OUTSIDE] = SURE / 2
        emissions[:, ::WORDS_A_NAME, tags.begin_tag(0)] = SURE
        output = KhabarOutput(
            segment_topic_logits=torch.full((len(segment_words), self._n_topics), -SURE),
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


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What one way of taking results costs.

    Attributes:
        cpu: Processor seconds of this process for an article.
        clock: Seconds by the clock for an article.
        start: Seconds until the workers had started.
        memory: Megabytes that a worker has to itself, on average; 0 without workers.
    """

    cpu: float
    clock: float
    start: float
    memory: float


def measure(work: Callable[[AsOnGpu], int], workers: int, count: int) -> Measure:
    """Do the work twice, and measure the second time."""
    with load("embedded", device="cpu", workers=workers) as tagger:
        instant = Instant(tagger.model)
        tagger.model.read = instant  # type: ignore[method-assign, assignment]
        tagger.model.encode = lambda input_ids, _: input_ids  # type: ignore[method-assign, assignment]
        first = time.perf_counter()
        work(AsOnGpu(tagger))  # the workers start
        first = time.perf_counter() - first
        gc.freeze()  # as `khabar score` does
        instant.seconds = 0.0
        cpu, clock = time.process_time(), time.perf_counter()
        n_results = work(AsOnGpu(tagger))
        cpu, clock = time.process_time() - cpu - instant.seconds, time.perf_counter() - clock
        gc.unfreeze()
        held = [psutil.Process(child.pid).memory_full_info().uss / MB for child in multiprocessing.active_children()]
    assert n_results == count
    memory = sum(held) / len(held) if held else 0.0
    return Measure(cpu=cpu / count, clock=clock / count, start=max(0.0, first - clock), memory=memory)


def show_work(articles: Sequence[Article]) -> None:
    """Print what a worker does with an article, step by step."""
    tagger = load("embedded", device="cpu")
    instant, labels = Instant(tagger.model), Labels.of(tagger.model.config)
    work = TextWork(tokenizer=tagger.tokenizer, max_segment_words=tagger.model.config.max_segment_words, crf=tagger.crf)
    planning = tagger.passes(batch_pieces=BATCH_PIECES["cuda"]).planning
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    gc.disable()  # as in a worker
    times = [time.perf_counter()]
    work.encode(articles)
    times.append(time.perf_counter())
    encoded = work.encode(articles)
    times.append(time.perf_counter())
    works = work.plan([pickle.loads(pickle.dumps(encoded))], planning)
    times.append(time.perf_counter())
    logits = [Logits.of(instant(**one.batch.tensors()), one.batch.word_mask) for one in works]
    times.append(time.perf_counter())
    for one, given in zip(works, logits, strict=True):
        work.decode([articles[index] for index in one.indices], one.encoded, given, labels, result_line)
    times.append(time.perf_counter())
    gc.enable()
    first, encoding, planned, _, decoded = (1000 * (end - begin) / len(articles) for begin, end in pairwise(times))
    print(
        f"\na worker's work on an article: encoding {first:.2f} ms, again {encoding:.2f} ms, "
        f"planning {planned:.2f} ms, reading results and making a line {decoded:.2f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--count", type=int, default=8192, help="articles of a run")
    parser.add_argument("--words", type=int, default=250, help="mean length of an article")
    parser.add_argument("--articles", default=str(EXAMPLES), help="texts to lay articles out of")
    options = parser.parse_args()
    torch.set_num_threads(1)  # one pass at a time, as on a GPU
    texts = varied([article.text for article in read_articles(options.articles)], options.count, options.words)
    print(
        "| | workers | ms an article of this process | articles/s it could do | ms by the clock | start, s | MB each |"
    )
    print("|---|---|---|---|---|---|---|")
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
                took = measure(work, workers, options.count)
                print(
                    f"| {name} | {workers} | {1000 * took.cpu:.2f} | {1 / took.cpu:,.0f} | {1000 * took.clock:.2f} | "
                    f"{took.start:.1f} | {took.memory:,.0f} |",
                    flush=True,
                )
        show_work(read_articles(rows)[:SHOWN])


if __name__ == "__main__":
    main()
