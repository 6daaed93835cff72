"""The routes of graders, through the official client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.kernel.gateway.tuning.desk import Desk, open_desk

CHECK: Any = {
    "type": "string_check",
    "name": "same",
    "input": "{{sample.output_text}}",
    "reference": "{{item.a}}",
    "operation": "eq",
}
JUDGE: Any = {
    "type": "score_model",
    "name": "judge",
    "model": "big",
    "input": [{"role": "user", "content": "{{sample.output_text}}"}],
}


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(tmp_path) as made:
        yield made


async def test_a_grader_is_run(desk: Desk) -> None:
    graders = desk.client.fine_tuning.alpha.graders
    found = await graders.run(grader=CHECK, model_sample="4", item={"a": "4"})
    assert found.reward == 1
    assert (found.metadata.name, found.metadata.type, found.metadata.scores) == ("same", "string_check", {"same": 1.0})
    assert found.metadata.execution_time >= 0
    assert not any(value for value in found.metadata.errors.model_dump().values())
    multi: Any = {"type": "multi", "name": "all", "graders": {"a": CHECK, "b": CHECK}, "calculate_output": "a + b"}
    found = await graders.run(grader=multi, model_sample="4", item={"a": "4"})
    assert (found.reward, found.sub_rewards) == (2, {"a": 1.0, "b": 1.0})


async def test_a_fault_is_told_in_the_result(desk: Desk) -> None:
    found = await desk.client.fine_tuning.alpha.graders.run(grader=CHECK, model_sample="4", item={})
    assert (found.reward, found.metadata.errors.invalid_variable_error) == (0, True)
    # Nothing is deployed here.
    found = await desk.client.fine_tuning.alpha.graders.run(grader=JUDGE, model_sample="4")
    assert found.metadata.errors.api_model_grader_server_error
    assert "'big'" in (found.metadata.errors.api_model_grader_server_error_details or "")


async def test_a_good_grader_is_said_to_be_good(desk: Desk) -> None:
    found = await desk.client.fine_tuning.alpha.graders.validate(grader=CHECK)
    assert found.grader is not None
    assert found.grader.to_dict() == CHECK


async def test_a_bad_grader_is_refused_with_the_field(desk: Desk) -> None:
    bad: Any = {"type": "python", "name": "p", "source": "def grade(sample): return 1"}
    for call in (
        desk.client.fine_tuning.alpha.graders.validate(grader=bad),
        desk.client.fine_tuning.alpha.graders.run(grader=bad, model_sample="x"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            await call
        assert caught.value.param == "grader.source"


async def test_who_may_only_read_runs_nothing(desk: Desk) -> None:
    client = await desk.other(["read", "inference"])
    with pytest.raises(openai.PermissionDeniedError):
        await client.fine_tuning.alpha.graders.run(grader=CHECK, model_sample="4")
    writer = await desk.other(["write"])
    found = await writer.fine_tuning.alpha.graders.run(grader=JUDGE, model_sample="4")
    assert "inference" in (found.metadata.errors.api_model_grader_server_error_details or "")
