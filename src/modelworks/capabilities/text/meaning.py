"""What a model means, whatever files it lies in: how it is spoken to, and what it computes.

Two folders with equal digests of meaning render the same prompts into the same ids and give the same logits, bit for bit, on
one machine: the digest is over the format's digest and over the f32 logits of fixed rows of ids, computed by torch on one
thread. On another machine sums may be ordered otherwise; there the kept logits are compared within a tolerance.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modelworks.capabilities.text.engines.integrity import check_checkpoint
from modelworks.capabilities.text.engines.probe import Probe
from modelworks.capabilities.text.engines.tolerance import READ_TOLERANCE, allowed_difference
from modelworks.capabilities.text.engines.transformers_model import load_model
from modelworks.capabilities.text.prompt_format import PromptFormat
from modelworks.capabilities.text.weights import read_object
from modelworks.contract.errors import IntegrityFailed, InvalidData

#: Lies in an exported folder, and inside a complete GGUF file.
FILE = "meaning.json"
#: The key in a version's metadata.
METADATA_KEY = "meaning"
_NUM_ROWS, _ROW_LENGTH = 4, 24


@dataclass(frozen=True, slots=True)
class Meaning:
    """The digest of the prompt format, that of the logits, and some of the logits themselves."""

    prompt_format: str
    logits: str
    probe: Probe

    @classmethod
    def of(cls, folder: Path) -> Meaning:
        """Compute it for a folder.

        Raises:
            InvalidData, UnsupportedArchitecture: the folder is damaged, or no model that is known here.
        """
        check_checkpoint(folder)
        prompt_format = PromptFormat.of(folder)
        model = load_model(folder, torch.float32)
        digest = hashlib.sha256()
        rows = np.random.default_rng(0).integers(0, prompt_format.vocab_size, (_NUM_ROWS, _ROW_LENGTH)).tolist()
        with _one_thread(), torch.no_grad():
            for row in rows:
                logits_tv = model(input_ids=torch.tensor([row]), use_cache=False).logits[0].float()
                digest.update(logits_tv.numpy().astype("<f4").tobytes())
            probe = Probe.taken(model, rows[0])
        return cls(prompt_format.digest, f"sha256:{digest.hexdigest()}", probe)

    @classmethod
    def recorded(cls, record: Mapping[str, Any]) -> Meaning:
        """What `record` gave; raises InvalidData where it is something else."""
        probe = Probe.of({"probe": record.get("probe")})
        try:
            if probe is None:
                raise KeyError("probe")
            return cls(str(record["prompt_format"]), str(record["logits"]), probe)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidData(f"The record {FILE} is damaged: {error}.", hint="Export the model again.") from None

    @property
    def digest(self) -> str:
        """`sha256:…` over format and logits."""
        return "sha256:" + hashlib.sha256(f"{self.prompt_format}\n{self.logits}".encode()).hexdigest()

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "digest": self.digest,
            "prompt_format": self.prompt_format,
            "logits": self.logits,
            "probe": self.probe.record(),
        }

    def write(self, folder: Path) -> None:
        """Leave the record in a folder."""
        (folder / FILE).write_text(json.dumps(self.record(), indent=2, sort_keys=True) + "\n", "utf-8")


def check_exported(folder: Path, _into: Path) -> Mapping[str, Any] | None:
    """Hold a fetched folder against the record that its export left in it; None where that is no business of ours.

    Raises:
        IntegrityFailed: it means something else than what was exported.
        InvalidData: a file is missing or damaged.
    """
    if "logits" not in read_object(folder / FILE) or not (folder / "config.json").is_file():
        return None
    return {METADATA_KEY: agreement(folder, Meaning.of(folder), READ_TOLERANCE)}


def agreement(folder: Path, found: Meaning, tolerance: float) -> dict[str, Any]:
    """How a folder's meaning stands to the one that is recorded in it: `{"digest", "recorded", "agrees"}`.

    `agrees` is `exactly`, `within tolerance` (another machine, or weights that were rounded on the way), or None where nothing
    is recorded.

    Args:
        tolerance: the largest accepted difference of a logit, for logits whose spread is 1 or less.

    Raises:
        IntegrityFailed: it means something else; the message shows by how much.
    """
    record = read_object(folder / FILE)
    if not record:
        return {"digest": found.digest, "recorded": None, "agrees": None}
    recorded = Meaning.recorded(record)
    if found.prompt_format != recorded.prompt_format:
        raise IntegrityFailed(
            f"{folder.name!r} is not spoken to as it was exported: its prompt format was {recorded.prompt_format[:19]}… and is "
            f"{found.prompt_format[:19]}….",
            hint="Export the model again, and change none of its files.",
            code="meaning_changed",
        )
    if found.digest != recorded.digest:
        _compare(found.probe, recorded.probe, tolerance, folder.name)
        return {"digest": found.digest, "recorded": recorded.digest, "agrees": "within tolerance"}
    return {"digest": found.digest, "recorded": recorded.digest, "agrees": "exactly"}


def _compare(found: Probe, recorded: Probe, tolerance: float, name: str) -> None:
    """Hold the logits that both kept against each other: the highest may be others, those from all over are the same."""
    common = found.logits.keys() & recorded.logits.keys() if found.ids == recorded.ids else set()
    difference = max((abs(found.logits[token] - recorded.logits[token]) for token in common), default=math.inf)
    allowed = allowed_difference(tolerance, recorded.spread)
    if not difference <= allowed:
        raise IntegrityFailed(
            f"{name!r} does not compute what it did when it was exported: its logits differ by {difference:.3g}, "
            f"where {allowed:.3g} is allowed.",
            hint="Export the model again, and change none of its files.",
            code="meaning_changed",
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
