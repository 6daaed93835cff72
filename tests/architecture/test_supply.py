"""What comes along with the platform: licences and vulnerabilities are judged, and an absent service is not a clean answer."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from types import ModuleType
from typing import Any

import pytest
from tests.architecture.sources import PROJECT


@pytest.fixture(scope="module")
def supply() -> ModuleType:
    spec = importlib.util.spec_from_file_location("supply", PROJECT / ".ci" / "supply.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize(
    ("said", "family"),
    [
        ("MIT", "permissive"),
        ("Apache License, Version 2.0", "permissive"),
        ("BSD License, Apache Software License", "permissive"),
        ("Apache-2.0 AND Apache-2.0 WITH LLVM-exception AND BSL-1.0", "permissive"),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", "weak"),
        ("GPL-3.0-or-later OR MIT", "permissive"),
        ("GPL-2.0-only AND MIT", "copyleft"),
        ("AGPL-3.0-only", "copyleft"),
        ("GNU Affero General Public License v3", "copyleft"),
        ("LGPL-3.0-only", "copyleft"),
        ("GPLv2", "copyleft"),
        ("not stated", "unknown"),
        ("LicenseRef-NVIDIA-Proprietary", "copyleft"),
    ],
)
def test_a_licence_is_of_one_family(supply: ModuleType, said: str, family: str) -> None:
    assert supply.family_of(said) == family


def test_what_comes_along_is_free_and_the_core_free_of_copyleft(supply: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert supply.licence_faults() == []
    core = supply.closure({"server", "text"})
    assert {"fastapi", "starlette", "torch", "argon2-cffi", "cffi"} <= core, "also what others bring along"
    assert not core & supply.JUDGED.keys()
    # What is judged for a seam is not judged for the core, and what is new is not judged at all.
    monkeypatch.setattr(supply, "licence", lambda found: "GPLv2" if found.metadata["Name"] in ("fastapi", "psycopg") else "MIT")
    (fault,) = supply.licence_faults()
    assert fault.startswith("fastapi")
    assert "in the core" in fault


def answer(monkeypatch: pytest.MonkeyPatch, said: Any) -> None:
    text = said if isinstance(said, str) else json.dumps({"dependencies": said})
    done = subprocess.CompletedProcess([], 1, text, "…\nConnectionError: no route to host")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)


def test_a_vulnerability_fails_the_check_and_silence_is_told(
    supply: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supply, "licence_faults", list)
    fault = {"id": "PYSEC-1", "fix_versions": ["2"], "aliases": ["CVE-1"]}
    answer(monkeypatch, [{"name": "a", "version": "1", "vulns": [fault]}])
    assert supply.main() == 1
    assert "a 1: PYSEC-1, mended in 2" in capsys.readouterr().err
    monkeypatch.setattr(supply, "ACCEPTED", {"CVE-1": "not reached"})
    assert supply.main() == 0
    capsys.readouterr()
    for silence, reason in (("", "no route to host"), ([{"name": "a", "skip_reason": "not found there"}], "not found there")):
        answer(monkeypatch, silence)
        assert supply.main() == 0
        out = capsys.readouterr().out
        assert "could NOT be looked up" in out
        assert reason in out
        assert "0 packages looked up" in out
