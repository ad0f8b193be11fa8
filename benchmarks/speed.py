"""Measures khabar's speed beside what users run today, on the same articles and the same encoder weights.

    python benchmarks/speed.py [--shapes mini base] [--device cpu] [--count N] [--rounds N] [--articles FILE.jsonl]
                               [--model FOLDER] [--compiled] [--onnx EXPORTED_FOLDER …] [--output FILE.json]
    python benchmarks/speed.py --memory 1000 100000     # resident memory of `khabar score`

Prints a table a shape and how far the contestants agree. Knows who competes; how they are timed is contest.py's
matter, and the pipelines are in pipelines.py.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from contest import MB, Contest, seconds_of
from pipelines import Pipelines, agreement
from transformers import BertConfig, PreTrainedTokenizerFast

from khabar.inference.forward import Forward
from khabar.inference.gate import compare
from khabar.inference.lines import result_line
from khabar.inference.planning import LOOK_AHEAD, in_chunks
from khabar.inference.results import TaggedArticle
from khabar.inference.tagger import Tagger, load
from khabar.inference.work import Work
from khabar.models import tags
from khabar.models.article import Article
from khabar.models.article_reader import read_articles
from khabar.models.config import KhabarConfig
from khabar.models.encoding import encode_articles
from khabar.models.model import KhabarModel
from khabar.models.products import multiply_by_onednn, prepacking_pays

T = TypeVar("T")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "articles.jsonl"
SHAPES = ("mini", "base")
# Articles of a run: enough for a steady state, few enough for minutes, on two cores and on one GPU.
COUNTS = {("mini", "cpu"): 160, ("mini", "cuda"): 10_000, ("base", "cpu"): 48, ("base", "cuda"): 10_000}
ROUNDS = {"cpu": 3, "cuda": 1}
BATCH_SIZES = (1, 8, 32)  # tried for the pipelines
SLOW = {"cpu": None, "cuda": 300}  # articles for whatever is many times slower than the engine; None for all
WARM_UP = {"cpu": 8, "cuda": 5_000}  # for the engine: until all of its workers have started
CHECKED = 200  # articles on which decisions are compared
SHORTEST, LONGEST = 30, 1200  # words
SPREAD = 0.6  # sigma of the log-normal lengths
OUTSIDE_BIAS = 1.6  # random weights would name every word; with it, about one in seven, as in news


def varied(texts: Sequence[str], n: int, mean_words: int) -> Iterator[str]:
    """Give n articles of news-like lengths: log-normal around a mean, laid out of the texts from anywhere on."""
    random_ = random.Random(0)
    words = " \n ".join(texts).split(" ")
    for _ in range(n):
        length = round(random_.lognormvariate(-(SPREAD**2) / 2, SPREAD) * mean_words)
        length = min(max(length, SHORTEST), LONGEST)
        start = random_.randrange(len(words))
        yield " ".join(words[(start + i) % len(words)] for i in range(length)).strip()


def base_shaped(like: Tagger) -> Tagger:
    """Build a tagger on an encoder of AraBERT base's shape, with random weights: speed asks no more."""
    torch.manual_seed(0)
    config = KhabarConfig(
        encoder=BertConfig(vocab_size=max(64_000, len(like.tokenizer))),  # 12 layers of 768
        topics=like.topics,
        entity_labels=like.entity_labels,
        name="base-shaped",
    )
    model = KhabarModel(config)
    with torch.no_grad():
        model.entity_head.tags.bias[tags.OUTSIDE] = OUTSIDE_BIAS
    model.train(mode=False)
    model.to(device=like.model.device)  # type: ignore[call-arg]
    return Tagger(model, like.tokenizer, bf16=like.bf16, workers=like.workers)


def compiled_taggers(tagger: Tagger) -> dict[str, Tagger]:
    """Compile the model once for each precision of its device."""
    both = {"": False, ", in bfloat16": True} if tagger.device == "cpu" else {"": tagger.bf16}
    taggers = {}
    for name, bf16 in both.items():
        model, workers = deepcopy(tagger.model), tagger.workers
        taggers[f"(d) compiled{name}"] = Tagger(model, tagger.tokenizer, bf16=bf16, workers=workers, compiled=True)
    return taggers


def planned(tagger: Tagger, passes: Forward, texts: Sequence[str]) -> list[Work]:
    """Give the work of a tagger's passes over texts that are taken together."""
    encoded = encode_articles(texts, tagger.tokenizer, max_segment_words=tagger.model.config.max_segment_words)
    return passes.plan(encoded)


def enter_engine(name: str, contest: Contest, tagger: Tagger) -> None:
    """Enter a tagger over all articles; with workers also as lines, and on a GPU its passes alone, over a chunk."""
    encoder = tagger.model.encoder
    contest.enter(name, encoder, as_a_command(partial(_tag, tagger)), warm=WARM_UP[tagger.device])
    if tagger.workers:
        contest.enter(f"{name}: lines, as `khabar score`", encoder, as_a_command(partial(_lines, tagger)))
    if tagger.device == "cuda":
        n_articles, passes = LOOK_AHEAD["cuda"].articles, tagger.passes()
        works = planned(tagger, passes, contest.texts[:n_articles])
        alone = f"{name}: its passes alone"
        contest.enter(alone, encoder, lambda _: [*chain.from_iterable(map(passes.run, works))], n=n_articles)


def measure(
    shape: str, tagger: Tagger, texts: Sequence[str], exported: Sequence[str], *, compiled: bool, rounds: int
) -> dict[str, Any]:
    """Let every contestant run on one shape, and print the table."""
    model, device = tagger.model, tagger.model.device
    contest = Contest(tagger, texts)
    pipelines = Pipelines(model, tagger.tokenizer)
    part = texts[: max(BATCH_SIZES)]
    pipelines.run(part[:2], 1)
    tried = {size: seconds_of(partial(pipelines.run, part, size), device) for size in BATCH_SIZES}
    best = min(BATCH_SIZES, key=lambda size: tried[size])
    slow = SLOW[device.type]
    contest.enter(
        f"(a) two pipelines, batch size {best}", model.encoder, lambda part: pipelines.run(part, best), n=slow
    )
    one_by_one = as_a_command(lambda part: [tagger.tag(text) for text in part])
    contest.enter("(b) khabar, one article at a time", model.encoder, one_by_one, n=slow)
    if (missing := _without_spacy()) is None:
        from spacy_pipeline import spacy_pipeline

        nlp = spacy_pipeline(tagger)
        contest.enter(
            "(c) spaCy, untrained heads", model.encoder, lambda part: list(nlp.pipe(part, batch_size=best)), n=slow
        )
    enter_engine("(d) khabar's engine", contest, tagger)
    if device.type == "cpu" and prepacking_pays(bf16=False):
        plain = _unprepared(model, tagger.tokenizer)
        contest.enter("(d) with torch's own products", plain.model.encoder, partial(_tag_unprepared, plain))
    others: dict[str, Tagger] = {}
    with _as_a_command():
        if device.type == "cpu":
            others["(d) in bfloat16"] = Tagger(deepcopy(model), tagger.tokenizer, bf16=True)
        if compiled:
            others |= compiled_taggers(tagger)
        others |= {f"(d) in ONNX Runtime, {Path(folder).name}": load(folder, runtime="onnx") for folder in exported}
    checked = [Article(text=text) for text in texts[:CHECKED]]
    with ExitStack() as entered:
        for name, other in others.items():
            enter_engine(name, contest, entered.enter_context(other))
        contest.race(rounds)
        with _as_a_command():
            reports = {name: compare(tagger, other, checked) for name, other in others.items()}
            alone = [tagger.tag(article).to_json() for article in checked]
            together = [article.to_json() for article in tagger.tag_many(checked)]
    same = agreement(tagger, pipelines, texts[:CHECKED])

    print(f"\n{shape}: {len(texts):,} articles, {contest.n_pieces:,} pieces; {machine(device)}")
    own, prepared = (max(peaks) / 1e9 for peaks in zip(*contest.peaks, strict=True))
    print(
        f"matrix product peak {own:,.0f} GFLOP/s, with prepared weights {prepared:,.0f}; {rounds} rounds; "
        f"{contest.flops / 1e6:,.1f} MFLOP a piece\n"
    )
    print(contest.table())
    if missing is not None:
        print(f"(c) spaCy with a transformer: not set up, {missing} is not installed")
    print()
    print(f"(b) = (d), to four digits: {sum(map(_equal, alone, together))} of {len(checked)} articles")
    print(
        f"(a) = (d), on {same['articles']} articles of one window: {same['topics']:.2%} of topic decisions, "
        f"{same['tags']:.2%} of {same['words']:,} word tags; largest shift of a probability {same['topic_shift']:.1e}"
    )
    for name, report in reports.items():
        print(
            f"{name}: topic F1 {report.topics.candidate:.2%}, entity F1 {report.entities.candidate:.2%} against (d); "
            f"largest shift of a probability {report.largest_shift:.4f}"
        )
    return {
        "shape": shape,
        "machine": machine(device),
        "articles": len(texts),
        "pieces": contest.n_pieces,
        "peak_flops": contest.peaks,
        "flops_per_piece": contest.flops,
        "rows": [asdict(row) for row in contest.rows],
        "equal_one_by_one": sum(map(_equal, alone, together)) / len(checked),
        "agreement": same,
        "against_engine": {name: report.to_json() for name, report in reports.items()},
    }


def measure_memory(texts: Sequence[str], count: int, options: argparse.Namespace) -> dict[str, float]:
    """Run `khabar score` over a file of articles and watch its resident memory, workers not included."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "articles.jsonl"
        with source.open("w", encoding="utf-8") as stream:
            for number, text in enumerate(varied(texts, count, options.words)):
                stream.write(json.dumps({"id": str(number), "text": text}, ensure_ascii=False) + "\n")
        command = [sys.executable, "-m", "khabar", "score", str(source), "-o", str(Path(folder) / "results.jsonl")]
        started = time.perf_counter()
        command += ["--model", options.model, "--device", options.device]
        if options.workers is not None:
            command += ["--workers", str(options.workers)]
        run = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        process = psutil.Process(run.pid)
        seen = []
        while run.poll() is None:
            try:
                seen.append(process.memory_info().rss / MB)
            except psutil.NoSuchProcess:
                break
            time.sleep(0.1)
        if run.wait() != 0:
            raise SystemExit(f"khabar score ended with exit code {run.returncode}")
    late = seen[len(seen) // 2 :] or [0.0]
    result = {
        "articles": count,
        "seconds": time.perf_counter() - started,
        "peak_mb": max(seen, default=0.0),
        "median_mb_of_second_half": statistics.median(late),
    }
    print(
        f"khabar score, {count:,} articles in {result['seconds']:,.0f} s: resident memory peak "
        f"{result['peak_mb']:,.0f} MB, median of the second half {result['median_mb_of_second_half']:,.0f} MB"
    )
    return result


@contextmanager
def _as_a_command() -> Iterator[None]:
    """Let khabar work as its commands do, whose float32 products are oneDNN's where that is faster; others do not."""
    multiply_by_onednn()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


def as_a_command(work: Callable[[Sequence[str]], T]) -> Callable[[Sequence[str]], T]:
    """Give the same work as khabar's commands do it."""

    def as_set(texts: Sequence[str]) -> T:
        with _as_a_command():
            return work(texts)

    return as_set


def _tag(tagger: Tagger, texts: Sequence[str]) -> list[TaggedArticle]:
    return list(tagger.tag_many(texts))


def _lines(tagger: Tagger, texts: Sequence[str]) -> int:
    """Tag texts in the chunks of `khabar score`, each result laid out by a worker; give the number of lines."""
    chunks = in_chunks(texts, len, LOOK_AHEAD[tagger.device])
    return sum(map(len, tagger.map_chunks(result_line, chunks)))


@contextmanager
def _without_onednn() -> Iterator[None]:
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = True  # type: ignore[assignment]


def _unprepared(model: KhabarModel, tokenizer: PreTrainedTokenizerFast) -> Tagger:
    with _without_onednn():
        return Tagger(deepcopy(model), tokenizer)


def _tag_unprepared(tagger: Tagger, texts: Sequence[str]) -> list[TaggedArticle]:
    with _without_onednn():
        return _tag(tagger, texts)


def _equal(one: object, other: object) -> bool:
    return one == other


def machine(device: torch.device) -> str:
    """Name the processor or the GPU that the measures are of."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _without_spacy() -> str | None:
    return "spacy" if importlib.util.find_spec("spacy") is None else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--articles", default=str(EXAMPLES), help="texts to lay articles out of")
    parser.add_argument("--words", type=int, default=250, help="mean length of an article")
    parser.add_argument("--count", type=int, help="articles of a run")
    parser.add_argument("--rounds", type=int, help="turns that each contestant takes; medians are shown")
    parser.add_argument("--model", default="embedded", help="the model of the shape `mini`")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, help="processes that encode and decode for the engine")
    parser.add_argument("--compiled", action="store_true", help="let the compiled encoder run too")
    parser.add_argument("--onnx", nargs="+", default=[], help="folders that `khabar export` made of --model")
    parser.add_argument(
        "--memory", nargs="+", type=int, metavar="N", help="watch `khabar score` over N articles instead"
    )
    parser.add_argument("--output", help="file for all measures, as JSON")
    options = parser.parse_args()

    texts = [article.text for article in read_articles(options.articles)]
    results: list[dict[str, Any]] = []
    if options.memory:
        results += [measure_memory(texts, count, options) for count in options.memory]
    else:
        tagger = load(options.model, device=options.device, workers=options.workers)
        device = tagger.model.device
        for shape in options.shapes:
            if shape == "base":
                tagger.close()
                tagger = base_shaped(tagger)
            count = options.count or COUNTS[shape, device.type]
            articles = list(varied(texts, count, options.words))
            rounds = options.rounds or ROUNDS[device.type]
            exported = options.onnx if shape == "mini" else []
            results.append(measure(shape, tagger, articles, exported, compiled=options.compiled, rounds=rounds))
        tagger.close()
    if options.output:
        Path(options.output).write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
