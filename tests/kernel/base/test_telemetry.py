"""Logs carry the request and no secret; metrics are readable; traces leave only when asked for."""

from __future__ import annotations

import builtins
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import structlog

from modelworks.contract.errors import MissingExtra
from modelworks.kernel.base import telemetry
from modelworks.kernel.base.settings import Settings

KEY = "mw-" + "A1b2C3d4" * 5 + "xyz"


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def configured(settings: Settings, **changes: Any) -> Settings:
    changed = settings.model_copy(update=changes)
    telemetry.configure_logging(changed)
    return changed


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_lines_carry_the_request(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    configured(settings, log_format="json")
    with structlog.contextvars.bound_contextvars(request_id="req_1"):
        structlog.get_logger("room").info("model loaded", model="模型", num_bytes=3)
        logging.getLogger("uvicorn").warning("from a %s", "library")
    structlog.get_logger("room").debug("too fine")
    ours, theirs = lines(capsys)
    assert (ours["event"], ours["model"], ours["num_bytes"]) == ("model loaded", "模型", 3)
    assert (ours["request_id"], ours["level"], ours["logger"]) == ("req_1", "info", "room")
    assert (theirs["event"], theirs["request_id"], theirs["level"]) == ("from a library", "req_1", "warning")


def test_a_library_s_coloured_copy_of_its_message_is_left_out(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    configured(settings, log_format="json")
    logging.getLogger("uvicorn.error").info("started", extra={"color_message": "\x1b[36mstarted\x1b[0m", "pid": 7})
    (line,) = lines(capsys)
    assert (line["event"], line["pid"]) == ("started", 7)
    assert "color_message" not in line


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_secrets_are_never_logged(settings: Settings, capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    configured(settings, log_format=log_format)
    log = structlog.get_logger("room")
    log.info(
        f"key {KEY}", authorization="abcdef", deep={"headers": [("x", f"Bearer {KEY}"), {"X-Api-Key": KEY}]}, raw=KEY.encode()
    )
    log.warning("url postgresql+psycopg://me:hunter22@db/x", error=ValueError(f"refused Basic {'c2VjcmV0OnNlY3JldA'}"))
    logging.getLogger("library").error("sent %s", KEY)
    try:
        raise RuntimeError(f"broke with {KEY}")
    except RuntimeError:
        log.exception("failed")
    written = capsys.readouterr().err
    assert "broke with mw-A1b2C3…" in written
    assert "Traceback" in written
    for secret in (KEY, KEY[9:], "abcdef", "hunter22", "c2VjcmV0"):
        assert secret not in written


def test_configuring_again_does_not_double_the_lines(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        configured(settings, log_format="json")
    structlog.get_logger("room").info("once")
    assert len(lines(capsys)) == 1


def test_metrics_are_readable() -> None:
    telemetry.HTTP_REQUESTS.labels("GET", "/x", "200").inc()
    telemetry.RUNS.labels("queued").set(3)
    text = telemetry.metrics_response().decode()
    assert 'modelworks_http_requests_total{method="GET",route="/x",status="200"}' in text
    assert 'modelworks_runs{state="queued"} 3.0' in text
    for name in ("request_duration_seconds", "tokens", "replicas", "aborted_tokens_saved"):
        assert f"{name}" in text


def test_spans_reach_the_collector(settings: Settings) -> None:
    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        shut_down = telemetry.setup_tracing(
            settings.model_copy(update={"otlp_endpoint": f"http://127.0.0.1:{server.server_port}"})
        )
        with pytest.raises(KeyError), telemetry.span("load model", model="chat"):
            raise KeyError("x")
        shut_down()
        with telemetry.span("after the end"):
            pass
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    ((path, body),) = received
    assert path == "/v1/traces"
    assert b"load model" in body
    assert b"after the end" not in body


def test_without_an_endpoint_nothing_is_imported(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_otel(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_otel)
    telemetry.setup_tracing(settings)()
    with telemetry.span("nothing"):
        pass
    with pytest.raises(MissingExtra) as caught:
        telemetry.setup_tracing(settings.model_copy(update={"otlp_endpoint": "http://127.0.0.1:1"}))
    assert "modelworks[otel]" in (caught.value.hint or "")
