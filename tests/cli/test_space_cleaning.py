"""`space clean`, `space documents --dropped`, and archives that are put into a space."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from tests.cli.conftest import Cli
from tests.cli.fake_server import FakeServer, page

from modelworks.kernel.dataspace.schemas import UNCLEANED, CleaningSettings

RULES = CleaningSettings().model_dump(mode="json")
SPACE: dict[str, Any] = {
    "object": "space",
    "id": "vs_1",
    "name": "manual",
    "state": "ready",
    "num_passages": 7,
    "settings": {"language_model": "my-lm", "parsing": {"passage_chars": 800}, "cleaning": RULES},
    "build": {
        "id": "build_1",
        "state": "succeeded",
        "step": "done",
        "progress": None,
        "counts": {"dropped": {"duplicate": 3}, "changed": {"personal_data": 1}},
    },
}
REPORT: dict[str, Any] = {
    "object": "space.cleaning",
    "run_id": "run_1",
    "state": "succeeded",
    "num_read": 10,
    "num_kept": 7,
    "removed": {"duplicate": 2, "language": 1},
    "changed": {"personal_data": 4},
    "examples": [
        {
            "passage_id": "doc_1:3",
            "place": {"page": 2},
            "rule": "language",
            "detail": "Its language is de.",
            "excerpt": "Ein Satz.",
            "document_id": "doc_1",
            "name": "a.pdf",
        }
    ],
    "notes": ["Masked 4 email in 4 passages."],
    "error": None,
}
CHANGED = {
    "passage_id": "doc_1:1",
    "place": {"lines": [9, 9]},
    "rule": "personal_data",
    "is_kept": True,
    "detail": "Masked: 1 email.",
    "excerpt": "[email]",
}
DROPPED = {
    "passage_id": "doc_1:2",
    "place": {"headings": ["Notes"]},
    "rule": "duplicate",
    "detail": "It says the same as another passage.",
    "like": "doc_1:0",
    "similarity": 1.0,
    "excerpt": "Once more.",
}


def served(server: FakeServer) -> None:
    server.on("GET", "/api/spaces/manual", SPACE)
    server.on("PATCH", "/api/spaces/vs_1", SPACE)


def test_without_a_change_it_says_which_rules_are_on_and_what_they_took(cli: Cli, server: FakeServer) -> None:
    served(server)
    done = cli("space", "clean", "manual")
    assert done.code == 0
    assert "duplicates=document" in done.out
    assert "duplicate 3" in done.out
    assert "personal_data 1" in done.out
    assert not server.calls("PATCH", "/api/spaces/vs_1")


def test_a_rule_is_switched_on_beside_the_others_and_all_are_switched_off(cli: Cli, server: FakeServer) -> None:
    served(server)
    assert cli("space", "clean", "manual", "-s", "personal_data.email=mask", "-s", "similarity=0.9").code == 0
    sent = server.calls("PATCH", "/api/spaces/vs_1")[-1].json["settings"]
    expected = {**RULES, "similarity": 0.9, "personal_data": {**RULES["personal_data"], "email": "mask"}}
    assert sent == {**SPACE["settings"], "cleaning": expected}
    assert cli("space", "clean", "manual", "--undo").code == 0
    undone = server.calls("PATCH", "/api/spaces/vs_1")[-1].json["settings"]["cleaning"]
    assert CleaningSettings.model_validate(undone) == UNCLEANED
    both = cli("space", "clean", "manual", "--undo", "-s", "min_chars=5")
    assert (both.code, "--undo" in both.err) == (1, True)


def test_a_dry_run_shows_by_rule_what_would_go(cli: Cli, server: FakeServer) -> None:
    served(server)
    server.on("POST", "/api/spaces/vs_1/cleaning/preview", {"id": "run_1", "state": "queued"})
    server.on("GET", "/api/runs/run_1", {"id": "run_1", "state": "succeeded"})
    server.on("GET", "/api/spaces/vs_1/cleaning/preview/run_1", REPORT)
    done = cli("space", "clean", "manual", "-s", 'languages=["en"]', "--dry-run")
    assert done.code == 0, done.err
    assert server.calls("POST", "/api/spaces/vs_1/cleaning/preview")[0].json["cleaning"] == {**RULES, "languages": ["en"]}
    assert [line.split() for line in done.out.splitlines()[:4]] == [
        ["RULE", "REMOVED", "CHANGED"],
        ["duplicate", "2", "0"],
        ["language", "1", "0"],
        ["personal_data", "0", "4"],
    ]
    assert "p. 2" in done.out
    assert "Its language is de." in done.out
    assert "3 of 10 passages would go; nothing was changed." in done.err
    assert not server.calls("PATCH", "/api/spaces/vs_1")
    assert cli("space", "clean", "manual", "--dry-run", "-o", "json").json == REPORT
    server.on(
        "GET", "/api/spaces/vs_1/cleaning/preview/run_1", {**REPORT, "state": "failed", "error": {"message": "It broke."}}
    )
    broken = cli("space", "clean", "manual", "--dry-run")
    assert (broken.code, "It broke." in broken.err) == (1, True)


def test_what_was_dropped_is_listed_document_by_document(cli: Cli, server: FakeServer) -> None:
    served(server)
    server.on("GET", "/api/spaces/manual/documents", page([{"id": "doc_1", "name": "a.pdf"}]))
    server.on("GET", "/api/spaces/manual/documents/doc_1/dropped", {"data": [CHANGED, DROPPED], "has_more": False})
    done = cli("space", "documents", "manual", "--dropped")
    assert server.calls("GET", "/api/spaces/manual/documents")[0].query["dropped"] == "true"
    assert [line.split()[:2] for line in done.out.splitlines()[1:]] == [["personal_data", "a.pdf"], ["duplicate", "a.pdf"]]
    assert "line 9  changed" in done.out
    assert "Notes" in done.out
    rows = cli("space", "documents", "manual", "--dropped", "-o", "json").json
    assert rows[1] == {**DROPPED, "document_id": "doc_1", "name": "a.pdf"}


def test_an_archive_becomes_a_source_and_its_next_state_stays_that_source(cli: Cli, server: FakeServer, tmp_path: Path) -> None:
    served(server)
    with zipfile.ZipFile(tmp_path / "wiki.zip", "w") as packed:
        packed.writestr("one.md", "# One")
    archive, path = str(tmp_path / "wiki.zip"), "/api/spaces/vs_1/sources"
    server.on("GET", "/api/spaces/vs_1/digests", {"digests": {}})
    server.on("GET", path, page([]))
    planned = cli("space", "add", "manual", archive, "--dry-run", "-o", "json").json
    assert [(each["change"], each["key"]) for each in planned] == [("added", "wiki.zip")]
    digest, open_to_all = planned[0]["digest"], {"licence": "mit", "owner": None, "access": []}

    def former(digest: str, **more: Any) -> None:
        form = {"kind": "archive", "name": "wiki.zip", "digest": digest, "include": ["*.md"], "exclude": []}
        known = {"id": "src_1", "kind": "archive", "state": "idle", "settings": {"source": form, "defaults": open_to_all}}
        server.on("GET", path, page([{**known, **more}]))

    former("sha256:" + "0" * 64)
    assert cli("space", "add", "manual", archive, "--dry-run", "-o", "json").json[0]["change"] == "updated"
    server.on("HEAD", f"/api/blobs/{digest}", {})
    server.on("PATCH", f"{path}/src_1", {"id": "src_1"})
    assert cli("space", "add", "manual", archive, "--ignore", "*.log", "--licence", "mit", "-o", "json").code == 0
    sent = server.calls("PATCH", f"{path}/src_1")[0].json
    assert sent["source"] == {
        "kind": "archive",
        "name": "wiki.zip",
        "digest": digest,
        "include": ["*.md"],
        "exclude": ["*.log"],
    }
    assert sent["defaults"] == open_to_all
    former(digest)
    for options in ((), ("--licence", "mit")):
        done = cli("space", "add", "manual", archive, *options, "-o", "json")
        assert (done.code, done.json[0]["change"]) == (0, "unchanged"), options
    assert len(server.calls("PATCH", f"{path}/src_1")) == 1, "nothing is sent"
    for options in (("--licence", "cc0"), ("--ignore", "*.tmp")):
        assert cli("space", "add", "manual", archive, *options, "--dry-run", "-o", "json").json[0]["change"] == "updated"
    former(digest, state="failed")
    assert cli("space", "add", "manual", archive, "--dry-run", "-o", "json").json[0]["change"] == "updated", "once more"
    for option in (("--prune",), ("-a", "year=2024")):
        refused = cli("space", "add", "manual", archive, *option)
        assert (refused.code, "unpacked on the server" in refused.err) == (1, True)
    assert not server.calls("POST", path)
