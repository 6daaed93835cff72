"""The client's methods for evaluations, comparisons and promotions, `client.evaluations`, and for evals, `client.evals`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelworks.client.transport import AsyncGroup, Page, Record, given, segment
from modelworks.contract.errors import Conflict

_POLL_S = 1.0


class AsyncEvaluations(AsyncGroup):
    """What runs measured, which model is better, and which one an alias means."""

    async def list(
        self, *, model: str | None = None, data: str | None = None, after: str | None = None, limit: int = 100
    ) -> Page:
        """Newest first; of one model, on one data set."""
        return await self._transport.page("/api/evaluations", model=model, data=data, after=after, limit=limit)

    async def compare(self, baseline: str, candidate: str, data: str, *, metric: str | None = None) -> Record:
        """Whether `candidate` is better than `baseline`, with a 95 % interval per metric.

        Raises:
            NotFound: an evaluation is missing (`evaluation_missing`).
        """
        body = given(baseline=baseline, candidate=candidate, data=data, metric=metric)
        return dict(await self._transport.json("POST", "/api/compare", json=body, retry=True))

    async def promote(
        self,
        ref: str,
        alias: str,
        *,
        test: str | None = None,
        general: str | None = None,
        max_regression: float | None = None,
        min_gain: float | None = None,
        confidence: float | None = None,
        metric: str | None = None,
        force: bool = False,
        reason: str | None = None,
        dry_run: bool = False,
    ) -> Record:
        """Let the alias mean this version if it is proven better; with `dry_run` only say what the gate says.

        What is not given is what the project's gate asks for; see `set_gate`.

        Raises:
            Conflict: the gate refuses (`gate_refused`). NotFound: an evaluation is missing (`evaluation_missing`).
        """
        body = {"ref": ref, "alias": alias, "force": force}
        body |= given(test=test, general=general, max_regression=max_regression, min_gain=min_gain)
        body |= given(confidence=confidence, metric=metric, reason=reason)
        params = {"dry_run": "true"} if dry_run else {}
        return dict(await self._transport.json("POST", "/api/promote", json=body, params=params))

    async def gate(self) -> Record:
        """What the project's quality gate asks for, where a promotion does not say."""
        return dict(await self._transport.json("GET", "/api/gate"))

    async def set_gate(self, terms: Mapping[str, Any], *, dry_run: bool = False) -> Record:
        """Replace what the project's gate asks for: test, general, metric, min_gain, max_regression, confidence."""
        params = {"dry_run": "true"} if dry_run else {}
        return dict(await self._transport.json("PUT", "/api/gate", json=dict(terms), params=params))

    async def start_canary(self, deployment: str, ref: str, share: float) -> Record:
        """Let a candidate answer that share (above 0, below 1) of a deployment's requests; again, it changes both.

        Raises:
            NotFound: no such deployment or model.
        """
        body = {"model": ref, "share": share}
        return dict(await self._transport.json("POST", f"/api/deployments/{segment(deployment)}/canary", json=body))

    async def end_canary(self, deployment: str) -> Record:
        """Let a deployment answer all of its requests again.

        Raises:
            NotFound: it has no canary (`no_canary`).
        """
        return dict(await self._transport.json("DELETE", f"/api/deployments/{segment(deployment)}/canary"))

    async def roll_back(self, ref: str, alias: str, *, kind: str = "model") -> Record:
        """Undo the alias's last move; answers with the version that it means now."""
        body = {"ref": ref, "alias": alias, "kind": kind}
        return dict(await self._transport.json("POST", "/api/aliases/rollback", json=body))

    async def moves(self, ref: str, alias: str | None = None, *, kind: str = "model") -> Page:
        """Who moved the aliases of a name from where to where and, where it was forced, why; newest first."""
        return await self._transport.page("/api/aliases", ref=ref, alias=alias, kind=kind)

    async def ensure(
        self,
        models: Sequence[str],
        data: Sequence[str],
        *,
        capability: str,
        task: str,
        params: Mapping[str, Any] | None = None,
        on_run: Callable[[Record], None] | None = None,
    ) -> Sequence[Record]:
        """Evaluate each model on each data set with these parameters, unless that was done; waits for the runs.

        Args:
            on_run: hears of each run as it is queued.

        Raises:
            Conflict: a run failed or was cancelled (`evaluation_failed`).
        """
        runs: list[Record] = []
        for model in models:
            for dataset in data:
                body = {
                    "verb": "evaluate",
                    "capability": capability,
                    "task": task,
                    "inputs": {"model": model, "test": dataset},
                    "params": dict(params or {}),
                }
                # What the parameters mean, with every default: that is what evaluations are compared by.
                plan = await self._transport.json("POST", "/api/runs", json=body, params={"dry_run": "true"})
                known = await self.list(model=model, data=dataset)
                if any(each["report_digest"] and _same(each["params"], plan["params"]) for each in known.data):
                    continue
                runs.append(await self._transport.json("POST", "/api/runs", json=body))
                if on_run is not None:
                    on_run(runs[-1])
        return [await self._finished(run) for run in runs]

    async def _finished(self, run: Record) -> Record:
        while run["state"] in ("queued", "running", "paused", "validating_files"):
            await asyncio.sleep(_POLL_S)
            run = await self._transport.json("GET", f"/api/runs/{segment(run['id'])}")
        if run["state"] != "succeeded":
            reason = (run.get("error") or {}).get("message", run["state"])
            raise Conflict(
                f"The evaluation {run['id']} did not succeed: {reason}",
                hint=f"See: modelworks logs {run['id']}",
                code="evaluation_failed",
            )
        return dict(run)


class AsyncEvals(AsyncGroup):
    """OpenAI's evals: questions and criteria that are kept, and their runs."""

    async def list(self, *, after: str | None = None, limit: int = 100) -> Page:
        """Newest first."""
        return await self._transport.page("/v1/evals", after=after, limit=limit, order="desc")

    async def get(self, eval_id: str) -> Record:
        """One eval; raises NotFound."""
        return dict(await self._transport.json("GET", f"/v1/evals/{segment(eval_id)}"))

    async def create(self, body: Mapping[str, Any]) -> Record:
        """Keep an eval; `body` is that of POST /v1/evals."""
        return dict(await self._transport.json("POST", "/v1/evals", json=dict(body)))

    async def store(self, path: Path) -> Record:
        """Store a file of items, one JSON object per line; returns the file."""
        content = await asyncio.to_thread(path.read_bytes)
        files = {"file": (path.name, content, "application/jsonl")}
        return dict(await self._transport.json("POST", "/v1/files", data={"purpose": "evals"}, files=files))

    async def run(self, eval_id: str, data_source: Mapping[str, Any], *, name: str | None = None) -> Record:
        """Queue a run; `data_source` is that of POST /v1/evals/{eval_id}/runs."""
        body = {"data_source": dict(data_source), **given(name=name)}
        return dict(await self._transport.json("POST", f"/v1/evals/{segment(eval_id)}/runs", json=body))

    async def runs(self, eval_id: str, *, after: str | None = None, limit: int = 100) -> Page:
        """Runs of an eval, newest first."""
        return await self._transport.page(f"/v1/evals/{segment(eval_id)}/runs", after=after, limit=limit, order="desc")

    async def get_run(self, eval_id: str, run_id: str) -> Record:
        """One run; raises NotFound."""
        return dict(await self._transport.json("GET", f"/v1/evals/{segment(eval_id)}/runs/{segment(run_id)}"))

    async def wait(self, eval_id: str, run_id: str, *, poll_s: float = _POLL_S) -> Record:
        """The run, once nothing more happens to it."""
        run = await self.get_run(eval_id, run_id)
        while run["status"] in ("queued", "in_progress"):
            await asyncio.sleep(poll_s)
            run = await self.get_run(eval_id, run_id)
        return run

    async def items(
        self, eval_id: str, run_id: str, *, status: str | None = None, after: str | None = None, limit: int = 100
    ) -> Page:
        """Items that are done, in their order; `status` is pass, fail or error."""
        path = f"/v1/evals/{segment(eval_id)}/runs/{segment(run_id)}/output_items"
        return await self._transport.page(path, status=status, after=after, limit=limit)


def _same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
