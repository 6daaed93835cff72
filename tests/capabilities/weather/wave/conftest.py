"""One small wave model, trained once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.capabilities.weather.wave.tiny_waves import write

from modelworks.capabilities.weather.wave.schemas import WaveTrainParams
from modelworks.capabilities.weather.wave.train import train_waves
from modelworks.testing import FakeRun


@pytest.fixture(scope="session")
def buoy(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return write(tmp_path_factory.mktemp("buoy"))


@pytest.fixture(scope="session")
def trained_waves(buoy: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    run = FakeRun(tmp_path_factory.mktemp("wave-model"), datasets={"train": buoy["train"]})
    train_waves(run, WaveTrainParams(preset="tiny", leads_h=[1, 6], folds=2, block_days=5, num_trees=40))
    return run
