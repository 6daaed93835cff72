"""Read a trained adapter and refuse one that was made for something else: other files, another base, another prompt format."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open

from modelworks.capabilities.text.engines.integrity import check_safetensors
from modelworks.capabilities.text.engines.probe import Probe
from modelworks.capabilities.text.schemas import ADAPTER_CONFIG, ADAPTER_FOLDER, ADAPTER_WEIGHTS, PROMPT_FORMAT
from modelworks.contract import LocalModel
from modelworks.contract.adapter import AdapterRecord, check_base
from modelworks.contract.errors import IntegrityFailed, InvalidData, InvalidRequest, UnsupportedParameter

_NAME = re.compile(r"^(?:base_model\.model\.)?model\.layers\.(\d+)\.(.+)\.lora_([AB])\.weight$")

#: What must be alike for one deployment to speak to both: the ids that end an answer may differ, as each has its own.
_SHARED = {"template": "the chat template", "tokenizer": "the tokenizer"}


@dataclass(frozen=True, slots=True)
class LowRank:
    """One linear layer's pair, the scale multiplied in: `a` (rank, inputs), `b` (outputs, rank)."""

    a: npt.NDArray[np.float32]
    b: npt.NDArray[np.float32]


#: Layer name ("3.mlp.up_proj") → pair.
Pairs = Mapping[str, LowRank]


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter whose files are those that were trained, for the base that it was trained on."""

    ref: str
    version_id: str
    folder: Path
    #: What its pairs are multiplied with.
    scale: float
    probe: Probe
    #: Every id that ends an answer of it.
    stop_ids: frozenset[int]

    @classmethod
    def of(cls, model: LocalModel, base: LocalModel, prompt_format: Mapping[str, Any]) -> Adapter:
        """Check an adapter against the base that is served.

        Args:
            model: a version that was trained as an adapter; its folder holds the merged weights, or the adapter alone.
            base: what the deployment serves.
            prompt_format: the record of the served format, `PromptFormat.record()`.

        Raises:
            InvalidRequest: it is no adapter, or one for another base; both are named.
            IntegrityFailed: a file, or the prompt format, is not the one it was trained with.
            UnsupportedParameter: it is of a kind that is no sum of low-rank pairs (DoRA).
            InvalidData: a file is missing or damaged.
        """
        record = AdapterRecord.of(model)
        check_base(model.ref, record, base.ref, base.digest)
        probe = Probe.of(model.metadata)
        if probe is None:
            raise InvalidRequest(
                f"The adapter {model.ref!r} carries no probe of the graph that was trained, so a load cannot be verified.",
                hint="Train it here, or deploy its merged weights.",
                code="adapter_without_probe",
            )
        found = model.metadata.get(PROMPT_FORMAT)
        trained: Mapping[str, Any] = found if isinstance(found, dict) else {}
        other = next((part for part in _SHARED if part not in trained or trained[part] != prompt_format[part]), None)
        if other is not None:
            raise IntegrityFailed(
                f"The adapter {model.ref!r} was trained with another prompt format than the base {base.ref!r} is served with: "
                f"{_SHARED[other]} was {_short(trained.get(other))} and is {_short(prompt_format[other])}.",
                hint="Deploy the merged weights, or train the adapter on a base with this format.",
                code="prompt_format_changed",
            )
        folder = model.path / ADAPTER_FOLDER if (model.path / ADAPTER_FOLDER).is_dir() else model.path
        _check_files(model.ref, folder, record.files)
        stop_ids = frozenset(int(token) for token in trained.get("stop_ids") or prompt_format["stop_ids"])
        return cls(model.ref, model.version_id, folder, _scale(model.ref, folder), probe, stop_ids)

    def pairs(self, layers: Sequence[str]) -> Pairs:
        """The pairs by layer, scaled, read from the file.

        Args:
            layers: the layers that the base has ("3.mlp.up_proj").

        Raises:
            InvalidRequest: it names a layer that the base does not have, or none at all.
            InvalidData: half of a pair is missing.
        """
        halves: dict[str, dict[str, Any]] = {}
        strange: list[str] = []
        with safe_open(self.folder / ADAPTER_WEIGHTS, framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118 - safe_open is no mapping
                match = _NAME.match(key)
                name = f"{match[1]}.{match[2]}" if match else ""
                if match is None or name not in layers:
                    strange.append(key)
                else:
                    halves.setdefault(name, {})[match[3]] = weights.get_tensor(key).to(torch.float32).numpy()
        if strange or not halves:
            what = f"names {strange[0]!r}, which is no layer of the base model" if strange else "holds no weights"
            raise InvalidRequest(
                f"The adapter {self.ref!r} {what}: it would change nothing there.",
                hint="Load it on the base that it was trained on.",
                code="adapter_matches_no_layer",
            )
        half = next((name for name, pair in halves.items() if len(pair) != 2), None)
        if half is not None:
            raise InvalidData(f"The adapter {self.ref!r} has half a pair for the layer {half}.", hint="Fetch it again.")
        return {name: LowRank(pair["A"], pair["B"] * np.float32(self.scale)) for name, pair in halves.items()}


def file_digests(folder: Path) -> dict[str, str]:
    """`sha256:…` of the files that make an adapter."""
    return {name: _digest(folder / name) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)}


def _check_files(ref: str, folder: Path, recorded: Mapping[str, str]) -> None:
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise InvalidData(f"The adapter {ref!r} has no {name}.", hint="Fetch it again.")
        found = _digest(folder / name)
        if recorded.get(name) != found:
            raise IntegrityFailed(
                f"The adapter {ref!r} is not the one that was trained: {name} was {_short(recorded.get(name))} and is "
                f"{_short(found)}.",
                hint="Restore the files that were trained.",
                code="adapter_changed",
            )
    check_safetensors(folder / ADAPTER_WEIGHTS)


def _scale(ref: str, folder: Path) -> float:
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text("utf-8"))
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (ValueError, KeyError, TypeError):
        raise InvalidData(f"{ADAPTER_CONFIG} of the adapter {ref!r} is damaged.", hint="Fetch it again.") from None
    for name in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save"):
        if config.get(name):
            raise UnsupportedParameter(
                f"The adapter {ref!r} was trained with {name}, which is no plain sum of low-rank pairs.",
                hint="Deploy its merged weights.",
                param="adapters",
            )
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def _short(digest: object) -> str:
    return digest[:19] + "…" if isinstance(digest, str) else "none"
