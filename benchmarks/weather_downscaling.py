"""What downscaling is worth beside interpolation, on states that nothing was learnt from or chosen on.

    python benchmarks/weather_downscaling.py [--shared SHARED] [--set pressure|temperature|both]

pressure: daily mean sea level pressure of the NCEP/NCAR reanalysis, 2.5 degrees, North Atlantic; averaged over 4 x 4 points and
made fine again. Learnt from 2001 to 2008, measured on 2009 and 2010, drawn in blocks of 20 days.
temperature: hourly 2 m temperature of ERA5 around Great Britain, 0.25 degrees, March 2019; the same, learnt from the first 21
days and measured on the last ten, drawn in blocks of 2 days: a short stretch, whose intervals say so.

Everything that is chosen (neighbourhood, penalty, seasons) is chosen within the first stretch. Prints the root mean square
error beside bilinear and bicubic interpolation, bicubic with the climates' difference added, and the climate of the fine grid,
with 95 % intervals. A model that is not better than each of these, by the interval of the gain, makes the exit status 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import xarray as xr

from modelworks.capabilities.weather.downscaling.evaluate import REPORT, evaluate_downscaling
from modelworks.capabilities.weather.downscaling.schemas import DownscaleEvaluateParams, DownscaleTrainParams
from modelworks.capabilities.weather.downscaling.train import train_downscaling
from modelworks.capabilities.weather.grid.reading import read
from modelworks.capabilities.weather.grid.vocabulary import VARIABLES
from modelworks.testing import FakeRun

DATA = Path("data") / "11-weather"
#: By set: file, first time learnt from and the one after the last, the same of those measured, days of a block, unit and its
#: size in the vocabulary's.
SETS = {
    "pressure": ("ncep_msl_daily_2001_2010.nc", ("2001-01-01", "2009-01-01"), ("2009-01-01", "2011-01-01"), 20.0, "hPa", 100.0),
    "temperature": ("era5_t2m_uk_2019-03.grib", ("2019-03-01", "2019-03-22"), ("2019-03-22", "2019-04-01"), 2.0, "K", 1.0),
}


def split(shared: Path, name: str, folder: Path) -> dict[str, Path]:
    """Both stretches as data sets; no state is in two of them."""
    file, learnt, measured, *_ = SETS[name]
    whole = read(shared / DATA / file)
    found = {}
    for role, (first, last) in (("train", learnt), ("test", measured)):
        part = np.flatnonzero((whole.times_t >= np.datetime64(first)) & (whole.times_t < np.datetime64(last)))
        fields = {
            channel: (("time", "latitude", "longitude"), whole.values_tchw[part, place], {"units": VARIABLES[channel].units})
            for place, channel in enumerate(whole.channels)
        }
        axes = {"time": whole.times_t[part], "latitude": whole.latitude_h, "longitude": whole.longitude_w}
        (folder / role).mkdir(parents=True)
        xr.Dataset(fields, axes).to_netcdf(folder / role / "fine.nc")
        found[role] = folder / role
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("MODELWORKS_SHARED", "../shared")))
    parser.add_argument("--set", choices=(*SETS, "both"), default="both")
    parser.add_argument("--coarsen", type=int, default=4)
    parser.add_argument("--params", type=json.loads, default={}, help="further parameters of the training, as JSON")
    given = parser.parse_args()
    held = True
    for name in SETS if given.set == "both" else (given.set,):
        with tempfile.TemporaryDirectory() as folder:
            held &= _measure(Path(folder), name, given)
    return 0 if held else 1


def _measure(folder: Path, name: str, given: argparse.Namespace) -> bool:
    *_, block_days, unit, size = SETS[name]
    data = split(given.shared, name, folder / "data")
    learning = FakeRun(folder / "train-run", datasets={"train": data["train"]})
    began = time.process_time()
    params = {"coarsen": given.coarsen, "block_days": block_days if name == "pressure" else 1.0, **given.params}
    train_downscaling(learning, DownscaleTrainParams.model_validate(params))
    cpu_s = time.process_time() - began
    model = learning.saved[0].model()
    for point in learning.logs:
        print(f"  {point.step}: {point.metrics}")
    looking = FakeRun(folder / "evaluate-run", datasets={"test": data["test"]}, models={"model": model})
    evaluate_downscaling(looking, DownscaleEvaluateParams(block_days=block_days))
    report = json.loads(next(each.path for each in looking.saved if each.path.name == REPORT).read_text())
    coarse, fine = (" x ".join(map(str, report[f"{kind}_points"])) for kind in ("coarse", "fine"))
    print(
        f"{name}: {coarse} to {fine} points, window {model.metadata['window']}, seasonal {model.metadata['seasonal']}, ", end=""
    )
    print(f"{cpu_s:.1f} CPU-s; {report['states']} states, {report['first']} to {report['last']}; RMSE in {unit}, 95 %")
    held = True
    for row in report["rows"]:
        low, high = (each / size for each in row["rmse_interval"])
        gain = ""
        if "gain" in row:
            least, most = row["gain_interval"]
            gain = f", model better by {row['gain']:.1%} [{least:.1%}, {most:.1%}]"
            held &= least > 0
        power = "/".join(f"{each:.2f}" for each in row["power_ratio"])
        print(f"  {row['method']:<10} {row['rmse'] / size:6.3f} [{low:.3f}, {high:.3f}] bias {row['bias'] / size:+.3f}", end="")
        print(f" power {power}{gain}")
    return held


if __name__ == "__main__":
    sys.exit(main())
