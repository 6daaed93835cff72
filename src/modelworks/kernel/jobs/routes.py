"""HTTP: runs for users under `/api/runs`, and for remote workers under `/internal/runs`."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from modelworks.contract.errors import AuthenticationFailed, PayloadTooLarge
from modelworks.kernel.access.routes import PrincipalDependency, require
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.catalog.schemas import Page
from modelworks.kernel.jobs.journal import JournalEntry
from modelworks.kernel.jobs.repeating import RepeatedRun
from modelworks.kernel.jobs.schemas import IngestReply, JobSpec, LaunchSpec, MetricPoint, RunEvent, RunRecord, RunState
from modelworks.kernel.jobs.service import JobsService

_POLL_S = 0.3
_CHUNK = 64 << 10
#: Largest piece of a log that a remote worker may send at once.
_MAX_LOG_BYTES = 8 << 20


class JournalPost(BaseModel):
    """What a remote worker ships; an empty list is a sign of life."""

    entries: list[JournalEntry] = Field(max_length=10_000)


def router(jobs: JobsService, principal: PrincipalDependency, *, keep_alive_s: float = 15.0) -> APIRouter:
    """Routes under `/api/runs` and `/internal/runs`; a run of another project does not exist for the caller."""
    routes = APIRouter(tags=["runs"])
    reader = require(principal, "read")
    writer = require(principal, "write")

    @routes.post("/api/runs", status_code=201)
    def submit(spec: JobSpec, caller: Principal = Depends(writer), dry_run: bool = False) -> RunRecord:
        """Check a run completely and queue it; with `dry_run` only check it."""
        jobs.check_rights(spec, caller)
        with jobs.db.transaction() as session:
            return jobs.submit(session, caller.project_id, caller.key_id, spec, dry_run=dry_run)

    @routes.get("/api/runs")
    def list_runs(
        caller: Principal = Depends(reader),
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        state: RunState | None = None,
    ) -> Page[RunRecord]:
        """Runs of the project, newest first."""
        with jobs.db.reading() as session:
            return jobs.list(session, caller.project_id, after=after, limit=limit, state=state)

    @routes.get("/api/runs/{run_id}")
    def get(run_id: str, caller: Principal = Depends(reader)) -> RunRecord:
        """One run with its state, progress, error and results."""
        with jobs.db.reading() as session:
            return jobs.get(session, caller.project_id, run_id)

    @routes.post("/api/runs/{run_id}/cancel")
    def cancel(run_id: str, caller: Principal = Depends(writer)) -> RunRecord:
        """Ask a run to stop; its last checkpoint stays."""
        with jobs.db.transaction() as session:
            return jobs.cancel(session, caller.project_id, run_id)

    @routes.post("/api/runs/{run_id}/resume")
    def resume(run_id: str, caller: Principal = Depends(writer)) -> RunRecord:
        """Let a failed or cancelled run go on from its last checkpoint."""
        with jobs.db.transaction() as session:
            return jobs.resume(session, caller.project_id, run_id)

    @routes.post("/api/runs/{run_id}/reproduce", status_code=201)
    def reproduce(run_id: str, caller: Principal = Depends(writer), dry_run: bool = False) -> RepeatedRun:
        """Queue a run that repeats a finished one and compares what both made; with `dry_run` only say what differs here."""
        with jobs.db.transaction() as session:
            return jobs.reproduce(session, caller.project_id, caller.key_id, run_id, dry_run=dry_run)

    @routes.get("/api/runs/{run_id}/metrics")
    def metrics(
        run_id: str,
        caller: Principal = Depends(reader),
        name: str | None = None,
        after_step: Annotated[int | None, Query(ge=-1, lt=1 << 63)] = None,
    ) -> Page[MetricPoint]:
        """Points of the run's curves, by step."""
        with jobs.db.reading() as session:
            return Page(data=list(jobs.metrics(session, caller.project_id, run_id, name=name, after_step=after_step)))

    @routes.get("/api/runs/{run_id}/events", response_class=StreamingResponse)
    async def events(
        run_id: str,
        caller: Principal = Depends(reader),
        after_seq: Annotated[int, Query(ge=0, lt=1 << 63)] = 0,
        follow: bool = False,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> StreamingResponse:
        """What happened, as server-sent events; with `follow` until the run is over, with progress and the newest metrics."""
        # A client hands back what it was given; anything else is no number of ours.
        if last_event_id is not None and re.fullmatch(r"[0-9]{1,18}", last_event_id):
            after_seq = max(after_seq, int(last_event_id))
        first = await run_in_threadpool(_look, jobs, caller.project_id, run_id, after_seq)
        story = _story(jobs, caller.project_id, run_id, first, after_seq, follow=follow, keep_alive_s=keep_alive_s)
        return StreamingResponse(
            story, media_type="text/event-stream", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        )

    @routes.get("/api/runs/{run_id}/logs", response_class=StreamingResponse)
    async def logs(run_id: str, caller: Principal = Depends(reader), follow: bool = False) -> StreamingResponse:
        """What the attempts printed, one after the other, byte for byte; with `follow` until the run is over."""
        await run_in_threadpool(_paths, jobs, caller.project_id, run_id)
        stream = _log(jobs, caller.project_id, run_id, follow=follow)
        return StreamingResponse(
            stream, media_type="text/plain; charset=utf-8", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        )

    @routes.get("/internal/runs/{run_id}/spec", include_in_schema=False)
    def spec(run_id: str, request: Request, attempt: int) -> LaunchSpec:
        with jobs.db.transaction() as session:
            jobs.attempts.check_token(session, run_id, attempt, _token(request))
            return jobs.attempts.remote_spec(session, run_id, attempt)

    @routes.post("/internal/runs/{run_id}/journal", include_in_schema=False)
    def journal(run_id: str, request: Request, attempt: int, body: JournalPost) -> IngestReply:
        with jobs.db.reading() as session:
            jobs.attempts.check_token(session, run_id, attempt, _token(request))
        return jobs.attempts.receive(run_id, attempt, body.entries)

    @routes.post("/internal/runs/{run_id}/log", include_in_schema=False)
    async def post_log(run_id: str, request: Request, attempt: int, offset: Annotated[int, Query(ge=0)]) -> dict[str, int]:
        def check() -> None:
            with jobs.db.reading() as session:
                jobs.attempts.check_token(session, run_id, attempt, _token(request))

        await run_in_threadpool(check)
        data = bytearray()
        async for piece in request.stream():
            data += piece
            if len(data) > _MAX_LOG_BYTES:
                raise PayloadTooLarge(f"A piece of a log has more than {_MAX_LOG_BYTES} bytes.")
        path = jobs.log_path(run_id, attempt)
        return {"num_bytes": await run_in_threadpool(_append, path, offset, bytes(data))}

    return routes


def _token(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise AuthenticationFailed("The token of the run is missing.")
    return token.strip()


def _append(path: Path, offset: int, data: bytes) -> int:
    """Add a piece that follows what is there; returns how much is there now, so that the sender knows where to go on."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("ab") as file:
        size = file.tell()
        if offset == size:
            file.write(data)
            size += len(data)
    return size


class _Look(BaseModel):
    """One look at a run that is followed."""

    run: RunRecord
    events: list[RunEvent]
    points: list[MetricPoint]


def _look(jobs: JobsService, project_id: str, run_id: str, after_seq: int, after_step: int | None = None) -> _Look:
    with jobs.db.reading() as session:
        run = jobs.get(session, project_id, run_id)
        events = list(jobs.events(session, project_id, run_id, after_seq=after_seq))
        points = (
            [] if after_step is None else list(jobs.metrics(session, project_id, run_id, after_step=after_step, newest=True))
        )
    return _Look(run=run, events=events, points=points)


async def _story(
    jobs: JobsService, project_id: str, run_id: str, look: _Look, after_seq: int, *, follow: bool, keep_alive_s: float
) -> AsyncIterator[str]:
    last_step, progress, silent_s = -1, None, 0.0
    while True:
        told = []
        if follow and look.points:
            # Followers see the newest point of each curve; all of them are at /metrics.
            last_step = look.points[-1].step
            values = {point.name: point.value for point in look.points}
            told.append(_sse(_passing(look.run, "metrics", {"step": last_step, "metrics": values})))
        if follow and look.run.progress is not None and look.run.progress != progress:
            progress = look.run.progress
            told.append(_sse(_passing(look.run, "progress", progress)))
        for event in look.events:
            after_seq = event.seq
            told.append(_sse(event.model_dump(mode="json"), event.seq))
        for text in told:
            yield text
        if not look.events and (look.run.is_over or not follow):
            return
        if not look.events:
            silent_s = 0.0 if told else silent_s + _POLL_S
            if silent_s >= keep_alive_s:
                silent_s = 0.0
                yield ": keep-alive\n\n"
            await asyncio.sleep(_POLL_S)
        look = await run_in_threadpool(_look, jobs, project_id, run_id, after_seq, last_step if follow else None)


def _passing(run: RunRecord, type_: str, data: dict[str, Any]) -> dict[str, Any]:
    """An event that is told to followers but not kept: it has no number."""
    return {"object": "run.event", "run_id": run.id, "attempt": run.attempt, "type": type_, "data": data}


def _sse(event: dict[str, Any], seq: int | None = None) -> str:
    number = "" if seq is None else f"id: {seq}\n"
    return f"{number}event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"


def _paths(jobs: JobsService, project_id: str, run_id: str) -> tuple[list[Path], bool]:
    with jobs.db.reading() as session:
        run = jobs.get(session, project_id, run_id)
        return list(jobs.logs(session, project_id, run_id)), run.is_over


async def _log(jobs: JobsService, project_id: str, run_id: str, *, follow: bool) -> AsyncIterator[bytes]:
    number, offset = 0, 0
    while True:
        # First whether it is over, then what is there: nothing written before the end is missed.
        paths, is_over = await run_in_threadpool(_paths, jobs, project_id, run_id)
        while number < len(paths):
            data = await run_in_threadpool(_read, paths[number], offset)
            if data:
                if offset == 0 and number > 0:
                    yield f"=== attempt {number + 1} ===\n".encode()
                offset += len(data)
                yield data
            elif number + 1 < len(paths):
                number, offset = number + 1, 0
            else:
                break
        if is_over or not follow:
            return
        await asyncio.sleep(_POLL_S)


def _read(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(_CHUNK)
    except FileNotFoundError:
        return b""
