"""Compiles a model's encoder into kernels of its own with torch.compile, and tries them at once.

Changes how a model runs, not what it says. Knows nothing of texts' sources or of results.
"""

from __future__ import annotations

import inspect
import logging
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from khabar.inference.forward import Forward
from khabar.inference.prepared import compile_prepared
from khabar.models.encoding import encode_articles
from khabar.models.errors import KhabarError
from khabar.models.model import KhabarModel
from khabar.models.recurrent import RecurrentConfig

log = logging.getLogger(__name__)

# Lengths are free in compiled layers; several windows with padding, without it, and one alone are kernels of their own.
_SENTENCE = "أعلنت الوزارة أمس في بيان نتائج الاجتماع الذي عقد في بغداد. "
_TRIED = ([_SENTENCE * 14, _SENTENCE * 15], [_SENTENCE * 15] * 2, [_SENTENCE * 15])
# What torch compiles holds for a number of threads, a precision, a kind of layer, of mask and of batch: there are more
# of these together than torch's own limit.
_VARIANTS = 64


def compile_encoder(model: KhabarModel, tokenizer: PreTrainedTokenizerFast, *, bf16: bool = False) -> None:
    """Compile a model's encoder, in place, for texts of all lengths; takes a minute, from its cache seconds.

    Layers are compiled one by one: those of a kind share what is compiled, so that a deep encoder takes no longer
    than a shallow one.

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
    from transformers.modeling_layers import GradientCheckpointingLayer  # brings packages that others do without

    compile_prepared(model.encoder)
    log.info("compiling the encoder: a minute or so, seconds where it was done before")
    # Kernels that take the threads that there are: those in torch's cache may have been made with another number.
    how: dict[str, Any] = {"dynamic": True, "options": {"cpp.dynamic_threads": True}}
    if "recompile_limit" in inspect.signature(torch.compile).parameters:  # torch 2.13; before, some stay slow
        how["recompile_limit"] = _VARIANTS
    modules: list[torch.nn.Module] = [*model.encoder.modules()]
    for part in [module for module in modules if isinstance(module, GradientCheckpointingLayer)] or modules[:1]:
        part.compile(**how)
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
