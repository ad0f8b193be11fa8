"""The Tagger: raw articles in, topics and entities out, in order and in constant memory.

Loads a model, plans batches over a look-ahead, runs the model. Knows nothing of files or training.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from khabar.inference.decode import decode
from khabar.inference.results import TaggedArticle
from khabar.models.article import Article
from khabar.models.batch import Batch, WindowSettings, collate
from khabar.models.device import choose_device
from khabar.models.encoding import EncodedArticle, encode_articles
from khabar.models.folder import load_model
from khabar.models.model import KhabarModel

EMBEDDED = Path(__file__).resolve().parents[1] / "models" / "embedded"
# Articles read ahead, so that a batch holds articles of like length; bounds what is held at a time.
LOOK_AHEAD = 256
BATCH_PIECES = 8192


def load(model: str | Path | None = None, *, device: str = "auto") -> Tagger:
    """Load a tagger.

    Args:
        model: A model folder or a hub id; None or "embedded" takes the model that comes with khabar, which
            never reaches the network.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        ModelFolderError: If the model cannot be loaded.
        DeviceError: If the device is not there.
    """
    chosen = choose_device(device)
    loaded, tokenizer = load_model(EMBEDDED if model is None or model == "embedded" else model)
    loaded.to(device=chosen)  # type: ignore[call-arg]  # transformers wraps torch's `to` without its types
    return Tagger(loaded, tokenizer)


class Tagger:
    """Tags articles with one model. Safe to use from several threads at once.

    Args:
        model: A model in evaluation mode, on the device it is to run on.
        tokenizer: Its tokenizer.
    """

    def __init__(self, model: KhabarModel, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._windows = WindowSettings.from_tokenizer(tokenizer, window=model.config.window, stride=model.config.stride)

    @property
    def topics(self) -> list[str]:
        """Topics the model knows."""
        return list(self.model.config.topics)

    @property
    def entity_labels(self) -> list[str]:
        """Entity labels the model knows."""
        return list(self.model.config.entity_labels)

    def tag(self, article: str | Article) -> TaggedArticle:
        """Tag one article: its raw text, or an Article, whose segments are kept where it has any.

        Raises:
            KhabarError: If the text is not valid Unicode.
        """
        return next(self.tag_many([article]))

    def tag_many(
        self, articles: Iterable[str | Article], *, batch_pieces: int = BATCH_PIECES
    ) -> Iterator[TaggedArticle]:
        """Tag articles as a stream, in their order.

        Args:
            articles: Raw texts or Articles; any iterable, read a bounded stretch ahead.
            batch_pieces: Most pieces in a forward pass, padding included; a longer article goes alone.

        Raises:
            ValueError: If batch_pieces is below 1.
            KhabarError: If a text is not valid Unicode.
        """
        if batch_pieces < 1:
            raise ValueError(f"batch_pieces must be at least 1, got {batch_pieces}")
        stream = iter(articles)
        while ahead := list(islice(stream, LOOK_AHEAD)):
            yield from self._tag_together(
                [Article(text=item) if isinstance(item, str) else item for item in ahead], batch_pieces
            )

    def _tag_together(self, articles: Sequence[Article], batch_pieces: int) -> list[TaggedArticle]:
        encoded = encode_articles(
            [article.text for article in articles],
            self.tokenizer,
            max_segment_words=self.model.config.max_segment_words,
            segments=[article.segment_spans for article in articles],
        )
        tagged: dict[int, TaggedArticle] = {}
        for indices in plan_batches([one.n_pieces for one in encoded], self.model.config.window, batch_pieces):
            results = self._forward([articles[i] for i in indices], [encoded[i] for i in indices])
            tagged.update(zip(indices, results, strict=True))
        return [tagged[index] for index in range(len(articles))]

    @torch.inference_mode()
    def _forward(self, articles: Sequence[Article], encoded: Sequence[EncodedArticle]) -> list[TaggedArticle]:
        device = self.model.device
        batch = _to(collate(encoded, self._windows), device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            output = self.model(**batch.tensors())
        return decode(
            [article.text for article in articles],
            [article.id for article in articles],
            encoded,
            batch,
            output,
            self.model.crf,
            self.model.config,
        )


def plan_batches(lengths: Sequence[int], window: int, batch_pieces: int) -> list[list[int]]:
    """Group articles of like length so that each batch stays within its pieces, padding included.

    Args:
        lengths: Pieces of each article.
        window: Longest window in pieces; a longer article fills several.
        batch_pieces: Most pieces in a batch; an article that is longer goes alone.

    Returns:
        Batches of article indices; together each index once.
    """
    batches: list[list[int]] = []
    n_pieces, width = 0, 0
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        width = max(width, min(lengths[index] + 2, window))
        n_windows = -(-max(lengths[index], 1) // window)
        if batches and n_pieces + n_windows <= batch_pieces // width:
            batches[-1].append(index)
            n_pieces += n_windows
        else:
            batches.append([index])
            n_pieces, width = n_windows, min(lengths[index] + 2, window)
    return batches


def _to(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cpu":
        return batch
    moved = {field.name: getattr(batch, field.name).to(device, non_blocking=True) for field in fields(batch)}
    return replace(batch, **moved)
