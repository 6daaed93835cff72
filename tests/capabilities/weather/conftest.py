import os
from pathlib import Path

import pytest
import torch
from tests.capabilities.weather.tiny_grids import TINY, write_waves

from modelworks.capabilities.weather.schemas import TrainParams
from modelworks.capabilities.weather.train import train
from modelworks.contract.run import LocalModel
from modelworks.testing import FakeRun


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Grids are tiny here, and more threads wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="package")
def trained(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    """A training on fourteen months of waves, choices made on another stretch."""
    root = tmp_path_factory.mktemp("weather")
    data = write_waves(root, {"train": {}, "validation": {"num_days": 120, "seed": 1, "start": "2003-01-01"}})
    run = FakeRun(root / "run", datasets=data)
    train(run, TrainParams.model_validate(TINY))
    return run


@pytest.fixture(scope="package")
def model(trained: FakeRun) -> LocalModel:
    return trained.saved[0].model()


@pytest.fixture
def initial(tmp_path: Path) -> Path:
    """Eight days that a forecast begins after."""
    return write_waves(tmp_path, {"initial": {"num_days": 8, "seed": 3, "start": "2004-01-01"}})["initial"]


@pytest.fixture
def shared_grib() -> Path:
    """A month of hourly temperatures as ERA5 gives them."""
    root = Path(os.environ.get("MODELWORKS_SHARED", Path(__file__).parents[4] / "shared"))
    found = root / "data" / "11-weather" / "era5_t2m_uk_2019-03.grib"
    if not found.is_file():
        pytest.skip(f"{found.name} is not at MODELWORKS_SHARED or ../shared")
    return found
