"""What every capability keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tests.capabilities.retrieval.conftest import write_passages

from modelworks.capabilities.retrieval.capability import capability
from modelworks.testing.contract_suite import CapabilityContract, TaskCase


def data(folder: Path) -> Mapping[str, Path]:
    test = folder / "test"
    test.mkdir(parents=True)
    (test / "queries.jsonl").write_text(
        '{"_id": "q1", "text": "requested holidays"}\n{"_id": "q2", "text": "入口压力"}\n', "utf-8"
    )
    (test / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\thandbook:0\t1\nq2\tzh:2\t2\n")
    return {"passages": write_passages(folder / "passages"), "test": test}


class TestContract(CapabilityContract):
    capability = capability
    cases: ClassVar = {
        "passage-retrieval": TaskCase(
            datasets=data,
            train_params={"block_passages": 2},
            evaluate_params={"bootstrap_samples": 100},
            cancel_at=2,
            request={"queries": ["inlet pressure", "压力"], "limit": 3, "around": 1},
            bad_requests=({}, {"queries": []}, {"queries": ["a"], "limit": 0}, {"queries": ["a"] * 17}),
        ),
    }
