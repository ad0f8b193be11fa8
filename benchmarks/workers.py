"""Measures how many articles a second the model's own process could prepare and finish, if the model took no time.

    python benchmarks/workers.py [--workers 0 1 4] [--count N] [--words 250]

In place of the model stands a function that at once gives the same entities and topics for all. The rest is the engine
of `khabar score`, results included, output not. With workers, the model's process is what bounds a fast GPU; the
workers' own work is bounded by their number. Prints processor time; other programs disturb it little.
"""

import argparse
import gc
import time
from typing import Any

import torch
from speed import EXAMPLES, varied

from khabar.inference.tagger import Tagger, load
from khabar.models import tags
from khabar.models.article_reader import read_articles
from khabar.models.model import KhabarModel, KhabarOutput
from khabar.models.words import MAX_PROCLITICS

WORDS_A_NAME = 12  # of news: one entity in so many words
SURE = 8.0  # a logit
WARM_UP = 1000  # articles


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


def measure(tagger: Tagger, texts: list[str]) -> tuple[float, float]:
    """Give the processor seconds of this process and the seconds by the clock for one article."""
    instant = Instant(tagger.model)
    tagger.model.forward = instant  # type: ignore[method-assign, assignment]
    with tagger:
        for _ in tagger.tag_many(texts[:WARM_UP]):  # the workers start
            pass
        gc.freeze()  # as `khabar score` does
        instant.seconds = 0.0
        cpu, clock = time.process_time(), time.perf_counter()
        n_results = sum(1 for _ in tagger.tag_many(texts, batch_pieces=32768))
        cpu, clock = time.process_time() - cpu - instant.seconds, time.perf_counter() - clock
    assert n_results == len(texts)
    return cpu / n_results, clock / n_results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--count", type=int, default=6000, help="articles of a run")
    parser.add_argument("--words", type=int, default=250, help="mean length of an article")
    options = parser.parse_args()
    texts = list(varied([article.text for article in read_articles(EXAMPLES)], options.count, options.words))
    print("| workers | ms an article of this process | articles/s it could do | ms by the clock |")
    print("|---|---|---|---|")
    for workers in options.workers:
        cpu, clock = measure(load("embedded", device="cpu", workers=workers), texts)
        print(f"| {workers} | {1000 * cpu:.2f} | {1 / cpu:,.0f} | {1000 * clock:.2f} |", flush=True)


if __name__ == "__main__":
    main()
