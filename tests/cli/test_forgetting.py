"""`impact | why | forget | verify-report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Cli
from tests.cli.fake_server import FakeServer

from modelworks.chain import GENESIS, entry_hash
from modelworks.cli import forgetting as verbs
from modelworks.kernel.storage import ReportSigner
from modelworks.proof import entry_digest

INDEX = {"version_id": "mdl_1", "name": "spaces/manual/index", "number": 3, "state": "ready", "run_id": "run_1"}
OLD = {**INDEX, "version_id": "ds_1", "name": "spaces/manual/passages", "number": 2, "state": "removed"}
IMPACT: dict[str, Any] = {
    "document": {"id": "doc_1", "name": "leave.md", "space_id": "vs_1"},
    "space_id": "vs_1",
    "documents": [],
    "passages": [OLD],
    "indexes": [INDEX],
    "samples": [],
    "num_samples": 0,
    "models": [],
    "evaluations": [],
    "deployments": [{"name": "spaces/manual", "version_id": "mdl_1", "by": "index"}],
    "num_answers": 4,
    "elsewhere": [],
}
RUNNING: dict[str, Any] = {
    "id": "forget_1",
    "space_id": "vs_1",
    "document_id": "doc_1",
    "state": "running",
    "step": "rebuilding",
    "progress": {"done": 3, "total": 6, "what": "steps"},
    "counts": {},
    "report": None,
    "error": None,
}


def report(folder: Path) -> tuple[dict[str, Any], str]:
    """A report as a server issues it, and the public key."""
    signer = ReportSigner(folder / "report.key")
    made = {
        "object": "space.forgetting.report",
        "id": "forget_1",
        "project_id": "prj_1",
        "space_id": "vs_1",
        "document": {"id": "doc_1", "digest": "sha256:00"},
        "finished_at": "2026-01-01T00:00:00+00:00",
        "kept_by_source": {"id": "src_1", "kind": "archive"},
        "holds": True,
    }
    return signer.signed(made), signer.public_key


@pytest.fixture
def manual(server: FakeServer) -> FakeServer:
    """A server with a space `manual` that has a document `leave.md`."""
    document = {"id": "doc_1", "space_id": "vs_1", "name": "leave.md", "key": "leave.md"}
    server.on("GET", "/api/spaces/manual/documents", {"object": "list", "data": [document], "has_more": False})
    server.on("GET", "/api/spaces", {"object": "list", "data": [{"id": "vs_1"}], "has_more": False})
    server.on("GET", "/api/spaces/vs_1/documents/doc_1/impact", IMPACT)
    return server


def test_what_was_made_of_a_document_is_told_by_its_name_and_by_its_id(cli: Cli, manual: FakeServer) -> None:
    for ref in ("manual/leave.md", "doc_1"):
        done = cli("impact", ref)
        assert done.code == 0, done.err
        assert "spaces/manual/passages@v2 (removed)" in done.out
        assert "spaces/manual (index)" in done.out
    assert cli("impact", "manual/leave.md", "-o", "json").json == IMPACT


def test_what_an_answer_rests_on_is_told_with_the_rights_of_its_documents(cli: Cli, server: FakeServer) -> None:
    cited = {"document_id": "doc_1", "name": "leave.md", "version": 2, "licence": "MIT", "owner": "Ann", "state": "changed"}
    hidden = {"document_id": "doc_2", "name": None, "version": None, "licence": None, "owner": None, "state": "hidden"}
    answer = {
        "id": "chatcmpl_1",
        "space": "manual",
        "status": "quoted",
        "created_at": "2026-01-01T00:00:00Z",
        "documents": [cited, hidden],
        "index": INDEX,
        "parsing_run_id": "run_2",
        "model": None,
    }
    server.on("GET", "/api/spaces/answers/chatcmpl_1", answer)
    done = cli("why", "chatcmpl_1")
    assert done.code == 0, done.err
    assert "query" not in done.out
    assert "leave.md (v2, MIT, Ann, changed); doc_2 (hidden)" in done.out
    assert "spaces/manual/index@v3" in done.out


COMPUTED: dict[str, Any] = {
    "state": "current",
    "by": "rules",
    "sql": 'SELECT "region", "weight" FROM "sales"',
    "tables": [{"name": "sales", "place": None, "num_rows": 2, "version": 3, "digest": f"sha256:{'a' * 64}"}],
    "columns": [{"name": "region", "unit": None}, {"name": "weight", "unit": "kg"}],
    "rows": [["North", 3.5], ["South\u001b[2J", None]],
    "is_cut": True,
}


def test_a_computed_answer_is_told_with_its_query_its_tables_and_its_rows(cli: Cli, server: FakeServer) -> None:
    answer = {
        **dict.fromkeys(("index", "parsing_run_id", "model")),
        **{"id": "chatcmpl_1", "space": "shop", "status": "computed", "created_at": "2026-01-01T00:00:00Z", "documents": []},
        "computed": COMPUTED,
    }
    server.on("GET", "/api/spaces/answers/chatcmpl_1", answer)
    done = cli("why", "chatcmpl_1")
    assert done.code == 0, done.err
    assert 'SELECT "region", "weight" FROM "sales"' in done.out
    assert "sales v3 (2 rows, sha256:aaaaaaaaaaaa)" in done.out
    assert done.out.splitlines()[-4:] == ["region     weight [kg]", "North      3.5", "South [2J  -", "…"]
    server.on("GET", "/api/spaces/answers/chatcmpl_1", {**answer, "computed": {**COMPUTED, "state": "changed", "rows": None}})
    assert "(changed)" in cli("why", "chatcmpl_1").out
    assert cli("why", "chatcmpl_1", "-o", "json").json["computed"]["rows"] is None


def test_what_was_computed_from_a_document_is_told_with_what_was_made_of_it(cli: Cli, manual: FakeServer) -> None:
    made = {"answer_id": "chatcmpl_7", "created_at": "2026-01-01T00:00:00Z", "computed": COMPUTED}
    hidden = {**made, "answer_id": "chatcmpl_8", "computed": {**COMPUTED, "state": "withheld", "sql": None}}
    manual.on("GET", "/api/spaces/vs_1/documents/doc_1/impact", {**IMPACT, "computed": [made, hidden]})
    told = cli("impact", "manual/leave.md").out
    assert 'chatcmpl_7: SELECT "region", "weight" FROM "sales", chatcmpl_8: not told (withheld)' in told


def test_it_is_asked_first_followed_to_its_end_and_the_report_written(
    cli: Cli, manual: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "_POLL_S", 0)
    issued, key = report(tmp_path)
    manual.on("POST", "/api/spaces/vs_1/documents/doc_1/forget", RUNNING)
    over = {**RUNNING, "state": "succeeded", "step": "done", "report": issued, "counts": {"passages": 3, "versions": ["a"]}}
    manual.on("GET", "/api/forgettings/forget_1", over)
    assert cli("forget", "manual/leave.md", typed="n\n").code == 1
    assert not manual.calls("POST", "/api/spaces/vs_1/documents/doc_1/forget")
    path = tmp_path / "proof.json"
    done = cli("forget", "manual/leave.md", "--prove", "--report", str(path), "--yes")
    assert done.code == 0, done.err
    assert "rebuilding 3/6" in done.err
    assert "src_1" in done.err, "where it may still be is said"
    assert "3 passages, 1 versions" in done.out
    assert json.loads(path.read_text()) == issued
    assert cli("verify-report", str(path), "--key", key).code == 0
    manual.on("GET", "/api/report-key", {"public_key": key})
    assert cli("verify-report", str(path), "-o", "json").json["checked"] == ["signature"]


def test_a_dry_run_shows_what_it_would_touch(cli: Cli, manual: FakeServer) -> None:
    manual.on("POST", "/api/spaces/vs_1/documents/doc_1/forget", IMPACT)
    done = cli("forget", "manual/leave.md", "--dry-run")
    assert (done.code, manual.calls("POST", "/api/spaces/vs_1/documents/doc_1/forget")[0].query) == (0, {"dry_run": "true"})
    assert "spaces/manual/index@v3" in done.out


def test_a_report_that_was_changed_or_issued_elsewhere_does_not_hold(cli: Cli, tmp_path: Path) -> None:
    issued, key = report(tmp_path)
    (tmp_path / "other").mkdir()
    _, foreign = report(tmp_path / "other")
    entry: dict[str, Any] = {
        "seq": 1,
        "created_at": "2026-01-01T00:00:00.000000+00:00",
        "author_kind": "system",
        "author_id": "",
        "project_id": "prj_1",
        "action": "updated",
        "noun": "forgetting",
        "subject": "forget_1",
        "before": None,
        "after": entry_digest(issued),
        "fields": [],
        "request_id": None,
        "previous": GENESIS,
    }
    entry["hash"] = entry_hash(entry)
    chain = tmp_path / "audit.jsonl"
    chain.write_text(json.dumps(entry) + "\n")

    def verified(made: dict[str, Any], *proof: str) -> tuple[int, str]:
        path = tmp_path / "report.json"
        path.write_text(json.dumps(made))
        done = cli("verify-report", str(path), *proof)
        return done.code, done.err

    assert verified(issued, "--key", key, "--chain", str(chain))[0] == 0
    changed = {**issued, "document": {"id": "doc_2"}}
    for made, proof, reason in (
        (changed, ("--key", key), "changed"),
        (changed, ("--chain", str(chain)), "no entry"),
        (issued, ("--key", foreign), "another key"),
        ({**issued, "holds": False}, ("--key", key), "found again"),
        ({"object": "space"}, ("--key", key), "no report"),
    ):
        code, said = verified(made, *proof)
        assert code == 1, proof
        assert reason in said
    entry["after"] = entry_digest(changed)
    chain.write_text(json.dumps(entry) + "\n")
    assert "breaks" in verified(changed, "--chain", str(chain))[1]
