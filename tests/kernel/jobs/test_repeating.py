"""A finished run once more: the same bytes, and nothing in the catalog that was not there."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select
from tests.kernel.jobs.rooms import PROJECT, Rooms

from modelworks.contract.errors import Conflict, InvalidRequest, NotFound
from modelworks.kernel.catalog.store import VersionRow
from modelworks.kernel.jobs.environment import RunEnvironment, differences, installed_instead, of_this_process, thread_variables
from modelworks.kernel.jobs.repeating import RepeatedRun, Reproduction
from modelworks.kernel.jobs.store import RunEventRow, RunRow


def finished(rooms: Rooms, **known: Any) -> str:
    run = rooms.finish(rooms.submit(**known).id)
    assert run.state == "succeeded", rooms.log(run.id)
    return run.id


def repeat(rooms: Rooms, run_id: str, *, dry_run: bool = False) -> RepeatedRun:
    with rooms.db.transaction() as session:
        return rooms.jobs.reproduce(session, PROJECT, None, run_id, dry_run=dry_run)


def reproduced(rooms: Rooms, run_id: str) -> tuple[str, Reproduction]:
    done = rooms.finish(repeat(rooms, run_id).run.id)
    assert done.state == "succeeded", rooms.log(done.id)
    assert done.repeats == run_id
    return done.id, Reproduction.model_validate(done.result)


def num_versions(rooms: Rooms) -> int:
    with rooms.db.reading() as session:
        return int(session.scalar(select(func.count()).select_from(VersionRow)) or 0)


def test_the_same_run_gives_the_same_bytes_and_registers_nothing(rooms: Rooms) -> None:
    rooms.dataset()
    run_id = finished(rooms, inputs={"train": "corpus"}, params={"steps": 3, "print_environment": True}, seed=11)
    rooms.dataset(text="another version of the words")  # what is read is the version of then
    before = num_versions(rooms)
    again, found = reproduced(rooms, run_id)
    assert found.equal
    assert found.run_id == run_id
    assert [(file.path, file.equal) for file in found.files] == [("model 1/config.json", True)]
    assert found.environment == []
    assert num_versions(rooms) == before
    first, second = rooms.get(run_id), rooms.get(again)
    assert (second.seed, second.params, second.inputs) == (first.seed, first.params, first.inputs)
    assert second.outputs == []
    with pytest.raises(Conflict, match=f"repeats {run_id} itself"):
        repeat(rooms, again)


def test_the_record_says_what_it_was_computed_with(rooms: Rooms) -> None:
    found = rooms.get(finished(rooms, params={"steps": 1})).environment
    assert found is not None
    here = of_this_process()
    assert (found.python, found.platform, found.cpu, found.cpu_flags) == (here.python, here.platform, here.cpu, here.cpu_flags)
    assert found.libraries["pydantic"] == here.libraries["pydantic"]
    assert "pytest" not in found.libraries, "only what the run imported"
    assert found.threads["OMP_NUM_THREADS"]
    with rooms.db.reading() as session:
        assert rooms.jobs.list(session, PROJECT).data[0].environment is None


def test_the_threads_of_then_are_used_again(rooms: Rooms) -> None:
    run_id = finished(rooms, params={"steps": 1, "print_environment": True})
    with rooms.db.transaction() as session:
        event = session.scalars(
            select(RunEventRow).where(RunEventRow.run_id == run_id, RunEventRow.type == "environment")
        ).one()
        event.data = {**event.data, "threads": {"OMP_NUM_THREADS": "7", "torch": 7}}
    again, found = reproduced(rooms, run_id)
    assert "'OMP_NUM_THREADS': '7'" in rooms.log(again)
    assert [each.what for each in found.environment] == ["threads (torch)"]


def test_other_bytes_and_other_libraries_are_named(rooms: Rooms) -> None:
    run_id = finished(rooms, params={"steps": 2})
    with rooms.db.transaction() as session:
        row = session.get_one(RunRow, run_id)
        files = [
            {"path": "config.json", "digest": "sha256:of-then", "num_bytes": 1},
            {**row.saves[0]["files"][0], "path": "old"},
        ]
        row.saves = [{**row.saves[0], "files": files}]
        event = session.scalars(
            select(RunEventRow).where(RunEventRow.run_id == run_id, RunEventRow.type == "environment")
        ).one()
        libraries = {**event.data["libraries"], "pydantic": "0.1", "gone-for-good": "2.0"}
        event.data = {**event.data, "libraries": libraries, "python": "3.0.0"}
    known = {each.what: (each.then, each.now) for each in repeat(rooms, run_id, dry_run=True).differences}
    assert known["Python"][0] == "3.0.0"
    assert known["pydantic"][0] == "0.1"
    assert known["gone-for-good"] == ("2.0", None)
    assert len(known) == 3
    _, found = reproduced(rooms, run_id)
    assert not found.equal
    told = {file.path: (file.equal, file.then, file.now) for file in found.files}
    assert told["model 1/config.json"][:2] == (False, "sha256:of-then")
    assert told["model 1/old"][2] is None
    assert {"Python", "pydantic", "gone-for-good"} <= {each.what for each in found.environment}


def test_an_evaluation_is_compared_by_what_it_returned(rooms: Rooms) -> None:
    rooms.dataset()
    finished(rooms, params={"steps": 1})
    run_id = finished(rooms, verb="evaluate", inputs={"model": "counter", "test": "corpus"}, output_name=None)
    assert reproduced(rooms, run_id)[1].equal
    with rooms.db.transaction() as session:
        session.get_one(RunRow, run_id).result = {"metrics": {"accuracy": 0.0}}
    _, found = reproduced(rooms, run_id)
    assert (found.equal, found.result_differs) == (False, ["metrics"])


def test_what_cannot_be_repeated_is_refused_with_the_reason(rooms: Rooms) -> None:
    waiting = rooms.submit(params={"steps": 1})
    with pytest.raises(Conflict, match="is queued, so there is nothing to compare with"):
        repeat(rooms, waiting.id)
    rooms.finish(waiting.id)
    with pytest.raises(NotFound):
        repeat(rooms, "run_none")
    rooms.dataset()
    run_id = finished(rooms, inputs={"train": "corpus"}, params={"steps": 1})
    with rooms.db.transaction() as session:
        rooms.catalog.remove(session, PROJECT, "corpus", "dataset", force=True)
    with pytest.raises(NotFound, match=r"'train' of the run .*, corpus@v1, was removed") as caught:
        repeat(rooms, run_id)
    assert caught.value.param == "inputs.train"
    with rooms.db.transaction() as session:
        session.get_one(RunRow, run_id).verb = "pull"
    with pytest.raises(InvalidRequest, match="depends on what others answer"):
        repeat(rooms, run_id)


def test_only_what_can_change_a_result_is_a_difference() -> None:
    here = of_this_process()
    assert differences(here, here) == []
    assert installed_instead(here) == []
    assert differences(here, here.model_copy(update={"num_cores": 1000})) == []
    other = here.model_copy(update={"cpu_flags": ["sve"], "threads": {"torch": 64}})
    assert {each.what for each in differences(other, here)} >= {"processor's instructions", "threads (torch)"}
    assert thread_variables(other) == {"OMP_NUM_THREADS": "64"}
    assert thread_variables(RunEnvironment(python="3", platform="x", cpu="y", num_cores=1)) == {}
