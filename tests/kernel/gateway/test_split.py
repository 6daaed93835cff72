"""Which side of a canary a request falls to: by its user, else by its own id."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.kernel.gateway.conftest import Stage

from modelworks.kernel.serving.target import Slot, falls_to_canary


def with_canary(stage: Stage, share: float) -> None:
    target = stage.deploy("tiny")
    (slot,) = target.slots
    route = replace(slot.route, version_id="mdl_02", deployment_id="dep_tiny.canary", name="tiny.canary")
    stage.table[stage.project_id, "tiny"] = replace(target, canary=(Slot("rep_canary", route),), share=share)
    stage.pool.publish(stage.table)


async def version_for(stage: Stage, path: str = "/v1/chat/completions", headers: Any = None, **body: Any) -> str:
    asked = {"messages": [{"role": "user", "content": "Hi"}]} if "chat" in path else {"prompt": ["a", "b"]}
    url = stage.url + path
    async with stage.http.post(
        url, json={"model": "tiny", **asked, **body}, headers={"authorization": f"Bearer {stage.secret}", **(headers or {})}
    ) as answer:
        found = await answer.json()
        assert answer.status == 200, found
        assert found["model"] == "tiny"
        return str(found["system_fingerprint"])


async def test_a_user_stays_on_one_side(stage: Stage) -> None:
    with_canary(stage, 0.5)
    users = [f"user {number}" for number in range(12)]
    expected = ["mdl_02" if falls_to_canary("dep_tiny", user, 0.5) else "mdl_01" for user in users]
    assert set(expected) == {"mdl_01", "mdl_02"}
    assert [await version_for(stage, user=user) for user in users] == expected
    assert [await version_for(stage, "/v1/completions", user=user) for user in users] == expected


async def test_without_a_user_the_request_id_tells(stage: Stage) -> None:
    with_canary(stage, 0.5)
    ids = [f"req-{number}" for number in range(12)]
    expected = ["mdl_02" if falls_to_canary("dep_tiny", each, 0.5) else "mdl_01" for each in ids]
    assert [await version_for(stage, headers={"x-request-id": each}) for each in ids] == expected
