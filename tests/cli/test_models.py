"""pull, ls, show, tree, rm, alias and the data verbs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Cli
from tests.cli.fake_server import Answer, FakeServer, page, refusal, sse

VERSION: dict[str, Any] = {
    "id": "mdl_1",
    "kind": "model",
    "name": "base",
    "number": 3,
    "digest": "sha256:" + "0" * 64,
    "files": [],
    "num_bytes": 2048,
    "task": "text-generation",
    "level": "L0",
    "licence": "Apache-2.0",
    "metrics": {"loss": 1.5},
    "created_at": "2026-01-01T00:00:00Z",
    "state": "ready",
    "aliases": ["default"],
}
SOURCE = {
    "uri": "hf://org/tiny",
    "licence": "MIT",
    "size_bytes": 3 << 20,
    "files": [{"path": "model.safetensors"}, {"path": "config.json"}],
    "skipped": [{"path": "pytorch_model.bin", "reason": "a pickle can run code"}],
    "revision": "abc123",
}
RUN = {"id": "run_1", "verb": "pull", "state": "succeeded", "outputs": [{"name": "tiny", "number": 1}]}


@pytest.fixture
def source(server: FakeServer) -> FakeServer:
    server.on("POST", "/api/sources/describe", SOURCE)
    server.on("POST", "/api/runs", {"id": "run_1", "state": "queued"})
    server.on("GET", "/api/runs/run_1", RUN)
    server.on("GET", "/api/runs/run_1/events", lambda _: Answer(sse({"seq": 1, "type": "state", "data": {"state": "running"}})))
    return server


def test_pull_shows_the_licence_before_it_asks(cli: Cli, source: FakeServer) -> None:
    done = cli("pull", "hf://org/tiny", typed="n\n")
    assert (done.code, done.out) == (1, "")
    for text in (
        "MIT",
        "abc123",
        "3.0 MiB in 2 files",
        "pytorch_model.bin: a pickle can run code",
        "[y/N]",
        "Nothing was changed.",
    ):
        assert text in done.err
    assert source.calls("POST", "/api/runs") == []


def test_pull_fetches_exactly_what_was_agreed_to(cli: Cli, source: FakeServer) -> None:
    done = cli("pull", "hf://org/tiny", "--name", "mine", typed="y\n")
    assert done.code == 0
    assert "tiny@v1" in done.out
    sent = source.calls("POST", "/api/runs")[0].json
    assert (sent["verb"], sent["output_name"]) == ("pull", "mine")
    assert sent["params"] == {"source": "hf://org/tiny", "kind": "model", "licence_accepted": "MIT", "revision": "abc123"}


def test_pull_without_a_terminal_needs_y(cli: Cli, source: FakeServer) -> None:
    done = cli("pull", "hf://org/tiny", "-o", "json")
    assert done.code == 2
    assert json.loads(done.err.splitlines()[-1])["error"]["code"] == "confirmation_required"
    done = cli("pull", "hf://org/tiny", "-y", "--detach")
    assert (done.code, done.out) == (0, "run_1\n")
    assert source.calls("POST", "/api/runs")[0].json["output_name"] == "tiny"
    assert cli("pull", "hf://org/tiny", "--dry-run", "-o", "json").json == SOURCE
    assert len(source.calls("POST", "/api/runs")) == 1


def test_pull_knows_folders_and_presets(cli: Cli, source: FakeServer, tmp_path: Path) -> None:
    presets = [{"capability": "text", "name": "qwen", "source": "hf://Qwen/Qwen3-0.6B", "revision": "main"}]
    source.on("GET", "/api/presets", page([*presets, {"capability": "text", "name": "tiny", "source": None}]))
    for given, uri in (
        ("text/qwen", "hf://Qwen/Qwen3-0.6B"),
        ("qwen", "hf://Qwen/Qwen3-0.6B"),
        (str(tmp_path), tmp_path.as_uri()),
    ):
        assert cli("pull", given, "--dry-run").code == 0
        assert source.asked[-1].json["source"] == uri
    done = cli("pull", "nonsense", "-y")
    assert done.code == 1
    assert "Presets: text/qwen." in done.err


def test_pull_takes_the_task_of_a_preset_or_the_one_that_is_named(cli: Cli, source: FakeServer) -> None:
    preset = {"capability": "embedding", "name": "ranker", "task": "text-ranking", "source": "package://ranker"}
    source.on("GET", "/api/presets", page([preset]))
    for more, task in ((("ranker",), "text-ranking"), (("ranker", "--task", "other"), "other")):
        assert cli("pull", *more, "-y", "--detach").code == 0
        assert source.calls("POST", "/api/runs")[-1].json["params"]["task"] == task


def test_show_prints_version_ancestry_siblings_and_card(cli: Cli, server: FakeServer) -> None:
    restrictions = {"effective": "CC-BY-NC-4.0", "restriction": "non-commercial", "licences": [], "unstated": ["ds_9"]}
    older = {**VERSION, "id": "mdl_0", "number": 2}
    detail = {
        "version": {**VERSION, "card": "# Base\x1b[31m\n\nA model."},
        "restrictions": restrictions,
        "versions": [VERSION, older],
        "aliases": {"default": 3},
    }
    server.on("GET", "/api/models/base@default", detail)
    done = cli("show", "base@default")
    for text in ("licence:", "Apache-2.0", "loss=1.5", "CC-BY-NC-4.0 (non-commercial)", "ds_9", "mdl_0", "# Base", "A model."):
        assert text in done.out
    assert "\x1b" not in done.out
    assert cli("show", "base@default", "-o", "json").json == detail
    assert cli("show", "base@default", "-o", "name").out == "mdl_1\n"


def test_tree_draws_the_family(cli: Cli, server: FakeServer) -> None:
    def node(name: str, number: int, **facts: object) -> dict[str, Any]:
        return {"id": f"mdl_{name}", "kind": "model", "name": name, "number": number, **facts}

    family = {
        "node": node("law", 2, level="L1", licence="MIT", metrics={"loss": 1.25}),
        "created_by_run": "run_7",
        "datasets": [node("statutes", 1, licence="CC0-1.0")],
        "evaluations": [
            {"evaluation_id": "eval_1", "data": "cases@v1", "metrics": {"loss": 0.5, "accuracy": 0.75}},
            {"evaluation_id": "eval_2", "data": "novels@v4", "metrics": {"loss": 3.0}},
        ],
        "effective_licence": "CC-BY-SA-4.0",
        "parents": [
            {
                "node": node("base", 3, level="L0", metrics={"loss": 2.5}),
                "licences_complete": False,
                "datasets": [node("books", 1)],
                "parents": [],
                "children": [],
            }
        ],
        "children": [{"node": node("court", 1, level="L2", state="removed"), "parents": [], "children": []}],
        "deployments": ["dep_1", "dep_0", "dep_2", "dep_3"],
    }
    answering = {"dep_1": ("assistant", "mdl_law"), "dep_2": ("host", "mdl_base"), "dep_3": ("desk", "mdl_newer")}
    deployments = [{"id": each, "name": name, "version_id": version} for each, (name, version) in answering.items()]
    server.on("GET", "/api/deployments", page(deployments))
    adapter = {"name": "lawyer", "deployment": "host", "deployment_id": "dep_2", "version_id": "mdl_law"}
    server.on("GET", "/api/adapters", page([adapter]))
    server.on("GET", "/api/tree/law", family)
    assert cli("tree", "law").out.splitlines() == [
        "law@v2  [L1 · MIT · inherits CC-BY-SA-4.0]",
        "├─ from base@v3  [L0 · not every licence stated · loss 2.5]",
        "│  └─ data books@v1",
        "├─ data statutes@v1  [CC0-1.0]",
        "├─ by run_7",
        "├─ measured on cases@v1: loss 0.5 · accuracy 0.75",
        "├─ measured on novels@v4: loss 3",
        "├─ deployed as assistant",
        "├─ was deployed as dep_0",
        "├─ deployed as lawyer (adapter on host)",
        "├─ was deployed as desk",
        "└─ made court@v1  [L2 · removed]",
    ]
    assert cli("tree", "law", "-o", "json").json == family
    assert cli("tree", "law", "-o", "name").out == "mdl_law\n"


@pytest.mark.parametrize(("verb", "path"), [(("rm",), "/api/models/base"), (("data", "rm"), "/api/datasets/base")])
def test_rm_asks_says_what_goes_and_can_be_tried(cli: Cli, server: FakeServer, verb: tuple[str, ...], path: str) -> None:
    plan = {"dry_run": True, "versions": [VERSION], "aliases": [], "num_bytes": 2048, "blocked_by": []}
    server.on("DELETE", path, plan)
    done = cli(*verb, "base", "--dry-run")
    assert (done.code, [asked.query for asked in server.asked]) == (0, [{"dry_run": "true"}])
    assert "mdl_1" in done.out
    done = cli(*verb, "base")
    assert done.code == 2
    done = cli(*verb, "base", typed="n\n")
    assert (done.code, done.out) == (1, "")
    assert "base@v3" in done.err
    assert all("dry_run" in asked.query for asked in server.asked)
    done = cli(*verb, "base", typed="yes\n")
    assert (done.code, done.out, server.asked[-1].query) == (0, "mdl_1\n", {})
    done = cli(*verb, "base", "-y", "--force", "-o", "json")
    assert (done.json, server.asked[-1].query) == (plan, {"force": "true"})


def test_rm_of_something_in_use_says_why(cli: Cli, server: FakeServer) -> None:
    server.on("DELETE", "/api/models/base", refusal(409, "conflict", "base@v3 is deployed as chat.", "Undeploy it first."))
    done = cli("rm", "base", "-y")
    assert (done.code, done.out) == (1, "")
    assert "deployed as chat" in done.err


def test_alias_sets_and_forgets(cli: Cli, server: FakeServer) -> None:
    server.on("PUT", "/api/aliases", VERSION)
    server.on("DELETE", "/api/aliases", Answer(status=204))
    assert cli("alias", "base@v3", "default").code == 0
    assert server.asked[-1].json == {"ref": "base@v3", "alias": "default", "kind": "model"}
    assert cli("alias", "corpus", "gold", "--remove", "--dataset").code == 0
    assert server.asked[-1].query == {"ref": "corpus", "alias": "gold", "kind": "dataset"}


def test_data_add_uploads_what_is_new(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("aaa")
    (folder / "b.txt").write_text("b")
    done = cli("data", "add", str(folder), "--dry-run", "-o", "name")
    assert (done.out.splitlines(), server.asked) == (["a.txt", "b.txt"], [])
    server.on(
        "HEAD",
        "/api/blobs/.*",
        lambda asked: Answer(
            status=200 if asked.path.endswith("9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0") else 404
        ),
    )
    server.on(
        "PUT",
        "/api/blobs",
        lambda asked: Answer({"digest": asked.headers["x-content-sha256"], "num_bytes": len(asked.body)}, 201),
    )
    server.on("POST", "/api/datasets", lambda asked: Answer({**VERSION, "id": "ds_1", **asked.json}, 201))
    done = cli("data", "add", str(folder), "--licence", "CC0-1.0", "-o", "name")
    assert (done.code, done.out) == (0, "ds_1\n")
    assert "a.txt is on the server already." in done.err
    assert "Uploaded b.txt (1 B)." in done.err
    sent = server.calls("POST", "/api/datasets")[0].json
    assert (sent["name"], sent["licence"], [file["path"] for file in sent["files"]]) == (
        "corpus",
        "CC0-1.0",
        ["a.txt", "b.txt"],
    )
    assert len(server.calls("PUT", "/api/blobs")) == 1
    done = cli("data", "add", str(tmp_path / "nowhere"))
    assert done.code == 1
    assert "no file or folder" in done.err


def test_data_ls_and_show(cli: Cli, server: FakeServer) -> None:
    server.on(
        "GET", "/api/datasets", page([{"id": "a", "name": "corpus", "aliases": {}, "latest": {**VERSION, "num_files": 2}}])
    )
    assert cli("data", "ls", "cor", "-o", "name").out == "corpus\n"
    assert server.asked[-1].query["search"] == "cor"
    assert "corpus" in cli("data", "ls").out
    server.on("GET", "/api/datasets/corpus", VERSION)
    assert "sha256:" in cli("data", "show", "corpus").out


def test_a_folder_travels_through_the_client_where_the_server_is_elsewhere(
    cli: Cli, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelworks.client.transport._LOOPBACK", frozenset())
    monkeypatch.setenv("NO_PROXY", "*")
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert cli("pull", str(folder), "--dry-run", "-o", "name").out == "config.json\n"
    assert server.asked == []
    server.on("HEAD", "/api/blobs/.*", Answer(status=200))
    server.on("POST", "/api/models", lambda asked: Answer({**VERSION, **asked.json}, 201))
    assert cli("pull", str(folder), "--licence", "MIT", "-o", "name").out == "mdl_1\n"
    sent = server.calls("POST", "/api/models")[0].json
    assert (sent["name"], sent["licence"], sent["files"][0]["path"]) == ("tiny", "MIT", "config.json")
