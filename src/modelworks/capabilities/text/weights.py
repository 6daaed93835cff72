"""The weights of a model's folder by their Hugging Face names, whether they lie in safetensors or in one GGUF file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import gguf
import torch
from safetensors import safe_open

from modelworks.capabilities.text.gguf_file import GgufFile
from modelworks.capabilities.text.gguf_names import hugging_face_name, split_rotary
from modelworks.capabilities.text.schemas import Quantised
from modelworks.contract.errors import InvalidData

#: The file of a version whose weights are quantised; config, tokenizer and template lie beside it as in any other.
GGUF_WEIGHTS = "model.gguf"


class Weights(Protocol):
    """Names with shapes at once, numbers when they are asked for."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def read(self, name: str) -> torch.Tensor:
        """A weight as it is stored where that is a plain number, else in f32."""
        ...


def open_weights(folder: Path) -> Weights:
    """The weights of a folder that passed `engines.integrity.check_checkpoint`."""
    file = quantised_file(folder)
    return SafetensorsWeights(folder) if file is None else GgufWeights(file)


def quantised_file(folder: Path) -> Path | None:
    """The GGUF file of a quantised version; None where the weights are safetensors."""
    file = folder / GGUF_WEIGHTS
    return file if file.is_file() and next(folder.glob("*.safetensors"), None) is None else None


class SafetensorsWeights:
    """All shards of a folder."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, framework="pt") as weights:
                for name in weights.keys():  # noqa: SIM118 - safe_open is no mapping
                    self._files[name] = file
                    self.shapes[name] = tuple(weights.get_slice(name).get_shape())

    def read(self, name: str) -> torch.Tensor:
        with safe_open(self._files[name], framework="pt") as weights:
            tensor: torch.Tensor = weights.get_tensor(name)
        return tensor


class GgufWeights:
    """One GGUF file of the architectures that `gguf_export` writes.

    Raises:
        InvalidData: the file is damaged, or has a tensor that its architecture does not have.
    """

    def __init__(self, file: Path) -> None:
        self.file = GgufFile(file)
        self.architecture = str(self.file.fields.get("general.architecture"))
        self._names: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for tensor in self.file.tensors.values():
            name = hugging_face_name(tensor.name)
            if name is None:
                raise InvalidData(f"{file.name} has a tensor {tensor.name!r} that its architecture does not have.")
            self._names[name] = tensor.name
            self.shapes[name] = tensor.shape

    def read(self, name: str) -> torch.Tensor:
        stored = self.file.tensors[self._names[name]]
        if stored.kind == gguf.GGMLQuantizationType.BF16:
            tensor = torch.from_numpy(self.file.stored(stored.name).copy()).view(torch.bfloat16).reshape(stored.shape)
        elif stored.kind == gguf.GGMLQuantizationType.F16:
            tensor = torch.from_numpy(self.file.stored(stored.name).copy())
        else:
            tensor = torch.from_numpy(self.file.read(stored.name).copy())
        if self.architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = "head_count" if name.endswith("q_proj.weight") else "head_count_kv"
            tensor = split_rotary(tensor, int(self.file.fields[f"{self.architecture}.attention.{heads}"]))
        return tensor


def precision_of(weights: Weights) -> Quantised | None:
    """The precision of the coarsest matrices where they are quantised; None where all are plain numbers."""
    if not isinstance(weights, GgufWeights):
        return None
    plain = {gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.BF16}
    kinds = {tensor.kind for tensor in weights.file.tensors.values()} - plain
    if not kinds:
        return None
    return "int8" if kinds == {gguf.GGMLQuantizationType.Q8_0} else "int4"


def state_of(weights: Weights, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Every weight in `dtype`, by name."""
    return {name: weights.read(name).to(dtype) for name in weights.shapes}


def num_parameters(weights: Weights) -> int:
    """How many numbers the weights are."""
    return sum(_product(shape) for shape in weights.shapes.values())


def vectors_of(weights: Weights) -> Iterator[torch.Tensor]:
    """The weights of one dimension, in f32."""
    return (weights.read(name).to(torch.float32) for name, shape in weights.shapes.items() if len(shape) == 1)


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object from a file that was checked; nothing where there is no file."""
    loaded = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return loaded if isinstance(loaded, dict) else {}


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
