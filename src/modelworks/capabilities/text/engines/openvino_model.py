"""Turn a checkpoint into an OpenVINO model: through GGUF, which OpenVINO GenAI reads, and back to full precision.

OpenVINO GenAI builds its graph from a GGUF file, in which it reads matrices of at most sixteen bits, and stores the graph with
all other numbers rounded to sixteen bits as well, rotary frequencies included, which at long distances is a visible error. So
the stored graph is repaired: every rounded number is replaced by the checkpoint's own (or, for the frequencies, by the
formula's). The result is kept in a cache folder by the model's digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import openvino_genai
import torch

from modelworks.capabilities.text.gguf_export import Shape, export
from modelworks.capabilities.text.weights import open_weights, quantised_file, vectors_of
from modelworks.contract.errors import UnsupportedArchitecture

#: Raised whenever what is written changes.
_FORMAT = 1
_GRAPH = "openvino_model.xml"
#: A folder for converted models; a private one under the system's temporary folder when not set.
CACHE_VARIABLE = "MODELWORKS_ENGINE_CACHE"


def cache_folder() -> Path:
    """The folder of converted models, made if need be, readable by this user alone."""
    named = os.environ.get(CACHE_VARIABLE)
    folder = Path(named) if named else Path(tempfile.gettempdir()) / f"modelworks-engine-cache-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        folder = Path(tempfile.mkdtemp(prefix="modelworks-engine-cache-"))
    return folder


def converted(model_dir: Path, digest: str, *, int8: bool) -> Path:
    """A folder with the OpenVINO form of a checkpoint, made now or found in the cache.

    Args:
        model_dir: the checkpoint; only read.
        digest: names its content.
        int8: matrices in eight bits, in groups of 32 with one scale each (GGUF's Q8_0); else the checkpoint's own in f32.
            A checkpoint that is quantised already stays as it is.

    Raises:
        UnsupportedArchitecture: OpenVINO GenAI does not read this architecture, or reads it differently than known.
        InvalidRequest: int8 does not fit the shape (see `gguf_export.export`).
    """
    key = hashlib.sha256(f"{_FORMAT}:{openvino_genai.__version__}:{digest}:{int8}".encode()).hexdigest()[:32]
    target = cache_folder() / key
    if (target / _GRAPH).is_file():
        return target
    building = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{key}."))
    try:
        _convert(model_dir, building, int8=int8)
        try:
            building.rename(target)
        except OSError:
            if not (target / _GRAPH).is_file():  # otherwise another process was quicker
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def _convert(model_dir: Path, folder: Path, *, int8: bool) -> None:
    gguf_file = folder / "model.gguf"
    quantised = quantised_file(model_dir)
    if quantised is not None:
        # Linked, not copied: the library writes beside the name that it is given.
        gguf_file.symlink_to(quantised.absolute())
    else:
        export(model_dir, gguf_file, "q8_0" if int8 else "f16")
    reader = subprocess.run(
        [sys.executable, "-m", "modelworks.capabilities.text.engines.gguf_reader", str(gguf_file)],
        capture_output=True,
        text=True,
        check=False,
    )
    if reader.returncode or not (folder / _GRAPH).is_file():
        said = reader.stderr.strip().splitlines()[-1:] or [f"its reader ended with status {reader.returncode}."]
        raise UnsupportedArchitecture(f"OpenVINO GenAI cannot read {model_dir.name!r}: {said[0]}")
    gguf_file.unlink()
    rough = folder / _GRAPH
    graph = ov.Core().read_model(rough)
    shape = Shape.of(json.loads((model_dir / "config.json").read_text("utf-8")))
    _repair(graph, model_dir, shape, matrices=not int8 and quantised is None)
    graph.set_rt_info("f32", ["runtime_options", "KV_CACHE_PRECISION"])
    ov.serialize(graph, str(folder / "exact.xml"), str(folder / "exact.bin"))
    del graph  # it reads from the file that is replaced now
    (folder / "exact.bin").replace(folder / "openvino_model.bin")
    (folder / "exact.xml").replace(rough)


def _repair(graph: Any, model_dir: Path, shape: Shape, *, matrices: bool) -> None:
    """Put the checkpoint's numbers in the place of rounded ones, in `graph`.

    Matrices are found by name. Vectors have lost theirs: they are found by their value, of which the rounding is known.
    """
    weights = open_weights(model_dir)
    vectors = [_frequencies(shape), *(vector.numpy() for vector in vectors_of(weights))]
    exact = {(vector.size, vector.astype(np.float16).tobytes()): vector for vector in vectors}
    for node in list(graph.get_ordered_ops()):
        if node.get_type_name() != "Constant" or node.get_element_type() != ov.Type.f16 or node.get_output_size() != 1:
            continue
        size = int(np.prod(tuple(node.shape)))
        name = node.get_friendly_name().replace("[", ".").replace("]", "")
        if name in weights.shapes:
            if matrices:
                _replace(node, weights.read(name).to(torch.float32).numpy())
        elif size > 1 and node.get_friendly_name().endswith("_compressed"):
            vector = exact.get((size, np.asarray(node.get_data()).astype(np.float16).tobytes()))
            if vector is None:
                raise UnsupportedArchitecture(f"OpenVINO GenAI computes {model_dir.name!r} with numbers of its own.")
            _replace(node, vector)


def _replace(node: Any, values: npt.NDArray[np.float32]) -> None:
    """Put a constant of full precision where `node` and the conversion behind it stood."""
    constant = ov.op.Constant(np.ascontiguousarray(values.reshape(tuple(node.shape))))
    constant.set_friendly_name(node.get_friendly_name().removesuffix("_compressed"))
    for consumer in list(node.output(0).get_target_inputs()):
        conversion = consumer.get_node()
        if conversion.get_type_name() == "Convert":
            for user in list(conversion.output(0).get_target_inputs()):
                user.replace_source_output(constant.output(0))
        else:
            consumer.replace_source_output(constant.output(0))


def _frequencies(shape: Shape) -> npt.NDArray[np.float32]:
    """Rotary frequencies (head_dim / 2,) as transformers computes them, in f32."""
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.int64).float() / shape.head_dim
    frequencies: npt.NDArray[np.float32] = (1.0 / (shape.rope_theta**exponents)).numpy()
    return frequencies
