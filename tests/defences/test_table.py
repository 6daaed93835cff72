"""The table of defences names tests that exist."""

from __future__ import annotations

import re

from tests.architecture.sources import PROJECT

PAGE = PROJECT / "docs" / "explanation" / "defences.md"


def test_every_defence_has_a_test() -> None:
    rows = [row for row in PAGE.read_text("utf-8").splitlines() if row.startswith("| ") and not row.endswith("| | |")][1:]
    assert len(rows) > 25
    for row in rows:
        named = re.search(r"`([\w./]+\.py)(?:::(\w+))?` \|$", row)
        assert named is not None, f"no test: {row}"
        file = PROJECT / "tests" / named[1]
        assert file.is_file(), row
        assert named[2] is None or re.search(rf"^\s*(?:async )?(?:def|class) {named[2]}\b", file.read_text("utf-8"), re.M), row
