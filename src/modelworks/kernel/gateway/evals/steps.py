"""What eval runs do by themselves: items are read, models asked, answers judged, what was measured told to the catalog.

Every answer and every verdict is in the database before the next is begun; after a crash of the server the next one goes on
where this one stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import structlog
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from modelworks.contract.errors import (
    AuthenticationFailed,
    InvalidData,
    ModelNotFound,
    ModelworksError,
    PermissionDenied,
)
from modelworks.contract.grading import Grade, ModelAnswer
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.ids import new_id
from modelworks.kernel.base.polling import PollingTask
from modelworks.kernel.gateway.errors import REQUEST_ID
from modelworks.kernel.gateway.evals.grading import GraderLost, GraderProcess
from modelworks.kernel.gateway.evals.items import (
    MAX_ITEMS,
    Row,
    Verdict,
    answered,
    messages_of,
    rows_of_file,
    sample_fault,
    sampled,
)
from modelworks.kernel.gateway.evals.measuring import Measuring
from modelworks.kernel.gateway.evals.service import OPEN, EvalService, models_of
from modelworks.kernel.gateway.evals.wire import FileSource, Reference, Turns, asked_model, items_source
from modelworks.kernel.gateway.files.service import FileService
from modelworks.kernel.gateway.generation import asking
from modelworks.kernel.gateway.generation.language import most_telling
from modelworks.kernel.gateway.metering import BACKGROUND
from modelworks.kernel.gateway.service import GatewayService
from modelworks.kernel.gateway.store import EvalItemRow, EvalRow, EvalRunRow

log = structlog.get_logger(__name__)

_POLL_S: Final = 5.0
#: Looks without a run after which nothing is kept ready.
_IDLE_LOOKS: Final = 12
#: Runs that are worked on at the same time, and questions of one run that are under way.
_MAX_RUNS, _MAX_QUESTIONS = 4, 8
#: Items that are taken from the database, and handed to the process that judges, at a time.
_BATCH: Final = 32
_CHECKED_AT_ONCE: Final = 200
#: Pauses before a question that failed for a reason of the moment is asked again.
_PATIENCE_S: Final = (0.5, 2.0, 8.0, 20.0)
#: What is wrong with these is wrong with every item.
_FATAL: Final = (ModelNotFound, PermissionDenied, AuthenticationFailed)

R = TypeVar("R")
Usage = list[tuple[str, Mapping[str, Any]]]


class EvalSteps:
    """One task for each run under way; lives in the server's event loop.

    Args:
        patience_s: pauses between the attempts to ask one question.
    """

    def __init__(
        self,
        evals: EvalService,
        gateway: GatewayService,
        files: FileService,
        measuring: Measuring,
        *,
        patience_s: Sequence[float] = _PATIENCE_S,
    ) -> None:
        self._evals = evals
        self._gateway = gateway
        self._files = files
        self._measuring = measuring
        self._patience_s = patience_s
        self._db = evals.db
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._watch = PollingTask(self._look, name="eval runs", poll_s=_POLL_S)
        evals.wake = self._watch.wake
        self._spare: list[GraderProcess] = []
        self._idle_looks = 0

    def start(self) -> None:
        """Begin; call it in the server's event loop."""
        self._watch.start()

    async def stop(self) -> None:
        """End what is under way; the next start goes on with it."""
        await self._watch.stop(*self._tasks.values())
        self._tasks.clear()
        await self._close_spare()

    def take(self) -> GraderProcess:
        """A process that judges: one that another run has left, or a new one."""
        return self._spare.pop() if self._spare else GraderProcess()

    async def give_back(self, process: GraderProcess) -> None:
        """Keep a process for the next run, as starting one takes half a second."""
        if self._spare:
            await process.close()
        else:
            self._spare.append(process)

    async def _close_spare(self) -> None:
        while self._spare:
            await self._spare.pop().close()

    async def _look(self) -> None:
        self._idle_looks = 0 if self._tasks else self._idle_looks + 1
        if self._idle_looks > _IDLE_LOOKS:
            await self._close_spare()
        wanted = await run_in_threadpool(self._open_runs)
        for run_id, task in [*self._tasks.items()]:
            if task.done():
                del self._tasks[run_id]
            elif run_id not in wanted:
                task.cancel()
        for run_id in wanted:
            if run_id not in self._tasks and len(self._tasks) < _MAX_RUNS:
                task = asyncio.create_task(self._guarded(run_id))
                task.add_done_callback(lambda _task: self._watch.wake())
                self._tasks[run_id] = task

    def _open_runs(self) -> list[str]:
        with self._db.reading() as session:
            return [*session.scalars(select(EvalRunRow.id).where(EvalRunRow.state.in_(OPEN)).order_by(EvalRunRow.id))]

    async def _guarded(self, run_id: str) -> None:
        """One run to its end; a failure that may pass is tried again with the next look."""
        try:
            await _Work(self, run_id).do()
        except ModelworksError as error:
            if error.retryable and error.status >= 502:
                log.warning("an eval run has to wait", run_id=run_id, reason=error.message)
                await asyncio.sleep(_POLL_S)
                return
            await run_in_threadpool(self._fail, run_id, error.error_code, _sentence(error))
        except Exception:
            log.exception("an eval run failed", run_id=run_id)
            await run_in_threadpool(
                self._fail, run_id, "internal_error", "The server met an error of its own; its log holds the details."
            )

    def _fail(self, run_id: str, code: str, message: str) -> None:
        with self._db.transaction() as session:
            if (run := self._evals.locked(session, run_id, *OPEN)) is not None:
                self._evals.close(run, "failed", {"code": code, "message": message})


class _Work:
    """One run, from where it stands to its end."""

    def __init__(self, steps: EvalSteps, run_id: str) -> None:
        self._steps = steps
        self._evals = steps._evals
        self._gateway = steps._gateway
        self._db = steps._db
        self._run_id = run_id
        self._process = steps.take()
        self._news = asyncio.Event()

    async def do(self) -> None:
        found = await run_in_threadpool(self._read)
        if found is None:
            return
        row, run = found
        self._criteria = row.testing_criteria
        self._principal = Principal(key_id=run.key_id, project_id=run.project_id, scopes=frozenset({"inference"}))
        wanted = asked_model(run.data_source)
        try:
            if run.state == "queued":
                await self._prepare(row, run, is_asked=wanted is not None)
            async with asyncio.TaskGroup() as group:
                asking_all = None if wanted is None else group.create_task(self._ask_all(wanted[1], wanted[2]))
                group.create_task(self._judge_all(asking_all))
        except BaseExceptionGroup as failures:
            raise most_telling(failures) from failures
        finally:
            await self._steps.give_back(self._process)
        evaluation_id = await run_in_threadpool(self._measured)
        await run_in_threadpool(self._complete, evaluation_id)

    def _read(self) -> tuple[EvalRow, EvalRunRow] | None:
        with self._db.reading() as session:
            run = session.get(EvalRunRow, self._run_id)
            row = None if run is None else session.get(EvalRow, run.eval_id)
            return None if run is None or row is None or run.state not in OPEN else (row, run)

    def _measured(self) -> str | None:
        try:
            return self._steps._measuring.record(self._run_id)
        except ModelworksError as error:
            # The run's own results are complete without it.
            log.warning("an eval run is not told to the catalog", run_id=self._run_id, reason=error.message)
            return None

    def _complete(self, evaluation_id: str | None) -> None:
        with self._db.transaction() as session:
            if (run := self._evals.locked(session, self._run_id, "in_progress")) is not None:
                run.evaluation_id = evaluation_id
                self._evals.close(run, "completed")

    # -- items -----------------------------------------------------------------------------------------------------------

    async def _prepare(self, row: EvalRow, run: EvalRunRow, *, is_asked: bool) -> None:
        rows = await run_in_threadpool(self._rows, run)
        for start in range(0, len(rows), _CHECKED_AT_ONCE):
            try:
                fault = await self._process.first_fault(
                    row.source_config["item_schema"], rows[start : start + _CHECKED_AT_ONCE]
                )
            except GraderLost as lost:
                raise InvalidData(
                    f"The items {rows[start].seq} and following could not be checked: {lost}.",
                    hint="Simplify the patterns of the item_schema.",
                    code="invalid_item",
                ) from lost
            if fault is None:
                samples = ((row, sample_fault(row)) for row in rows[start : start + _CHECKED_AT_ONCE])
                fault = next(((row.seq, *wrong) for row, wrong in samples if wrong is not None), None)
            if fault is not None:
                raise InvalidData(
                    f"{'line' if 'id' in run.data_source['source'] else 'item'} {fault[0]}, {fault[1]}: {fault[2]}.",
                    hint="Correct the item, or the item_schema with a new eval.",
                    code="invalid_item",
                )
        await run_in_threadpool(self._evals.store_items, self._run_id, rows, is_asked=is_asked)

    def _rows(self, run: EvalRunRow) -> list[Row]:
        source = items_source(run.data_source)
        if not isinstance(source, FileSource):
            return [Row(number, each.item, answered(each.sample)) for number, each in enumerate(source.content[:MAX_ITEMS], 1)]
        with self._db.reading() as session:
            file = self._steps._files.get(session, run.project_id, source.id, param=None)
        with self._steps._files.blobs.open(file.digest) as content:
            try:
                return [*rows_of_file(content)]
            except InvalidData as error:
                raise InvalidData(
                    f"The file {file.filename!r} ({file.id}), {error.message}", hint=error.hint, code="invalid_item"
                ) from error

    def _next(self, state: str, limit: int, after: int = 0) -> list[Row]:
        with self._db.reading() as session:
            query = select(EvalItemRow).where(
                EvalItemRow.run_id == self._run_id, EvalItemRow.state == state, EvalItemRow.seq > after
            )
            rows = session.scalars(query.order_by(EvalItemRow.seq).limit(limit))
            return [Row(row.seq, row.item, row.sample) for row in rows]

    # -- answers ---------------------------------------------------------------------------------------------------------

    async def _ask_all(self, source: Turns | Reference, body: dict[str, Any]) -> None:
        gate = asyncio.Semaphore(_MAX_QUESTIONS)
        last = 0
        async with asyncio.TaskGroup() as group:
            while rows := await run_in_threadpool(self._next, "pending", _BATCH, last):
                last = rows[-1].seq
                for row in rows:
                    await gate.acquire()
                    group.create_task(self._ask(source, body, row)).add_done_callback(lambda _task: gate.release())

    async def _ask(self, source: Turns | Reference, body: dict[str, Any], row: Row) -> None:
        try:
            messages = messages_of(source, row)
            answer = await self._patiently({**body, "messages": messages})
        except _FATAL:
            raise
        except ModelworksError as error:
            if error.retryable and error.status >= 500 and error.status != 504:
                log.info("an item of an eval run was given up", run_id=self._run_id, seq=row.seq, reason=error.message)
            sample = {"error": {"code": error.error_code, "message": _sentence(error)}}
            await self._store(self._evals.store_sample, row.seq, sample, None, None)
        else:
            sample = sampled(messages, body, answer)
            # Only a version of ours is named by its fingerprint; see `measuring`.
            version_id = answer.get("system_fingerprint")
            await self._store(self._evals.store_sample, row.seq, sample, version_id, sample["usage"])
        self._news.set()

    async def _patiently(self, body: dict[str, Any]) -> dict[str, Any]:
        for pause_s in (*self._steps._patience_s, None):
            try:
                return await asking.complete(
                    self._gateway, self._principal, {REQUEST_ID: new_id("req"), BACKGROUND: True}, body
                )
            except ModelworksError as error:
                if pause_s is None or not error.retryable or error.status < 429:
                    raise
                await asyncio.sleep(max(pause_s, min(error.retry_after_s or 0.0, 60.0)))
        raise AssertionError("the last attempt returns or raises")

    # -- verdicts --------------------------------------------------------------------------------------------------------

    async def _judge_all(self, asking_all: asyncio.Task[None] | None) -> None:
        """Judge whatever has its answer, until nothing more can come."""
        # The models that judge take their time: their items go one by one, so that each verdict is kept at once.
        batch = 1 if any(models_of(criterion) for criterion in self._criteria) else _BATCH
        while True:
            is_last = asking_all is None or asking_all.done()
            self._news.clear()
            rows = await run_in_threadpool(self._next, "sampled", batch)
            if rows:
                await self._judge(rows)
            elif is_last:
                return
            elif asking_all is not None:
                news = asyncio.create_task(self._news.wait())
                await asyncio.wait({news, asking_all}, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()

    async def _judge(self, rows: Sequence[Row]) -> None:
        """Each row gets its verdict; one that is too much for the process gets that as its verdict."""
        usage: Usage = []
        verdicts = [Verdict(row.seq, "error") for row in rows if _is_unanswered(row)]
        left = [row for row in rows if not _is_unanswered(row)]
        try:
            found = [] if not left else await self._process.grade(self._criteria, left, partial(self._ask_judge, usage))
        except GraderLost as lost:
            if len(left) > 1:
                # Alone, each row has the whole time, and only the one at fault has no verdict.
                for row in rows:
                    await self._judge([row])
                return
            found = [[{"message": f"It could not be judged: {lost}."} for _ in self._criteria]]
        for row, grades in zip(left, found, strict=True):
            results = [_result(each, grade, row.seq) for each, grade in zip(self._criteria, grades, strict=True)]
            verdicts.append(Verdict(row.seq, _state(results), results))
        await self._store(self._evals.store_verdicts, verdicts, usage)

    async def _ask_judge(self, usage: Usage, model: str, messages: list[dict[str, Any]], given: dict[str, Any]) -> ModelAnswer:
        answer = await self._patiently({"model": model, "messages": messages, **given})
        took = answer.get("usage") or {}
        usage.append((model, took))
        text = answer["choices"][0]["message"].get("content") or ""
        return ModelAnswer(text=text, num_tokens=int(took.get("total_tokens") or 0))

    async def _store(self, what: Callable[..., R], *values: Any) -> R:
        """Write to the database, however long the run's task has left: an answer that was paid for is kept."""
        return await asyncio.shield(run_in_threadpool(what, self._run_id, *values))


def _result(criterion: Mapping[str, Any], grade: Mapping[str, Any], seq: int) -> dict[str, Any]:
    found = Grade.model_validate(grade)
    result: dict[str, Any] = {
        "name": criterion["name"],
        "type": criterion["type"],
        "score": found.score,
        "passed": found.passed,
    }
    if found.label is not None:
        result["sample"] = {"label": found.label}
    if found.is_failure:
        result["error"] = {"code": "grader_failed", "message": f"item {seq}: {found.message}"}
    return result


def _is_unanswered(row: Row) -> bool:
    """Whether the model refused or failed, so that there is nothing to judge."""
    return row.sample is not None and row.sample.get("error") is not None


def _state(results: Sequence[Mapping[str, Any]]) -> str:
    if any(result.get("error") is not None for result in results):
        return "error"
    return "pass" if all(result["passed"] for result in results) else "fail"


def _sentence(error: ModelworksError) -> str:
    return error.message if error.hint is None else f"{error.message} {error.hint}"
