"""The worker's side of the exchange: lines of JSON on stdin and stdout, states as safetensors files.

The first line says what to load. Each further one, `{"do": "advance", "time": …, "step": …}`, asks for the state after those
in the file `input`; it is written into the file `output`, which exists, and nothing can be made beside it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

_TYPES = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1"}


class Model(Protocol):
    """What a module of this folder opens."""

    def advance(self, history_schw: Any, time: Any, step: int) -> Any:
        """The state (C, H, W) after the states given, the last of which is of `time`; `step` counts from 0."""
        ...


def read(path: str) -> dict[str, Any]:
    """The arrays of a safetensors file, mapped, not read.

    Raises:
        ValueError: it is none, or has a type that numpy does not know.
    """
    with Path(path).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= 1 << 26:
            raise ValueError(f"{Path(path).name} is no safetensors file")
        header = json.loads(file.read(length))
    whole = np.memmap(path, np.uint8, "r", 8 + length) if Path(path).stat().st_size > 8 + length else np.zeros(0, np.uint8)
    found = {}
    for name, each in header.items():
        if name == "__metadata__":
            continue
        if each["dtype"] not in _TYPES:
            raise ValueError(f"{name} is of type {each['dtype']}; convert the checkpoint to float32")
        start, end = each["data_offsets"]
        found[name] = whole[start:end].view(_TYPES[each["dtype"]]).reshape(each["shape"])
    return found


def write(path: str, name: str, values: Any) -> None:
    """One float32 array, into a file that exists."""
    values = np.ascontiguousarray(values, "<f4")
    header = json.dumps({name: {"dtype": "F32", "shape": list(values.shape), "data_offsets": [0, values.nbytes]}}).encode()
    header += b" " * (-len(header) % 8)
    with Path(path).open("r+b") as file:
        file.truncate(0)
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(values.data)


def serve(opened: Callable[[dict[str, Any]], Model]) -> None:
    """Load what the first line names, then answer one line after another until there are no more."""
    # Libraries print to stdout; what they say goes where errors go.
    lines = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def say(event: str, **more: Any) -> None:
        lines.write(json.dumps({"event": event, **more}).encode() + b"\n")

    try:
        given = json.loads(sys.stdin.readline())
        model = opened(given)
        say("ready")
        for line in sys.stdin:
            asked = json.loads(line)
            say("progress", done=asked["step"])
            history = read(given["input"])["states"]
            state = model.advance(np.array(history), np.datetime64(asked["time"]), int(asked["step"]))
            write(given["output"], "state", state)
            say("state")
    except ImportError as error:
        say("error", kind="package", message=f"{type(error).__name__}: {error}")
    except MemoryError as error:
        say("error", kind="memory", message=str(error) or "MemoryError")
    except OSError as error:
        say("error", kind="refused", message=f"{type(error).__name__}: {error}")
    except Exception as error:
        kind = "memory" if "allocate" in str(error).lower() or "out of memory" in str(error).lower() else "model"
        say("error", kind=kind, message=f"{type(error).__name__}: {str(error)[:400]}")
