"""The declaration of capability `retrieval`."""

from __future__ import annotations

from modelworks.capabilities.retrieval.schemas import BuildParams, EvaluateParams, ServeOptions
from modelworks.contract import Capability, Resources, Task
from modelworks.contract.passages import SearchInput, SearchOutput

_PACKAGE = "modelworks.capabilities.retrieval"

capability = Capability(
    name="retrieval",
    summary="Search passages of documents by words and by meaning, within the documents that may answer.",
    package=_PACKAGE,
    extra="retrieval",
    tasks=(
        Task(
            name="passage-retrieval",
            input=SearchInput,
            output=SearchOutput,
            predictor=f"{_PACKAGE}.serve:PassageIndex",
            options=ServeOptions,
            trainer=f"{_PACKAGE}.train:build_index",
            train_params=BuildParams,
            train_inputs=("passages",),
            evaluator=f"{_PACKAGE}.evaluate:evaluate_index",
            evaluate_params=EvaluateParams,
            metrics=("ndcg_at_10", "recall_at_5", "mrr_at_10"),
            resources=Resources(cpu=1.0, memory_bytes=256 << 20),
        ),
    ),
)
