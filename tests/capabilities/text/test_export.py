"""Models for other programs, and back: equal digests of meaning."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.capabilities.text.conftest import local

from modelworks.capabilities.text.export import export_model
from modelworks.capabilities.text.gguf_export import export
from modelworks.capabilities.text.gguf_file import GgufFile
from modelworks.capabilities.text.gguf_import import import_gguf
from modelworks.capabilities.text.meaning import Meaning, check_exported
from modelworks.capabilities.text.prompt_format import PromptFormat
from modelworks.capabilities.text.quantise import quantise
from modelworks.capabilities.text.schemas import ExportParams, QuantiseParams, ServeOptions
from modelworks.capabilities.text.serve import TransformersGenerator
from modelworks.contract import LocalModel
from modelworks.contract.errors import IntegrityFailed, InvalidData, InvalidRequest, ModelworksError, UnsupportedArchitecture
from modelworks.kernel.catalog.pulling import PullParams, pull
from modelworks.testing.fake_run import FakeRun


def exported(root: Path, model: LocalModel, **params: Any) -> tuple[Path, dict[str, Any]]:
    """The folder that an export run saves, and what it returns."""
    run = FakeRun(root, models={"model": model.model_copy(update={"licence": "apache-2.0"})})
    said = export_model(run, ExportParams(**params))
    (saved,) = run.saved
    assert saved.kind == "export"
    assert saved.metadata["meaning"] == said["meaning"]
    assert run.progress_points[-1].done == run.progress_points[-1].total
    return saved.path, said


@pytest.fixture(scope="module")
def meaning(model: LocalModel) -> Meaning:
    return Meaning.of(model.path)


@pytest.fixture(scope="module")
def gguf_folder(tmp_path_factory: pytest.TempPathFactory, model: LocalModel) -> Path:
    return exported(tmp_path_factory.mktemp("gguf"), model, to="gguf")[0]


@pytest.fixture(scope="module")
def int4(tmp_path_factory: pytest.TempPathFactory, model: LocalModel) -> LocalModel:
    run = FakeRun(tmp_path_factory.mktemp("int4"), models={"base": model})
    quantise(run, QuantiseParams(to=["int4"], num_threads=1, speed_tokens=1))
    return run.saved[0].model()


# -- there and back ------------------------------------------------------------------------------------------------------


def test_a_folder_comes_back_with_the_same_meaning(model: LocalModel, meaning: Meaning, tmp_path: Path) -> None:
    folder, said = exported(tmp_path, model, to="hf")
    assert said["meaning"] == {"digest": meaning.digest, "recorded": meaning.digest, "agrees": "exactly"}
    assert check_exported(folder, tmp_path / "into") == {"meaning": said["meaning"]}
    assert (folder / "model.safetensors").read_bytes() == (model.path / "model.safetensors").read_bytes()
    for name in ("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja", "prompt_format.json"):
        assert (folder / name).read_bytes() == (model.path / name).read_bytes()
    card = (folder / "README.md").read_text("utf-8")
    assert 'license: "apache-2.0"' in card
    assert meaning.digest in card
    assert {each["path"] for each in said["files"]} == {file.name for file in folder.iterdir()}


def test_a_gguf_file_comes_back_with_the_same_meaning(
    model: LocalModel, meaning: Meaning, gguf_folder: Path, tmp_path: Path
) -> None:
    found = import_gguf(gguf_folder, tmp_path / "back")
    assert found is not None
    assert found["meaning"] == {"digest": meaning.digest, "recorded": meaning.digest, "agrees": "exactly"}
    assert found["task"] == "text-generation"
    assert found["licence"] == "apache-2.0"
    assert found["prompt_format"] == model.metadata["prompt_format"]
    ours, theirs = load_file(tmp_path / "back" / "model.safetensors"), load_file(model.path / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == json.loads((model.path / "config.json").read_text())
    generator = TransformersGenerator(local(tmp_path / "back"), ServeOptions())
    generator.close()


@pytest.mark.parametrize(
    ("kind", "stored"), [("f16", "model.safetensors"), ("bf16", "model.safetensors"), ("q8_0", "model.gguf")]
)
def test_rounded_numbers_agree_within_their_tolerance(model: LocalModel, kind: str, stored: str, tmp_path: Path) -> None:
    folder, said = exported(tmp_path, model, to="gguf", kind=kind)
    assert said["meaning"]["agrees"] == "within tolerance"
    import_gguf(folder, tmp_path / "back")
    assert (tmp_path / "back" / stored).is_file()


@pytest.mark.parametrize("to", ["gguf", "hf"])
def test_a_quantised_version_means_the_same_in_both_layouts(int4: LocalModel, to: str, tmp_path: Path) -> None:
    folder, said = exported(tmp_path, int4, to=to)
    assert said["meaning"]["agrees"] == "exactly"
    if to == "gguf":
        assert (folder / "model.gguf").stat().st_size < 2 * (int4.path / "model.gguf").stat().st_size


def test_a_llama_comes_back_with_its_rotary_rows_in_order(stories: LocalModel, tmp_path: Path) -> None:
    _, said = exported(tmp_path, stories, to="gguf")
    assert said["meaning"]["agrees"] == "exactly"


@pytest.mark.parametrize("to", ["gguf", "hf"])
def test_a_pull_says_that_the_meaning_came_back(
    model: LocalModel, meaning: Meaning, to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELWORKS_HOME", str(tmp_path / "home"))
    folder, _ = exported(tmp_path / "export", model, to=to)
    run = FakeRun(tmp_path / "pull")
    pull(run, PullParams(source=(folder / "model.gguf" if to == "gguf" else folder).as_uri()))
    (saved,) = run.saved
    assert (saved.metadata["task"], saved.metadata["licence"]) == ("text-generation", "apache-2.0")
    assert saved.metadata["meaning"] == {"digest": meaning.digest, "recorded": meaning.digest, "agrees": "exactly"}
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= {file.name for file in saved.path.iterdir()}


def test_changed_exports_are_refused_with_the_difference(model: LocalModel, tmp_path: Path) -> None:
    folder, _ = exported(tmp_path, model, to="hf")
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    save_file({**weights, name: 2 * weights[name]}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(IntegrityFailed, match=r"logits differ by \d.*where 0\.0\d+ is allowed"):
        check_exported(folder, tmp_path / "into")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text("utf-8").replace("assistant", "model"), "utf-8")
    with pytest.raises(IntegrityFailed, match="prompt format was sha256"):
        check_exported(folder, tmp_path / "into")
    (folder / "meaning.json").write_text('{"logits": 1}')
    with pytest.raises(InvalidData, match="damaged"):
        check_exported(folder, tmp_path / "into")
    (folder / "meaning.json").write_text('{"other": 1}')
    assert check_exported(folder, tmp_path / "into") is None


# -- files from elsewhere ------------------------------------------------------------------------------------------------


def stripped(gguf_folder: Path, target: Path, drop: Callable[[str], bool], **changed: Any) -> Path:
    """The file again with other settings, as another program might have written it."""
    reader = gguf.GGUFReader(gguf_folder / "model.gguf")
    writer = gguf.GGUFWriter(target, "qwen3")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or drop(key):
            continue
        value = changed.get(key, field.contents())
        inner = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(key, value, field.types[0], inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def test_a_file_without_our_keys_is_read_by_those_of_the_specification(
    model: LocalModel, meaning: Meaning, gguf_folder: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    stripped(gguf_folder, source / "other.gguf", lambda key: key.startswith("modelworks."))
    found = import_gguf(source, tmp_path / "back")
    assert found is not None
    assert found["meaning"]["agrees"] is None
    assert Meaning.of(tmp_path / "back").logits == meaning.logits
    ours = PromptFormat.of(tmp_path / "back")
    assert ours.template == model.metadata["prompt_format"]["template"]


def test_a_vocabulary_with_merges_becomes_a_tokenizer(model: LocalModel, gguf_folder: Path, tmp_path: Path) -> None:
    def theirs(key: str) -> bool:
        return key.startswith("modelworks.") or key == "tokenizer.huggingface.json"

    source = tmp_path / "source"
    source.mkdir()
    stripped(gguf_folder, source / "other.gguf", theirs)
    import_gguf(source, tmp_path / "back")
    ours, own = PromptFormat.of(tmp_path / "back").tokenizer, PromptFormat.of(model.path).tokenizer
    for text in ("The pump starts.", "<|im_start|>user\nWhy?<|im_end|>\n", "水泵 valve  two"):
        assert ours(text)["input_ids"] == own(text)["input_ids"]
        assert ours.decode(ours(text)["input_ids"]) == text
    stripped(gguf_folder, source / "other.gguf", theirs, **{"tokenizer.ggml.pre": "unheard-of"})
    with pytest.raises(InvalidData, match="tokenizer as 'gpt2' \\('unheard-of'\\)") as caught:
        import_gguf(source, tmp_path / "again")
    assert "tokenizer.json beside" in (caught.value.hint or "")
    shutil.copyfile(model.path / "tokenizer.json", source / "tokenizer.json")
    assert import_gguf(source, tmp_path / "beside") is not None


def test_what_cannot_be_chosen_or_read_is_said(model: LocalModel, gguf_folder: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    shutil.copytree(model.path, both)
    shutil.copyfile(gguf_folder / "model.gguf", both / "model.gguf")
    assert import_gguf(both, tmp_path / "into") is None, "another copy of the safetensors"
    two = tmp_path / "two"
    two.mkdir()
    for name in ("a.gguf", "b.gguf"):
        shutil.copyfile(gguf_folder / "model.gguf", two / name)
    with pytest.raises(InvalidRequest, match=r"2 GGUF files: a\.gguf, b\.gguf"):
        import_gguf(two, tmp_path / "into")
    (two / "b.gguf").unlink()
    (two / "a.gguf").write_bytes((gguf_folder / "model.gguf").read_bytes().replace(b"qwen3", b"gwen3"))
    with pytest.raises(UnsupportedArchitecture, match="'gwen3'"):
        import_gguf(two, tmp_path / "into")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("qwen3.block_count", 3, "layers 2, its header 3|num_layers 2, its header 3"),
        ("qwen3.embedding_length", 32, "hidden_size 64, its header 32"),
        ("qwen3.rope.freq_base", 5.0, "rope_theta"),
        ("qwen3.attention.head_count", 0, "attention.head_count is 0"),
        ("modelworks.file.config.json", "[1]", "no JSON object"),
        ("modelworks.file.config.json", "{", "cannot be read"),
        ("modelworks.file.config.json", "[" * 100_000, "cannot be read"),
        ("modelworks.file.config.json", '{"model_type": "qwen3", "num_attention_heads": "two"}', "not one of a qwen3"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(
    gguf_folder: Path, tmp_path: Path, key: str, value: Any, said: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    stripped(gguf_folder, source / "model.gguf", lambda _: False, **{key: value})
    with pytest.raises(InvalidData, match=said):
        import_gguf(source, tmp_path / "back")


def test_matrices_that_do_not_fit_the_header_are_refused(gguf_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    ours = "modelworks."
    stripped(gguf_folder, source / "model.gguf", lambda key: key.startswith(ours), **{"qwen3.feed_forward_length": 96})
    huge = {"qwen3.block_count": 1 << 31}
    other = tmp_path / "other"
    other.mkdir()
    stripped(gguf_folder, other / "model.gguf", lambda key: key.startswith(ours), **huge)
    with pytest.raises(InvalidData, match=f"weights of 2 layers and says {1 << 31}"):
        import_gguf(other, tmp_path / "huge")
    with pytest.raises(InvalidData, match=r"blk\.0\.ffn_gate\.weight has the shape \[128, 64\] where \[96, 64\] belongs"):
        import_gguf(source, tmp_path / "back")


# -- hostile files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0, 3, 10, 23, 24, 30, 200, 2000, 20_000, 200_000])
def test_a_truncated_file_is_refused_wherever_it_ends(gguf_folder: Path, tmp_path: Path, part: int) -> None:
    whole = (gguf_folder / "model.gguf").read_bytes()
    (tmp_path / "model.gguf").write_bytes(whole[:part])
    with pytest.raises(InvalidData, match="truncated"):
        GgufFile(tmp_path / "model.gguf")
    (tmp_path / "model.gguf").write_bytes(whole[:-1])
    with pytest.raises(InvalidData, match=f"has {len(whole) - 1} bytes where its header asks for"):
        GgufFile(tmp_path / "model.gguf")


def header(*, version: int = 3, tensors: int = 0, fields: int = 0, body: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, fields) + body


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def tensor(name: str, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"NOPE" + bytes(40), "does not begin"),
        (header(version=99), "version is 99"),
        (header(tensors=1 << 60), "no model has"),
        (header(fields=1 << 60), "no model has"),
        (header(fields=1, body=struct.pack("<Q", 1 << 62)), "name of"),
        (header(fields=1, body=text("k") + struct.pack("<IQ", 8, 1 << 62)), "truncated"),
        (header(fields=1, body=text("k") + struct.pack("<IIQ", 9, 8, 1 << 40)), "more than"),
        (header(fields=1, body=text("k") + struct.pack("<IIQ", 9, 4, 1 << 20)), "truncated"),
        (header(fields=1, body=text("k") + struct.pack("<IIQ", 9, 9, 1)), "holds the kind 9"),
        (header(fields=1, body=text("k") + struct.pack("<I", 77)), "unknown kind 77"),
        (header(fields=1, body=struct.pack("<Q", 2) + b"\xff\xfe" + struct.pack("<I", 0)), "not UTF-8"),
        (header(fields=2, body=2 * (text("k") + struct.pack("<IB", 0, 1))), "twice"),
        (header(fields=1, body=text("general.alignment") + struct.pack("<II", 4, 3)), "no power of two"),
        (header(tensors=1, body=tensor("t", (4, 1 << 62), 0, 0)), "truncated"),
        (header(tensors=1, body=tensor("t", (0,), 0, 0)), "cannot store"),
        (header(tensors=1, body=tensor("t", (33,), 8, 0)), "cannot store"),
        (header(tensors=1, body=tensor("t", (4,), 250, 0)), "unknown kind 250"),
        (header(tensors=1, body=tensor("t", (1,) * 9, 0, 0)), "9 dimensions"),
        (header(tensors=2, body=tensor("a", (8,), 0, 0) + tensor("b", (8,), 0, 0)) + bytes(64), "inside another"),
        (header(tensors=2, body=tensor("a", (8,), 0, 0) + tensor("a", (8,), 0, 32)) + bytes(256), "twice"),
        (header(tensors=1, body=tensor("a", (8,), 0, 7)) + bytes(256), "unaligned"),
    ],
)
def test_a_hostile_header_is_refused_at_once(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "model.gguf").write_bytes(data.ljust(24, b"\0"))
    with pytest.raises(InvalidData, match=said) as caught:
        import_gguf(tmp_path, tmp_path / "back")
    assert caught.value.hint


def test_noise_in_the_header_never_gets_through_unsaid(gguf_folder: Path, tmp_path: Path) -> None:
    whole = bytearray((gguf_folder / "model.gguf").read_bytes())
    chance = np.random.default_rng(5)
    refused = 0
    for _ in range(60):
        spoilt = bytearray(whole)
        for place in chance.integers(0, 1500, 3):
            spoilt[int(place)] = int(chance.integers(0, 256))
        (tmp_path / "model.gguf").write_bytes(spoilt)
        try:
            GgufFile(tmp_path / "model.gguf")
        except ModelworksError:
            refused += 1
    assert refused > 10


def test_the_formats_own_reader_opens_what_is_exported(gguf_folder: Path, model: LocalModel) -> None:
    reader = gguf.GGUFReader(gguf_folder / "model.gguf")
    assert reader.fields["tokenizer.chat_template"].contents() == (model.path / "chat_template.jinja").read_text("utf-8")
    assert reader.fields["tokenizer.ggml.eos_token_id"].contents() == model.metadata["prompt_format"]["stop_ids"][-1]
    assert reader.fields["general.license"].contents() == "apache-2.0"
    export(model.path, gguf_folder.parent / "plain.gguf")
    assert "tokenizer.huggingface.json" not in gguf.GGUFReader(gguf_folder.parent / "plain.gguf").fields
