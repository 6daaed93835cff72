"""Wishes: what is accepted, what is refused and with which words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError
from tests.kernel.serving.room import PROJECT, Room

from modelworks.contract.errors import InvalidRequest, ModelNotFound, ModelworksError, NotFound, PermissionDenied
from modelworks.kernel.base.database import Database
from modelworks.kernel.serving import DeploymentSpec


@pytest.fixture
def still(make_room: Callable[..., Room], database: Database) -> Room:
    """The room with a model; its reconciler does not run."""
    made = make_room(database)
    made.register("hello ")
    return made


def test_same_wish_again_changes_nothing(still: Room) -> None:
    first = still.apply(model="greeter", options={"prefix": "a"})
    again = still.apply(model="greeter", options={"prefix": "a"})
    assert again.generation == first.generation == 1
    assert again.updated_at == first.updated_at
    changed = still.apply(model="greeter", options={"prefix": "b"})
    assert (changed.id, changed.generation) == (first.id, 2)


def test_dry_run_tells_and_stores_nothing(still: Room) -> None:
    with still.db.transaction() as session:
        shown = still.service.apply(session, PROJECT, DeploymentSpec(name="toy", model="greeter"), dry_run=True)
    assert (shown.task, shown.engine, shown.kind) == ("echo", "plain", "predictor")
    with pytest.raises(NotFound):
        still.get()
    still.apply(model="greeter")
    with still.db.transaction() as session:
        spec = DeploymentSpec(name="toy", model="greeter", num_replicas=3)
        assert still.service.apply(session, PROJECT, spec, dry_run=True).num_replicas == 3
    assert still.get().num_replicas == 1


@pytest.mark.parametrize(
    ("spec", "error", "param", "words"),
    [
        ({"model": "greter"}, ModelNotFound, None, "greeter"),
        ({"model": "greeter@nope"}, NotFound, None, "nope"),
        ({"model": "greeter", "task": "ecco"}, NotFound, "task", "echo"),
        ({"model": "greeter", "capability": "nope"}, NotFound, "capability", "serving-toys"),
        ({"model": "greeter", "engine": "vllm"}, InvalidRequest, "engine", "plain"),
        ({"model": "greeter", "options": {"prefxi": "a"}}, InvalidRequest, "options.prefxi", "prefix"),
        ({"model": "greeter", "options": {"context_length": 0}}, InvalidRequest, "options.context_length", "greater than"),
        ({"task": "count", "options": {"a": 1}}, InvalidRequest, "options", "no options"),
        ({"task": "nightly"}, InvalidRequest, "task", "/v1/tasks/nightly"),
        ({"task": "gallery"}, InvalidRequest, "model", "artifact"),
        ({}, InvalidRequest, "model", "task"),
        ({"base_url": "http://10.0.0.1/v1"}, PermissionDenied, None, "10.0.0.1"),
        ({"base_url": "https://10.0.0.1/v1", "engine": "vllm"}, InvalidRequest, "engine", "upstream"),
    ],
)
def test_bad_wish_is_refused(
    still: Room, spec: dict[str, Any], error: type[ModelworksError], param: str | None, words: str
) -> None:
    with pytest.raises(error) as caught:
        still.apply(**spec)
    assert words in caught.value.message + (caught.value.hint or "")
    if param is not None:
        assert caught.value.param == param
    with pytest.raises(NotFound):
        still.get()


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "bad name"},
        {"name": "/a"},
        {"name": "a", "num_replicas": 0},
        {"name": "a", "model": "m", "base_url": "http://h/v1"},
        {"name": "a", "base_url": "ftp://h"},
        {"name": "a", "model": "m", "upstream_model": "x"},
        {"name": "a", "base_url": "http://h/v1", "api_key_env": "AWS_SECRET_ACCESS_KEY_ID"},
        {"name": "a", "base_url": "http://h/v1", "api_key_env": "MODELWORKS_DATABASE_URL"},
        {"name": "a", "colour": "red"},
    ],
)
def test_malformed_wish_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DeploymentSpec.model_validate(spec)


def test_other_projects_see_nothing(still: Room) -> None:
    deployment = still.apply(model="greeter")
    with still.db.transaction() as session:
        for name in ("toy", deployment.id):
            with pytest.raises(NotFound):
                still.service.get(session, "prj_other", name)
            with pytest.raises(NotFound):
                still.service.remove(session, "prj_other", name)
        assert still.service.list(session, "prj_other") == ([], False)
        with pytest.raises(ModelNotFound):
            still.service.apply(session, "prj_other", DeploymentSpec(name="toy", model="greeter"))
        assert still.service.get(session, PROJECT, deployment.id).name == "toy"


def test_list_goes_on_after_the_last_id(still: Room) -> None:
    made = [still.apply(f"org/toy-{number}", model="greeter").id for number in range(3)]
    with still.db.reading() as session:
        page, more = still.service.list(session, PROJECT, limit=2)
        rest, end = still.service.list(session, PROJECT, after=page[-1].id, limit=2)
    assert sorted(made) == [each.id for each in (*page, *rest)]
    assert (more, end) == (True, False)


def test_change_is_announced_after_the_commit(still: Room) -> None:
    heard: list[str] = []

    def listen(topic: str, payload: dict[str, Any]) -> None:
        heard.append(still.get(payload["name"]).name)

    still.events.subscribe("deployment.changed", listen)
    with still.db.transaction() as session:
        still.service.apply(session, PROJECT, DeploymentSpec(name="toy", model="greeter"))
        assert heard == []
    assert heard == ["toy"]


def test_unknown_deployment_hints_at_near_ones(still: Room) -> None:
    still.apply("chat-model", model="greeter")
    with pytest.raises(NotFound) as caught:
        still.get("chat-modle")
    assert "chat-model" in (caught.value.hint or "")


def test_plain_name_of_another_kind_is_no_model(still: Room) -> None:
    still.register("[]", name="rows", kind="dataset")
    with pytest.raises(InvalidRequest, match="is a dataset"):
        still.apply(model="rows")
