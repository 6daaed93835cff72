"""Records of buoys: dates in either order, holes, signs for missing; what cannot be is refused by line."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from modelworks.capabilities.weather.wave.records import gridded, read_series
from modelworks.contract.errors import InvalidData

SHARED = Path(os.environ.get("MODELWORKS_SHARED") or Path(__file__).parents[5] / "shared") / "data" / "11-weather"
HEAD = "Date/Time,Hs,Hmax,Tz,Tp,Peak Direction,SST\n"


def read(folder: Path, text: str) -> object:
    (folder / "waves.csv").write_text(text)
    return read_series(folder)


def test_days_and_months_stand_in_the_order_in_which_time_goes_on(tmp_path: Path) -> None:
    start = datetime(2018, 12, 30, tzinfo=UTC)
    lines = []
    for index in range(24 * 20):
        time = start + timedelta(hours=index)
        # As an agency did: months first until the end of the year, days first from then on.
        form = "{0.month}/{0.day}/{0.year} {0:%H:%M}" if time.year == 2018 else "{0.day}/{0.month}/{0.year} {0:%H:%M}"
        lines.append(form.format(time) + f",{1 + index / 1000:.3f},,,,,")
    series = read(tmp_path, HEAD + "\n".join(lines) + "\n")
    assert (series.start, series.step_s, len(series)) == (start, 3600, 480)
    assert np.allclose(series.hs, 1 + np.arange(480) / 1000)


def test_holes_and_missing_values_are_told_apart_from_heights(tmp_path: Path) -> None:
    series = read(
        tmp_path, HEAD + "2019-01-01T00:00,1.0,-99.9,5,6,90,25\n2019-01-01T00:30,,2,5,6,90,25\n2019-01-01T01:30,1.2,2,5,6,,25\n"
    )
    assert series.step_s in (1800, 3600)
    series = read(
        tmp_path,
        HEAD
        + "".join(
            f"2019-01-01T{hour:02d}:00Z,{'-99.9' if hour == 2 else 1 + hour},-99.9,5,6,90,25\n" for hour in (0, 1, 2, 3, 6)
        ),
    )
    assert np.array_equal(series.hs, [1, 2, np.nan, 4, np.nan, np.nan, 7], equal_nan=True)
    assert np.isnan(series.values_nc[:, 1]).all()


def test_a_record_goes_to_the_nearest_step() -> None:
    start = datetime(2020, 1, 1, tzinfo=UTC)
    times = [start + timedelta(minutes=minutes) for minutes in (0, 31, 59, 120)]
    series = gridded(times, np.array([[1.0], [2.0], [3.0], [4.0]]), 1800)
    assert np.array_equal(series.hs, [1, 2, 3, np.nan, 4], equal_nan=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "line 1: no column for the time"),
        ("Date/Time,height\n2019-01-01T00:00,2\n", "line 1: no column for Hs"),
        (HEAD + "2019-01-01T00:00,45,1,1,1,1,1\n", "line 2: hs_m is 45.0, which cannot be"),
        (HEAD + "2019-01-01T00:00,1,1,1,1,400,1\n", "line 2: direction_deg is 400.0"),
        (HEAD + "yesterday,1,1,1,1,1,1\n", "line 2: no time: 'yesterday'"),
        (HEAD + "2019-01-01T00:00,much,1,1,1,1,1\n", "line 2: could not convert"),
        (HEAD + "2019-01-01T00:00\n", "line 2: list index"),
        (HEAD + "1719-01-01T00:00,1,1,1,1,1,1\n" + "2019-01-01T00:00,1,1,1,1,1,1\n2019-01-01T00:30,1,1,1,1,1,1\n", "span"),
        (HEAD, "no records of waves"),
    ],
)
def test_faults_are_told_by_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidData, match=said):
        read(tmp_path, text)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not there: name them in MODELWORKS_SHARED")
def test_thirty_months_of_a_buoy_lie_half_an_hour_apart() -> None:
    series = read_series(SHARED / "waves_mooloolaba_2017-2019.csv.gz")
    assert (series.start, series.step_s, len(series)) == (datetime(2017, 1, 1, tzinfo=UTC), 1800, 43728)
    assert np.isnan(series.hs).sum() == 85
