"""What a training reads: the first error stops it, and says how many follow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelworks.capabilities.text.datasets import read_chat
from modelworks.contract.errors import InvalidData

GOOD = json.dumps({"messages": [{"role": "user", "content": "Rain?"}, {"role": "assistant", "content": "No."}]})
BAD = json.dumps({"messages": [{"role": "robot", "content": "Rain?"}]})


@pytest.mark.parametrize(
    ("lines", "end"),
    [
        ([GOOD, BAD, GOOD], "'robot'."),
        ([GOOD, BAD, GOOD, "{"], "One more error follows."),
        ([GOOD, BAD, *[GOOD, "{"] * 1500], "1,500 more errors follow."),
    ],
)
def test_the_first_error_is_named_and_the_others_are_counted(tmp_path: Path, lines: list[str], end: str) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(InvalidData, match=r'^a.jsonl, line 2, field "messages.0.role": The role is') as refused:
        list(read_chat(tmp_path))
    assert refused.value.message.endswith(end)
    assert "modelworks data validate" in str(refused.value.hint)
