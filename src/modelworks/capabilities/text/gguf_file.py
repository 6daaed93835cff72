"""Read a GGUF file without trusting it: every length is held against the file before it is believed.

Layout: the GGUF specification, versions 2 and 3, little-endian (github.com/ggml-org/ggml, docs/gguf.md).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from modelworks.contract.errors import InvalidData, UnsupportedArchitecture

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
#: More than any model has; a header that claims more was made to keep its reader busy.
_MAX_FIELDS, _MAX_TENSORS, _MAX_ELEMENTS, _MAX_KEY_BYTES, _MAX_DIMENSIONS = 65_536, 1_000_000, 4_000_000, 65_535, 4
_STRING, _ARRAY, _BOOL = 8, 9, 7
#: Value type → struct letter.
_SCALARS: Mapping[int, str] = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_FETCH_AGAIN = "Fetch or write the file again."


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where a tensor lies; `shape` as torch has it, rows first."""

    name: str
    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    start: int
    num_bytes: int


class GgufFile:
    """A file whose header was checked: `fields` by key, `tensors` by name.

    Raises:
        InvalidData: it is no GGUF file, is truncated, or contradicts itself; the message says where.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        size = path.stat().st_size
        if size < 24:
            raise InvalidData(f"{path.name} is truncated: it has {size} bytes and no GGUF header.", hint=_FETCH_AGAIN)
        self._data = np.memmap(path, mode="r", dtype=np.uint8)
        scan = _Scan(path.name, memoryview(self._data.data))
        self.fields: dict[str, Any] = scan.fields
        self.tensors: dict[str, GgufTensor] = scan.tensors

    def stored(self, name: str) -> npt.NDArray[Any]:
        """The bytes of a tensor as rows, of its own element type where that is a plain number."""
        tensor = self.tensors[name]
        raw = self._data[tensor.start : tensor.start + tensor.num_bytes]
        if tensor.kind == gguf.GGMLQuantizationType.F32:
            return raw.view(np.float32).reshape(tensor.shape)
        if tensor.kind == gguf.GGMLQuantizationType.F16:
            return raw.view(np.float16).reshape(tensor.shape)
        return raw.reshape(*tensor.shape[:-1], -1)

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """The numbers of a tensor (its shape) in f32.

        Raises:
            UnsupportedArchitecture: it is quantised in a way that cannot be undone here.
        """
        tensor = self.tensors[name]
        try:
            values: npt.NDArray[np.float32] = gguf.dequantize(self.stored(name), tensor.kind)
        except NotImplementedError:
            raise UnsupportedArchitecture(
                f"{self.path.name} stores {name!r} as {tensor.kind.name}, which cannot be read here.",
                hint="Use a file of the kinds F32, F16, BF16, Q8_0, Q4_0 or Q4_K.",
            ) from None
        return np.ascontiguousarray(values.reshape(tensor.shape), dtype=np.float32)


class _Scan:
    """One pass over the header."""

    def __init__(self, name: str, data: memoryview) -> None:
        self._name = name
        self._data = data
        self._at = 0
        if bytes(self._take(4)) != MAGIC:
            raise self._damaged("it does not begin as a GGUF file does")
        version = self._number("I")
        if version not in _VERSIONS:
            raise self._damaged(f"its version is {version}; versions 2 and 3 are read")
        num_tensors, num_fields = self._number("Q"), self._number("Q")
        if num_tensors > _MAX_TENSORS or num_fields > _MAX_FIELDS:
            raise self._damaged(f"its header claims {num_tensors} tensors and {num_fields} settings, which no model has")
        self._elements = 0
        self.fields: dict[str, Any] = {}
        for _ in range(num_fields):
            key = self._text(_MAX_KEY_BYTES)
            if key in self.fields:
                raise self._damaged(f"the setting {key!r} is there twice")
            self.fields[key] = self._value(self._number("I"))
        self.tensors = self._tensors(num_tensors)

    def _tensors(self, count: int) -> dict[str, GgufTensor]:
        found: list[tuple[str, tuple[int, ...], gguf.GGMLQuantizationType, int]] = []
        for _ in range(count):
            name = self._text(_MAX_KEY_BYTES)
            num_dimensions = self._number("I")
            if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
                raise self._damaged(f"tensor {name!r} has {num_dimensions} dimensions")
            shape = tuple(self._number("Q") for _ in range(num_dimensions))[::-1]
            number, offset = self._number("I"), self._number("Q")
            try:
                kind = gguf.GGMLQuantizationType(number)
            except ValueError:
                raise self._damaged(f"tensor {name!r} is of the unknown kind {number}") from None
            found.append((name, shape, kind, offset))
        alignment = self.fields.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
            raise self._damaged(f"its alignment is {alignment!r}, which is no power of two")
        base = -(-self._at // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        end = base
        for name, shape, kind, offset in sorted(found, key=lambda each: each[3]):
            if name in tensors:
                raise self._damaged(f"the tensor {name!r} is there twice")
            tensor = GgufTensor(name, shape, kind, base + offset, self._num_bytes(name, shape, kind))
            if tensor.start < end or tensor.start % alignment:
                raise self._damaged(f"tensor {name!r} starts at byte {tensor.start}, inside another one or unaligned")
            end = tensor.start + tensor.num_bytes
            if end > len(self._data):
                raise self._truncated(end)
            tensors[name] = tensor
        return tensors

    def _num_bytes(self, name: str, shape: tuple[int, ...], kind: gguf.GGMLQuantizationType) -> int:
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        if min(shape) < 1 or shape[-1] % block:
            raise self._damaged(f"tensor {name!r} has the shape {list(shape)}, whose rows {kind.name} cannot store")
        return int(math.prod(shape)) // int(block) * int(block_bytes)

    def _take(self, count: int) -> memoryview:
        end = self._at + count
        if end > len(self._data):
            raise self._truncated(end)
        part = self._data[self._at : end]
        self._at = end
        return part

    def _number(self, letter: str) -> Any:
        (value,) = struct.unpack("<" + letter, self._take(struct.calcsize("<" + letter)))
        return value

    def _text(self, most: int | None = None) -> str:
        length = self._number("Q")
        if most is not None and length > most:
            raise self._damaged(f"a name of {length} bytes stands at byte {self._at}")
        try:
            return str(bytes(self._take(length)), "utf-8")
        except UnicodeDecodeError:
            raise self._damaged(f"the text before byte {self._at} is not UTF-8") from None

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind in _SCALARS:
            value = self._number(_SCALARS[kind])
            return bool(value) if kind == _BOOL else value
        if kind != _ARRAY:
            raise self._damaged(f"a setting before byte {self._at} is of the unknown kind {kind}")
        inner, count = self._number("I"), self._number("Q")
        self._elements += count
        if self._elements > _MAX_ELEMENTS:
            raise self._damaged(f"its lists have more than {_MAX_ELEMENTS} elements")
        if inner == _STRING:
            return [self._text() for _ in range(count)]
        if inner not in _SCALARS:
            raise self._damaged(f"a list before byte {self._at} holds the kind {inner}")
        letter = _SCALARS[inner]
        return list(struct.unpack(f"<{count}{letter}", self._take(count * struct.calcsize("<" + letter))))

    def _damaged(self, reason: str) -> InvalidData:
        return InvalidData(f"{self._name} is damaged: {reason}.", hint=_FETCH_AGAIN, code="invalid_checkpoint")

    def _truncated(self, expected: int) -> InvalidData:
        return InvalidData(
            f"{self._name} is truncated: it has {len(self._data)} bytes where its header asks for {expected} or more.",
            hint=_FETCH_AGAIN,
            code="truncated_checkpoint",
        )
