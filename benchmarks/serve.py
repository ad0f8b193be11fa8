"""Measures `khabar serve` beside batch scoring of the same articles in the same run.

    python benchmarks/serve.py [--model FOLDER] [--device cpu] [--count N] [--words N] [--articles FILE.jsonl]
                               [--clients 1 8 64] [--per-request 1] [--output FILE.json] [-- FLAGS OF khabar serve]
    python benchmarks/serve.py --soak 10 [--clients 1]     # minutes; whether the service's memory stays flat

Starts the service, sends each article once for every number of clients, and prints throughput, its share of batch
scoring (the mean of a run before and one after), processor time, latencies and errors. Clients and service share the
machine's processors; processor time is the service's alone, and tells more than throughput on a busy machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil  # comes with accelerate, of khabar[train]
from speed import EXAMPLES, varied

from khabar.inference.tagger import Tagger, load
from khabar.models.article_reader import read_articles

MB = 2**20
WARM_UP = 32  # articles
TIMEOUT = 300  # seconds
SOAK_SAMPLES = 40
SETTLED = 0.25  # of a soak: what comes before is not held against it
FLAT = 0.02  # of its memory, by which a service whose memory is flat may grow over the rest


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a number of clients at a time reached; milliseconds are of whole requests."""

    clients: int
    per_request: int
    articles_per_second: float
    cpu_ms: float  # of the service, an article
    p50: float
    p95: float
    p99: float
    errors: int


@contextmanager
def service(arguments: Sequence[str]) -> Iterator[tuple[str, psutil.Process]]:
    """Run `khabar serve`; give its address and its process."""
    command = [sys.executable, "-m", "khabar", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    if " on http://" not in line:
        raise SystemExit(line + process.stderr.read())
    try:
        yield line.split()[-1], psutil.Process(process.pid)
    finally:
        process.terminate()
        print(process.stderr.read(), end="")
        process.wait()


async def send(
    url: str, texts: Sequence[str], clients: int, per_request: int
) -> tuple[float, list[float], Counter[str]]:
    """Send texts from so many clients at a time; give seconds in all, of each request, and what went wrong."""
    waiting = iter([texts[i : i + per_request] for i in range(0, len(texts), per_request)])
    seconds: list[float] = []
    errors: Counter[str] = Counter()

    async def client(http: httpx.AsyncClient) -> None:
        for part in waiting:
            body = {"articles": [{"text": text} for text in part]}
            started = time.perf_counter()
            try:
                answer = await http.post(f"{url}/v1/tag", json=body)
                if answer.status_code != 200:
                    errors[str(answer.status_code)] += 1
                elif len(answer.json()["articles"]) != len(part):
                    errors["lost articles"] += 1
            except httpx.HTTPError as error:
                errors[type(error).__name__] += 1
            seconds.append(time.perf_counter() - started)

    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(timeout=TIMEOUT, limits=limits) as http:
        started = time.perf_counter()
        await asyncio.gather(*(client(http) for _ in range(clients)))
        return time.perf_counter() - started, seconds, errors


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What batch scoring of the same articles reached."""

    articles_per_second: float
    cpu_ms: float


def measure(url: str, process: psutil.Process, texts: Sequence[str], clients: int, per_request: int) -> Load:
    before = cpu_seconds(process)
    total, seconds, errors = asyncio.run(send(url, texts, clients, per_request))
    if errors:
        print(f"errors: {dict(errors)}")
    cuts = statistics.quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else seconds * 99
    return Load(
        clients=clients,
        per_request=per_request,
        articles_per_second=len(texts) / total,
        cpu_ms=1000 * (cpu_seconds(process) - before) / len(texts),
        p50=1000 * cuts[49],
        p95=1000 * cuts[94],
        p99=1000 * cuts[98],
        errors=errors.total(),
    )


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def batch_speed(tagger: Tagger, texts: Sequence[str]) -> Batch:
    """Score in this process, while the service is idle."""
    for _ in tagger.tag_many(texts[:WARM_UP]):
        pass
    started, before = time.perf_counter(), time.process_time()
    for _ in tagger.tag_many(texts):
        pass
    return Batch(
        articles_per_second=len(texts) / (time.perf_counter() - started),
        cpu_ms=1000 * (time.process_time() - before) / len(texts),
    )


def show(loads: Sequence[Load], batches: Sequence[Batch], n_articles: int) -> None:
    """Print a table, as Markdown."""
    batch = statistics.mean(one.articles_per_second for one in batches)
    print(f"{n_articles:,} articles; of batch scoring: articles a second\n")
    names = ["clients", "articles a request", "articles/s", "of batch scoring", "processor ms an article"]
    print("| " + " | ".join([*names, "p50 ms", "p95 ms", "p99 ms", "errors"]) + " |\n" + "|---:" * 9 + "|")
    for row in loads:
        print(
            f"| {row.clients} | {row.per_request} | {row.articles_per_second:.1f} "
            f"| {100 * row.articles_per_second / batch:.0f} % | {row.cpu_ms:.0f} "
            f"| {row.p50:,.0f} | {row.p95:,.0f} | {row.p99:,.0f} | {row.errors} |"
        )
    cpu_ms = statistics.mean(one.cpu_ms for one in batches)
    runs = " and ".join(f"{one.articles_per_second:.1f}" for one in batches)
    print(f"| batch scoring | | {batch:.1f} ({runs}) | | {cpu_ms:.0f} | | | | |")


def soak(url: str, process: psutil.Process, texts: Sequence[str], minutes: float, clients: int) -> bool:
    """Keep clients busy for so long; print the service's resident memory, and tell whether it stays flat."""
    started = time.monotonic()
    interval = 60 * minutes / SOAK_SAMPLES
    n_articles = n_errors = turn = 0
    samples: list[tuple[float, float]] = []
    print(f"{'minutes':>8} {'articles':>10} {'errors':>7} {'memory MB':>10}")
    while len(samples) < SOAK_SAMPLES:
        # Other articles each time, so that the batches are of many shapes.
        part = [texts[(turn + i) % len(texts)] for i in range(8 * clients)]
        turn += len(part)
        _, _, errors = asyncio.run(send(url, part, clients, 1))
        n_articles, n_errors = n_articles + len(part), n_errors + errors.total()
        elapsed = time.monotonic() - started
        if elapsed >= interval * (len(samples) + 1):
            samples.append((elapsed / 60, process.memory_info().rss / MB))
            print(f"{samples[-1][0]:8.1f} {n_articles:10,} {n_errors:7} {samples[-1][1]:10.1f}", flush=True)
    settled = samples[round(SETTLED * len(samples)) :]
    slope = statistics.linear_regression(*zip(*settled, strict=True)).slope
    growth = slope * (settled[-1][0] - settled[0][0])
    flat = growth < FLAT * settled[0][1] and not n_errors
    print(
        f"from minute {settled[0][0]:.1f} on: {slope:+.2f} MB a minute, {growth:+.1f} MB in all "
        f"({100 * growth / settled[0][1]:+.1f} %), {n_errors} errors: {'flat' if flat else 'NOT FLAT'}"
    )
    return flat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--count", type=int, default=320, help="articles")
    parser.add_argument("--words", type=int, default=250, help="mean length of an article made of the examples")
    parser.add_argument("--articles", default=str(EXAMPLES))
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--per-request", type=int, nargs="+", default=[1])
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="with the first of --clients")
    parser.add_argument("--output", metavar="FILE.json")
    parser.add_argument("flags", nargs="*", help="for khabar serve, behind --")
    given = parser.parse_args()

    texts = list(varied([article.text for article in read_articles(given.articles)], given.count, given.words))
    common = ["--model", given.model, "--device", given.device, *given.flags]
    if given.soak is not None:
        with service(common) as (url, process):
            flat = soak(url, process, texts, given.soak, given.clients[0])
        raise SystemExit(0 if flat else 1)
    tagger = load(given.model, device=given.device)
    loads: list[Load] = []
    with service(common) as (url, process):
        batches = [batch_speed(tagger, texts)]
        asyncio.run(send(url, texts[:WARM_UP], 1, 1))
        for per_request in given.per_request:
            for clients in given.clients:
                loads.append(measure(url, process, texts, clients, per_request))
                print(loads[-1], file=sys.stderr, flush=True)
        batches.append(batch_speed(tagger, texts))
    show(loads, batches, len(texts))
    if given.output:
        result = {"count": len(texts), "batch": [*map(asdict, batches)], "loads": [*map(asdict, loads)]}
        Path(given.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
