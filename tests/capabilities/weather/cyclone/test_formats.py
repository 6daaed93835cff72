"""Best tracks of four formats, read to the same storms; what cannot be right is refused by line."""

from __future__ import annotations

import gzip
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.capabilities.weather.cyclone.tiny_tracks import hurdat, storms

from modelworks.capabilities.weather.cyclone.formats import parse, read_file, read_storms
from modelworks.capabilities.weather.cyclone.tracks import Fix
from modelworks.contract.errors import InvalidData

SHARED = Path(os.environ.get("MODELWORKS_SHARED") or Path(__file__).parents[5] / "shared") / "data" / "11-weather"

HURDAT = """AL062018,           FLORENCE,     2,
20180910, 1200,  , HU, 25.5N,  60.4W, 110,  946,  100,   90,   60,   90,   60,   40,   30,   60,   30,   20,   15,   20,
20180910, 1800, L, EX, 25.7S, 179.5E, -99, -999, -999, -999, -999, -999, -999, -999, -999, -999, -999, -999, -999, -999,
"""
RSMC = """66666 1501  032 0001 1501 0 6             MEKKHALA              20150217
15011300 002 2 087 1429 1006     000
15011312 002 3 086 1817 1002     035     00000 0000 80210 0150
"""
JTWC = """CY,Year,Month,Day,Hour,Lat,Lon,VMax,MSLP,SN,Cat
1,1945,4,19,12,9.5,160.3,25.0,,194501,TD
1,1945,4,19,18,9.6,159.9,90.0,960.0,194501,Cat2
"""
ATCF = """AL,06,2018091012,,BEST, 0,255N,604W,110, 946, HU, 34, NEQ, 9, 9, 6, 9, 1, 180, 15, 130, 0, L, 0, , 0, 0, FLORENCE, D,
AL, 06, 2018091018, , BEST, 0, 257N, 613W, 115, 0, HU,
AL, 06, 2018091018, 03, OFCL, 12, 263N, 636W, 120, 0, HU,
"""


def test_hurdat_has_signs_and_missing_values() -> None:
    [storm] = parse(HURDAT)
    assert (storm.id, storm.name, storm.season) == ("AL062018", "FLORENCE", 2018)
    assert storm.fixes[0] == Fix(datetime(2018, 9, 10, 12, tzinfo=UTC), 25.5, -60.4, 110.0, 946.0, "storm")
    assert storm.fixes[1] == Fix(datetime(2018, 9, 10, 18, tzinfo=UTC), -25.7, 179.5, None, None, "extratropical")


def test_rsmc_has_tenths_and_grades() -> None:
    [storm] = parse(RSMC)
    assert (storm.id, storm.name) == ("WP012015", "MEKKHALA")
    assert storm.fixes[0] == Fix(datetime(2015, 1, 13, 0, tzinfo=UTC), 8.7, 142.9, None, 1006.0, "depression")
    assert storm.fixes[1].wind_kt == 35.0
    assert storm.fixes[1].longitude == pytest.approx(-178.3)


def test_jtwc_is_a_table() -> None:
    [storm] = parse(JTWC)
    assert storm.id == "WP011945"
    assert [(fix.wind_kt, fix.pressure_hpa, fix.stage) for fix in storm.fixes] == [
        (25.0, None, "depression"),
        (90.0, 960.0, "storm"),
    ]


def test_of_a_deck_the_analysis_is_read_and_no_forecast() -> None:
    [storm] = parse(ATCF)
    assert (storm.id, storm.name) == ("AL062018", "FLORENCE")
    assert [(fix.time.hour, fix.latitude, fix.longitude, fix.pressure_hpa) for fix in storm.fixes] == [
        (12, 25.5, -60.4, 946.0),
        (18, 25.7, -61.3, None),
    ]


def test_a_folder_is_read_with_what_is_packed(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(HURDAT.encode()))
    (tmp_path / "b.csv").write_text(JTWC)
    (tmp_path / "README.md").write_text("# What this is")
    assert [storm.id for storm in read_storms(tmp_path)] == ["AL062018", "WP011945"]


def test_what_is_written_is_read_again() -> None:
    made = storms(2000, 2001)
    read = parse(hurdat(made))
    assert [(each.id, len(each.fixes)) for each in read] == [(each.id, len(each.fixes)) for each in made]
    assert [fix.latitude for fix in read[3].fixes] == [fix.latitude for fix in made[3].fixes]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing of the kind\n", "line 1: this is no format"),
        (HURDAT.replace("     2,", "     3,", 1), "line 3: the file ends where 1 more"),
        (HURDAT.replace("60.4W", "60.4"), "line 2: the longitude lacks its letter"),
        (HURDAT.replace("25.5N", "95.5N"), "line 2: no place on Earth"),
        (HURDAT.replace(" 110,", " 910,"), "line 2: a wind of 910"),
        (HURDAT.replace("20180910, 1200", "20181310, 1200"), "line 2: no time"),
        (HURDAT.replace(" 946", " nan"), "line 2: the value is no number"),
        (RSMC.replace("087 1429", "08x 1429"), "line 2: the latitude is no number"),
        (JTWC.replace("9.6,159.9", "north,159.9"), "line 3: the latitude is no number"),
        (ATCF.replace("255N", "255"), "line 1: the latitude lacks its letter"),
    ],
)
def test_faults_are_told_by_line(text: str, said: str) -> None:
    with pytest.raises(InvalidData, match=said.replace("(", r"\(")):
        parse(text, "tracks.txt")


def test_a_packed_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(b"no archive")
    with pytest.raises(InvalidData, match="cannot be unpacked"):
        read_storms(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="no cyclone tracks"):
        read_storms(tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not there: name them in MODELWORKS_SHARED")
def test_whole_archives_are_read() -> None:
    files = {
        "hurdat2_atlantic_1970-2018.txt.gz": (798, 21509),
        "typhoon_jma_rsmc_2015-2021_bst.txt.gz": (169, 6154),
        "typhoon_jtwc_wnp_1945-2015.csv.gz": (2040, 58968),
    }
    for name, counts in files.items():
        found = read_file(SHARED / name)
        assert (len(found), sum(len(storm.fixes) for storm in found)) == counts
