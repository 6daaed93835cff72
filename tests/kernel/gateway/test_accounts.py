"""Budgets, limits and prices as callers meet them: refused before anything is sent, settled whatever the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from tests.kernel.gateway.conftest import Stage, chunk, usage

from modelworks.kernel.access import Allowances, Prices
from modelworks.kernel.access.allowances import BudgetSet, LimitSet, Shown
from modelworks.kernel.access.invoices import invoices, verify
from modelworks.kernel.access.prices import PriceSet
from modelworks.kernel.base.clock import SystemClock

HI: Any = [{"role": "user", "content": "Hi"}]


def allow(stage: Stage, wanted: BudgetSet | LimitSet) -> Shown:
    with stage.db.transaction() as session:
        return Allowances(SystemClock(), stage.bus).set(session, stage.project_id, wanted)


def state(stage: Stage, shown: Shown) -> tuple[int, int]:
    stage.recorder.flush()
    with stage.db.reading() as session:
        found = Allowances(SystemClock(), stage.bus).get(session, stage.project_id, shown.id)
    return found.used, found.reserved


def price(stage: Stage, **wanted: Any) -> None:
    with stage.db.transaction() as session:
        Prices(SystemClock(), stage.bus).set(session, PriceSet(**wanted))


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": HI, "max_tokens": 20, **more}


async def test_an_exhausted_budget_refuses_before_the_engine_is_asked(stage: Stage) -> None:
    budget = allow(stage, BudgetSet(metric="tokens", amount=130))
    assert (await stage.post("/v1/chat/completions", chat()))[0] == 200
    assert state(stage, budget) == (7, 0)
    asked = len(stage.replica.requests)
    with pytest.raises(openai.RateLimitError) as refused:
        await stage.client.chat.completions.create(model="tiny", messages=HI, max_tokens=200)
    assert refused.value.code == "insufficient_quota"
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert "7 of 130 tokens" in str(refused.value)
    status, body, _ = await stage.post("/v1/chat/completions", chat(max_tokens=200, stream=True))
    assert (status, body["error"]["code"]) == (429, "insufficient_quota")
    # More than any database holds as a number.
    status, body, _ = await stage.post("/v1/chat/completions", chat(max_tokens=1 << 63))
    assert (status, body["error"]["code"]) == (429, "insufficient_quota")
    assert len(stage.replica.requests) == asked
    assert [record.status for record in stage.used()] == [200, 429, 429, 429]
    assert state(stage, budget) == (7, 0)


async def test_what_a_caller_gave_up_is_settled_with_what_was_written(stage: Stage) -> None:
    budget = allow(stage, BudgetSet(metric="tokens", amount=10_000))
    at_once = allow(stage, LimitSet(metric="concurrency", amount=1))

    async def endless(_request: dict[str, Any]) -> AsyncIterator[Any]:
        yield chunk("Hello", usage=usage(5, 0))
        while True:
            yield chunk(" again")
            await asyncio.sleep(0.02)

    stage.replica.lines = endless
    stream = await stage.client.chat.completions.create(model="tiny", messages=HI, stream=True, max_tokens=500)
    await anext(aiter(stream))
    assert state(stage, budget)[1] > 500
    status, body, headers = await stage.post("/v1/chat/completions", chat())
    assert (status, body["error"]["code"], headers["x-should-retry"]) == (429, "rate_limit_exceeded", "true")
    assert headers["retry-after"] == "1"
    await stream.close()
    found = await stage.used_soon(2)
    (aborted,) = [record for record in found if record.aborted]
    assert state(stage, budget) == (aborted.prompt_tokens + aborted.completion_tokens, 0)
    assert state(stage, at_once) == (0, 0)


async def test_a_failed_request_gives_back_everything(stage: Stage) -> None:
    budget = allow(stage, BudgetSet(metric="tokens", amount=10_000))
    status, _, _ = await stage.post("/v1/chat/completions", chat(model="nothing"))
    assert status == 404
    assert state(stage, budget) == (0, 0)


async def test_without_a_limit_of_its_own_the_context_is_reserved(stage: Stage) -> None:
    stage.deploy("narrow", max_model_len=100)
    allow(stage, BudgetSet(metric="tokens", amount=230))
    body = {"model": "narrow", "messages": HI}
    assert (await stage.post("/v1/chat/completions", body))[0] == 200
    assert (await stage.post("/v1/chat/completions", {**body, "n": 3}))[0] == 429
    assert (await stage.post("/v1/completions", {"model": "narrow", "prompt": ["a", "b"]}))[0] == 429
    assert (await stage.post("/v1/completions", {"model": "narrow", "prompt": ["a", "b"], "max_tokens": 40}))[0] == 200


async def test_rate_headers_count_down_and_the_refusal_says_when(stage: Stage) -> None:
    allow(stage, LimitSet(metric="requests", amount=2))
    allow(stage, LimitSet(scope="model", subject="tiny", metric="tokens", amount=100_000))
    _, _, first = await stage.post("/v1/chat/completions", chat())
    assert (first["x-ratelimit-limit-requests"], first["x-ratelimit-remaining-requests"]) == ("2", "1")
    assert first["x-ratelimit-limit-tokens"] == "100000"
    assert 90_000 < int(first["x-ratelimit-remaining-tokens"]) < 100_000
    assert first["x-ratelimit-reset-requests"].endswith("s")
    events = await stage.events("/v1/chat/completions", chat())
    assert events
    status, body, headers = await stage.post("/v1/chat/completions", chat())
    assert (status, body["error"]["code"], headers["x-should-retry"]) == (429, "rate_limit_exceeded", "true")
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert 20 < float(headers["retry-after"]) <= 30
    assert 20_000 < float(headers["retry-after-ms"]) <= 30_000


async def test_no_request_within_its_limits_is_refused(stage: Stage) -> None:
    allow(stage, LimitSet(metric="requests", amount=40))
    allow(stage, LimitSet(metric="concurrency", amount=40))
    budget = allow(stage, BudgetSet(metric="tokens", amount=40 * 7 + 120))
    allow(stage, BudgetSet(metric="requests", period="day", amount=40))

    async def ask() -> int:
        while True:
            status, body, headers = await stage.post("/v1/chat/completions", chat(max_tokens=2))
            # Room that others hold for the moment is worth another try; nothing else may refuse.
            if status == 200 or headers["x-should-retry"] == "false":
                return status
            assert "reserved by requests under way" in body["error"]["message"]
            await asyncio.sleep(0.01)

    # Rates count what was tried, so one request at a time is within the budget here.
    assert [await ask() for _ in range(40)] == [200] * 40
    assert state(stage, budget) == (280, 0)
    status, _, headers = await stage.post("/v1/chat/completions", chat(max_tokens=2))
    assert (status, headers["x-should-retry"]) == (429, "false")


async def test_the_cost_is_in_the_answer_the_record_and_the_invoice(stage: Stage) -> None:
    price(stage, model="tiny", input=2_000_000, output=10_000_000)
    answer = await stage.client.chat.completions.with_raw_response.create(model="tiny", messages=HI)
    assert answer.headers["x-modelworks-cost"] == "0.000030"
    usage = answer.parse().usage
    assert usage is not None
    assert usage.model_extra == {"cost": 0.00003}
    stream = await stage.client.chat.completions.create(
        model="tiny", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    *_, last = [event async for event in stream]
    assert last.usage is not None
    assert last.usage.model_extra == {"cost": 0.00003}
    _, body, headers = await stage.post("/v1/completions", {"model": "tiny", "prompt": ["a", "b"]})
    assert (body["usage"]["cost"], headers["x-modelworks-cost"]) == (0.00006, "0.000060")
    stage.upstream.body = b'{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}'
    _, body, headers = await stage.post("/v1/chat/completions", chat(model="remote/gpt"))
    assert "cost" not in body["usage"]
    assert "x-modelworks-cost" not in headers
    assert [record.cost for record in stage.used()] == [30, 30, 60, 0]
    with stage.db.reading() as session:
        assert [invoice.cost for invoice in invoices(session, stage.project_id)] == [120]
        assert verify(session).ok


async def test_a_key_has_a_budget_of_its_own(stage: Stage) -> None:
    other = stage.key()
    with stage.db.reading() as session:
        keys, _ = stage.access.list_keys(session, stage.project_id)
    allow(stage, BudgetSet(scope="key", subject=keys[0].id, metric="requests", period="day", amount=1))
    theirs = {"authorization": f"Bearer {other}"}
    assert (await stage.post("/v1/chat/completions", chat(), **theirs))[0] == 200
    assert (await stage.post("/v1/chat/completions", chat(), **theirs))[0] == 429
    assert (await stage.post("/v1/chat/completions", chat()))[0] == 200
