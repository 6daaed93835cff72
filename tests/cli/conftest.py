"""A fake server, and a way to run the command line in this process with its output captured."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.cli.fake_server import FakeServer

from modelworks.cli.app import execute


@dataclass
class Done:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Done]


class Terminal(io.StringIO):
    """Input that says a person is typing it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeServer]:
    import os

    for name in list(os.environ):
        if name.startswith("MODELWORKS_") or name in ("LC_ALL", "LC_MESSAGES", "LANG"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MODELWORKS_HOME", str(tmp_path / "home"))
    with FakeServer() as server:
        monkeypatch.setenv("MODELWORKS_URL", server.url)
        monkeypatch.setenv("MODELWORKS_API_KEY", "mw-secret")
        yield server


@pytest.fixture
def cli(server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    def run(*arguments: str, typed: str | None = None, piped: str | bytes = "") -> Done:
        if typed is not None:
            monkeypatch.setattr(sys, "stdin", Terminal(typed))
        else:
            data = piped if isinstance(piped, bytes) else piped.encode()
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        code = execute(list(arguments))
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run
