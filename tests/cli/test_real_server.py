"""The command line against the platform itself: what the fake server's answers stand for."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.cli.conftest import Cli

from modelworks.cli.space_source import form_of
from modelworks.contract.errors import InvalidRequest


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A running platform: its address and its home folder."""
    home = tmp_path_factory.mktemp("platform")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODELWORKS_")}
    environment |= {"MODELWORKS_HOME": str(home), "MODELWORKS_LOG_LEVEL": "error", "NO_PROXY": "*"}
    command = [sys.executable, "-m", "modelworks.cli", "serve", "--port", "0"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            found = re.search(r"at (http://\S+)", line)
            if found:
                yield found[1], home
                break
        else:
            pytest.fail("the server did not start:\n" + "".join(lines))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.fixture
def real(platform: tuple[str, Path], cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    url, home = platform
    monkeypatch.setenv("MODELWORKS_URL", url)
    monkeypatch.setenv("MODELWORKS_HOME", str(home))
    monkeypatch.delenv("MODELWORKS_API_KEY")
    return cli


def test_the_local_key_opens_the_local_server(real: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    status = real("status", "-o", "json").json
    assert (status["state"], status["key"]) == ("ready", "admin")
    assert real("version", "--check-compat").code == 0
    monkeypatch.setenv("MODELWORKS_PROJECT", "default")
    assert real("ls", "-o", "json").json == []
    monkeypatch.setenv("MODELWORKS_PROJECT", "another")
    assert real("ls").code == 4


def test_a_data_set_from_upload_to_removal(real: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("the quick brown fox\n" * 100)
    made = real("data", "add", str(folder), "--name", "corpus/small", "--licence", "CC0-1.0", "-o", "json").json
    assert (made["name"], made["number"], made["licence"]) == ("corpus/small", 1, "CC0-1.0")
    assert real("data", "ls", "corpus", "-o", "name").out == "corpus/small\n"
    assert real("alias", "corpus/small", "gold", "--dataset", "-o", "json").json["id"] == made["id"]
    shown = real("data", "show", "corpus/small@gold")
    assert made["id"] in shown.out
    assert real("data", "rm", "corpus/small", "--dry-run", "-o", "json").json["dry_run"] is True
    done = real("data", "rm", "corpus/small", "-y")
    assert (done.code, done.out) == (0, made["id"] + "\n")
    missing = real("data", "show", "corpus/small", "-o", "json")
    assert missing.code == 1
    assert "corpus/small" in missing.err


def test_pull_runs_to_its_end_and_leaves_a_tree(real: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("one")
    done = real("pull", str(folder), "--dataset", "--name", "pulled", "--licence", "MIT", "-y", "-o", "json")
    assert done.code == 0, done.err
    assert (done.json["state"], done.json["outputs"][0]["name"]) == ("succeeded", "pulled")
    run = done.json["id"]
    assert real("jobs", "-o", "name").out.splitlines()[0] == run
    assert real("logs", run).code == 0
    assert real("cancel", run).code == 1  # it is over
    assert real("data", "show", "pulled", "-o", "json").json["version"]["created_by_run"] == run


def test_keys_and_usage(real: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = real("keys", "create", "ci", "--scope", "read", "--expires", "1d").out.strip()
    assert secret.startswith("mw-")
    monkeypatch.setenv("MODELWORKS_API_KEY", secret)
    assert real("ls").code == 0
    assert real("keys", "ls").code == 4  # the scope read does not suffice
    monkeypatch.delenv("MODELWORKS_API_KEY")
    assert real("keys", "revoke", "ci", "-y").code == 0
    monkeypatch.setenv("MODELWORKS_API_KEY", secret)
    done = real("ls", "-o", "json")
    assert (done.code, "revoked_api_key" in done.err) == (4, True)
    monkeypatch.delenv("MODELWORKS_API_KEY")
    assert "data" in real("usage", "--since", "1d", "-o", "json").json


def test_tasks_and_deployments_answer_in_the_forms_that_are_read(real: Cli) -> None:
    assert real("ps", "-o", "json").json == []
    assert "input" in real("run", "text-generation", "--schema").json
    done = real("deploy", "nothing")
    assert done.code == 1
    assert "nothing" in done.err
    done = real("train", "text", "--name", "x", "--data", "nowhere")
    assert (done.code, "nowhere" in done.err) == (1, True)
    done = real("chat", "nobody", "hello")
    assert (done.code, "nobody" in done.err) == (1, True)


def test_a_second_server_is_told_who_holds_the_port(platform: tuple[str, Path], tmp_path: Path) -> None:
    url, _home = platform
    environment = {**os.environ, "MODELWORKS_HOME": str(tmp_path / "other"), "MODELWORKS_LOG_LEVEL": "error"}
    command = [sys.executable, "-m", "modelworks.cli", "serve", "--port", url.rpartition(":")[2]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "is taken by another program" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_change_is_in_the_audit_chain_which_verifies_without_the_server(real: Cli, tmp_path: Path) -> None:
    made = real("keys", "create", "auditor", "-o", "json").json
    assert real("keys", "revoke", made["id"], "-y").code == 0
    changes = real("audit", "ls", "-o", "json").json
    mine = [entry for entry in changes if entry["subject"] == made["id"]]
    assert [(entry["action"], entry["noun"], entry["author_kind"]) for entry in mine] == [
        ("updated", "api_key", "key"),
        ("created", "api_key", "key"),
    ]
    assert all(entry["request_id"].startswith("req_") and entry["author_id"].startswith("key_") for entry in mine)
    copy = tmp_path / "audit.jsonl"
    exported = real("audit", "export", str(copy), "-o", "json").json
    noted = f"{exported['head']['seq']}:{exported['head']['hash']}"
    for arguments in ([str(copy)], [str(copy), "--head", noted]):
        assert real("audit", "verify", *arguments, "-o", "name").out.strip() == noted
    # What another test has begun may still be written about.
    for arguments in (["verify"], ["verify", "--head", noted], ["head"]):
        seq, _, digest = real("audit", *arguments, "-o", "name").out.strip().partition(":")
        assert (int(seq), digest) == (exported["head"]["seq"], exported["head"]["hash"]) or int(seq) > exported["head"]["seq"]
    lines = copy.read_text().splitlines()
    assert len(lines) == exported["num_entries"] >= 3
    for forged, place in (
        ([*lines[:1], lines[1].replace('"created"', '"deleted"', 1), *lines[2:]], 2),
        (lines[1:], 1),
        (lines[:-1], len(lines)),
    ):
        copy.write_text("\n".join(forged) + "\n")
        done = real("audit", "verify", str(copy), "--head", noted)
        assert done.code == 1
        assert f"breaks at entry {place}:" in done.err


def test_a_data_space_from_a_folder_to_its_end(real: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "handbook"
    (folder / "drafts").mkdir(parents=True)
    (folder / "holidays.md").write_text("# Holidays\n\nThirty days a year.")
    (folder / "travel.md").write_text("# Travel\n\nBy train.")
    (folder / "drafts" / "secret.md").write_text("not yet")
    (folder / ".hidden").write_text("x")
    (folder / ".modelworksignore").write_text("# later\ndrafts/\n")
    assert real("space", "create", "handbook", "-s", "parsing.passage_chars=800", "-o", "name").out == "handbook\n"
    again = real("space", "create", "handbook", "-o", "json")
    assert (again.code, "space_exists" in again.err) == (1, True)
    shown = [line.split() for line in real("space", "show", "handbook").out.splitlines()]
    assert ["settings:", "parsing=passage_chars=800"] in shown, "what was set, and not every default"
    assert ["cleaning:", "duplicates=document"] in shown

    planned = real("space", "add", "handbook", str(folder), "--dry-run", "-o", "json").json
    assert [(each["key"], each["change"]) for each in planned] == [("holidays.md", "added"), ("travel.md", "added")]
    assert real("space", "documents", "handbook", "-o", "json").json == []
    done = real("space", "add", "handbook", str(folder), "-a", "year=2024", "--owner", "hr")
    assert (done.code, done.out, "2 of 2 files are new or changed." in done.err) == (0, "", True)
    assert done.err.count("holidays.md") == 1
    (folder / "travel.md").write_text("# Travel\n\nBy bus.")
    (folder / "holidays.md").rename(folder / "free days.md")
    monkeypatch.setenv("MODELWORKS_LANG", "zh")
    changed = real("space", "add", "handbook", str(folder), "--prune")
    assert "3 个文件" not in changed.err
    assert "2 个文件中有 2 个是新增或已更改的。" in changed.err
    monkeypatch.delenv("MODELWORKS_LANG")
    found = {each["name"]: each for each in real("space", "documents", "handbook", "-o", "json").json}
    assert {name: (each["version"], each["attributes"], each["owner"]) for name, each in found.items()} == {
        "travel.md": (2, {"year": 2024}, "hr"),
        "free days.md": (1, {}, None),
    }

    status = real("space", "status", "handbook", "-o", "json").json
    assert (sum(status["documents"].values()), status["settings"]["parsing"]) == (2, {"passage_chars": 800})
    assert status["events"][0]["message"] == "The space was made."
    assert real("space", "remove", "handbook", "travel.md", "-y", "-o", "json").json[0]["state"] == "removed"
    assert real("space", "remove", "handbook", "travel.md", "-y").code == 1
    assert real("space", "rm", "handbook", "-y").code == 0
    assert "handbook" not in real("space", "ls", "-o", "name").out.split()


def test_a_space_is_published_until_it_is_not(real: Cli, platform: tuple[str, Path]) -> None:
    url = platform[0]
    assert real("space", "create", "shop", "-o", "name").code == 0
    planned = real("space", "publish", "shop", "--origin", "https://shop.example", "--dry-run", "-o", "json").json
    assert (planned["is_live"], real("space", "publications", "shop", "-o", "json").json) == (True, [])
    made = real("space", "publish", "shop", "--origin", "https://shop.example", "--expires", "30d", "-o", "json").json
    id_ = made["publication"]["id"]
    assert f'src="{url}/embed/{id_}.js"' in made["snippet"]

    def frame() -> httpx.Response:
        return httpx.get(f"{url}/embed/{id_}/frame", trust_env=False)

    headers = {"origin": "https://shop.example"}
    begun = httpx.post(f"{url}/embed/{id_}/session", content=made["token"], headers=headers, trust_env=False)
    assert (begun.status_code, begun.headers["access-control-allow-origin"]) == (200, "https://shop.example")
    assert "frame-ancestors https://shop.example" in frame().headers["content-security-policy"]
    assert real("space", "feedback", "shop", "-o", "json").json == []
    assert real("space", "unpublish", "shop", "chat", "-y", "-o", "json").json["is_live"] is False
    assert frame().status_code == 404
    assert real("space", "rm", "shop", "-y").code == 0


def test_a_source_from_an_archive_to_its_end(real: Cli, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "wiki.zip", "w") as packed:
        packed.writestr("pages/one.md", "# One")
        packed.writestr("pages/two.md", "# Two")
        packed.writestr("logo.png", b"\x89PNG")
    assert real("space", "create", "wiki").code == 0
    wanted = ("space", "source", "add", "wiki", str(tmp_path / "wiki.zip"), "-s", 'include=["*.md"]', "--licence", "MIT")
    assert real(*wanted, "--dry-run", "-o", "json").json["kind"] == "archive"
    assert real("space", "source", "ls", "wiki", "-o", "json").json == []
    added = real(*wanted, "--follow", "-o", "json").json
    assert (added["state"], added["report"]["num_new"], added["every_s"]) == ("idle", 2, None)
    found = {each["name"]: each for each in real("space", "documents", "wiki", "-o", "json").json}
    assert set(found) == {"pages/one.md", "pages/two.md"}
    assert found["pages/one.md"]["licence"] == "MIT"
    listed = real("space", "source", "ls", "wiki")
    assert ("2 new" in listed.out, "wiki.zip" in listed.out) == (True, True)
    changed = real("space", "source", "set", "wiki", "wiki.zip", "--daily", "03:30", "-o", "json").json
    assert (changed["daily_at"], changed["next_sync_at"][11:16]) == ("03:30", "03:30")
    refused = real("space", "source", "add", "wiki", "https://user:word@host/x", "-o", "json")
    assert (refused.code, "store a secret" in refused.err) == (1, True)
    assert real("space", "add", "wiki", str(tmp_path / "wiki.zip"), "-o", "json").json[0]["change"] == "unchanged"
    with zipfile.ZipFile(tmp_path / "wiki.zip", "a") as packed:
        packed.writestr("pages/three.md", "# Three")
    again = real("space", "add", "wiki", str(tmp_path / "wiki.zip"), "-o", "json").json[0]
    (source,) = real("space", "source", "ls", "wiki", "-o", "json").json
    assert (again["change"], source["settings"]["source"]["digest"]) == ("updated", again["digest"])
    assert (source["id"], source["settings"]["defaults"]["licence"]) == (added["id"], "MIT"), "it is the same source"
    assert real("space", "source", "rm", "wiki", "wiki.zip", "-y").code == 0
    assert real("space", "documents", "wiki", "-o", "json").json == []
    assert real("space", "rm", "wiki", "-y").code == 0


@pytest.mark.parametrize(
    ("place", "form"),
    [
        ("https://host/docs/", {"kind": "web", "uri": "https://host/docs/"}),
        ("https://host/x.git", {"kind": "git", "uri": "https://host/x.git"}),
        ("s3://bucket/docs", {"kind": "s3", "uri": "s3://bucket/docs"}),
        ("file:///srv/docs", {"kind": "folder", "uri": "file:///srv/docs"}),
        ("postgresql://db:5433/shop", {"kind": "sql", "dialect": "postgresql", "host": "db", "database": "shop", "port": 5433}),
        ("imaps://mail/Archive", {"kind": "imap", "host": "mail", "tls": True, "mailboxes": ["Archive"]}),
    ],
)
def test_a_place_says_what_kind_of_source_it_is(place: str, form: dict[str, Any]) -> None:
    assert form_of(place, None, {}) == form


@pytest.mark.parametrize(
    "place", ["sqlite:///srv/x.sqlite", "sqlite:////srv/x.sqlite", "file:///srv/x.sqlite", "file:///srv/x"]
)
def test_tables_of_a_file_on_the_server_are_those_of_an_sqlite_database(place: str) -> None:
    tables = [{"name": "orders"}]
    uri = f"file:///srv/{place.rpartition('/')[2]}"
    assert form_of(place, None, {"tables": tables}) == {"kind": "sql", "dialect": "sqlite", "uri": uri, "tables": tables}


def test_a_database_without_a_table_and_a_file_without_a_path_are_refused_with_what_to_write() -> None:
    with pytest.raises(InvalidRequest) as refused:
        form_of("file:///srv/x.sqlite", None, {})
    assert "modelworks space source add SPACE sqlite:///srv/x.sqlite --table TABLE" in str(refused.value.hint)
    assert form_of("file:///srv/x.db", "folder", {})["kind"] == "folder", "a folder may be called so"
    with pytest.raises(InvalidRequest) as refused:
        form_of("sqlite://x.sqlite", None, {"tables": [{"name": "orders"}]})
    assert "sqlite:///srv/data/shop.sqlite" in str(refused.value.hint)


def test_tables_of_an_sqlite_file_on_the_server_are_read(real: Cli, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "shop.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT)")
        connection.executemany("INSERT INTO orders (item) VALUES (?)", [("desk",), ("lamp",)])
    place = f"file://{tmp_path}/shop.sqlite"
    real("space", "create", "database")
    refused = real("space", "source", "add", "database", place)
    assert (refused.code, "--table TABLE" in refused.err) == (1, True)
    added = real("space", "source", "add", "database", place, "--table", "orders", "--follow", "-o", "json").json
    assert (added["kind"], added["report"]["num_new"]) == ("sql", 3), "two rows and the card"
    assert real("space", "rm", "database", "-y").code == 0


def test_two_files_are_never_one_document(real: Cli, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.md").write_text(folder)
    real("space", "create", "twins")
    done = real("space", "add", "twins", str(tmp_path / "one"), str(tmp_path / "two"))
    assert (done.code, "would be the same document 'a.md'" in done.err) == (1, True)
