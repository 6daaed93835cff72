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

_CLEANING = {
    "duplicates": True,
    "similarity": 0.9,
    "boilerplate_share": 0.5,
    "boilerplate_documents": 2,
    "personal_data": {"email": "mask", "phone": "drop", "id_number": "keep", "bank_card": "mask", "iban": "mask"},
    "languages": ["en", "zh"],
    "min_chars": 3,
    "max_symbol_share": 0.5,
    "licences": ["mit", "cc-by-*", "unknown"],
}
_SETTINGS = {
    "language_model": MODEL,
    "cleaning": _CLEANING,
    "chunking_strategy": {"type": "auto"},
    "answering": {"unsupported": "mark", "passages": 4, "least_coverage": 0.3, "keep_days": 1.5},
    "learning": {
        "automatic": False,
        "every_h": 24,
        "max_steps": 1,
        "max_samples": 10,
        "max_questions": 1,
        "test_share": 0.5,
        "max_answers": 1,
        "general": None,
        "metric": None,
        "tainted": "keep",
        "training": {"rank": 2},
    },
}
_FILTER = {
    "type": "or",
    "filters": [
        {"type": "eq", "key": "year", "value": 2026},
        {"type": "and", "filters": [{"type": "in", "key": "a", "value": ["b", 1]}, {"type": "ne", "key": "c", "value": True}]},
    ],
}
_DIALOGUE = [
    {"role": "user", "content": "Which departments are there?"},
    {"role": "assistant", "content": "Three."},
    {"role": "user", "content": "With which word does the safe of department 2 open?"},
]
_DEFAULTS = {"licence": "mit", "owner": "ann", "access": ["usr_1"]}
#: One of each kind that documents come from; none of the addresses answers.
_SOURCES: list[dict[str, Any]] = [
    {"kind": "archive", "digest": "$digest", "name": "a.zip", "include": ["*.md", "docs/**"], "exclude": ["[a-"]},
    {"kind": "folder", "uri": "file:///nowhere/at/all", "include": ["*.md"], "limits": {"max_documents": 10}},
    {"kind": "web", "uri": "http://127.0.0.1:9/a", "mode": "crawl", "prefix": "http://127.0.0.1:9/", "max_pages": 2},
    {"kind": "feed", "uri": "http://127.0.0.1:9/feed", "follow": True},
    {"kind": "s3", "uri": "s3://bucket/prefix", "include": ["*.pdf"]},
    {"kind": "git", "uri": "http://127.0.0.1:9/a.git", "revision": "main"},
    {"kind": "mbox", "digest": "$digest", "attachments": False},
    {"kind": "imap", "host": "127.0.0.1", "port": 9, "user": "a", "secret": "none", "since": "2026-01-01"},
    {
        "kind": "sql",
        "dialect": "sqlite",
        "digest": "$digest",
        "tables": [{"name": "t", "columns": ["a"], "key": ["a"], "template": "{a} {b}", "title": "{a}", "access": "a"}],
        "max_rows": 10,
        "timeout_s": 5,
    },
    {"kind": "rest", "uri": "http://127.0.0.1:9/", "items": "a.b", "template": "{a}", "paging": {"kind": "next", "field": "n"}},
]
#: Calls of our tools at /mcp.
_CALLS: list[tuple[str, dict[str, Any]]] = [
    ("chat", {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "temperature": 0.5, "seed": 1}),
    ("complete", {"model": MODEL, "prompt": "a", "max_tokens": 4, "stop": ["x"]}),
    ("search_space", {"space": "guide", "query": "safe", "limit": 3}),
    ("search_models", {"search": "a", "limit": 3}),
    ("show_model", {"ref": "tiny@v1"}),
    ("list_runs", {"limit": 3}),
    ("moderate", {"texts": ["a"], "model": MODEL}),
    ("compare_models", {"a": "tiny@v1", "b": "tiny@v1"}),
]
_HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "a", "version": "1"}}

#: Good bodies that use as much of each route as one body can; `$name` stands for what `filled` is told.
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
    ("/v1/conversations/{conversation_id}/items", {"items": [{"type": "message", "role": "user", "content": "Hi"}]}),
    (
        "/v1/responses",
        {
            "model": MODEL,
            "input": "With which word does the safe open?",
            "tools": [
                {
                    "type": "file_search",
                    "vector_store_ids": ["$vector_store_id"],
                    "max_num_results": 3,
                    "ranking_options": {"ranker": "auto", "score_threshold": 0.1},
                    "filters": {"type": "and", "filters": [{"type": "gte", "key": "year", "value": 2020}]},
                }
            ],
            "tool_choice": {"type": "file_search"},
            "include": ["file_search_call.results"],
            "max_tool_calls": 1,
            "max_output_tokens": 16,
        },
    ),
    ("/v1/responses", {"model": "space:guide", "input": "With which word does the safe of department 2 open?"}),
    ("/v1/chat/completions", {"model": "space:guide", "messages": SAID, "stream_options": {"include_usage": True}}),
    ("/v1/messages", {"model": "space:guide", "messages": SAID, "max_tokens": 64}),
    (
        "/v1/vector_stores",
        {
            "name": "guide",
            "description": "a",
            "file_ids": ["$file_id"],
            "chunking_strategy": {"type": "static", "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 50}},
            "expires_after": {"anchor": "last_active_at", "days": 7},
            "metadata": {"a": "b"},
        },
    ),
    ("/v1/vector_stores/{vector_store_id}", {"name": "b", "expires_after": None, "metadata": {"a": "b"}}),
    ("/v1/vector_stores/{vector_store_id}/files", {"file_id": "$file_id", "attributes": {"a": "b", "c": 1, "d": True}}),
    ("/v1/vector_stores/{vector_store_id}/files/{file_id}", {"attributes": {"a": "b", "c": 1.5}}),
    ("/v1/vector_stores/{vector_store_id}/file_batches", {"files": [{"file_id": "$file_id", "attributes": {"a": "b"}}]}),
    ("/v1/vector_stores/{vector_store_id}/search", {"query": ["safe", "word"], "max_num_results": 5, "filters": _FILTER}),
    (
        "/v1/vector_stores/{vector_store_id}/search",
        {"query": "With which word?", "rewrite_query": True, "ranking_options": {"ranker": "none", "score_threshold": 0.1}},
    ),
    (
        "/api/spaces",
        {
            "name": "another",
            "description": "a",
            "metadata": {"a": "b"},
            "expires_after_days": 7,
            "settings": {**_SETTINGS, "parsing": {"passage_chars": 800}, "index": {}, "reranker": None, "encoder": None},
        },
    ),
    ("/api/spaces/{space}", {"description": "b", "metadata": {"a": "b"}, "expires_after_days": 0, "settings": _SETTINGS}),
    (
        "/api/spaces/{space}/documents",
        {
            "digest": "$digest",
            "name": "folder/a.md",
            "key": "a",
            "media_type": "text/markdown",
            "attributes": {"a": "b", "year": 2026},
            "licence": "mit",
            "owner": "ann",
            "access": ["usr_1"],
            "expires_at": "2099-01-01T00:00:00Z",
        },
    ),
    ("/api/spaces/{space}/documents", {"file_id": "$file_id"}),
    (
        "/api/spaces/{space}/documents/{document_id}",
        {"name": "b.md", "attributes": {"a": 1}, "licence": "mit", "access": [], "expires_at": "2099-01-01T00:00:00Z"},
    ),
    ("/api/spaces/{space}/cleaning/preview", {"cleaning": _CLEANING}),
    (
        "/api/spaces/{space}/publications",
        {
            "name": "b",
            "origins": ["https://shop.example", "http://[::1]:8080"],
            "share": True,
            "title": "a",
            "greeting": "b",
            "language": "zh",
            "requests_per_minute": 10,
            "requests_per_minute_per_address": 5,
            "expires_at": "2099-01-01T00:00:00Z",
        },
    ),
    *(
        ("/api/spaces/{space}/sources", {"source": each, "defaults": _DEFAULTS, "schedule": {"every_s": 3600}})
        for each in _SOURCES
    ),
    (
        "/api/spaces/{space}/sources/{source_id}",
        {"is_paused": True, "defaults": _DEFAULTS, "schedule": {"daily_at": "03:30"}, "source": _SOURCES[0]},
    ),
    ("/api/spaces/{space}/sources/{source_id}/sync", {"dry_run": True, "allow_empty": True}),
    ("/embed/{publication}/ask", {"messages": _DIALOGUE, "parent": "$parent"}),
    (
        "/embed/{publication}/feedback",
        {
            "ticket": "$ticket",
            "question": "$question",
            "answer": "$answer",
            "status": "$status",
            "documents": "$documents",
            "rating": "down",
            "correction": "It is cobalt.",
        },
    ),
    (
        "/api/mcp-servers/{name}",
        {
            "url": "$mcp_url",
            "description": "a",
            "authorization_secret": "$mcp_secret",
            "header_secrets": {"x-a": "$mcp_secret"},
            "allowed_tools": {"tool_names": ["list_models"], "read_only": True},
            "require_approval": {"never": {"tool_names": ["list_models"]}},
            "timeout_s": 5,
        },
    ),
    *(
        ("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}})
        for name, arguments in _CALLS
    ),
    ("/mcp", {"jsonrpc": "2.0", "id": "a", "method": "initialize", "params": _HELLO}),
    ("/mcp", {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {"cursor": "a", "_meta": {"progressToken": 1}}}),
    ("/api/organisations", {"name": "a"}),
    ("/api/projects", {"name": "a"}),
]
#: Of those, the ones that are put, and those that change what is there.
PUT = frozenset({"/api/budgets", "/api/limits", "/api/gate", "/api/mcp-servers/{name}"})
PATCH = frozenset(
    {"/api/spaces/{space}", "/api/spaces/{space}/documents/{document_id}", "/api/spaces/{space}/sources/{source_id}"}
)

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


def filled(node: Any, known: dict[str, Any]) -> Any:
    """The body with what `$name` stands for in it."""
    if isinstance(node, dict):
        return {key: filled(value, known) for key, value in node.items()}
    if isinstance(node, list):
        return [filled(value, known) for value in node]
    return known.get(node[1:], node) if isinstance(node, str) and node.startswith("$") else node


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
