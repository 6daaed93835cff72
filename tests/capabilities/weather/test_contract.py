from pathlib import Path
from typing import ClassVar

from tests.capabilities.weather.cyclone import tiny_tracks
from tests.capabilities.weather.cyclone.test_tracker import write_forecast
from tests.capabilities.weather.downscaling import fine_grids
from tests.capabilities.weather.tiny_grids import TINY, write_waves
from tests.capabilities.weather.wave import tiny_waves

from modelworks.capabilities.weather.capability import capability
from modelworks.testing.contract_suite import CapabilityContract, TaskCase


def grids(folder: Path) -> dict[str, Path]:
    return write_waves(
        folder,
        {
            "train": {"num_days": 200},
            "validation": {"num_days": 60, "seed": 1, "start": "2003-01-01"},
            "test": {"num_days": 40, "seed": 2, "start": "2004-01-01"},
            "initial": {"num_days": 8, "seed": 3, "start": "2005-01-01"},
        },
    )


class TestContract(CapabilityContract):
    capability = capability
    cases: ClassVar = {
        "weather-forecast": TaskCase(
            datasets=grids,
            train_params=TINY,
            evaluate_params={"num_threads": 1},
            # Of the second network, so that the first one is taken over whole.
            cancel_at=4,
            request={"method": "persistence", "steps": 3},
            bad_requests=[{"steps": 0}, {"steps": 3, "nowhere": 1}, {"exports": ["pdf"]}],
        ),
        "weather-downscaling": TaskCase(
            datasets=fine_grids.write,
            train_params={"preset": "tiny", "block_days": 5},
            evaluate_params={"bootstrap_samples": 100},
            request={"method": "bicubic", "factor": 2},
            bad_requests=[{"factor": 4}, {"method": "bicubic"}, {"method": "spline", "factor": 2}, {"where": 1}],
        ),
        "cyclone-track": TaskCase(
            datasets=tiny_tracks.write,
            train_params={"preset": "tiny", "leads_h": [12, 24], "folds": 2, "num_trees": 5},
            evaluate_params={"bootstrap_samples": 100},
            request={"track": tiny_tracks.hurdat(tiny_tracks.storms(2003, 2003, per_season=1)), "formats": ["geojson"]},
            bad_requests=[{}, {"fixes": [], "track": None}, {"track": "x", "formats": ["pdf"]}, {"track": "x", "where": 1}],
        ),
        "cyclone-tracking": TaskCase(
            datasets=write_forecast, request={"min_duration_h": 12}, bad_requests=[{"min_depth_hpa": 0}, {"where": 1}]
        ),
        "wave-forecast": TaskCase(
            datasets=tiny_waves.write,
            train_params={"preset": "tiny", "leads_h": [1, 3], "folds": 2, "num_trees": 5},
            evaluate_params={"bootstrap_samples": 100},
            request={"records": [{"time": "2019-06-30T23:00:00Z", "hs_m": 1.4}]},
            bad_requests=[{}, {"records": []}, {"records": [{"time": "2019-06-30", "hs_m": -1}]}],
        ),
    }
