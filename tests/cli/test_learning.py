"""`space learn | learnings | unlearn`."""

from __future__ import annotations

from typing import Any

from tests.cli.conftest import Cli
from tests.cli.fake_server import FakeServer

from modelworks.cli import learning as verbs

RESULT = {"data": "test", "metric": "loss", "before": 2.125, "after": 1.5, "verdict": "better"}
RUNNING: dict[str, Any] = {
    "object": "space.learning",
    "id": "learn_1",
    "state": "running",
    "step": "training",
    "base": "my-lm",
    "model": "spaces/manual/model",
    "runs": {"training": "run_1"},
    "counts": {"num_samples": 40, "makers": {"heading": 40}},
    "results": [],
    "judgement": [],
    "shards": [],
    "progress": {"done": 3, "total": 10, "what": "steps"},
    "error": None,
    "created_at": "2026-01-01T00:00:00Z",
    "finished_at": None,
}
SHARD = {"number": 1, "way": "kept", "num_samples": 20, "tainted_by": ["doc_1"]}
OVER = {**RUNNING, "step": "done", "progress": None, "results": [RESULT]}
SPACE = {"name": "manual", "num_passages": 9, "settings": {"language_model": "my-lm", "learning": {"max_steps": 300}}}


def test_it_is_followed_to_its_end_and_a_refusal_is_a_failure(cli: Cli, server: FakeServer, monkeypatch: Any) -> None:
    monkeypatch.setattr(verbs, "_POLL_S", 0)
    server.on("POST", "/api/spaces/manual/learn", RUNNING)
    server.on("GET", "/api/spaces/manual/learnings/learn_1", {**OVER, "state": "succeeded"})
    done = cli("space", "learn", "manual", "-f")
    assert done.code == 0
    assert "training 3/10 steps" in done.err
    assert "loss 2.125 → 1.5 (better)" in done.out
    assert "kept" not in done.out, "one part is no division"
    shards = [SHARD, {**SHARD, "number": 2, "way": "anew", "tainted_by": []}]
    server.on("GET", "/api/spaces/manual/learnings/learn_1", {**OVER, "state": "succeeded", "shards": shards})
    divided = cli("space", "learn", "manual", "-f").out
    assert "1 kept, 20 samples, knows 1 forgotten" in divided
    assert "2 anew, 20 samples" in divided
    server.on("GET", "/api/spaces/manual/learnings/learn_1", {**OVER, "state": "refused"})
    assert cli("space", "learn", "manual", "-f", "-o", "json").code == 1


def test_a_dry_run_shows_what_it_would_learn_from(cli: Cli, server: FakeServer) -> None:
    counts = {
        "num_documents": 41,
        "num_closed": 3,
        "num_shards": 2,
        "num_corrections": 5,
        "num_unaccepted": 7,
        "num_rejected": 1,
    }
    preview = {"object": "space.learning.preview", "name": "manual", "base": "my-lm", **counts, "may_go_on": True}
    server.on("POST", "/api/spaces/manual/learn", preview)
    done = cli("space", "learn", "manual", "--dry-run")
    assert (done.code, server.calls("POST", "/api/spaces/manual/learn")[0].query) == (0, {"dry_run": "true"})
    assert "my-lm" in done.out
    assert all(number in done.out for number in ("41", "7"))


def test_what_was_learned_is_listed_and_taken_back(cli: Cli, server: FakeServer) -> None:
    server.on(
        "GET", "/api/spaces/manual/learnings", {"object": "list", "data": [{**OVER, "state": "succeeded"}], "has_more": False}
    )
    assert "1.5 (better)" in cli("space", "learnings", "manual").out
    server.on("POST", "/api/spaces/manual/learn/rollback", SPACE)
    assert cli("space", "unlearn", "manual", "-o", "json").json == SPACE
