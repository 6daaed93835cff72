"""What every capability keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tests.capabilities.document.conftest import write_documents
from tests.capabilities.document.samples.conftest import write_library

from modelworks.capabilities.document.capability import capability
from modelworks.testing.contract_suite import CapabilityContract, TaskCase


def data(folder: Path) -> Mapping[str, Path]:
    return {"documents": write_documents(folder, {"a.md": "# Rivers\n\nThe river rises in the hills.\n", "b.txt": "Notes.\n"})}


class TestContract(CapabilityContract):
    capability = capability
    cases: ClassVar = {
        "document-parsing": TaskCase(
            datasets=data,
            request={"passage_chars": 500, "num_processes": 1},
            bad_requests=({"passage_chars": 1}, {"page_timeout_s": 0}, {"no_such_parameter": 1}, {"ocr": "maybe"}),
        ),
        "sample-making": TaskCase(
            datasets=lambda folder: {"passages": write_library(folder / "passages")},
            request={"test_share": 0.34},
            bad_requests=({"test_share": 1.0}, {"makers": []}, {"no_such_parameter": 1}, {"form": {"languages": {}}}),
        ),
    }
