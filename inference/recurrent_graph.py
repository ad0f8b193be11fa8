"""Writes a recurrent encoder as an ONNX graph: piece ids and mask in, one state a piece out.

ONNX's own LSTM reads rows of different lengths in either direction, so that what the encoder does with reversed
rows becomes one node a direction. Knows nothing of heads or files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from khabar.models.recurrent import RecurrentEncoder

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

OPSET = 20  # ONNX 1.15; IR_VERSION is the file format of that release
IR_VERSION = 9

Array = NDArray[np.float32] | NDArray[np.int64]


class _Graph:
    """Nodes and constants in the order they are added; every value has a name."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, name: str, value: Array) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{output}/{kind}", **attributes))
        return output


def recurrent_graph(encoder: RecurrentEncoder) -> ModelProto:
    """Build the graph of an encoder in evaluation mode.

    Inputs: `input_ids` and `attention_mask`, int64 (batch, pieces), right-padded. Output: `states`, float32
    (batch, pieces, hidden_size); what it holds at padding means nothing.
    """
    from onnx import TensorProto, checker, helper

    weights = {name: value.detach().float().cpu().numpy() for name, value in encoder.state_dict().items()}
    graph = _Graph()
    # ONNX's LSTM takes the pieces first: (pieces, batch, size).
    ids = graph.node("Transpose", ["input_ids"], "ids", perm=[1, 0])
    columns = graph.constant("columns", np.array([1], dtype=np.int64))
    counted = graph.node("ReduceSum", ["attention_mask", columns], "counted", keepdims=0)
    lengths = graph.node("Cast", [counted], "lengths", to=TensorProto.INT32)

    table = graph.constant("embeddings", weights["embeddings.weight"])
    vectors = graph.node("Gather", [table, ids], "vectors")
    norm = [graph.constant(f"norm_{kind}", weights[f"embedding_norm.{kind}"]) for kind in ("weight", "bias")]
    embedded = graph.node(
        "LayerNormalization", [vectors, *norm], "embedded", axis=-1, epsilon=encoder.embedding_norm.eps
    )
    left = right = embedded
    for layer in range(encoder.config.n_context_layers):
        left = _lstm(graph, weights, "context.forward_lstm", layer, left, lengths, "forward")
        right = _lstm(graph, weights, "context.backward_lstm", layer, right, lengths, "reverse")
    features = graph.node("Concat", [embedded, left, right], "features", axis=-1)
    projected = graph.node("MatMul", [features, graph.constant("mix_weight", weights["top.mix.weight"].T)], "projected")
    mixed = graph.node("Add", [projected, graph.constant("mix_bias", weights["top.mix.bias"])], "mixed")
    left = _lstm(graph, weights, "top.forward_lstm", 0, mixed, lengths, "forward")
    right = _lstm(graph, weights, "top.backward_lstm", 0, mixed, lengths, "reverse")
    top = graph.node("Concat", [left, right], "top", axis=-1)
    graph.node("Transpose", [top], "states", perm=[1, 0, 2])

    shape = ["batch", "pieces"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")]
    output = helper.make_tensor_value_info("states", TensorProto.FLOAT, [*shape, encoder.config.hidden_size])
    model = helper.make_model(
        helper.make_graph(graph.nodes, "encoder", inputs, [output], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    checker.check_model(model, full_check=True)
    return model


def _lstm(
    graph: _Graph,
    weights: dict[str, NDArray[np.float32]],
    name: str,
    layer: int,
    states: str,
    lengths: str,
    direction: str,
) -> str:
    """Add one layer of one direction: (pieces, batch, size) to (pieces, batch, layer's size)."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    to_gates, recurrent, *biases = [_onnx_gates(weights[f"{name}.{kind}_l{layer}"]) for kind in names]
    prefix = f"{name}_{layer}"
    # The first axis of each constant is ONNX's number of directions.
    output = graph.node(
        "LSTM",
        [
            states,
            graph.constant(f"{prefix}_weight", to_gates[None]),
            graph.constant(f"{prefix}_recurrent", recurrent[None]),
            graph.constant(f"{prefix}_bias", np.concatenate(biases)[None]),
            lengths,
        ],
        f"{prefix}_directions",
        direction=direction,
        hidden_size=recurrent.shape[1],
    )
    axis = graph.constant(f"{prefix}_axis", np.array([1], dtype=np.int64))
    return graph.node("Squeeze", [output, axis], prefix)


def _onnx_gates(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring torch's order of gates (input, forget, cell, output) into ONNX's (input, output, forget, cell)."""
    i, f, g, o = np.split(weight, 4)
    return np.concatenate([i, o, f, g])
