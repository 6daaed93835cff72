"""What every capability keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tests.capabilities.embedding.conftest import SHAPE, pairs, write_pairs

from modelworks.capabilities.embedding.capability import capability
from modelworks.testing.contract_suite import CapabilityContract, TaskCase

TRAINING = {**SHAPE, "batch_size": 8, "epochs": 1, "log_every": 1, "checkpoint_every": 2, "validation_fraction": 0.1}


def data(folder: Path) -> Mapping[str, Path]:
    return {"train": write_pairs(folder / "train"), "test": write_pairs(folder / "test", more=pairs()[::4])}


class TestContract(CapabilityContract):
    capability = capability
    cases: ClassVar = {
        "feature-extraction": TaskCase(
            datasets=data,
            train_params=TRAINING,
            cancel_at=3,
            evaluate_params={"bootstrap_samples": 100},
            options={"num_threads": 1},
            request={"texts": ["the river", "河流"], "dimensions": 8},
            bad_requests=({}, {"texts": []}, {"texts": ["a"], "token_ids": [[1]]}, {"texts": ["a"], "dimensions": 0}),
        ),
        "text-ranking": TaskCase(
            datasets=data,
            train_params={**TRAINING, "num_negatives": 2, "max_query_tokens": 20, "max_passage_tokens": 32},
            cancel_at=3,
            evaluate_params={"bootstrap_samples": 100},
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
