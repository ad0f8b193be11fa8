"""Loads a folder that `khabar export` wrote, strictly, as a model whose encoder ONNX Runtime runs on the CPU.

The heads are the same code and weights as ever; only the encoder's pass is another's. Knows nothing of how a
folder is made, and runs nothing that the folder's record does not vouch for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutput

from khabar.models.errors import MissingExtraError, ModelFolderError
from khabar.models.folder import own_config, own_tokenizer, quietly
from khabar.models.folder_checks import check_contained, check_no_pickles
from khabar.models.model import KhabarModel

if TYPE_CHECKING:
    from onnx import GraphProto, TensorProto
    from onnxruntime import InferenceSession

ENCODER, HEADS, RECORD = "model.onnx", "heads.safetensors", "export.json"
ONNX_FILES = ("config.json", ENCODER, HEADS, RECORD, "tokenizer.json", "tokenizer_config.json")
INPUTS, OUTPUT = ("input_ids", "attention_mask"), "states"
# What of config.json the exported weights are bound to. Thresholds, temperatures and names may change.
BOUND_SETTINGS = ("encoder", "topics", "entity_labels")


class OnnxEncoder(PreTrainedModel):
    """An encoder without weights of its own: ONNX Runtime computes its states.

    Args:
        config: The configuration of the encoder that was exported.
        session: Runs the exported graph; may be used from several threads at once.
    """

    config_class = PreTrainedConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"

    def __init__(self, config: PreTrainedConfig, session: InferenceSession) -> None:
        super().__init__(config)
        self.session = session

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> BaseModelOutput:
        """Encode right-padded pieces on the CPU: `last_hidden_state` of (batch, pieces, hidden_size).

        Raises:
            MemoryError: If they need more memory than there is.
        """
        inputs = dict(zip(INPUTS, (input_ids.numpy(), attention_mask.numpy()), strict=True))
        try:
            (states,) = self.session.run([OUTPUT], inputs)
        except Exception as error:  # its own kinds have no base but this one
            if "Failed to allocate memory" in str(error):
                raise MemoryError(str(error)) from error
            raise
        return BaseModelOutput(last_hidden_state=torch.from_numpy(states))


def load_onnx(folder: str | Path) -> tuple[KhabarModel, PreTrainedTokenizerFast]:
    """Load an exported model in evaluation mode. It stays on the CPU and never reaches the network.

    ONNX Runtime gets as many threads as torch has at that moment (`OMP_NUM_THREADS`, `torch.set_num_threads`).

    Raises:
        ModelFolderError: If it is not such a folder, lacks a file or holds a pickle, or its files are damaged, refer
            to data outside themselves, or do not belong together.
        MissingExtraError: If ONNX Runtime is not installed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelFolderError(f"{folder}: no such folder; runtime onnx loads a folder that `khabar export` wrote")
    missing = [name for name in ONNX_FILES if not (folder / name).is_file()]
    if missing:
        raise ModelFolderError(
            f"{folder}: {', '.join(missing)} missing; `khabar export MODEL DIR` writes such a folder"
        )
    check_contained(folder)
    check_no_pickles(folder)
    record = read_record(folder)
    if record["settings"] != settings_digest(folder):
        raise ModelFolderError(
            f"{folder}: config.json has other {', '.join(BOUND_SETTINGS)} than {ENCODER} was made with; export again"
        )
    content = {name: _vouched(folder, name, record) for name in (ENCODER, HEADS)}
    config = own_config(folder)
    encoder: Any = config.encoder  # resolved by now
    session = _open_session(folder, content[ENCODER])
    size = session.get_outputs()[0].shape[-1]
    if size != encoder.hidden_size:
        raise ModelFolderError(f"{folder}: {ENCODER} gives states of {size}, config.json says {encoder.hidden_size}")
    model = KhabarModel(config, encoder=OnnxEncoder(encoder, session))
    _load_heads(folder, model, content[HEADS])
    tokenizer = own_tokenizer(folder, config, n_rows=encoder.vocab_size)
    return model.train(mode=False), tokenizer


def open_session(content: bytes) -> InferenceSession:
    """Make ONNX Runtime ready to run a graph on the CPU.

    Raises:
        MissingExtraError: If ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnx", "running a model in ONNX Runtime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Waiting threads would take the processor from torch's, which run the heads in between.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = False  # patterns are kept for each shape of batch that ever came
    options.log_severity_level = 3  # errors only: they are raised, the rest is noise
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def read_record(folder: Path) -> dict[str, Any]:
    """Read what export wrote of itself.

    Raises:
        ModelFolderError: If it is no such record.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        digests = record["sha256"]
        valid = isinstance(record["settings"], str) and all(isinstance(digests[name], str) for name in (ENCODER, HEADS))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFolderError(f"{folder}: {RECORD} is not a record of `khabar export`; export again") from error
    if not valid:
        raise ModelFolderError(f"{folder}: {RECORD} is not a record of `khabar export`; export again")
    return dict(record)


def settings_digest(folder: Path) -> str:
    """Digest of the settings in config.json that exported weights are bound to."""
    config = quietly(folder, lambda: json.loads((folder / "config.json").read_text(encoding="utf-8")))
    bound = {name: config.get(name) for name in BOUND_SETTINGS} if isinstance(config, dict) else None
    return hashlib.sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest()


def heads_of(model: KhabarModel) -> dict[str, Tensor]:
    """All weights of a model but its encoder's."""
    return {name: value for name, value in model.state_dict().items() if not name.startswith("encoder.")}


def _vouched(folder: Path, name: str, record: Mapping[str, Any]) -> bytes:
    """Read a file whose digest the record has: the very bytes that are checked are used."""
    content = (folder / name).read_bytes()
    if hashlib.sha256(content).hexdigest() != record["sha256"][name]:
        raise ModelFolderError(
            f"{folder}: {name} is not the file that was exported (its sha256 differs from {RECORD}'s)"
        )
    return content


def _open_session(folder: Path, content: bytes) -> InferenceSession:
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("onnx", "running a model in ONNX Runtime") from error
    try:
        outside = next(_outside_data(onnx.load_model_from_string(content).graph), None)
    except Exception as error:  # protobuf's own kinds, which differ between its implementations
        raise ModelFolderError(f"{folder}: {ENCODER} is not an ONNX file") from error
    if outside is not None:
        raise ModelFolderError(f"{folder}: {ENCODER} takes {outside} from another file; allowed: one whole file")
    try:
        session = open_session(content)
    except MissingExtraError:
        raise
    except Exception as error:  # ONNX Runtime's kinds have no common one
        raise ModelFolderError(f"{folder}: {ENCODER} cannot be run: {str(error).splitlines()[0]}") from error
    names = [value.name for value in session.get_inputs()], [value.name for value in session.get_outputs()]
    if (sorted(names[0]), names[1]) != (sorted(INPUTS), [OUTPUT]):
        raise ModelFolderError(
            f"{folder}: {ENCODER} turns {', '.join(names[0])} into {', '.join(names[1])}, "
            f"must turn {', '.join(INPUTS)} into {OUTPUT}"
        )
    return session


def _outside_data(graph: GraphProto) -> Iterator[str]:
    """Names of a graph's tensors that are stored in another file, those of inner graphs included."""
    from onnx.external_data_helper import uses_external_data

    def named(tensors: Iterator[TensorProto]) -> Iterator[str]:
        yield from (tensor.name or "a tensor" for tensor in tensors if uses_external_data(tensor))

    yield from named(iter(graph.initializer))
    for node in graph.node:
        for attribute in node.attribute:
            yield from named(iter([attribute.t, *attribute.tensors]))
            for inner in [attribute.g, *attribute.graphs]:
                if inner.node or inner.initializer:
                    yield from _outside_data(inner)


def _load_heads(folder: Path, model: KhabarModel, content: bytes) -> None:
    try:
        heads = safetensors.torch.load(content)
    except SafetensorError as error:
        raise ModelFolderError(f"{folder}: {HEADS} cannot be loaded: {error}") from error
    wanted = heads_of(model)
    problems = [
        *(f"{name} is missing" for name in sorted(wanted.keys() - heads.keys())),
        *(f"{name} is not part of this model" for name in sorted(heads.keys() - wanted.keys())),
        *(
            f"{name} has shape {list(heads[name].shape)}, must be {list(wanted[name].shape)}"
            for name in sorted(wanted.keys() & heads.keys())
            if heads[name].shape != wanted[name].shape
        ),
    ]
    if problems:
        raise ModelFolderError(f"{folder}: {HEADS} does not fit config.json: {'; '.join(problems)}")
    model.load_state_dict(heads)
