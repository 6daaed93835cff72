"""What is accepted, what is refused, and who may see it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.kernel.jobs.rooms import PROJECT, Rooms

from modelworks.contract.errors import Conflict, InvalidRequest, NotFound
from modelworks.kernel.jobs import JobSpec


@pytest.mark.parametrize(
    ("wish", "param", "words"),
    [
        ({"params": {"steps": 0}}, "params.steps", "greater than or equal to 1"),
        ({"params": {"stepz": 3}}, "params.stepz", "no parameter 'stepz'"),
        ({"params": {"rate": "fast"}}, "params.rate", "valid number"),
        ({"output_name": None}, "output_name", "needs a name"),
        ({"output_name": "no spaces"}, None, "not made of letters"),
        ({"verb": "quantise"}, "verb", "does not offer the verb 'quantise'"),
        ({"verb": "ingest", "task": None}, "params.space_id", "Field required"),
        ({"verb": "train", "task": None}, "task", "needs a task"),
        ({"verb": "train", "task": "toy-large"}, "verb", "does not offer the verb 'train'"),
        ({"inputs": {"train": "file:corpus"}}, "inputs.train", "neither model, dataset nor deployment"),
    ],
)
def test_a_wrong_wish_is_refused_with_the_place(rooms: Rooms, wish: dict[str, Any], param: str | None, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as refused:
        rooms.submit(**wish)
    assert refused.value.param == param
    with rooms.db.reading() as session:
        assert rooms.jobs.list(session, PROJECT).data == []


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        ({"task": "toy-cuont"}, "task_not_found"),
        ({"capability": "toi"}, "capability_not_found"),
        ({"inputs": {"train": "nothing"}}, "input_not_found"),
        ({"inputs": {"base": "model:nothing"}}, "input_not_found"),
    ],
)
def test_what_is_not_there_is_named(rooms: Rooms, wish: dict[str, Any], code: str) -> None:
    with pytest.raises(NotFound) as refused:
        rooms.submit(**wish)
    assert refused.value.error_code == code


def test_what_is_known_is_listed_for_the_kind_that_the_role_takes(rooms: Rooms) -> None:
    rooms.finish(rooms.submit(params={"steps": 1}, output_name="some-model").id)
    rooms.dataset("some-data")
    for role, known, other in (("train", "some-data", "some-model"), ("base", "some-model", "some-data")):
        with pytest.raises(NotFound) as refused:
            rooms.submit(inputs={role: "nothing"})
        assert known in (refused.value.hint or "")
        assert other not in (refused.value.hint or "")


def test_a_dry_run_checks_everything_and_leaves_nothing(rooms: Rooms) -> None:
    with rooms.db.transaction() as session:
        spec = JobSpec(verb="train", task="toy-count", output_name="x", params={"steps": 2})
        run = rooms.jobs.submit(session, PROJECT, None, spec, dry_run=True)
    assert (run.capability, run.params["steps"], run.params["rate"]) == ("toy", 2, 0.5)
    with rooms.db.reading() as session:
        assert rooms.jobs.list(session, PROJECT).data == []


def test_a_dry_run_may_leave_open_what_is_uploaded_later(rooms: Rooms) -> None:
    spec = JobSpec(verb="train", task="text-generation", output_name="x", inputs={"train": ""})
    with rooms.db.transaction() as session:
        assert rooms.jobs.submit(session, PROJECT, None, spec, dry_run=True).inputs == {}
        with pytest.raises(InvalidRequest, match="not a valid reference"):
            rooms.jobs.submit(session, PROJECT, None, spec)


def test_an_input_is_pinned_to_the_version_it_meant_at_submission(rooms: Rooms) -> None:
    first = rooms.dataset(text="one")
    run = rooms.submit(inputs={"train": "corpus"}, params={"steps": 1})
    rooms.dataset(text="one two three four")
    assert run.inputs["train"].version_id == first
    done = rooms.finish(run.id)
    with rooms.db.reading() as session:
        version = rooms.catalog.resolve(session, PROJECT, "counter")
    assert done.state == "succeeded"
    assert version.metadata["words"] == 1


def test_a_name_means_a_model_or_a_data_set_by_its_role_then_by_what_there_is(rooms: Rooms) -> None:
    rooms.finish(rooms.submit(params={"steps": 1}, output_name="thing").id)
    rooms.dataset("thing")
    with rooms.db.transaction() as session:
        spec = JobSpec(
            verb="train",
            task="toy-count",
            output_name="x",
            inputs={"base": "thing", "train": "thing", "extra": "model:thing", "other": "dataset:thing"},
        )
        run = rooms.jobs.submit(session, PROJECT, None, spec)
    kinds = {role: given.kind for role, given in run.inputs.items()}
    assert kinds == {"base": "model", "train": "dataset", "extra": "model", "other": "dataset"}


def test_an_evaluation_puts_its_metrics_on_the_model(rooms: Rooms) -> None:
    rooms.dataset("held-out", "a b c d")
    rooms.finish(rooms.submit(params={"steps": 2}).id)
    run = rooms.submit("evaluate", inputs={"model": "counter", "test": "held-out"}, output_name=None)
    done = rooms.finish(run.id)
    assert done.state == "succeeded", rooms.log(run.id)
    assert done.result is not None
    metrics = done.result["metrics"]
    assert metrics["accuracy"] == 0.25
    assert set(metrics) == {"accuracy", "loss"}
    with rooms.db.reading() as session:
        assert rooms.catalog.resolve(session, PROJECT, "counter").metrics == metrics


def test_an_evaluator_must_return_what_the_task_declares(rooms: Rooms) -> None:
    rooms.dataset("held-out", "a b c d")
    rooms.finish(rooms.submit(params={"steps": 2}).id)
    inputs = {"model": "counter", "test": "held-out"}
    done = rooms.finish(rooms.submit("evaluate", inputs=inputs, params={"wrong": True}, output_name=None).id)
    assert done.state == "failed"
    assert done.error is not None
    assert done.error["code"] == "metrics_mismatch"
    with rooms.db.reading() as session:
        assert rooms.catalog.resolve(session, PROJECT, "counter").metrics == {}


def test_a_job_predictor_answers_with_its_output_and_its_files(rooms: Rooms) -> None:
    done = rooms.finish(rooms.submit("batch", params={"text": "three small words"}, output_name=None).id)
    assert (done.state, done.result) == ("succeeded", {"total": 3})
    [output] = done.outputs
    assert (output.kind, output.name) == ("report", f"toy-count/{done.id}")


def test_a_job_predictor_must_answer_as_declared(rooms: Rooms) -> None:
    done = rooms.finish(rooms.submit("batch", params={"text": "lie"}, output_name=None).id)
    assert done.state == "failed"
    assert done.error is not None
    assert done.error["code"] == "output_mismatch"


def test_another_project_sees_nothing(rooms: Rooms) -> None:
    run = rooms.submit()
    jobs = rooms.jobs
    with rooms.db.transaction() as session:
        assert jobs.list(session, "prj_other").data == []
        for ask in (jobs.get, jobs.events, jobs.metrics, jobs.cancel, jobs.resume, jobs.logs):
            with pytest.raises(NotFound):
                ask(session, "prj_other", run.id)
    assert rooms.get(run.id).cancel_requested_at is None


def test_pages_go_back_in_time(rooms: Rooms) -> None:
    made = [rooms.submit().id for _ in range(5)]
    with rooms.db.reading() as session:
        first = rooms.jobs.list(session, PROJECT, limit=2)
        second = rooms.jobs.list(session, PROJECT, limit=5, after=first.last_id)
    found = [run.id for run in [*first.data, *second.data]]
    assert sorted(found) == sorted(made)
    assert found == sorted(found, reverse=True)
    assert (first.has_more, second.has_more) == (True, False)


def test_an_input_of_a_waiting_run_cannot_be_removed(rooms: Rooms) -> None:
    rooms.dataset()
    run = rooms.submit(inputs={"train": "corpus"})
    with rooms.db.transaction() as session, pytest.raises(Conflict, match=run.id):
        rooms.catalog.remove(session, PROJECT, "corpus", "dataset")


def test_an_input_that_was_removed_by_force_fails_the_run_with_the_reason(rooms: Rooms) -> None:
    rooms.dataset()
    run = rooms.submit(inputs={"train": "corpus"})
    with rooms.db.transaction() as session:
        rooms.catalog.remove(session, PROJECT, "corpus", "dataset", force=True)
    done = rooms.finish(run.id)
    assert done.state == "failed"
    assert done.error is not None
    assert "was removed" in done.error["message"]


def test_checkpoints_and_unregistered_results_are_kept_from_the_garbage_collection(rooms: Rooms) -> None:
    run = rooms.submit(params={"raise_at": 5, "save_early": True})
    rooms.finish(run.id)
    stored = {blob.digest for blob in rooms.blobs.list()}
    # Two checkpoints were made, the later one counts; the early result counts.
    assert len(rooms.jobs.referenced(stored)) == 2
    done = rooms.finish(rooms.submit(params={"steps": 2}).id)
    with rooms.db.reading() as session:
        model = rooms.catalog.get_version(session, PROJECT, done.outputs[0].version_id)
    assert rooms.jobs.referenced([file.digest for file in model.files]) == set(), "the catalog refers to it now"
