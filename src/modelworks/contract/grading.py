"""Graders: what judges a model's answer. The forms are OpenAI's (API reference, "Graders"); what runs them is the capability's.

Light on purpose: the gateway, evaluations and trainings share these forms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from modelworks.contract.errors import InvalidRequest
from modelworks.contract.generation import Message, Role, Sampling
from modelworks.contract.template import Template

MAX_SOURCE_CHARS = 256_000

StringOperation = Literal["eq", "ne", "like", "ilike"]
SimilarityMetric = Literal[
    "cosine",
    "fuzzy_match",
    "bleu",
    "gleu",
    "meteor",
    "rouge_1",
    "rouge_2",
    "rouge_3",
    "rouge_4",
    "rouge_5",
    "rouge_l",
]


def _checked(text: str) -> str:
    try:
        Template.parse(text)
    except InvalidRequest as error:
        raise PydanticCustomError("invalid_template", "{reason}", {"reason": error.message}) from error
    return text


#: Types of parts that hold text.
_TEXT_PARTS = ("text", "input_text", "output_text")


def _flat(content: Any) -> Any:
    """Content parts as one text; parts that are no text stay, and are refused as such."""
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str) or (isinstance(part, dict) and part.get("type", "text") not in _TEXT_PARTS):
            raise PydanticCustomError("content_type", "only text can be graded; images and audio cannot")
        texts.append(text)
    return "\n".join(texts)


#: A text with places for values; see `contract.template`.
TemplateText = Annotated[str, Field(max_length=MAX_SOURCE_CHARS), AfterValidator(_checked)]
Score = Annotated[float, Field(allow_inf_nan=False)]


class _Grader(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=256, description="What results call it.")


class StringCheckGrader(_Grader):
    """1 where a text equals (eq), differs from (ne) or contains (like; ilike: whatever the case) another, else 0."""

    type: Literal["string_check"]
    input: TemplateText
    reference: TemplateText
    operation: StringOperation


class TextSimilarityGrader(_Grader):
    """How near a text comes to another, from 0 to 1."""

    type: Literal["text_similarity"]
    input: TemplateText
    reference: TemplateText
    evaluation_metric: SimilarityMetric
    pass_threshold: Score | None = None


class PythonGrader(_Grader):
    """`def grade(sample, item) -> float`, run in a sandbox with Python's own library alone."""

    type: Literal["python"]
    source: str = Field(min_length=1, max_length=MAX_SOURCE_CHARS)
    image_tag: str | None = Field(None, max_length=128, description="Accepted; there is one environment.")
    pass_threshold: Score | None = None


class GraderMessage(BaseModel):
    """A turn for the judging model."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["message"] = "message"
    role: Role
    content: Annotated[TemplateText, BeforeValidator(_flat)]


class GraderSampling(BaseModel):
    """How the judging model answers."""

    model_config = ConfigDict(extra="ignore")

    max_completions_tokens: int | None = Field(None, ge=1)
    seed: int | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)


class _ModelGrader(_Grader):
    model: str = Field(min_length=1, max_length=256)
    input: list[GraderMessage] = Field(min_length=1, max_length=64)
    sampling_params: GraderSampling | None = None


class ScoreModelGrader(_ModelGrader):
    """A deployed model gives a number within `range`."""

    type: Literal["score_model"]
    range: tuple[Score, Score] = (0.0, 1.0)
    pass_threshold: Score | None = None

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.range[0] >= self.range[1]:
            raise PydanticCustomError("range_order", "range: the second number must be above the first")
        return self


class LabelModelGrader(_ModelGrader):
    """A deployed model chooses a label; 1 for a passing one, else 0."""

    type: Literal["label_model"]
    labels: list[str] = Field(min_length=1, max_length=100)
    passing_labels: list[str] = Field(min_length=1, max_length=100)

    @model_validator(mode="after")
    def _known(self) -> Self:
        if unknown := sorted(set(self.passing_labels) - set(self.labels)):
            raise PydanticCustomError("unknown_label", "passing_labels: {label} is none of labels", {"label": repr(unknown[0])})
        return self


SingleGrader = Annotated[
    StringCheckGrader | TextSimilarityGrader | PythonGrader | ScoreModelGrader | LabelModelGrader, Field(discriminator="type")
]


def _by_name(graders: Any) -> Any:
    """One grader, or a list of them, under their own names: the forms that clients send beside the mapping."""
    listed = [graders] if isinstance(graders, dict) and isinstance(graders.get("type"), str) else graders
    if isinstance(listed, list) and all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in listed):
        return {each["name"]: each for each in listed}
    return graders


class MultiGrader(_Grader):
    """Several graders, and a formula over their names: `0.8 * correct + 0.2 * short`."""

    type: Literal["multi"]
    graders: Annotated[dict[str, SingleGrader], Field(min_length=1, max_length=32), BeforeValidator(_by_name)]
    calculate_output: str = Field(min_length=1, max_length=2000)
    pass_threshold: Score | None = None


Grader = Annotated[
    StringCheckGrader | TextSimilarityGrader | PythonGrader | ScoreModelGrader | LabelModelGrader | MultiGrader,
    Field(discriminator="type"),
]

_KINDS: Mapping[str, type[_Grader]] = {
    "string_check": StringCheckGrader,
    "text_similarity": TextSimilarityGrader,
    "python": PythonGrader,
    "score_model": ScoreModelGrader,
    "label_model": LabelModelGrader,
    "multi": MultiGrader,
}


def parse_grader(values: Any, param: str = "grader") -> Grader:
    """A grader in its wire form.

    Raises:
        InvalidRequest: it is none; `param` names the field at fault.
    """
    kind = values.get("type") if isinstance(values, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        what = f"{str(kind)[:40]!r} is no grader" if kind is not None else "it is missing"
        raise InvalidRequest(
            f"{param}.type: {what}; there are {', '.join(_KINDS)}.", param=f"{param}.type", code="invalid_value"
        )
    try:
        found: Any = _KINDS[kind].model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        # Alternatives put their own name into the path.
        place = ".".join([param, *(str(part) for part in first["loc"] if part not in _KINDS)])
        code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
        raise InvalidRequest(f"{place}: {first['msg'].rstrip('.')}.", param=place, code=code) from error
    return found  # type: ignore[no-any-return]


def models_of(grader: Grader) -> set[str]:
    """The deployed models that a grader asks."""
    parts = [*grader.graders.values()] if isinstance(grader, MultiGrader) else [grader]
    return {part.model for part in parts if isinstance(part, _ModelGrader)}


class Sample(BaseModel):
    """What a model answered: the namespace `sample`."""

    output_text: str | None = None
    output_tools: list[dict[str, Any]] = Field(default_factory=list)
    model: str | None = None

    def values(self) -> dict[str, Any]:
        """As templates and Python graders see it; `output_json` is there only where the text is JSON."""
        message = {"role": "assistant", "content": self.output_text, "tool_calls": self.output_tools or None}
        found: dict[str, Any] = {
            "output_text": self.output_text,
            "output_tools": self.output_tools,
            "choices": [{"message": message}],
            "model": self.model,
        }
        with suppress(ValueError, RecursionError):
            found["output_json"] = json.loads(self.output_text or "")
        return found


@dataclass(frozen=True, slots=True)
class Case:
    """One answer to be judged, and the record of the data that it answers."""

    sample: Sample
    item: Mapping[str, Any] = field(default_factory=dict)


class GradeErrors(BaseModel):
    """What went wrong, in OpenAI's names."""

    formula_parse_error: bool = False
    #: The answer is not what the grader reads: `sample.output_json` of a text that is not JSON.
    sample_parse_error: bool = False
    truncated_observation_error: bool = False
    unresponsive_reward_error: bool = False
    invalid_variable_error: bool = False
    other_error: bool = False
    python_grader_server_error: bool = False
    python_grader_server_error_type: str | None = None
    python_grader_runtime_error: bool = False
    python_grader_runtime_error_details: str | None = None
    model_grader_server_error: bool = False
    model_grader_refusal_error: bool = False
    model_grader_parse_error: bool = False
    model_grader_server_error_details: str | None = None


class Grade(BaseModel):
    """A verdict. The score is 0 where it could not be found out, and `errors` says why."""

    score: float = 0.0
    #: Whether it reaches the threshold; without one, the middle of what the grader can give.
    passed: bool = False
    label: str | None = None
    errors: GradeErrors = Field(default_factory=GradeErrors)
    #: The reason in words, where there is an error.
    message: str | None = None
    #: By name, of a multi grader.
    sub_scores: dict[str, float] = Field(default_factory=dict)
    #: Tokens by judging model.
    token_usage: dict[str, int] = Field(default_factory=dict)
    duration_s: float = 0.0

    @property
    def is_failure(self) -> bool:
        """Whether the grader failed, rather than the answer."""
        return self.message is not None and not self.errors.sample_parse_error


class ModelAnswer(BaseModel):
    """What a judging model said, and how many tokens it read and wrote."""

    text: str
    num_tokens: int = 0


class Ask(Protocol):
    """The door to a deployed model, by the name that clients use. Raises ModelworksError where it does not answer."""

    def __call__(self, model: str, messages: Sequence[Message], sampling: Sampling) -> ModelAnswer: ...


class Grading(Protocol):
    """A grader that is ready."""

    @property
    def templates(self) -> tuple[Template, ...]:
        """The texts it fills: what of an item it needs can be seen before any answer exists."""
        ...

    def grade(self, cases: Sequence[Case]) -> list[Grade]:
        """A verdict per case, in order. Faults of answers and of graders are told in the verdicts, not raised."""
        ...


class GraderOpener(Protocol):
    """What `Task.grader` names: checks a grader completely, down to its formula and its source, and makes it ready.

    Raises InvalidRequest or UnsupportedParameter, with `param` below "grader". Light: the gateway calls it too.
    """

    def __call__(self, spec: Grader, *, ask: Ask | None = None) -> Grading: ...
