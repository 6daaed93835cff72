"""Contents that the catalog's tests register, and who registers them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from modelworks.contract.media import File

ALICE = "prj_alice"
BOB = "prj_bob"

Put = Callable[[Mapping[str, bytes]], list[File]]


def safetensors(tensors: Mapping[str, tuple[str, list[int], bytes]], metadata: Mapping[str, str] | None = None) -> bytes:
    """A file of the safetensors format: 8 bytes of length, a JSON header, the data."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + len(data)]}
        position += len(data)
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + b"".join(data for _, _, data in tensors.values())


def write_checkpoint(folder: Path, *, licence: str = "apache-2.0") -> Path:
    """A tiny causal language model's folder: config, weights, tokenizer, card."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["Qwen3ForCausalLM"], "hidden_size": 4}))
    weights = safetensors({"embed": ("F32", [2, 2], b"\x00" * 16), "norm": ("BF16", [4], b"\x01" * 8)})
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text(f"---\nlicense: {licence}\ntags: [tiny]\n---\n# A tiny model\n", encoding="utf-8")
    return folder
