"""Wave heights at the Mooloolaba buoy, learnt from 2017-18, measured on January to June 2019, beside persistence.

    python benchmarks/weather_waves.py [--trees 200]

Nothing of 2019 is used in training or choice; the interval of a forecast follows the outcomes that were there when it was made.
Damped persistence is drawn to the mean of the records that were learnt.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import tempfile
from pathlib import Path

from modelworks.capabilities.weather.wave.evaluate import REPORT_FILE, evaluate_waves
from modelworks.capabilities.weather.wave.schemas import WaveEvaluateParams, WaveTrainParams
from modelworks.capabilities.weather.wave.train import train_waves
from modelworks.testing import FakeRun

DATA = Path(os.environ.get("MODELWORKS_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "11-weather"
#: Reference figures by lead time: persistence, damped persistence, LightGBM on the residual, RMSE in m.
REFERENCE = {
    1: (0.0903, 0.0900, 0.0849),
    3: (0.1268, 0.1262, 0.1228),
    6: (0.1736, 0.1727, 0.1693),
    12: (0.2408, 0.2386, 0.2347),
    24: (0.3216, 0.3147, 0.3212),
}


def reached(line: dict[str, float]) -> str:
    lead, gain = line["lead_h"], line["gain"]
    bar = {1: gain >= 0.06, 3: gain >= 0.03, 6: gain >= 0.03, 24: line["rmse_m"] <= line["damped_m"]}.get(int(lead), True)
    return ("reached" if bar else "MISSED") + ("" if 0.78 <= line["coverage"] <= 0.82 else ", interval MISSED")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trees", type=int, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with gzip.open(DATA / "waves_mooloolaba_2017-2019.csv.gz", "rt") as opened:
            lines = opened.readlines()
        for part, years in (("train", ("2017", "2018")), ("test", ("2019",))):
            (folder / part).mkdir()
            kept = [line for line in lines[1:] if line.split(" ")[0].endswith(years)]
            (folder / part / "waves.csv").write_text(lines[0] + "".join(kept))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        run = FakeRun(folder / "run", datasets={"train": folder / "train"})
        train_waves(run, WaveTrainParams.model_validate({"num_trees": arguments.trees}))
        seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
        measured = FakeRun(folder / "measured", models={"model": run.saved[-1].model()}, datasets={"test": folder / "test"})
        evaluate_waves(measured, WaveEvaluateParams())
        report = json.loads(next(each.path for each in measured.saved if each.path.name == REPORT_FILE).read_text())
    print(f"learnt {report['learnt'][0][:10]} to {report['learnt'][1][:10]}, {seconds:.0f} CPU-s; RMSE in m")
    print(
        "lead  cases  model           95 %  persist.  damped   gain  80 % holds (fixed)  width (fixed)"
        "   reference (persist., damped, LightGBM)"
    )
    for line in report["leads"]:
        low, high = line["rmse_interval_m"]
        model = f"{line['lead_h']:>3.0f}h {line['num_cases']:>6}  {line['rmse_m']:.4f} {low:.4f}-{high:.4f}"
        others = f"{line['persistence_m']:.4f}  {line['damped_m']:.4f}  {line['gain']:>5.1%}  {line['coverage']:>10.1%}"
        others += f" ({line['fixed_coverage']:.1%})  {line['mean_width_m']:.3f} ({line['fixed_width_m']:.3f})"
        print(f"{model}    {others}  {REFERENCE.get(int(line['lead_h']))}  {reached(line)}")


if __name__ == "__main__":
    main()
