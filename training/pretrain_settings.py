"""The settings of a pretraining run: a frozen dataclass with checks, and a recipe for each architecture.

Knows names, types and ranges; knows nothing of text or models.
"""

from __future__ import annotations

from dataclasses import dataclass

from khabar.models.device import check_whole_device
from khabar.models.errors import KhabarError
from khabar.models.ranges import check_choice, check_range

ARCHITECTURES = ("recurrent", "transformer")
OBJECTIVES = {"recurrent": ("cloze",), "transformer": ("replaced-token", "masked-lm")}
PRECISIONS = ("auto", "fp32", "bf16")

# What a setting of 0 becomes. The recurrent recipe is the one that khabar-mini 1 was made with, in about an hour on
# two CPU cores. The transformer's is for twenty minutes on one large GPU: deep and thin
# within 20M parameters; four times the rows of ELECTRA-small (Clark et al. 2020, appendix A: 128 rows of 128 pieces,
# 5e-4) and the rate raised with them; tens of passes, as BabyLM's winners at this data size (Charpentier and
# Samuel 2023, ELC-BERT, and 2024, GPT-BERT).
RECIPES: dict[str, dict[str, float]] = {
    "recurrent": {"hidden_size": 512, "rows": 128, "length": 64, "learning_rate": 2e-3, "passes": 1.0},
    "transformer": {"hidden_size": 256, "rows": 512, "length": 128, "learning_rate": 1.5e-3, "passes": 60},
}


_COUNTS = (
    "vocab_size", "embedding_size", "context_size", "context_layers", "hidden_size", "layers", "heads",
    "intermediate_size", "samples", "rows", "measure_steps", "checkpoint_steps",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """Everything that decides what a pretraining run gives, apart from the machine.

    `hidden_size`, `rows`, `length`, `learning_rate` and `passes` of 0 become the architecture's recipe.

    Attributes:
        texts: Text files in UTF-8, plain, .gz or .zst: one paragraph a line, an empty line between articles.
        output: Folder for the encoder; its `checkpoints/` holds pieces and checkpoints until the run is done.
        architecture: `recurrent`, which a CPU pretrains in an hour, or `transformer`, which wants a GPU.
        objective: None takes the architecture's first: `cloze` for recurrent; `replaced-token` or `masked-lm`
            for transformer.
        tokenizer: Folder of a tokenizer to use as it is; None trains a vocabulary.
        vocab_size: Pieces of the vocabulary to train.
        embedding_size: Width of the piece vectors.
        context_size: recurrent: width of the pretrained LSTMs, each direction.
        context_layers: recurrent: pretrained LSTM layers, each direction.
        hidden_size: Width of a piece's state.
        layers: transformer: number of layers.
        heads: transformer: attention heads.
        intermediate_size: transformer: width of the gated feed-forward layers.
        vector_passes: recurrent: passes of static vector training, which the encoder starts from; 0: none.
        samples: recurrent: draws of the vocabulary sample that a step's softmax runs over.
        passes: Passes over the text.
        rows: Rows a step, all processes together.
        length: Pieces a row.
        learning_rate: Peak rate.
        warmup: Share of the steps in which the rate rises.
        decay: Share of the steps, the last ones, in which it falls to zero; between the two it stays. Source:
            the trapezoidal schedule of Zhai et al. 2022, "Scaling Vision Transformers", section 3.5.
        weight_decay: AdamW's decay of matrices; vectors are not decayed.
        max_grad_norm: Gradients are scaled down to this norm.
        held_out: Share of the text, its end, that only measures.
        measure_steps: Steps between measurements on it.
        checkpoint_steps: Steps between checkpoints.
        seed: Seed of initialisation, order and sampling.
        precision: `auto` (bf16 on a GPU, fp32 on a CPU), `fp32` or `bf16` (for CPUs with AVX512-BF16).
        device: `auto`, `cpu` or `cuda`.
    """

    texts: tuple[str, ...]
    output: str
    architecture: str = "recurrent"
    objective: str | None = None
    tokenizer: str | None = None
    vocab_size: int = 32000
    embedding_size: int = 256
    context_size: int = 512
    context_layers: int = 1
    hidden_size: int = 0
    layers: int = 12
    heads: int = 4
    intermediate_size: int = 768
    vector_passes: int = 2
    samples: int = 4096
    passes: float = 0
    rows: int = 0
    length: int = 0
    learning_rate: float = 0
    warmup: float = 0.05
    decay: float = 0.4
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    held_out: float = 0.005
    measure_steps: int = 100
    checkpoint_steps: int = 300
    seed: int = 0
    precision: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            KhabarError: If a setting is none of the allowed ones.
        """
        check_choice("architecture", self.architecture, ARCHITECTURES)
        for name, value in RECIPES[self.architecture].items():
            if getattr(self, name) == 0:
                object.__setattr__(self, name, value)
        allowed = OBJECTIVES[self.architecture]
        if self.objective is not None:
            check_choice(f"objective of a {self.architecture} encoder", self.objective, allowed)
        check_choice("precision", self.precision, PRECISIONS)
        check_whole_device(self.device)
        for name in _COUNTS:
            check_range(name, getattr(self, name), at_least=1)
        check_range("length", self.length, at_least=8)
        check_range("vector_passes", self.vector_passes, at_least=0)
        check_range("seed", self.seed, at_least=0, below=2**32)
        for name in ("passes", "learning_rate", "max_grad_norm"):
            check_range(name, getattr(self, name), above=0)
        for name in ("warmup", "decay", "held_out"):
            check_range(name, getattr(self, name), at_least=0, below=1)
        if self.warmup + self.decay > 1:
            raise KhabarError(f"warmup {self.warmup} and decay {self.decay} together exceed the whole run")
        if self.architecture == "transformer" and self.hidden_size % (2 * self.heads):
            wanted = f"a multiple of 2 * heads = {2 * self.heads}"
            raise KhabarError(f"hidden_size is {self.hidden_size}, must be {wanted}")
        if self.architecture == "recurrent" and self.hidden_size % 2:
            raise KhabarError(f"hidden_size is {self.hidden_size}, must be even: half for each direction")

    @property
    def chosen_objective(self) -> str:
        """The objective, the architecture's first where none was named."""
        return self.objective or OBJECTIVES[self.architecture][0]
