"""What batches do by themselves: files are read and checked, questions asked a few at a time, the answers given out.

Every answer is in the database before another question takes its place; after a crash of the server the next one goes on where
this one stopped.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, BinaryIO, Final, Literal

import structlog
from starlette.concurrency import run_in_threadpool

from modelworks.contract.errors import ModelworksError
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.polling import PollingTask
from modelworks.kernel.gateway.batches import file as batch_file
from modelworks.kernel.gateway.batches.door import Door
from modelworks.kernel.gateway.batches.file import Question
from modelworks.kernel.gateway.batches.service import BatchService
from modelworks.kernel.gateway.generation.language import most_telling
from modelworks.kernel.gateway.store import BatchRow
from modelworks.kernel.storage import BlobStore
from modelworks.kernel.storage.schemas import BlobInfo

log = structlog.get_logger(__name__)

_POLL_S: Final = 5.0
#: Batches that are worked on at the same time; they share the places for questions.
_MAX_BATCHES: Final = 4
#: Pauses before a question that failed for a reason of the moment is asked again: who asks by a batch has time.
_PATIENCE_S: Final = (0.5, 2.0, 8.0, 30.0, 60.0, 120.0, 300.0)
_WHY: Final = {
    "expired": ("batch_expired", "This request was not answered before the completion window of the batch was over."),
    "cancelled": ("batch_cancelled", "The batch was cancelled before this request was answered."),
    "failed": ("batch_failed", "The batch failed before this request was answered."),
}


class BatchSteps:
    """One task for each batch under way; lives in the server's event loop.

    Args:
        rights: what the holder of a key may do now; raises AuthenticationFailed where it may do nothing any more.
        questions: so many are asked at the same time, over all batches, so that callers who wait are hardly held up.
        patience_s: pauses between the attempts to ask one question.
    """

    def __init__(
        self,
        batches: BatchService,
        door: Door,
        blobs: BlobStore,
        rights: Callable[[str], Principal],
        *,
        questions: int,
        patience_s: Sequence[float] = _PATIENCE_S,
    ) -> None:
        self.batches = batches
        self.door = door
        self.blobs = blobs
        self.rights = rights
        self.patience_s = patience_s
        self.questions = questions
        self.gate = asyncio.Semaphore(questions)
        #: With the state in which each began.
        self._tasks: dict[str, tuple[asyncio.Task[None], str]] = {}
        self._watch = PollingTask(self._look, name="batches", poll_s=_POLL_S)
        batches.wake = self._watch.wake

    def start(self) -> None:
        """Begin; call it in the server's event loop."""
        self._watch.start()

    async def stop(self) -> None:
        """End what is under way; the next start goes on with it."""
        await self._watch.stop(*(task for task, _ in self._tasks.values()))
        self._tasks.clear()

    async def _look(self) -> None:
        wanted = await run_in_threadpool(self.batches.open)
        for batch_id, (task, began) in [*self._tasks.items()]:
            if task.done():
                del self._tasks[batch_id]
            elif wanted.get(batch_id) == "cancelling" and began != "cancelling":
                task.cancel()  # the next task gives out what there is
        for batch_id, state in wanted.items():
            if batch_id not in self._tasks and (state == "cancelling" or len(self._tasks) < _MAX_BATCHES):
                task = asyncio.create_task(self._guarded(batch_id))
                task.add_done_callback(lambda _task: self._watch.wake())
                self._tasks[batch_id] = task, state

    async def _guarded(self, batch_id: str) -> None:
        """One batch to its end; a failure that may pass is tried again with the next look."""
        work = _Work(self, batch_id)
        try:
            try:
                await work.do()
            except ModelworksError as error:
                if _may_pass(error):
                    raise
                await work.fail(error.error_code, error.message)
            except Exception:
                log.exception("a batch failed", batch_id=batch_id)
                await work.fail("internal_error", "The server met an error of its own; its log holds the details.")
        except ModelworksError as error:
            log.warning("a batch has to wait", batch_id=batch_id, reason=error.message)
            await asyncio.sleep(_POLL_S)


def _may_pass(error: Exception) -> bool:
    return isinstance(error, ModelworksError) and error.retryable and error.status >= 502


class _Work:
    """One batch, from where it stands to its end."""

    def __init__(self, steps: BatchSteps, batch_id: str) -> None:
        self._steps = steps
        self._batches = steps.batches
        self._id = batch_id

    async def do(self) -> None:
        row = await run_in_threadpool(self._batches.read, self._id)
        if row is not None and row.state == "validating" and not self._batches.is_too_late(row):
            found = await run_in_threadpool(self._check, row)
            if found.faults:
                await run_in_threadpool(partial(self._batches.close, row, "failed", faults=found.faults))
                return
            await run_in_threadpool(self._batches.begin, self._id, found)
            row = await run_in_threadpool(self._batches.read, self._id)
        if row is not None and row.state == "in_progress" and not self._batches.is_too_late(row):
            try:
                await self._ask_all(row)
            except BaseExceptionGroup as failures:
                # Among them: the key was revoked, or its holder disabled.
                raise most_telling(failures) from failures
            await run_in_threadpool(self._batches.finalize, self._id)
            row = await run_in_threadpool(self._batches.read, self._id)
        if row is None:
            return
        if row.state == "finalizing":
            await run_in_threadpool(self._finish, row, "completed")
        elif row.state == "cancelling":
            await run_in_threadpool(self._finish, row, "cancelled")
        elif self._batches.is_too_late(row):
            await run_in_threadpool(self._finish, row, "expired")

    async def fail(self, code: str, message: str) -> None:
        """End the batch; what it has answered stays its project's."""
        row = await run_in_threadpool(self._batches.read, self._id)
        if row is None:
            return
        faults = [{"code": code, "line": None, "message": message, "param": None}]
        try:
            await run_in_threadpool(self._finish, row, "failed", faults)
        except Exception as error:
            if _may_pass(error):
                raise
            log.exception("the answers of a failed batch cannot be given out", batch_id=self._id)
            await run_in_threadpool(partial(self._batches.close, row, "failed", faults=faults))

    def _check(self, row: BatchRow) -> batch_file.Findings:
        with self._steps.blobs.open(row.input_digest) as file:
            return batch_file.check(file, row.endpoint)

    # -- questions -------------------------------------------------------------------------------------------------------

    async def _ask_all(self, row: BatchRow) -> None:
        """Ask whatever has no answer yet, until the window is over."""
        answered = await run_in_threadpool(self._batches.answered, self._id)
        # A copy, as a storage far away does not keep a reader open for hours.
        places = asyncio.Semaphore(self._steps.questions)
        with tempfile.TemporaryFile() as copy:
            left = await run_in_threadpool(self._left, row, answered, copy)
            async with asyncio.TaskGroup() as group:
                while (question := await run_in_threadpool(lambda: next(left, None))) is not None:
                    await places.acquire()
                    if self._batches.is_too_late(row):
                        return
                    group.create_task(self._ask(row, question)).add_done_callback(lambda _task: places.release())

    def _left(self, row: BatchRow, answered: set[int], copy: BinaryIO) -> Iterator[Question]:
        for chunk in self._steps.blobs.iter(row.input_digest):
            copy.write(chunk)
        copy.seek(0)
        return (each for each in batch_file.questions(copy, row.endpoint) if each.seq not in answered)

    async def _ask(self, row: BatchRow, question: Question) -> None:
        for pause_s in (*self._steps.patience_s, None):
            # A pause holds no other batch up.
            async with self._steps.gate:
                if self._batches.is_too_late(row):
                    return
                # Looked up each time: a key may be revoked, or its models changed, while its batch goes on.
                principal = await run_in_threadpool(self._steps.rights, row.key_id)
                answer = await self._steps.door.post(principal, row.endpoint, question.body)
            if pause_s is None or not answer.may_be_repeated:
                break
            await asyncio.sleep(max(pause_s, min(answer.retry_after_s, 600.0)))
        line = batch_file.answer_line(question.custom_id, answer.status, answer.request_id, answer.body)
        is_error = not 200 <= answer.status < 300

        def store() -> None:
            self._batches.store(self._id, question.seq, line, answer.body, is_error=is_error)

        storing = asyncio.ensure_future(run_in_threadpool(store))
        try:
            await asyncio.shield(storing)
        except asyncio.CancelledError:
            # Whoever goes on, or gives out what there is, must find it: it was paid for.
            await storing
            raise

    # -- files -----------------------------------------------------------------------------------------------------------

    def _finish(
        self,
        row: BatchRow,
        state: Literal["completed", "failed", "expired", "cancelled"],
        faults: list[dict[str, Any]] | None = None,
    ) -> None:
        output = self._written(self._batches.lines(self._id, is_error=False))
        errors = self._written(self._errors(row, state))
        self._batches.close(row, state, output=output, errors=errors, faults=faults)

    def _errors(self, row: BatchRow, state: str) -> Iterator[bytes]:
        """What was refused, and then what was never answered."""
        yield from self._batches.lines(self._id, is_error=True)
        # A file that was never found good has no questions.
        if state not in _WHY or "in_progress" not in row.moments:
            return
        code, message = _WHY[state]
        answered = self._batches.answered(self._id)
        with self._steps.blobs.open(row.input_digest) as file:
            for question in batch_file.questions(file, row.endpoint):
                if question.seq not in answered:
                    yield batch_file.unasked_line(question.custom_id, code, message)

    def _written(self, lines: Iterator[bytes]) -> BlobInfo | None:
        first = next(lines, None)
        if first is None:
            return None
        with self._steps.blobs.writer() as writer:
            writer.write(first)
            for line in lines:
                writer.write(line)
            return writer.commit()
