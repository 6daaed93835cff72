"""How a model is cut where a layer, or all of them together, are too large for one accelerator: tensor and pipeline parallel.

Plans for the shapes of Qwen3 and Llama, on torch's own `parallelize_module` and `PipelineStage`. They compute what the whole
model computes, which two processes with gloo show; no run takes them yet, and on accelerators they were never run.

Shape suffixes: b rows, t positions, d width, v vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch

from modelworks.contract.errors import InvalidRequest

_LINEARS = {
    "self_attn.q_proj": "columns",
    "self_attn.k_proj": "columns",
    "self_attn.v_proj": "columns",
    "self_attn.o_proj": "rows",
    "mlp.gate_proj": "columns",
    "mlp.up_proj": "columns",
    "mlp.down_proj": "rows",
}


def tensor_plan(model: Any, num_parts: int) -> dict[str, Any]:
    """Which layers of a causal model are cut in which way, as `parallelize_module` takes it (Shoeybi et al. 2019).

    Attention is cut by heads and the feed-forward layer by its inner width, so that each layer needs two sums over the parts in
    a forward pass. Embedding, head and the norms of the residual stream stay whole, and have the same gradient in every part.
    The norms of queries and keys (Qwen3) are whole too, but each part sees only its heads: their gradients are added up.

    Args:
        model: of the shape of Qwen3 or Llama, before or after its weights were loaded.
        num_parts: processes that share every layer.

    Raises:
        InvalidRequest: the model has other layers, or they cannot be divided so.
    """
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel

    layer = _layers(model)[0]
    config = model.config.get_text_config()
    for what in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        number = int(getattr(config, what))
        if number % num_parts:
            raise InvalidRequest(
                f"{what} is {number}, which {num_parts} parts cannot share evenly.",
                hint="Cut the layers into a number of parts that divides it.",
            )
    plan: dict[str, Any] = {}
    for name, way in _LINEARS.items():
        plan[f"model.layers.*.{name}"] = ColwiseParallel() if way == "columns" else RowwiseParallel()
    for name in ("q_norm", "k_norm"):
        if hasattr(layer.self_attn, name):
            # What is cut here is the third dimension, the heads; the weight itself is whole.
            plan[f"model.layers.*.self_attn.{name}"] = SequenceParallel(sequence_dim=2, use_local_output=True)
    return plan


def cut_tensors(model: Any, mesh: Any) -> Any:
    """Cut every layer of a model in place, over the processes of a one-dimensional mesh; raises as `tensor_plan`."""
    from torch.distributed.tensor.parallel import parallelize_module

    return parallelize_module(model, mesh, tensor_plan(model, mesh.size()))


def pipeline_plan(num_layers: int, num_stages: int) -> list[range]:
    """The layers of each stage (Huang et al. 2019), as even as can be; the outer stages, which embed and predict, get fewer.

    Raises:
        InvalidRequest: there are fewer layers than stages.
    """
    if num_layers < num_stages:
        raise InvalidRequest(f"{num_layers} layers cannot make {num_stages} stages.", hint="Use fewer stages.")
    each, more = divmod(num_layers, num_stages)
    # From the middle outwards.
    order = sorted(range(num_stages), key=lambda stage: abs(2 * stage - num_stages + 1))
    sizes = {stage: each + (place < more) for place, stage in enumerate(order)}
    starts = [sum(sizes[before] for before in range(stage)) for stage in range(num_stages)]
    return [range(start, start + sizes[stage]) for stage, start in enumerate(starts)]


class Stage(torch.nn.Module):  # type: ignore[misc]
    """One stage of a causal model, for `PipelineStage`.

    The first takes ids (bt int64), the others activations (btd); the last gives logits (btv), the others activations. Rows are
    running text: every position sees all before it.

    Raises:
        InvalidRequest: the model has other layers, or one weight for embedding and head, which would lie in two stages.
    """

    def __init__(self, model: Any, stage: int, num_stages: int) -> None:
        super().__init__()
        layers = _layers(model)
        if model.config.get_text_config().tie_word_embeddings and num_stages > 1:
            raise InvalidRequest(
                "A model whose embedding is its head as well cannot be cut into stages.",
                hint="Use tensor parallel or fsdp, which keep the two together.",
            )
        plan = pipeline_plan(len(layers), num_stages)[stage]
        self.rotary_emb = model.model.rotary_emb
        self.embed_tokens = model.model.embed_tokens if stage == 0 else None
        self.layers = torch.nn.ModuleDict({str(number): layers[number] for number in plan})
        is_last = stage == num_stages - 1
        self.norm = model.model.norm if is_last else None
        self.lm_head = model.lm_head if is_last else None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Activations for the next stage, or logits."""
        hidden_btd: torch.Tensor = inputs if self.embed_tokens is None else self.embed_tokens(inputs)
        positions_1t = torch.arange(hidden_btd.shape[1], device=hidden_btd.device)[None]
        rotations = self.rotary_emb(hidden_btd, positions_1t)
        for layer in self.layers.values():
            hidden_btd = layer(hidden_btd, attention_mask=None, position_embeddings=rotations, position_ids=positions_1t)
        if self.norm is None or self.lm_head is None:
            return hidden_btd
        logits_btv: torch.Tensor = self.lm_head(self.norm(hidden_btd))
        return logits_btv


def _layers(model: Any) -> Any:
    layers = getattr(getattr(model, "model", None), "layers", None)
    if not layers or not all(_has(layers[0], name) for name in _LINEARS):
        raise InvalidRequest(
            f"There is no plan for the layers of {type(model).__name__}.", hint="Qwen3's and Llama's shapes have one; use fsdp."
        )
    return layers


def _has(module: Any, path: str) -> bool:
    try:
        return module.get_submodule(path) is not None
    except AttributeError:
        return False
