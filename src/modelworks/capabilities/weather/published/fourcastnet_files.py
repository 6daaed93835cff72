"""The files of FourCastNet (v1) and what they hold. Light: the server asks while it pulls.

Pathak et al., arXiv 2202.11214. Names and shapes of weights: github.com/NVlabs/FourCastNet (networks/afnonet.py); order of the
variables of both releases: github.com/ecmwf-lab/ai-models-fourcastnet. The checkpoint is a pickle, which the catalog refuses;
the documentation tells how safetensors are made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from modelworks.capabilities.weather.published.safetensors_header import shapes_of
from modelworks.contract.errors import InvalidData

NAME: Final = "FourCastNet"
LICENCE: Final = "BSD-3-Clause"
WEIGHTS: Final = "backbone.safetensors"
MEANS: Final = "global_means.npy"
STDS: Final = "global_stds.npy"
_FIRST: Final = "u10 v10 t2m sp msl t850 u1000 v1000 z1000 u850 v850 z850 u500 v500 z500 t500 z50 r500 r850 tcwv"
#: Channels in their order, by their number: the first release, and the one with winds at 100 m and 250 hPa.
CHANNELS: Final = {20: tuple(_FIRST.split()), 26: tuple(f"{_FIRST} u100m v100m u250 v250 z250 t250".split())}


@dataclass(frozen=True, slots=True)
class Size:
    """Rows without the south pole, columns, edge of a patch, width of a token, blocks."""

    rows: int = 720
    columns: int = 1440
    patch: int = 8
    width: int = 768
    depth: int = 12


SIZE = Size()


def is_fourcastnet(folder: Path) -> bool:
    """Whether a folder holds its three files."""
    return all((folder / name).is_file() for name in (WEIGHTS, MEANS, STDS))


def import_fourcastnet(folder: Path, into: Path) -> Mapping[str, Any] | None:
    """Task and licence of fetched files of FourCastNet, kept as they are; see `contract.predictor.Importer`.

    Raises:
        InvalidData: weights are missing or of another shape.
    """
    if not is_fourcastnet(folder):
        return None
    return {"task": "weather-forecast", "licence": LICENCE, "channels": len(CHANNELS[check_weights(folder / WEIGHTS, SIZE)[0]])}


def expected(channels: int, mixers: int, size: Size) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights.

    Args:
        mixers: blocks that the channels of a token are mixed in, in the frequency domain.
    """
    width, part = size.width, size.width // mixers
    tokens = (size.rows // size.patch) * (size.columns // size.patch)
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, tokens, width),
        "patch_embed.proj.weight": (width, channels, size.patch, size.patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "head.weight": (channels * size.patch**2, width),
    }
    for index in range(size.depth):
        block = f"blocks.{index}."
        for norm in ("norm1", "norm2"):
            shapes |= {f"{block}{norm}.weight": (width,), f"{block}{norm}.bias": (width,)}
        for layer in ("1", "2"):
            shapes |= {f"{block}filter.w{layer}": (2, mixers, part, part), f"{block}filter.b{layer}": (2, mixers, part)}
        shapes |= {f"{block}mlp.fc1.weight": (4 * width, width), f"{block}mlp.fc1.bias": (4 * width,)}
        shapes |= {f"{block}mlp.fc2.weight": (width, 4 * width), f"{block}mlp.fc2.bias": (width,)}
    return shapes


def check_weights(path: Path, size: Size) -> tuple[int, int]:
    """Hold the header of the weights against the published names and shapes; the numbers of channels and mixers.

    Raises:
        InvalidData: a weight is missing, is one too many, or has another shape; says which.
    """
    found = shapes_of(path)
    channels = found.get("patch_embed.proj.weight", (0, 0))[1]
    mixers = found.get("blocks.0.filter.w1", (0, 0))[1]
    if channels not in CHANNELS or mixers < 1 or size.width % mixers:
        raise InvalidData(
            f"{path.name} takes {channels} channels in {mixers} blocks, and {NAME} takes 20 or 26 in 8 or 16.",
            hint="Give the backbone as it was published, converted as the documentation says.",
            code="unexpected_model",
            param="patch_embed.proj.weight",
        )
    wanted = expected(channels, mixers, size)
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise InvalidData(
                f"{name} of {path.name} is {found.get(name, 'missing')}, not {wanted.get(name, 'part of it')} as published.",
                hint="Give the backbone as it was published, converted as the documentation says.",
                code="unexpected_model",
                param=name,
            )
    return channels, mixers
