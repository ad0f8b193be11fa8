"""Exports a model for ONNX Runtime: its encoder as model.onnx, its heads beside it, behind a gate.

Turns a model into a folder that `khabar.inference.onnx_model` loads, or into an error with the numbers that
speak against it, and then leaves nothing behind. Knows graphs and files; what the gate measures is gate.py's matter.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from khabar.inference.gate import GateReport, check_sample, compare
from khabar.inference.onnx_model import (
    ENCODER,
    HEADS,
    INPUTS,
    OUTPUT,
    RECORD,
    heads_of,
    load_onnx,
    open_session,
    settings_digest,
)
from khabar.inference.recurrent_graph import OPSET, recurrent_graph
from khabar.inference.sinks import whole_folder
from khabar.inference.tagger import Tagger
from khabar.models.article import Article
from khabar.models.errors import KhabarError, MissingExtraError
from khabar.models.folder import no_reports, vocabulary_digest
from khabar.models.model import KhabarModel
from khabar.models.recurrent import RecurrentEncoder

TOLERANCE = 1e-3  # largest difference of a state; float32 kernels differ by a hundredth of it
MAX_BYTES = 2**31 - 2**20  # an ONNX file is one protobuf message, which ends at 2 GiB
TRIALS = ((1, 2), (2, 9), (3, 24))  # (rows, pieces) of the batches an exported encoder is tried on


def export_model(
    model: KhabarModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: str | Path,
    *,
    int8: bool = False,
    sample: Sequence[Article] | None = None,
) -> GateReport | None:
    """Export a model; the folder appears whole or not at all.

    Args:
        model: A model in evaluation mode, on the CPU.
        tokenizer: Its tokenizer.
        folder: Where to; a new or an empty folder.
        int8: Store the weights of LSTMs and matrix products in 8 bits. Needs a sample.
        sample: Articles to hold the exported model to the given one's results on, best labelled ones.

    Returns:
        What the gate measured; None without a sample.

    Raises:
        KhabarError: If the folder is in use, the encoder cannot be exported, or the gate refuses: the message
            has the numbers.
        MissingExtraError: If `khabar[onnx]` is not installed.
    """
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise KhabarError(f"{folder} is there already; allowed: a new or an empty folder")
    if int8 and sample is None:
        raise KhabarError("int8 changes results: it needs a sample of your articles to be measured on")
    if sample is not None:
        check_sample(sample)
    if any(find_spec(package) is None for package in ("onnx", "onnxruntime", "onnxscript")):
        raise MissingExtraError("onnx", "exporting a model")
    with whole_folder(folder) as partial:
        with _quiet():
            _write_encoder(model.encoder, partial / ENCODER, int8=int8)
        safetensors.torch.save_file(
            {name: value.contiguous() for name, value in heads_of(model).items()}, partial / HEADS
        )
        model.config.vocabulary = vocabulary_digest(tokenizer)  # a model may be older than this setting
        with no_reports():
            model.config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        _write_record(model, partial, int8=int8, gate=None)
        report = None
        if sample is not None:
            report = compare(Tagger(model, tokenizer), Tagger(*load_onnx(partial)), sample)
            if not report.accepted:
                kind = "int8" if int8 else "the exported model"
                raise KhabarError(
                    "\n".join([f"{kind} is refused on these {report.n_articles} articles:", *report.lines()])
                )
            _write_record(model, partial, int8=int8, gate=report)
        for path in partial.iterdir():
            path.chmod(0o644)  # safetensors writes files for their owner alone
    return report


def _write_encoder(encoder: PreTrainedModel, path: Path, *, int8: bool) -> None:
    n_bytes = 4 * sum(parameter.numel() for parameter in encoder.parameters())
    if n_bytes > MAX_BYTES:
        raise KhabarError(f"the encoder has {n_bytes:,} bytes of weights; an ONNX file holds at most {MAX_BYTES:,}")
    if isinstance(encoder, RecurrentEncoder):
        path.write_bytes(recurrent_graph(encoder).SerializeToString())
    else:
        _write_transformer(encoder, path)
    _check_states(encoder, path)
    if int8:
        _quantise(path)


class _States(nn.Module):
    """An encoder that gives its states as a plain tensor, as an exported graph does."""

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states


def _write_transformer(encoder: PreTrainedModel, path: Path) -> None:
    dynamic = dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)
    try:
        torch.onnx.export(
            _States(encoder).eval(),
            kwargs=_trial(encoder, *TRIALS[1]),
            f=path,
            input_names=INPUTS,
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=dict.fromkeys(INPUTS, dynamic),
            external_data=False,
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        kind = encoder.config.model_type
        reason = str(error).strip().splitlines()[0]
        raise KhabarError(f"an encoder of model_type {kind} cannot be exported to ONNX: {reason}") from error


def _trial(encoder: PreTrainedModel, n_rows: int, n_pieces: int) -> dict[str, Tensor]:
    """Make a batch of a given shape; all rows but the first are padded, to different lengths."""
    ids = torch.arange(n_rows * n_pieces).reshape(n_rows, n_pieces) % encoder.config.vocab_size
    lengths = (n_pieces - torch.arange(n_rows)).clamp(min=1)
    return dict(zip(INPUTS, (ids, (torch.arange(n_pieces) < lengths[:, None]).long()), strict=True))


@torch.inference_mode()
def _check_states(encoder: PreTrainedModel, path: Path) -> None:
    """See that the graph gives the encoder's states, whatever the batch's shape and padding."""
    session = open_session(path.read_bytes())
    for shape in TRIALS:
        batch = _trial(encoder, *shape)
        wanted = _States(encoder)(**batch)
        given = torch.from_numpy(session.run([OUTPUT], {name: value.numpy() for name, value in batch.items()})[0])
        difference = float((given - wanted)[batch["attention_mask"].bool()].abs().max())
        if not difference < TOLERANCE:  # a NaN too
            raise KhabarError(
                f"the exported encoder's states differ by {difference:.2g} on a batch of {shape}, "
                f"allowed: under {TOLERANCE:g}; this kind of encoder cannot be exported faithfully"
            )


def _quantise(path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = path.with_name("float32.onnx")
    path.replace(whole)
    quantize_dynamic(
        whole,
        path,
        # Piece vectors stay whole: rounding them moves probabilities most and saves no time.
        op_types_to_quantize=["LSTM", "MatMul"],
        per_channel=True,
        # Seven bits: processors without VNNI overflow on eight, and results would depend on the processor.
        reduce_range=True,
        weight_type=QuantType.QInt8,
    )
    whole.unlink()


def _write_record(model: KhabarModel, folder: Path, *, int8: bool, gate: GateReport | None) -> None:
    import onnxruntime

    record: dict[str, Any] = {
        "model": model.config.full_name,
        "precision": "int8" if int8 else "float32",
        "opset": OPSET,
        "onnxruntime": onnxruntime.__version__,
        "settings": settings_digest(folder),
        "sha256": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (ENCODER, HEADS)},
        "gate": None if gate is None else gate.to_json(),
    }
    (folder / RECORD).write_text(json.dumps(record, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's and the quantiser's notes off the terminal for a while."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's to itself
            yield
    finally:
        logging.disable(before)
