"""A track forecast in the forms that other programs read: ATCF's a-deck, GeoJSON (RFC 7946) and KML 2.2."""

from __future__ import annotations

from typing import Any, Final
from xml.sax.saxutils import escape

from modelworks.capabilities.weather.cyclone.schemas import CycloneTrackOutput
from modelworks.capabilities.weather.cyclone.tracks import circle

#: The technique under which ATCF knows our forecasts.
TECHNIQUE: Final = "MWTK"


def to_atcf(track: CycloneTrackOutput) -> str:
    """Lines of an a-deck, the analysis (tau 0) first: tenths of degrees, knots, hPa; see NRL's abdeck.txt."""
    basin, number = track.storm_id[:2], track.storm_id[2:4]
    start = track.start
    rows = [(0, start.latitude, start.longitude, start.wind_kt, start.pressure_hpa)]
    rows += [(point.lead_h, point.latitude, point.longitude, point.wind_kt, None) for point in track.points]
    lines = []
    for lead_h, latitude, longitude, wind, pressure in rows:
        lines.append(
            f"{basin}, {number}, {start.time:%Y%m%d%H}, 03, {TECHNIQUE}, {lead_h:3d}, "
            f"{_tenths(latitude, 'N', 'S', 3)}, {_tenths(longitude, 'E', 'W', 4)}, "
            f"{round(wind or 0):3d}, {round(pressure or 0):4d}, XX,"
        )
    return "\n".join(lines) + "\n"


def to_geojson(track: CycloneTrackOutput) -> dict[str, Any]:
    """The track as a line, its points, and the cone's circle at each lead time. Longitudes may go beyond 180."""
    line = [[track.start.longitude, track.start.latitude]]
    for point in track.points:
        line.append([_near(point.longitude, line[-1][0]), point.latitude])
    features = [_feature({"type": "LineString", "coordinates": line}, kind="track", name=track.name, storm_id=track.storm_id)]
    for point, place in zip(track.points, line[1:], strict=True):
        told = {"lead_h": point.lead_h, "time": point.time.isoformat(), "wind_kt": point.wind_kt}
        features.append(_feature({"type": "Point", "coordinates": place}, kind="point", **told))
        # GeoJSON's rings run anticlockwise; ours begins in the north and goes east.
        ring = [[longitude, latitude] for latitude, longitude in reversed(circle(place[1], place[0], point.cone_km))]
        features.append(_feature({"type": "Polygon", "coordinates": [ring]}, kind="cone", coverage=track.coverage, **told))
    return {"type": "FeatureCollection", "features": features}


def to_kml(track: CycloneTrackOutput) -> str:
    """The same for globes: a line, a placemark and a circle for each lead time."""
    name = escape(track.name or track.storm_id)
    marks = []
    for feature in to_geojson(track)["features"]:
        geometry, told = feature["geometry"], feature["properties"]
        if geometry["type"] == "LineString":
            marks.append(
                _mark("track", f"<LineString><tessellate>1</tessellate>{_coordinates(geometry['coordinates'])}</LineString>")
            )
        elif geometry["type"] == "Point":
            wind = "" if told["wind_kt"] is None else f", {told['wind_kt']:.0f} kt"
            when = f"<TimeStamp><when>{told['time']}</when></TimeStamp>"
            marks.append(_mark(f"+{told['lead_h']} h{wind}", f"{when}<Point>{_coordinates([geometry['coordinates']])}</Point>"))
        else:
            ring = f"<LinearRing>{_coordinates(geometry['coordinates'][0])}</LinearRing>"
            shape = f"<Polygon><tessellate>1</tessellate><outerBoundaryIs>{ring}</outerBoundaryIs></Polygon>"
            marks.append(_mark(f"{told['coverage']:.0%} +{told['lead_h']} h", shape))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<kml xmlns="http://www.opengis.net/kml/2.2"><Document>'
        f"<name>{name}</name><description>{escape(track.notice)}</description>{''.join(marks)}</Document></kml>\n"
    )


def _feature(geometry: dict[str, Any], **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def _mark(name: str, shape: str) -> str:
    return f"<Placemark><name>{escape(name)}</name>{shape}</Placemark>"


def _coordinates(places: list[list[float]]) -> str:
    return f"<coordinates>{' '.join(f'{longitude:.4f},{latitude:.4f},0' for longitude, latitude in places)}</coordinates>"


def _near(longitude: float, other: float) -> float:
    """The same meridian, counted so that it is at most half a turn from the other one."""
    return longitude + 360 * round((other - longitude) / 360)


def _tenths(degrees: float, positive: str, negative: str, width: int) -> str:
    tenths = round(degrees * 10)
    return f"{abs(tenths):{width}d}{positive if tenths >= 0 else negative}"
