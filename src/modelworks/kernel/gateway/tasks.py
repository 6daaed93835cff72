"""Every task by its name: /v1/tasks/{task}, in the four modes, with the schema that its declaration gives."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool

from modelworks.contract.capability import Task
from modelworks.contract.errors import InvalidRequest, PermissionDenied, UpstreamFailed
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.catalog import discovery
from modelworks.kernel.catalog.references import is_inner
from modelworks.kernel.gateway.exchange import Call, exchange, read_lines, refusal
from modelworks.kernel.gateway.metering import Meter
from modelworks.kernel.gateway.service import GatewayService
from modelworks.kernel.gateway.stream import DONE, EventStream, Form
from modelworks.kernel.jobs.schemas import JobSpec
from modelworks.kernel.serving import Route


def listing(gateway: GatewayService, principal: Principal) -> dict[str, Any]:
    """All installed tasks with their mode and the models deployed for them."""
    deployed = gateway.pool.snapshot(principal.project_id)
    found = []
    for capability in sorted(discovery.capabilities().values(), key=lambda each: each.name):
        for task in capability.tasks:
            models = [
                model.name
                for model in deployed
                if model.task == task.name and model.capability in (None, capability.name) and principal.may_use(model.name)
            ]
            found.append(
                {"id": task.name, "object": "task", "capability": capability.name, "mode": task.mode, "models": models}
            )
    return {
        "object": "list",
        "data": found,
        "has_more": False,
        "first_id": found[0]["id"] if found else None,
        "last_id": found[-1]["id"] if found else None,
    }


def schema(task_name: str) -> dict[str, Any]:
    """The task's declaration: mode, JSON schemas of its input and of (each) output, metrics.

    Raises:
        NotFound: no installed capability has that task.
    """
    capability, task = discovery.find_task(None, task_name)
    return {
        "object": "task.schema",
        "task": task.name,
        "capability": capability.name,
        "mode": task.mode,
        "input": task.input.model_json_schema(),
        "output": task.output.model_json_schema(),
        "metrics": list(task.metrics),
    }


def split_body(body: dict[str, Any], task: Task) -> tuple[str | None, dict[str, Any], str]:
    """Model name, input, and the prefix that an error's `param` needs.

    The input is nested (`{"model", "input": {…}}`) or lies flat beside `model`; a task that has a field `input` of its own is
    always flat where that field is not an object.
    """
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise InvalidRequest("model: must be a text.", param="model", code="invalid_type")
    nested = body.get("input")
    if isinstance(nested, dict) and not set(body) - {"model", "input", "stream", "user", "metadata"}:
        return model, nested, "input."
    return model, {key: value for key, value in body.items() if key != "model"}, ""


class TaskCall:
    """One request to a task of mode sync, stream or static.

    Args:
        task: its declaration, for the mode.
        model: a deployment; None picks the only one that answers this task.
        payload: the input, validated by the replica against the task's input.
        prefix: put before `param` of an error that the replica finds in the input.

    Raises (on construction):
        InvalidRequest: no model is named and there is no single candidate.
        PermissionDenied: the key's list of models does not contain it.
    """

    def __init__(
        self,
        gateway: GatewayService,
        principal: Principal,
        meter: Meter,
        task: Task,
        model: str | None,
        payload: dict[str, Any],
        prefix: str,
    ) -> None:
        self._gateway = gateway
        self._principal = principal
        self._meter = meter
        self._task = task
        self._prefix = prefix
        self._payload = payload
        meter.model = model or self._only_model()
        principal.require_model(meter.model)
        if task.mode == "stream":
            # Where the input has no such limit, the most that the model can write is reserved.
            limit = payload.get("max_tokens")
            meter.answers = meter.prompts = 1
            meter.asked_tokens = limit if isinstance(limit, int) else 0

    def _only_model(self) -> str:
        names = [
            model.name
            for model in self._gateway.pool.snapshot(self._principal.project_id)
            if model.task == self._task.name and self._principal.may_use(model.name)
        ]
        if len(names) == 1:
            return names[0]
        hint = f"Choose one of: {', '.join(names)}." if names else "Nothing is deployed for this task: see `modelworks deploy`."
        raise InvalidRequest("The parameter 'model' is missing.", hint=hint, param="model", code="missing_required_parameter")

    def _prepare(self, route: Route) -> Call:
        self._check(route)
        return Call("/stream" if self._task.mode == "stream" else "/invoke", orjson.dumps(self._payload))

    def _check(self, route: Route) -> None:
        if is_inner(route.name) and not self._principal.has("admin"):
            # It knows nothing of who may read what, and of what was removed.
            raise PermissionDenied(
                f"The deployment {route.name!r} is the index of a data space and is not asked by itself.",
                hint="Search the space: POST /v1/vector_stores/{id}/search.",
                param="model",
            )
        if route.task != self._task.name:
            raise InvalidRequest(
                f"The model {route.name!r} answers the task {route.task}, not {self._task.name}.",
                hint=f"Send the request to /v1/tasks/{route.task}.",
                param="model",
                code="model_not_supported",
            )
        if route.kind == "openai":
            raise InvalidRequest(
                f"The model {route.name!r} is reached through OpenAI's routes only.",
                hint="Send the request to /v1/chat/completions or /v1/completions.",
                param="model",
                code="model_not_supported",
            )

    async def _refuse(self, response: Any) -> None:
        if response.status != 200:
            error = await refusal(response)
            if self._prefix and error.param and isinstance(error, InvalidRequest):
                error.param = self._prefix + error.param
            raise error

    async def whole(self) -> bytes:
        """The output of a sync task."""
        meter = self._meter
        async with exchange(self._gateway.pool, self._principal.project_id, meter.model, self._prepare, meter) as (_, response):
            await self._refuse(response)
            body = await response.read()
            meter.answering()
            return body

    async def stream_to(self, out: EventStream, form: Form) -> bytes:
        """The outputs of a stream task, one JSON line or one event each; returns the last event."""
        meter = self._meter

        def prepare(route: Route) -> Call:
            out.comment = b": keep-alive\n\n"
            return self._prepare(route)

        async with exchange(self._gateway.pool, self._principal.project_id, meter.model, prepare, meter) as (_, response):
            await self._refuse(response)

            async def take(lines: list[bytes]) -> None:
                meter.answering()
                for line in lines:
                    # Only a language engine's outputs count tokens.
                    if b'"token_ids":[' in line or b'"usage":{' in line:
                        output = orjson.loads(line)
                        if isinstance(output, dict):
                            meter.tallies[0].add(output)
                if form == "sse":
                    await out.send(b"".join(b"data: " + line + b"\n\n" for line in lines))
                else:
                    await out.send(b"\n".join(lines) + b"\n")

            await read_lines(response, take)
            return DONE if form == "sse" else b""

    async def files(self) -> bytes:
        """The published files of a static task, with the paths under which they are served."""
        gateway, meter = self._gateway, self._meter
        await meter.admit(None)
        async with gateway.pool.acquire(self._principal.project_id, meter.model) as route:
            meter.route = route
            self._check(route)
        version_id = route.version_id
        if version_id is None:
            raise UpstreamFailed(f"The deployment {route.name!r} has no published version.")

        def look() -> list[dict[str, Any]]:
            with gateway.db.reading() as session:
                version = gateway.catalog.get_version(session, self._principal.project_id, version_id)
            return [
                {
                    "path": file.path,
                    "num_bytes": file.num_bytes,
                    "digest": file.digest,
                    "url": f"/api/static/{route.name}/{file.path}",
                }
                for file in version.files
            ]

        found = await run_in_threadpool(look)
        return orjson.dumps(
            {
                "object": "list",
                "data": found,
                "has_more": False,
                "first_id": found[0]["path"] if found else None,
                "last_id": found[-1]["path"] if found else None,
            }
        )


def split_inputs(body: dict[str, Any], task: Task) -> tuple[dict[str, Any], dict[str, str]]:
    """The body without `inputs`, and these: what a run reads beside the model, references of the catalog by role.

    A task that has a field `inputs` of its own keeps it.

    Raises:
        InvalidRequest: they are no texts by role.
    """
    inputs = body.get("inputs")
    if inputs is None or "inputs" in task.input.model_fields:
        return body, {}
    if not isinstance(inputs, dict) or not all(isinstance(ref, str) for ref in inputs.values()) or "model" in inputs:
        raise InvalidRequest(
            "inputs: must be references by role, beside `model`.",
            hint='Such as {"initial": "dataset:analysis@latest"}.',
            param="inputs",
            code="invalid_type",
        )
    return {key: value for key, value in body.items() if key != "inputs"}, inputs


async def submit(
    gateway: GatewayService,
    principal: Principal,
    task: Task,
    capability: str,
    model: str | None,
    payload: dict[str, Any],
    inputs: dict[str, str],
) -> bytes:
    """Start a run of a task of mode job; the model, a reference of the catalog, is its input "model" beside the others.

    Raises:
        ModelworksError: whatever the jobs room refuses the run for.
    """
    given = {"model": model, **inputs} if model else inputs
    spec = JobSpec(verb="batch", capability=capability, task=task.name, inputs=given, params=payload)

    def accept() -> bytes:
        if inputs:
            gateway.jobs.check_rights(spec, principal)
        with gateway.db.transaction() as session:
            run = gateway.jobs.submit(session, principal.project_id, principal.key_id, spec)
        return orjson.dumps({"object": "task.run", "run": run.model_dump(mode="json")})

    return await run_in_threadpool(accept)
