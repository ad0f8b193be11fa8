"""The way most people tag articles today: two transformers pipelines, each with an encoder pass of its own.

Wraps one encoder and khabar's own heads as a text classifier and a token classifier, so that pipelines give
the same logits as khabar and a difference in speed is the machinery's alone; checks that they do. Knows nothing
of timing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast, pipeline
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput

from khabar.inference.tagger import Tagger
from khabar.models.article import Article, Segment
from khabar.models.batch import WindowSettings, collate
from khabar.models.encoding import EncodedArticle, encode_articles
from khabar.models.model import KhabarModel
from khabar.models.tags import tag_names


class TopicClassifier(PreTrainedModel):
    """An encoder with khabar's topic head over the whole of what it read, special pieces left out."""

    config_class = PreTrainedConfig
    _supports_sdpa = True

    def __init__(self, model: KhabarModel) -> None:
        super().__init__(_labelled(model, model.config.topics))
        self.config.problem_type = "multi_label_classification"
        self.encoder: nn.Module = model.encoder
        self.head = cast("nn.Module", model.topic_head)
        temperatures = model.config.topic_temperatures
        self.temperatures = torch.tensor([temperatures[topic] for topic in model.config.topics], device=model.device)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SequenceClassifierOutput:
        """Score rows: `logits` of (rows, n_topics), as calibrated."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        inner = attention_mask.bool()
        inner[:, 0] = False  # [CLS], and [SEP] behind each row's last piece
        inner.scatter_(1, attention_mask.sum(1, keepdim=True) - 1, False)
        scores = self.head(states[inner], inner.nonzero()[:, 0], len(input_ids)).float()
        return SequenceClassifierOutput(logits=scores / self.temperatures)


class PieceClassifier(PreTrainedModel):
    """An encoder with khabar's entity head over each piece."""

    config_class = PreTrainedConfig
    _supports_sdpa = True

    def __init__(self, model: KhabarModel) -> None:
        super().__init__(_labelled(model, tag_names(model.config.entity_labels)))
        self.encoder, self.head = model.encoder, model.entity_head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> TokenClassifierOutput:
        """Score pieces: `logits` of (rows, pieces, n_tags)."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return TokenClassifierOutput(logits=self.head(states)[0].float())


class Pipelines:
    """A text-classification and a token-classification pipeline over one encoder's weights.

    The first reads an article's first window, as is usual; the second all of it, window by window.
    """

    def __init__(self, model: KhabarModel, tokenizer: PreTrainedTokenizerFast) -> None:
        tokenizer = deepcopy(tokenizer)  # a pipeline leaves its padding and truncation switched on in it
        tokenizer.model_max_length = model.config.window
        self.overlap = model.config.window - 2 - model.config.stride
        logging.getLogger("transformers").setLevel(logging.CRITICAL)  # it does not know these classes, and says so
        device = model.device
        self.topics = pipeline("text-classification", TopicClassifier(model), tokenizer=tokenizer, device=device)
        self.pieces = pipeline("token-classification", PieceClassifier(model), tokenizer=tokenizer, device=device)

    def run(self, texts: Sequence[str], batch_size: int) -> None:
        """Tag texts the way a user would: both pipelines, one after the other."""
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.topics.device.type == "cuda"):
            self.topic_scores(texts, batch_size)
            self.pieces(
                list(texts), batch_size=batch_size, aggregation_strategy="first", stride=self.overlap, num_workers=0
            )

    def topic_scores(self, texts: Sequence[str], batch_size: int) -> list[dict[str, float]]:
        """Give each text's probability of every topic."""
        results: Any = self.topics(list(texts), batch_size=batch_size, top_k=None, truncation=True, num_workers=0)
        return [{row["label"]: row["score"] for row in rows} for rows in results]

    def piece_tags(self, texts: Sequence[str], batch_size: int) -> list[dict[int, str]]:
        """Give the tag of each piece by the character it starts at; texts must fit one window."""
        results: Any = self.pieces(
            list(texts), batch_size=batch_size, aggregation_strategy="none", ignore_labels=[], num_workers=0
        )
        return [{piece["start"]: piece["entity"] for piece in pieces} for pieces in results]


def _labelled(model: KhabarModel, labels: Sequence[str]) -> Any:
    """Give the encoder's configuration with the labels under which a pipeline reports."""
    config = deepcopy(model.encoder.config)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in config.id2label.items()}
    return config


def agreement(tagger: Tagger, pipelines: Pipelines, texts: Sequence[str]) -> dict[str, float]:
    """Compare what the pipelines decide with what khabar does.

    Only articles that fit one window are compared, each as one segment, for that is what a pipeline sees; and
    tags before the CRF, which pipelines have not.

    Returns:
        `articles`, `words`, the shares `topics` and `tags` of equal decisions, and `topic_shift`, the largest
        difference of a probability.
    """
    config = tagger.model.config
    whole = [Article(text=text, segments=(Segment(start=0, end=len(text)),)) for text in texts]
    fitting = [
        (article, one)
        for article, one in zip(whole, _encode(tagger, whole), strict=True)
        if 0 < one.n_pieces <= config.window - 2
    ]
    articles = [article for article, _ in fitting]
    theirs = pipelines.topic_scores([article.text for article in articles], batch_size=8)
    same_topics: list[bool] = []
    shift = 0.0
    for result, scores in zip(tagger.tag_many(articles), theirs, strict=True):
        reported = {topic.label for topic in result.topics}
        for label, score in scores.items():
            same_topics.append((score >= config.topic_thresholds[label]) == (label in reported))
            shift = max(shift, abs(score - result.topic_scores[label]))
    same_tags: list[bool] = []
    their_tags = pipelines.piece_tags([article.text for article in articles], batch_size=8)
    for (article, one), tags in zip(fitting, their_tags, strict=True):
        same_tags += [tags.get(start) == tag for start, tag in _word_tags(tagger, article, one)]
    return {
        "articles": len(articles),
        "words": len(same_tags),
        "topics": sum(same_topics) / max(1, len(same_topics)),
        "tags": sum(same_tags) / max(1, len(same_tags)),
        "topic_shift": shift,
    }


def _word_tags(tagger: Tagger, article: Article, encoded: EncodedArticle) -> Iterator[tuple[int, str]]:
    """Give the tag of each word's first piece, before the CRF, by the character at which the piece starts."""
    model = tagger.model
    windows = WindowSettings.from_tokenizer(tagger.tokenizer, window=model.config.window, stride=model.config.stride)
    batch = {name: value.to(model.device) for name, value in collate([encoded], windows).tensors().items()}
    with torch.inference_mode(), torch.autocast("cuda", dtype=torch.bfloat16, enabled=model.device.type == "cuda"):
        tags = model(**batch).emissions[0].argmax(-1).tolist()
    offsets = tagger.tokenizer.backend_tokenizer.encode(article.text, add_special_tokens=False).offsets
    labels = tag_names(model.config.entity_labels)
    for piece, tag in zip(encoded.word_pieces.tolist(), tags, strict=True):
        yield offsets[piece][0], labels[tag]


def _encode(tagger: Tagger, articles: Sequence[Article]) -> list[EncodedArticle]:
    return encode_articles(
        [article.text for article in articles],
        tagger.tokenizer,
        max_segment_words=tagger.model.config.max_segment_words,
        segments=[article.segment_spans for article in articles],
    )
