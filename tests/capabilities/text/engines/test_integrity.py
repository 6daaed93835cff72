"""Checkpoints that must not be opened."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from modelworks.capabilities.text.engines.integrity import check_checkpoint
from modelworks.contract import LocalModel
from modelworks.contract.errors import InvalidData, ModelworksError, UnsafeArtifact, UnsupportedArchitecture


@pytest.fixture
def copy(tmp_path: Path, model: LocalModel) -> Path:
    target = tmp_path / "copy"
    shutil.copytree(model.path, target)
    return target


def test_a_whole_checkpoint_passes(copy: Path) -> None:
    assert check_checkpoint(copy)["model_type"] == "qwen3"
    (copy / "training_args.bin").write_bytes(b"\x80\x04.")
    check_checkpoint(copy)


def header(file: Path, change: Callable[[dict[str, dict[str, object]]], None]) -> None:
    """Rewrite a file's header, leaving its data."""
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    described = json.loads(raw[8 : 8 + length])
    change(described)
    text = json.dumps(described).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def test_truncated_and_tampered_weights_are_named(copy: Path) -> None:
    file = copy / "model.safetensors"
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole + b"\0", whole[:4], whole[:100], b"\xff" * 8 + whole[8:], whole[:9] + b"}" + whole[10:]):
        file.write_bytes(damaged)
        with pytest.raises(InvalidData, match=r"model\.safetensors"):
            check_checkpoint(copy)
    file.write_bytes(whole)
    header(file, lambda described: described["model.norm.weight"].update(shape=[63]))
    with pytest.raises(InvalidData, match=r"model\.norm\.weight"):
        check_checkpoint(copy)
    file.write_bytes(whole)
    header(file, lambda described: described["model.norm.weight"].update(data_offsets=[-4, 252]))
    with pytest.raises(InvalidData):
        check_checkpoint(copy)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "model.pkl"])
def test_pickles_are_refused_with_the_reason(copy: Path, name: str) -> None:
    (copy / "model.safetensors").rename(copy / name)
    with pytest.raises(UnsafeArtifact, match="can run code") as caught:
        check_checkpoint(copy)
    assert "safetensors" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, InvalidData),
        ("{", InvalidData),
        ("[]", UnsupportedArchitecture),
        ("{}", UnsupportedArchitecture),
        (b"\xff\xfe", InvalidData),
    ],
)
def test_a_configuration_must_name_an_architecture(
    copy: Path, content: str | bytes | None, error: type[ModelworksError]
) -> None:
    config = copy / "config.json"
    config.unlink()
    if content is not None:
        config.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(error, match=r"config\.json"):
        check_checkpoint(copy)


def test_missing_weights_and_shards_are_named(copy: Path) -> None:
    (copy / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}})
    )
    with pytest.raises(InvalidData, match="model-00002-of-00002"):
        check_checkpoint(copy)
    (copy / "model.safetensors.index.json").unlink()
    (copy / "model.safetensors").unlink()
    with pytest.raises(InvalidData, match="no weights"):
        check_checkpoint(copy)
