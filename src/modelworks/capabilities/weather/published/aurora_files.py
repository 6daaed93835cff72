"""The files of Aurora: what they are called, hold and allow. Light: the server asks while it pulls.

Bodnar et al., "A foundation model for the Earth system", arXiv 2405.13063. Names of checkpoints, variables and levels are those
of the package `microsoft-aurora` 2.0.1 and its documentation; the published weights are under the MIT licence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from modelworks.capabilities.weather.grid.vocabulary import channel
from modelworks.capabilities.weather.published.safetensors_header import shapes_of
from modelworks.contract.errors import InvalidData

LICENCE: Final = "MIT"
NAME: Final = "Aurora"
STATIC: Final = "static.nc"
STATIC_VARIABLES: Final = ("lsm", "z", "slt")
#: The package's name and ours.
SURFACE: Final = MappingProxyType({"2t": "t2m", "10u": "u10", "10v": "v10", "msl": "msl"})
UPPER: Final = ("z", "u", "v", "t", "q")
LEVELS: Final = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
CHANNELS: Final = (*SURFACE.values(), *(channel(name, level) for name in UPPER for level in LEVELS))
HISTORY: Final = 2


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A published checkpoint.

    Attributes:
        class_name: of the package.
        rows: latitudes from 90 degrees southwards, without the south pole.
        width: numbers that a token has.
        patch: edge of a token, in points.
    """

    class_name: str
    step_hours: float
    rows: int = 720
    columns: int = 1440
    width: int = 512
    patch: int = 4
    options: Mapping[str, Any] = field(default_factory=dict)


#: By the name of their file, whose ending is .ckpt where it is published and .safetensors here.
CHECKPOINTS: dict[str, Checkpoint] = {
    "aurora-0.25-pretrained": Checkpoint("AuroraPretrained", 6.0),
    "aurora-0.25-finetuned": Checkpoint("Aurora", 6.0),
    "aurora-0.25-12h-pretrained": Checkpoint("Aurora12hPretrained", 12.0),
    "aurora-0.25-small-pretrained": Checkpoint("AuroraSmallPretrained", 6.0, width=256),
    "aurora-0.1-finetuned": Checkpoint("AuroraHighRes", 6.0, rows=1800, columns=3600, patch=10),
}


def found(folder: Path) -> tuple[str, Path] | None:
    """The checkpoint of Aurora in a folder, and its file; None where it is something else.

    Raises:
        InvalidData: there are several.
    """
    names = {path.stem: path for path in folder.glob("aurora-*.safetensors")} if folder.is_dir() else {}
    if len(names) > 1:
        raise InvalidData(
            f"{folder.name} holds {len(names)} checkpoints of {NAME}: {', '.join(sorted(names))}.",
            hint="Give each a folder of its own.",
            code="unexpected_model",
        )
    for name, path in names.items():
        if name not in CHECKPOINTS:
            raise InvalidData(
                f"{path.name} is no checkpoint of {NAME} that is known here; those are {', '.join(CHECKPOINTS)}.",
                hint="Give one of these; those for waves, air pollution and version 1.5 need other variables.",
                code="unexpected_model",
                param=path.name,
            )
        return name, path
    return None


def import_aurora(folder: Path, into: Path) -> Mapping[str, Any] | None:
    """Task and licence of fetched files of Aurora, kept as they are; see `contract.predictor.Importer`.

    Raises:
        InvalidData: weights of variables have other shapes, or the static variables are missing.
    """
    known = found(folder)
    if known is None:
        return None
    name, path = known
    check(path, CHECKPOINTS[name])
    return {"task": "weather-forecast", "licence": LICENCE, "checkpoint": name}


def check(path: Path, checkpoint: Checkpoint) -> None:
    """Hold the weights of each variable against the package's; the worker holds all of them.

    Raises:
        InvalidData: one is missing or of another shape, or the static variables are missing.
    """
    if not path.with_name(STATIC).is_file():
        raise InvalidData(
            f"{path.parent.name} holds no {STATIC}, which {NAME} needs beside its weights.",
            hint=f"Lay the static variables {', '.join(STATIC_VARIABLES)} of ERA5 there as {STATIC}.",
            code="no_static",
            param=STATIC,
        )
    have = {name.removeprefix("net."): shape for name, shape in shapes_of(path).items()}
    # Checkpoints hold the weights of all variables as one array, or one for each; the package reads both.
    for kind, variables in (("surf", (*SURFACE, *STATIC_VARIABLES)), ("atmos", UPPER)):
        whole = f"encoder.{kind}_token_embeds.weight"
        names = [whole] if whole in have else [f"{whole}s.{variable}" for variable in variables]
        for name in names:
            shape = have.get(name, ())
            num = len(variables) if name == whole else 1
            wanted = (checkpoint.width, num, HISTORY, checkpoint.patch, checkpoint.patch)
            if shape[:2] + shape[3:] != wanted[:2] + wanted[3:] or not 1 <= shape[2] <= HISTORY:
                raise InvalidData(
                    f"{name} of {path.name} is {shape or 'missing'}, not {wanted} as published.",
                    hint="Give the checkpoint that its name says, converted as the documentation tells.",
                    code="unexpected_model",
                    param=name,
                )
