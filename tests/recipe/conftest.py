"""A recipe over files that a test writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

RECIPE = """
name = "small"
summary = "A test"
licence = "mit"

[text]
held_out = 0.2

[[source]]
name = "english"
root = "recipe"
files = ["en/*.txt"]
exclude = ["*/draft*"]
language = "en"
licence = "MIT"
origin = "us"

[[source]]
name = "chinese"
root = "recipe"
files = ["zh.jsonl"]
form = "jsonl"
language = "zh"
licence = "CC0-1.0"
origin = "them"
min_chars = 5

[[stage]]
name = "reading"
data = "text"
params = { tokens = 1000, hidden_size = 64 }
small = { hidden_size = 16 }
"""


def sentence(number: int) -> str:
    return f"Document {number} tells how the river number {number * 7} was crossed on a raft of {number + 3} logs.\n"


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    folder = tmp_path / "recipe"
    (folder / "en").mkdir(parents=True)
    for number in range(20):
        (folder / "en" / f"{number:02}.txt").write_text(sentence(number))
    (folder / "en" / "draft.txt").write_text("A draft that nobody shall read, however long it may become in the end.")
    lines: list[dict[str, Any]] = [{"text": f"第{number}篇讲述如何渡过那条河流。"} for number in range(10)]
    (folder / "zh.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "recipe.toml").write_text(RECIPE)
    return folder / "recipe.toml"
