"""Fetched folders are recognised by what lies in them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.capabilities.embedding.conftest import write_random_encoder

from modelworks.capabilities.embedding.importing import import_encoder
from modelworks.kernel.catalog.importing import imported


def test_an_encoder_with_pooling_is_one_whatever_a_hub_calls_it(tmp_path: Path) -> None:
    folder = write_random_encoder(tmp_path / "model")
    assert imported(folder, tmp_path / "into") == (folder, {"task": "feature-extraction"})


def test_what_is_no_such_folder_is_left_to_others(tmp_path: Path) -> None:
    assert import_encoder(tmp_path, tmp_path / "into") is None
    for content in ("[", '{"a": 1}', json.dumps([{"type": "sentence_transformers.cross_encoder.CrossEncoder"}])):
        (tmp_path / "modules.json").write_text(content, "utf-8")
        assert import_encoder(tmp_path, tmp_path / "into") is None
