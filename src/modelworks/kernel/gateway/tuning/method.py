"""How a fine-tuning job's model learns: OpenAI's words for methods and hyperparameters, and the capability's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from modelworks.contract.errors import InvalidRequest, UnsupportedParameter
from modelworks.contract.grading import models_of, parse_grader
from modelworks.contract.template import Variable
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.catalog import find_task
from modelworks.kernel.gateway.evals.grader_routes import open_grader
from modelworks.kernel.gateway.generation.language import LANGUAGE_TASK
from modelworks.kernel.gateway.tuning.training_file import Form
from modelworks.kernel.gateway.tuning.wire import FineTuningCreate

#: Factors: they count in what the capability does by itself, which only its defaults say. The number of answers to a prompt is
#: what exploring costs.
FACTORS: Final[Mapping[str, str]] = {"learning_rate_multiplier": "learning_rate", "compute_multiplier": "group_size"}
_COMMON: Final[Mapping[str, str]] = {
    "n_epochs": "epochs",
    "batch_size": "batch_size",
    "learning_rate_multiplier": "learning_rate",
}


@dataclass(frozen=True, slots=True)
class Method:
    """One method.

    `ours` is the capability's name of it, `hyperparameters` maps OpenAI's names to the capability's. "auto" is left out of a
    run's parameters: the capability has its own defaults.
    """

    ours: str
    form: Form
    hyperparameters: Mapping[str, str] = field(default_factory=lambda: _COMMON)


METHODS: Final[Mapping[str, Method]] = {
    "supervised": Method("supervised", "chat"),
    "dpo": Method("preference", "preference", {**_COMMON, "beta": "beta"}),
    "reinforcement": Method(
        "reinforcement",
        "prompt",
        {
            **_COMMON,
            "compute_multiplier": "group_size",
            "eval_interval": "validate_every",
            "eval_samples": "validation_samples",
        },
    ),
}
#: `supervised` with a hyperparameter of ours: an adapter learns instead of all weights.
_RANK: Final = "lora_rank"
_LORA: Final = Method("lora", "chat", {**_COMMON, _RANK: "rank"})


def _known(method: Mapping[str, Any]) -> Method:
    return _LORA if _RANK in method["hyperparameters"] else METHODS[method["type"]]


def chosen(asked: FineTuningCreate, caller: Principal) -> dict[str, Any]:
    """The method that a job asks for, checked as far as it can be without the files: what the job's row keeps.

    Raises:
        UnsupportedParameter: an integration, or a level of effort.
        InvalidRequest: the grader is missing or wrong; `param` names the field.
        PermissionDenied: the grader asks a model that the key may not ask.
    """
    if asked.integrations:
        raise UnsupportedParameter(
            "integrations: none is offered; nothing leaves this platform.", hint="Leave it out.", param="integrations"
        )
    kind, detail = "supervised", None
    if asked.method is not None:
        kind = asked.method.type
        detail = {
            "supervised": asked.method.supervised,
            "dpo": asked.method.dpo,
            "reinforcement": asked.method.reinforcement,
        }[kind]
    given = asked.hyperparameters if detail is None else detail.hyperparameters
    found: dict[str, Any] = {"type": kind}
    if kind == "reinforcement":
        found["grader"] = _grader(None if asked.method is None else asked.method.reinforcement, caller)
        if given is not None and given.reasoning_effort not in (None, "default"):
            raise UnsupportedParameter(
                f"method.reinforcement.hyperparameters.reasoning_effort: {given.reasoning_effort!r} is not offered.",
                hint="Leave it out; the longest answer is the capability's own.",
                param="method.reinforcement.hyperparameters.reasoning_effort",
            )
    known = _LORA if kind == "supervised" and given is not None and given.lora_rank is not None else METHODS[kind]
    values = {name: None if given is None else getattr(given, name) for name in known.hyperparameters}
    found["hyperparameters"] = {name: "auto" if value is None else value for name, value in values.items()}
    return found


def _grader(detail: Any, caller: Principal) -> dict[str, Any]:
    where = "method.reinforcement.grader"
    if detail is None:
        raise InvalidRequest(
            "The parameter 'method.reinforcement' is missing.",
            hint="Give it a grader.",
            param="method.reinforcement",
            code="missing_required_parameter",
        )
    spec = parse_grader(detail.grader, where)
    try:
        open_grader(spec)
    except InvalidRequest as error:
        param = f"method.reinforcement.{error.param or 'grader'}"
        raise type(error)(error.message, hint=error.hint, param=param, code=error.error_code) from error
    for model in models_of(spec):
        caller.require("inference")
        caller.require_model(model)
    return dict(detail.grader)


def params_of(method: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of the run that a job's method asks for; factors are left out."""
    known = _known(method)
    params: dict[str, Any] = {"method": known.ours}
    for name, value in method["hyperparameters"].items():
        if value != "auto" and name not in FACTORS:
            params[known.hyperparameters[name]] = value
    if "grader" in method:
        params["grader"] = method["grader"]
    return params


def factored(method: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that factors give, from the capability's defaults; empty where the job gives none."""
    found: dict[str, Any] = {}
    for name, ours in FACTORS.items():
        factor, default = method["hyperparameters"].get(name, "auto"), defaults.get(ours)
        if factor != "auto" and isinstance(default, int | float):
            # A number of answers is whole, and one alone has nothing to be compared with.
            found[ours] = max(2, round(default * factor)) if isinstance(default, int) else default * factor
    return found


def effective(method: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's names with the values that are used, by the parameters of the run."""
    known = _known(method).hyperparameters
    found: dict[str, Any] = {}
    for name, value in method["hyperparameters"].items():
        used = (1.0 if value == "auto" else value) if name in FACTORS else params.get(known[name], value)
        found[name] = used
    return found


def judges(method: Mapping[str, Any]) -> dict[str, str]:
    """The inputs of the run through which a grader asks its model."""
    if "grader" not in method:
        return {}
    # More than one is refused with the other parameters.
    model = next(iter(models_of(parse_grader(method["grader"]))), None)
    return {} if model is None else {"judge": f"deployment:{model}"}


def variables_of(method: Mapping[str, Any]) -> list[Variable]:
    """What a grader reads of each record of the data."""
    if "grader" not in method:
        return []
    templates = open_grader(parse_grader(method["grader"])).templates
    return [variable for template in templates for variable in template.variables if variable.namespace == "item"]


def client_param(param: str | None, kind: str) -> str | None:
    """The client's name of a parameter of the run."""
    method = METHODS[kind]
    name = (param or "").removeprefix("params.").removeprefix(f"{method.ours}.").removeprefix(f"{_LORA.ours}.")
    known = {ours: theirs for theirs, ours in {**_LORA.hyperparameters, **method.hyperparameters}.items()}
    if name.partition(".")[0] == "grader":
        return f"method.{kind}.{name}"
    return f"method.{kind}.hyperparameters.{known[name]}" if name in known else param


def reason(asked: Mapping[str, Any], name: str) -> str:
    """Why a hyperparameter of a job's method has the value it has: the capability's own description of it."""
    known = _known(asked)
    ours = known.hyperparameters[name]
    _, task = find_task(None, LANGUAGE_TASK)
    schema = {} if task.train_params is None else task.train_params.model_json_schema()
    shapes = [schema, *schema.get("$defs", {}).values()]
    for shape in shapes:
        fields = shape.get("properties", {})
        method = fields.get("method", {})
        if known.ours in (method.get("const"), method.get("default")) and ours in fields:
            text = str(fields[ours].get("description", "")).rstrip(".")
            default = fields[ours].get("default")
            if name in FACTORS:
                what = "rate" if ours == "learning_rate" else ours
                return f"the method's own {what}" + (f", {default:g}" if isinstance(default, int | float) else "")
            return f"the method's default. {text}" if text else "the method's default"
    return "the method's default"
