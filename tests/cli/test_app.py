"""The frame: verbs, formats, exit codes, errors, confirmation, language, and lightness."""

from __future__ import annotations

import json
import os
import re
import runpy
import string
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from tests.cli.conftest import Cli
from tests.cli.fake_server import FakeServer, page, refusal

from modelworks import __version__
from modelworks.cli.app import app
from modelworks.cli.messages import CHINESE, tr
from modelworks.cli.output import plain, size_text, table, width

GOLDEN = Path(__file__).parents[1] / "golden" / "cli" / "help.txt"
SOURCES = Path(__file__).parents[2] / "src" / "modelworks" / "cli"
VERBS = (
    *("serve", "status", "doctor", "pull", "ls", "show", "tree", "rm", "alias", "data", "train", "evaluate", "jobs", "logs"),
    *("cancel", "resume", "deploy", "undeploy", "ps", "chat", "run", "keys", "usage"),
)
VERSION = {
    "id": "mdl_1",
    "name": "base",
    "number": 3,
    "num_bytes": 2048,
    "task": "text-generation",
    "licence": "Apache-2.0",
    "created_at": "2026-01-01T00:00:00Z",
}
ARTIFACT = {"id": "a1", "name": "base", "aliases": {"default": 3}, "latest": VERSION}


def test_help_lists_every_verb(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regenerate with: COLUMNS=100 modelworks --help > tests/golden/cli/help.txt"""
    monkeypatch.setenv("COLUMNS", "100")
    done = cli("--help")
    assert done.code == 0
    assert done.out == GOLDEN.read_text(encoding="utf-8")
    for verb in VERBS:
        assert re.search(rf"^  {verb} ", done.out, re.MULTILINE), verb


def test_every_option_and_argument_is_explained() -> None:
    def visit(command: object, path: str) -> None:
        for name, child in getattr(command, "commands", {}).items():
            assert child.help, f"{path} {name} has no help"
            visit(child, f"{path} {name}")
        for parameter in getattr(command, "params", []):
            if parameter.name not in ("install_completion", "show_completion"):
                assert getattr(parameter, "help", None), f"{path}: {parameter.name} is not explained"

    visit(typer.main.get_command(app), "modelworks")


def test_the_commands_are_made_once(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("--version").code == 0

    def again(*_: object) -> None:
        raise AssertionError("the signatures were read again")

    monkeypatch.setattr(typer.main, "get_group", again)
    assert cli("--version").code == 0


def test_the_whole_command_line_is_light() -> None:
    code = (
        "import sys, modelworks, modelworks.client, modelworks.cli, modelworks.cli.app\n"
        "heavy = {'torch', 'numpy', 'fastapi', 'starlette', 'ray', 'sqlalchemy', 'transformers', 'aiohttp', 'structlog'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_does_not_even_load_the_http_library() -> None:
    code = (
        "import sys\nfrom modelworks.cli.app import execute\nassert execute(['--help']) == 0\n"
        "print(sorted({'httpx', 'rich'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_the_installed_command_in_a_process(server: FakeServer) -> None:
    server.on("GET", "/api/models", page([ARTIFACT]))
    run = [sys.executable, "-m", "modelworks.cli"]
    done = subprocess.run([*run, "ls", "-o", "name"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "base\n", "")
    assert server.asked[0].headers["authorization"] == "Bearer mw-secret"
    done = subprocess.run([*run, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{__version__}\n")


def test_a_reader_that_leaves_early_is_no_failure(server: FakeServer) -> None:
    server.on("GET", "/api/runs/run_1/logs", lambda _: (b"line\n" * 1000 for _ in range(200)))
    command = f"{sys.executable} -m modelworks.cli logs run_1 | head -1"
    shell = ["bash", "-c", f"set -o pipefail; {command}; echo ${{PIPESTATUS[0]}} >&2"]
    done = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert done.stdout == "line\n"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (400, "invalid_request", 1),
        (401, "invalid_api_key", 4),
        (403, "permission_denied", 4),
        (404, "not_found", 1),
        (409, "conflict", 1),
        (429, "insufficient_quota", 7),
        (500, "internal_error", 1),
    ],
)
def test_exit_codes_and_error_forms(cli: Cli, server: FakeServer, status: int, code: str, exit_code: int) -> None:
    server.on("GET", "/api/models", refusal(status, code, "It went wrong.", "Do that.", x_should_retry="false"))
    done = cli("ls")
    assert (done.code, done.out) == (exit_code, "")
    assert done.err.splitlines() == ["error: It went wrong.", "hint: Do that."]
    done = cli("ls", "-o", "json")
    assert (done.code, done.out) == (exit_code, "")
    assert json.loads(done.err) == {"error": {"code": code, "message": "It went wrong.", "hint": "Do that."}}


@pytest.mark.parametrize(
    "arguments", [["frob"], ["ls", "--nope"], ["show"], ["ls", "--limit", "0"], ["data", "frob"], ["ls", "-o", "xml"]]
)
def test_usage_errors_are_2(cli: Cli, server: FakeServer, arguments: list[str]) -> None:
    done = cli(*arguments)
    assert (done.code, done.out, server.asked) == (2, "", [])
    assert done.err.startswith("error: ")
    assert "hint: modelworks" in done.err


def test_a_usage_error_as_json(cli: Cli) -> None:
    for form in (["-o", "json"], ["-ojson"], ["--output=json"]):
        done = cli("ls", "--nope", *form)
        assert (done.code, done.out) == (2, "")
        assert json.loads(done.err)["error"]["code"] == "usage"


def test_without_a_verb_the_help_is_shown(cli: Cli) -> None:
    for arguments in ([], ["data"], ["keys"]):
        done = cli(*arguments)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("Usage: modelworks")


def test_no_server_says_how_to_start_one(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELWORKS_URL", "http://127.0.0.1:9")
    done = cli("ls")
    assert done.code == 1
    assert "No server answers at http://127.0.0.1:9." in done.err
    assert "modelworks serve" in done.err


def test_options_before_the_verb_win_over_the_environment(
    cli: Cli, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.on("GET", "/api/models", page([]))
    monkeypatch.setenv("MODELWORKS_URL", "http://127.0.0.1:9")
    done = cli("--url", server.url, "--api-key", "mw-other", "ls", "-o", "json")
    assert (done.code, done.json) == (0, [])
    assert server.asked[0].headers["authorization"] == "Bearer mw-other"


def test_formats(cli: Cli, server: FakeServer) -> None:
    server.on("GET", "/api/models", page([ARTIFACT]))
    assert cli("ls", "-o", "json").json == [ARTIFACT]
    assert cli("ls", "-o", "name").out == "base\n"
    heading, row = cli("ls").out.splitlines()
    assert heading.split() == ["NAME", "VERSION", "TASK", "LEVEL", "LICENCE", "SIZE", "ALIASES", "AGE"]
    assert row.split()[:7] == ["base", "v3", "text-generation", "-", "Apache-2.0", "2.0", "KiB"]
    assert "default=v3" in row


def test_long_lists_are_fetched_page_by_page(cli: Cli, server: FakeServer) -> None:
    rows = [{**ARTIFACT, "id": f"a{number:03}", "name": f"m{number:03}"} for number in range(250)]

    def listing(asked: object) -> dict[str, object]:
        query = asked.query  # type: ignore[attr-defined]
        start = next((place + 1 for place, row in enumerate(rows) if row["id"] == query.get("after")), 0)
        stop = start + int(query["limit"])
        return page(rows[start:stop], has_more=stop < len(rows))

    server.on("GET", "/api/models", listing)
    assert len(cli("ls", "-o", "name", "--limit", "230").out.splitlines()) == 230
    assert [asked.query["limit"] for asked in server.asked] == ["100", "100", "30"]


def test_a_project_guard(cli: Cli, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.on("GET", "/api/whoami", {"project_id": "prj_1"})
    server.on("GET", "/api/projects", page([{"id": "prj_1", "name": "default"}]))
    server.on("GET", "/api/models", page([]))
    for project, code in (("prj_1", 0), ("default", 0), ("prj_2", 4)):
        monkeypatch.setenv("MODELWORKS_PROJECT", project)
        assert cli("ls").code == code


def test_what_others_wrote_cannot_drive_the_terminal(cli: Cli, server: FakeServer) -> None:
    server.on("GET", "/api/models", page([{**ARTIFACT, "name": "evil\x1b[2J\u202e\nname"}]))
    done = cli("ls")
    assert "\x1b" not in done.out
    assert "\u202e" not in done.out
    assert len(done.out.splitlines()) == 2


def test_a_bug_is_told_without_a_traceback(cli: Cli, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.on("GET", "/api/models", page([{"id": "no-latest"}]))
    done = cli("ls")
    assert done.code == 1
    assert "KeyError" in done.err
    assert "MODELWORKS_DEBUG" in done.err
    monkeypatch.setenv("MODELWORKS_DEBUG", "1")
    with pytest.raises(KeyError):
        cli("ls")


def test_chinese(cli: Cli, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELWORKS_LANG", "zh")
    server.on("GET", "/api/models", page([]))
    assert cli("ls").err == "这里还没有内容。\n"
    monkeypatch.setenv("MODELWORKS_LANG", "en")
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert cli("ls").err == "Nothing here yet.\n"
    monkeypatch.delenv("MODELWORKS_LANG")
    assert cli("ls").err == "这里还没有内容。\n"


def test_every_message_has_its_translation_with_the_same_values() -> None:
    used = set()
    for file in SOURCES.glob("*.py"):
        used |= set(re.findall(r'\btr\(\s*"((?:[^"\\]|\\.)*)"', file.read_text(encoding="utf-8")))
    assert len(used) > 20
    assert used <= set(CHINESE), used - set(CHINESE)
    for sentence in used:
        names = {field for _, field, _, _ in string.Formatter().parse(sentence) if field}
        assert names == {field for _, field, _, _ in string.Formatter().parse(CHINESE[sentence]) if field}, sentence
        assert tr(sentence, **dict.fromkeys(names, "x"))


def test_tables_line_up_with_chinese_in_them() -> None:
    lines = table([["NAME", "X"], ["模型", "1"], ["e\u0301", "2"]])
    assert {width(line[: line.rindex(char)]) for line, char in zip(lines, "X12", strict=True)} == {6}
    assert [plain(value) for value in (None, [], True, 1.23456789, 1065720.0, {"a": None, "b": 2})] == [
        *("-", "-", "yes", "1.23457", "1065720", "b=2"),
    ]
    assert (size_text(0), size_text(1536), size_text(5 << 40), size_text(None)) == ("0 B", "1.5 KiB", "5.0 TiB", "-")


def test_shell_completion() -> None:
    environment = {**os.environ, "_MODELWORKS_COMPLETE": "complete_bash", "COMP_WORDS": "modelworks und", "COMP_CWORD": "1"}
    code = "import sys; sys.argv = ['modelworks']; from modelworks.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == ["undeploy"]


def test_the_reference_page_is_current() -> None:
    """Regenerate with: python docs/reference/generate_cli.py"""
    script = Path(__file__).parents[2] / "docs" / "reference" / "generate_cli.py"
    generator = runpy.run_path(str(script))
    page_text = generator["PAGE"].read_text(encoding="utf-8")
    assert page_text == generator["render"]()
    for verb in (*VERBS, "data add", "keys create"):
        assert f"`modelworks {verb}`" in page_text


def test_an_argument_that_is_not_utf8_is_named_and_never_sent(cli: Cli, server: FakeServer) -> None:
    done = cli("chat", "my-lm", "caf\udce9 au lait")
    assert done.code == 2
    assert done.err == (
        "error: Argument 3 ('caf'…) is not UTF-8: byte 0xe9 stands after it.\n"
        "hint: Set the terminal to UTF-8, or give the text as a UTF-8 file.\n"
    )
    assert server.asked == []


@pytest.mark.parametrize("key", ["mw-你好", "mw-one mw-two", "mw-one\nmw-two"])
def test_a_key_that_no_header_can_carry_is_told_without_repeating_it(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("MODELWORKS_API_KEY", key)
    done = cli("ls")
    assert done.code == 4
    assert "which no key has" in done.err
    assert "MODELWORKS_API_KEY" in done.err
    assert key not in done.err
    assert "mw-" not in done.err


def test_who_has_no_key_is_told_how_to_give_one(cli: Cli, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELWORKS_API_KEY")
    server.on("GET", "/api/models", refusal(401, "invalid_api_key", "No API key was given.", "Send a header."))
    done = cli("ls")
    assert done.code == 4
    assert "MODELWORKS_API_KEY" in done.err
    assert "MODELWORKS_HOME" in done.err
    assert "Send a header" not in done.err
