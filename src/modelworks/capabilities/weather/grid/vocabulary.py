"""One vocabulary of variables, with what CF, GRIB and ERA5's files call them. Light.

A channel is one field of a state: a variable at the surface (`msl`), or one on a level (`z500`, hPa). Names are ECMWF's short
names as ERA5's NetCDF files write them, so that they can be identifiers.

Sources: CF standard name table; ECMWF parameter database (param ids, short names); WMO FM 92 GRIB2, code table 4.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

#: Standard gravity, m s-2 (WMO): geopotential is geopotential height times this.
GRAVITY = 9.80665

_CHANNEL = re.compile(r"^([a-z][a-z0-9]*?)(\d+(?:\.\d+)?)?$")


@dataclass(frozen=True, slots=True)
class Variable:
    """A quantity, what others call it, and between which values it lies on Earth (in `units`)."""

    name: str
    standard_name: str
    units: str
    #: GRIB short name, where it is not `name`.
    grib: str
    param_id: int
    #: Names in files: ERA5's long names (CDS, WeatherBench), model output, reanalyses.
    aliases: tuple[str, ...]
    lowest: float
    highest: float
    on_levels: bool = False
    #: Sums over an interval (rain), not values of an instant.
    accumulated: bool = False


def _v(
    name: str,
    standard_name: str,
    units: str,
    grib: str,
    param_id: int,
    aliases: str,
    span: tuple[float, float],
    *,
    on_levels: bool = False,
    accumulated: bool = False,
) -> Variable:
    return Variable(name, standard_name, units, grib, param_id, tuple(aliases.split()), *span, on_levels, accumulated)


VARIABLES: Mapping[str, Variable] = MappingProxyType(
    {
        each.name: each
        for each in (
            _v("msl", "air_pressure_at_mean_sea_level", "Pa", "msl", 151,
               "mean_sea_level_pressure prmsl mslet psl slp mslp", (85_000, 110_000)),
            _v("sp", "surface_air_pressure", "Pa", "sp", 134, "surface_pressure ps", (45_000, 110_000)),
            _v("t2m", "air_temperature", "K", "2t", 167, "2m_temperature tas t2 2t", (170, 340)),
            _v("d2m", "dew_point_temperature", "K", "2d", 168, "2m_dewpoint_temperature 2d", (150, 325)),
            _v("u10", "eastward_wind", "m s-1", "10u", 165, "10m_u_component_of_wind uas 10u", (-120, 120)),
            _v("v10", "northward_wind", "m s-1", "10v", 166, "10m_v_component_of_wind vas 10v", (-120, 120)),
            _v("u100m", "eastward_wind", "m s-1", "100u", 228246, "100m_u_component_of_wind 100u u100", (-150, 150)),
            _v("v100m", "northward_wind", "m s-1", "100v", 228247, "100m_v_component_of_wind 100v v100", (-150, 150)),
            _v("sst", "sea_surface_temperature", "K", "sst", 34, "sea_surface_temperature tos", (265, 315)),
            _v("tcwv", "atmosphere_mass_content_of_water_vapor", "kg m-2", "tcwv", 137,
               "total_column_water_vapour prw", (0, 130)),
            _v("tcc", "cloud_area_fraction", "1", "tcc", 164, "total_cloud_cover clt", (-0.01, 1.01)),
            _v("tp", "lwe_thickness_of_precipitation_amount", "m", "tp", 228, "total_precipitation",
               (-1e-4, 3), accumulated=True),
            # Of six hours and no others: hourly sums under this name would be believed.
            _v("tp6h", "lwe_thickness_of_precipitation_amount", "m", "tp", 228, "total_precipitation_6hr",
               (-1e-4, 3), accumulated=True),
            _v("ssrd", "surface_downwelling_shortwave_flux_in_air", "J m-2", "ssrd", 169,
               "surface_solar_radiation_downwards", (-1e4, 5e7), accumulated=True),
            _v("tcw", "atmosphere_mass_content_of_water", "kg m-2", "tcw", 136, "total_column_water", (0, 160)),
            _v("skt", "surface_temperature", "K", "skt", 235, "skin_temperature", (150, 370)),
            _v("stl1", "soil_temperature", "K", "stl1", 139, "soil_temperature_level_1", (150, 370)),
            _v("stl2", "soil_temperature", "K", "stl2", 170, "soil_temperature_level_2", (150, 370)),
            _v("swvl1", "volume_fraction_of_condensed_water_in_soil", "1", "swvl1", 39, "volumetric_soil_water_layer_1",
               (-0.1, 1.1)),
            _v("swvl2", "volume_fraction_of_condensed_water_in_soil", "1", "swvl2", 40, "volumetric_soil_water_layer_2",
               (-0.1, 1.1)),
            _v("swh", "sea_surface_wave_significant_height", "m", "swh", 140229,
               "significant_height_of_combined_wind_waves_and_swell hs htsgw htsgwsfc vhm0", (-0.01, 40)),
            _v("mp2", "sea_surface_wave_mean_period_from_variance_spectral_density_second_frequency_moment", "s", "mp2",
               140221, "mean_zero_crossing_wave_period t02 vtm02", (-0.01, 60)),
            _v("mwp", "sea_surface_wave_mean_period_from_variance_spectral_density_inverse_frequency_moment", "s", "mwp",
               140232, "mean_wave_period t0m1 vtm10", (-0.01, 60)),
            _v("pp1d", "sea_surface_wave_period_at_variance_spectral_density_maximum", "s", "pp1d", 140231,
               "peak_wave_period perpw perpwsfc vtpk", (-0.01, 60)),
            _v("zs", "surface_geopotential", "m2 s-2", "z", 129, "orography_geopotential geopotential_at_surface",
               (-8_000, 90_000)),
            _v("lsm", "land_binary_mask", "1", "lsm", 172, "land_sea_mask sftlf", (-0.01, 1.01)),
            _v("z", "geopotential", "m2 s-2", "z", 129, "geopotential", (-12_000, 500_000), on_levels=True),
            _v("t", "air_temperature", "K", "t", 130, "temperature ta", (150, 340), on_levels=True),
            _v("u", "eastward_wind", "m s-1", "u", 131, "u_component_of_wind ua", (-200, 200), on_levels=True),
            _v("v", "northward_wind", "m s-1", "v", 132, "v_component_of_wind va", (-200, 200), on_levels=True),
            _v("w", "lagrangian_tendency_of_air_pressure", "Pa s-1", "w", 135, "vertical_velocity omega wap",
               (-60, 60), on_levels=True),
            _v("q", "specific_humidity", "kg kg-1", "q", 133, "specific_humidity hus", (-1e-3, 0.06), on_levels=True),
            _v("r", "relative_humidity", "%", "r", 157, "relative_humidity hur", (-10, 180), on_levels=True),
        )
    }
)  # fmt: skip

#: Height that is to be multiplied by gravity: geopotential height, and the height of the ground.
HEIGHTS: Mapping[str, str] = MappingProxyType({"gh": "z", "zg": "z", "geopotential_height": "z", "hgt": "z", "orog": "zs"})

#: unit -> (unit of the vocabulary, factor, offset): value * factor + offset.
_UNITS: Mapping[str, tuple[str, float, float]] = MappingProxyType(
    {
        "pa": ("Pa", 1.0, 0.0),
        "hpa": ("Pa", 100.0, 0.0),
        "mbar": ("Pa", 100.0, 0.0),
        "mb": ("Pa", 100.0, 0.0),
        "millibar": ("Pa", 100.0, 0.0),
        "millibars": ("Pa", 100.0, 0.0),
        "kpa": ("Pa", 1000.0, 0.0),
        "k": ("K", 1.0, 0.0),
        "kelvin": ("K", 1.0, 0.0),
        "degk": ("K", 1.0, 0.0),
        "degc": ("K", 1.0, 273.15),
        "c": ("K", 1.0, 273.15),
        "celsius": ("K", 1.0, 273.15),
        "degree_celsius": ("K", 1.0, 273.15),
        "degrees_celsius": ("K", 1.0, 273.15),
        "degf": ("K", 5 / 9, 273.15 - 32 * 5 / 9),
        "ms-1": ("m s-1", 1.0, 0.0),
        "m/s": ("m s-1", 1.0, 0.0),
        "knot": ("m s-1", 1852 / 3600, 0.0),
        "knots": ("m s-1", 1852 / 3600, 0.0),
        "kt": ("m s-1", 1852 / 3600, 0.0),
        "km/h": ("m s-1", 1 / 3.6, 0.0),
        "m2s-2": ("m2 s-2", 1.0, 0.0),
        "m**2s**-2": ("m2 s-2", 1.0, 0.0),
        "m^2/s^2": ("m2 s-2", 1.0, 0.0),
        "kgkg-1": ("kg kg-1", 1.0, 0.0),
        "kg/kg": ("kg kg-1", 1.0, 0.0),
        "g/kg": ("kg kg-1", 1e-3, 0.0),
        "gkg-1": ("kg kg-1", 1e-3, 0.0),
        "m": ("m", 1.0, 0.0),
        "s": ("s", 1.0, 0.0),
        "sec": ("s", 1.0, 0.0),
        "mm": ("m", 1e-3, 0.0),
        "kgm-2": ("kg m-2", 1.0, 0.0),
        "jm-2": ("J m-2", 1.0, 0.0),
        "pas-1": ("Pa s-1", 1.0, 0.0),
        "m3m-3": ("1", 1.0, 0.0),
        "pa/s": ("Pa s-1", 1.0, 0.0),
        "%": ("%", 1.0, 0.0),
        "1": ("1", 1.0, 0.0),
        "(0-1)": ("1", 1.0, 0.0),
        "0-1": ("1", 1.0, 0.0),
    }
)

_BY_NAME: dict[str, str] = {}
for _each in VARIABLES.values():
    for _name in (_each.name, *_each.aliases):
        _BY_NAME.setdefault(_name, _each.name)
#: Layers of the ground share their standard names with layers that are not here.
_BY_NAME_ALONE = ("skt", "stl1", "stl2", "swvl1", "swvl2")
_BY_STANDARD: dict[tuple[str, bool], str] = {}
for _each in VARIABLES.values():
    if _each.name in _BY_NAME_ALONE:
        continue
    _BY_STANDARD.setdefault((_each.standard_name, _each.on_levels), _each.name)


def known_name(name: str, standard_name: str | None, *, has_levels: bool) -> str | None:
    """The vocabulary's name of a variable in a file, or None. The name decides before the CF standard name does."""
    lowered = name.lower()
    found = HEIGHTS.get(lowered) or _BY_NAME.get(lowered)
    if found is None and standard_name:
        found = HEIGHTS.get(standard_name) or ("zs" if standard_name == "surface_altitude" else None)
        found = found or _BY_STANDARD.get((standard_name, has_levels))
    if found == "z" and not has_levels:
        return "zs"
    return found


def is_height(name: str, standard_name: str | None) -> bool:
    """Whether it is a height in metres, where the vocabulary has a geopotential."""
    return name.lower() in HEIGHTS or standard_name in {*HEIGHTS, "surface_altitude"}


def conversion(units: str) -> tuple[str, float, float] | None:
    """The vocabulary's unit for one as files write it, with factor and offset; None where it is unknown."""
    plain = re.sub(r"[\s._]+", "", units.strip().lower()).replace("**", "") if "degree" not in units.lower() else units.lower()
    plain = plain.replace("^", "")
    return _UNITS.get(plain) or _UNITS.get(units.strip().lower())


def channel(name: str, level_hpa: float | None = None) -> str:
    """The name of a channel: `msl`, `z500`."""
    return name if level_hpa is None else f"{name}{level_hpa:g}"


def parts(channel_name: str) -> tuple[str, float | None]:
    """Variable and level (hPa) of a channel's name. A name that the vocabulary does not have is a variable of its own."""
    if channel_name in VARIABLES:
        return channel_name, None
    match = _CHANNEL.match(channel_name)
    if match and match[2] and match[1] in VARIABLES and VARIABLES[match[1]].on_levels:
        return match[1], float(match[2])
    return channel_name, None
