"""What a forecast model trained here is worth on a stretch that nothing was learned from or chosen on.

    python benchmarks/weather.py --shared SHARED [--preset regional] [--seed 0] [--json result.json]

Daily mean sea level pressure of the NCEP/NCAR reanalysis over the North Atlantic (2.5 degrees, 17 x 33 points): trained on
2001 to 2007, every choice made on 2008, measured on 2009 and 2010. One thread. Prints the root mean square error in hPa by lead
beside persistence, climatology, damped persistence and ridge regression on the same starts, with intervals of the bootstrap
over blocks of 20 start dates, the CPU time of the whole training, and the time of a 7-step forecast. A figure that misses its
bar says so, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import xarray as xr

from modelworks.capabilities.weather.evaluate import evaluate
from modelworks.capabilities.weather.model.forecaster import Forecaster, roll
from modelworks.capabilities.weather.schemas import EvaluateParams, TrainParams
from modelworks.capabilities.weather.train import train
from modelworks.testing import FakeRun

FILE = Path("data") / "11-weather" / "ncep_msl_daily_2001_2010.nc"
YEARS = {"train": ("2001", "2007"), "validation": ("2008", "2008"), "test": ("2009", "2010")}
#: hPa at day 1, 2 and 3; CPU seconds; seconds of a forecast of seven days.
BARS, CPU_BAR_S, FORECAST_BAR_S = (4.08, 6.66, 7.94), 900.0, 2.0


class _Loud(FakeRun):
    def log(self, step: int, **metrics: float) -> None:
        super().log(step, **metrics)
        told = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        print(f"  epoch {step}: {told}, CPU {time.process_time():.0f} s", flush=True)


def split(shared: Path, folder: Path) -> dict[str, Path]:
    """The three stretches as data sets; no state is in two of them."""
    found = {}
    with xr.open_dataset(shared / FILE) as whole:
        for role, (first, last) in YEARS.items():
            (folder / role).mkdir()
            whole.sel(time=slice(first, last)).to_netcdf(folder / role / "msl.nc")
            found[role] = folder / role
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("MODELWORKS_SHARED", "../shared")))
    parser.add_argument("--preset", default="regional")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--params", type=json.loads, default={}, help="further parameters of the training, as JSON")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--members", type=int, default=10, help="of ensembles, on every twentieth start")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return _measure(Path(folder), given)


def _measure(folder: Path, given: Any) -> int:
    data = split(given.shared, folder)
    known = {role: data[role] for role in ("train", "validation")}
    learning = _Loud(folder / "train-run", datasets=known, seed=given.seed)
    began = time.process_time()
    train(learning, TrainParams.model_validate({"preset": given.preset, "num_threads": 1, **given.params}))
    cpu_s = time.process_time() - began
    model = learning.saved[0].model()
    print(f"trained: {cpu_s:.0f} CPU-s, {json.dumps(model.metadata)}")
    looking = FakeRun(folder / "evaluate-run", datasets={"test": data["test"]}, models={"model": model})
    evaluate(looking, EvaluateParams(steps=given.steps, num_threads=1))
    report = json.loads(looking.saved[0].path.read_text())
    print(f"{report['starts']} starts, {report['first_start']} to {report['last_start']}; RMSE in hPa, 95% interval, ACC")
    rmse: dict[tuple[str, int], float] = {}
    for row in report["rows"]:
        rmse[row["method"], row["lead"]] = row["rmse"] / 100
        low, high = (each / 100 for each in row["rmse_interval"])
        gain = ""
        if "gain" in row:
            least, most = row["gain_interval"]
            gain = f", model better by {row['gain']:.1%} [{least:.1%}, {most:.1%}]"
        acc = "-" if row["acc"] is None else f"{row['acc']:.3f}"
        print(f"  day {row['lead']} {row['method']:<19} {row['rmse'] / 100:6.3f} [{low:.3f}, {high:.3f}] ACC {acc}{gain}")
    ensemble = FakeRun(folder / "ensemble-run", datasets={"test": data["test"]}, models={"model": model})
    evaluate(ensemble, EvaluateParams(steps=given.steps, every=20, members=given.members, num_threads=1))
    for row in json.loads(ensemble.saved[0].path.read_text())["rows"]:
        if row["method"] == "model":
            print(
                f"  day {row['lead']} ensemble of {given.members}: CRPS {row['crps'] / 100:.3f} hPa, "
                f"spread/skill {row['spread_skill']:.2f}, power over the truth's by thirds of wavenumbers "
                f"{[round(each, 2) for each in row['power_ratio']]}"
            )
    seconds = _forecast_s(model.path, data["test"])
    print(f"7 steps: {seconds:.3f} s")
    faults = [
        f"day {lead}: {rmse['model', lead]:.3f} > {bar} hPa" for lead, bar in enumerate(BARS, 1) if rmse["model", lead] > bar
    ]
    faults += [f"training took {cpu_s:.0f} CPU-s"] * (cpu_s > CPU_BAR_S) + [f"7 steps took {seconds:.2f} s"] * (
        seconds > FORECAST_BAR_S
    )
    print("bars: " + ("; ".join(faults) or "all held"))
    if given.json:
        given.json.write_text(json.dumps({"cpu_s": cpu_s, "forecast_s": seconds, "report": report}, indent=1))
    return 1 if faults else 0


def _forecast_s(model: Path, test: Path) -> float:
    """Loading aside: seven days from one start, the median of five."""
    forecaster = Forecaster.load(model)
    from modelworks.capabilities.weather.grid.reading import read

    grids = read(test)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        for state in roll(forecaster, grids.values_tchw[: forecaster.history], grids.times_t[forecaster.history - 1], 7):
            assert np.isfinite(state).all()
        times.append(time.perf_counter() - began)
    return sorted(times)[2]


if __name__ == "__main__":
    sys.exit(main())
