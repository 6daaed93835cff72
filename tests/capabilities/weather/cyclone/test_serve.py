"""A track forecast as it is asked for and answered, in every form."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.capabilities.weather.cyclone.tiny_tracks import hurdat, storms

from modelworks.capabilities.weather.cyclone.formats import parse
from modelworks.capabilities.weather.cyclone.schemas import CycloneTrackInput
from modelworks.capabilities.weather.cyclone.serve import TrackForecaster
from modelworks.capabilities.weather.cyclone.tracks import distance_km
from modelworks.contract.errors import InvalidData, InvalidRequest
from modelworks.testing import FakeRun

KML = "{http://www.opengis.net/kml/2.2}"


@pytest.fixture
def forecaster(trained_tracks: FakeRun) -> TrackForecaster:
    return TrackForecaster(trained_tracks.saved[-1].model())


def going_west(count: int = 5, **changes: Any) -> dict[str, Any]:
    fixes = [
        {
            "time": f"2010-09-0{1 + (6 * i) // 24}T{(6 * i) % 24:02d}:00:00Z",
            "latitude": 14 + 0.2 * i,
            "longitude": -50 - i,
            "wind_kt": 50 + i,
        }
        for i in range(count)
    ]
    return {"fixes": fixes, **changes}


def test_a_forecast_goes_on_from_the_last_fix(forecaster: TrackForecaster) -> None:
    found = forecaster.predict(CycloneTrackInput.model_validate(going_west(name="EXAMPLE", storm_id="AL072010")))
    assert (found.storm_id, found.name, found.start.time) == ("AL072010", "EXAMPLE", datetime(2010, 9, 2, tzinfo=UTC))
    assert [point.lead_h for point in found.points] == [24, 48]
    assert [point.time.day for point in found.points] == [3, 4]
    here = (found.points[0].latitude, found.points[0].longitude)
    assert distance_km(*here, 14.8 + 0.8, -54 - 4) < 300
    assert found.points[1].cone_km > found.points[0].cone_km > 0
    point = found.points[0]
    assert point.wind_kt is not None
    assert point.wind_low_kt < point.wind_kt < point.wind_high_kt
    assert (found.atcf, found.geojson, found.kml) == (None, None, None)


def test_a_track_without_winds_is_forecast_without_winds(forecaster: TrackForecaster) -> None:
    asked = going_west()
    for fix in asked["fixes"]:
        del fix["wind_kt"]
    found = forecaster.predict(CycloneTrackInput.model_validate(asked))
    assert all(point.wind_kt is None and point.latitude for point in found.points)


def test_text_of_an_agency_is_the_same_track(forecaster: TrackForecaster) -> None:
    [storm] = storms(2011, 2011, per_season=1, seed=5)
    fixes = [
        {
            "time": fix.time.isoformat(),
            "latitude": fix.latitude,
            "longitude": fix.longitude,
            "wind_kt": fix.wind_kt,
            "pressure_hpa": round(fix.pressure_hpa or 0),
            "stage": "storm",
        }
        for fix in storm.fixes
    ]
    by_text = forecaster.predict(CycloneTrackInput(track=hurdat([storm])))
    by_fixes = forecaster.predict(CycloneTrackInput.model_validate({"fixes": fixes}))
    assert by_text.points == by_fixes.points
    assert by_text.storm_id == "AL012011"


def test_every_form_says_the_same(forecaster: TrackForecaster) -> None:
    asked = going_west(formats=["atcf", "geojson", "kml"], name="A <B>", storm_id="AL072010")
    found = forecaster.predict(CycloneTrackInput.model_validate(asked))
    lines = (found.atcf or "").splitlines()
    assert lines[0] == "AL, 07, 2010090200, 03, MWTK,   0, 148N,  540W,  54,    0, XX,"
    assert [line.split(",")[5].strip() for line in lines] == ["0", "24", "48"]
    # Our own reader takes the analysis, and no forecast.
    assert len(parse(found.atcf or "")[0].fixes) == 1
    assert found.geojson is not None
    features: Any = found.geojson["features"]
    assert [each["geometry"]["type"] for each in features] == ["LineString", "Point", "Polygon", "Point", "Polygon"]
    ring = features[2]["geometry"]["coordinates"][0]
    assert ring[0] == ring[-1]
    area = sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring))
    assert area > 0, "rings run anticlockwise"
    centre = features[1]["geometry"]["coordinates"]
    assert distance_km(centre[1], centre[0], ring[7][1], ring[7][0]) == pytest.approx(found.points[0].cone_km, rel=1e-6)
    root = ElementTree.fromstring(found.kml or "")
    assert root.find(f"{KML}Document/{KML}name").text == "A <B>"
    assert len(root.findall(f"{KML}Document/{KML}Placemark")) == 5


def test_what_is_missing_is_named(forecaster: TrackForecaster) -> None:
    asked = going_west()
    del asked["fixes"][1]
    with pytest.raises(InvalidRequest, match="18 hours before 2010-09-02 00 UTC"):
        forecaster.predict(CycloneTrackInput.model_validate(asked))
    with pytest.raises(InvalidRequest, match="12, 18, 24 hours before"):
        forecaster.predict(CycloneTrackInput.model_validate(going_west(2)))
    asked = going_west()
    for fix in asked["fixes"]:
        fix["time"] = fix["time"].replace(":00:00Z", ":30:00Z")
    with pytest.raises(InvalidRequest, match="No fix is at 00, 06, 12 or 18 UTC"):
        forecaster.predict(CycloneTrackInput.model_validate(asked))


def test_a_storm_of_another_ocean_is_refused(forecaster: TrackForecaster) -> None:
    asked = going_west()
    for fix in asked["fixes"]:
        fix["longitude"] += 180
    with pytest.raises(InvalidRequest, match=r"longitude 126\.0; this model learnt tracks between"):
        forecaster.predict(CycloneTrackInput.model_validate(asked))


def test_two_storms_in_a_text_are_refused(forecaster: TrackForecaster) -> None:
    with pytest.raises(InvalidRequest, match="holds 2 storms"):
        forecaster.predict(CycloneTrackInput(track=hurdat(storms(2011, 2011, per_season=2))))
    with pytest.raises(InvalidData, match="no format of tracks"):
        forecaster.predict(CycloneTrackInput(track="somewhere in the Atlantic"))


def test_a_model_is_needed() -> None:
    with pytest.raises(InvalidRequest, match="needs a track model"):
        TrackForecaster(None)
