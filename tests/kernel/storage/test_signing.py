"""The key that reports are signed with: made once, kept from others, refused when it is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelworks.contract.errors import InvalidRequest
from modelworks.kernel.storage import ReportSigner
from modelworks.proof import covered, report_digest


def test_a_key_is_made_once_and_signs_the_same(tmp_path: Path) -> None:
    path = tmp_path / "report.key"
    first = ReportSigner(path)
    assert not path.exists(), "most servers never sign"
    signed = first.signed({"b": "ä", "a": 1})
    assert path.stat().st_mode & 0o777 == 0o600
    assert ReportSigner(path).signed({"a": 1, "b": "ä"}) == signed
    assert ReportSigner(path).public_key == signed["signature"]["public_key"]
    assert covered(signed) == '{"a":1,"b":"ä"}'.encode()
    assert report_digest(signed) == report_digest({"a": 1, "b": "ä"})


def test_a_damaged_key_signs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "report.key"
    path.write_bytes(b"short")
    with pytest.raises(InvalidRequest, match=r"report\.key"):
        ReportSigner(path).signed({})
