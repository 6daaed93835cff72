"""Put many low-rank adapters on one OpenVINO graph, each row of a batch computed with its own.

The matrices of all adapters (Hu et al. 2021: `y = W x + B A x`) stand side by side in the graph, and a mask per row leaves the
inner products of one adapter and sets the others to zero, as in S-LoRA's batched form without its kernels. In eight bits the
matrices `B` are further columns of the base's own, `[W | B] [x; masked A x]`, so that there is one product and no sum.

Which adapter a row belongs to cannot be told to OpenVINO GenAI's pipeline: it feeds a graph with token ids and positions alone.
So it is told with the ids: adapter `n` (from 1) of a vocabulary of size V reads a prompt as `id + n * V`. The tokens that the
pipeline samples are plain ids again. What the prompt said is remembered where everything a sequence has read is remembered, in
its attention cache: one more attention head keeps, for each token, which adapter it named; later tokens
attend to those that named one. This survives splitting of prompts, preemption and the sharing of equal beginnings, which
are never equal between two adapters.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import torch
from openvino import opset13 as ops
from openvino.op import assign, read_value
from openvino.op.util import Variable, VariableInfo
from safetensors import safe_open

from modelworks.capabilities.text.engines.adapter import LowRank, Pairs
from modelworks.capabilities.text.gguf_export import Shape
from modelworks.capabilities.text.gguf_names import interleave_rotary
from modelworks.contract.errors import UnsupportedArchitecture

Floats = npt.NDArray[np.float32]

#: Most adapters of one graph: at least so wide is the head that remembers them.
MOST_ADAPTERS = 32
#: The linear layers of a decoder layer, in the order in which they stand in the graph.
PARTS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
#: Score of a token that named an adapter over one that did not: the others' part is 0 in f32.
_SCORE = 100.0
#: Rounding of int8 in groups of 32 stays below 1/254 of the group's largest number.
_SAME = 0.02
#: Numbers of a row that share a scale in eight bits: the base's own groups, for which the plugin has its quickest product.
_GROUP = 32
#: What stands for 0 in the base's eight bits.
_ZERO = 128


def layer_names(shape: Shape) -> list[str]:
    """Every linear layer that can carry an adapter."""
    return [f"{layer}.{part}" for layer in range(shape.num_layers) for part in PARTS]


def put_adapters(graph: Any, model_dir: Path, adapters: Sequence[Pairs], *, int8: bool) -> None:
    """Change `graph` (a model as `openvino_model.converted` makes it) so that it serves the base and all adapters.

    Args:
        model_dir: the base checkpoint, to find its layers in the graph by their numbers.
        adapters: at most `MOST_ADAPTERS`; the first one is number 1.
        int8: keep their matrices in eight bits, in groups of 32 with one scale each, as the base's are.

    Raises:
        UnsupportedArchitecture: the graph is laid out otherwise than known.
    """
    shape = Shape.of(json.loads((model_dir / "config.json").read_text("utf-8")))
    linears = _linears(graph, model_dir, shape)
    width = _width(shape)
    chosen = _chosen_adapter(graph, shape.vocab_size, width)
    # What is summed up over the inner products is made of whole groups.
    whole = _GROUP if int8 else 1
    masks: dict[tuple[tuple[int, ...], ...], Any] = {}
    # Layers that read the same rows share one product with all their `a`: fewer nodes, of which a small model has too many.
    groups: dict[tuple[str, int], list[str]] = {}
    for name, node in linears.items():
        if any(name in pairs for pairs in adapters):
            source = node.input(0).get_source_output()
            groups.setdefault((source.get_node().get_friendly_name(), source.get_index()), []).append(name)
    for names in groups.values():
        ranks = tuple(tuple(pairs[name].a.shape[0] if name in pairs else 0 for pairs in adapters) for name in names)
        if ranks not in masks:
            spread = np.concatenate([_filled(_spread(each, width), whole) for each in ranks], axis=1)
            masks[ranks] = ops.matmul(chosen, _constant(spread), False, False)
        rows = linears[names[0]].input(0).get_source_output()
        taken = {name: [pairs[name] for pairs in adapters if name in pairs] for name in names}
        if int8:
            taken = {name: [_balanced(pair) for pair in each] for name, each in taken.items()}
        stacked = [np.concatenate([pair.a for pair in taken[name]], axis=0) for name in names]
        a = np.concatenate([_filled(each.T, whole).T for each in stacked], axis=0)
        inner = ops.multiply(ops.matmul(rows, _in_groups(a) if int8 else _constant(a), False, True), masks[ranks])
        lengths = [math.ceil(sum(each) / whole) * whole for each in ranks]
        parts = [inner.output(0)]
        if len(names) > 1:
            split = ops.variadic_split(inner, _constant(np.int64(2)), _constant(np.array(lengths, np.int64)))
            parts = list(split.outputs())
        for name, part in zip(names, parts, strict=True):
            b = np.concatenate([_graph_rows(pair.b, name, shape) for pair in taken[name]], axis=1)
            node = linears[name]
            users = list(node.output(0).get_target_inputs())
            if int8:
                whole_rows = ops.concat([rows, part], 2)
                sums = ops.matmul(
                    whole_rows, _beside(node.input(1).get_source_output().get_node(), _filled(b, whole)), False, True
                )
            else:
                sums = ops.add(node.output(0), ops.matmul(part, _constant(b), False, True))
            for user in users:
                user.replace_source_output(sums.output(0))
    graph.validate_nodes_and_infer_types()


def _linears(graph: Any, model_dir: Path, shape: Shape) -> dict[str, Any]:
    """The matrix products of all layers by name: each is known by its first row, since int8 has lost the names."""
    found = [
        (node, tuple(node.input(1).get_shape()), _first_row(node.input(1).get_source_output().get_node()))
        for node in graph.get_ordered_ops()
        if node.get_type_name() == "MatMul"
        and node.input(1).get_partial_shape().is_static
        and len(node.input(1).get_shape()) == 2
    ]
    linears: dict[str, Any] = {}
    wanted = {f"model.layers.{name}.weight": name for name in layer_names(shape)}
    for file in sorted(model_dir.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for key in set(weights.keys()) & set(wanted):
                rows = weights.get_slice(key)
                first = rows[0:1].to(torch.float32).numpy()[0]
                limit = _SAME * float(np.abs(first).max())
                alike = [
                    node
                    for node, size, row in found
                    if size == tuple(rows.get_shape()) and float(np.abs(row - first).max()) <= limit
                ]
                if len(alike) == 1:
                    linears[wanted[key]] = alike[0]
    if len({node.get_friendly_name() for node in linears.values()}) != len(wanted):
        raise UnsupportedArchitecture(f"OpenVINO GenAI lays {model_dir.name!r} out so that its layers are not found.")
    # In the order of the names, so that the same adapters always make the same graph.
    return {name: linears[name] for name in wanted.values()}


def _first_row(node: Any) -> Floats:
    """Row 0 of a constant matrix, as it is or as the constants behind it say: `(q - zero) * scale` in groups."""
    if node.get_type_name() == "Constant":
        row: Floats = np.asarray(node.get_data()[0]).astype(np.float32)
        return row
    inputs = [each.get_source_output().get_node() for each in node.inputs()]
    if node.get_type_name() == "Convert":
        return _first_row(inputs[0])
    if node.get_type_name() == "Reshape":
        return _first_row(inputs[0]).reshape(-1)
    left, right = _first_row(inputs[0]), _first_row(inputs[1])
    return left - right if node.get_type_name() == "Subtract" else left * right


def _width(shape: Shape) -> int:
    """Numbers of the head that remembers: the pinned pipeline mixes its cache up with others that are exactly as large."""
    return MOST_ADAPTERS if shape.num_kv_heads * shape.head_dim != MOST_ADAPTERS else 2 * MOST_ADAPTERS


def _chosen_adapter(graph: Any, vocab_size: int, width: int) -> Any:
    """Which adapter each row uses, as numbers (batch, rows, width): 1 in the adapter's lane, all 0 for the base model."""
    ids = _parameter(graph, "input_ids")
    users = [user for user in ids.get_target_inputs() if user.get_node().get_type_name() != "ShapeOf"]
    number = ops.divide(ids, _constant(np.int64(vocab_size)))
    plain = ops.subtract(ids, ops.multiply(number, _constant(np.int64(vocab_size))))
    for user in users:
        user.replace_source_output(plain.output(0))
    named = ops.convert(ops.unsqueeze(number, _constant(np.int64(2))), "f32")
    first_lane = np.zeros((1, 1, width), np.float32)
    first_lane[0, 0, 0] = 1
    lanes = np.arange(1, width + 1, dtype=np.float32)[None, None]
    value = ops.convert(ops.equal(named, _constant(lanes)), "f32")
    has_named = ops.convert(ops.greater(named, _constant(np.float32(0))), "f32")
    key = ops.multiply(has_named, _constant(first_lane * np.float32(_SCORE)))
    query = ops.add(ops.multiply(named, _constant(np.zeros_like(first_lane))), _constant(first_lane))
    attention = next(node for node in graph.get_ordered_ops() if node.get_type_name() == "ScaledDotProductAttention")
    mask = attention.input(3).get_source_output()
    batch = ops.gather(ops.shape_of(ids, "i64"), _constant(np.array([0], np.int64)), _constant(np.int64(0)))
    remembered = [
        _remembered(graph, f"adapter.{name}", _head(new, width), batch, width) for name, new in (("key", key), ("value", value))
    ]
    found = ops.scaled_dot_product_attention(_head(query, width), *remembered, mask, _constant(np.float32(1)))
    rows = ops.transpose(found, _constant(np.array([0, 2, 1, 3], np.int32)))
    return ops.reshape(rows, _constant(np.array([0, 0, width], np.int64)), True)


def _remembered(graph: Any, name: str, new: Any, batch: Any, width: int) -> Any:
    """What was read before, followed by `new`, in the form in which the pipeline finds attention caches."""
    info = VariableInfo()
    info.variable_id = name
    info.data_type = ov.Type.f32
    info.data_shape = ov.PartialShape([-1, 1, -1, width])
    variable = Variable(info)
    graph.add_variables([variable])
    one, nothing, wide = (_constant(np.array([size], np.int64)) for size in (1, 0, width))
    empty = ops.broadcast(_constant(np.float32(0)), ops.concat([batch, one, nothing, wide], 0))
    past = ops.gather(read_value(empty, variable), _parameter(graph, "beam_idx"), _constant(np.int64(0)))
    whole = ops.concat([past, new], 2)
    graph.add_sinks([assign(whole, variable)])
    return whole


def _head(rows: Any, width: int) -> Any:
    """(batch, rows, width) → (batch, 1, rows, width)."""
    apart = ops.reshape(rows, _constant(np.array([0, 0, 1, width], np.int64)), True)
    return ops.transpose(apart, _constant(np.array([0, 2, 1, 3], np.int32)))


def _parameter(graph: Any, name: str) -> Any:
    return next(each.output(0) for each in graph.get_parameters() if each.get_friendly_name() == name)


def _spread(ranks: Sequence[int], width: int) -> Floats:
    """(width, sum of ranks): 1 where an inner product belongs to the lane's adapter."""
    found = np.zeros((width, sum(ranks)), np.float32)
    start = 0
    for lane, rank in enumerate(ranks):
        found[lane, start : start + rank] = 1
        start += rank
    return found


def _graph_rows(b: Floats, name: str, shape: Shape) -> Floats:
    """The rows in the order in which the graph has those of the base matrix."""
    if shape.architecture != "llama" or not name.endswith(("q_proj", "k_proj")):
        return b
    heads = shape.num_heads if name.endswith("q_proj") else shape.num_kv_heads
    rows: Floats = interleave_rotary(torch.from_numpy(np.ascontiguousarray(b)), heads).numpy()
    return rows


def _filled(columns: Floats, whole: int) -> Floats:
    """With as many columns of zeros as a multiple of `whole` lacks."""
    return np.pad(columns, ((0, 0), (0, -columns.shape[1] % whole)))


def _balanced(pair: LowRank) -> LowRank:
    """The same pair with numbers of about 1 in `b`, whose scales have sixteen bits; exact, for the factor is a power of two."""
    factor = np.float32(2.0) ** np.frexp(np.abs(pair.b).max() or np.float32(1))[1]
    return LowRank(pair.a * factor, pair.b / factor)


def _in_groups(values: Floats) -> Any:
    """A matrix in eight bits, each group of a row with its scale."""
    groups = values.reshape(len(values), -1, _GROUP)
    scale = np.maximum(np.abs(groups).max(axis=2, keepdims=True) / 127, np.float32(1e-30)).astype(np.float32)
    rounded = ops.convert(_constant(np.round(groups / scale).astype(np.int8)), "f32")
    return ops.reshape(ops.multiply(rounded, _constant(scale)), _constant(np.array(values.shape, np.int64)), False)


def _beside(matrix: Any, columns: Floats) -> Any:
    """A base matrix in eight bits with more columns, in its own form: `(number - zero) * scale` in groups of 32.

    Raises:
        UnsupportedArchitecture: its form is another one.
    """
    constants: list[npt.NDArray[Any]] = []
    nodes = [matrix]
    while nodes and len(constants) < 4:
        node = nodes.pop()
        if node.get_type_name() == "Constant":
            constants.append(np.asarray(node.get_data()))
        nodes += [each.get_source_output().get_node() for each in reversed(node.inputs())]
    shapes = [each.shape for each in constants]
    if len(constants) != 4 or shapes[0][2:] != (_GROUP,) or shapes[1] != shapes[2] or constants[2].dtype != np.float16:
        raise UnsupportedArchitecture(f"OpenVINO GenAI lays matrices in eight bits out in a new way: {shapes}.")
    numbers, zeros, scales, _ = constants
    groups = columns.reshape(len(columns), -1, _GROUP)
    # The next number of sixteen bits that is no smaller, so that no rounded one leaves its range.
    scale = np.nextafter((np.abs(groups).max(axis=2, keepdims=True) / 127).astype(np.float16), np.float16(np.inf))
    rounded = (np.round(groups / scale.astype(np.float32)) + _ZERO).astype(np.uint8)
    wide = np.concatenate([numbers, rounded], axis=1)
    zero = ops.convert(_constant(np.concatenate([zeros, np.full(scale.shape, _ZERO, np.uint8)], axis=1)), "f16")
    scaled = ops.multiply(
        ops.subtract(ops.convert(_constant(wide), "f16"), zero), _constant(np.concatenate([scales, scale], axis=1))
    )
    size = np.array([len(wide), wide.shape[1] * _GROUP], np.int64)
    return ops.convert(ops.reshape(scaled, _constant(size), False), "f32")


def _constant(values: Any) -> Any:
    # Not copied: the node keeps the array.
    return ops.constant(np.ascontiguousarray(values), shared_memory=np.ndim(values) > 0)
