"""Compiles a model's encoder into kernels of its own with torch.compile, and tries them at once.

Changes how a model runs, not what it says. Knows nothing of texts' sources or of results.
"""

from __future__ import annotations

import logging

from transformers import PreTrainedTokenizerFast

from khabar.inference.forward import Forward
from khabar.models.encoding import encode_articles
from khabar.models.errors import KhabarError
from khabar.models.model import KhabarModel
from khabar.models.recurrent import RecurrentConfig

log = logging.getLogger(__name__)

# Lengths are free in a compiled encoder, but one window alone and several together are kernels of their own.
_TRIED = (["زار الوزير بغداد.", "أعلنت الشركة نتائجها أمس في بيان."], ["زار الوزير بغداد."])


def compile_encoder(model: KhabarModel, tokenizer: PreTrainedTokenizerFast, *, bf16: bool = False) -> None:
    """Compile a model's encoder, in place, for texts of all lengths; takes a minute or two, from its cache seconds.

    Args:
        model: A model in evaluation mode, on the device it is to run on.
        tokenizer: Its tokenizer.
        bf16: Whether its products will be computed in bfloat16.

    Raises:
        KhabarError: If the encoder is recurrent, which torch.compile does not get through; or if it cannot be
            compiled here, as without a C++ compiler on a CPU.
    """
    if isinstance(model.encoder.config, RecurrentConfig):
        raise KhabarError("runtime is 'compiled', but the encoder is recurrent; allowed: torch, onnx")
    log.info("compiling the encoder: a minute or two, seconds where it was done before")
    model.encoder.compile(dynamic=True)
    passes = Forward(model, tokenizer, bf16=bf16)
    try:
        for texts in _TRIED:
            encoded = encode_articles(texts, tokenizer, max_segment_words=model.config.max_segment_words)
            for work in passes.plan(encoded):
                list(passes.run(work))
    except RuntimeError as error:
        first_line = str(error).strip().partition("\n")[0]
        raise KhabarError(
            f"runtime is 'compiled', but torch cannot compile the encoder here ({type(error).__name__}: {first_line}); "
            "allowed: torch; or a machine with a C++ compiler (g++, or what CXX names)"
        ) from error
