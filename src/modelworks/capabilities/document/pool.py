"""A few parsing processes, watched: one that hangs or crashes is replaced, and what it was at is known."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from modelworks.capabilities.document.worker import ParsingJob
from modelworks.contract.passages import Fault, ParsedDocument

#: A process is replaced after so many documents: what libraries lose on the way is given back.
_MAX_DOCUMENTS = 250
_TICK_S = 0.25
#: The most time that a process may need to begin, on a machine that is busy.
_START_S = 60.0
#: Pages that may fail in one document before it is given up.
MAX_SKIPPED = 50


@dataclass(slots=True)
class Task:
    """A job, and where its process is with it."""

    job: ParsingJob
    page: int | None = None
    num_pages: int | None = None


class _Process:
    """One parsing process and its pipe."""

    def __init__(self, memory_bytes: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "modelworks.capabilities.document.worker", str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None  # noqa: S101 - pipes were asked for
        assert self._process.stdout is not None  # noqa: S101
        self._stdin, self.stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self.stdout.fileno(), False)
        self._held = b""
        self.task: Task | None = None
        self.deadline = float("inf")
        self.num_documents = 0
        self.is_ready = False

    def give(self, task: Task, timeout_s: float) -> bool:
        """Hand a job over; False: the process has gone."""
        self.task, self.deadline = task, time.monotonic() + timeout_s + (0.0 if self.is_ready else _START_S)
        self.num_documents += 1
        try:
            self._stdin.write(task.job.to_line().encode())
            self._stdin.flush()
        except OSError:
            return False
        return True

    def messages(self) -> Iterator[dict[str, Any] | None]:
        """What it has said meanwhile; None last where it has ended."""
        while True:
            try:
                data = os.read(self.stdout.fileno(), 1 << 16)
            except BlockingIOError:
                return
            if not data:
                yield None
                return
            *lines, self._held = (self._held + data).split(b"\n")
            for line in lines:
                yield json.loads(line)

    def end(self) -> int:
        """End it at once, wait for that, and return how it ended (negative: by that signal)."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        self._process.kill()
        code = self._process.wait()
        self.stdout.close()
        return code

    def fate(self) -> int:
        """How it ended by itself."""
        try:
            return self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return self.end()


@dataclass(slots=True)
class Pool:
    """Parses documents in processes of their own.

    Args:
        num_processes: how many at a time.
        on_result: is told of each document that is done, in whatever order.
        on_page: is told of pages of documents that have many.
        on_tick: is called some times a second; what it raises ends everything.
    """

    num_processes: int
    on_result: Callable[[ParsedDocument], None]
    on_page: Callable[[str, int, int], None]
    on_tick: Callable[[], None]
    waiting: deque[Task] = field(default_factory=deque)
    _processes: list[_Process] = field(default_factory=list)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def parse(self, jobs: Iterator[ParsingJob]) -> None:
        """Parse all; returns when each has a result."""
        try:
            while self._fill(jobs):
                self.on_tick()
                for key, _ in self._selector.select(_TICK_S):
                    self._hear(key.data)
                now = time.monotonic()
                for process in [each for each in self._processes if each.task is not None and each.deadline < now]:
                    self._timed_out(process)
        finally:
            for process in list(self._processes):
                self._drop(process)
            self._selector.close()

    def _fill(self, jobs: Iterator[ParsingJob]) -> bool:
        """Give every idle process a job; False: nothing is left to do."""
        while True:
            idle = next((each for each in self._processes if each.task is None), None)
            if idle is None and len(self._processes) >= self.num_processes:
                return True
            task = self.waiting.popleft() if self.waiting else next((Task(job) for job in jobs), None)
            if task is None:
                return any(each.task is not None for each in self._processes)
            if idle is not None and idle.num_documents >= _MAX_DOCUMENTS:
                self._drop(idle)
                idle = None
            if idle is None:
                idle = _Process(task.job.request.worker_memory_bytes)
                self._processes.append(idle)
                self._selector.register(idle.stdout, selectors.EVENT_READ, idle)
            task.page = None
            if not idle.give(task, task.job.request.document_timeout_s):
                self._crashed(idle)

    def _hear(self, process: _Process) -> None:
        for message in process.messages():
            task = process.task
            if message is None:
                if task is None:
                    self._drop(process)
                else:
                    self._crashed(process)
                return
            if "ready" in message:
                process.is_ready = True
                if task is not None:
                    process.deadline = time.monotonic() + task.job.request.document_timeout_s
            if task is None:
                continue
            if "result" in message:
                process.task, process.deadline = None, float("inf")
                self.on_result(ParsedDocument.model_validate(message["result"]))
                if message["last"]:
                    self._drop(process)
                    return
            elif "page" in message:
                task.page, task.num_pages = int(message["page"]), int(message["of"])
                process.deadline = time.monotonic() + task.job.request.page_timeout_s
                self.on_page(task.job.document.id, task.page - 1, task.num_pages)
            elif "pages" in message:
                task.page = None
                process.deadline = time.monotonic() + task.job.request.document_timeout_s

    def _timed_out(self, process: _Process) -> None:
        task = process.task
        self._drop(process)
        if task is None:
            return
        request = task.job.request
        if task.page is None:
            self._fail(
                task.job,
                "timed_out",
                f"The document was not read within {request.document_timeout_s:g} s.",
                "Split it, or raise document_timeout_s.",
            )
        else:
            self.again(
                task,
                "timed_out",
                f"Page {task.page} was not read within {request.page_timeout_s:g} s.",
                "Raise page_timeout_s, or print the document to a new PDF.",
            )

    def _crashed(self, process: _Process) -> None:
        task = process.task
        code = process.fate()
        self._drop(process)
        if task is None:
            return
        how = f"signal {-code}" if code < 0 else f"status {code}"
        where = f"on page {task.page}" if task.page is not None else "on this document"
        message = f"The parser ended by itself ({how}) {where}: the file is damaged, or needs too much memory."
        hint = "Open it with the program that made it, and save it again; or raise worker_memory_bytes."
        if task.page is None:
            self._fail(task.job, "parser_crashed", message, hint)
        else:
            self.again(task, "parser_crashed", message, hint)

    def again(self, task: Task, code: str, message: str, hint: str) -> None:
        """Go on with the document: the page in the simplest way first, and without it then."""
        job, page = task.job, task.page
        assert page is not None  # noqa: S101 - asked by both callers
        if page not in job.plain:
            self.waiting.appendleft(Task(replace(job, plain=job.plain | {page})))
        elif len(job.skipped) < MAX_SKIPPED:
            fault = Fault(code=code, message=message, hint=hint, page=page)
            self.waiting.appendleft(Task(replace(job, skipped=(*job.skipped, fault))))
        else:
            self._fail(job, code, f"{message} Before it, {len(job.skipped)} pages failed.", hint)

    def _fail(self, job: ParsingJob, code: str, message: str, hint: str) -> None:
        document = job.document
        job.into.write_bytes(b"")
        self.on_result(
            ParsedDocument(
                id=document.id,
                name=document.name,
                digest=document.digest,
                parser="none",
                state="failed",
                media_type=document.media_type,
                faults=[Fault(code=code, message=message, hint=hint)],
            )
        )

    def _drop(self, process: _Process) -> None:
        if process in self._processes:
            self._processes.remove(process)
            self._selector.unregister(process.stdout)
            process.end()
