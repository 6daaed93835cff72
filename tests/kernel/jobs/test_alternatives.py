"""Parameters that are one of several alternatives: those of the task text-generation."""

from __future__ import annotations

from typing import Any

import pytest
from tests.kernel.jobs.rooms import PROJECT, Rooms

from modelworks.contract.errors import InvalidRequest
from modelworks.kernel.jobs import JobSpec


def model(rooms: Rooms) -> str:
    """A base of a kind that nothing can be estimated for."""
    folder = rooms.settings.home / "made" / "base"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "strange"}')
    with rooms.db.transaction() as session:
        return rooms.catalog.register_folder(session, PROJECT, kind="model", name="base", path=folder).id


def submitted(rooms: Rooms, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters as they would be stored."""
    inputs = {"train": rooms.dataset()}
    if params.get("method", "pretrain") != "pretrain":
        inputs["base"] = model(rooms)
    with rooms.db.transaction() as session:
        spec = JobSpec(verb="train", task="text-generation", output_name="x", inputs=inputs, params=params)
        return rooms.jobs.submit(session, PROJECT, None, spec, dry_run=True).params


def test_the_chosen_alternative_fills_in_its_defaults(rooms: Rooms) -> None:
    assert submitted(rooms, {})["method"] == "pretrain"
    assert submitted(rooms, {"preset": "small"})["num_layers"] == 8
    stored = submitted(rooms, {"method": "lora", "rank": 4})
    assert (stored["method"], stored["rank"], stored["level"], stored["epochs"]) == ("lora", 4, "L2", 3)
    assert submitted(rooms, stored) == stored


@pytest.mark.parametrize(
    ("params", "code", "param", "words"),
    [
        ({"rank": 4}, "unknown_parameter", "params.rank", "no parameter 'rank'"),
        ({"method": "lora", "rnak": 4}, "unknown_parameter", "params.rnak", "no parameter 'rnak'"),
        ({"method": "lora", "rank": 0}, "invalid_parameters", "params.rank", "greater than or equal to 1"),
        ({"method": "preference", "adapter": {"rank": 0}}, "invalid_parameters", "params.adapter.rank", "greater than"),
        ({"method": "magic"}, "invalid_parameters", "params", "pretrain, supervised, lora"),
    ],
)
def test_what_does_not_belong_to_it_is_refused_with_the_place(
    rooms: Rooms, params: dict[str, Any], code: str, param: str, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words) as refused:
        submitted(rooms, params)
    assert (refused.value.error_code, refused.value.param) == (code, param)


def test_a_training_without_its_data_is_refused_before_it_is_queued(rooms: Rooms) -> None:
    spec = JobSpec(verb="train", task="text-generation", output_name="x")
    with rooms.db.transaction() as session, pytest.raises(InvalidRequest, match="needs the input 'train'") as refused:
        rooms.jobs.submit(session, PROJECT, None, spec)
    assert (refused.value.error_code, refused.value.param) == ("missing_required_parameter", "inputs.train")
    with rooms.db.transaction() as session:
        assert not rooms.jobs.list(session, PROJECT).data


def test_quantising_needs_a_model_and_a_name(rooms: Rooms) -> None:
    wishes = [
        (JobSpec(verb="quantise", task="text-generation", output_name="x"), "inputs.base"),
        (JobSpec(verb="quantise", task="text-generation", inputs={"base": "m"}), "output_name"),
        (JobSpec(verb="quantise", task="text-generation", output_name="x", params={"to": ["int2"]}), "params.to.0"),
    ]
    for spec, param in wishes:
        with rooms.db.transaction() as session, pytest.raises(InvalidRequest) as refused:
            rooms.jobs.submit(session, PROJECT, None, spec)
        assert refused.value.param == param
