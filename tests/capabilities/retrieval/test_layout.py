"""An index that is not what it was is not opened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from modelworks.capabilities.retrieval.layout import IndexCard, seal
from modelworks.capabilities.retrieval.search import Index
from modelworks.contract.errors import IntegrityFailed, InvalidData
from modelworks.kernel.catalog.checkpoint import check_folder


@pytest.fixture
def copy(hybrid: Path, tmp_path: Path) -> Path:
    return shutil.copytree(hybrid, tmp_path / "index")


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.name != "index.json")


def test_every_file_is_held_against_its_digest(copy: Path) -> None:
    assert len(names(copy)) == 12
    for name in names(copy):
        whole = (copy / name).read_bytes()
        for wrong in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-1], b"", None):
            (copy / name).unlink()
            if wrong is not None:
                (copy / name).write_bytes(wrong)
            else:
                (copy / name).symlink_to("/nowhere")
            with pytest.raises(IntegrityFailed, match=name):
                Index(copy)
            (copy / name).unlink()
            (copy / name).write_bytes(whole)
    Index(copy)


def test_the_catalog_takes_it(hybrid: Path) -> None:
    assert {file.path for file in check_folder(hybrid)} == {"index.json", *names(hybrid)}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.npy", np.array([99], np.uint32), "do not fit together|does not fit together"),
        ("terms.npy", np.array([0, 3], np.int64), "does not fit together"),
        ("starts.npy", np.zeros(3, np.float64), "other numbers"),
        ("vectors.npy", np.zeros((9, 3), np.int8), "another shape"),
        ("documents.npy", np.array([0, 5], np.int64), "do not fit together"),
        ("passages.npy", np.array([[{"a": 1}]], object), "cannot be read"),
    ],
)
def test_a_card_that_names_what_does_not_fit_helps_nobody(copy: Path, name: str, content: np.ndarray, message: str) -> None:
    np.save(copy / name, content, allow_pickle=True)
    seal(copy, IndexCard.model_validate_json((copy / "index.json").read_bytes()))
    with pytest.raises(IntegrityFailed, match=message):
        Index(copy)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": 2}, "at format"),
        ({"terms": 0}, "rules 0"),
        ({"more": 1}, "at more"),
        ({"dense_weight": 2}, "at dense_weight"),
    ],
)
def test_a_card_of_another_form_is_refused(copy: Path, changed: dict[str, object], message: str) -> None:
    card = json.loads((copy / "index.json").read_text())
    (copy / "index.json").write_text(json.dumps({**card, **changed}))
    with pytest.raises(InvalidData, match=message):
        Index(copy)


def test_files_that_the_card_leaves_out_are_missed(copy: Path) -> None:
    card = json.loads((copy / "index.json").read_text())
    del card["files"]["vectors.npy"]
    (copy / "index.json").write_text(json.dumps(card))
    with pytest.raises(IntegrityFailed, match="other files"):
        Index(copy)


def test_a_folder_without_an_index_is_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="no index of passages"):
        Index(tmp_path)
