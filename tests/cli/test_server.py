"""serve, status, version and doctor."""

from __future__ import annotations

import builtins
import http.server
import os
import sqlite3
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Cli, Done
from tests.cli.fake_server import FakeServer, page, refusal

import modelworks
from modelworks import __version__
from modelworks.cli import doctor as examination
from modelworks.cli.server import compatible


@pytest.fixture
def up(server: FakeServer) -> FakeServer:
    server.on("GET", "/healthz", {"status": "ok"})
    server.on("GET", "/readyz", {"status": "ready"})
    server.on("GET", "/openapi.json", {"info": {"version": __version__}})
    server.on("GET", "/api/whoami", {"name": "admin", "project_id": "prj_1", "scopes": ["admin"]})
    server.on("GET", "/api/deployments", page([{"id": "d", "state": "ready"}, {"id": "e", "state": "failed"}]))
    server.on("GET", "/api/runs", page([]))
    return server


def test_status(cli: Cli, up: FakeServer) -> None:
    done = cli("status")
    assert done.code == 0
    lines = dict(line.split(":", 1) for line in done.out.splitlines())
    assert lines["state"].strip() == "ready"
    assert lines["version"].strip() == __version__
    assert lines["deployments"].strip() == "failed=1, ready=1"
    up.on("GET", "/readyz", refusal(503, "unavailable", "The database does not answer."))
    done = cli("status", "-o", "json")
    assert (done.code, done.json["state"], done.json["reason"]) == (1, "not ready", "The database does not answer.")
    up.on("GET", "/api/whoami", refusal(401, "invalid_api_key", "This key is not known."))
    assert cli("status").code == 4


def test_version_checks_the_server(cli: Cli, up: FakeServer) -> None:
    assert cli("version", "-o", "json").json == {"client": __version__}
    assert up.asked == []
    assert cli("version", "--check-compat").code == 0
    up.on("GET", "/openapi.json", {"info": {"version": "7.0.0"}})
    done = cli("version", "--check-compat", "-o", "json")
    assert (done.code, done.json["compatible"]) == (6, False)
    assert "version_mismatch" in done.err


@pytest.mark.parametrize(
    ("client", "server", "fits"),
    [
        ("0.1.0", "0.1.9", True),
        ("0.1.0", "0.2.0", False),
        ("1.0.0", "1.9.0", True),
        ("1.0.0", "2.0.0", False),
        ("1.0.0", None, False),
    ],
)
def test_which_versions_fit(client: str, server: str | None, fits: bool) -> None:
    assert compatible(client, server) is fits


def without(monkeypatch: pytest.MonkeyPatch, *absent: str) -> None:
    """Let imports of a library fail as where it is not installed."""
    real = builtins.__import__

    def fake(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *arguments, **options)

    for name in list(sys.modules):
        if name.partition(".")[0] in absent or name.startswith(("modelworks.server", "modelworks.kernel")):
            monkeypatch.delitem(sys.modules, name)
    for part in ("kernel", "server"):
        # A module that is imported anew also replaces itself in its package: let that be undone, too.
        monkeypatch.setattr(modelworks, part, getattr(modelworks, part, None), raising=False)
    monkeypatch.setattr(builtins, "__import__", fake)


def test_serve_without_the_server_extra_is_a_sentence(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "pydantic_settings")
    done = cli("serve")
    assert (done.code, done.out) == (1, "")
    assert "'pydantic_settings', which is not installed" in done.err
    assert 'pip install "modelworks[server]"' in done.err


def test_doctor_of_a_client_alone(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "pydantic_settings")
    done = cli("doctor", "-o", "json")
    assert done.code == 0
    findings = {finding["check"]: finding for finding in done.json["findings"]}
    assert findings["server"]["state"] == "note"
    assert "modelworks[server]" in findings["server"]["hint"]
    assert {"python", "home", "disk", "start hooks", "clock"} <= set(findings)


def test_a_wrong_setting_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELWORKS_URL")
    monkeypatch.delenv("MODELWORKS_API_KEY")
    monkeypatch.setenv("MODELWORKS_PORT", "many")
    for verb in ("serve", "doctor"):
        done = cli(verb)
        assert done.code == 1
        assert "'port' is wrong" in done.err
        assert "MODELWORKS_PORT" in done.err


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("MODELWORKS_DATABASE_URL", "mysql://host/x", "MODELWORKS_DATABASE_URL"),
        ("MODELWORKS_CORS_ORIGINS", "https://a.example", "cors_origins"),
    ],
)
def test_a_setting_that_cannot_be_used_or_read_is_named(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, named: str
) -> None:
    monkeypatch.delenv("MODELWORKS_URL")
    monkeypatch.delenv("MODELWORKS_API_KEY")
    monkeypatch.setenv(variable, value)
    for verb in ("serve", "doctor"):
        done = cli(verb)
        assert done.code == 1
        assert named in done.err
        assert "unexpected failure" not in done.err
        assert "Value error" not in done.err


def test_a_file_of_settings_that_is_no_toml_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODELWORKS_HOME", str(tmp_path))
    (tmp_path / "modelworks.toml").write_text("port = [")
    done = cli("serve")
    assert done.code == 1
    assert str(tmp_path / "modelworks.toml") in done.err
    assert "unexpected failure" not in done.err


def test_a_mistyped_variable_is_told(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELWORKS_EGRES_ALLOW", "[]")
    monkeypatch.setenv("MODELWORKS_ENGINE_CACHE", "/x")  # a worker's, and no setting
    monkeypatch.setattr("modelworks.server.serve", lambda _settings: None)
    done = cli("serve", "--port", "0")
    assert done.code == 0
    assert done.err == "MODELWORKS_EGRES_ALLOW is no setting and has no effect. Is MODELWORKS_EGRESS_ALLOW meant?\n"
    findings = {finding["check"]: finding for finding in cli("doctor", "-o", "json").json["findings"]}
    assert findings["settings"] == {
        "check": "settings",
        "state": "note",
        "detail": "MODELWORKS_EGRES_ALLOW is no setting and has no effect.",
        "hint": "Is MODELWORKS_EGRESS_ALLOW meant?",
    }


@pytest.fixture
def machine(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A private home, and a port that nobody uses."""
    home = tmp_path / "machine"
    home.mkdir(mode=0o700)
    monkeypatch.delenv("MODELWORKS_URL")
    monkeypatch.delenv("MODELWORKS_API_KEY")
    monkeypatch.setenv("MODELWORKS_HOME", str(home))
    monkeypatch.setenv("MODELWORKS_PORT", "0")
    return home


def found(done: Done) -> dict[str, dict[str, Any]]:
    return {finding["check"]: finding for finding in done.json["findings"]}


def test_doctor_of_a_fresh_machine(cli: Cli, machine: Path) -> None:
    done = cli("doctor", "-o", "json")
    assert done.code == 0
    settings = {row["name"]: (row["value"], row["origin"]) for row in done.json["settings"]}
    assert settings["port"] == (0, "MODELWORKS_PORT")
    assert settings["home"] == (str(machine), "MODELWORKS_HOME")
    findings = found(done)
    assert findings["home"]["state"] == findings["database"]["state"] == findings["storage"]["state"] == "ok"
    assert "pydantic-settings" in findings["extra server"]["detail"]
    assert list(machine.iterdir()) == []  # looking changes nothing
    text = cli("doctor").out
    assert "MODELWORKS_PORT" in text
    assert "extra server" in text


def test_doctor_says_what_isolates_generated_code(cli: Cli, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = "modelworks.capabilities.text.sandbox.active_layers"
    monkeypatch.setattr(layers, lambda: ("landlock", "seccomp"))
    finding = found(cli("doctor", "-o", "json"))["sandbox"]
    assert (finding["state"], finding["detail"]) == ("ok", "generated code is isolated by landlock, seccomp")
    monkeypatch.setattr(layers, lambda: None)
    finding = found(cli("doctor", "-o", "json"))["sandbox"]
    assert finding["state"] == "note"
    assert "it is not run" in finding["detail"]


def test_doctor_finds_what_is_wrong(cli: Cli, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.chmod(0o755)
    (machine / "modelworks.db").write_bytes(b"this is not a database" * 100)
    (machine / "blobs").write_text("a file where a folder should be")
    monkeypatch.setenv("MODELWORKS_EXECUTOR", "ray")
    monkeypatch.setenv("MODELWORKS_RAY_ADDRESS", "http://127.0.0.1:9")
    done = cli("doctor", "-o", "json")
    assert done.code == 1
    findings = found(done)
    assert findings["home"]["state"] == "warning"
    assert findings["home"]["hint"] == f"chmod 700 {machine}"
    for check in ("database", "storage", "ray jobs"):
        assert findings[check]["state"] == "failure", findings[check]
        assert check in done.err


def test_doctor_sees_database_and_storage_that_work(cli: Cli, machine: Path) -> None:
    with sqlite3.connect(machine / "modelworks.db") as connection:
        connection.execute("CREATE TABLE something (x)")
    connection.close()
    (machine / "blobs").mkdir()
    findings = found(cli("doctor", "-o", "json"))
    assert findings["database"]["detail"] == "reachable, still empty"
    assert "can be written and read" in findings["storage"]["detail"]
    assert {path.name for path in (machine / "blobs").rglob("*") if path.is_file()} <= {".lock"}  # the probe is gone


def test_doctor_says_who_has_the_port(cli: Cli, machine: Path, up: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELWORKS_PORT", up.url.rpartition(":")[2])
    port = found(cli("doctor", "-o", "json"))["port"]
    assert port["state"] == "ok"
    assert "a Modelworks server answers there" in port["detail"]
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            monkeypatch.setenv("MODELWORKS_PORT", str(other.server_address[1]))
            done = cli("doctor", "-o", "json")
        finally:
            other.shutdown()
            thread.join()
    port = found(done)["port"]
    assert (done.code, port["state"]) == (1, "failure")
    assert f"(process {os.getpid()}," in port["detail"]
    assert "MODELWORKS_PORT" in port["hint"]


def test_doctor_lists_code_that_runs_at_every_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "harmless.pth").write_text("/some/folder\n")
    monkeypatch.setattr(examination.site, "getsitepackages", lambda: [str(tmp_path)])
    monkeypatch.setattr(examination.site, "getusersitepackages", lambda: str(tmp_path / "none"))
    assert [finding.state for finding in examination.look_at_hooks(None)] == ["ok"]
    (tmp_path / "sneaky.pth").write_text("import os; os.getpid()\n")
    (finding,) = examination.look_at_hooks(None)
    assert (finding.state, "sneaky.pth" in finding.detail, "harmless" in finding.detail) == ("note", True, False)


def test_a_check_that_breaks_is_a_finding(cli: Cli, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_at_moon(_settings: Any) -> Iterator[Any]:
        raise RuntimeError("clouds")

    monkeypatch.setattr(examination, "LOOKS", (look_at_moon, examination.look_at_clock))
    findings = found(cli("doctor", "-o", "json"))
    assert findings["moon"]["detail"] == "RuntimeError: clouds"
    assert findings["clock"]["state"] == "ok"
