"""The khabar model: one encoder pass over an article's windows, three heads over its states.

Turns a batch of tensors into logits and, given targets, into a loss. Knows nothing of text.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init

import khabar.models.recurrent  # noqa: F401  # registers the recurrent encoder with AutoConfig and AutoModel
from khabar.models import tags
from khabar.models.config import KhabarConfig
from khabar.models.crf import LinearChainCRF
from khabar.models.heads import EntityHead, FirstByDefault, LecunLinear, TopicHead, article_logits
from khabar.models.words import MAX_PROCLITICS

NOT_ANNOTATED = -100  # in integer targets; float targets use NaN


@dataclass(kw_only=True)
class KhabarOutput:
    """What one forward pass gives.

    Attributes:
        loss: Weighted sum of the annotated parts' losses; None without targets.
        segment_topic_logits: (n_segments, n_topics).
        article_topic_logits: (n_articles, n_topics).
        emissions: (n_segments, n_words, n_tags), scores of the BIO tags.
        proclitic_logits: (n_segments, n_words, MAX_PROCLITICS + 1).
    """

    loss: Tensor | None = None
    segment_topic_logits: Tensor
    article_topic_logits: Tensor
    emissions: Tensor
    proclitic_logits: Tensor


class KhabarModel(PreTrainedModel):
    """An encoder with khabar's heads; `save_pretrained` and `from_pretrained` as in transformers."""

    config: KhabarConfig
    config_class = KhabarConfig
    base_model_prefix = "khabar"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: KhabarConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.encoder = (
            encoder if encoder is not None else AutoModel.from_config(config.encoder, trust_remote_code=False)
        )
        # khabar reads token states only. A pooler would be dead weight, and a DDP run would wait for its gradients.
        if getattr(self.encoder, "pooler", None) is not None:
            self.encoder.pooler = None
        hidden_size = self.encoder.config.hidden_size
        n_labels = len(config.entity_labels)
        # A head without outputs would have empty tensors, which safetensors takes for shared ones and drops.
        n_topics = len(config.topics)
        self.topic_head = TopicHead(hidden_size, n_topics, config.head_dropout) if n_topics else None
        self.entity_head = EntityHead(hidden_size, tags.n_tags(n_labels), MAX_PROCLITICS, config.head_dropout)
        self.crf = LinearChainCRF(n_labels)
        self.post_init()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise the heads; the encoder's modules follow the encoder's own rule."""
        if isinstance(module, LinearChainCRF):
            for parameter in module.parameters():
                init.zeros_(parameter)
        elif isinstance(module, FirstByDefault):
            init.zeros_(module.weight)
            init.zeros_(module.bias)
            if not getattr(module.bias, "_is_hf_initialized", False):
                init.ones_(module.bias[:1])
        elif isinstance(module, LecunLinear):
            init.normal_(module.weight, std=module.in_features**-0.5)
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """Give the encoder's piece embedding."""
        embeddings: nn.Module = self.encoder.get_input_embeddings()
        return embeddings

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        piece_states: Tensor,
        piece_segments: Tensor,
        segment_articles: Tensor,
        segment_words: Tensor,
        word_mask: Tensor,
        article_rows: Tensor,
        segment_topics: Tensor | None = None,
        article_topics: Tensor | None = None,
        allowed_tags: Tensor | None = None,
        proclitics: Tensor | None = None,
        segment_weights: Tensor | None = None,
    ) -> KhabarOutput:
        """Score a batch; without targets only the logits are given.

        Args:
            input_ids: As `Batch` describes it, like the seven that follow.
            attention_mask: Likewise.
            piece_states: Likewise.
            piece_segments: Likewise.
            segment_articles: Likewise.
            segment_words: Likewise.
            word_mask: Likewise.
            article_rows: Likewise.
            segment_topics: (n_segments, n_topics) probabilities, 1 or 0 if certain; NaN where not annotated.
            article_topics: (n_articles, n_topics) likewise.
            allowed_tags: (n_segments, n_words, n_tags) bool; all True where not annotated.
            proclitics: (n_segments, n_words) proclitic letters before a name, or NOT_ANNOTATED.
            segment_weights: (n_segments,) weight of each segment's losses; its article's corpus weight.
        """
        states = self.encode(input_ids, attention_mask)
        output = self.read(states, piece_states, piece_segments, segment_articles, segment_words, article_rows)
        if allowed_tags is None or segment_topics is None or article_topics is None or proclitics is None:
            return output
        segment_logits, topic_logits = output.segment_topic_logits, output.article_topic_logits
        weights = segment_weights if segment_weights is not None else segment_logits.new_ones(len(segment_logits))
        article_weights = weights.new_zeros(len(topic_logits)).scatter_reduce(
            0, segment_articles, weights, reduce="amax", include_self=False
        )
        output.loss = (
            _topic_loss(segment_logits, segment_topics, weights)
            + _topic_loss(topic_logits, article_topics, article_weights)
            + self._entity_loss(output.emissions, word_mask, allowed_tags, weights)
            + _proclitic_loss(output.proclitic_logits, proclitics, weights)
        )
        return output

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode windows, each by itself: `forward`'s first half, which may be given some of a batch's at a time.

        Args:
            input_ids: (n_windows, longest window), as `Batch` describes it.
            attention_mask: Likewise.

        Returns:
            (n_windows, longest window, hidden).
        """
        states: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states

    def read(
        self,
        states: Tensor,
        piece_states: Tensor,
        piece_segments: Tensor,
        segment_articles: Tensor,
        segment_words: Tensor,
        article_rows: Tensor,
    ) -> KhabarOutput:
        """Score what the windows' states say: `forward`'s second half, over all of a batch.

        Args:
            states: What `encode` gave for the batch's windows, in their order.
            piece_states: As `Batch` describes it, like the four that follow.
            piece_segments: Likewise.
            segment_articles: Likewise.
            segment_words: Likewise.
            article_rows: Likewise.
        """
        piece = states.flatten(0, 1)[piece_states]  # (n_pieces, hidden)
        n_segments = len(segment_articles)
        if self.topic_head is None:
            segment_logits = piece.new_zeros((n_segments, 0), dtype=torch.float32)
        else:
            segment_logits = self.topic_head(piece, piece_segments, n_segments).float()
        # An empty batch of pieces (only empty texts) has no piece 0 to point padded words at.
        padded = piece if len(piece) else piece.new_zeros((1, states.shape[-1]))
        emissions, proclitic_logits = self.entity_head(padded[segment_words])
        return KhabarOutput(
            segment_topic_logits=segment_logits,
            article_topic_logits=article_logits(segment_logits, segment_articles, len(article_rows)),
            emissions=emissions.float(),
            proclitic_logits=proclitic_logits.float(),
        )

    def _entity_loss(self, emissions: Tensor, word_mask: Tensor, allowed: Tensor, weights: Tensor) -> Tensor:
        """CRF loss by word whose tags are annotated, each segment times its weight."""
        per_segment = self.crf.loss(emissions, word_mask, allowed)
        annotated = (~allowed & word_mask[..., None]).any(dim=-1)  # words whose tags say anything
        return (per_segment * weights).sum() / annotated.sum().clamp(min=1)


def _topic_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Mean binary cross-entropy of what is annotated, each row times its weight; zero where nothing is."""
    annotated = ~targets.isnan()
    losses = functional.binary_cross_entropy_with_logits(logits, targets.nan_to_num(0.0), reduction="none")
    return (losses * annotated * weights[:, None]).sum() / annotated.sum().clamp(min=1)


def _proclitic_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Mean cross-entropy of the first words of annotated entities, times weights; zero where there are none."""
    losses = functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=NOT_ANNOTATED, reduction="none")
    return (losses * weights[:, None]).sum() / (targets != NOT_ANNOTATED).sum().clamp(min=1)
