"""Cyclones in a gridded forecast, as a run: every state searched, centres joined to tracks, tracks saved as GeoJSON."""

from __future__ import annotations

import json
from typing import Any, Final

from modelworks.capabilities.weather.cyclone.schemas import (
    CycloneTrackInput,
    FoundTrack,
    TrackFix,
    TrackingInput,
    TrackingOutput,
)
from modelworks.capabilities.weather.cyclone.serve import TrackForecaster
from modelworks.capabilities.weather.cyclone.tracker import Centre, Found, centres, join, sources
from modelworks.capabilities.weather.grid.reading import read
from modelworks.capabilities.weather.serve import civil
from modelworks.contract.errors import InvalidRequest
from modelworks.contract.run import Run

TRACKS_FILE: Final = "tracks.geojson"
#: More than a track model looks at, and less than a request may have, of hourly fixes.
_FIXES_ASKED: Final = 100


def track_cyclones(run: Run, request: TrackingInput) -> TrackingOutput:
    """Search the grids of role "forecast", and save a folder with `tracks.geojson`, of kind "tracks".

    With a track model of role "model", the file also has how each track goes on from its last fix by that model, with cones.

    Raises:
        InvalidData: the grids cannot be read, are too coarse, or lack the pressure; or the model is no track model.
        Cancelled: the user has asked to stop.
    """
    grids = read(run.dataset("forecast").path)
    look = sources(grids.channels)
    steps: list[list[Centre]] = []
    for step in range(len(grids.times_t)):
        run.raise_if_cancelled()
        steps.append(centres(grids, step, request))
        run.progress(step + 1, len(grids.times_t), "states")
    tracks = [_told(found) for found in join(steps, request.min_duration_h)]
    notes = list(grids.notes)
    if look.vortex is None:
        notes.append("no winds near 850 hPa: vorticity was not looked at")
    if look.thickness is None:
        notes.append("no geopotential at two upper levels: whether cores are warm was not looked at")
    if look.winds is not None and look.winds[0] != "u10":
        notes.append(f"winds are those of {look.winds[0][1:]} hPa, not of 10 m")
    found = _geojson(tracks)
    if run.has_input("model"):
        ahead, more = _ahead(TrackForecaster(run.model("model")), tracks)
        found["features"] += ahead
        notes += more
    folder = run.workdir / "result"
    folder.mkdir()
    (folder / TRACKS_FILE).write_text(json.dumps(found) + "\n", "utf-8")
    run.save(folder, kind="tracks", metadata={"task": "cyclone-tracking"})
    return TrackingOutput(num_states=len(steps), num_centres=sum(map(len, steps)), tracks=tracks, notes=notes)


def _ahead(forecaster: TrackForecaster, tracks: list[FoundTrack]) -> tuple[list[dict[str, Any]], list[str]]:
    """Tracks, points and cones from the last fixes on, with the number of the track; and why a track has none."""
    features, notes = list[dict[str, Any]](), list[str]()
    for number, track in enumerate(tracks, start=1):
        try:
            answer = forecaster.predict(CycloneTrackInput(fixes=track.fixes[-_FIXES_ASKED:], formats=["geojson"]))
        except InvalidRequest as error:
            notes.append(f"track {number} is not forecast: {error.message}")
            continue
        for feature in (answer.geojson or {})["features"]:
            feature["properties"]["number"] = number
            features.append(feature)
    return features, notes


def _told(found: Found) -> FoundTrack:
    warm = [each.warm for each in found.centres if each.warm is not None]
    return FoundTrack(
        fixes=[
            TrackFix(
                time=civil(each.time),
                latitude=round(each.latitude, 3),
                longitude=round(each.longitude, 3),
                wind_kt=None if each.wind_kt is None or each.wind_kt <= 0 else round(min(each.wind_kt, 250.0), 1),
                pressure_hpa=None if each.pressure_hpa is None else round(each.pressure_hpa, 1),
            )
            for each in found.centres
        ],
        warm_core=None if not warm else sum(warm) / len(warm),
    )


def _geojson(tracks: list[FoundTrack]) -> dict[str, Any]:
    features = []
    for number, track in enumerate(tracks, start=1):
        line = [[track.fixes[0].longitude, track.fixes[0].latitude]]
        for fix in track.fixes[1:]:
            # Counted on beyond 180 rather than jumping across the map.
            line.append([fix.longitude + 360 * round((line[-1][0] - fix.longitude) / 360), fix.latitude])
        told = {"number": number, "times": [fix.time.isoformat() for fix in track.fixes]}
        told |= {name: [getattr(fix, name) for fix in track.fixes] for name in ("wind_kt", "pressure_hpa")}
        features.append({"type": "Feature", "geometry": {"type": "LineString", "coordinates": line}, "properties": told})
    return {"type": "FeatureCollection", "features": features}
