"""A store of coarse states made one of fine states, step by step and member by member."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from modelworks.capabilities.weather.downscaling.model import Downscaler
from modelworks.capabilities.weather.grid.grids import Grids
from modelworks.capabilities.weather.grid.mapping import write_map
from modelworks.capabilities.weather.grid.writing import ForecastStore, Layout, write_netcdf
from modelworks.contract.run import Run

#: What a forecast's result has beside its own store, NetCDF and map.
REGION_STORE: Final = "region.zarr"
REGION_FILE: Final = "region.nc"
REGION_MAP: Final = "region-map"
SOURCE: Final = "statistical downscaling by ridge regression (Modelworks)"
REFERENCES: Final = "docs/howto/weather-downscaling.md"


def check(model: Downscaler, layout: Layout) -> None:
    """Whether the model knows such states; raises InvalidData that names the coordinate or channel."""
    size = (min(2, layout.steps), len(layout.channels), len(layout.latitude_h), len(layout.longitude_w))
    model.agreed(_grids(layout, 0, np.zeros(size, np.float32)))


def write_region(model: Downscaler, coarse: ForecastStore, folder: Path, run: Run, *, with_netcdf: bool) -> None:
    """Write the region's store, its map and, where it is wanted, its NetCDF into the folder of a forecast."""
    layout = replace(
        coarse.layout,
        channels=model.frame.channels,
        latitude_h=model.frame.latitude_h,
        longitude_w=model.frame.longitude_w,
        kinds=model.card.kinds,
        title=f"{coarse.layout.title}, downscaled",
        source=f"{coarse.layout.source}; {SOURCE}",
        references=REFERENCES,
    )
    store = ForecastStore.create(folder / REGION_STORE, layout)
    for step, member, state_chw in coarse.steps():
        run.raise_if_cancelled()
        grids = model.agreed(_grids(coarse.layout, step, state_chw[None]))
        store.write(step, model.apply(grids.values_tchw, grids.times_t)[0], member)
    if with_netcdf:
        write_netcdf(store, folder / REGION_FILE)
    write_map(store, folder / REGION_MAP)


def _grids(layout: Layout, step: int, values_tchw: np.typing.NDArray[np.float32]) -> Grids:
    times = layout.times_t[step : step + len(values_tchw)]
    return Grids(layout.channels, times, layout.latitude_h, layout.longitude_w, values_tchw, kinds=dict(layout.kinds or {}))
