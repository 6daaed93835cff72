"""What is refused before it is stored: pickles, links, truncated and inconsistent checkpoints."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.kernel.catalog.samples import Put, safetensors, write_checkpoint

from modelworks.contract.errors import InvalidData, InvalidRequest, PayloadTooLarge, UnsafeArtifact
from modelworks.kernel.catalog.checkpoint import (
    BlobFile,
    FolderFile,
    Limits,
    check_contents,
    check_folder,
    detect_task,
    pickle_reason,
    safetensors_header,
)
from modelworks.kernel.storage import BlobStore


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, ("true",))


def as_file(tmp_path: Path, data: bytes, name: str = "model.safetensors") -> FolderFile:
    place = tmp_path / "under-test"
    place.write_bytes(data)
    return FolderFile(name, len(data), place)


GOOD = safetensors({"a": ("F32", [2, 3], bytes(24)), "b": ("BF16", [], bytes(2)), "c": ("I64", [0, 4], b"")}, {"format": "pt"})


class TestSafetensors:
    def test_reads_names_types_and_shapes(self, tmp_path: Path) -> None:
        assert safetensors_header(as_file(tmp_path, GOOD)) == {"a": ("F32", (2, 3)), "b": ("BF16", ()), "c": ("I64", (0, 4))}

    @given(cut=st.integers(0, len(GOOD) - 1))
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
    def test_any_truncation_is_found(self, tmp_path: Path, cut: int) -> None:
        with pytest.raises(InvalidData) as caught:
            safetensors_header(as_file(tmp_path, GOOD[:cut]))
        assert caught.value.error_code == "truncated_checkpoint"
        assert "model.safetensors" in caught.value.message
        assert f"found {cut}" in caught.value.message

    @given(
        shapes=st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=5),
        cut=st.integers(1, 200),
        tail=st.binary(min_size=1, max_size=5),
    )
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
    def test_any_file_truncated_or_continued(self, tmp_path: Path, shapes: list[list[int]], cut: int, tail: bytes) -> None:
        tensors = {}
        for number, shape in enumerate(shapes):
            size = 1
            for length in shape:
                size *= length
            tensors[f"t{number}"] = ("F16", shape, bytes(2 * size))
        whole = safetensors(tensors)
        assert len(safetensors_header(as_file(tmp_path, whole))) == len(shapes)
        for broken in (whole[: max(0, len(whole) - cut)], whole + tail):
            with pytest.raises(InvalidData):
                safetensors_header(as_file(tmp_path, broken))

    def test_says_expected_and_found(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidData, match=f"expected {len(GOOD)} bytes, found {len(GOOD) - 5}"):
            safetensors_header(as_file(tmp_path, GOOD[:-5]))

    @pytest.mark.parametrize(
        "entry",
        [
            {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
            {"dtype": "F99", "shape": [1], "data_offsets": [0, 8]},
            {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
            {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
            {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]},
            {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
            {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]},
            ["F32"],
        ],
    )
    def test_inconsistent_headers(self, tmp_path: Path, entry: object) -> None:
        header = json.dumps({"t": entry}).encode()
        with pytest.raises(InvalidData) as caught:
            safetensors_header(as_file(tmp_path, struct.pack("<Q", len(header)) + header + bytes(8)))
        assert caught.value.error_code == "invalid_checkpoint"

    def test_overlapping_tensors_and_repeated_names(self, tmp_path: Path) -> None:
        one = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
        for header in (f'{{"a":{one},"b":{one}}}'.encode(), f'{{"a":{one},"a":{one}}}'.encode(), b"[]", b"{", b"\xff"):
            with pytest.raises(InvalidData):
                safetensors_header(as_file(tmp_path, struct.pack("<Q", len(header)) + header + bytes(8)))

    def test_a_header_that_claims_to_be_huge_is_not_read(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidData, match="header claims"):
            safetensors_header(as_file(tmp_path, struct.pack("<Q", 1 << 60) + bytes(100)))


class TestPickles:
    @pytest.mark.parametrize(
        "name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "x.pkl", "x.pickle", "x.joblib", "X.PT"]
    )
    def test_refused_by_name(self, tmp_path: Path, name: str) -> None:
        (write_checkpoint(tmp_path / "model") / name).write_bytes(b"harmless")
        with pytest.raises(UnsafeArtifact) as caught:
            check_folder(tmp_path / "model")
        assert name in caught.value.message
        assert "safetensors" in (caught.value.hint or "")

    @pytest.mark.parametrize("protocol", range(6))
    def test_refused_by_content(self, tmp_path: Path, protocol: int) -> None:
        for value in (Evil(), {"weights": [1, 2, 3]}):
            (write_checkpoint(tmp_path / "model") / "extra.dat").write_bytes(pickle.dumps(value, protocol))
            with pytest.raises(UnsafeArtifact, match=r"extra\.dat"):
                check_folder(tmp_path / "model")

    def test_a_large_pickle_is_known_by_its_start(self, tmp_path: Path) -> None:
        data = pickle.dumps({"weights": os.urandom(300_000)}, 4)
        assert pickle_reason(as_file(tmp_path, data, "weights.dat")) is not None

    def test_refused_inside_archives(self, tmp_path: Path) -> None:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({}))
            archive.writestr("archive/data/0", bytes(100))
        assert "data.pkl" in (pickle_reason(as_file(tmp_path, packed.getvalue(), "weights.dat")) or "")

    def test_numpy_objects_are_pickles_and_numbers_are_not(self, tmp_path: Path) -> None:
        def npy(descr: str) -> bytes:
            header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (1,), }}".ljust(117).encode() + b"\n"
            return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(8)

        assert pickle_reason(as_file(tmp_path, npy("<f8"), "array.npy")) is None
        assert "NumPy" in (pickle_reason(as_file(tmp_path, npy("|O"), "array.npy")) or "")
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("inner.npy", npy("|O"))
        assert "inner.npy" in (pickle_reason(as_file(tmp_path, packed.getvalue(), "arrays.npz")) or "")

    def test_an_array_that_cannot_be_read_hides_nothing(self, tmp_path: Path) -> None:
        def packed(*names: str) -> bytes:
            made = io.BytesIO()
            with zipfile.ZipFile(made, "w") as archive:
                for name in names:
                    archive.writestr(name, b"nothing that matters")
            # The way of packing of the first member, in its own head and in the directory: 99 is known to no reader here.
            content = bytearray(made.getvalue())
            directory = content.index(b"PK\x01\x02")
            content[8:10] = content[directory + 10 : directory + 12] = (99).to_bytes(2, "little")
            return bytes(content)

        assert "data.pkl" in (pickle_reason(as_file(tmp_path, packed("a.npy", "x/data.pkl"), "hidden.dat")) or "")
        assert "cannot be read" in (pickle_reason(as_file(tmp_path, packed("a.npy"), "unread.npz")) or "")

    @pytest.mark.parametrize(
        "text",
        [
            "cat\ndog\nemu\nbird\nRabbit\n.\n",
            "(def) some text.",
            "import os\nprint(1)\n",
            "#version: 0.2\nĠ t\nĠ a\nh e\n",
            "{}",
            "",
            "合同审查",
        ],
    )
    def test_text_is_no_pickle(self, tmp_path: Path, text: str) -> None:
        assert pickle_reason(as_file(tmp_path, text.encode(), "vocab.txt")) is None

    @given(st.text(max_size=300))
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
    def test_words_are_no_pickle(self, tmp_path: Path, text: str) -> None:
        assert pickle_reason(as_file(tmp_path, ("# " + text).encode(), "notes.txt")) is None

    def test_openvino_weights_and_binary_data_sets_are_allowed(self, tmp_path: Path) -> None:
        folder = write_checkpoint(tmp_path / "model")
        (folder / "openvino_model.bin").write_bytes(bytes(range(256)))
        with pytest.raises(UnsafeArtifact):
            check_folder(folder)
        (folder / "openvino_model.xml").write_text("<net/>")
        check_folder(folder)
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "readings.bin").write_bytes(bytes(range(256)))
        check_folder(tmp_path / "data", kind="dataset")


class TestFolder:
    def test_lists_a_good_one(self, tmp_path: Path) -> None:
        files = check_folder(write_checkpoint(tmp_path / "model"))
        assert [file.path for file in files] == ["README.md", "config.json", "model.safetensors", "tokenizer.json"]

    def test_links(self, tmp_path: Path) -> None:
        folder = write_checkpoint(tmp_path / "model")
        (folder / "same.json").symlink_to("config.json")
        assert len(check_folder(folder)) == 5
        for target in ("/etc/hostname", "../outside.txt", "nowhere"):
            (tmp_path / "outside.txt").write_text("secret")
            (folder / "link").symlink_to(target)
            with pytest.raises(UnsafeArtifact, match="link"):
                check_folder(folder)
            (folder / "link").unlink()
        (folder / "loop").symlink_to(".")
        with pytest.raises(UnsafeArtifact, match="loop"):
            check_folder(folder)

    def test_special_files_missing_and_empty(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match="does not exist"):
            check_folder(tmp_path / "nowhere")
        (tmp_path / "empty").mkdir()
        with pytest.raises(InvalidRequest, match="no files"):
            check_folder(tmp_path / "empty")
        os.mkfifo(tmp_path / "empty" / "pipe")
        with pytest.raises(UnsafeArtifact, match="plain file"):
            check_folder(tmp_path / "empty")

    def test_limits(self, tmp_path: Path) -> None:
        folder = write_checkpoint(tmp_path / "model")
        with pytest.raises(PayloadTooLarge):
            check_folder(folder, limits=Limits(max_files=3))
        with pytest.raises(PayloadTooLarge):
            check_folder(folder, limits=Limits(max_bytes=10))

    def test_broken_config(self, tmp_path: Path) -> None:
        folder = write_checkpoint(tmp_path / "model")
        for text in ("{", "[]", '{"a": ' * 100_000):
            (folder / "config.json").write_text(text)
            with pytest.raises(InvalidData, match=r"config\.json"):
                check_folder(folder)

    def test_shards_by_index(self, tmp_path: Path) -> None:
        folder = tmp_path / "model"
        folder.mkdir()
        shards = {f"model-0000{number}-of-00002.safetensors": f"t{number}" for number in (1, 2)}
        for name, tensor in shards.items():
            (folder / name).write_bytes(safetensors({tensor: ("U8", [1], b"x")}))
        index = folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {tensor: name for name, tensor in shards.items()}}))
        check_folder(folder)

        index.write_text(json.dumps({"weight_map": {"t1": "model-00002-of-00002.safetensors"}}))
        with pytest.raises(InvalidData, match="'t1'"):
            check_folder(folder)
        index.write_text(json.dumps({"weight_map": {"t1": "other.safetensors"}}))
        with pytest.raises(InvalidData, match=r"other\.safetensors") as caught:
            check_folder(folder)
        assert caught.value.error_code == "incomplete_checkpoint"
        index.unlink()
        (folder / "model-00001-of-00002.safetensors").unlink()
        with pytest.raises(InvalidData, match=r"model-00001-of-00002\.safetensors"):
            check_folder(folder)

    def test_the_same_checks_in_the_storage(self, put: Put, blobs: BlobStore) -> None:
        files = put({"model.safetensors": GOOD, "config.json": b"{}"})
        check_contents([BlobFile.of(file, blobs) for file in files])
        files = put({"model.safetensors": GOOD[:-1]})
        with pytest.raises(InvalidData, match="truncated"):
            check_contents([BlobFile.of(file, blobs) for file in files])


def test_task_by_architecture() -> None:
    assert detect_task({"architectures": ["LlamaForCausalLM"]}) == "text-generation"
    assert detect_task({"architectures": ["BertForSequenceClassification"]}) == "text-classification"
    assert detect_task({"architectures": ["BertModel"]}) is None
    assert detect_task({"architectures": [3]}) is None
    assert detect_task({"architectures": "x"}) is None
