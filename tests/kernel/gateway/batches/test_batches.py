"""Batches through the official client: files of questions, answered by the routes themselves, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from sqlalchemy import func, select
from tests.kernel.gateway.batches.pile import Pile, ask, open_pile

from modelworks.contract.errors import InvalidRequest, Unavailable
from modelworks.kernel.access import Allowances
from modelworks.kernel.access.allowances import BudgetSet
from modelworks.kernel.base.database import Database
from modelworks.kernel.gateway.store import BatchAnswerRow


@pytest.fixture
async def pile(tmp_path: Path) -> AsyncIterator[Pile]:
    async with open_pile(tmp_path) as made:
        yield made


@pytest.fixture
async def either(tmp_path: Path, database: Database) -> AsyncIterator[Pile]:
    """On SQLite, and on PostgreSQL where there is one."""
    async with open_pile(tmp_path, database) as made:
        yield made


def kept(pile: Pile) -> int:
    """Answers that the database still holds."""
    with pile.db.reading() as session:
        return session.scalar(select(func.count()).select_from(BatchAnswerRow)) or 0


async def test_questions_are_answered_and_what_fails_stands_in_a_file_of_its_own(either: Pile) -> None:
    pile = either
    rows = [ask("a"), b"\n", ask("b"), ask("lost", model="nowhere"), ask("bad", temperature="hot")]
    made = await pile.begin(*rows, metadata={"night": "1"})
    assert (made.status, made.object, made.completion_window) == ("validating", "batch", "24h")
    assert made.expires_at == made.created_at + 24 * 3600
    batch = await pile.until(made.id)
    assert (batch.status, batch.errors, batch.metadata, batch.model) == ("completed", None, {"night": "1"}, None)
    assert batch.request_counts.to_dict() == {"total": 4, "completed": 2, "failed": 2}
    assert None not in (batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    assert (batch.usage.input_tokens, batch.usage.output_tokens, batch.usage.total_tokens) == (14, 4, 18)
    assert batch.usage.input_tokens_details.cached_tokens == 6

    answers = await pile.lines(batch.output_file_id)
    assert list(answers) == ["a", "b"]
    answer = answers["b"]
    assert answer["error"] is None
    assert answer["id"].startswith("batch_req_")
    assert answer["response"]["status_code"] == 200
    assert answer["response"]["body"]["choices"][0]["message"]["content"] == "yes"
    errors = await pile.lines(batch.error_file_id)
    refused = {name: (line["response"]["status_code"], line["response"]["body"]["error"]) for name, line in errors.items()}
    assert {name: (status, error["code"], error["param"]) for name, (status, error) in refused.items()} == {
        "lost": (404, "model_not_found", "model"),
        "bad": (400, "invalid_type", "temperature"),
    }
    assert (await pile.client.files.retrieve(batch.output_file_id)).purpose == "batch_output"
    assert kept(pile) == 0

    # As if each had come from outside: recorded under the key, with the id that the answer names.
    used = {record.request_id: record for record in pile.used()}
    assert len(used) == 4
    record = used[answer["response"]["request_id"]]
    assert (record.endpoint, record.model, record.status, record.prompt_tokens) == ("/v1/chat/completions", "tiny", 200, 7)


async def test_every_endpoint_is_asked(pile: Pile) -> None:
    pile.deploy("embed", task="feature-extraction")
    pile.replica.output = {"embeddings": [[0.5, -0.25]], "prompt_tokens": 7}
    batch = await pile.run(ask("e", url="/v1/embeddings", model="embed", input="text"), endpoint="/v1/embeddings")
    assert (batch.model, batch.usage.total_tokens, batch.error_file_id) == ("embed", 7, None)
    line = (await pile.lines(batch.output_file_id))["e"]
    assert line["response"]["body"]["data"][0]["embedding"] == [0.5, -0.25]

    batch = await pile.run(ask("r", url="/v1/responses", input="hello"), endpoint="/v1/responses")
    line = (await pile.lines(batch.output_file_id))["r"]
    assert line["response"]["body"]["output"][0]["content"][0]["text"] == "yes"
    assert (batch.usage.input_tokens, batch.usage.output_tokens) == (7, 2)

    pile.replica.answer(*[each async for each in pile.replica.lines({"messages": [{"content": ""}]})])
    batch = await pile.run(ask("c", url="/v1/completions", prompt="hello"), endpoint="/v1/completions")
    assert (await pile.lines(batch.output_file_id))["c"]["response"]["body"]["choices"][0]["text"] == "yes"


async def test_a_file_with_faults_is_refused_line_by_line_and_nothing_is_asked(pile: Pile) -> None:
    batch = await pile.run(
        ask("a"),
        b"{nonsense\n",
        {**ask("b"), "method": "GET"},
        {**ask("c"), "url": "/v1/embeddings"},
        ask("a"),
        {"custom_id": "d", "method": "POST", "url": "/v1/chat/completions"},
        ask("e", stream=True),
        ask("f", model=""),
        {**ask("g"), "custom_id": 7},
        b"[]\n",
    )
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    assert batch.failed_at is not None
    assert [(fault.line, fault.code, fault.param) for fault in batch.errors.data] == [
        (2, "invalid_json_line", None),
        (3, "invalid_method", "method"),
        (4, "mismatched_endpoint", "url"),
        (5, "duplicate_custom_id", "custom_id"),
        (6, "missing_required_parameter", "body"),
        (7, "invalid_value", "body.stream"),
        (8, "missing_required_parameter", "body.model"),
        (9, "invalid_value", "custom_id"),
        (10, "invalid_json_line", None),
    ]
    empty = await pile.run(b"\n")
    assert [fault.code for fault in empty.errors.data] == ["empty_file"]
    assert pile.questions() == []


async def test_few_questions_are_asked_at_a_time_over_all_batches(pile: Pile) -> None:
    first = await pile.begin(*[ask(f"held {n}") for n in range(4)])
    second = await pile.begin(*[ask(f"held too {n}") for n in range(4)])
    while len(pile.questions()) < 2:
        await asyncio.sleep(0.01)
    pile.held.set()
    for made in (first, second):
        assert (await pile.until(made.id)).request_counts.completed == 4
    assert pile.most_at_once == 2


async def test_a_batch_goes_on_after_a_crash_and_asks_nothing_twice(either: Pile) -> None:
    pile = either
    made = await pile.begin(ask("a"), ask("held"), ask("c"), ask("lost", model="nowhere"), ask("e"))
    # Deleted and collected as garbage: what a batch still has to read is kept for it.
    await pile.client.files.delete(made.input_file_id)
    digests = {blob.digest for blob in pile.blobs.list()}
    assert pile.files.referenced(digests) == set()
    assert len(pile.batches.referenced(digests)) == 1
    await pile.until(made.id, status="in_progress", answered=4)
    await pile.steps.stop()
    pile.held.set()
    assert (await pile.client.batches.retrieve(made.id)).status == "in_progress"

    await pile.restart()
    batch = await pile.until(made.id)
    assert batch.request_counts.to_dict() == {"total": 5, "completed": 4, "failed": 1}
    assert sorted(pile.questions()) == ["a", "c", "e", "held", "held"]
    assert list(await pile.lines(batch.output_file_id)) == ["a", "held", "c", "e"]
    assert pile.batches.referenced(digests) == set()


async def test_what_is_cancelled_gives_out_what_it_has(pile: Pile) -> None:
    made = await pile.begin(ask("a"), ask("held"), ask("held too"), ask("never"))
    await pile.until(made.id, status="in_progress", answered=1)
    assert (await pile.client.batches.cancel(made.id)).status in ("cancelling", "cancelled")
    await asyncio.wait_for(pile.replica.hung_up.wait(), 10)
    batch = await pile.until(made.id)
    assert (batch.status, batch.request_counts.completed, batch.request_counts.total) == ("cancelled", 1, 4)
    assert None not in (batch.cancelling_at, batch.cancelled_at)
    assert list(await pile.lines(batch.output_file_id)) == ["a"]
    errors = await pile.lines(batch.error_file_id)
    assert {name: (line["response"], line["error"]["code"]) for name, line in errors.items()} == dict.fromkeys(
        ["held", "held too", "never"], (None, "batch_cancelled")
    )
    with pytest.raises(openai.ConflictError):
        await pile.client.batches.cancel(made.id)
    assert "never" not in pile.questions()


async def test_a_batch_that_is_cancelled_before_it_is_read_asks_nothing(pile: Pile) -> None:
    await pile.steps.stop()
    made = await pile.begin(ask("a"))
    assert (await pile.client.batches.cancel(made.id)).status == "cancelling"
    assert (await pile.client.batches.cancel(made.id)).status == "cancelling"
    await pile.restart()
    batch = await pile.until(made.id)
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("cancelled", None, None)
    assert pile.questions() == []


async def test_what_is_not_answered_within_the_window_expires(pile: Pile) -> None:
    made = await pile.begin(ask("a"), ask("held"), ask("held too"), ask("late"), output_expires_after=LIFE)
    await pile.until(made.id, status="in_progress", answered=1)
    pile.clock.advance(24 * 3600)
    pile.held.set()
    batch = await pile.until(made.id)
    assert (batch.status, batch.request_counts.completed) == ("expired", 3)
    # What was under way when the window closed has been paid for.
    assert list(await pile.lines(batch.output_file_id)) == ["a", "held", "held too"]
    assert (await pile.lines(batch.error_file_id))["late"]["error"]["code"] == "batch_expired"
    file = await pile.client.files.retrieve(batch.output_file_id)
    assert file.expires_at == file.created_at + 7200


LIFE: Any = {"anchor": "created_at", "seconds": 7200}


async def test_what_fails_for_a_moment_is_asked_again_and_what_is_refused_is_not(pile: Pile) -> None:
    pile.replica.refusal = (503, Unavailable("Busy.").to_wire())
    await pile.restart(patience_s=(0.05,) * 100)
    made = await pile.begin(ask("a"))
    while not pile.replica.requests:
        await asyncio.sleep(0.005)
    pile.replica.refusal = None
    assert (await pile.until(made.id)).request_counts.completed == 1

    pile.replica.refusal = (400, InvalidRequest("No.").to_wire())
    batch = await pile.run(ask("b"))
    assert (batch.status, batch.request_counts.failed, pile.questions().count("b")) == ("completed", 1, 1)


async def test_budgets_and_allow_lists_hold(pile: Pile) -> None:
    pile.deploy("other")
    client = await pile.other(["read", "write", "inference"], model_allow=["tiny"])
    batch = await pile.begin(ask("a"), ask("b", model="other"), client=client)
    batch = await pile.until(batch.id)
    error = (await pile.lines(batch.error_file_id))["b"]["response"]
    assert (error["status_code"], error["body"]["error"]["code"]) == (403, "model_not_allowed")
    assert pile.questions() == ["a"]

    with pile.db.transaction() as session:
        Allowances(pile.clock, pile.events).set(session, pile.project_id, BudgetSet(metric="tokens", amount=20))
    batch = await pile.run(ask("c", max_tokens=2000))
    error = (await pile.lines(batch.error_file_id))["c"]["response"]
    assert (error["status_code"], error["body"]["error"]["code"]) == (429, "insufficient_quota")
    assert pile.questions() == ["a"]


async def test_a_key_that_is_revoked_ends_its_batch(pile: Pile) -> None:
    client = await pile.other(["read", "write", "inference"])
    made = await pile.begin(*[ask("a"), ask("held"), ask("held too"), ask("late")], client=client)
    await pile.until(made.id, status="in_progress", answered=1)
    with pile.db.transaction() as session:
        [key] = [key for key in pile.access.list_keys(session, pile.project_id)[0] if key.name == "other"]
        pile.access.revoke_key(session, pile.project_id, key.id)
    pile.held.set()
    batch = await pile.until(made.id)
    assert (batch.status, [fault.code for fault in batch.errors.data]) == ("failed", ["revoked_api_key"])
    assert "a" in await pile.lines(batch.output_file_id)
    assert (await pile.lines(batch.error_file_id))["late"]["error"]["code"] == "batch_failed"
    assert "late" not in pile.questions()


async def test_batches_belong_to_their_project(pile: Pile) -> None:
    made = [await pile.run(ask("a")) for _ in range(3)]
    page = await pile.client.batches.list(limit=2)
    assert [each.id for each in page.data] == [made[2].id, made[1].id]
    assert [each.id async for each in pile.client.batches.list(limit=2)] == [each.id for each in reversed(made)]

    stranger = await pile.other(["read", "write", "inference"], project="another lab")
    assert (await stranger.batches.list()).data == []
    for refused in (stranger.batches.retrieve, stranger.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            await refused(made[0].id)
    with pytest.raises(openai.NotFoundError):
        await stranger.batches.list(after=made[0].id)
    with pytest.raises(openai.NotFoundError) as error:
        await stranger.batches.create(
            input_file_id=made[0].input_file_id, endpoint="/v1/chat/completions", completion_window="24h"
        )
    assert (error.value.param, error.value.code) == ("input_file_id", "file_not_found")


async def test_what_cannot_be_asked_for_is_refused_at_once(pile: Pile) -> None:
    batches = pile.client.batches
    file_id = await pile.file(ask("a"))
    for changed, param in (
        ({"endpoint": "/v1/models"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
        ({"input_file_id": await pile.file(ask("a"), purpose="evals")}, "input_file_id"),
    ):
        body: Any = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h", **changed}
        with pytest.raises(openai.BadRequestError) as error:
            await batches.create(**body)
        assert error.value.param == param
    # Whoever may not ask models may not have them asked.
    with pytest.raises(openai.PermissionDeniedError):
        await (await pile.other(["read", "write"])).batches.create(
            input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h"
        )
    with pytest.raises(openai.PermissionDeniedError):
        await (await pile.other(["read", "inference"])).batches.create(
            input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h"
        )


async def test_a_file_that_is_too_large_is_refused_before_it_is_read(pile: Pile, monkeypatch: pytest.MonkeyPatch) -> None:
    file_id = await pile.file(ask("a"), ask("b"))
    size = (await pile.client.files.retrieve(file_id)).bytes
    for limit, accepted in ((size - 1, False), (size, True)):
        monkeypatch.setattr("modelworks.kernel.gateway.batches.service.MAX_FILE_BYTES", limit)
        making = pile.client.batches.create(input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h")
        if accepted:
            assert (await making).input_file_id == file_id
            continue
        with pytest.raises(openai.BadRequestError, match=rf"has {size} bytes; at most {limit} are taken") as error:
            await making
        assert (error.value.param, error.value.code) == ("input_file_id", "file_too_large")


async def test_the_principal_of_an_inner_request_cannot_come_from_outside(pile: Pile) -> None:
    """Only the server's own scope can name it: a header of that name is nothing but a header."""
    async with httpx.AsyncClient(base_url=pile.url) as http:
        answer = await http.get("/v1/batches", headers={"modelworks.principal": pile.project_id})
    assert answer.status_code == 401
