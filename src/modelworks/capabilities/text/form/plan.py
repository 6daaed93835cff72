"""What one answer may be: thoughts, then text, JSON of a schema or calls of tools; as a grammar, and for its reader."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from modelworks.capabilities.text.form.dialect import THINK, THINK_END, Dialect
from modelworks.capabilities.text.form.schema import LAYOUT, Schema, prepared
from modelworks.contract.errors import InvalidRequest, UnsupportedParameter
from modelworks.contract.generation import AnswerForm, GenerationInput

#: Whether the answer begins in the middle of thoughts (the prompt opened them), may begin with thoughts, or has none.
Thinking = Literal["open", "possible", "none"]
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
#: Any text, as llguidance's regular expressions have it.
_ANY = "(?s:.*)"


@dataclass(frozen=True, slots=True)
class Plan:
    """What an answer may be.

    Args:
        thinking: where thoughts stand.
        dialect: how calls are written; None: there are none.
        tools: schemas of arguments by name of the tool, those that may be called.
        required: at least one call, and no text.
        parallel: several calls.
        form: the schema of an answer that is no call; None: any text.
    """

    thinking: Thinking = "none"
    dialect: Dialect | None = None
    tools: Mapping[str, Schema] | None = None
    required: bool = False
    parallel: bool = True
    form: Schema | None = None

    @property
    def is_bound(self) -> bool:
        """Whether the answer must be held to anything."""
        return self.dialect is not None or self.form is not None

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts between the parts, which may be tokens of their own."""
        return (*(() if self.thinking == "none" else (THINK, THINK_END)), *(self.dialect.markers if self.dialect else ()))

    def grammar(self, special: Mapping[str, int]) -> str:
        """In llguidance's variant of Lark (https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md).

        Args:
            special: the ids of those markers that are tokens of their own, which no text matches.
        """
        return _Writer(self, special).write()


def plan_of(request: GenerationInput, dialect: Dialect | None, thinking: Thinking) -> Plan:
    """The plan of a request, with every schema checked.

    Raises:
        InvalidRequest, UnsupportedParameter: a schema is none, or one that an answer cannot be held to; or the template's
            way to write calls is not known.
    """
    form = None if request.answer_form is None else prepared(request.answer_form)
    if not request.tools:
        return Plan(thinking=thinking, form=form)
    if dialect is None:
        raise UnsupportedParameter(
            "This model's chat template writes calls of tools in a way that is not known here.",
            hint="Leave tools out, or deploy a model that writes them as Qwen, Hermes, Mistral or Llama 3 do.",
            param="tools",
        )
    if form is not None and not dialect.opens:
        raise UnsupportedParameter(
            "This model writes calls as plain JSON, which could not be told from an answer in JSON.",
            hint="Ask for tools or for response_format, not for both.",
            param="response_format",
        )
    tools = {}
    for number, tool in enumerate(request.tools):
        name, schema = _tool(tool, number)
        if request.callable_tools is None or name in request.callable_tools:
            tools[name] = schema
    if not tools:
        raise InvalidRequest("None of the tools may be called.", hint="Name one of them in tool_choice.", param="tool_choice")
    required, parallel = request.tool_choice == "required", request.parallel_tool_calls and dialect.between is not None
    return Plan(thinking=thinking, dialect=dialect, tools=tools, required=required, parallel=parallel, form=form)


def _tool(tool: dict[str, Any], number: int) -> tuple[str, Schema]:
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not _NAME.fullmatch(name):
        place = f"tools.{number}.function.name"
        raise InvalidRequest(f"{place}: must be 1 to 64 letters, digits, dots, dashes or underscores.", param=place)
    place = f"tools.{number}.function.parameters"
    given = function.get("parameters")
    schema: Schema = dict(given) if isinstance(given, dict) and given else {"properties": {}, "additionalProperties": False}
    if schema.setdefault("type", "object") != "object":
        raise InvalidRequest(
            f"{place}.type: the parameters of a tool are an object.",
            hint='Write {"type": "object", "properties": {…}}.',
            param=f"{place}.type",
            code="invalid_json_schema",
        )
    return name, prepared(AnswerForm(json_schema=schema, strict=bool(function.get("strict")), place=place))


class _Writer:
    """Writes one grammar."""

    def __init__(self, plan: Plan, special: Mapping[str, int]) -> None:
        self._plan = plan
        self._special = {marker: special[marker] for marker in plan.markers if marker in special}
        self._split = re.compile("(" + "|".join(map(re.escape, self._special)) + ")") if self._special else None
        self._rules = ["%llguidance {}"]

    def write(self) -> str:
        body = self._body()
        if self._plan.thinking == "open":
            self._rules.append(f"start: {self._thoughts()} GAP? {body}")
        elif self._plan.thinking == "possible":
            self._rules.append(f"start: ({self._literal(THINK)} {self._thoughts()} GAP?)? {body}")
        else:
            self._rules.append(f"start: {body}")
        if self._plan.thinking != "none":
            self._rules.append(r"GAP: /\n{1,2}/")
        return "\n".join(self._rules) + "\n"

    def _thoughts(self) -> str:
        """Up to the end of thoughts, and with it."""
        if THINK_END in self._special:
            self._rules.append(f"THOUGHTS: /{_ANY}/{_without(THINK_END)}")
            return f"THOUGHTS {self._literal(THINK_END)}"
        # Lazy: the first end is the end.
        self._rules.append(f"thoughts[lazy]: /{_ANY}{_regex(THINK_END)}/")
        return "thoughts"

    def _body(self) -> str:
        plan = self._plan
        if plan.form is not None:
            self._rules.append(f"form: {_json(plan.form)}")
        if plan.dialect is None:
            return "form"
        calls = self._calls(plan.dialect)
        opens = self._literal(plan.dialect.opens)
        if plan.required:
            return f"{opens} {calls}"
        if plan.form is not None:
            return f"(form | {opens} {calls})"
        if not plan.dialect.opens:
            self._rules.append(f"FREE: /([^{_regex(plan.dialect.before_name[0])}]{_ANY})?/{self._no_thoughts()}")
            return f"(FREE | {calls})"
        # Whoever reads the answer looks for the marker's text, so text must not have it even where the marker is a token.
        self._rules.append(f"FREE: /{_ANY}/{_without(plan.dialect.opens)}{self._no_thoughts()}")
        if plan.dialect.opens in self._special:
            return f"(FREE | FREE {opens} {calls})"
        self._rules.append(f"opened[lazy]: FREE {json.dumps(plan.dialect.opens)}")
        return f"(FREE | opened {calls})"

    def _no_thoughts(self) -> str:
        return f" & ~/{_regex(THINK)}{_ANY}/" if self._plan.thinking == "possible" else ""

    def _calls(self, dialect: Dialect) -> str:
        tools = self._plan.tools or {}
        for number, (name, schema) in enumerate(tools.items()):
            before = self._literal(f"{dialect.before_name}{name}{dialect.before_arguments}")
            self._rules.append(f"call_{number}: {before} arguments_{number} {self._literal(dialect.after)}")
            self._rules.append(f"arguments_{number}: {_json(schema)}")
        self._rules.append("call: " + " | ".join(f"call_{number}" for number in range(len(tools))))
        more = f"({self._literal(dialect.between)} call)*" if self._plan.parallel and dialect.between else ""
        return " ".join(each for each in (self._literal(dialect.lead), "call", more, self._literal(dialect.closes)) if each)

    def _literal(self, text: str) -> str:
        """A text as strings and tokens."""
        pieces = self._split.split(text) if self._split else [text]
        return " ".join(f"<[{self._special[each]}]>" if each in self._special else json.dumps(each) for each in pieces if each)


def _json(schema: Schema) -> str:
    return "%json " + json.dumps({"x-guidance": LAYOUT, **schema})


def _regex(text: str) -> str:
    return re.escape(text).replace("/", r"\/")


def _without(text: str) -> str:
    return f" & ~/{_ANY}{_regex(text)}{_ANY}/"
