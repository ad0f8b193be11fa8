"""khabar inside a Celery worker: each of its processes loads the model once, after the fork.

celery --app celery_worker worker --concurrency 2
"""

import os
from functools import cache
from typing import Any

from celery import Celery
from celery.signals import worker_process_init

import khabar

app = Celery(
    "news",
    broker=os.environ.get("BROKER_URL", "redis://localhost:6379/0"),
    backend=os.environ.get("RESULT_BACKEND", "redis://localhost:6379/1"),
)
# Celery gives up on a process that has not started after 4 seconds: torch and a model may take longer.
app.conf.worker_proc_alive_timeout = 120


@cache
def tagger() -> "khabar.Tagger":  # in quotes: to name it is to import torch
    """Give this process's tagger."""
    return khabar.load()


@worker_process_init.connect
def load_before_the_first_task(**_: object) -> None:
    """Load the model in each process; not when this module is imported, for torch's threads do not outlive a fork."""
    tagger()


@app.task
def tag(articles: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tag articles, each with an id and a text, and give the objects that `khabar score` writes."""
    return [result.to_json() for result in tagger().tag_many(khabar.Article(**article) for article in articles)]
