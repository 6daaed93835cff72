"""The declaration of capability `embedding`."""

from __future__ import annotations

from modelworks.capabilities.embedding.schemas import ServeOptions, ValidateParams
from modelworks.contract import Capability, Resources, Task
from modelworks.contract.retrieval import EmbeddingInput, EmbeddingOutput, RankingInput, RankingOutput

_PACKAGE = "modelworks.capabilities.embedding"

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
            resources=Resources(cpu=1.0, memory_bytes=1 << 30),
        ),
    ),
)
