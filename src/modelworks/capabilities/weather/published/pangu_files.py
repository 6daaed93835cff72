"""The files of Pangu-Weather: what they are called, declare and allow. Light: the server asks while it pulls.

Bi et al., "Accurate medium-range global weather forecasting with 3D neural networks", Nature 619 (2023). Files, names, shapes
and order of variables are told at https://github.com/198808xc/Pangu-Weather (README). The weights are CC BY-NC-SA 4.0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from modelworks.capabilities.weather.grid.vocabulary import channel
from modelworks.capabilities.weather.published.onnx_header import FLOAT32, declared
from modelworks.contract.errors import InvalidData

LICENCE: Final = "CC-BY-NC-SA-4.0"
NAME: Final = "Pangu-Weather"
#: Hours of a step that there is a file for.
STEPS: Final = (24, 6, 3, 1)
UPPER: Final = ("z", "q", "t", "u", "v")
LEVELS: Final = (1000, 925, 850, 700, 600, 500, 400, 300, 250, 200, 150, 100, 50)
SURFACE: Final = ("msl", "u10", "v10", "t2m")
CHANNELS: Final = (*(channel(name, level) for name in UPPER for level in LEVELS), *SURFACE)
#: Latitudes from 90 to -90, longitudes from 0 to 359.75.
GRID = (721, 1440)
_FILE: Final = re.compile(r"^pangu_weather_(1|3|6|24)\.onnx$")


def files_of(folder: Path) -> dict[int, Path]:
    """The files of Pangu-Weather in a folder by the hours of their step, the longest first; none where it is something else."""
    found = {int(match[1]): path for path in folder.iterdir() if (match := _FILE.match(path.name))} if folder.is_dir() else {}
    return {hours: found[hours] for hours in STEPS if hours in found}


def import_pangu(folder: Path, into: Path) -> Mapping[str, Any] | None:
    """Task and licence of fetched files of Pangu-Weather, which are kept as they are; see `contract.predictor.Importer`.

    Raises:
        InvalidData, UnsafeArtifact: a file is not what its name says; see `check_file`.
    """
    files = files_of(folder)
    for path in files.values():
        check_file(path, GRID)
    return {"task": "weather-forecast", "licence": LICENCE, "steps_h": sorted(files)} if files else None


def check_file(path: Path, grid: tuple[int, int]) -> None:
    """Hold what a file declares against the published names and shapes.

    Raises:
        InvalidData: it has other inputs or outputs; says which shape is wrong, and how.
        UnsafeArtifact: weights lie outside the file, or foreign operators are needed.
    """
    found = declared(path)
    upper, surface = (len(UPPER), len(LEVELS), *grid), (len(SURFACE), *grid)
    for kind, ours, theirs in (
        ("input", {"input": upper, "input_surface": surface}, found.inputs),
        ("output", {"output": upper, "output_surface": surface}, found.outputs),
    ):
        if set(ours) != set(theirs):
            raise InvalidData(
                f"{path.name} has the {kind}s {', '.join(sorted(theirs)) or 'none'}, and {NAME} has {', '.join(ours)}.",
                hint="Give the files as they were published, with their names.",
                code="unexpected_model",
                param=kind,
            )
        for name, shape in ours.items():
            element, sizes = theirs[name]
            # A size that is left open is held by the run itself.
            wrong = len(sizes) != len(shape) or any(have not in (0, want) for have, want in zip(sizes, shape, strict=True))
            if wrong or element != FLOAT32:
                raise InvalidData(
                    f"{name} of {path.name} is {list(sizes)} of type {element}, and "
                    f"that of {NAME} is {list(shape)} in float32.",
                    hint=f"It holds {', '.join(UPPER)} on {len(LEVELS)} levels of 1000 to 50 hPa, and {', '.join(SURFACE)}, "
                    "each from 90 to -90 degrees north and 0 to 359.75 degrees east.",
                    code="unexpected_model",
                    param=name,
                )
