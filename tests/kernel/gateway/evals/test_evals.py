"""Evals through the official client: models are asked, answers judged, results shown item by item."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import EvalRetrieveResponse
from openai.types.evals import RunRetrieveResponse
from openai.types.evals.runs import OutputItemRetrieveResponse
from pydantic import ValidationError
from tests.kernel.gateway.evals.exam import EXACT, ITEM_SCHEMA, Exam, item, open_exam
from tests.kernel.gateway.test_golden import compare

from modelworks.kernel.base.database import Database
from modelworks.kernel.gateway.evals.items import Row, Verdict

LENGTH: dict[str, Any] = {
    "type": "text_similarity",
    "name": "near",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "evaluation_metric": "fuzzy_match",
    "pass_threshold": 0.4,
}


@pytest.fixture
async def exam(tmp_path: Path) -> AsyncIterator[Exam]:
    async with open_exam(tmp_path) as made:
        yield made


def plain(value: Any) -> Any:
    """A wire object without what differs from time to time."""
    text = re.sub(r"(eval|evalrun|file|mdl|outputitem)_[0-9A-Z]{26}", r"\1_ID", value.to_json())
    return json.loads(text)


async def test_a_model_is_asked_and_judged(exam: Exam) -> None:
    exam.answer(b="no")
    eval_id = await exam.eval(EXACT, LENGTH, metadata={"team": "a"})
    source = await exam.asking(item("a"), item("b"), item("c", answer="yeah"))
    run = await exam.run(eval_id, source, name="first")
    assert (run.status, run.error) == ("completed", None)
    assert run.result_counts.to_dict() == {"total": 3, "passed": 1, "failed": 2, "errored": 0}
    assert [each.to_dict() for each in run.per_testing_criteria_results] == [
        {"testing_criteria": "exact", "passed": 1, "failed": 2},
        {"testing_criteria": "near", "passed": 2, "failed": 1},
    ]
    assert [each.to_dict() for each in run.per_model_usage] == [
        {
            "model_name": "tiny",
            "invocation_count": 3,
            "prompt_tokens": 21,
            "completion_tokens": 6,
            "cached_tokens": 9,
            "total_tokens": 27,
        }
    ]
    items = await exam.items(run)
    assert [each.status for each in items] == ["pass", "fail", "fail"]
    assert [each.datasource_item["question"] for each in items] == ["a", "b", "c"]
    assert [each.sample.output[0].content for each in items] == ["yes", "no", "yes"]
    assert [each.id for each in await exam.items(run, status="fail")] == [items[1].id, items[2].id]
    assert [each.id for each in await exam.items(run, status="pass")] == [items[0].id]
    again = await exam.client.evals.runs.output_items.retrieve(items[1].id, eval_id=eval_id, run_id=run.id)
    assert again.to_dict() == items[1].to_dict()
    compare("eval", plain(await exam.client.evals.retrieve(eval_id)))
    compare("eval-run", plain(run))
    compare("eval-output-item", plain(items[2]))


async def test_it_is_asked_as_a_client_asks_and_metered(exam: Exam) -> None:
    params = {"temperature": 0, "max_completion_tokens": 5, "seed": 9}
    await exam.run(await exam.eval(), await exam.asking(item("a"), sampling_params=params))
    (asked,) = exam.replica.requests
    assert asked["messages"] == [{"role": "system", "content": "Be short."}, {"role": "user", "content": "a"}]
    assert (asked["temperature"], asked["max_tokens"], asked["seed"]) == (0.0, 5, 9)
    (used,) = exam.used()
    assert (used.model, used.prompt_tokens, used.completion_tokens, used.status) == ("tiny", 7, 2, 200)


async def test_messages_may_stand_in_the_item(exam: Exam) -> None:
    schema = {"type": "object", "properties": {"chat": {}}}
    eval_id = await exam.eval({**EXACT, "reference": "yes"}, schema=schema)
    reference = {"type": "item_reference", "item_reference": "item.chat"}
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}, {"role": "user", "content": "a"}]
    rows = [{"item": {"chat": turns}}, {"item": {"chat": "no messages"}}, {"item": {}}]
    run = await exam.run(eval_id, await exam.asking(*rows, input_messages=reference))
    assert run.result_counts.to_dict() == {"total": 3, "passed": 1, "failed": 0, "errored": 2}
    assert exam.replica.requests[0]["messages"] == turns
    first, second, third = await exam.items(run)
    assert first.status == "pass"
    assert second.sample.error.code == "invalid_item"
    assert "item 2: item.chat is no list of messages" in second.sample.error.message
    assert "item 3" in third.sample.error.message
    assert "'chat'" in third.sample.error.message


async def test_the_words_of_responses_are_understood(exam: Exam) -> None:
    source = await exam.asking(
        item("a"),
        type="responses",
        sampling_params={"temperature": 0.5, "tools": [{"type": "function", "name": "look", "parameters": {}}]},
    )
    run = await exam.run(await exam.eval(), source)
    assert run.result_counts.passed == 1
    (asked,) = exam.replica.requests
    assert asked["tools"] == [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    assert run.data_source.type == "responses"


async def test_answers_that_are_there_already_are_judged(exam: Exam) -> None:
    chosen = {"choices": [{"message": {"role": "assistant", "content": "yes"}}], "model": "elsewhere"}
    source = exam.given(
        {**item("a"), "sample": {"output_text": "yes"}}, {**item("b"), "sample": {"output_text": "no"}}, item("c")
    )
    source["source"]["content"].append({**item("d"), "sample": chosen})
    run = await exam.run(await exam.eval(), source)
    assert run.result_counts.to_dict() == {"total": 4, "passed": 2, "failed": 2, "errored": 0}
    assert (run.model, run.per_model_usage, exam.used()) == ("", [], [])
    items = await exam.items(run)
    assert [each.status for each in items] == ["pass", "fail", "fail", "pass"]
    assert items[3].sample.model == "elsewhere"


async def test_a_deployed_model_judges_and_its_tokens_count(exam: Exam) -> None:
    exam.deploy("judge")
    exam.answer(**{"Is 'no' kind?": "rude", "Is 'yes' kind?": "kind", "b": "no"})
    labels: dict[str, Any] = {
        "type": "label_model",
        "name": "kindness",
        "model": "judge",
        "input": [{"role": "user", "content": "Is '{{sample.output_text}}' kind?"}],
        "labels": ["kind", "rude"],
        "passing_labels": ["kind"],
    }
    run = await exam.run(await exam.eval(labels), await exam.asking(item("a"), item("b")))
    assert run.result_counts.to_dict() == {"total": 2, "passed": 1, "failed": 1, "errored": 0}
    assert {each.run_model_name: each.invocation_count for each in run.per_model_usage} == {"judge": 2, "tiny": 2}
    assert sorted(used.model for used in exam.used()) == ["judge", "judge", "tiny", "tiny"]
    assert [each.results[0].sample for each in await exam.items(run)] == [{"label": "kind"}, {"label": "rude"}]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([item("a"), {"item": {"question": "b"}}], "line 2, item: 'answer' is a required property"),
        ([item("a"), b"\n", item("c", answer="x", more=1), item("d", 5)], "line 4, item.answer: 5 is not of type 'string'"),
        ([item("a"), b"{broken\n"], "line 2: it is not JSON"),
        ([item("a"), b'{"question": "no item"}\n'], 'line 2: it is not {"item": {…}}'),
        ([item("a"), b"\xff\n"], "line 2: it is not JSON"),
        ([b"\n"], "the file holds no item"),
        (
            [item("a"), {**item("b"), "sample": {"output_text": 12}}],
            "line 2, sample.output_text: Input should be a valid string",
        ),
    ],
)
async def test_a_bad_item_is_named_before_anything_is_asked(exam: Exam, rows: list[Any], told: str) -> None:
    run = await exam.run(await exam.eval(), await exam.asking(*rows))
    assert run.status == "failed"
    assert run.error.code == "invalid_item"
    assert told in run.error.message
    assert exam.replica.requests == []


async def test_a_field_that_an_item_lacks_is_named_with_the_item(exam: Exam) -> None:
    template = {"type": "template", "template": [{"role": "user", "content": "{{item.hint}} {{item.question}}"}]}
    run = await exam.run(await exam.eval(), await exam.asking(item("a", hint="Psst:"), item("b"), input_messages=template))
    assert run.result_counts.to_dict() == {"total": 2, "passed": 1, "failed": 0, "errored": 1}
    (errored,) = await exam.items(run, status="error")
    assert errored.datasource_item_id == 2
    assert "item 2" in errored.sample.error.message
    assert "item.hint" in errored.sample.error.message
    assert exam.questions() == ["Psst: a"]
    run = await exam.run(await exam.eval({**EXACT, "reference": "{{item.hint}}"}), exam.given(item("a")))
    (errored,) = await exam.items(run)
    assert (errored.status, errored.results[0].passed) == ("error", False)
    assert "item 1" in errored.results[0].error["message"]
    assert "item.hint" in errored.results[0].error["message"]
    assert run.per_testing_criteria_results[0].to_dict() == {"testing_criteria": "exact", "passed": 0, "failed": 0}


async def refused(exam: Exam, param: str, call: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as found:
        await call
    assert found.value.param == param, found.value
    return found.value


async def test_a_wrong_eval_is_refused_with_the_field(exam: Exam) -> None:
    async def make(param: str, config: Any, *criteria: Any) -> str:
        call = exam.client.evals.create(data_source_config=config, testing_criteria=list(criteria) or [EXACT])
        found = await refused(exam, param, call)
        assert found.status_code == 400
        return found.message

    good = {"type": "custom", "item_schema": ITEM_SCHEMA}
    for kind in ("logs", "stored_completions"):
        assert "not kept on this platform" in await make("data_source_config.type", {"type": kind})
    await make("data_source_config.type", {"type": "strange"})
    await make("data_source_config.item_schema", {"type": "custom"})
    await make("data_source_config.item_schema.type", {"type": "custom", "item_schema": {"type": "objekt"}})
    await make("testing_criteria.1.type", good, EXACT, {"type": "guess", "name": "x"})
    await make("testing_criteria.0.operation", good, {**EXACT, "operation": "near"})
    broken = {"type": "python", "name": "p", "source": "def grade(:"}
    assert (await make("testing_criteria.1.source", good, EXACT, broken)).startswith("Error code: 400 - testing_criteria.1.")
    await refused(exam, "name", exam.eval(name="nul\0"))
    strict = {**good, "item_schema": {**ITEM_SCHEMA, "additionalProperties": False}}
    assert "item.anwser" in await make("testing_criteria.0", strict, {**EXACT, "reference": "{{item.anwser}}"})


async def test_a_wrong_run_is_refused_with_the_field(exam: Exam) -> None:
    eval_id = await exam.eval()

    async def make(param: str, source: Any) -> openai.APIStatusError:
        return await refused(exam, param, exam.client.evals.runs.create(eval_id, data_source=source))

    good = await exam.asking(item("a"))
    tuning = await exam.file(item("a"), purpose="fine-tune")
    found = await make("data_source.source.id", {**good, "source": {"type": "file_id", "id": tuning}})
    assert (found.code, found.status_code) == ("invalid_file_purpose", 400)
    gone = await exam.file(item("a"))
    await exam.client.files.delete(gone)
    found = await make("data_source.source.id", {**good, "source": {"type": "file_id", "id": gone}})
    assert (found.code, found.status_code) == ("file_not_found", 404)
    await make("data_source.source.type", {**good, "source": {"type": "stored_completions"}})
    await make("data_source.source.type", {**good, "type": "responses", "source": {"type": "responses"}})
    await make("data_source.source.content", {**good, "source": {"type": "file_content", "content": []}})
    await make("data_source.type", {**good, "type": "strange"})
    assert (await make("data_source.model", {**good, "model": "tini"})).status_code == 404
    await make("data_source.input_messages", {name: value for name, value in good.items() if name != "input_messages"})
    await make("data_source.sampling_params.temperature", {**good, "sampling_params": {"temperature": 9}})
    form = {"response_format": {"type": "yaml"}}
    await make("data_source.sampling_params.response_format.type", {**good, "sampling_params": form})
    text = {"text": {"format": {"type": "yaml"}}}
    await make("data_source.sampling_params.response_format.type", {**good, "type": "responses", "sampling_params": text})
    tools = {"tools": [{"type": "web_search"}]}
    await make("data_source.sampling_params.tools.0.type", {**good, "type": "responses", "sampling_params": tools})
    for content in ("{{sample.output_text}}", "{{item.}}", [{"type": "input_image", "image_url": "data:,"}]):
        turns = {"type": "template", "template": [{"role": "user", "content": content}]}
        await make("data_source.input_messages.template.0.content", {**good, "input_messages": turns})
    assert [run async for run in exam.client.evals.runs.list(eval_id)] == []


@pytest.fixture
async def either(tmp_path: Path, database: Database) -> AsyncIterator[Exam]:
    """On SQLite, and on PostgreSQL where there is one."""
    async with open_exam(tmp_path, database) as made:
        yield made


async def test_evals_are_listed_renamed_and_deleted(either: Exam) -> None:
    exam = either
    made = []
    for number in range(5):
        exam.clock.advance(1)
        made.append(await exam.eval(name=f"quiz {number}"))
    exam.clock.advance(1)
    changed = await exam.client.evals.update(made[1], name="changed", metadata={"a": "b"})
    assert (changed.name, changed.metadata) == ("changed", {"a": "b"})
    evals = exam.client.evals
    assert [each.id async for each in evals.list(limit=2)] == made
    assert [each.id async for each in evals.list(limit=2, order="desc")] == made[::-1]
    by_change = [made[0], *made[2:], made[1]]
    assert [each.id async for each in evals.list(limit=2, order_by="updated_at")] == by_change
    assert [each.id async for each in evals.list(limit=2, order_by="updated_at", order="desc")] == by_change[::-1]
    run = await exam.run(made[0], exam.given(item("a")))
    gone = await evals.delete(made[0])
    assert (gone.deleted, gone.eval_id, gone.object) == (True, made[0], "eval.deleted")
    for call in (evals.retrieve(made[0]), evals.runs.retrieve(run.id, eval_id=made[0]), evals.delete(made[0])):
        await refused(exam, "eval_id", call)


async def test_runs_are_listed_by_status_and_deleted(exam: Exam) -> None:
    eval_id = await exam.eval()
    good = [await exam.run(eval_id, exam.given(item(f"{number}"))) for number in range(3)]
    bad = await exam.run(eval_id, exam.given({"item": {}}))
    assert bad.error.message.startswith("item 1, item: 'question' is a required property")
    runs = exam.client.evals.runs
    ids = [each.id for each in (*good, bad)]
    assert [each.id async for each in runs.list(eval_id, limit=2)] == ids
    assert [each.id async for each in runs.list(eval_id, limit=3, order="desc")] == ids[::-1]
    assert [each.id async for each in runs.list(eval_id, status="failed")] == [bad.id]
    gone = await runs.delete(good[0].id, eval_id=eval_id)
    assert (gone.deleted, gone.run_id) == (True, good[0].id)
    await refused(exam, "run_id", runs.retrieve(good[0].id, eval_id=eval_id))
    other = await exam.eval()
    await refused(exam, "run_id", runs.retrieve(good[1].id, eval_id=other))


async def test_others_see_nothing_and_keys_need_their_scopes(exam: Exam) -> None:
    eval_id = await exam.eval()
    run = await exam.run(eval_id, exam.given(item("a")))
    stranger = await exam.other(["read", "write", "inference"], project="elsewhere")
    await refused(exam, "eval_id", stranger.evals.runs.retrieve(run.id, eval_id=eval_id))
    await refused(exam, "eval_id", stranger.evals.delete(eval_id))
    assert [each async for each in stranger.evals.list()] == []
    reader = await exam.other(["read"])
    assert (await reader.evals.runs.retrieve(run.id, eval_id=eval_id)).id == run.id
    source: Any = await exam.asking(item("a"))
    for client, call in (
        (await exam.other(["inference"]), lambda client: client.evals.retrieve(eval_id)),
        (reader, lambda client: client.evals.runs.create(eval_id, data_source=exam.given(item("a")))),
        (await exam.other(["write"]), lambda client: client.evals.runs.create(eval_id, data_source=source)),
        (
            await exam.other(["write", "inference"], model_allow=["other"]),
            lambda client: client.evals.runs.create(eval_id, data_source=source),
        ),
    ):
        with pytest.raises(openai.PermissionDeniedError):
            await call(client)


async def test_an_item_of_another_run_is_not_shown(exam: Exam) -> None:
    eval_id = await exam.eval()
    first, second = [await exam.run(eval_id, exam.given(item("a"))) for _ in range(2)]
    (found,) = await exam.items(first)
    items = exam.client.evals.runs.output_items
    for wanted in (found.id, "outputitem_x", f"{found.id}0"):
        await refused(exam, "output_item_id", items.retrieve(wanted, eval_id=eval_id, run_id=second.id))
    with pytest.raises(openai.BadRequestError):
        await items.list(second.id, eval_id=eval_id, after=found.id)


async def test_what_was_measured_is_compared_in_the_catalog(exam: Exam) -> None:
    exam.deploy("other")
    eval_id = await exam.eval(EXACT, EXACT)
    wrong = {"3": "no", "4": "no", "5": "no"}
    source = await exam.asking(*(item(str(number)) for number in range(8)))
    exam.answer(**wrong)
    await exam.run(eval_id, source)
    exam.answer()
    await exam.run(eval_id, {**source, "model": "other"})
    with exam.db.reading() as session:
        data = source["source"]["id"]
        found = exam.catalog.evaluations.compare(session, exam.project_id, "tiny", "other", data)
        known = exam.catalog.evaluations.list(session, exam.project_id, model="tiny", data=data).data
    rows = {row.metric: row for row in found.rows}
    assert set(rows) == {"pass_rate", "exact", "exact (2)"}
    assert (rows["exact"].baseline, rows["exact"].candidate, rows["exact"].num_samples) == (0.625, 1.0, 8)
    assert (found.metric, found.verdict) == ("pass_rate", "better")
    assert [each.metrics["exact"] for each in known] == [0.625]
    assert known[0].params["eval_id"] == eval_id
    report = known[0].report_digest
    assert exam.catalog.referenced([report]) == {report}, "the collection of garbage would take it away"
    # What was measured stays when the file goes; it only cannot be named as data any more.
    await exam.client.files.delete(data)
    with exam.db.reading() as session:
        assert len(exam.catalog.evaluations.list(session, exam.project_id, model="tiny").data) == 1


async def test_items_are_paged_by_the_thousand(exam: Exam) -> None:
    eval_id = await exam.eval()
    source = {"type": "jsonl", "source": {"type": "file_id", "id": await exam.file(*(item(str(n)) for n in range(10_000)))}}
    await exam.steps.stop()
    made = await exam.client.evals.runs.create(eval_id, data_source=source)  # type: ignore[arg-type]
    rows = [Row(number, {"question": str(number)}) for number in range(1, 10_001)]
    exam.evals.store_items(made.id, rows, is_asked=False)
    for start in range(0, 10_000, 1000):
        verdicts = [Verdict(row.seq, "pass" if row.seq % 2 else "fail") for row in rows[start : start + 1000]]
        exam.evals.store_verdicts(made.id, verdicts, [])
    run = await exam.client.evals.runs.retrieve(made.id, eval_id=eval_id)
    assert run.result_counts.to_dict() == {"total": 10_000, "passed": 5000, "failed": 5000, "errored": 0}
    last = f"outputitem_{made.id.removeprefix('evalrun_')}_9500"
    rest = await exam.items(run, limit=100, status="fail", after=last)
    assert [each.datasource_item_id for each in rest] == [*range(9502, 10_001, 2)]
    backwards = exam.client.evals.runs.output_items.list(made.id, eval_id=eval_id, limit=3, order="desc")
    page = await backwards
    assert [each.datasource_item_id for each in page.data] == [10_000, 9999, 9998]
    assert [each.datasource_item_id for each in (await page.get_next_page()).data] == [9997, 9996, 9995]


async def test_code_that_raises_is_told_with_its_item(exam: Exam) -> None:
    code = "def grade(sample, item):\n    return 1 / len(item['answer'])\n"
    python = {"type": "python", "name": "code", "source": code, "pass_threshold": 0.5}
    run = await exam.run(await exam.eval(EXACT, python), exam.given(item("a", "x"), item("b", ""), item("c", "long")))
    items = await exam.items(run)
    assert [each.status for each in items] == ["fail", "error", "fail"]
    assert [each.results[1].score for each in items] == [1.0, 0.0, 0.25]
    assert "ZeroDivisionError" in items[1].results[1].error["message"]
    assert "item 2" in items[1].results[1].error["message"]
    assert [each.to_dict()["passed"] for each in run.per_testing_criteria_results] == [1, 1]


async def test_the_wire_forms_are_those_of_the_official_package(exam: Exam) -> None:
    """The package builds its objects without checking them; here they are checked."""

    def faults(kind: Any, value: Any) -> set[str]:
        try:
            kind.model_validate(value.to_dict())
        except ValidationError as error:
            return {".".join(str(part) for part in each["loc"]) for each in error.errors()}
        return set()

    eval_id = await exam.eval(EXACT, LENGTH)
    run = await exam.run(eval_id, await exam.asking(item("a"), item("b"), sampling_params={"max_completion_tokens": 5}))
    (first, _) = await exam.items(run)
    assert faults(EvalRetrieveResponse, await exam.client.evals.retrieve(eval_id)) == set()
    # Null where nothing went wrong, as OpenAI's own answers are.
    assert faults(RunRetrieveResponse, run) == {"error"}
    assert faults(OutputItemRetrieveResponse, first) == {"sample.error"}
    failed = await exam.run(eval_id, exam.given({"item": {}}))
    assert faults(RunRetrieveResponse, failed) == set()


async def test_who_may_not_ask_the_judge_may_not_run_the_eval(exam: Exam) -> None:
    exam.deploy("judge")
    score: dict[str, Any] = {
        "type": "score_model",
        "name": "taste",
        "model": "judge",
        "input": [{"role": "user", "content": "{{sample.output_text}}"}],
    }
    eval_id = await exam.eval(score)
    limited = await exam.other(["write", "inference"], model_allow=["tiny"])
    source: Any = exam.given(item("a"))
    for call in (
        limited.evals.runs.create(eval_id, data_source=source),
        limited.evals.create(data_source_config={"type": "custom", "item_schema": {}}, testing_criteria=[score]),  # type: ignore[list-item]
    ):
        with pytest.raises(openai.PermissionDeniedError):
            await call
    exam.undeploy("judge")
    await refused(exam, "testing_criteria.0.model", exam.client.evals.runs.create(eval_id, data_source=source))
