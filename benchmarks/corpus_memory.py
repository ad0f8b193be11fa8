"""Measures the memory and time that training's data layer takes, at several sizes of a made-up corpus.

    python benchmarks/corpus_memory.py [--megabytes 10 100] [--folder FOLDER]

Prints a table: reading and checking the corpus, encoding it into the store on disk, and laying out one epoch's
batches; each size in a process of its own. No model is trained. Needs Linux: memory is read from /proc.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from khabar.models.folder import EMBEDDED
from khabar.models.text import load_tokenizer

TOPICS = ["attack", "statement", "protest"]
ENTITY_LABELS = ["PERSON", "LOCATION", "ORGANIZATION"]
N_WORDS = 30_000
BATCH_PIECES = 8192
MIB = 2**20
INTERVAL = 0.05  # seconds between two looks at the memory


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one step cost.

    Attributes:
        seconds: On the clock; `cpu` of computing, all threads together.
        private: Most memory of the process's own, in MiB.
        resident: Most memory in all, in MiB: with the mapped pages that the system can drop at any time.
    """

    name: str
    seconds: float
    cpu: float
    private: float
    resident: float


def write_corpus(path: Path, n_bytes: int, words: list[str]) -> None:
    """Write articles of made-up words, three quarters of them in full labels, until the file is large enough."""
    random = np.random.default_rng(0)
    # Few words are frequent and many are rare, as in a language.
    cumulated = np.cumsum(1 / np.arange(1, len(words) + 1))
    cumulated /= cumulated[-1]
    with path.open("w", encoding="utf-8") as stream:
        for number in count():
            if number % 100 == 0 and stream.tell() >= n_bytes:
                return
            stream.write(json.dumps(_article(number, words, cumulated, random), ensure_ascii=False) + "\n")


def made_up_words() -> list[str]:
    """Put words together from the pieces of khabar's vocabulary: no words, yet as many pieces as words have."""
    vocabulary = load_tokenizer(EMBEDDED).get_vocab()
    first = [piece for piece in vocabulary if len(piece) > 1 and piece.isalpha()]
    more = [piece[2:] for piece in vocabulary if piece.startswith("##") and piece[2:].isalpha()]
    random = np.random.default_rng(0)
    return [
        first[random.integers(len(first))] + (more[random.integers(len(more))] if random.random() < 0.3 else "")
        for _ in range(N_WORDS)
    ]


def _article(number: int, words: list[str], cumulated: np.ndarray, random: np.random.Generator) -> dict[str, object]:
    sentences: list[str] = []
    for _ in range(random.integers(3, 14)):
        drawn = np.searchsorted(cumulated, random.random(random.integers(8, 40)))
        sentences.append(" ".join(words[k] for k in drawn.tolist()))
    row: dict[str, object] = {"id": f"made-up-{number}", "text": "\n".join(sentences)}
    if number % 4:
        row["topics"] = [topic for topic in TOPICS if random.random() < 0.3]
        entities, start = [], 0
        for sentence in sentences:
            end = start + sentence.index(" ")
            entities.append({"start": start, "end": end, "label": str(random.choice(ENTITY_LABELS))})
            start += len(sentence) + 1
        row["entities"] = entities
    return row


def measure(corpus: Path, folder: Path) -> tuple[list[Stage], int, float]:
    """Do everything that training does before the model is asked.

    Returns:
        What each stage cost, the number of articles, and the size of the store in MiB.
    """
    stages: list[Stage] = []
    with _watched("start", stages):
        from khabar.models.batch import WindowSettings
        from khabar.training.batching import BatchPlan, collate_examples
        from khabar.training.corpora import load_corpora
        from khabar.training.data import collect_labels, open_examples

        tokenizer = load_tokenizer(EMBEDDED)
    with _watched("read and check", stages):
        corpora = load_corpora([corpus])
        labels = collect_labels(corpora)
    with _watched("encode", stages):
        store = open_examples(corpora, tokenizer, labels, max_segment_words=160, teachers={}, folder=folder)
    with _watched("lay out an epoch", stages):
        windows = WindowSettings.from_tokenizer(tokenizer, window=512, stride=382)
        for batch in BatchPlan(store.lengths, batch_pieces=BATCH_PIECES, seed=0).batches(0):
            collate_examples(store[batch], windows)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return stages, len(store), size / MIB


@contextmanager
def _watched(name: str, stages: list[Stage]) -> Iterator[None]:
    """Time a stage, and sample the process's memory meanwhile."""
    over = threading.Event()
    peaks = {"RssAnon": 0.0, "VmRSS": 0.0}

    def sample() -> None:
        while not over.wait(INTERVAL):
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            for key, peak in peaks.items():
                peaks[key] = max(peak, int(status[key].split()[0]) / 1024)

    watcher = threading.Thread(target=sample, daemon=True)
    began, busy = time.perf_counter(), time.process_time()
    watcher.start()
    yield
    seconds, cpu = time.perf_counter() - began, time.process_time() - busy
    over.set()
    watcher.join()
    stages.append(Stage(name=name, seconds=seconds, cpu=cpu, private=peaks["RssAnon"], resident=peaks["VmRSS"]))


def main() -> None:
    """Make corpora up, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 100], help="sizes of the corpora, in MB")
    parser.add_argument("--folder", type=Path, help="where there is room for four times the largest")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    print("corpus    articles   stage              seconds  CPU s    MB/s    private   resident")
    words = made_up_words()
    for megabytes in options.megabytes:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            corpus = Path(folder) / "made-up.jsonl"
            write_corpus(corpus, megabytes * 10**6, words)
            # Not forked: a child should hold nothing of what its parent has loaded.
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                stages, n_articles, store = pool.submit(measure, corpus, Path(folder) / "store").result()
            for stage in stages:
                rate = "" if stage.name == "start" else f"{megabytes / stage.seconds:.1f}"
                print(
                    f"{megabytes:5} MB  {n_articles:9,}  {stage.name:16}  {stage.seconds:8.1f}  {stage.cpu:5.0f}  "
                    f"{rate:>6}  {stage.private:5,.0f} MiB  {stage.resident:5,.0f} MiB"
                )
            print(f"{megabytes:5} MB  the store takes {store:,.0f} MiB on disk", flush=True)


if __name__ == "__main__":
    main()
