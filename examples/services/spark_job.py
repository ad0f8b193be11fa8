"""khabar in Spark's `mapInPandas`: frames of articles in, frames of topics and entities out, a model a partition.

news = spark.read.parquet("news").select("id", "text")
news.mapInPandas(tag_frames, SCHEMA).write.parquet("tagged")
"""

from collections.abc import Iterator

import pandas as pd

import khabar

SCHEMA = """
    id string,
    topics array<string>,
    topic_scores map<string, double>,
    entities array<struct<label: string, start: int, end: int, text: string, score: double>>,
    model string
"""


def tag_frames(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Tag frames with the columns id and text; a row without a text counts as an empty one."""
    tagger = khabar.load()  # here, in the worker: a model does not travel
    for frame in frames:
        rows = [result.to_json() for result in tagger.tag_many(frame["text"].fillna(""))]
        yield pd.DataFrame(
            {
                "id": frame["id"].to_list(),
                "topics": [[topic["label"] for topic in row["topics"]] for row in rows],
                "topic_scores": [row["topic_scores"] for row in rows],
                "entities": [row["entities"] for row in rows],
                "model": [row["model"] for row in rows],
            }
        )
