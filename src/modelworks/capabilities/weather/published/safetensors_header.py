"""The names and shapes in a safetensors file, without its weights. Light."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from modelworks.contract.errors import InvalidData

_MAX_HEADER: Final = 1 << 24


def shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all arrays.

    Raises:
        InvalidData: it is no such file.
    """
    try:
        with path.open("rb") as file:
            num_bytes = int.from_bytes(file.read(8), "little")
            if num_bytes > _MAX_HEADER:
                raise ValueError("its header is too long")
            header = json.loads(file.read(num_bytes))
        return {name: tuple(each["shape"]) for name, each in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidData(f"{path.name} is no safetensors file: {error}.", hint="Convert it again.") from error
