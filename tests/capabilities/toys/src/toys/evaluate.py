"""The share of a text's words that a word list knows."""

from __future__ import annotations

import json
from collections.abc import Mapping

from modelworks.contract import Run
from toys.train import words_of


def coverage(run: Run, params: object) -> Mapping[str, float]:
    known = set(json.loads((run.model("model").path / "words.json").read_text()))
    words = list(words_of(run.dataset("test").path))
    return {"coverage": sum(word in known for word in words) / len(words)}
