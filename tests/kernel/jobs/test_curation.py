"""Runs that look at a data set and clean it, with a real worker process."""

from __future__ import annotations

from typing import Any

import pytest
from tests.kernel.jobs.rooms import PROJECT, Rooms

from modelworks.contract.errors import InvalidRequest


def test_a_validation_reports_and_makes_nothing(rooms: Rooms) -> None:
    rooms.dataset(text="one bad two bad")
    done = rooms.finish(rooms.submit("validate", inputs={"data": "corpus"}, params={"epochs": 3}, output_name=None).id)
    assert done.state == "succeeded", rooms.log(done.id)
    assert done.result is not None
    assert (done.result["num_errors"], done.result["samples"], done.result["cost"]) == (2, {"word": 2}, 12)
    assert done.result["faults"][0]["message"] == "bad."
    assert done.result["size"]["is_estimate"] is True
    assert done.outputs == []


def words_of(rooms: Rooms, name: str) -> str:
    with rooms.db.reading() as session:
        version = rooms.catalog.resolve(session, PROJECT, name, "dataset")
    return rooms.blobs.read(version.files[0].digest, 1 << 20).decode()


def test_cleaning_makes_new_data_sets_with_their_lineage(rooms: Rooms) -> None:
    source = rooms.dataset(text="one bad vast two known")
    rooms.dataset("exam", "known")
    run = rooms.submit("clean", inputs={"data": "corpus", "test": "exam"}, output_name="tidy")
    done = rooms.finish(run.id)
    assert done.state == "succeeded", rooms.log(run.id)
    assert done.result is not None
    assert done.result["removed"] == {"unwanted": 2}
    assert sorted((made.name, made.kind, made.number) for made in done.outputs) == [
        ("tidy", "dataset", 1),
        ("tidy-validation", "dataset", 1),
    ]
    assert (words_of(rooms, "tidy"), words_of(rooms, "tidy-validation")) == ("one two", "vast")
    with rooms.db.reading() as session:
        version = rooms.catalog.resolve(session, PROJECT, "tidy", "dataset")
        edges = rooms.catalog.lineage(session, PROJECT, version.id, "up").edges
    assert version.metadata == {"num_samples": 2, "removed": {"unwanted": 2}}
    assert (run.id, "used", source, "data") in {(edge.subject_id, edge.relation, edge.object_id, edge.role) for edge in edges}


def test_without_a_name_cleaning_only_says_what_it_would_take(rooms: Rooms) -> None:
    rooms.dataset(text="one bad")
    done = rooms.finish(rooms.submit("clean", inputs={"data": "corpus"}, output_name=None).id)
    assert done.result is not None
    assert (done.result["removed"], done.outputs) == ({"unwanted": 1}, [])


def test_cleaning_that_leaves_nothing_fails(rooms: Rooms) -> None:
    rooms.dataset(text="bad bad")
    done = rooms.finish(rooms.submit("clean", inputs={"data": "corpus"}).id)
    assert done.state == "failed"
    assert done.error is not None
    assert "left nothing" in done.error["message"]


@pytest.mark.parametrize(
    ("known", "param"),
    [
        ({}, "inputs.data"),
        ({"inputs": {"data": "corpus"}, "params": {"epoch": 1}}, "params.epoch"),
        ({"inputs": {"data": "corpus"}, "params": {"epochs": 0}}, "params.epochs"),
        ({"inputs": {"data": "corpus"}, "task": "toy-large"}, "verb"),
    ],
)
def test_a_wrong_wish_is_refused_at_once(rooms: Rooms, known: dict[str, Any], param: str) -> None:
    rooms.dataset()
    with pytest.raises(InvalidRequest) as refused:
        rooms.submit("validate", **known)
    assert refused.value.param == param
