"""khabar at work elsewhere: a script that has a service tag articles, and loads no torch itself.

python remote.py http://127.0.0.1:8000 < articles.jsonl > results.jsonl
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator

import khabar


def tagged(url: str, lines: Iterable[str]) -> Iterator[str]:
    """Tag articles, JSON with a text and perhaps an id, one a line."""
    rows = map(json.loads, lines)
    articles = (khabar.Article(text=row["text"], id=row.get("id")) for row in rows)
    with khabar.Client(url, token=os.environ.get("KHABAR_TOKEN")) as client:
        for result in client.tag_many(articles):
            yield json.dumps(result.to_json(), ensure_ascii=False)


if __name__ == "__main__":
    try:
        for line in tagged(sys.argv[1], sys.stdin):
            sys.stdout.write(line + "\n")
    except khabar.KhabarError as error:
        sys.exit(f"error: {error}")
