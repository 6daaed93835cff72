"""What every capability keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tests.capabilities.embedding.conftest import write_random_encoder, write_random_ranker

from modelworks.capabilities.embedding.capability import capability
from modelworks.testing.contract_suite import CapabilityContract, TaskCase


def encoder_model(folder: Path) -> Mapping[str, Path]:
    return {"model": write_random_encoder(folder / "encoder")}


def ranker_model(folder: Path) -> Mapping[str, Path]:
    return {"model": write_random_ranker(folder / "ranker")}


class TestContract(CapabilityContract):
    capability = capability
    cases: ClassVar = {
        "feature-extraction": TaskCase(
            models=encoder_model,
            options={"num_threads": 1},
            request={"texts": ["the river", "河流"], "dimensions": 8},
            bad_requests=({}, {"texts": []}, {"texts": ["a"], "token_ids": [[1]]}, {"texts": ["a"], "dimensions": 0}),
        ),
        "text-ranking": TaskCase(
            models=ranker_model,
            options={"num_threads": 1},
            request={"query": "the river", "documents": ["a", "b"]},
            bad_requests=(
                {},
                {"query": "a"},
                {"query": "a", "documents": []},
                {"query": "a", "documents": ["b"], "max_tokens": 0},
            ),
        ),
    }
