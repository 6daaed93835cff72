"""GraphCast (Lam et al., Science 2023) through Google DeepMind's own package, on JAX, in the operator's interpreter.

The package is called `graphcast` up to its version 0.2 and `weathernext` after; the calls are the same. One step is computed
at a time, from two states, so that memory does not grow with their number.

Legend: S states, C channels, H latitudes from north to south, W longitudes, L levels.
"""

from __future__ import annotations

import importlib
import importlib.util
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np

from .exchange import Model, read, serve

_STEP = np.timedelta64(6, "h")
_YNNPACK = "xla_cpu_experimental_ynn_fusion_type"


def _module(name: str) -> Any:
    if importlib.util.find_spec("graphcast") is not None:
        return importlib.import_module(f"graphcast.{name}")
    return importlib.import_module(
        "weathernext.weathernext1_graph.graphcast" if name == "graphcast" else f"weathernext.utils.{name}"
    )


class _GraphCast:
    def __init__(self, given: dict[str, Any]) -> None:
        self._jax, self._xarray = importlib.import_module("jax"), importlib.import_module("xarray")
        haiku = importlib.import_module("haiku")
        graphcast, casting, normalization = (_module(name) for name in ("graphcast", "casting", "normalization"))
        self._data_utils, self._sun = _module("data_utils"), _module("solar_radiation")
        with Path(given["checkpoint"]).open("rb") as file:
            # numpy's reader, which refuses pickles unless it is asked for them.
            found = _module("checkpoint").load(file, graphcast.CheckPoint)
        self._levels, self._static_names = (
            [int(each) for each in given["levels"]],
            [str(each) for each in given["static_names"]],
        )
        self._inputs, self._targets = ([str(each) for each in given[kind]] for kind in ("inputs", "targets"))
        self._forcings, self._upper = [str(each) for each in given["forcings"]], {str(each) for each in given["upper"]}
        # The package's own rows go from south to north.
        self._coords = {
            "lat": np.array(given["latitude"], np.float32)[::-1].copy(),
            "lon": np.array(given["longitude"], np.float32),
        }
        arrays = read(given["static"])
        self._static = {name: np.array(arrays[f"static_{name}"])[::-1].copy() for name in given["static_names"]}
        mean, std, difference = (self._statistics(arrays, kind) for kind in ("mean", "std", "difference"))

        def predicted(inputs: Any, template: Any, forcings: Any) -> Any:
            network = casting.Bfloat16Cast(graphcast.GraphCast(found.model_config, found.task_config))
            whole = normalization.InputsAndResiduals(
                network, stddev_by_level=std, mean_by_level=mean, diffs_stddev_by_level=difference
            )
            return whole(inputs, targets_template=template, forcings=forcings)

        self._forward = self._jax.jit(haiku.transform(predicted).apply)
        self._params, self._random = self._jax.device_put(found.params), self._jax.random.PRNGKey(0)
        self._known: dict[Any, Any] = {}

    def _statistics(self, arrays: dict[str, Any], kind: str) -> Any:
        """One number of each variable, or one for each level."""
        fields = {}
        for key, each in arrays.items():
            name = key.removeprefix(f"{kind}_")
            if name != key:
                fields[name] = (("level",), np.array(each)) if name in self._upper else ((), np.array(each).reshape(()))
        return self._xarray.Dataset(fields, coords={"level": np.array(self._levels)})

    def _forced(self, time: Any) -> Any:
        """What time and sun alone tell, at one time, with axes batch and time."""
        if time not in self._known:
            moment = np.array([time.astype("datetime64[ns]")])
            data = self._xarray.Dataset(coords={"time": np.array([0], "timedelta64[ns]"), **self._coords})
            data = data.assign_coords(datetime=(("time",), moment))
            data["toa_incident_solar_radiation"] = self._sun.get_toa_incident_solar_radiation_for_xarray(data, use_jit=True)
            data = data.expand_dims("batch").assign_coords(datetime=(("batch", "time"), moment[None]))
            self._data_utils.add_derived_vars(data)
            # Three times are in use at once.
            self._known = {**dict(list(self._known.items())[-3:]), time: data.drop_vars("datetime")[self._forcings]}
        return self._known[time]

    def _dims(self, name: str) -> tuple[str, ...]:
        return ("batch", "time", *(("level",) if name in self._upper else ()), "lat", "lon")

    def _at(self, times: Any, offsets: Any) -> Any:
        """The forcings at these times, which become leads."""
        parts = [self._forced(each) for each in times]
        joined = parts[0] if len(parts) == 1 else self._xarray.concat(parts, dim="time")
        return joined.assign_coords(time=offsets)

    def advance(self, history_schw: Any, time: Any, step: int) -> Any:
        xarray, now, num_levels = self._xarray, time.astype("datetime64[s]"), len(self._levels)
        leads = np.array([-_STEP, np.timedelta64(0, "h")]).astype("timedelta64[ns]")
        coords = {**self._coords, "level": np.array(self._levels)}
        turned, fields, place = history_schw[:, :, ::-1], {}, 0
        for name in self._inputs:
            if name in self._upper:
                values = turned[None, :, place : place + num_levels]
                place += num_levels
            else:
                values = turned[None, :, place]
                place += 1
            fields[name] = (self._dims(name), np.ascontiguousarray(values, np.float32))
        fields |= {name: (("lat", "lon"), each) for name, each in self._static.items()}
        inputs = xarray.Dataset(fields, coords={"time": leads, **coords})
        inputs = inputs.merge(self._at([now - _STEP, now], leads))
        ahead = np.array([_STEP]).astype("timedelta64[ns]")
        empty = {
            name: np.zeros(tuple(1 if dim in ("batch", "time") else len(coords[dim]) for dim in self._dims(name)), np.float32)
            for name in self._targets
        }
        template = xarray.Dataset(
            {name: (self._dims(name), each) for name, each in empty.items()}, coords={"time": ahead, **coords}
        )
        found = self._forward(self._params, self._random, inputs, template, self._at([now + _STEP], ahead))
        found = self._jax.device_get(found)
        parts = []
        for name in self._inputs:
            values = np.asarray(found[name].transpose(*self._dims(name)).values, np.float32)[0, 0]
            parts.append(values if name in self._upper else values[None])
        return np.concatenate(parts)[:, ::-1]


def _opened(given: dict[str, Any]) -> Model:
    return _GraphCast(given)


def _without_ynnpack() -> None:
    """Keep XLA from a library of products that fails in a confined process (jaxlib 0.10.2: "unsupported parameter").

    XLA ends the process where it does not know a flag, so the flag is looked for in it.
    """
    spec = importlib.util.find_spec("jaxlib")
    for path in Path(spec.origin).parent.glob("*.so") if spec is not None and spec.origin else ():
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data.find(_YNNPACK.encode()) >= 0:
                os.environ["XLA_FLAGS"] = f"--{_YNNPACK}="


def main() -> None:
    """Serve until stdin ends."""
    _without_ynnpack()
    serve(_opened)
