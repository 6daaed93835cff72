"""The files of AIFS: a note that names a checkpoint of the operator's folder, by its digest.

Light: the server asks while it pulls. Lang et al., arXiv 2406.01465. The checkpoint is a zip archive with a pickle of the
network, and beside it metadata as JSON and arrays as bytes, which are read here; nothing of the pickle is. Layout: anemoi-utils
(checkpoints.py), anemoi-inference (metadata.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from modelworks.capabilities.weather.grid.vocabulary import VARIABLES, channel, known_name
from modelworks.contract.errors import InvalidData

LICENCE: Final = "CC-BY-4.0"
NAME: Final = "AIFS"
NOTE: Final = "aifs.json"
STATIC: Final = "static.nc"
#: The folder with checkpoints, which the operator fills: no file of a project is ever unpickled.
FOLDER_VARIABLE: Final = "MODELWORKS_AIFS_CHECKPOINTS"
#: Latitudes from 90 to -90, longitudes from 0 to 359.75: what it is given on, and what it gives.
GRID = (721, 1440)
_MAX_METADATA: Final = 64 << 20
MAX_ARRAY: Final = 1 << 30
_METADATA: Final = ("anemoi.json", "ai-models.json")
_LEVEL: Final = re.compile(r"^([a-z]+)_(\d+)$")


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a checkpoint says of itself.

    Attributes:
        fields: its name of each variable that it is given and gives, and our channel.
        static: names of the fields that no time changes.
        history: states that it begins from.
        points: of its own grid.
    """

    fields: dict[str, str]
    static: tuple[str, ...]
    history: int
    step_hours: float
    arrays: Mapping[str, Any]
    points: int


def is_aifs(folder: Path) -> bool:
    """Whether a folder holds the note."""
    return (folder / NOTE).is_file()


def import_aifs(folder: Path, into: Path) -> Mapping[str, Any] | None:
    """Task and licence of a fetched note; see `contract.predictor.Importer`.

    Raises:
        InvalidData: there is no such checkpoint, it has another digest, or it needs what the vocabulary does not have.
    """
    if not is_aifs(folder):
        return None
    path = checkpoint(folder)
    known = metadata(path)
    return {"task": "weather-forecast", "licence": LICENCE, "checkpoint": path.name, "channels": len(known.fields)}


def checkpoint(folder: Path) -> Path:
    """The checkpoint that a note names, with the digest that it names.

    Raises:
        InvalidData: it is not there, or is another.
    """
    try:
        note = json.loads((folder / NOTE).read_text("utf-8"))
        name, digest = str(note["checkpoint"]), str(note["sha256"]).lower().removeprefix("sha256:")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidData(
            f"{NOTE} cannot be read: {error}.",
            hint='It holds {"checkpoint": "aifs-single-mse-1.0.ckpt", "sha256": "…"}.',
            param=NOTE,
        ) from error
    home = os.environ.get(FOLDER_VARIABLE)
    if not home:
        raise InvalidData(
            f"{FOLDER_VARIABLE} names no folder, from which {NAME} could be taken.",
            hint="The operator lays the checkpoint into a folder of the server and names it there.",
            code="no_checkpoint",
            param=NOTE,
        )
    path = Path(home, name)
    if Path(name).name != name or name.startswith(".") or path.is_symlink() or not path.is_file():
        raise InvalidData(
            f"The folder that {FOLDER_VARIABLE} names holds no file {name!r}.",
            hint="Give the name of a file in it, without a path.",
            code="no_checkpoint",
            param=NOTE,
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        raise InvalidData(
            f"{name} has the SHA-256 {found}, not {digest}.",
            hint="Was it fetched whole, and is it the one that was published?",
            code="wrong_digest",
            param=NOTE,
        )
    return path


def metadata(path: Path) -> Metadata:
    """What a checkpoint says of itself, without its pickle.

    Raises:
        InvalidData: it says nothing, or needs variables that are not known here; says which.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = {Path(each.filename).name: each for each in archive.infolist()}
            member = next(names[name] for name in _METADATA if name in names)
            if member.file_size > _MAX_METADATA:
                raise ValueError("its metadata are too long")
            told = json.loads(archive.read(member))
        data, variables = told["data_indices"]["data"], told["dataset"]["variables"]
        about = told["dataset"]["variables_metadata"]
        inputs = [variables[index] for index in data["input"]["full"]]
        outputs = {variables[index] for index in data["output"]["full"]}
        history = int(told["config"]["training"]["multistep_input"])
        step = re.fullmatch(r"(\d+)h", str(told["config"]["data"]["timestep"]))
        hours = float(step[1]) if step else 0.0
        points = int(told["dataset"]["shape"][-1])
        arrays = dict(told.get("supporting_arrays_paths", {}))
    except (OSError, ValueError, KeyError, TypeError, IndexError, StopIteration, zipfile.BadZipFile) as error:
        raise InvalidData(
            f"{path.name} says nothing of itself that is known here: {type(error).__name__} {error}.",
            hint="Give a checkpoint of AIFS as it was published, for inference.",
            code="unexpected_model",
            param=path.name,
        ) from error
    given = [name for name in inputs if not about.get(name, {}).get("computed_forcing")]
    fields = {name: _channel(name) for name in given if name in outputs}
    rest = [name for name in given if name not in outputs]
    static = tuple(name for name in rest if about.get(name, {}).get("constant_in_time"))
    strange = [name for name, ours in fields.items() if ours is None] + [name for name in rest if name not in static]
    if strange or not fields or not hours or history < 1 or "latitudes" not in arrays or "longitudes" not in arrays:
        raise InvalidData(
            f"{path.name} needs what is not known here: {', '.join(strange) or 'its steps, states or points'}.",
            hint="Give a checkpoint of AIFS Single as it was published.",
            code="unexpected_model",
            param=strange[0] if strange else path.name,
        )
    return Metadata({name: str(ours) for name, ours in fields.items()}, static, history, hours, arrays, points)


def _channel(name: str) -> str | None:
    match = _LEVEL.match(name)
    known = known_name(match[1] if match else name, None, has_levels=match is not None)
    if known is None or VARIABLES[known].on_levels != (match is not None):
        return None
    return channel(known, float(match[2]) if match else None)
