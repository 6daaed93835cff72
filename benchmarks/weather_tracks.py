"""Tracks of tropical cyclones on seasons that were not learnt, beside persistence and the reference figures.

    python benchmarks/weather_tracks.py [--basin atlantic|pacific] [--trees 400]

Atlantic: HURDAT2, learnt until 2013, measured on 2014-18; starts and verifications are tropical or subtropical systems.
West Pacific: JTWC until 2014 and RSMC Tokyo 2015-19 learnt, RSMC Tokyo 2020-21 measured; starts are at least tropical storms,
verified while there is a fix. Every start has fixes over 24 hours; persistence goes on as the storm did for twelve hours; all
are held against the same cases. Nothing of the test seasons is used in training or choice; the cone follows those outcomes
that were known before a forecast's start, beside the fixed one, which stays as it was learnt.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

from modelworks.capabilities.weather.cyclone.evaluate import REPORT_FILE, evaluate_tracks
from modelworks.capabilities.weather.cyclone.schemas import CycloneEvaluateParams, CycloneTrainParams
from modelworks.capabilities.weather.cyclone.train import train_tracks
from modelworks.testing import FakeRun

DATA = Path(os.environ.get("MODELWORKS_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "11-weather"
NAUTICAL = 1.852
#: By basin: unit in km, its name, and per lead the bar and the reference's persistence.
BARS = {
    "atlantic": (NAUTICAL, "nautical miles", {24: 87, 48: 216, 72: 334}, {24: 108, 48: 262, 72: 428}),
    "pacific": (1.0, "km", {24: 207, 48: 515, 72: 792}, {24: 227, 48: 578, 72: 927}),
}


def blocks(lines: list[str], starts: tuple[str, ...]) -> Iterator[list[str]]:
    """Storms of a best track file, each with its first line."""
    block: list[str] = []
    for line in lines:
        if line.startswith(starts) and block:
            yield block
            block = []
        block.append(line)
    yield block


def unpacked(name: str) -> list[str]:
    with gzip.open(DATA / name, "rt", encoding="latin-1") as opened:
        return opened.readlines()


def write(basin: str, folder: Path) -> tuple[Path, Path]:
    train, test = folder / "train", folder / "test"
    for each in (train, test):
        each.mkdir(parents=True)
    if basin == "atlantic":
        storms = list(blocks(unpacked("hurdat2_atlantic_1970-2018.txt.gz"), ("AL",)))
        for part, wanted in ((train, lambda year: year <= 2013), (test, lambda year: year >= 2014)):
            (part / "hurdat2.txt").write_text("".join(line for storm in storms if wanted(int(storm[0][4:8])) for line in storm))
        return train, test
    storms = list(blocks(unpacked("typhoon_jma_rsmc_2015-2021_bst.txt.gz"), ("66666",)))
    for part, wanted in ((train, lambda year: year <= 19), (test, lambda year: year >= 20)):
        (part / "rsmc.txt").write_text("".join(line for storm in storms if wanted(int(storm[0][6:8])) for line in storm))
    table = unpacked("typhoon_jtwc_wnp_1945-2015.csv.gz")
    (train / "jtwc.csv").write_text(table[0] + "".join(line for line in table[1:] if int(line.split(",")[1]) <= 2014))
    return train, test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--basin", choices=(*BARS, "both"), default="both")
    parser.add_argument("--trees", type=int, default=None)
    parser.add_argument("--leads", type=int, nargs="+", default=[12, 24, 36, 48, 60, 72])
    arguments = parser.parse_args()
    for basin in BARS if arguments.basin == "both" else (arguments.basin,):
        unit, unit_name, bars, reference = BARS[basin]
        # In the Pacific the last five seasons are those of the agency that the test is held against.
        rules = {} if basin == "atlantic" else {"first": "storm", "verified": "any", "cone_seasons": 5}
        params = CycloneTrainParams.model_validate({"leads_h": arguments.leads, "num_trees": arguments.trees, **rules})
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            train, test = write(basin, folder / "data")
            before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
            run = FakeRun(folder / "train", datasets={"train": train})
            train_tracks(run, params)
            seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
            measured = FakeRun(folder / "test", models={"model": run.saved[-1].model()}, datasets={"test": test})
            evaluate_tracks(measured, CycloneEvaluateParams())
            report = json.loads(next(each.path for each in measured.saved if each.path.name == REPORT_FILE).read_text())
            size = sum(path.stat().st_size for path in run.saved[-1].path.rglob("*"))
        print(
            f"\n{basin}: seasons {report['seasons']}, learnt {report['learnt_seasons']}, {seconds:.0f} CPU-s, {size >> 20} MiB"
        )
        print(
            f"{'lead':>5} {'cases':>6} {'error':>7} {'95 %':>15} {'persist.':>9} {'gain':>6} {'bar':>5} {'ref. persist.':>13}",
            end="",
        )
        print(f" {'cone':>6} {'inside':>7} {'fixed':>6} {'inside':>7} {'wind kt':>8} {'still':>6}   ({unit_name})")
        for line in report["leads"]:
            lead, (low, high) = line["lead_h"], line["error_interval_km"]
            bar, wanted = bars.get(lead), reference.get(lead)
            verdict = "" if bar is None else ("  reached" if line["error_km"] / unit <= bar else "  MISSED")
            print(
                f"{lead:>4}h {line['num_cases']:>6} {line['error_km'] / unit:>7.1f} {low / unit:>7.1f}-{high / unit:<7.1f}"
                f" {line['persistence_km'] / unit:>9.1f} {line['gain']:>6.1%} {bar or '':>5} {wanted or '':>13}"
                f" {line['cone_km'] / unit:>6.0f} {line['cone_coverage']:>7.1%} {line['fixed_cone_km'] / unit:>6.0f}"
                f" {line['fixed_cone_coverage']:>7.1%} {line['wind_error_kt']:>8.1f}"
                f" {line['wind_persistence_kt']:>6.1f}{verdict}"
            )
        cases = sum(line["num_cases"] for line in report["leads"])
        inside, fixed = (
            sum(line[name] * line["num_cases"] for line in report["leads"]) / cases
            for name in ("cone_coverage", "fixed_cone_coverage")
        )
        print(f"cone over all lead times: {inside:.1%} inside (bar 67 ± 3 %); fixed {fixed:.1%}")


if __name__ == "__main__":
    main()
