"""connect: what each client is told, and that its files are merged, kept and never given a key unasked."""

from __future__ import annotations

import ast
import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.conftest import Cli
from tests.cli.fake_server import Asked, FakeServer, page

from modelworks.cli import client_settings, messages
from modelworks.cli.client_settings import CLIENTS, Link
from modelworks.cli.connecting import Name

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "connect.md"
KEY = "mw-secret"
MODEL = {"object": "model", "created": 1, "owned_by": "modelworks", "task": "text-generation", "max_model_len": 4096}


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home folder of a person on Linux, with nothing in it."""
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    return tmp_path


@pytest.fixture
def models(server: FakeServer, home: Path) -> FakeServer:
    offered = [
        {"id": "my-lm", **MODEL},
        {"id": "team/other", **MODEL, "max_model_len": None},
        {"id": "vectors", **MODEL, "task": "embedding"},
    ]
    server.on("GET", "/v1/models", page(offered))
    return server


def documented() -> dict[str, str]:
    """The fenced block of each client's section."""
    text = PAGE.read_text(encoding="utf-8")
    return dict(re.findall(r"^## [^\n]*`([a-z-]+)`\n.*?^```\w+\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE))


def link(name: str, **changes: Any) -> str:
    return CLIENTS[name].render(replace(Link("http://h:1", "m", "K", context=8), **changes))


def test_every_client_can_be_named_and_is_documented() -> None:
    assert [one.value for one in Name] == list(CLIENTS) == list(documented())


@pytest.mark.parametrize("name", list(CLIENTS))
def test_the_page_shows_exactly_what_is_printed(cli: Cli, models: FakeServer, name: str) -> None:
    done = cli("connect", name, "--model", "my-lm", "--url", "http://127.0.0.1:8400/v1/")
    assert done.code == 0, done.err
    assert done.out == documented()[name]
    assert KEY not in done.out + done.err


@pytest.mark.parametrize("name", list(CLIENTS))
@pytest.mark.parametrize("key", [None, "mw-k'\"$x"])
def test_any_name_and_key_stays_within_its_quotes(name: str, key: str | None) -> None:
    """Read back by the reader of each syntax: a name is data, whatever is in it."""
    model = 'a "b" \\ $HOME é\n\x1b['
    text = link(name, model=model, key=key)
    syntax = CLIENTS[name].syntax
    if syntax == "python":
        strings = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
        assert model in strings
        assert key in strings or key is None
    elif syntax == "yaml":
        assert yaml.safe_load(text)["models"][0]["model"] == model
    elif syntax == "toml":
        found = tomllib.loads(text)
        assert found["model"] == model
        assert found["model_providers"]["modelworks"].get("experimental_bearer_token") == key
    elif syntax == "json":
        assert json.dumps(model) in json.dumps(json.loads(text))
    elif syntax == "env":
        done = subprocess.run(
            ["sh", "-c", text + 'printf "%s|%s" "$DEFAULT_MODELS" "$OPENAI_API_KEY"'],
            env={"K": "mw-from-outside", "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == f"{model}|{key or 'mw-from-outside'}"
    else:
        assert "\x1b" not in text


@pytest.mark.parametrize("options", [[], ["--with-key"], ["--key-env", "TEAM_KEY"]])
def test_the_program_for_openai_runs(
    cli: Cli, models: FakeServer, monkeypatch: pytest.MonkeyPatch, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(asked: Asked) -> dict[str, Any]:
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "It works."}}
        return {"id": "c", "object": "chat.completion", "created": 1, "model": asked.json["model"], "choices": [choice]}

    models.on("POST", "/v1/chat/completions", answer)
    monkeypatch.setenv("TEAM_KEY", "mw-of-the-team")
    program = cli("connect", "openai", "--model", "my-lm", *options).out
    exec(compile(program, "program", "exec"), {})
    assert capsys.readouterr().out == "It works.\n"
    asked = models.calls("POST", "/v1/chat/completions")[0]
    assert asked.json["model"] == "my-lm"
    assert asked.headers["authorization"] == f"Bearer {'mw-of-the-team' if 'TEAM_KEY' in options else KEY}"
    assert (KEY in program) == ("--with-key" in options)


def test_the_helper_of_claude_code_prints_the_key(cli: Cli, models: FakeServer) -> None:
    found = json.loads(cli("connect", "claude-code", "--model", "my-lm").out)
    done = subprocess.run(["/bin/sh", "-c", found["apiKeyHelper"]], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == KEY
    with_key = json.loads(cli("connect", "claude-code", "--model", "my-lm", "--with-key").out)
    assert with_key["env"]["ANTHROPIC_AUTH_TOKEN"] == KEY
    assert "apiKeyHelper" not in with_key


def test_the_model_is_one_that_the_server_offers(cli: Cli, models: FakeServer) -> None:
    for wanted in ("my-ml", "vectors"):
        done = cli("connect", "codex", "--model", wanted)
        assert done.code == 1
        assert done.out == ""
        assert f"There is no language model '{wanted}' here." in done.err
        assert "Deployed are: my-lm, team/other." in done.err
    assert cli("connect", "codex").code == 2
    assert "Deployed are: my-lm, team/other." in cli("connect", "codex").err
    assert "model_context_window" not in cli("connect", "codex", "--model", "team/other").out
    models.on("GET", "/v1/models", page([{"id": "alone", **MODEL}]))
    assert 'model = "alone"' in cli("connect", "codex").out
    models.on("GET", "/v1/models", page([]))
    assert "modelworks deploy" in cli("connect", "codex").err


def test_wrong_options_are_told(cli: Cli, models: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("connect").code == cli("connect", "emacs").code == 2
    for option, value in (("--url", "models.example"), ("--url", 'http://a"b'), ("--url", "http://a b"), ("--key-env", "a;b")):
        done = cli("connect", "codex", "--model", "my-lm", option, value)
        assert done.code == 2, value
        assert value in done.err
    assert cli("connect", "dify", "--model", "my-lm", "--write").code == 2
    monkeypatch.delenv("MODELWORKS_API_KEY")
    assert cli("connect", "codex", "--model", "my-lm", "--with-key").code == 4


def test_the_list_and_the_forms_of_output(cli: Cli, models: FakeServer, home: Path) -> None:
    assert cli("connect", "--list", "-o", "name").out.split() == list(CLIENTS)
    listed = {one["client"]: one for one in cli("connect", "--list", "-o", "json").json}
    assert listed["codex"]["place"] == str(home / ".codex" / "config.toml")
    assert listed["vscode"]["place"] == str(home / ".config" / "Code" / "User" / "chatLanguageModels.json")
    found = cli("connect", "codex", "--model", "my-lm", "-o", "json").json
    assert found["content"] == cli("connect", "codex", "--model", "my-lm").out
    assert (found["client"], found["url"], found["notes"] != []) == ("codex", models.url, True)
    assert cli("connect", "codex", "--model", "my-lm", "-o", "name").out == "my-lm\n"


@pytest.mark.parametrize(("system", "folder"), [("darwin", "Library/Application Support"), ("win32", "AppData/Roaming")])
def test_the_folder_of_vs_code_on_other_systems(home: Path, monkeypatch: pytest.MonkeyPatch, system: str, folder: str) -> None:
    monkeypatch.delenv("APPDATA", raising=False)
    monkeypatch.setattr(sys, "platform", system)
    assert client_settings.vscode_folder() == home / folder / "Code" / "User"


@pytest.mark.parametrize("name", [name for name, program in CLIENTS.items() if program.place])
def test_a_new_file_is_the_owners_and_a_second_time_changes_nothing(
    cli: Cli, models: FakeServer, home: Path, name: str
) -> None:
    place = CLIENTS[name].place
    assert place is not None
    preview = cli("connect", name, "--model", "my-lm", "--dry-run")
    assert preview.code == 0
    assert preview.out.startswith(f"--- {place()}\n")
    assert not place().exists()
    assert cli("connect", name, "--model", "my-lm", "--write").err.startswith(f"Written to {place()}.\n")
    text = place().read_text()
    assert text == cli("connect", name, "--model", "my-lm").out
    assert KEY not in text
    assert stat.S_IMODE(place().stat().st_mode) == 0o600
    assert cli("connect", name, "--model", "my-lm", "--write").err.startswith(f"{place()} says so already")
    again = cli("connect", name, "--model", "my-lm", "--write", "-o", "json").json
    assert (again["path"], again["diff"], again["backup"]) == (str(place()), "", None)
    assert [file.name for file in place().parent.iterdir()] == [place().name]


def test_codex_keeps_what_is_there(cli: Cli, models: FakeServer, home: Path) -> None:
    path = home / ".codex" / "config.toml"
    path.parent.mkdir()
    former = (
        'model = "old"\nmodel_context_window = 9\n\n# mine\n[model_providers.other]\nname = "Other" # stays\n\n'
        '[model_providers.modelworks]\nname = "Old"\nexperimental_bearer_token = "mw-old"\n'
    )
    path.write_text(former)
    path.chmod(0o640)
    done = cli("connect", "codex", "--model", "team/other", "--write")
    assert done.err.splitlines()[:2] == [f"Written to {path}.", f"The former file is kept as {path}.bak."]
    text = path.read_text()
    assert "# mine" in text
    assert "# stays" in text
    found = tomllib.loads(text)
    assert (found["model"], found["model_provider"]) == ("team/other", "modelworks")
    assert "model_context_window" not in found
    assert found["model_providers"]["other"] == {"name": "Other"}
    assert found["model_providers"]["modelworks"] == {
        "name": "Modelworks",
        "base_url": f"{models.url}/v1",
        "env_key": "MODELWORKS_API_KEY",
        "wire_api": "responses",
    }
    assert (home / ".codex" / "config.toml.bak").read_text() == former
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert cli("connect", "codex", "--model", "team/other", "--write").err.startswith(f"{path} says so already")
    cli("connect", "codex", "--model", "my-lm", "--write")
    assert (home / ".codex" / "config.toml.bak1").read_text() == text


def test_continue_keeps_what_is_there(cli: Cli, models: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "team.yaml"
    path.write_text(
        "name: Mine # my name\nversion: 9.9.9\nschema: v1\nmodels:\n- name: theirs\n  model: x\n"
        "- name: Modelworks my-lm\n  provider: openai\n  model: old\n  apiKey: mw-old\nrules:\n- 'Be short'\n"
    )
    for model in ("my-lm", "team/other"):
        assert cli("connect", "continue", "--model", model, "--to", str(path)).code == 0
    text = path.read_text()
    assert text.startswith("name: Mine # my name\nversion: 9.9.9\n")
    assert "rules:\n- 'Be short'\n" in text
    found = yaml.safe_load(text)
    assert [one["name"] for one in found["models"]] == ["theirs", "Modelworks my-lm", "Modelworks team/other"]
    assert found["models"][1]["model"] == "my-lm"
    assert found["models"][1]["apiKey"] == "${{ secrets.MODELWORKS_API_KEY }}"
    assert "mw-old" not in text


def test_claude_code_is_left_no_other_key(cli: Cli, models: FakeServer, home: Path) -> None:
    real = home / "dotfiles" / "claude.json"
    real.parent.mkdir()
    real.write_text('{\n\t"env": {"ANTHROPIC_AUTH_TOKEN": "other", "EDITOR": "vi"},\n\t"permissions": {"allow": []}\n}\n')
    path = home / ".claude" / "settings.json"
    path.parent.mkdir()
    path.symlink_to(real)
    done = cli("connect", "claude-code", "--model", "my-lm", "--write")
    assert done.code == 0, done.err
    assert path.is_symlink()
    found = json.loads(real.read_text())
    assert found["permissions"] == {"allow": []}
    assert found["env"]["EDITOR"] == "vi"
    assert "ANTHROPIC_AUTH_TOKEN" not in found["env"]
    assert found["env"]["ANTHROPIC_BASE_URL"] == models.url
    assert found["env"]["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == "my-lm"
    assert '\n\t"env"' in real.read_text()
    assert "other" in (real.parent / "claude.json.bak").read_text()


def test_vs_code_keeps_its_own_reference_to_the_key(cli: Cli, models: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    reference = "${input:chat.lm.secret.1}"
    ours = {"name": "Modelworks", "vendor": "customendpoint", "apiKey": reference, "models": [{"id": "my-lm", "vision": True}]}
    path.write_text(json.dumps([{"name": "Azure", "vendor": "azure"}, ours]))
    for model in ("my-lm", "team/other"):
        assert cli("connect", "vscode", "--model", model, "--to", str(path)).code == 0
    azure, found = json.loads(path.read_text())
    assert azure == {"name": "Azure", "vendor": "azure"}
    assert found["apiKey"] == reference
    assert [(one["id"], one["vision"]) for one in found["models"]] == [("my-lm", False), ("team/other", False)]
    assert "maxInputTokens" not in found["models"][1]
    cli("connect", "vscode", "--model", "my-lm", "--to", str(path), "--with-key")
    assert json.loads(path.read_text())[1]["apiKey"] == KEY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_variables_are_replaced_line_by_line(cli: Cli, models: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "webui.env"
    path.write_text("# mine\nexport OPENAI_API_BASE_URL=http://old\nWEBUI_NAME=us")
    assert cli("connect", "open-webui", "--model", "my-lm", "--to", str(path)).code == 0
    lines = path.read_text().splitlines()
    assert lines[:3] == ["# mine", f"export OPENAI_API_BASE_URL={models.url}/v1", "WEBUI_NAME=us"]
    assert len(lines) == 6


@pytest.mark.parametrize(
    ("client", "text", "said"),
    [
        ("vscode", "[ // mine\n]", "is not plain JSON"),
        ("vscode", "{}", "holds something else than a list"),
        ("claude-code", '{"env": []}', "'env' is of another kind"),
        ("codex", "model = ", "is not TOML"),
        ("continue", "models: [", "is not YAML"),
        ("continue", "models: text", "'models' is of another kind"),
        ("openai", "import os", "cannot be merged with"),
        ("codex", b"\xff", "is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_merged_is_left_alone(
    cli: Cli, models: FakeServer, tmp_path: Path, client: str, text: str | bytes, said: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = path.read_bytes()
    done = cli("connect", client, "--model", "my-lm", "--to", str(path))
    assert done.code == 1
    assert said in done.err
    assert "hint:" in done.err
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("file.bak*"))


def test_what_stands_in_the_way_of_a_file_is_told(
    cli: Cli, models: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "cannot be read" in cli("connect", "codex", "--model", "my-lm", "--to", str(tmp_path)).err
    (tmp_path / "file").write_text("a = 1\n")
    assert "cannot be" in cli("connect", "codex", "--model", "my-lm", "--to", str(tmp_path / "file" / "below")).err
    for library, client in (("tomlkit", "codex"), ("ruamel.yaml", "continue")):
        monkeypatch.setitem(sys.modules, library, None)
        done = cli("connect", client, "--model", "my-lm", "--to", str(tmp_path / "file"))
        assert done.code == 1
        assert f"'{library}'" in done.err
        assert "modelworks[clients]" in done.err
    assert (tmp_path / "file").read_text() == "a = 1\n"


@pytest.mark.parametrize("name", list(CLIENTS))
def test_what_remains_to_be_done_is_said_in_chinese(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("MODELWORKS_LANG", "zh")
    notes = CLIENTS[name].notes(Link("http://localhost:1", "m", "K"))
    assert notes
    assert all(re.search(r"[\u4e00-\u9fff]", note) for note in notes), notes
    assert messages.language() == "zh"
