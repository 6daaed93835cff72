"""The declaration of capability `embedding`."""

from __future__ import annotations

from modelworks.capabilities.embedding.schemas import (
    EmbeddingTrainParams,
    EvaluateParams,
    RankingEvaluateParams,
    RankingTrainParams,
    ServeOptions,
    ValidateParams,
)
from modelworks.contract import Capability, Resources, Task
from modelworks.contract.retrieval import EmbeddingInput, EmbeddingOutput, RankingInput, RankingOutput

_PACKAGE = "modelworks.capabilities.embedding"

#: As `scores.METRICS`, which is not light.
_METRICS = ("ndcg_at_10", "recall_at_5", "mrr_at_10")

capability = Capability(
    name="embedding",
    summary="Search by meaning: encoders that turn texts into vectors, and such as order passages by a query.",
    package=_PACKAGE,
    extra="embedding",
    tasks=(
        Task(
            name="feature-extraction",
            input=EmbeddingInput,
            output=EmbeddingOutput,
            predictor=f"{_PACKAGE}.serve:Embedder",
            predictors={
                "openvino": f"{_PACKAGE}.serve:OpenVINOEmbedder",
                "transformers": f"{_PACKAGE}.serve:TransformersEmbedder",
            },
            options=ServeOptions,
            validator=f"{_PACKAGE}.data:validate",
            validate_params=ValidateParams,
            trainer=f"{_PACKAGE}.train:train_encoder",
            train_params=EmbeddingTrainParams,
            train_inputs=("train",),
            evaluator=f"{_PACKAGE}.evaluate:evaluate_encoder",
            evaluate_params=EvaluateParams,
            metrics=tuple(part + metric for part in ("", "bm25_", "fused_") for metric in _METRICS),
            importers={"modules.json": f"{_PACKAGE}.importing:import_encoder"},
            resources=Resources(cpu=1.0, memory_bytes=1 << 30),
        ),
        Task(
            name="text-ranking",
            input=RankingInput,
            output=RankingOutput,
            predictor=f"{_PACKAGE}.serve:Ranker",
            predictors={
                "openvino": f"{_PACKAGE}.serve:OpenVINORanker",
                "transformers": f"{_PACKAGE}.serve:TransformersRanker",
            },
            options=ServeOptions,
            validator=f"{_PACKAGE}.data:validate",
            validate_params=ValidateParams,
            trainer=f"{_PACKAGE}.train:train_ranker",
            train_params=RankingTrainParams,
            train_inputs=("train",),
            evaluator=f"{_PACKAGE}.evaluate:evaluate_ranker",
            evaluate_params=RankingEvaluateParams,
            metrics=(*_METRICS, *(f"found_{metric}" for metric in _METRICS), "gain_ndcg_at_10"),
            resources=Resources(cpu=1.0, memory_bytes=1 << 30),
        ),
    ),
)
