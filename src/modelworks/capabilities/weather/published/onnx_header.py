"""What an ONNX file declares, read from the file without loading its weights. Light: the server calls it while it pulls.

Only the messages that matter are walked (onnx.proto of ONNX 1.23): ModelProto.graph 7; GraphProto.node 1, initializer 5,
input 11, output 12, sparse_initializer 15; NodeProto.attribute 5, domain 7; AttributeProto.t 5, g 6, tensors 10, graphs 11,
sparse_tensor 22, sparse_tensors 23; SparseTensorProto.values 1, indices 2; TensorProto.name 8, external_data 13, data_location
14; ValueInfoProto.name 1, type 2; TypeProto.tensor_type 1, of which elem_type 1 and shape 2; dim 1; dim_value 1;
ModelProto.functions 25; FunctionProto.node 7.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelworks.contract.errors import InvalidData, UnsafeArtifact

#: TensorProto.DataType.FLOAT.
FLOAT32: Final = 1
_EXTERNAL: Final = 1
_MAX_DEPTH: Final = 16
#: Operators of ONNX itself; others are looked up in libraries that this does not load.
_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})

_Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Declared:
    """Inputs and outputs by name: (type, sizes). A size is 0 where the file leaves it open."""

    inputs: Mapping[str, tuple[int, tuple[int, ...]]]
    outputs: Mapping[str, tuple[int, tuple[int, ...]]]


def declared(path: Path) -> Declared:
    """What a file declares.

    Raises:
        InvalidData: it is no ONNX model, or one that is cut off.
        UnsafeArtifact: its weights lie in other files (which may be any on the machine), or it needs operators from elsewhere.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            graphs = [span for number, span in _fields(data, (0, len(data))) if number == 7 and isinstance(span, tuple)]
            if len(graphs) != 1:
                raise ValueError("it has no graph")
            for function in _inside(data, (0, len(data)), 25):
                for node in _inside(data, function, 7):
                    _node(path.name, data, node, 0)
            return _graph(path.name, data, graphs[0], 0)
    except (OSError, ValueError, IndexError) as error:
        raise InvalidData(
            f"{path.name} is no ONNX model: {error}.", hint="Fetch it again, whole.", code="unreadable_file", param=path.name
        ) from error


def _graph(name: str, data: mmap.mmap, span: _Span, depth: int) -> Declared:
    if depth > _MAX_DEPTH:
        raise ValueError("its graphs are nested too deep")
    inputs: dict[str, tuple[int, tuple[int, ...]]] = {}
    outputs: dict[str, tuple[int, tuple[int, ...]]] = {}
    weights = set[str]()
    for number, found in _fields(data, span):
        if not isinstance(found, tuple):
            continue
        if number == 1:
            _node(name, data, found, depth)
        elif number == 5:
            weights.add(_tensor(name, data, found))
        elif number == 15:
            _sparse(name, data, found)
        elif number in (11, 12):
            key, what = _value(data, found)
            (inputs if number == 11 else outputs)[key] = what
    # Old files list weights among the inputs, too.
    return Declared({key: what for key, what in inputs.items() if key not in weights}, outputs)


def _node(name: str, data: mmap.mmap, span: _Span, depth: int) -> None:
    for number, found in _fields(data, span):
        if not isinstance(found, tuple):
            continue
        if number == 7 and (domain := data[found[0] : found[1]].decode()) not in _DOMAINS:
            raise UnsafeArtifact(
                f"{name} needs operators of {domain!r}, which come from a library of their own.",
                hint="Only operators of ONNX are run. Export the model without them.",
            )
        if number != 5:
            continue
        for inner, part in _fields(data, found):
            if isinstance(part, tuple) and inner in (5, 10):
                _tensor(name, data, part)
            elif isinstance(part, tuple) and inner in (6, 11):
                _graph(name, data, part, depth + 1)
            elif isinstance(part, tuple) and inner in (22, 23):
                _sparse(name, data, part)


def _sparse(name: str, data: mmap.mmap, span: _Span) -> None:
    for number, found in _fields(data, span):
        if number in (1, 2) and isinstance(found, tuple):
            _tensor(name, data, found)


def _tensor(name: str, data: mmap.mmap, span: _Span) -> str:
    """The name of a tensor; refuses one that lies elsewhere."""
    own = ""
    for number, found in _fields(data, span):
        if number == 13 or (number == 14 and found == _EXTERNAL):
            raise UnsafeArtifact(
                f"{name} has weights that lie in other files.",
                hint="Such a file can name any place on this machine. Save the model in one file.",
            )
        if number == 8 and isinstance(found, tuple):
            own = data[found[0] : found[1]].decode()
    return own


def _value(data: mmap.mmap, span: _Span) -> tuple[str, tuple[int, tuple[int, ...]]]:
    """Name, type and sizes of an input or output."""
    name, kind, sizes = "", 0, []
    for number, found in _fields(data, span):
        if number == 1 and isinstance(found, tuple):
            name = data[found[0] : found[1]].decode()
        for tensor in _inside(data, found, 1) if number == 2 else ():
            for inner, part in _fields(data, tensor):
                if inner == 1 and isinstance(part, int):
                    kind = part
                for dim in _inside(data, part, 1) if inner == 2 else ():
                    known = [each for key, each in _fields(data, dim) if key == 1 and isinstance(each, int)]
                    sizes.append(known[0] if known else 0)
    return name, (kind, tuple(sizes))


def _inside(data: mmap.mmap, span: int | _Span, wanted: int) -> Iterator[_Span]:
    """The messages of one number within another."""
    if isinstance(span, tuple):
        for number, found in _fields(data, span):
            if number == wanted and isinstance(found, tuple):
                yield found


def _fields(data: mmap.mmap, span: _Span) -> Iterator[tuple[int, int | _Span]]:
    """The fields of a message: (number, value), where bytes and messages are told by where they lie.

    Raises:
        ValueError: it does not end where it should. IndexError: the file does.
    """
    place, end = span
    while place < end:
        key, place = _varint(data, place)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, place = _varint(data, place)
            yield number, value
            continue
        if wire == 2:
            size, place = _varint(data, place)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"it has a field of the kind {wire}")
        if place + size > end:
            raise ValueError("it is cut off")
        if wire == 2:
            yield number, (place, place + size)
        place += size


def _varint(data: mmap.mmap, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("it has a number of more than 64 bits")
