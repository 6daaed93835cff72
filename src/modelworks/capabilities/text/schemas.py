"""Parameters of training and evaluation, and options of a deployment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    RootModel,
    Tag,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from modelworks.capabilities.text.grading.opening import open_grader
from modelworks.contract.errors import ModelworksError
from modelworks.contract.grading import Grader, models_of
from modelworks.contract.run import Level

Preset = Literal["tiny", "small", "custom"]
Precision = Literal["auto", "f32", "bf16", "int8", "int4"]
#: What the weights of a version can be stored as beside plain numbers.
Quantised = Literal["int8", "int4"]
CachePrecision = Literal["auto", "f32", "bf16", "u8"]
#: How processes share a training: see `training.spread`.
Strategy = Literal["ddp", "fsdp"]
#: What test data hold: running text, conversations, pairs of a better and a worse answer, multiple choice, programming
#: problems, or requests that functions answer.
TestForm = Literal["text", "chat", "preference", "choice", "code", "tools"]

#: The key in a version's metadata, and with .json the file in a model's folder, that say what format it was trained with.
PROMPT_FORMAT = "prompt_format"

#: Where an adapter lies in the folder of its merged model, and its files, as peft names them.
ADAPTER_FOLDER = "adapter"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

#: What a preset means, field by field; a field that is given keeps its value.
PRESETS: Mapping[Preset, Mapping[str, Any]] = MappingProxyType(
    {
        # About one million weights: readable after two minutes on two cores.
        "tiny": {
            "vocab_size": 2048,
            "hidden_size": 128,
            "num_layers": 4,
            "num_heads": 4,
            "num_kv_heads": 2,
            "head_dim": 32,
            "intermediate_size": 384,
            "context_length": 512,
            "batch_size": 4,
            "steps": 600,
            "learning_rate": 3e-3,
            "warmup_steps": 30,
        },
        # About ten million weights: hours on a few cores.
        "small": {
            "vocab_size": 8192,
            "hidden_size": 256,
            "num_layers": 8,
            "num_heads": 8,
            "num_kv_heads": 4,
            "head_dim": 32,
            "intermediate_size": 1024,
            "context_length": 1024,
            "batch_size": 8,
            "steps": 2500,
            "learning_rate": 1e-3,
            "warmup_steps": 100,
        },
        "custom": {},
    }
)


class PrecisionParams(BaseModel):
    """In which numbers a training of all weights computes, and whether by compiled code."""

    precision: Literal["f32", "bf16"] = Field(
        "f32",
        description="Numbers of the computation; weights stay in f32. bf16 is for processors that multiply it by themselves.",
    )
    compiled: bool = Field(
        False,
        description="Compile the computation first, about a minute, with the machine's C++ compiler: for trainings of hours.",
    )


class PretrainParams(PrecisionParams):
    """How a base model is trained from plain text. `preset` fills in whatever is not given."""

    model_config = ConfigDict(extra="forbid")

    method: Literal["pretrain"] = Field("pretrain", description="Next-token prediction over plain text.")
    preset: Preset = Field("tiny", description="A size that is known to work; its values can be overridden one by one.")
    vocab_size: int = Field(2048, ge=320, le=262_144, description="Size of the vocabulary of a newly trained tokenizer.")
    hidden_size: int = Field(128, ge=16, le=16_384, description="Width of the residual stream.")
    num_layers: int = Field(4, ge=1, le=256, description="Number of decoder layers.")
    num_heads: int = Field(4, ge=1, le=256, description="Query heads per layer.")
    num_kv_heads: int = Field(2, ge=1, le=256, description="Key and value heads per layer; must divide num_heads.")
    head_dim: int = Field(32, ge=8, le=512, description="Width of one attention head; must be even.")
    intermediate_size: int = Field(384, ge=16, le=65_536, description="Width of the feed-forward layer.")
    context_length: int = Field(512, ge=16, le=1_048_576, description="Longest prompt and answer together, in tokens.")
    block_length: int | None = Field(
        None, ge=16, description="Tokens per training sequence; the context length when not given, and never above it."
    )
    batch_size: int = Field(4, ge=1, le=65_536, description="Training sequences per step.")
    steps: int = Field(600, ge=1, le=100_000_000, description="Optimiser steps; ignored when tokens is given.")
    tokens: int | None = Field(None, ge=1, description="Train on about this many tokens instead of a number of steps.")
    learning_rate: float = Field(3e-3, gt=0, le=1, description="Highest learning rate, reached after the warm-up.")
    min_learning_rate_ratio: float = Field(0.1, ge=0, le=1, description="Where the cosine ends, as a part of learning_rate.")
    warmup_steps: int = Field(30, ge=0, description="Steps over which the learning rate rises from zero.")
    weight_decay: float = Field(0.1, ge=0, le=1, description="Decay of matrices; vectors are not decayed.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients longer than this are scaled down to it.")
    checkpoint_every: int = Field(100, ge=1, description="Steps between checkpoints.")
    validate_every: int = Field(100, ge=1, description="Steps between measurements on held-out text.")
    log_every: int = Field(10, ge=1, description="Steps between points of the loss curve.")
    validation_fraction: float = Field(0.02, gt=0, le=0.5, description="Part of the documents that is held out.")
    max_validation_tokens: int = Field(32_768, ge=16, description="Most held-out tokens measured at a time.")
    chat_fraction: float = Field(
        0.15, ge=0, le=0.9, description="Part of the training text that is turned into question and answer turns."
    )
    fill_in_middle: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Part of the source code (.py) that is read with its middle at the end, to learn to fill gaps.",
    )
    tools: bool = Field(
        False, description="Give a newly trained tokenizer's chat template a place for tools and calls of them."
    )
    replay_fraction: float = Field(
        0.2, gt=0, lt=1, description="Part of the training that reads the data set of the role replay, where one is given."
    )
    system_prompt: str = Field(
        "You are a helpful assistant.", max_length=8192, description="System message of the chat turns seen in training."
    )
    name: str | None = Field(None, max_length=128, description="A name for the model's card.")
    level: Level | None = Field(
        None, description="Level recorded with the model; L1 where a base model is continued, else L0, when not given."
    )
    strategy: Strategy = Field(
        "ddp",
        description="How several workers (resources.workers) share it; ddp: each holds all weights, fsdp: each a part of them.",
    )
    num_threads: int | None = Field(None, ge=1, le=1024, description="Threads of the computation; all cores when not given.")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        preset = values.get("preset", "tiny")
        defaults = PRESETS.get(preset) if isinstance(preset, str) else None  # type: ignore[call-overload]
        if defaults is None:
            return values  # the field's own validation says which presets exist
        return {**defaults, **values}

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads {self.num_kv_heads} does not divide num_heads {self.num_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd; rotary positions need an even one")
        if self.block_length is not None and self.block_length > self.context_length:
            raise ValueError(f"block_length {self.block_length} is longer than context_length {self.context_length}")
        return self

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimiser step learns from."""
        return self.batch_size * (self.block_length or self.context_length)

    @property
    def num_steps(self) -> int:
        """Optimiser steps in all, from `tokens` where given."""
        return self.steps if self.tokens is None else max(1, round(self.tokens / self.tokens_per_step))


class TuningParams(BaseModel):
    """What every kind of training from conversations has in common; the base model decides the shape."""

    model_config = ConfigDict(extra="forbid")

    epochs: float = Field(3.0, gt=0, le=10_000, description="Passes over the data set; ignored when steps is given.")
    steps: int | None = Field(None, ge=1, le=100_000_000, description="Optimiser steps, instead of a number of epochs.")
    batch_size: int = Field(4, ge=1, le=65_536, description="Rows that are computed at a time.")
    accumulation: int = Field(1, ge=1, le=65_536, description="Batches whose gradients are added up before each step.")
    max_length: int | None = Field(
        None, ge=8, description="Longest row in tokens; longer samples are left out and counted. The model's context if None."
    )
    learning_rate: float = Field(1e-5, gt=0, le=1, description="Highest learning rate, reached after the warm-up.")
    min_learning_rate_ratio: float = Field(0.1, ge=0, le=1, description="Where the cosine ends, as a part of learning_rate.")
    warmup_steps: int = Field(10, ge=0, description="Steps over which the rate rises; at most a tenth of all steps is used.")
    weight_decay: float = Field(0.0, ge=0, le=1, description="Decay of matrices; vectors are not decayed.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients longer than this are scaled down to it.")
    gradient_checkpointing: bool = Field(
        False, description="Compute activations twice instead of keeping them: less memory, about a third more time."
    )
    checkpoint_every: int = Field(100, ge=1, description="Steps between checkpoints.")
    validate_every: int = Field(50, ge=1, description="Steps between measurements on held-out samples.")
    log_every: int = Field(5, ge=1, description="Steps between points of the loss curve.")
    validation_fraction: float = Field(
        0.05,
        ge=0,
        le=0.5,
        description="Part of the samples that is held out where no data set validation is given; 0 for none.",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="Stop after that many measurements without a lower validation loss, and keep the best weights.",
    )
    keep_epochs: int = Field(
        0, ge=0, le=100, description="Also save the model of that many epochs before the last, as versions NAME-ckpt-step-N."
    )
    name: str | None = Field(None, max_length=128, description="A name for the model's card.")
    level: Level = Field("L2", description="Level recorded with the model.")
    strategy: Strategy = Field(
        "ddp",
        description="How several workers (resources.workers) share it; ddp: each holds all weights, fsdp: each a part of them.",
    )
    num_threads: int | None = Field(None, ge=1, le=1024, description="Threads of the computation; all cores when not given.")


class AdapterParams(BaseModel):
    """The shape of a low-rank adapter (Hu et al. 2021)."""

    model_config = ConfigDict(extra="forbid")

    rank: int = Field(16, ge=1, le=1024, description="Inner width of the adapter's two matrices.")
    alpha: int = Field(32, ge=1, description="The adapter counts alpha / rank times, with rslora alpha / sqrt(rank) times.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Part of the adapter's inputs that is left out at random in training.")
    targets: list[str] | None = Field(
        None, min_length=1, description="Names of the linear layers that get one (q_proj, v_proj); all but the head if None."
    )
    rslora: bool = Field(False, description="Scale by the root of the rank (Kalajdzievski 2023), which large ranks need.")
    dora: bool = Field(False, description="Learn direction and length of each column apart (Liu et al. 2024); slower.")


class SupervisedParams(TuningParams, PrecisionParams):
    """All weights of a base model learn the answers in conversations."""

    method: Literal["supervised"] = Field("supervised", description="Learn answers in conversations, with all weights.")
    packing: bool = Field(
        True, description="Put several samples into one row, invisible to each other; off: one padded row per sample."
    )


class LoraParams(TuningParams, AdapterParams):
    """A low-rank adapter learns the answers in conversations; the base model's weights stay as they are."""

    method: Literal["lora"] = Field("lora", description="Learn answers in conversations, with a low-rank adapter.")
    learning_rate: float = Field(2e-4, gt=0, le=1, description="Highest learning rate, reached after the warm-up.")
    packing: bool = Field(
        True, description="Put several samples into one row, invisible to each other; off: one padded row per sample."
    )
    merged: bool = Field(True, description="Also save the merged weights; off: the adapter alone, which answers on its base.")
    replay_fraction: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Part of the samples that comes from the data set of the role replay, where one is given: known ones, so "
        "that they are not forgotten.",
    )


class CombineParams(BaseModel):
    """Adapters of one base, trained apart, are made one: the sum of their changes. Nothing is trained."""

    model_config = ConfigDict(extra="forbid")

    method: Literal["combine"] = Field("combine", description="Add up adapters that were trained apart on one base.")
    scale: float | None = Field(
        None, gt=0, le=10, description="How much the change of each counts; when not given 1 / their number, which is the mean."
    )
    name: str | None = Field(None, max_length=128, description="A name for the model's card.")
    level: Level = Field("L2", description="Level recorded with the model.")
    num_threads: int | None = Field(None, ge=1, le=1024, description="Threads of the computation; all cores when not given.")


class PreferenceParams(TuningParams):
    """Direct preference optimisation (Rafailov et al. 2023): answers chosen over others become likelier than those."""

    method: Literal["preference"] = Field("preference", description="Learn which of two answers is the better one (DPO).")
    learning_rate: float = Field(5e-6, gt=0, le=1, description="Highest learning rate, reached after the warm-up.")
    epochs: float = Field(1.0, gt=0, le=10_000, description="Passes over the data set; ignored when steps is given.")
    beta: float = Field(0.1, gt=0, le=10, description="How strongly the model is held to the base model.")
    adapter: AdapterParams | None = Field(None, description="Train a low-rank adapter instead of all weights.")


class DistillationParams(TuningParams):
    """Distillation (Hinton et al. 2015): a student learns the answers, and how likely a teacher finds every other token."""

    method: Literal["distillation"] = Field("distillation", description="Learn from the logits of a larger model.")
    learning_rate: float = Field(5e-5, gt=0, le=1, description="Highest learning rate, reached after the warm-up.")
    temperature: float = Field(2.0, gt=0, le=100, description="Both models' logits are divided by it before they are compared.")
    teacher_share: float = Field(
        0.5, ge=0, le=1, description="Part of the loss that asks for agreement with the teacher; the rest asks for the answers."
    )
    packing: bool = Field(
        True, description="Put several samples into one row, invisible to each other; off: one padded row per sample."
    )
    adapter: AdapterParams | None = Field(None, description="Train a low-rank adapter instead of all weights.")


def _usable(value: Grader) -> Grader:
    if len(models_of(value)) > 1:
        raise PydanticCustomError("several_judges", "asks several models, and a run can ask one, its input judge")
    try:
        open_grader(value)
    except ModelworksError as error:
        raise PydanticCustomError("grader", "{reason}", {"reason": f"{error.message.rstrip('.')}"}) from error
    return value


#: A grader whose formula, source and measures are found to work before anything is computed.
UsableGrader = Annotated[Grader, AfterValidator(_usable)]


class ReinforcementParams(TuningParams):
    """Group relative policy optimisation (Shao et al. 2024): of several answers to a prompt, the better ones become likelier.

    Departures from the paper, each of which a parameter takes back: advantages are not divided by their deviation, and a token
    counts the same in a long and a short answer (Liu et al. 2025, "Dr. GRPO"), since these divisions favour groups that are
    nearly solved and wrong answers that are long; ratios are clipped further above than below (Yu et al. 2025, "DAPO").
    """

    method: Literal["reinforcement"] = Field("reinforcement", description="Learn what a grader rewards (GRPO).")
    grader: UsableGrader = Field(description="What judges an answer; see the guide to graders.")
    epochs: float = Field(1.0, gt=0, le=10_000, description="Passes over the data set; ignored when steps is given.")
    batch_size: int = Field(4, ge=1, le=65_536, description="Prompts that are answered at a time.")
    group_size: int = Field(8, ge=2, le=1024, description="Answers to each prompt, which are compared with each other.")
    max_answer_tokens: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Longest answer; a longer one is cut off and counted. Half of max_length, at most 256, when not given.",
    )
    temperature: float = Field(
        1.0, gt=0, le=2, description="How freely answers are drawn; learning is for the same temperature."
    )
    learning_rate: float = Field(1e-6, gt=0, le=1, description="Highest learning rate; 1e-5 with an adapter, when not given.")
    beta: float = Field(0.01, ge=0, le=10, description="How strongly the model is held to the base model; 0 saves its memory.")
    updates: int = Field(
        1, ge=1, le=64, description="Optimiser steps per set of answers; 1 learns only from answers of the model as it is."
    )
    clip_low: float = Field(0.2, gt=0, lt=1, description="How much less likely an answer's token may become in these updates.")
    clip_high: float = Field(0.28, gt=0, le=10, description="How much likelier; more than clip_low keeps rare tokens alive.")
    scale_advantages: bool = Field(False, description="Divide by the rewards' deviation within a group, as the paper does.")
    length_weighting: Literal["constant", "token", "answer"] = Field(
        "constant",
        description="What the loss is a mean over: the answers' longest length (unbiased), their tokens (DAPO), or first "
        "within each answer (the paper, which lets wrong answers grow).",
    )
    reward_cut: bool = Field(False, description="Let an answer that was cut off earn something; else its reward is 0 at most.")
    mask_cut: bool = Field(False, description="Learn nothing from answers that were cut off.")
    answer_format: str | None = Field(
        None, max_length=2000, description="A regular expression for the whole answer; another one earns 0 at most."
    )
    validation_samples: int = Field(
        1, ge=1, le=1024, description="Answers to each held-out prompt when the reward is measured."
    )
    max_validation_prompts: int = Field(64, ge=1, description="Most held-out prompts that are answered at a time.")
    checkpoint_every: int = Field(20, ge=1, description="Steps between checkpoints.")
    validate_every: int = Field(20, ge=1, description="Steps between measurements on held-out prompts.")
    log_every: int = Field(1, ge=1, description="Steps between points of the curves.")
    adapter: AdapterParams | None = Field(None, description="Train a low-rank adapter instead of all weights.")

    def longest_answer(self, max_length: int) -> int:
        """Tokens of the longest answer, where a prompt and its answer have at most `max_length`."""
        return self.max_answer_tokens or max(1, min(256, max_length // 2))

    @model_validator(mode="before")
    @classmethod
    def _fill_rate(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("adapter") is not None:
            return {"learning_rate": 1e-5, **values}
        return values

    @field_validator("answer_format", mode="after")
    @classmethod
    def _check_format(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise PydanticCustomError("regex", "is no regular expression: {reason}", {"reason": str(error)}) from error
        return value


def _method(value: Any) -> str:
    """The method that raw or validated parameters name; pre-training where they name none."""
    method = value.get("method", "pretrain") if isinstance(value, dict) else getattr(value, "method", "pretrain")
    return str(method)


class TrainParams(
    RootModel[
        Annotated[
            Annotated[PretrainParams, Tag("pretrain")]
            | Annotated[SupervisedParams, Tag("supervised")]
            | Annotated[LoraParams, Tag("lora")]
            | Annotated[CombineParams, Tag("combine")]
            | Annotated[PreferenceParams, Tag("preference")]
            | Annotated[DistillationParams, Tag("distillation")]
            | Annotated[ReinforcementParams, Tag("reinforcement")],
            Discriminator(
                _method,
                custom_error_type="unknown_method",
                custom_error_message="method must be pretrain, supervised, lora, combine, preference, distillation or "
                "reinforcement",
            ),
        ]
    ]
):
    """Parameters of a training run: `method` says of which kind, and pre-training is what happens without it."""


class LabelParams(BaseModel):
    """How a deployed model is asked to write the answers of a data set."""

    model_config = ConfigDict(extra="forbid")

    system_prompt: str | None = Field(
        None, max_length=65_536, description="What the teacher is told first; the new data set does not hold it."
    )
    max_tokens: int = Field(512, ge=1, le=1_000_000, description="Longest answer, in tokens.")
    temperature: float = Field(0.0, ge=0, le=2, description="0: always the likeliest answer; above it, answers vary.")
    top_p: float | None = Field(None, gt=0, le=1, description="Draw only from the likeliest tokens of that share.")
    keep_truncated: bool = Field(False, description="Also keep answers that were cut off at max_tokens.")
    concurrency: int = Field(4, ge=1, le=256, description="Questions that are asked at the same time.")
    max_samples: int | None = Field(None, ge=1, description="Ask only so many, from the beginning.")
    checkpoint_every: int = Field(50, ge=1, description="Answers between checkpoints.")


class MeasureParams(BaseModel):
    """How held-out data are measured."""

    model_config = ConfigDict(extra="forbid")

    form: Literal["auto"] | TestForm = Field("auto", description="What the data hold; auto: seen from the first record.")

    window: int | None = Field(None, ge=2, description="Tokens seen at once; the model's context length when not given.")
    stride: int | None = Field(
        None, ge=1, description="New tokens per window, the rest being context; half a window when not given."
    )
    batch_size: int = Field(4, ge=1, le=1024, description="Windows measured at a time.")
    max_documents: int | None = Field(None, ge=1, description="Measure only that many documents, conversations or questions.")
    max_answers: int = Field(
        50, ge=0, description="Conversations whose last answer the model writes itself, to be compared with the given one."
    )
    max_answer_tokens: int | None = Field(
        None, ge=1, le=1_000_000, description="Longest answer that it writes; when not given 128, for tools 256, for code 512."
    )
    code_prompt: Literal["completion", "chat"] = Field(
        "completion", description="Programming problems are given to be continued, or asked for in a chat."
    )
    samples_per_problem: int = Field(
        1, ge=1, le=1000, description="Programs written for each problem; pass@10 and pass@100 need as many."
    )
    temperature: float | None = Field(
        None, ge=0, le=2, description="Of these programs; when not given 0 for one, 0.8 for several."
    )
    code_timeout_s: float = Field(10.0, gt=0, le=3600, description="Seconds that one program may take.")
    code_memory_bytes: int = Field(512 << 20, ge=64 << 20, description="Memory that one program may take.")
    allow_weaker_sandbox: bool = Field(
        False, description="Run the model's programs where nothing shuts off files and network; only for code that you trust."
    )
    num_threads: int | None = Field(None, ge=1, le=1024, description="Threads of the computation; all cores when not given.")

    @model_validator(mode="after")
    def _check_stride(self) -> Self:
        if self.window is not None and self.stride is not None and self.stride >= self.window:
            raise ValueError(f"stride {self.stride} must be smaller than window {self.window}")
        return self


class EvaluateParams(MeasureParams):
    """How held-out data are measured, and by what the answers that the model writes are judged."""

    grader: UsableGrader | None = Field(
        None, description="What judges the answers to conversations and prompts, beside the other scores: the metric reward."
    )

    @model_validator(mode="after")
    def _check_answers(self) -> Self:
        if self.grader is not None and self.max_answers == 0:
            raise ValueError("a grader judges what the model answers, so max_answers must be above 0")
        return self


class QuantiseParams(MeasureParams):
    """Which smaller versions are made, and how what they cost is measured; the rest says how data are measured."""

    to: list[Quantised] = Field(
        ["int8", "int4"],
        min_length=1,
        description="int8: eight bits in groups of 32 with one scale each (GGUF's Q8_0). int4: four bits alike (Q4_0), the "
        "embeddings eight.",
    )
    speed_tokens: int = Field(48, ge=1, le=4096, description="Tokens that each of eight answers has when speed is measured.")

    @field_validator("to")
    @classmethod
    def _check_twice(cls, value: list[Quantised]) -> list[Quantised]:
        if len(set(value)) != len(value):
            raise ValueError("a precision is named twice")
        return value


class ExportParams(BaseModel):
    """As what a model is written for other programs."""

    model_config = ConfigDict(extra="forbid")

    to: Literal["gguf", "hf"] = Field("hf", description="hf: a Hugging Face folder. gguf: one file for llama.cpp and its kin.")
    kind: Literal["auto", "f32", "f16", "bf16", "q8_0", "q4_0"] = Field(
        "auto", description="What a GGUF file's matrices are stored as; auto: as they are."
    )

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.to == "hf" and self.kind != "auto":
            raise ValueError("kind belongs to gguf; a Hugging Face folder keeps the numbers as they are")
        return self


#: What vLLM's `--max-lora-rank` takes in every version that this was written against.
AdapterRank = Literal[8, 16, 32, 64, 128, 256, 320, 512]


class ServeOptions(BaseModel):
    """Options of a deployment of a language model."""

    model_config = ConfigDict(extra="forbid")

    precision: Precision = Field(
        "auto",
        description="Numbers the weights are computed in. auto: those that a quantised version stores, else f32 below a "
        "hundred million weights, else int8 (openvino) or bf16 (transformers). int4: quantised versions only.",
    )
    kv_cache_precision: CachePrecision = Field(
        "auto", description="Numbers the attention cache is kept in. auto: f32 with precision f32, else u8 (openvino only)."
    )
    context_length: int | None = Field(
        None,
        ge=16,
        description="Longest prompt and answer together, in tokens. When not given: the model's own, or what the cache holds.",
    )
    cache_size_bytes: int = Field(512 << 20, ge=1 << 20, description="Memory for the attention cache (openvino).")
    max_batch: int = Field(32, ge=1, le=1024, description="Sequences generated at the same time; more wait their turn.")
    prefix_caching: bool = Field(True, description="Keep the computed beginnings of prompts for later requests (openvino).")
    num_threads: int | None = Field(None, ge=1, le=1024, description="Threads of the computation; the engine's choice if None.")
    max_adapters: int = Field(
        0, ge=0, le=32, description="Adapters to keep room for beside the base (vllm; openvino makes room as they come)."
    )
    adapter_loading: Literal["beside", "in_place"] = Field(
        "beside",
        description="How a running base takes more adapters (openvino). beside: it goes on answering, and is in memory twice "
        "meanwhile. in_place: it finishes what it answers and is replaced; new requests wait, and memory does not grow.",
    )
    max_adapter_rank: AdapterRank = Field(16, description="The largest rank of such an adapter (vllm).")
