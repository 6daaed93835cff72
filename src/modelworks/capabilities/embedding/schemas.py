"""Parameters of training and evaluation, and options of a deployment."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from modelworks.contract.run import Level

Preset = Literal["tiny", "small", "custom"]
Precision = Literal["auto", "f32", "bf16"]

#: What a preset means, field by field; a field that is given keeps its value.
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # Under a million weights: learns the words of a small collection in minutes.
        "tiny": {
            "vocab_size": 4096,
            "hidden_size": 128,
            "num_layers": 3,
            "num_heads": 4,
            "intermediate_size": 256,
            "context_length": 512,
        },
        # About eight million weights, 256 dimensions: hours on a few cores.
        "small": {
            "vocab_size": 16_384,
            "hidden_size": 256,
            "num_layers": 6,
            "num_heads": 4,
            "intermediate_size": 512,
            "context_length": 1024,
        },
        "custom": {},
    }
)


class _TrainParams(BaseModel):
    """What both trainings share: the size of a new encoder, the schedule, the mining of negatives."""

    model_config = ConfigDict(extra="forbid")

    preset: Preset = Field("tiny", description="A size that is known to work; its values can be overridden one by one.")
    vocab_size: int = Field(4096, ge=320, le=262_144, description="Size of the vocabulary of a newly trained tokenizer.")
    hidden_size: int = Field(128, ge=8, le=8192, description="Width of the encoder, and length of its whole vectors.")
    num_layers: int = Field(3, ge=1, le=128, description="Number of encoder layers.")
    num_heads: int = Field(4, ge=1, le=128, description="Attention heads per layer; must divide hidden_size.")
    intermediate_size: int = Field(256, ge=8, le=65_536, description="Width of the gated feed-forward layer.")
    context_length: int = Field(512, ge=16, le=131_072, description="Longest text of a new encoder, in tokens.")
    epochs: int = Field(3, ge=1, le=10_000, description="How often the pairs are read.")
    max_steps: int | None = Field(None, ge=1, description="End after so many steps, whatever the epochs.")
    learning_rate: float = Field(5e-4, gt=0, le=1, description="Highest learning rate, reached after the warm-up.")
    warmup_ratio: float = Field(0.05, ge=0, le=1, description="Part of the steps over which the learning rate rises from zero.")
    weight_decay: float = Field(0.01, ge=0, le=1, description="Decay of matrices; vectors are not decayed.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients longer than this are scaled down to it.")
    max_query_tokens: int = Field(64, ge=4, description="Queries are cut at so many tokens while training.")
    max_passage_tokens: int = Field(256, ge=4, description="Passages are cut at so many tokens while training.")
    mining: Literal["bm25", "none"] = Field(
        "bm25", description="Where negatives come from beside those that the data give: passages that share words (bm25)."
    )
    mining_skip: int = Field(
        1, ge=0, le=1000, description="So many of the best found passages are passed over: they may answer, though unmarked."
    )
    mining_depth: int = Field(32, ge=1, le=1000, description="Negatives are drawn from so many of the found passages.")
    chunk_tokens: int = Field(
        8192, ge=64, description="Tokens that are computed at a time, padding included; texts of like length go together."
    )
    precision: Literal["f32", "bf16"] = Field(
        "f32", description="Numbers of the products; bf16 where the processor multiplies such. Weights stay f32 in any case."
    )
    cached_gradients: bool = Field(
        False, description="Compute every text twice to keep only one chunk in memory at a time: for large batches."
    )
    patience: int | None = Field(None, ge=1, description="End after so many measurements without a lower validation loss.")
    checkpoint_every: int = Field(200, ge=1, description="Steps between checkpoints.")
    validate_every: int = Field(200, ge=1, description="Steps between measurements on held-out pairs.")
    log_every: int = Field(10, ge=1, description="Steps between points of the loss curve.")
    validation_fraction: float = Field(
        0.02, gt=0, le=0.5, description="Part of the passages that is held out, with its queries."
    )
    max_validation: int = Field(512, ge=2, description="Most held-out pairs that are measured.")
    name: str | None = Field(None, max_length=128, description="A name for the model's card.")
    level: Level | None = Field(
        None, description="Level recorded with the model; L1 with a base model, else L0, when not given."
    )
    num_threads: int | None = Field(None, ge=1, le=1024, description="Threads of the computation; all cores when not given.")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        preset = values.get("preset", "tiny")
        defaults = PRESETS.get(preset) if isinstance(preset, str) else None
        # The field's own validation says which presets exist.
        return values if defaults is None else {**defaults, **values}

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(f"hidden_size {self.hidden_size} does not divide into {self.num_heads} heads of an even width")
        if max(self.max_query_tokens, self.max_passage_tokens) > self.context_length:
            raise ValueError(f"max_query_tokens and max_passage_tokens are at most the context_length {self.context_length}")
        return self


class EmbeddingTrainParams(_TrainParams):
    """How an encoder learns that the vectors of a query and its passage lie near each other."""

    batch_size: int = Field(64, ge=2, le=65_536, description="Pairs per step; each is a negative for all others.")
    num_negatives: int = Field(1, ge=0, le=64, description="Negatives per pair beside those of the batch.")
    temperature: float = Field(0.05, gt=0, le=1, description="Cosines are divided by it: small makes near misses count more.")
    dimensions: list[int] | None = Field(
        None,
        max_length=16,
        description="Lengths to which vectors may be cut (Matryoshka); quarter, half and whole if not given.",
    )
    pooling: Literal["mean", "cls"] = Field("mean", description="How a new encoder's token vectors become one.")
    document_epochs: int = Field(
        1, ge=1, le=1000, description="Epochs over the pairs of title and text of the data set documents, which go first."
    )

    @model_validator(mode="after")
    def _check_dimensions(self) -> Self:
        if self.dimensions is not None:
            self.dimensions = sorted(set(self.dimensions))
            if not self.dimensions or self.dimensions[0] < 1:
                raise ValueError("dimensions must be positive")
        return self


class RankingTrainParams(_TrainParams):
    """How a cross-encoder learns to score a passage above others for the same query."""

    batch_size: int = Field(16, ge=1, le=65_536, description="Queries per step, each with its passage and negatives.")
    num_negatives: int = Field(4, ge=1, le=64, description="Negatives per query.")
    learning_rate: float = Field(3e-4, gt=0, le=1, description="Highest learning rate, reached after the warm-up.")
    bce_weight: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Share of the binary cross-entropy, which makes scores comparable between queries; the rest is the "
        "listwise softmax, which orders best.",
    )


class EvaluateParams(BaseModel):
    """How retrieval is measured."""

    model_config = ConfigDict(extra="forbid")

    max_queries: int = Field(5000, ge=1, description="Measure at most so many queries.")
    fusion: Literal["rrf", "weighted"] = Field(
        "rrf", description="rrf: by ranks (reciprocal rank fusion, constant 60); weighted: by scores, each scaled to 0..1."
    )
    dense_weight: float = Field(0.5, ge=0, le=1, description="Weight of the vectors against BM25 in either fusion.")
    dimensions: int | None = Field(None, ge=1, description="Measure vectors cut to this length.")
    batch_tokens: int = Field(16_384, ge=64, description="Tokens that are computed at a time, padding included.")
    bootstrap_samples: int = Field(2000, ge=100, le=100_000, description="Resamples behind each 95 % interval.")
    num_threads: int | None = Field(None, ge=1, le=1024, description="Threads of the computation; all cores when not given.")


class RankingEvaluateParams(EvaluateParams):
    """How reranking is measured: on the best passages that BM25 finds, or BM25 fused with a model of the role retriever."""

    depth: int = Field(20, ge=2, le=1000, description="So many of the found passages are put in a new order.")


class ValidateParams(BaseModel):
    """How far a data set is checked."""

    model_config = ConfigDict(extra="forbid")

    epochs: int = Field(1, ge=1, le=10_000, description="How often a training would read the data: for the cost.")
    max_faults: int = Field(200, ge=1, le=10_000, description="Faults that are listed; all are counted.")
    max_samples: int = Field(5_000_000, ge=1, le=100_000_000, description="Stop after so many samples.")


class ServeOptions(BaseModel):
    """Options of a deployment."""

    model_config = ConfigDict(extra="forbid")

    precision: Precision = Field(
        "auto",
        description="Numbers that are computed in. auto: bf16 where the processor has it (openvino), else f32; always held "
        "against the checkpoint in f32 when the model is opened.",
    )
    context_length: int | None = Field(
        None, ge=8, description="Longest text in tokens; the checkpoint's own when not given, and never above its positions."
    )
    max_batch_tokens: int = Field(4096, ge=64, description="Tokens that are computed at a time, padding included.")
    num_threads: int | None = Field(None, ge=1, le=1024, description="Threads of the computation; the engine's choice if None.")
