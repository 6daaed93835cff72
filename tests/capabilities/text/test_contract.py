"""What every capability keeps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.capabilities.text.conftest import TINY, write_documents

from modelworks.capabilities.text.capability import capability
from modelworks.testing.contract_suite import CapabilityContract, TaskCase


def write_data(folder: Path) -> Mapping[str, Path]:
    return {"train": write_documents(folder / "train"), "test": write_documents(folder / "test")}


class TestContract(CapabilityContract):
    capability = capability
    cases: ClassVar = {
        "text-generation": TaskCase(
            datasets=write_data,
            train_params={**TINY, "steps": 8, "checkpoint_every": 3},
            evaluate_params={"max_documents": 3},
            options={"num_threads": 1},
            request={"messages": [{"role": "user", "content": "Tell me about rain."}], "max_tokens": 8, "seed": 1},
            bad_requests=({}, {"prompt": "x", "prompt_ids": [1]}, {"prompt": "x", "temperature": 3}, {"prompt": "x", "n": 0}),
            cancel_at=5,
        )
    }

    @pytest.fixture(autouse=True)
    def _vllm_somewhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The engine vllm names a program of another environment; whether it is there matters only when it is started."""
        monkeypatch.setenv("MODELWORKS_VLLM_PYTHON", "/opt/vllm/bin/python")


def test_every_parameter_of_the_presets_is_one() -> None:
    import tomllib
    from importlib import resources

    from modelworks.capabilities.text.schemas import PretrainParams

    presets: list[dict[str, Any]] = tomllib.loads(
        resources.files(capability.package).joinpath("presets.toml").read_text("utf-8")
    )["preset"]
    for preset in presets:
        assert ("source" in preset) != ("params" in preset)
        PretrainParams.model_validate(preset.get("params", {}))
