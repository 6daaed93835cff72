"""What `fuzz.py` sends beside what the document describes: bodies that are no JSON, and good ones with a place or two bent."""

from __future__ import annotations

import copy
import random
from typing import Any

MODEL = "tiny"

#: Bodies that no JSON library would write.
RAW: list[bytes] = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"\xff\xfe{}",
    b'{"model": "tiny", "messages": [{"role": "user", "content": "\xff"}]}',
    b'{"model": "\\ud800", "input": "\\udfff"}',
    b'{"model": "tiny\\u0000", "input": "\\u0000", "name": "\\u0000"}',
    b"[" * 10_000,
    b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    b'{"input": ' + b"[" * 900 + b"]" * 900 + b', "model": "tiny"}',
    b'{"model": "tiny", "max_tokens": ' + b"9" * 1000 + b"}",
    b'{"model": "tiny", "seed": 9223372036854775808, "prompt": "a", "max_tokens": 1}',
    b'{"model": "tiny", "temperature": 1e400, "prompt": "a"}',
    b'{"model": "tiny", "temperature": NaN, "prompt": "a"}',
    b'{"model": "tiny", "model": "other", "prompt": "a", "max_tokens": 1}',
    b'{"amount": 99999999999999999999, "metric": "tokens", "period": "day"}',
    b'{"name": "' + b"a" * 100_000 + b'"}',
    b'--a\r\ncontent-disposition: form-data; name="file"; filename="\xff"\r\n\r\n\x00\xff\r\n--a--\r\n',
    b'--a\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--a',
    b"--a\r\n" * 500,
]

SAID: list[dict[str, Any]] = [{"role": "user", "content": "Say something."}]
_SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
_CHECK = {"type": "string_check", "name": "same", "operation": "eq", "input": "{{item.a}}", "reference": "b"}
_JUDGE = {
    "type": "score_model",
    "name": "judge",
    "model": MODEL,
    "input": [{"role": "user", "content": "Judge {{sample.output_text}}"}],
    "range": [0, 1],
    "pass_threshold": 0.5,
    "sampling_params": {"max_completions_tokens": 4, "temperature": 0.5, "seed": 1, "top_p": 0.5},
}
_SIMILAR = {
    "type": "text_similarity",
    "name": "near",
    "evaluation_metric": "rouge_l",
    "input": "{{item.a}}",
    "reference": "b",
    "pass_threshold": 0.5,
}
_LABEL = {
    "type": "label_model",
    "name": "label",
    "model": MODEL,
    "input": [{"role": "user", "content": "{{item.a}}"}],
    "labels": ["good", "bad"],
    "passing_labels": ["good"],
}
_FUNCTION = {"name": "act", "description": "Acts.", "parameters": _SCHEMA, "strict": True}
_CALL = {"id": "call_1", "type": "function", "function": {"name": "act", "arguments": '{"a": "b"}'}}
_ROWS = {"type": "file_content", "content": [{"item": {"a": "b"}, "sample": {"output_text": "b"}}]}

#: Good bodies that use as much of each route as one body can.
RICH: list[tuple[str, dict[str, Any]]] = [
    (
        "/v1/chat/completions",
        {
            "model": MODEL,
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "ann"},
                {"role": "assistant", "content": None, "tool_calls": [_CALL]},
                {"role": "tool", "content": [{"type": "text", "text": "done"}], "tool_call_id": "call_1"},
            ],
            "tools": [{"type": "function", "function": _FUNCTION}],
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "act"}}]},
            },
            "parallel_tool_calls": False,
            "logprobs": True,
            "top_logprobs": 2,
            "logit_bias": {"1": 5},
            "stop": ["x"],
            "n": 2,
            "seed": 1,
            "temperature": 0.5,
            "top_p": 0.9,
            "max_completion_tokens": 4,
            "stream_options": {"include_usage": True},
            "metadata": {"a": "b"},
            "reasoning_effort": "low",
            "verbosity": "low",
            "service_tier": "auto",
            "store": False,
            "prediction": {"type": "content", "content": "a"},
            "web_search_options": {"search_context_size": "low"},
            "modalities": ["text"],
            "functions": [_FUNCTION],
            "function_call": "auto",
            "chat_template_kwargs": {"a": 1},
        },
    ),
    (
        "/v1/chat/completions",
        {
            "model": MODEL,
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}
            ],
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": _SCHEMA, "strict": True}},
            "tools": [
                {"type": "custom", "custom": {"name": "act", "format": {"type": "grammar", "grammar": {"syntax": "lark"}}}}
            ],
            "tool_choice": {"type": "function", "function": {"name": "act"}},
            "max_tokens": 4,
        },
    ),
    (
        "/v1/completions",
        {
            "model": MODEL,
            "prompt": ["a", "b"],
            "suffix": "c",
            "echo": True,
            "logprobs": 2,
            "best_of": 2,
            "n": 1,
            "max_tokens": 4,
            "stop": ["x"],
            "logit_bias": {"1": 5},
            "stream_options": {"include_usage": True},
        },
    ),
    (
        "/v1/responses",
        {
            "model": MODEL,
            "input": [
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
                {"role": "assistant", "content": [{"type": "output_text", "text": "Yes", "annotations": []}], "id": "msg_1"},
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}], "content": [], "id": "rs_1"},
                {"type": "function_call", "call_id": "call_1", "name": "act", "arguments": "{}", "id": "fc_1"},
                {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "done"}]},
                {"type": "custom_tool_call", "call_id": "call_2", "name": "say", "input": "a"},
                {"type": "custom_tool_call_output", "call_id": "call_2", "output": "b"},
                {
                    "role": "user",
                    "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"}],
                },
            ],
            "instructions": "Be brief.",
            "tools": [
                {"type": "function", **_FUNCTION},
                {"type": "custom", "name": "say", "description": "Says.", "format": {"type": "text"}},
            ],
            "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "act"}]},
            "text": {"format": {"type": "text"}, "verbosity": "low"},
            "reasoning": {"effort": "low", "summary": "auto"},
            "include": ["message.output_text.logprobs"],
            "metadata": {"a": "b"},
            "max_output_tokens": 16,
            "top_logprobs": 1,
            "truncation": "auto",
            "stream_options": {"include_obfuscation": False},
            "prompt": {"id": "pmpt_1", "variables": {"a": "b"}},
            "context_management": [{"type": "compaction"}],
        },
    ),
    (
        "/v1/responses",
        {
            "model": MODEL,
            "input": "Hi",
            "text": {"format": {"type": "json_schema", "name": "a", "schema": _SCHEMA, "strict": True}},
            "conversation": {"id": "conv_1"},
            "max_output_tokens": 16,
        },
    ),
    (
        "/v1/responses/input_tokens",
        {"model": MODEL, "input": [{"role": "user", "content": "Hi"}], "tools": [{"type": "function", **_FUNCTION}]},
    ),
    (
        "/v1/conversations",
        {
            "items": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
            "metadata": {"a": "b"},
        },
    ),
    (
        "/v1/messages",
        {
            "model": MODEL,
            "max_tokens": 4,
            "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "act", "input": {"a": "b"}}]},
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "ok"}]}],
                },
            ],
            "tools": [{"name": "act", "description": "Acts.", "input_schema": _SCHEMA}],
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "metadata": {"user_id": "a"},
            "stop_sequences": ["x"],
            "temperature": 0.5,
            "top_k": 5,
        },
    ),
    (
        "/v1/messages",
        {
            "model": MODEL,
            "max_tokens": 4,
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}],
                }
            ],
        },
    ),
    ("/v1/messages/count_tokens", {"model": MODEL, "messages": SAID, "tools": [{"name": "act", "input_schema": _SCHEMA}]}),
    ("/v1/embeddings", {"model": MODEL, "input": ["a", "b"], "dimensions": 8, "encoding_format": "base64", "user": "a"}),
    ("/v1/rerank", {"model": MODEL, "query": "a", "documents": ["a", {"text": "b"}], "top_n": 1, "return_documents": True}),
    (
        "/v1/evals",
        {
            "name": "a",
            "metadata": {"a": "b"},
            "data_source_config": {"type": "custom", "item_schema": _SCHEMA, "include_sample_schema": True},
            "testing_criteria": [_CHECK, _JUDGE, _SIMILAR, _LABEL],
        },
    ),
    (
        "/v1/fine_tuning/alpha/graders/validate",
        {"grader": {"type": "multi", "name": "m", "graders": {"a": _CHECK}, "calculate_output": "a"}},
    ),
    ("/v1/fine_tuning/alpha/graders/validate", {"grader": _JUDGE}),
    ("/v1/fine_tuning/alpha/graders/run", {"grader": _SIMILAR, "item": {"a": "b"}, "model_sample": "b"}),
    ("/v1/fine_tuning/alpha/graders/run", {"grader": _CHECK, "item": {"a": "b"}, "model_sample": '{"a": "b"}'}),
    (
        "/v1/fine_tuning/jobs",
        {
            "model": "none",
            "training_file": "file-none",
            "validation_file": "file-none",
            "method": {
                "type": "reinforcement",
                "reinforcement": {"grader": _CHECK, "hyperparameters": {"n_epochs": 1, "batch_size": "auto"}},
            },
            "suffix": "a",
            "seed": 1,
            "metadata": {"a": "b"},
            "integrations": [{"type": "wandb", "wandb": {"project": "a"}}],
        },
    ),
    (
        "/v1/batches",
        {"input_file_id": "file-none", "endpoint": "/v1/completions", "completion_window": "24h", "metadata": {"a": "b"}},
    ),
    (
        "/v1/uploads",
        {
            "bytes": 4,
            "filename": "a.txt",
            "mime_type": "text/plain",
            "purpose": "user_data",
            "expires_after": {"anchor": "created_at", "seconds": 3600},
        },
    ),
    ("/v1/tasks/text-generation", {"model": MODEL, "input": {"prompt": "a", "max_tokens": 4}}),
    ("/api/budgets", {"metric": "tokens", "period": "day", "amount": 10**12, "scope": "model", "subject": "none"}),
    ("/api/limits", {"metric": "requests", "amount": 10**6, "scope": "model", "subject": "none"}),
    ("/api/prices", {"model": "none", "input": 1, "cached": 1, "output": 1, "valid_from": "2099-01-01T00:00:00Z"}),
    ("/api/keys", {"name": "a", "scopes": ["read"], "expires_at": "2099-01-01T00:00:00Z", "ip_allow": ["10.0.0.0/8"]}),
    ("/api/compare", {"a": "tiny@v1", "b": "tiny@v1"}),
    ("/api/gate", {"model": MODEL, "rules": []}),
    (
        "/api/runs",
        {
            "verb": "train",
            "capability": "text",
            "task": "text-generation",
            "inputs": {"train": "none"},
            "params": {"steps": 1},
            "resources": {"cpu": 1},
        },
    ),
]
#: Of those, the ones that are put.
PUT = frozenset({"/api/budgets", "/api/limits", "/api/gate"})

_WRONG: list[Any] = [
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    -(2**63) - 1,
    1.5,
    1e308,
    "",
    "a",
    "\x00",
    "\ud7ff\uffff",
    "{{",
    "{{item.a}}",
    "a" * 2000,
    "2026-13-45T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
    [],
    [None],
    [[]],
    ["a"],
    [{}],
    {},
    {"type": "text"},
    {"a": {}},
    {"": None},
]


def bent(body: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """The body with one to three of its places, at any depth, replaced, removed or doubled."""
    made = copy.deepcopy(body)
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        places = list(_places(made))
        if not places:
            break
        holder, key = chance.choice(places)
        how = chance.random()
        if how < 0.15:
            del holder[key]
        elif how < 0.25 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif how < 0.35:
            other, theirs = chance.choice(places)
            holder[key] = copy.deepcopy(other[theirs])
        else:
            holder[key] = copy.deepcopy(chance.choice(_WRONG))
    return made


def _places(node: Any) -> Any:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(items):
        yield node, key
        yield from _places(value)
