"""What an evaluation run leaves behind, with a real worker process."""

from __future__ import annotations

import pytest
from tests.kernel.jobs.rooms import PROJECT, Rooms

from modelworks.kernel.catalog.schemas import Evaluation


def evaluations(rooms: Rooms) -> list[Evaluation]:
    with rooms.db.reading() as session:
        return rooms.catalog.evaluations.list(session, PROJECT).data


def test_an_evaluation_is_kept_with_what_was_measured_how_and_on_what(rooms: Rooms) -> None:
    dataset = rooms.dataset("held-out", "a b c d")
    model = rooms.finish(rooms.submit(params={"steps": 2}).id).outputs[0].version_id
    run = rooms.finish(rooms.submit("evaluate", inputs={"model": "counter", "test": "held-out"}, output_name=None).id)
    assert run.state == "succeeded", rooms.log(run.id)
    [found] = evaluations(rooms)
    with rooms.db.reading() as session:
        versions = [rooms.catalog.get_version(session, PROJECT, each) for each in (model, dataset)]
    assert (found.run_id, found.version_id, found.dataset_version_id) == (run.id, model, dataset)
    assert [found.model_digest, found.dataset_digest] == [version.digest for version in versions]
    assert found.metrics == versions[0].metrics == run.result["metrics"]  # type: ignore[index]
    assert (found.params, found.task, found.report_digest) == (run.params, "toy-count", None)


@pytest.mark.parametrize("params", [{"wrong": True}])
def test_a_failed_evaluation_leaves_none(rooms: Rooms, params: dict[str, bool]) -> None:
    rooms.dataset("held-out")
    rooms.finish(rooms.submit(params={"steps": 1}).id)
    inputs = {"model": "counter", "test": "held-out"}
    run = rooms.finish(rooms.submit("evaluate", inputs=inputs, params=params, output_name=None).id)
    assert run.state == "failed"
    assert evaluations(rooms) == []
