"""One small track model, trained once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.capabilities.weather.cyclone.tiny_tracks import write

from modelworks.capabilities.weather.cyclone.schemas import CycloneTrainParams
from modelworks.capabilities.weather.cyclone.train import train_tracks
from modelworks.testing import FakeRun


@pytest.fixture(scope="session")
def best_tracks(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return write(tmp_path_factory.mktemp("best-tracks"))


@pytest.fixture(scope="session")
def trained_tracks(best_tracks: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    run = FakeRun(tmp_path_factory.mktemp("track-model"), datasets={"train": best_tracks["train"]})
    params = CycloneTrainParams(preset="tiny", leads_h=[24, 48], folds=2, num_trees=30)
    train_tracks(run, params)
    return run
