"""Look a checkpoint over before any library opens it: whole files, safe formats, a named architecture."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from modelworks.capabilities.text.gguf_file import GgufFile
from modelworks.capabilities.text.weights import GGUF_WEIGHTS
from modelworks.contract.errors import InvalidData, UnsafeArtifact, UnsupportedArchitecture

#: Formats that run code when they are read.
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
_MAX_HEADER_BYTES = 100 << 20
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
_FETCH_AGAIN = "Fetch the checkpoint again."


def check_checkpoint(folder: Path, name: str | None = None) -> dict[str, Any]:
    """Check a Hugging Face folder, or one whose weights are a GGUF file, and return its parsed `config.json`.

    Args:
        folder: only read.
        name: what messages call the model; by default the folder's name.

    Raises:
        UnsafeArtifact: its weights are pickles. Pickles beside safetensors are never opened, and so are let be.
        UnsupportedArchitecture: `config.json` names no architecture.
        InvalidData: a file is missing, truncated or contradicts itself.
    """
    name = name or folder.name
    weights = sorted(folder.glob("*.safetensors"))
    if not weights and (folder / GGUF_WEIGHTS).is_file():
        config = _read_config(folder, name)
        GgufFile(folder / GGUF_WEIGHTS)
        return config
    if not weights:
        pickles = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in PICKLE_SUFFIXES)
        if pickles:
            raise UnsafeArtifact(
                f"The model {name!r} has its weights in {pickles[0]}, a pickle, which can run code when it is read.",
                hint="Convert it to safetensors with transformers' save_pretrained, where you trust it, and register that.",
            )
        raise InvalidData(f"The model {name!r} has no weights: no .safetensors file is there.", hint=_FETCH_AGAIN)
    config = _read_config(folder, name)
    _check_index(folder, name)
    for file in weights:
        check_safetensors(file)
    return config


def check_safetensors(file: Path) -> None:
    """Check that a safetensors file is whole: its header parses and describes exactly the bytes that follow it.

    Raises:
        InvalidData: it does not.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        if len(prefix) < 8:
            raise InvalidData(f"{file.name} is truncated: it has {size} bytes and no header.", hint=_FETCH_AGAIN)
        (length,) = struct.unpack("<Q", prefix)
        if length > min(_MAX_HEADER_BYTES, size - 8):
            raise InvalidData(
                f"{file.name} is truncated or no safetensors file: its header claims {length} bytes of {size}.",
                hint=_FETCH_AGAIN,
            )
        raw = stream.read(length)
    try:
        header = json.loads(raw)
        spans = sorted(_span(file, name, entry) for name, entry in header.items() if name != "__metadata__")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InvalidData(f"{file.name}: its header is damaged.", hint=_FETCH_AGAIN) from None
    end = 0
    for start, stop, name in spans:
        if start != end:
            raise InvalidData(f"{file.name}: weight {name!r} starts at byte {start}, not {end}.", hint=_FETCH_AGAIN)
        end = stop
    if 8 + length + end != size:
        raise InvalidData(
            f"{file.name} is truncated or was changed: it has {size} bytes and its header describes {8 + length + end}.",
            hint=_FETCH_AGAIN,
        )


def _span(file: Path, name: str, entry: dict[str, Any]) -> tuple[int, int, str]:
    start, stop = (int(offset) for offset in entry["data_offsets"])
    bits = _BITS.get(str(entry["dtype"]))
    expected = None if bits is None else (math.prod(int(size) for size in entry["shape"]) * bits + 7) // 8
    if start < 0 or stop < start or (expected is not None and stop - start != expected):
        raise InvalidData(
            f"{file.name}: weight {name!r} of shape {entry['shape']} has {stop - start} bytes.", hint=_FETCH_AGAIN
        )
    return start, stop, name


def _read_config(folder: Path, name: str) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise InvalidData(f"The model {name!r} has no config.json.", hint="Save it with transformers' save_pretrained.")
    try:
        config = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise InvalidData(f"config.json of model {name!r} cannot be read: {error}.", hint=_FETCH_AGAIN) from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise UnsupportedArchitecture(
            f"config.json of model {name!r} names no model_type.", hint="Only Hugging Face checkpoints can be served."
        )
    return config


def _check_index(folder: Path, name: str) -> None:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError):
        raise InvalidData(f"{index.name} of model {name!r} is damaged.", hint=_FETCH_AGAIN) from None
    missing = sorted(shard for shard in shards if not (folder / str(shard)).is_file())
    if missing:
        raise InvalidData(f"The model {name!r} lacks {missing[0]}, which its index names.", hint=_FETCH_AGAIN)
