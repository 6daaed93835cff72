"""`/v1/fine_tuning/alpha/graders`: try a grader before a training or an evaluation relies on it."""

from __future__ import annotations

from typing import Any, cast

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from modelworks.contract.errors import UnsupportedParameter
from modelworks.contract.grading import Ask, Case, Grade, Grader, GraderOpener, Grading, MultiGrader, Sample, parse_grader
from modelworks.kernel.catalog import find_task, resolve_import
from modelworks.kernel.gateway.answers.form import gives
from modelworks.kernel.gateway.answers.tuning import Graded, GraderAnswer
from modelworks.kernel.gateway.files.routes import answer, parse
from modelworks.kernel.gateway.generation.asking import Asking
from modelworks.kernel.gateway.generation.language import LANGUAGE_TASK
from modelworks.kernel.gateway.routes import PlainRoute, described
from modelworks.kernel.gateway.schemas import inline_schema
from modelworks.kernel.gateway.service import GatewayService, json_object

_GRADERS = "/v1/fine_tuning/alpha/graders"


class GraderValidate(BaseModel):
    """POST /v1/fine_tuning/alpha/graders/validate."""

    model_config = ConfigDict(extra="ignore")

    grader: dict[str, Any] = Field(description="A grader of any type: see the guide to graders.")


class GraderRun(GraderValidate):
    """POST /v1/fine_tuning/alpha/graders/run."""

    model_sample: str = Field(max_length=1_000_000, description="The answer to be judged.")
    item: dict[str, Any] | None = Field(default=None, description="The record of the data: the namespace item.")


def open_grader(spec: Grader, ask: Ask | None = None) -> Grading:
    """A grader of the language task, checked and ready.

    Raises:
        InvalidRequest, UnsupportedParameter: it is wrong, or asks for what is not offered.
    """
    _, task = find_task(None, LANGUAGE_TASK)
    if task.grader is None:
        raise UnsupportedParameter(f"The task {LANGUAGE_TASK!r} has no graders.", param="grader")
    return cast(GraderOpener, resolve_import(task.grader))(spec, ask=ask)


def router(gateway: GatewayService) -> APIRouter:
    """The routes of graders; both need the scope "write", and a grader that asks a model "inference" as well."""
    found = APIRouter(route_class=PlainRoute, tags=["Fine-tuning"])

    @found.post(
        f"{_GRADERS}/validate",
        summary="Check a grader",
        openapi_extra=described(inline_schema(GraderValidate)),
        responses=gives(GraderAnswer),
    )
    async def validate_grader(request: Request) -> Response:
        await gateway.principal(request.scope, "write")
        asked = parse(GraderValidate, json_object(await request.body()))
        spec = parse_grader(asked.grader)
        await run_in_threadpool(open_grader, spec)
        return answer({"grader": asked.grader})

    @found.post(
        f"{_GRADERS}/run", summary="Judge an answer", openapi_extra=described(inline_schema(GraderRun)), responses=gives(Graded)
    )
    async def run_grader(request: Request) -> Response:
        principal = await gateway.principal(request.scope, "write")
        asked = parse(GraderRun, json_object(await request.body()))
        spec = parse_grader(asked.grader)
        ask = Asking(gateway, principal, request.scope)

        def judge() -> Grade:
            case = Case(Sample(output_text=asked.model_sample), asked.item or {})
            return open_grader(spec, ask).grade([case])[0]

        return answer(_wire(spec, await run_in_threadpool(judge)))

    return found


def _wire(spec: Grader, grade: Grade) -> dict[str, Any]:
    """OpenAI's result of a grader's run."""
    models = list(grade.token_usage)
    return {
        "reward": grade.score,
        "sub_rewards": grade.sub_scores,
        "metadata": {
            "name": spec.name,
            "type": spec.type,
            "errors": grade.errors.model_dump(),
            "execution_time": grade.duration_s,
            "scores": grade.sub_scores if isinstance(spec, MultiGrader) else {spec.name: grade.score},
            "sampled_model_name": models[0] if len(models) == 1 else None,
            "token_usage": sum(grade.token_usage.values()) if models else None,
        },
        "model_grader_token_usage_per_model": dict(grade.token_usage),
    }
