"""Measures the grouping of reprints: articles a second, memory an article, and how many near pairs are missed.

    python benchmarks/duplicates.py news.txt.zst [--articles 5000]

Reads plain text with a blank line between articles, compressed or not.
"""

from __future__ import annotations

import argparse
import random
import time
from itertools import islice
from pathlib import Path

import numpy as np

from khabar.inference.duplicates import BAND_SIZE, BANDS, StoryGrouper, are_near, near_duplicates, shingles_of
from khabar.training.pretrain_data import read_articles


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def found_share(texts: list[str], kept: float, header: str = "وكالة الساحل للأنباء - مراسلنا الخاص\n") -> str:
    """Share of articles that are grouped with themselves, printed by another agency and cut to a share."""
    near = found = 0
    for text in texts:
        words = text.split(" ")
        reprint = header + " ".join(words[: int(len(words) * kept)])
        near += are_near(shingles_of(text).whole, shingles_of(reprint).whole)
        found += len(near_duplicates([text, reprint])) == 1
    return f"near by definition {near / len(texts):6.1%}, found {found / len(texts):6.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the grouping of reprints.")
    parser.add_argument("texts", type=Path)
    parser.add_argument("--articles", type=int, default=5000)
    arguments = parser.parse_args()
    texts = list(islice(read_articles([arguments.texts]), arguments.articles))
    n_words = np.array([len(text.split()) for text in texts])
    print(f"{len(texts):,} articles, {n_words.mean():.0f} words on average, median {np.median(n_words):.0f}")

    StoryGrouper()  # loads the packages it needs
    before, began = resident_bytes(), time.process_time()
    grouper = StoryGrouper()
    n_stories = len({grouper.add(text) for text in texts})
    seconds = time.process_time() - began
    memory = (resident_bytes() - before) / len(texts)
    print(f"StoryGrouper     {len(texts) / seconds:9,.0f} articles/s of one core, {memory:,.0f} bytes an article")
    began = time.process_time()
    groups = near_duplicates(texts)
    seconds = time.process_time() - began
    print(f"near_duplicates  {len(texts) / seconds:9,.0f} articles/s of one core")
    print(f"{n_stories:,} stories; groups larger than one: {sum(len(group) > 1 for group in groups):,}")

    print(f"reprints under another header, 2 x {BANDS} bands of {BAND_SIZE}")
    sample = random.Random(0).sample(texts, min(len(texts), 200))
    for kept in (1.0, 0.8, 0.6, 0.5, 0.4):
        print(f"  cut to {kept:4.0%}: {found_share(sample, kept)}")


if __name__ == "__main__":
    main()
