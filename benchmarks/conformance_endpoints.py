"""The endpoints of OpenAI's that the server offers, with their types and how `conformance.py` asks them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Final

import requests
from elsewhere import TOOLS
from fuzz_bodies import MODEL
from openai import types as t
from openai.pagination import SyncCursorPage
from openai.types import chat, conversations, evals, fine_tuning, responses
from openai.types.chat import completion_create_params as chat_params
from openai.types.completion_create_params import CompletionCreateParamsBase
from openai.types.evals import run_create_params
from openai.types.evals.runs import OutputItemListResponse, OutputItemRetrieveResponse
from openai.types.evals.runs.output_item_list_params import OutputItemListParams
from openai.types.fine_tuning import FineTuningJob
from openai.types.fine_tuning.alpha import (
    GraderRunResponse,
    GraderValidateResponse,
    grader_run_params,
    grader_validate_params,
)
from openai.types.responses import response_create_params
from things import Things

#: Words in forms of items, tools and events, and names of fields, that only a request which is refused could bring about.
NOT_OFFERED = {
    "web_search", "computer", "image_generation", "image_gen", "code_interpreter", "shell", "apply_patch",
    "additional_tools", "tool_search", "compaction", "compacting", "configuration_update", "audio", "moderation",
    "program", "steer",
}  # fmt: skip
_EXPLAINED = "an error is null in the answer that creates a thing; the endpoint that retrieves it is asked, too"
_NO_PAST = "requests of the past are not kept to be chosen from: the type is refused by name"
_STORED_PROMPT = "a list where a stored prompt was asked for, and the parameter prompt is refused by name"
#: Places of answers that nothing which can be asked for would fill: pattern of endpoints, pattern of places, why.
BEYOND: Final[tuple[tuple[str, str, str], ...]] = (
    ("responses", r"(^|[. ])instructions\[\]", _STORED_PROMPT),
    ("responses", r"(^|response\.)(prompt|image|access_programs)(\.|$)", "the parameter of that name is refused by name"),
    ("responses", r"input_transformations", "reasoning is never withheld from a model"),
    ("responses", r"prompt_cache_diagnostics\((cache_|comparison)", "what was cached for another response is not recorded"),
    ("responses", r"misalignment", "no review stands between a model and its caller"),
    ("responses", r"tool_usage", "of hosted image generation and web search, which are refused by name"),
    ("responses", r"event \(error\)", "a failure in a stream is told by response.failed"),
    ("responses", r"mcp_list_tools.failed", "a server whose tools cannot be listed fails the whole response"),
    ("chat", r"(message|delta)\.(function_call|annotations\[\])", "of functions and web_search_options, refused by name"),
    ("conversations", r"content\[\]\((text|summary_text|reasoning_text)\)", "no item that is taken holds such parts"),
    (
        "responses.(create|retrieve)",
        r"output\[\]\((function|custom)_(tool_)?call_output\)",
        "outputs are the caller's, of items it sends",
    ),
    ("responses.create", r"error\.", _EXPLAINED),
    ("uploads.create", r"file\.", "a file is there when the upload is complete: uploads.complete is asked, too"),
    ("(batches|fine_tuning.jobs|evals.runs).create", r"(error|errors|per_model_usage(\[\])?)\.", _EXPLAINED),
    ("fine_tuning.jobs", r"integrations\[\]", "nothing is sent to others: the parameter is refused by name"),
    ("evals", r"data_source_config\((logs|stored_completions)\)", _NO_PAST),
    ("evals.runs", r"source\((responses|stored_completions)\)", _NO_PAST),
    ("evals|fine_tuning", r"input_image", "models here judge text: images are refused by their type"),
)
IMAGE = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


class Stage:
    """A server with something of everything."""

    numbers: ClassVar[dict[str, int]] = {
        "max_output_tokens": 16,
        "max_tokens": 4,
        "max_completion_tokens": 4,
        "dimensions": 8,
        "seconds": 3600,
        "bytes": 4,
    }

    def __init__(self, url: str, http: requests.Session, client: Any, elsewhere: str) -> None:
        self.url, self.http, self.elsewhere = url, http, elsewhere
        self.things = Things(url, http, client)
        self._ids: dict[str, str] = {}
        #: Whether values are sent in a query, where everything is text.
        self.querying = False

    def id(self, name: str) -> str:
        """Of a thing of that kind, made when first asked for."""
        if name == "fine_tuning_job_id" and name not in self._ids:
            body = {"model": MODEL, "training_file": self.training_file}
            self._ids[name] = self.http.post(f"{self.url}/v1/fine_tuning/jobs", json=body, timeout=60).json()["id"]
        if name not in self._ids:
            # A run and its items come with their eval.
            maker = "eval_id" if name in ("run_id", "output_item_id") else name
            self._ids |= self.things.of("GET", "/v1/evals", [maker, name])
        return self._ids[name]

    @cached_property
    def file(self) -> str:
        return self.things.file()

    @cached_property
    def items_file(self) -> str:
        files = {"file": ("items.jsonl", b'{"item": {"a": true}}\n'), "purpose": (None, "evals")}
        return str(self.http.post(f"{self.url}/v1/files", files=files, timeout=60).json()["id"])

    @cached_property
    def part(self) -> str:
        """The one part of the upload."""
        where = f"{self.url}/v1/uploads/{self.id('upload_id')}/parts"
        return str(self.http.post(where, files={"data": b"abcd"}, timeout=60).json()["id"])

    @cached_property
    def training_file(self) -> str:
        turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello there."}]
        content = "\n".join(json.dumps({"messages": turns}) for _ in range(12)).encode()
        files = {"file": ("chats.jsonl", content), "purpose": (None, "fine-tune")}
        return str(self.http.post(f"{self.url}/v1/files", files=files, timeout=60).json()["id"])


_TEXTS = {
    "model": MODEL, "url": IMAGE, "image_url": IMAGE, "arguments": "{}", "call_id": "call_1", "tool_call_id": "call_1",
    "data": "AA==", "item_reference": "item.a",
    "name": "act", "role": "user", "calculate_output": "act", "tool_names": "look", "allowed_tools": "look",
    "source": "import json\ndef grade(sample, item):\n    return 1.0\n",
}  # fmt: skip


def text_value(name: str, stage: Stage) -> str:
    """A text that fits a field of that name."""
    if name in ("input_file_id", "file_id"):
        return stage.file
    if name == "items_file_id":
        return stage.items_file
    if name == "server_url":
        return f"{stage.elsewhere}/mcp"
    if name == "training_file":
        return "file-none"
    return _TEXTS.get(name, "a")


@dataclass(frozen=True)
class Endpoint:
    """One endpoint.

    Args:
        request: the types of its body, or of its query.
        answer: the type of its answers; `events`: of what it streams.
        body: a good request.
        beside: what a field needs beside itself.
        scenes: further requests, for answers that hold more.
        ends_at: an error about this field means that all others were taken.
        agree: makes a body agree with itself.
        follows: another endpoint: this one is asked about each thing that was answered there, until it has ended.
    """

    name: str
    method: str
    path: str
    answer: Any
    request: tuple[Any, ...] = ()
    events: Any = None
    body: Callable[[Stage], dict[str, Any]] = lambda _: {}
    beside: dict[str, dict[str, Any]] = field(default_factory=dict)
    not_in_body: frozenset[str] = frozenset()
    scenes: Callable[[Stage], list[dict[str, Any]]] = lambda _: []
    ends_at: str = ""
    agree: Callable[[dict[str, Any]], dict[str, Any]] = lambda body: body
    follows: str = ""

    def at(self, stage: Stage, thing: dict[str, Any] | None = None) -> str:
        """Its path with real ids: those of `thing`, whose own id is the last one of the path."""
        path = self.path
        while "{" in path:
            name = path.partition("{")[2].partition("}")[0]
            last = path.count("{") == 1
            found = None if thing is None else thing["id"] if last else thing.get(name)
            path = path.replace("{" + name + "}", stage.id(name) if found is None else str(found))
        return path


def _everything(_: Stage) -> list[dict[str, Any]]:
    return [{"limit": 100}]


_SAID = [{"role": "user", "content": "Say something."}]
_SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
_CHAT_TOOL = {"type": "function", "function": {"name": "act", "parameters": _SCHEMA, "strict": True}}
_TOOL = {"type": "function", "name": "act", "parameters": _SCHEMA, "strict": True}
_CUSTOM = {"type": "custom", "name": "act", "description": "Acts."}


def _chat_scenes(_: Stage) -> list[dict[str, Any]]:
    base = {"model": MODEL, "messages": _SAID, "max_tokens": 60, "service_tier": "auto"}
    found = [
        {**base, "tools": [_CHAT_TOOL], "tool_choice": "required"},
        {**base, "tools": [{"type": "custom", "custom": {"name": "act"}}], "tool_choice": "required"},
        {**base, "logprobs": True, "top_logprobs": 2, "max_tokens": 4},
        {**base, "max_tokens": 4},
    ]
    return found + [{**each, "stream": True, "stream_options": {"include_usage": True}} for each in found]


_ENTRY = {"token": "a", "bytes": [97], "logprob": -1.0, "top_logprobs": [{"token": "a", "bytes": [97], "logprob": -1.0}]}
_CITATIONS: list[dict[str, Any]] = [
    {"type": "file_citation", "file_id": "a", "filename": "a", "index": 0},
    {"type": "url_citation", "url": "https://a.example", "title": "a", "start_index": 0, "end_index": 1},
    {"type": "container_file_citation", "container_id": "a", "file_id": "a", "filename": "a", "start_index": 0, "end_index": 1},
    {"type": "file_path", "file_id": "a", "index": 0},
]
_MARK = {"prompt_cache_breakpoint": {"mode": "explicit", "ttl": "30m"}}
_EVERY_ITEM: list[dict[str, Any]] = [
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a", **_MARK}]},
    {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": IMAGE, "detail": "auto", **_MARK}]},
    {
        "type": "message", "role": "assistant", "phase": "final_answer", "content": [
            {"type": "output_text", "text": "a", "annotations": _CITATIONS, "logprobs": [_ENTRY]},
            {"type": "refusal", "refusal": "a"},
        ],
    },
    {
        "type": "reasoning", "encrypted_content": "a", "summary": [{"type": "summary_text", "text": "a"}],
        "content": [{"type": "reasoning_text", "text": "a"}],
    },
    {"type": "message", "role": "user", "content": "a"},
]  # fmt: skip


def _response_scenes(stage: Stage) -> list[dict[str, Any]]:
    thinking = {"effort": "low", "context": "auto", "mode": "standard", "generate_summary": "auto", "summary": "auto"}
    cache = {"mode": "implicit", "ttl": "30m", "comparison_response_id": "resp_none"}
    base: dict[str, Any] = {"model": MODEL, "input": "Say something.", "max_output_tokens": 60, "metadata": {"a": "b"}}
    found: list[dict[str, Any]] = [
        {**base, "max_output_tokens": 16},
        {**base, "tools": [_TOOL], "tool_choice": "required"},
        {**base, "tools": [_CUSTOM], "tool_choice": "required"},
        {**base, "tools": [_TOOL], "tool_choice": {"type": "function", "name": "act"}},
        {
            **base,
            "tools": [_TOOL],
            "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "act"}]},
        },
        {**base, "include": ["message.output_text.logprobs"], "top_logprobs": 1, "max_output_tokens": 16},
        {
            **base,
            "text": {"format": {"type": "json_schema", "name": "a", "schema": _SCHEMA, "description": "d", "strict": True}},
        },
        {**base, "text": {"format": {"type": "json_object"}}},
        {**base, "conversation": stage.id("conversation_id"), "instructions": "Be brief.", "reasoning": thinking},
        {**base, "text": {"verbosity": "low"}},
        {**base, "tools": [_CUSTOM], "tool_choice": {"type": "custom", "name": "act"}},
        {**base, "prompt_cache_options": cache, "prompt_cache_retention": "24h"},
        {**base, "model": "refusing", "input": _EVERY_ITEM},
        {**base, "background": True},
        # Longer than the model can read: it fails where nobody waits.
        {**base, "background": True, "input": "Say something. " * 2000},
    ]
    server = {"type": "mcp", "server_label": "a", "server_url": f"{stage.elsewhere}/mcp", "require_approval": "never"}
    for name in TOOLS:
        wanted = {"type": "mcp", "server_label": "a", "name": name}
        found.append({**base, "tools": [server], "tool_choice": wanted, "max_tool_calls": 1, "max_output_tokens": 200})
    found.append({**found[-1], "tools": [{**server, "require_approval": "always"}]})
    return found + [{**each, "stream": True} for each in found]


def _with_its_method(body: dict[str, Any]) -> dict[str, Any]:
    """A method's details are read where the method is that one."""
    method = body.get("method")
    details = [name for name in ("reinforcement", "dpo") if isinstance(method, dict) and name in method]
    return {**body, "method": {**body["method"], "type": details[0]}} if details else body


_TURNS = [
    {"role": "user", "content": "a", "type": "message"},
    {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
    {"role": "assistant", "content": {"type": "output_text", "text": "a"}},
]
_SAMPLING = {"max_completions_tokens": 4, "seed": 1, "temperature": 0.5, "top_p": 0.5}
_CHECK = {"type": "string_check", "name": "same", "operation": "eq", "input": "{{item.a}}", "reference": "b"}
_SIMILAR = {
    "type": "text_similarity", "name": "near", "evaluation_metric": "bleu", "input": "{{item.a}}", "reference": "b",
}  # fmt: skip
_PYTHON = {"type": "python", "name": "code", "source": _TEXTS["source"], "image_tag": "a"}
_SCORE = {
    "type": "score_model", "name": "judge", "model": MODEL, "range": [0, 1], "input": _TURNS, "sampling_params": _SAMPLING,
}  # fmt: skip
_LABEL = {
    "type": "label_model", "name": "label", "model": MODEL, "labels": ["a", "b"], "passing_labels": ["a"], "input": _TURNS,
}  # fmt: skip


def _tuning_scenes(stage: Stage) -> list[dict[str, Any]]:
    base = {"model": MODEL, "training_file": stage.training_file, "validation_file": stage.training_file, "seed": 1}
    numbers = {"batch_size": 1, "learning_rate_multiplier": 1.0, "n_epochs": 1}
    steps = {**numbers, "compute_multiplier": 1.0, "eval_interval": 1, "eval_samples": 1}
    found: list[dict[str, Any]] = [
        {**base, "hyperparameters": {"n_epochs": 1}, "metadata": {"a": "b"}, "suffix": "a"},
        {**base, "method": {"type": "supervised", "supervised": {"hyperparameters": numbers}}},
        {**base, "method": {"type": "dpo", "dpo": {"hyperparameters": {**numbers, "beta": 0.1}}}},
    ]
    for grader in (_CHECK, _SIMILAR, _PYTHON, _SCORE):
        whole = {"type": "multi", "name": "all", "graders": grader, "calculate_output": grader["name"]}
        for each in (grader, whole):
            how = {"grader": each, "hyperparameters": steps}
            found.append({**base, "method": {"type": "reinforcement", "reinforcement": how}})
    return found


def _validation_scenes(_: Stage) -> list[dict[str, Any]]:
    graders: list[dict[str, Any]] = [_CHECK, _SIMILAR, _PYTHON, _SCORE]
    found = [{"grader": each} for each in graders]
    for each in (*graders, _LABEL):
        whole = {"type": "multi", "name": "all", "graders": each, "calculate_output": each["name"]}
        found.append({"grader": whole})
    return found


def _grader(_: Stage) -> dict[str, Any]:
    check = {"type": "string_check", "name": "same", "operation": "eq", "input": "{{item.a}}", "reference": "b"}
    return {"grader": check, "item": {"a": "b"}, "model_sample": "b"}


def _eval(_: Stage) -> dict[str, Any]:
    source = {"type": "custom", "item_schema": _SCHEMA, "include_sample_schema": False}
    check = {"type": "string_check", "name": "same", "operation": "eq", "input": "{{item.a}}", "reference": "b"}
    return {"data_source_config": source, "testing_criteria": [check], "name": "a", "metadata": {"a": "b"}}


def _eval_scenes(stage: Stage) -> list[dict[str, Any]]:
    base = _eval(stage)
    checks: list[dict[str, Any]] = [_CHECK, _SIMILAR, _PYTHON, _SCORE, _LABEL]
    logged = {"type": "logs", "metadata": {"a": "b"}}
    return [base, {**base, "testing_criteria": checks}, {**base, "data_source_config": logged}]


def _eval_run(_: Stage) -> dict[str, Any]:
    rows = {"type": "file_content", "content": [{"item": {"a": "b"}}]}
    return {"data_source": {"type": "jsonl", "source": rows}, "name": "a", "metadata": {"a": "b"}}


def _eval_run_scenes(stage: Stage) -> list[dict[str, Any]]:
    base = _eval_run(stage)
    rows = base["data_source"]["source"]
    asked = {"type": "template", "template": [{"role": "user", "content": "{{item.a}}"}]}
    sampling = {"max_completion_tokens": 4, "seed": 1, "temperature": 0.5, "top_p": 0.5}
    found = [base]
    for source in (rows, {"type": "file_id", "id": stage.items_file}):
        whole = {"type": "completions", "model": MODEL, "source": source, "input_messages": asked}
        found.append({**base, "data_source": {**whole, "sampling_params": sampling}})
        found.append({**base, "data_source": {"type": "jsonl", "source": source}})
        respond = {"max_completion_tokens": 4, "temperature": 0.5, "top_p": 0.5}
        found.append({**base, "data_source": {**whole, "type": "responses", "sampling_params": respond}})
    return found


def _batch(stage: Stage) -> dict[str, Any]:
    return {"input_file_id": stage.file, "endpoint": "/v1/completions", "completion_window": "24h"}


def _upload(_: Stage) -> dict[str, Any]:
    return {"bytes": 4, "filename": "a.txt", "mime_type": "text/plain", "purpose": "user_data"}


ENDPOINTS: list[Endpoint] = [
    Endpoint(
        "chat.completions.create", "POST", "/v1/chat/completions", chat.ChatCompletion,
        (chat_params.CompletionCreateParamsBase, chat_params.CompletionCreateParamsNonStreaming), chat.ChatCompletionChunk,
        body=lambda _: {"model": MODEL, "messages": _SAID, "max_tokens": 4},
        beside={
            "tool_choice": {"tools": [_CHAT_TOOL]}, "parallel_tool_calls": {"tools": [_CHAT_TOOL]},
            "top_logprobs": {"logprobs": True}, "stream_options": {"stream": True},
            "function_call": {"functions": [{"name": "act"}]},
        },
        scenes=_chat_scenes,
    ),
    Endpoint(
        "completions.create", "POST", "/v1/completions", t.Completion, (CompletionCreateParamsBase,),
        body=lambda _: {"model": MODEL, "prompt": "a", "max_tokens": 4},
        beside={"stream_options": {"stream": True}},
        scenes=lambda _: [{"model": MODEL, "prompt": "a", "max_tokens": 4, "logprobs": 2}],
    ),
    Endpoint(
        "embeddings.create", "POST", "/v1/embeddings", t.CreateEmbeddingResponse, (t.EmbeddingCreateParams,),
        body=lambda _: {"model": "encoder", "input": "a"},
    ),
    Endpoint(
        "responses.create", "POST", "/v1/responses", responses.Response,
        (response_create_params.ResponseCreateParamsBase, response_create_params.ResponseCreateParamsNonStreaming),
        responses.ResponseStreamEvent,
        body=lambda _: {"model": MODEL, "input": "Say something.", "max_output_tokens": 16},
        beside={
            "tool_choice": {"tools": [_TOOL]}, "stream_options": {"stream": True}, "background_options": {"background": True},
        },
        scenes=_response_scenes,
    ),
    Endpoint("responses.retrieve", "GET", "/v1/responses/{response_id}", responses.Response, follows="responses.create"),
    Endpoint(
        "responses.input_items.list", "GET", "/v1/responses/{response_id}/input_items", responses.ResponseItemList,
        (responses.InputItemListParams,), follows="responses.create",
    ),
    Endpoint(
        "responses.input_tokens.count", "POST", "/v1/responses/input_tokens", responses.InputTokenCountResponse,
        (responses.InputTokenCountParams,), body=lambda _: {"model": MODEL, "input": "a"},
        beside={"tool_choice": {"tools": [_TOOL]}},
        scenes=lambda _: [{"model": MODEL, "input": "a"}],
    ),
    Endpoint(
        "conversations.create", "POST", "/v1/conversations", conversations.Conversation,
        (conversations.ConversationCreateParams,), scenes=lambda _: [{"items": _EVERY_ITEM}],
    ),
    Endpoint(
        "conversations.update", "POST", "/v1/conversations/{conversation_id}", conversations.Conversation,
        (conversations.ConversationUpdateParams,), body=lambda _: {"metadata": {"a": "b"}},
    ),
    Endpoint(
        "conversations.items.list", "GET", "/v1/conversations/{conversation_id}/items", conversations.ConversationItemList,
        (conversations.ItemListParams,), follows="conversations.create",
    ),
    Endpoint("models.retrieve", "GET", "/v1/models/{model}", t.Model, scenes=lambda _: [{}]),
    Endpoint("models.list", "GET", "/v1/models", SyncCursorPage[t.Model], scenes=lambda _: [{}]),
    Endpoint("files.list", "GET", "/v1/files", SyncCursorPage[t.FileObject], (t.FileListParams,), scenes=lambda _: [{}]),
    Endpoint("files.retrieve", "GET", "/v1/files/{file_id}", t.FileObject, scenes=lambda _: [{}]),
    Endpoint("uploads.create", "POST", "/v1/uploads", t.Upload, (t.UploadCreateParams,), body=_upload),
    Endpoint(
        "uploads.complete", "POST", "/v1/uploads/{upload_id}/complete", t.Upload,
        scenes=lambda stage: [{"part_ids": [stage.part]}],
    ),
    Endpoint("batches.create", "POST", "/v1/batches", t.Batch, (t.BatchCreateParams,), body=_batch),
    Endpoint("batches.list", "GET", "/v1/batches", SyncCursorPage[t.Batch], (t.BatchListParams,), scenes=lambda _: [{}]),
    Endpoint("batches.retrieve", "GET", "/v1/batches/{batch_id}", t.Batch, follows="batches.create"),
    Endpoint(
        "fine_tuning.jobs.create", "POST", "/v1/fine_tuning/jobs", FineTuningJob, (fine_tuning.JobCreateParams,),
        body=lambda _: {"model": MODEL, "training_file": "file-none"}, ends_at="training_file", agree=_with_its_method,
        scenes=_tuning_scenes,
    ),
    Endpoint(
        "fine_tuning.jobs.list", "GET", "/v1/fine_tuning/jobs", SyncCursorPage[FineTuningJob], (fine_tuning.JobListParams,),
        scenes=_everything,
    ),
    Endpoint(
        "fine_tuning.jobs.retrieve", "GET", "/v1/fine_tuning/jobs/{fine_tuning_job_id}", FineTuningJob,
        follows="fine_tuning.jobs.create",
    ),
    Endpoint(
        "fine_tuning.jobs.list_events", "GET", "/v1/fine_tuning/jobs/{fine_tuning_job_id}/events",
        SyncCursorPage[fine_tuning.FineTuningJobEvent], (fine_tuning.JobListEventsParams,), follows="fine_tuning.jobs.create",
    ),
    Endpoint(
        "fine_tuning.alpha.graders.run", "POST", "/v1/fine_tuning/alpha/graders/run", GraderRunResponse,
        (grader_run_params.GraderRunParams,), body=_grader, scenes=lambda stage: [_grader(stage)],
    ),
    Endpoint(
        "fine_tuning.alpha.graders.validate", "POST", "/v1/fine_tuning/alpha/graders/validate", GraderValidateResponse,
        (grader_validate_params.GraderValidateParams,), body=_grader, scenes=_validation_scenes,
    ),
    Endpoint(
        "evals.create", "POST", "/v1/evals", t.EvalCreateResponse, (t.EvalCreateParams,), body=_eval, scenes=_eval_scenes,
    ),
    Endpoint(
        "evals.update", "POST", "/v1/evals/{eval_id}", t.EvalUpdateResponse, (t.EvalUpdateParams,),
        body=lambda _: {"name": "b"}, follows="evals.create",
    ),
    Endpoint("evals.list", "GET", "/v1/evals", SyncCursorPage[t.EvalListResponse], (t.EvalListParams,), scenes=_everything),
    Endpoint(
        "evals.runs.create", "POST", "/v1/evals/{eval_id}/runs", evals.RunCreateResponse, (run_create_params.RunCreateParams,),
        body=_eval_run, scenes=_eval_run_scenes,
    ),
    Endpoint(
        "evals.runs.retrieve", "GET", "/v1/evals/{eval_id}/runs/{run_id}", evals.RunRetrieveResponse,
        follows="evals.runs.create",
    ),
    Endpoint(
        "evals.runs.output_items.list", "GET", "/v1/evals/{eval_id}/runs/{run_id}/output_items",
        SyncCursorPage[OutputItemListResponse], (OutputItemListParams,), follows="evals.runs.create",
    ),
    Endpoint(
        "evals.runs.output_items.retrieve", "GET", "/v1/evals/{eval_id}/runs/{run_id}/output_items/{output_item_id}",
        OutputItemRetrieveResponse, follows="evals.runs.output_items.list",
    ),
]  # fmt: skip

__all__ = ["ENDPOINTS", "IMAGE", "NOT_OFFERED", "Endpoint", "Stage", "text_value"]
