"""A run from its submission to its result, with a real worker process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.jobs.rooms import PROJECT, Rooms

from modelworks.contract.errors import ModelworksError
from modelworks.kernel.storage import BlobStore


def test_a_training_ends_in_a_registered_model_with_lineage(rooms: Rooms) -> None:
    dataset = rooms.dataset()
    run = rooms.submit(inputs={"train": "corpus"}, params={"steps": 5}, seed=7)
    assert run.state == "queued"
    assert run.params["rate"] == 0.5, "defaults are kept with the run"
    done = rooms.finish(run.id)
    assert done.state == "succeeded", rooms.log(run.id)
    assert done.attempt == 1
    assert done.progress == {"done": 5.0, "total": 5.0, "what": "steps"}
    assert done.started_at is not None
    assert done.finished_at is not None
    assert rooms.metrics(run.id)["loss"] == {step: 1.0 / step for step in range(1, 6)}
    [output] = done.outputs
    assert (output.kind, output.name, output.number) == ("model", "counter", 1)
    with rooms.db.reading() as session:
        version = rooms.catalog.resolve(session, PROJECT, "counter")
        edges = rooms.catalog.lineage(session, PROJECT, version.id, "up").edges
    assert version.id == output.version_id
    assert (version.task, version.level, version.licence) == ("toy-count", "L0", "apache-2.0")
    assert version.metadata == {"words": 3}
    assert version.created_by_run == run.id
    config = json.loads(rooms.blobs.read(version.files[0].digest, 1 << 20))
    assert config["total"] == rooms.metrics(run.id)["total"][5]
    found = {(edge.subject_id, edge.relation, edge.object_id, edge.role) for edge in edges}
    assert (run.id, "used", dataset, "train") in {(s, r, o, role) for s, r, o, role in found}
    assert (run.id, "generated", version.id) in {(s, r, o) for s, r, o, _ in found}
    assert "attempt 1 step 5" in rooms.log(run.id)
    assert rooms.event_types(run.id) == [
        "state", "state", "started", "used", "checkpoint", "checkpoint", "saved", "environment", "finished", "state",
    ]  # fmt: skip


def test_nothing_but_the_log_stays_of_an_attempt(rooms: Rooms) -> None:
    run = rooms.submit(params={"steps": 2})
    rooms.finish(run.id)
    folder = rooms.settings.home / "runs" / run.id / "1"
    assert [path.name for path in folder.iterdir()] == ["log.txt"]


class TestObjectStorage:
    @pytest.fixture
    def tune(self, s3_server: str, s3_blobs: BlobStore) -> dict[str, Any]:
        options = {"endpoint_url": s3_server, "key": "testing", "secret": "testing"}
        return {"storage_url": s3_blobs.url, "storage_options": options}

    def test_checkpoints_inputs_and_results_go_through_it(self, rooms: Rooms) -> None:
        rooms.dataset()
        run = rooms.finish(rooms.submit(inputs={"train": "corpus"}, params={"steps": 4, "die_at": 4}).id)
        assert (run.state, run.attempt) == ("succeeded", 2), rooms.log(run.id)
        assert "resuming at step 2" in rooms.log(run.id)
        assert not (rooms.settings.home / "blobs").exists()


class TestPull:
    @pytest.fixture
    def tune(self, tmp_path: Path) -> dict[str, Any]:
        return {"pull_roots": [str(tmp_path / "shelf")]}

    def pull(self, rooms: Rooms, folder: Path) -> Any:
        wish = {"params": {"source": f"file://{folder}", "kind": "dataset", "licence": "cc0-1.0"}, "output_name": "words"}
        return rooms.submit("pull", None, capability=None, **wish)

    def test_a_source_becomes_a_version(self, rooms: Rooms, tmp_path: Path) -> None:
        folder = tmp_path / "shelf" / "words"
        folder.mkdir(parents=True)
        (folder / "words.txt").write_text("one two")
        run = rooms.finish(self.pull(rooms, folder).id)
        assert run.state == "succeeded", f"{run.error}\n{rooms.log(run.id)}"
        with rooms.db.reading() as session:
            version = rooms.catalog.resolve(session, PROJECT, "words", "dataset")
        assert version.created_by_run == run.id
        assert version.licence == "cc0-1.0"
        assert version.source == f"file://{folder}"

    def test_a_source_that_the_settings_forbid_is_refused_at_submission(self, rooms: Rooms, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        with pytest.raises(ModelworksError, match="elsewhere"):
            self.pull(rooms, tmp_path / "elsewhere")
