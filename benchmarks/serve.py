"""Measures `khabar serve` beside batch scoring of the same articles in the same run.

    python benchmarks/serve.py [--model FOLDER] [--device cpu] [--count N] [--words N] [--articles FILE.jsonl]
                               [--clients 1 8 64] [--per-request 1 16] [--output FILE.json] [-- FLAGS OF khabar serve]
    python benchmarks/serve.py --soak 600            # the service's memory under load

Starts the service, sends each article once for every number of clients, and prints throughput, its ratio to batch
scoring, latencies and errors. Clients and service share the machine's processors.
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
from typing import Any

import httpx
import psutil  # comes with accelerate, of khabar[train]
from speed import EXAMPLES, varied

from khabar.inference.tagger import load
from khabar.models.article_reader import read_articles

MB = 2**20
WARM_UP = 32  # articles
SOAK_CLIENTS = 8
TIMEOUT = 300  # seconds


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a number of clients at a time reached; milliseconds are of whole requests."""

    clients: int
    per_request: int
    articles_per_second: float
    ratio: float
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


def measure(url: str, texts: Sequence[str], clients: int, per_request: int, batch: float) -> Load:
    total, seconds, errors = asyncio.run(send(url, texts, clients, per_request))
    if errors:
        print(f"errors: {dict(errors)}")
    cuts = statistics.quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else seconds * 99
    return Load(
        clients=clients,
        per_request=per_request,
        articles_per_second=len(texts) / total,
        ratio=len(texts) / total / batch,
        p50=1000 * cuts[49],
        p95=1000 * cuts[94],
        p99=1000 * cuts[98],
        errors=errors.total(),
    )


def batch_speed(texts: Sequence[str], model: str, device: str) -> float:
    """Articles a second of batch scoring, in this process, before the service starts."""
    tagger = load(model, device=device)
    for _ in tagger.tag_many(texts[:WARM_UP]):
        pass
    started = time.perf_counter()
    for _ in tagger.tag_many(texts):
        pass
    return len(texts) / (time.perf_counter() - started)


def soak(url: str, process: psutil.Process, texts: Sequence[str], seconds: float) -> None:
    """Keep clients busy for so long, and print the service's resident memory."""
    end = time.monotonic() + seconds
    interval = max(seconds / 20, 1)
    n_articles, n_errors, shown = 0, 0, 0.0
    print(f"{'seconds':>8} {'articles':>10} {'errors':>7} {'memory MB':>10}")
    while time.monotonic() < end:
        _, _, errors = asyncio.run(send(url, texts[: SOAK_CLIENTS * 8], SOAK_CLIENTS, 1))
        n_articles, n_errors = n_articles + len(texts[: SOAK_CLIENTS * 8]), n_errors + errors.total()
        elapsed = seconds - (end - time.monotonic())
        if elapsed - shown >= interval or time.monotonic() >= end:
            shown = elapsed
            print(f"{elapsed:8.0f} {n_articles:10,} {n_errors:7} {process.memory_info().rss / MB:10.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--count", type=int, default=400, help="articles")
    parser.add_argument("--words", type=int, default=250, help="mean length of an article made of the examples")
    parser.add_argument("--articles", default=str(EXAMPLES))
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--per-request", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--soak", type=float, metavar="SECONDS")
    parser.add_argument("--output", metavar="FILE.json")
    parser.add_argument("flags", nargs="*", help="for khabar serve, behind --")
    given = parser.parse_args()

    texts = list(varied([article.text for article in read_articles(given.articles)], given.count, given.words))
    common = ["--model", given.model, "--device", given.device, *given.flags]
    if given.soak is not None:
        with service(common) as (url, process):
            soak(url, process, texts, given.soak)
        return
    batch = batch_speed(texts, given.model, given.device)
    print(f"batch scoring of {len(texts):,} articles: {batch:,.1f} articles/s")
    print(f"{'clients':>8} {'a request':>10} {'articles/s':>11} {'ratio':>6}", end=" ")
    print(f"{'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} errors")
    rows: list[Load] = []
    with service(common) as (url, _):
        asyncio.run(send(url, texts[:WARM_UP], 1, 1))
        for per_request in given.per_request:
            for clients in given.clients:
                row = measure(url, texts, clients, per_request, batch)
                rows.append(row)
                print(
                    f"{row.clients:8} {row.per_request:10} {row.articles_per_second:11,.1f} {row.ratio:6.2f} "
                    f"{row.p50:8,.0f} {row.p95:8,.0f} {row.p99:8,.0f} {row.errors:6}",
                    flush=True,
                )
    if given.output:
        result: dict[str, Any] = {"batch": batch, "count": len(texts), "loads": [asdict(row) for row in rows]}
        Path(given.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
