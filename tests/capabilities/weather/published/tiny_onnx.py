"""ONNX files written by hand (protobuf's wire format, onnx.proto): a graph that multiplies its inputs by weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

FLOAT = 1


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, *parts: bytes | str) -> bytes:
    data = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
    return varint(field << 3 | 2) + varint(len(data)) + data


def tensor(name: str, values: np.ndarray, *more: bytes) -> bytes:
    dims = b"".join(number(1, size) for size in values.shape)
    return dims + number(2, FLOAT) + message(8, name) + message(9, values.astype("<f4").tobytes()) + b"".join(more)


def value(field: int, name: str, shape: Sequence[int | None], kind: int = FLOAT) -> bytes:
    dims = b"".join(message(1, number(1, size) if size is not None else message(2, "n")) for size in shape)
    return message(field, message(1, name), message(2, message(1, number(1, kind), message(2, dims))))


def node(kind: str, inputs: Sequence[str], output: str, *more: bytes) -> bytes:
    return message(1, *(message(1, name) for name in inputs), message(2, output), message(4, kind), *more)


def model(*graph: bytes) -> bytes:
    opset = message(8, message(1, ""), number(2, 13))
    return number(1, 8) + message(7, *graph, message(2, "tiny")) + opset


def scaling(
    path: Path, upper: Sequence[int | None], surface: Sequence[int | None], scales: tuple[np.ndarray, np.ndarray], *more: bytes
) -> Path:
    """Pangu-Weather's names and shapes; each variable on each level is multiplied by its own number."""
    path.write_bytes(
        model(
            message(5, tensor("scale", scales[0].reshape(5, 13, 1, 1))),
            message(5, tensor("scale_surface", scales[1].reshape(4, 1, 1))),
            node("Mul", ("input", "scale"), "output"),
            node("Mul", ("input_surface", "scale_surface"), "output_surface"),
            value(11, "input", upper),
            value(11, "input_surface", surface),
            value(12, "output", upper),
            value(12, "output_surface", surface),
            *more,
        )
    )
    return path
