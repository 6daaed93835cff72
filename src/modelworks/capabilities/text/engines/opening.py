"""Open an engine on a model: decide precision and cache, check the checkpoint, and prove that the numbers are the same."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from modelworks.capabilities.text.engines.base import TokenEngine
from modelworks.capabilities.text.engines.integrity import check_checkpoint
from modelworks.capabilities.text.engines.logits import LogitsDecoder, LogitsEngine
from modelworks.capabilities.text.engines.probe import STORED_KEY, Probe
from modelworks.capabilities.text.engines.tolerance import READ_TOLERANCE, TOLERANCES, allowed_difference
from modelworks.capabilities.text.engines.transformers_model import TransformersDecoder, load_model
from modelworks.capabilities.text.schemas import Quantised, ServeOptions
from modelworks.capabilities.text.weights import num_parameters, open_weights, precision_of
from modelworks.contract import LocalModel
from modelworks.contract.errors import InvalidRequest, MissingExtra, UnsupportedArchitecture, UnsupportedParameter

if TYPE_CHECKING:
    from modelworks.capabilities.text.engines.adapter_engine import AdapterEngine
    from modelworks.capabilities.text.gguf_export import Shape

_log = logging.getLogger(__name__)
#: Below this many weights, precision "auto" is f32.
_SMALL_MODEL = 100_000_000
#: Up to this many weights, the checkpoint is loaded a second time to compare an engine with it.
_PROBED_MODEL = 50_000_000
_PROBE_LENGTH = 12
#: Makes the plugin multiply quantised matrices with activations that are not rounded, so that only the matrices are compared.
_EXACT_ACTIVATIONS = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that passed `check_checkpoint`."""

    folder: Path
    ref: str
    digest: str
    config: dict[str, Any]
    num_parameters: int
    context_length: int
    vocab_size: int
    #: What the trained graph answered, where the model was trained here.
    probe: Probe | None = None
    #: The precision of weights that are stored quantised.
    quantised: Quantised | None = None
    #: What the stored numbers of a quantised version answered when it was made.
    stored_probe: Probe | None = None

    @classmethod
    def of(cls, model: LocalModel) -> Checkpoint:
        """Check a model's folder; raises what `check_checkpoint` raises."""
        config = check_checkpoint(model.path, model.ref)
        nested = config.get("text_config")
        text = nested if isinstance(nested, dict) else config
        context = text.get("max_position_embeddings") or text.get("n_positions") or text.get("seq_length")
        vocab_size = text.get("vocab_size")
        if not isinstance(context, int) or not isinstance(vocab_size, int):
            raise UnsupportedArchitecture(
                f"config.json of {model.ref!r} ({config['model_type']!r}) names no context length or vocabulary size.",
                hint="Only decoders with max_position_embeddings and vocab_size can be served.",
            )
        weights = open_weights(model.path)
        return cls(
            folder=model.path,
            ref=model.ref,
            digest=model.digest,
            config=config,
            num_parameters=num_parameters(weights),
            context_length=context,
            vocab_size=vocab_size,
            probe=Probe.of(model.metadata),
            quantised=precision_of(weights),
            stored_probe=Probe.of(model.metadata, STORED_KEY),
        )


@dataclass(frozen=True, slots=True)
class Opened:
    """A running engine and the longest prompt and answer together that it takes, in tokens."""

    engine: TokenEngine
    context_length: int
    #: The same engine, where it can hold adapters.
    adapters: AdapterEngine | None = None


def open_openvino(checkpoint: Checkpoint, options: ServeOptions) -> Opened:
    """The batching engine.

    Raises:
        UnsupportedArchitecture: OpenVINO GenAI does not read it, or computes something else than the checkpoint says.
        MissingExtra: the library is not installed.
        InvalidRequest: the cache cannot hold one context.
        UnsupportedParameter: a cache precision that does not go with the precision.
        IntegrityFailed: the weights are not those that were trained.
    """
    try:
        from modelworks.capabilities.text.engines.adapter_engine import AdapterEngine, BaseGraph
        from modelworks.capabilities.text.engines.openvino_engine import (
            BLOCK_TOKENS,
            GraphDecoder,
            OpenVINOEngine,
            multiplies_bf16,
        )
        from modelworks.capabilities.text.engines.openvino_model import converted
        from modelworks.capabilities.text.gguf_export import Shape
    except ImportError as error:
        raise MissingExtra.of(error.name or "openvino-genai", "text") from error
    shape = Shape.of(checkpoint.config)
    precision = _stored_precision(checkpoint, options) or options.precision
    if precision == "auto":
        precision = "f32" if checkpoint.num_parameters < _SMALL_MODEL else "int8"
    cache_precision = options.kv_cache_precision
    if cache_precision == "auto":
        cache_precision = "f32" if precision == "f32" else "u8"
    computed = "bf16" if precision == "bf16" else "f32"
    if cache_precision not in (computed, "u8"):
        raise UnsupportedParameter(
            f"With precision {precision}, the engine openvino has no kv_cache_precision {cache_precision}.",
            hint=f"Use auto, {computed} or u8.",
            param="kv_cache_precision",
        )
    num_cache_blocks, context_length = _cache(shape, options, cache_precision, BLOCK_TOKENS)
    folder = converted(checkpoint.folder, checkpoint.digest, int8=precision == "int8")
    properties: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": computed,
        "KV_CACHE_PRECISION": cache_precision,
    }
    num_threads = options.num_threads or _num_cores()
    if computed == "bf16":
        # The pinned version divides by zero in bf16 matrix products on one thread, and so it does on one core.
        if _num_cores() < 2:
            raise UnsupportedParameter(
                "The engine openvino computes in bf16 on two cores or more, and this process may use one.",
                hint="Use precision f32 or int8, or give the deployment another core.",
                param="precision",
            )
        num_threads = max(2, num_threads)
        if not multiplies_bf16():
            _log.warning("this processor does not multiply bf16, so %s is computed in f32; int8 is faster here", checkpoint.ref)
    properties["INFERENCE_NUM_THREADS"] = num_threads
    _prove(checkpoint, lambda more: GraphDecoder(folder, {**properties, **more}), precision)

    def open_engine(graph_folder: Path, adapters: Sequence[str]) -> OpenVINOEngine:
        return OpenVINOEngine(
            graph_folder,
            properties,
            num_cache_blocks=num_cache_blocks,
            max_batch=options.max_batch,
            prefix_caching=options.prefix_caching,
            end_id=checkpoint.vocab_size - 1,
            adapters=adapters,
        )

    graph = BaseGraph(folder, checkpoint.folder, shape, precision == "int8", dict(properties), TOLERANCES[precision].logits)
    engine = AdapterEngine(open_engine(folder, ()), graph, open_engine, in_place=options.adapter_loading == "in_place")
    # An adapter is trained on full weights, so a quantised version is never the base of one.
    return Opened(engine, context_length, engine if checkpoint.quantised is None else None)


def _stored_precision(checkpoint: Checkpoint, options: ServeOptions) -> Quantised | None:
    """The precision of a quantised version, None for others.

    Raises:
        UnsupportedParameter: another one is asked for.
    """
    if checkpoint.quantised is not None and options.precision not in ("auto", checkpoint.quantised):
        raise UnsupportedParameter(
            f"The weights of {checkpoint.ref!r} are stored as {checkpoint.quantised}, so there is no precision "
            f"{options.precision} of them.",
            hint=f"Use auto or {checkpoint.quantised}, or deploy the model that it was made from.",
            param="precision",
        )
    if checkpoint.quantised is None and options.precision == "int4":
        raise UnsupportedParameter(
            f"The weights of {checkpoint.ref!r} are not stored as int4.",
            hint="Make a version of four bits first, and see what it costs: modelworks quantise MODEL --to int4.",
            param="precision",
        )
    return checkpoint.quantised


def _prove(checkpoint: Checkpoint, compiled: Callable[[Mapping[str, Any]], LogitsDecoder], precision: str) -> None:
    """Hold what the engine computes against what was trained, and quantised weights against what was quantised.

    A version that was made here brings its answers along. The checkpoint itself is only asked where there are none, or where
    they disagree and somebody must say whether the engine or the weights are to blame: loading it takes longer than all else.

    Args:
        compiled: the engine's graph with further properties.

    Raises:
        UnsupportedArchitecture: it computes something else than the checkpoint says.
        IntegrityFailed: the weights are not those that were trained, or not those that were quantised.
    """
    tolerance = TOLERANCES[precision].logits
    if checkpoint.quantised is not None:
        _prove_answers(checkpoint, partial(compiled, _EXACT_ACTIVATIONS), checkpoint.stored_probe, READ_TOLERANCE)
    _prove_answers(checkpoint, partial(compiled, {}), checkpoint.probe, tolerance)


def _prove_answers(
    checkpoint: Checkpoint, compiled: Callable[[], LogitsDecoder], known: Probe | None, tolerance: float
) -> None:
    """Compare an engine with the answers that are known, and with the checkpoint if there are none or they disagree."""
    small = checkpoint.num_parameters <= _PROBED_MODEL
    if known is None and not small:
        return
    decoder = compiled()
    if known is not None:
        answered = decoder.read(decoder.new_state(), list(known.ids), 0)
        if known.agrees(answered, tolerance):
            return
    if small:
        ids = probe_ids(checkpoint.vocab_size)
        _compare(checkpoint, ids, decoder.read(decoder.new_state(), ids, 0), tolerance)
    if known is not None:
        known.check(answered, tolerance, checkpoint.ref)


def open_transformers(checkpoint: Checkpoint, options: ServeOptions) -> Opened:
    """The engine for any architecture.

    Raises:
        UnsupportedArchitecture: transformers does not know it.
        UnsupportedParameter: int8, or a cache precision.
        IntegrityFailed: the weights are not those that were trained.
    """
    if _stored_precision(checkpoint, options) is None and options.precision in ("int8", "int4"):
        raise UnsupportedParameter(
            f"The engine transformers has no precision {options.precision}.",
            hint="Use f32 or bf16, or the engine openvino.",
            param="precision",
        )
    if options.kv_cache_precision != "auto":
        raise UnsupportedParameter(
            "The engine transformers keeps its cache in the model's own precision.",
            hint="Leave kv_cache_precision at auto.",
            param="kv_cache_precision",
        )
    small = checkpoint.num_parameters < _SMALL_MODEL
    full = options.precision == "f32" or (options.precision in ("auto", checkpoint.quantised) and small)
    if options.num_threads is not None:
        torch.set_num_threads(options.num_threads)
    model = load_model(checkpoint.folder, torch.float32 if full else torch.bfloat16, checkpoint.ref)
    decoder = TransformersDecoder(model)
    if checkpoint.probe is not None:
        answered = decoder.read(decoder.new_state(), list(checkpoint.probe.ids), 0)
        tolerance = TOLERANCES[checkpoint.quantised or ("f32" if full else "bf16")]
        checkpoint.probe.check(answered, tolerance.logits, checkpoint.ref)
    if checkpoint.stored_probe is not None:
        answered = decoder.read(decoder.new_state(), list(checkpoint.stored_probe.ids), 0)
        checkpoint.stored_probe.check(answered, READ_TOLERANCE if full else TOLERANCES["bf16"].logits, checkpoint.ref)
    engine = LogitsEngine("transformers", decoder, options.max_batch)
    return Opened(engine, min(checkpoint.context_length, options.context_length or checkpoint.context_length))


def open_any(checkpoint: Checkpoint, options: ServeOptions) -> Opened:
    """OpenVINO where it reads the architecture, transformers elsewhere.

    Raises:
        UnsupportedArchitecture: neither does; the message says what each of them said.
    """
    try:
        return open_openvino(checkpoint, options)
    except (UnsupportedArchitecture, MissingExtra) as refused:
        _log.warning("engine openvino does not serve %s: %s; using transformers", checkpoint.ref, refused.message)
        openvino_said = refused.message
    try:
        return open_transformers(checkpoint, options)
    except UnsupportedArchitecture as error:
        raise UnsupportedArchitecture(
            f"No engine here serves architecture {checkpoint.config['model_type']!r}. "
            f"openvino: {openvino_said} transformers: {error.message}",
            hint="Serve it with the engine vllm on a machine that has one, or use another model.",
        ) from error


def _compare(checkpoint: Checkpoint, probe: list[int], got: np.ndarray[Any, Any], tolerance: float) -> None:
    """Refuse an engine whose logits (vocabulary) after `probe` are not those of the checkpoint."""
    decoder = TransformersDecoder(load_model(checkpoint.folder, torch.float32, checkpoint.ref))
    expected = decoder.read(decoder.new_state(), probe, 0)
    difference = float(np.abs(got - expected).max())
    # Logits of a sharper model differ by more for the same relative error.
    allowed = allowed_difference(tolerance, float(expected.std()))
    if not math.isfinite(difference) or difference > allowed:
        raise UnsupportedArchitecture(
            f"OpenVINO GenAI computes other logits than the checkpoint: they differ by {difference:.3g}, "
            f"where {allowed:.3g} is allowed."
        )


def _num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def probe_ids(vocab_size: int) -> list[int]:
    """The row of ids on which an engine is held against a checkpoint."""
    return [int(token) for token in np.random.default_rng(0).integers(0, vocab_size, _PROBE_LENGTH)]


def _cache(shape: Shape, options: ServeOptions, cache_precision: str, block_tokens: int) -> tuple[int, int]:
    """Blocks that `cache_size_bytes` pays for, no more than all choices could fill; and the context that they hold."""
    # u8 keeps a scale and a zero point per token and head.
    bytes_per_head = {"f32": 4 * shape.head_dim, "bf16": 2 * shape.head_dim, "u8": shape.head_dim + 8}[cache_precision]
    block_bytes = 2 * shape.num_layers * shape.num_kv_heads * bytes_per_head * block_tokens
    context = min(shape.context_length, options.context_length or shape.context_length)
    affordable = options.cache_size_bytes // block_bytes
    # One block to spare, since the library reserves the next one early.
    fits = (affordable - 1) * block_tokens
    if context > fits:
        if options.context_length is not None or fits < block_tokens:
            needed = (math.ceil(context / block_tokens) + 1) * block_bytes
            raise InvalidRequest(
                f"An attention cache of {options.cache_size_bytes} bytes cannot hold one context of {context} tokens, "
                f"which takes {needed}.",
                hint=f"Set context_length to at most {max(0, fits)}, or cache_size_bytes to at least {needed}.",
                param="cache_size_bytes",
            )
        _log.warning("the context is %d tokens, not the model's %d, because cache_size_bytes holds no more", fits, context)
        context = fits
    return min(affordable, (math.ceil(context / block_tokens) + 1) * options.max_batch), context


def generation_defaults(folder: Path) -> dict[str, Any]:
    """The checkpoint's `generation_config.json`, or nothing."""
    file = folder / "generation_config.json"
    if not file.is_file():
        return {}
    loaded = json.loads(file.read_text("utf-8"))
    return loaded if isinstance(loaded, dict) else {}
