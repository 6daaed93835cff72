"""What a training will need, from its parameters, the base model's shape and the lengths of the samples.

Memory: weights, optimiser and gradients are counted; activations follow a formula per token that was fitted to what autograd
keeps for decoders of the Qwen3 shape (benchmarks/memory.py prints estimate and truth). Light: no torch.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelworks.capabilities.text.datasets.forms import read_samples
from modelworks.capabilities.text.datasets.leaks import leak_note
from modelworks.capabilities.text.datasets.samples import (
    ChatSample,
    Fault,
    PreferenceSample,
    PromptSample,
    TextSample,
    messages_of,
    text_of,
)
from modelworks.capabilities.text.datasets.validation import estimate_tokens
from modelworks.capabilities.text.schemas import (
    AdapterParams,
    CombineParams,
    PrecisionParams,
    PretrainParams,
    ReinforcementParams,
    TrainParams,
    TuningParams,
)
from modelworks.contract.errors import InvalidRequest
from modelworks.contract.estimate import Estimate, TrainingInputs

#: The interpreter with torch and transformers, and what a first step of them maps.
_PROCESS_BYTES = 460 << 20
#: What compiling leaves in memory.
_COMPILER_BYTES = 500 << 20
_F32 = 4
#: Bytes of one number by the name of its type.
_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
#: Samples that are looked at for their lengths.
_MAX_SAMPLES = 1000
#: Multiplications and additions that one core does in a second while it trains, about; small models reach less.
_FLOPS_PER_CORE = 2.0e10
#: Until the first step and after the last: imports, reading, saving, the check of what was saved.
_START_S = 20.0
_TOKENS_PER_MESSAGE = 4
#: What is there from the beginning to the end.
_LASTING = ("process", "weights", "optimiser", "teacher", "reference", "best weights", "documents", "copy in bf16", "compiler")


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a decoder decides its memory. All in numbers, not bytes."""

    num_parameters: int
    vocab_size: int
    hidden: int
    intermediate: int
    layers: int
    #: Width of all query heads together, and of all key heads.
    queries: int
    keys: int
    context_length: int

    def layer_floats(self, length: int) -> int:
        """What one layer keeps per token until its gradients are computed, in rows of `length` tokens."""
        return 6 * self.hidden + 4 * self.intermediate + 6 * self.queries + 2 * self.keys + length

    def activation_floats(self, length: int, *, recomputed: bool) -> int:
        """What all layers keep per token."""
        if recomputed:
            return self.hidden * (self.layers + 3) + self.layer_floats(length)
        return self.layers * self.layer_floats(length) + 3 * self.hidden


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of the samples in tokens, and how much of them is learnt."""

    total: int
    longest: int
    number: int
    learnt_share: float
    is_estimate: bool


def estimate(params: TrainParams, inputs: TrainingInputs, cpu: float) -> Estimate | None:
    """See `contract.estimate.Estimator`."""
    chosen = params.root
    if isinstance(chosen, CombineParams):
        return None  # seconds, and what serving the base takes
    found = _pretraining(chosen, inputs, cpu) if isinstance(chosen, PretrainParams) else _tuning(chosen, inputs, cpu)
    if found is not None:
        found.notes.extend(_leaks(inputs))
    return found


def _leaks(inputs: TrainingInputs) -> list[str]:
    """What the training data give away of the data sets of the roles validation and test; the latter is only for this."""
    train = inputs.folder("train") if inputs.has("train") else None
    notes = []
    for role in ("validation", "test"):
        other = inputs.folder(role) if inputs.has(role) else None
        note = None if train is None or other is None else leak_note(train, other, role)
        if note is not None:
            notes.append(note)
    return notes


def shape_of(inputs: TrainingInputs, role: str) -> Shape | None:
    """The shape of a model, from its config.json and the size of its weights; None where that says nothing."""
    raw = inputs.read(role, "config.json")
    try:
        config = json.loads(raw or b"")
    except ValueError:
        return None
    if not isinstance(config, dict):
        return None
    nested = config.get("text_config")
    inner = nested if isinstance(nested, dict) else config

    def number(*names: str) -> int | None:
        return next((inner[name] for name in names if isinstance(inner.get(name), int)), None)

    hidden = number("hidden_size", "n_embd", "d_model")
    layers = number("num_hidden_layers", "n_layer", "num_layers")
    vocab = number("vocab_size")
    if hidden is None or layers is None or vocab is None:
        return None
    heads = number("num_attention_heads", "n_head") or 1
    width = number("head_dim") or hidden // heads
    dtype = str(inner.get("dtype") or inner.get("torch_dtype") or config.get("dtype") or config.get("torch_dtype") or "float32")
    stored = sum(size for path, size in inputs.sizes(role).items() if path.endswith(".safetensors") and "/" not in path)
    intermediate = number("intermediate_size", "n_inner", "ffn_dim") or 4 * hidden
    keys = (number("num_key_value_heads") or heads) * width
    computed = _parameters(vocab, hidden, layers, intermediate, heads * width, keys)
    return Shape(
        num_parameters=stored // _WIDTHS.get(dtype, 4) or computed,
        vocab_size=vocab,
        hidden=hidden,
        intermediate=intermediate,
        layers=layers,
        queries=heads * width,
        keys=keys,
        context_length=number("max_position_embeddings", "n_positions") or 2048,
    )


def _parameters(vocab: int, hidden: int, layers: int, intermediate: int, queries: int, keys: int) -> int:
    return vocab * hidden + layers * (2 * hidden * (queries + keys) + 3 * hidden * intermediate + 2 * hidden)


def lengths_of(folder: Path | None, inputs: TrainingInputs, max_length: int) -> Lengths | None:
    """Lengths of a data set's samples within `max_length`, from the first few thousand; None where none can be read.

    Counted with the base model's tokenizer where the library is there, else estimated from characters.
    """
    if folder is None:
        return None
    count = _counting(inputs)
    sizes: list[int] = []
    learnt = 0
    for sample in read_samples(folder):
        if isinstance(sample, Fault):
            continue
        total, answered = _measure(sample, count or estimate_tokens)
        if total <= max_length or isinstance(sample, TextSample):
            sizes.append(total)
            learnt += answered
        if len(sizes) >= _MAX_SAMPLES:
            break
    if not sizes:
        return None
    # What was not looked at is taken to be like what was.
    return Lengths(sum(sizes), max(sizes), len(sizes), learnt / max(1, sum(sizes)), count is None)


def _measure(sample: Any, count: Any) -> tuple[int, int]:
    """Tokens of the longest row that a sample makes, and those that are learnt of it."""
    if isinstance(sample, TextSample):
        size = count(sample.text)
        return size, size

    def size_of(messages: list[dict[str, Any]]) -> int:
        return int(count(text_of(messages))) + _TOKENS_PER_MESSAGE * len(messages)

    if isinstance(sample, PreferenceSample):
        answers = max(size_of(sample.chosen), size_of(sample.rejected))
        return size_of(sample.messages) + answers, answers
    if isinstance(sample, PromptSample):
        return size_of(sample.messages), 0
    assert isinstance(sample, ChatSample)  # noqa: S101 - the fourth and last kind
    learnt = [each for each, weight in zip(sample.messages, sample.weights, strict=True) if weight]
    return size_of(messages_of(sample)), size_of(learnt)


def _counting(inputs: TrainingInputs) -> Any:
    raw = inputs.read("base", "tokenizer.json") if inputs.has("base") else None
    if raw is None:
        return None
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    try:
        tokenizer = Tokenizer.from_str(raw.decode("utf-8"))
    except Exception:  # the library raises bare exceptions; the training will say what is wrong with the file
        return None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _pretraining(params: PretrainParams, inputs: TrainingInputs, cpu: float) -> Estimate | None:
    if inputs.has("base"):
        found = shape_of(inputs, "base")
        if found is None:
            return None
        shape = found
    else:
        queries, keys = params.num_heads * params.head_dim, params.num_kv_heads * params.head_dim
        vocab = math.ceil(params.vocab_size / 64) * 64
        shape = Shape(
            num_parameters=_parameters(vocab, params.hidden_size, params.num_layers, params.intermediate_size, queries, keys),
            vocab_size=vocab,
            hidden=params.hidden_size,
            intermediate=params.intermediate_size,
            layers=params.num_layers,
            queries=queries,
            keys=keys,
            context_length=params.context_length,
        )
    length = min(params.block_length or params.context_length, shape.context_length)
    # Documents lie in memory as text and are split there, about four times their size.
    texts = 4 * sum(inputs.sizes("train").values())
    parts = _parts(shape, shape.num_parameters, params.batch_size, length, 1.0, recomputed=False, mask=False)
    parts["documents"] = texts
    parts |= _precision_parts(params, shape)
    hints = ["a smaller batch_size", "a smaller block_length", "a smaller model (preset, hidden_size, num_layers, vocab_size)"]
    flops = 6 * shape.num_parameters * params.num_steps * params.batch_size * length
    seconds = _START_S + flops / (_FLOPS_PER_CORE * max(1.0, cpu))
    return Estimate(memory_bytes=_peak(parts), parts=parts, seconds=seconds, hints=hints)


def _tuning(params: TuningParams, inputs: TrainingInputs, cpu: float) -> Estimate | None:
    method = str(getattr(params, "method", ""))
    if not inputs.has("base"):
        raise InvalidRequest(
            f"The method {method!r} needs a base model.", hint="Give one under the role base.", param="inputs.base"
        )
    if method == "distillation" and not inputs.has("teacher"):
        raise InvalidRequest(
            "The method 'distillation' needs a teacher.",
            hint="Give a model under the role teacher: --base teacher=NAME.",
            param="inputs.teacher",
        )
    if params.patience is not None and params.validation_fraction == 0 and not inputs.has("validation"):
        raise InvalidRequest(
            "patience needs samples that are held out.",
            hint="Give a data set validation, or a validation_fraction above 0.",
            param="params.patience",
        )
    shape = shape_of(inputs, "base")
    if shape is None:
        return None
    longest = min(params.max_length or shape.context_length, shape.context_length)
    lengths = lengths_of(inputs.folder("train"), inputs, longest)
    if isinstance(params, ReinforcementParams):
        return _reinforcement(params, shape, longest, cpu)
    packing = bool(getattr(params, "packing", False))
    notes: list[str] = []
    if lengths is None:
        rows, length, learnt = params.batch_size, longest, 1.0
        notes.append(f"The samples were not looked at: rows are taken to be {longest:,} tokens long.")
    else:
        if lengths.is_estimate:
            notes.append("Lengths of samples are estimated from characters.")
        length = min(longest, lengths.total) if packing else lengths.longest
        rows = min(params.batch_size, math.ceil(lengths.total / length) if packing else lengths.number)
        # A column is computed where any row of the batch learns something.
        learnt = 1 - (1 - lengths.learnt_share) ** rows
    if isinstance(params, PrecisionParams) and params.compiled:
        # One shape for every batch, and all its columns.
        rows, length, learnt = params.batch_size, longest, 1.0
    pairs = method == "preference"
    adapter = params if isinstance(params, AdapterParams) else getattr(params, "adapter", None)
    trained = shape.num_parameters if adapter is None else _adapter_parameters(shape, adapter)
    parts = _parts(
        shape,
        trained,
        rows * (2 if pairs else 1),
        length,
        learnt,
        recomputed=params.gradient_checkpointing,
        mask=True,
        accumulates=params.accumulation > 1,
    )
    teacher = shape_of(inputs, "teacher") if method == "distillation" and inputs.has("teacher") else None
    if teacher is not None:
        parts["teacher"] = _F32 * (teacher.num_parameters + int(3 * rows * length * learnt * teacher.vocab_size))
    if params.keep_epochs and adapter is not None:
        # The model of an epoch is merged in a copy, and what was written is loaded beside it.
        parts["saving"] = 2 * _F32 * shape.num_parameters
    if params.patience is not None:
        parts["best weights"] = _F32 * trained
    if isinstance(params, PrecisionParams):
        parts |= _precision_parts(params, shape)
    if adapter is None:
        hints = ["method=lora, which trains a small adapter"] if method == "supervised" else ["an adapter"]
    else:
        hints = []
    if params.batch_size > 1:
        hints.append(f"a smaller batch_size (it is {params.batch_size}) with a larger accumulation")
    hints.append(f"a smaller max_length (rows have {length:,} tokens)")
    if not params.gradient_checkpointing:
        hints.append("gradient_checkpointing=true")
    hints.append("a smaller base model")
    seconds = None
    if lengths is not None:
        tokens = lengths.total * params.epochs if params.steps is None else params.steps * rows * params.accumulation * length
        work = 6 if adapter is None else 4
        work = (work + 2 if params.gradient_checkpointing else work) * (2 if pairs else 1)
        flops = work * shape.num_parameters * tokens + (2 * teacher.num_parameters * tokens if teacher is not None else 0)
        seconds = _START_S + flops / (_FLOPS_PER_CORE * max(1.0, cpu))
    return Estimate(memory_bytes=_peak(parts), parts=parts, seconds=seconds, hints=hints, notes=notes)


def _reinforcement(params: ReinforcementParams, shape: Shape, longest: int, cpu: float) -> Estimate:
    """As if every answer were as long as it may be, after a prompt as long at most."""
    rows = params.batch_size * params.group_size
    answer = min(params.longest_answer(longest), longest)
    length = min(longest, 2 * answer)
    trained = shape.num_parameters if params.adapter is None else _adapter_parameters(shape, params.adapter)
    recomputed = params.gradient_checkpointing
    parts = _parts(shape, trained, rows, length, answer / length, recomputed=recomputed, mask=True)
    if params.keep_epochs and params.adapter is not None:
        parts["saving"] = 2 * _F32 * shape.num_parameters
    if params.beta and params.adapter is None:
        parts["reference"] = _F32 * shape.num_parameters
    hints = [f"a smaller batch_size or group_size ({rows} answers are learnt at a time)", "a smaller max_answer_tokens"]
    if not recomputed:
        hints.append("gradient_checkpointing=true")
    if params.adapter is None:
        hints += ["an adapter", "beta=0"]
    seconds = None
    if params.steps is not None:
        work = 10 * shape.num_parameters * rows * length * params.steps * params.accumulation
        seconds = _START_S + work / (_FLOPS_PER_CORE * max(1.0, cpu))
    notes = [f"Answers are taken to have {answer:,} tokens."]
    return Estimate(memory_bytes=_peak(parts), parts=parts, seconds=seconds, hints=hints, notes=notes)


def _adapter_parameters(shape: Shape, adapter: AdapterParams) -> int:
    """Those of an adapter on every linear layer of the blocks, in proportion where targets are fewer."""
    widths = [
        shape.hidden + shape.queries,
        shape.hidden + shape.keys,
        shape.hidden + shape.keys,
        shape.queries + shape.hidden,
        *[shape.hidden + shape.intermediate] * 3,
    ]
    share = min(1.0, len(adapter.targets) / len(widths)) if adapter.targets else 1.0
    return int(shape.layers * adapter.rank * sum(widths) * share)


def _parts(
    shape: Shape,
    trained: int,
    rows: int,
    length: int,
    learnt: float,
    *,
    recomputed: bool,
    mask: bool,
    accumulates: bool = False,
) -> dict[str, int]:
    """Bytes of each part."""
    tokens = rows * length
    per_token = shape.activation_floats(length if mask else 0, recomputed=recomputed)
    return {
        "process": _PROCESS_BYTES,
        "weights": _F32 * shape.num_parameters,
        "optimiser": 2 * _F32 * trained,
        "gradients": _F32 * trained,
        "activations": _F32 * tokens * per_token,
        # The logits, their logarithms and the gradient.
        "logits": int(3 * _F32 * tokens * learnt * shape.vocab_size),
        "saving": max(2 * _F32 * trained, _F32 * shape.num_parameters),
        # Recomputing keeps so little else that gradients are there beside it.
        "kept between batches": _F32 * trained if accumulates or recomputed else 0,
    }


def _precision_parts(params: PrecisionParams, shape: Shape) -> dict[str, int]:
    """Bytes of what computing in other numbers, or by compiled code, adds."""
    parts = {}
    if params.precision == "bf16":
        # The copy and its gradients.
        parts["copy in bf16"] = 2 * _WIDTHS["bfloat16"] * shape.num_parameters
    if params.compiled:
        parts["compiler"] = _COMPILER_BYTES
    return parts


def _peak(parts: dict[str, int]) -> int:
    """The largest sum of what is there at the same moment."""
    lasting = sum(parts.get(name, 0) for name in _LASTING)
    # Activations go as gradients come; both are gone while a checkpoint is written.
    learning = max(parts["activations"] + parts["logits"] + parts["kept between batches"], parts["gradients"])
    return lasting + max(learning, parts["saving"])
