"""Answer track forecasts: a track so far in, points with cone and wind out, also as ATCF, GeoJSON and KML."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from modelworks.capabilities.weather.cyclone.features import HISTORY_H, row, starts
from modelworks.capabilities.weather.cyclone.formats import parse
from modelworks.capabilities.weather.cyclone.model import TrackModel
from modelworks.capabilities.weather.cyclone.schemas import CycloneTrackInput, CycloneTrackOutput, TrackFix, TrackPoint
from modelworks.capabilities.weather.cyclone.tracks import Fix, Storm, moved, wrapped
from modelworks.capabilities.weather.cyclone.writing import to_atcf, to_geojson, to_kml
from modelworks.contract.errors import InvalidRequest
from modelworks.contract.run import LocalModel

#: So far outside the box of the tracks that were learnt a forecast would be made of nothing.
_BEYOND_DEGREES = 10.0
#: Of the past tracks so many starts are forecast again, the latest: some two seasons, and a few seconds. Older outcomes have
#: long been outweighed.
_STARTS_FOLLOWED = 1000
_NOTICE = (
    "A statistical forecast from the track alone; it sees no weather around the storm. "
    "Warnings are given by the meteorological services."
)


class TrackForecaster:
    """Forecasts tracks from one model; may be asked from several threads.

    Raises:
        InvalidRequest: no model is given. InvalidData: it is no track model, or damaged.
    """

    def __init__(self, model: LocalModel | None, options: object = None) -> None:
        if model is None:
            raise InvalidRequest("This task needs a track model.", hint="Name one in the deployment.", param="model")
        self._model = TrackModel.load(model.path)

    def predict(self, request: CycloneTrackInput) -> CycloneTrackOutput:
        """Forecast from the last synoptic fix.

        Raises:
            InvalidRequest: fixes are missing that a forecast needs, or the storm is where the model learnt none.
            InvalidData: the text is no track.
        """
        storm = _storm(request)
        fixes = storm.synoptic()
        if not fixes:
            raise InvalidRequest("No fix is at 00, 06, 12 or 18 UTC.", hint="Give synoptic fixes.", param="fixes")
        start = fixes[max(fixes)]
        missing = [hours for hours in HISTORY_H if start.time - timedelta(hours=hours) not in fixes]
        if missing:
            raise InvalidRequest(
                f"The fixes {', '.join(str(each) for each in missing)} hours before {start.time:%Y-%m-%d %H} UTC are missing.",
                hint="A forecast needs a fix every six hours over the last day.",
                param="fixes",
            )
        self._check_place(start)
        rows_nf = np.array([row(start, fixes)])
        card = self._model.card
        cones = self._cones(storm, start, request.past_tracks)
        points = []
        for lead, (cone_km, _) in zip(card.leads, cones, strict=True):
            moves, winds = self._model.forecast(rows_nf, lead)
            latitude, longitude = moved(start.latitude, start.longitude, moves[0, 0], moves[0, 1])
            wind = None if np.isnan(winds[0]) else float(winds[0])
            points.append(
                TrackPoint(
                    lead_h=lead.lead_h,
                    time=start.time + timedelta(hours=lead.lead_h),
                    latitude=round(float(latitude), 3),
                    longitude=round(float(longitude), 3),
                    cone_km=round(cone_km, 1),
                    wind_kt=None if wind is None else round(wind, 1),
                    wind_low_kt=None if wind is None else round(max(wind - lead.wind_kt, 0.0), 1),
                    wind_high_kt=None if wind is None else round(wind + lead.wind_kt, 1),
                )
            )
        told = TrackFix(
            time=start.time,
            latitude=start.latitude,
            longitude=start.longitude,
            wind_kt=start.wind_kt,
            pressure_hpa=start.pressure_hpa,
            stage=start.stage,
        )
        found = CycloneTrackOutput(
            storm_id=storm.id,
            name=storm.name,
            start=told,
            points=points,
            coverage=card.coverage,
            cone_outcomes=cones[0][1],
            notice=_NOTICE,
        )
        for form in request.formats:
            if form == "atcf":
                found.atcf = to_atcf(found)
            elif form == "geojson":
                found.geojson = to_geojson(found)
            else:
                found.kml = to_kml(found)
        return found

    def _cones(self, storm: Storm, start: Fix, past: str | None) -> list[tuple[float, int]]:
        """Radius in km and number of outcomes followed, for each lead time."""
        card = self._model.card
        if past is None or storm.season <= card.seasons[1] or not all(lead.follows for lead in card.leads):
            return [(lead.cone_km, 0) for lead in card.leads]
        told = parse(past, "past_tracks") if past.strip() else []
        # The storm itself may be among them, under another id.
        others = [each for each in told if each.id != storm.id and not _shares(each, start)]
        known = [
            Storm(each.id, each.name, fixes)
            for each in (*others, storm)
            if (fixes := [fix for fix in each.fixes if fix.time <= start.time and self._within(fix)])
        ]
        cases = starts(known, [lead.lead_h for lead in card.leads], first=card.first, verified=card.verified).last(
            _STARTS_FOLLOWED
        )
        found = []
        for place, lead in enumerate(card.leads):
            moves = self._model.forecast(cases.rows_nf, lead)[0] if len(cases) else np.zeros((0, 2))
            found.append(self._model.cone_now(cases, place, moves, start.time))
        return found

    def _within(self, fix: Fix) -> bool:
        """Whether the place is where the model learnt tracks."""
        south, north, west, east = self._model.card.box
        along = float(wrapped(fix.longitude - self._model.card.centre))
        within = south - _BEYOND_DEGREES <= fix.latitude <= north + _BEYOND_DEGREES
        return within and west - _BEYOND_DEGREES <= along <= east + _BEYOND_DEGREES

    def _check_place(self, start: Fix) -> None:
        card = self._model.card
        south, north, west, east = card.box
        if self._within(start):
            return
        raise InvalidRequest(
            f"The storm is at latitude {start.latitude:.1f}, longitude {start.longitude:.1f}; this model learnt tracks between "
            f"latitudes {south:.0f} and {north:.0f}, longitudes {wrapped(card.centre + west):.0f} and "
            f"{wrapped(card.centre + east):.0f}.",
            hint="Deploy a model that was trained on this basin.",
            param="fixes",
        )


def _storm(request: CycloneTrackInput) -> Storm:
    if request.track is not None:
        storms = parse(request.track)
        if len(storms) != 1:
            raise InvalidRequest(f"The text holds {len(storms)} storms; give one.", param="track")
        storm = storms[0]
    else:
        fixes = {}
        for each in request.fixes:
            time = each.time.replace(tzinfo=UTC) if each.time.tzinfo is None else each.time.astimezone(UTC)
            longitude = round(float(wrapped(each.longitude)), 4)
            fixes[time] = Fix(time, each.latitude, longitude, each.wind_kt, each.pressure_hpa, each.stage)
        storm = Storm(_unnamed(max(fixes)), None, [fixes[time] for time in sorted(fixes)])
    if request.storm_id is not None:
        storm.id = request.storm_id
    if request.name is not None:
        storm.name = request.name
    return storm


def _shares(storm: Storm, start: Fix) -> bool:
    return any((fix.time, fix.latitude, fix.longitude) == (start.time, start.latitude, start.longitude) for fix in storm.fixes)


def _unnamed(time: datetime) -> str:
    """An id for a storm that has none: the number of tests in ATCF."""
    return f"XX80{time.year}"
