"""Traces: one span per request, with the model and its tokens, continuing the caller's trace and continued by the replica."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.kernel.gateway.conftest import Stage

from modelworks.kernel.base import telemetry
from modelworks.kernel.gateway.errors import REQUEST_ID

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


async def test_a_request_is_a_span_of_the_callers_trace(stage: Stage, spans: InMemorySpanExporter) -> None:
    answer = await stage.client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hi"}],
        extra_headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"},
    )
    assert answer.usage is not None
    (span,) = spans.get_finished_spans()
    assert span.attributes is not None
    said = dict(span.attributes)
    assert f"{span.context.trace_id:032x}" == TRACE
    assert said["http.route"] == "/v1/chat/completions"
    assert said["http.response.status_code"] == 200
    assert said["gen_ai.request.model"] == "tiny"
    assert said["gen_ai.usage.input_tokens"] == answer.usage.prompt_tokens
    assert said["gen_ai.usage.output_tokens"] == answer.usage.completion_tokens
    assert said[REQUEST_ID] == answer._request_id
    # Never what was said.
    assert "hi" not in {str(value) for value in said.values()}


async def test_a_stream_is_one_span_to_its_end(stage: Stage, spans: InMemorySpanExporter) -> None:
    stream = await stage.client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}], stream=True)
    assert [chunk async for chunk in stream]
    (span,) = spans.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["gen_ai.usage.output_tokens"]


async def test_the_upstream_can_continue_the_trace(stage: Stage, spans: InMemorySpanExporter) -> None:
    await stage.client.chat.completions.create(model="remote/gpt", messages=[{"role": "user", "content": "hi"}])
    (span,) = spans.get_finished_spans()
    ((_, _, headers),) = stage.upstream.requests
    assert {name.lower(): value for name, value in headers.items()}["traceparent"].split("-")[
        1
    ] == f"{span.context.trace_id:032x}"


async def test_without_tracing_nothing_is_added(stage: Stage) -> None:
    await stage.client.chat.completions.create(model="remote/gpt", messages=[{"role": "user", "content": "hi"}])
    ((_, _, headers),) = stage.upstream.requests
    assert "traceparent" not in {name.lower() for name in headers}
