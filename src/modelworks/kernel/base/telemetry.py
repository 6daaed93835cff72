"""Logs, metrics and traces: structured lines on stderr without secrets, Prometheus, OpenTelemetry when configured."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from modelworks.contract.errors import MissingExtra
from modelworks.kernel.base.settings import Settings

# Metrics

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

HTTP_REQUESTS = Counter("modelworks_http_requests", "Answered HTTP requests.", ["method", "route", "status"], registry=REGISTRY)
HTTP_DURATION = Histogram(
    "modelworks_http_request_duration_seconds",
    "Time to the end of the answer.",
    ["method", "route"],
    buckets=(0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300),
    registry=REGISTRY,
)
TOKENS = Counter(
    "modelworks_tokens",
    "Tokens, by deployment and kind (prompt, completion, cached, reasoning).",
    ["deployment", "kind"],
    registry=REGISTRY,
)
WAITING = Gauge(
    "modelworks_requests_waiting", "Requests that wait for a deployment that is loading or full.", registry=REGISTRY
)
OVERLOADED = Counter(
    "modelworks_requests_overloaded", "Requests refused because a deployment and its queue were full.", registry=REGISTRY
)
RUNS = Gauge("modelworks_runs", "Runs, by state.", ["state"], registry=REGISTRY)
REPLICAS = Gauge("modelworks_replicas", "Replicas, by state.", ["state"], registry=REGISTRY)
ABORTED_TOKENS_SAVED = Counter(
    "modelworks_aborted_tokens_saved", "Tokens that were not generated because the client had gone.", registry=REGISTRY
)

METRICS_MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics_response() -> bytes:
    """Every metric in Prometheus' text form (`METRICS_MEDIA_TYPE`)."""
    return generate_latest(REGISTRY)


# Logs

_SECRET = re.compile(r"\bmw-([0-9A-Za-z]{6})[0-9A-Za-z]{14,}")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[0-9A-Za-z._~+/=-]{8,}")
_PASSWORD = re.compile(r"(://[^/\s:@]+:)[^/\s@]+@")
_SECRET_NAMES = frozenset(
    {"authorization", "x-api-key", "api_key", "apikey", "password", "secret", "token", "cookie", "set-cookie", "signature"}
)


def redacted(value: Any) -> Any:
    """The value without API keys, authorization headers and passwords, however deep they are."""
    if isinstance(value, str):
        value = _SECRET.sub(r"mw-\1…", value)
        value = _BEARER.sub(r"\1 …", value)
        return _PASSWORD.sub(r"\1…@", value)
    if isinstance(value, Mapping):
        return {key: "…" if str(key).lower() in _SECRET_NAMES and item else redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(item) for item in value]
    if isinstance(value, bytes):
        return redacted(value.decode("utf-8", "replace"))
    if value is None or isinstance(value, bool | int | float):
        return value
    return redacted(str(value))


def _redact(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    kept = {key: event[key] for key in ("_record", "_from_structlog") if key in event}
    return {**redacted({key: item for key, item in event.items() if key not in kept}), **kept}


def _without_colours(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    # uvicorn sends every message a second time, with escape sequences in it.
    event.pop("color_message", None)
    return event


def configure_logging(settings: Settings) -> None:
    """Send our log and that of the libraries to stderr, as JSON lines or for people; bound context (`request_id`) goes along.

    `structlog.contextvars.bound_contextvars(request_id=…)` puts a field on every line of a request. Calling this again replaces
    what an earlier call set up.
    """
    level = getattr(logging, settings.log_level.upper())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        _without_colours,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        # Tracebacks become text here so that they are searched for secrets too.
        structlog.processors.format_exc_info,
        _redact,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for chatty in ("httpx", "httpcore", "botocore", "aiobotocore", "s3fs", "fsspec", "alembic", "asyncio", "urllib3"):
        logging.getLogger(chatty).setLevel(max(level, logging.WARNING))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


# Traces

_tracer: Any = None

Attribute = str | int | float | bool


def setup_tracing(settings: Settings) -> Callable[[], None]:
    """Send spans to `settings.otlp_endpoint`; returns a function that sends what waits and ends it.

    Without an endpoint nothing is imported and `span` costs next to nothing.

    Raises:
        MissingExtra: an endpoint is set, but the extra `otel` is not installed.
    """
    global _tracer
    if not settings.otlp_endpoint:
        return lambda: None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise MissingExtra.of("opentelemetry-sdk", "otel") from error
    provider = TracerProvider(resource=Resource.create({"service.name": "modelworks"}), shutdown_on_exit=False)
    endpoint = settings.otlp_endpoint.rstrip("/")
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint if endpoint.endswith("/v1/traces") else f"{endpoint}/v1/traces"))
    )
    # The provider stays ours: OpenTelemetry's global one can be set only once in a process.
    _tracer = provider.get_tracer("modelworks")

    def shut_down() -> None:
        global _tracer
        _tracer = None
        provider.shutdown()

    return shut_down


def is_tracing() -> bool:
    """Whether spans go anywhere."""
    return _tracer is not None


@contextmanager
def span(
    name: str,
    *,
    kind: Literal["internal", "server"] = "internal",
    parent: Mapping[str, str] | None = None,
    **attributes: Attribute,
) -> Iterator[None]:
    """A span around the block, when tracing is set up; an exception marks it as failed and passes.

    Args:
        parent: headers of a request that may carry a W3C `traceparent`: the caller's trace is continued.
    """
    if _tracer is None:
        yield
        return
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = None if parent is None else TraceContextTextMapPropagator().extract(dict(parent))
    kinds = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER}
    with _tracer.start_as_current_span(name, context=context, kind=kinds[kind], attributes=attributes):
        yield


def annotate(**attributes: Attribute) -> None:
    """Say something about the span in progress; dots in names are written as double underscores (`gen_ai__system`)."""
    if _tracer is None:
        return
    from opentelemetry.trace import get_current_span

    current = get_current_span()
    for name, value in attributes.items():
        current.set_attribute(name.replace("__", "."), value)


def trace_headers() -> dict[str, str]:
    """The W3C headers that let the next server continue the span in progress; empty without tracing."""
    if _tracer is None:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    return headers
