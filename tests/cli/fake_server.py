"""A real HTTP server on a free port whose answers a test writes down, route by route, and that remembers what it was asked."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """What to send back: JSON, bytes, or an iterable of pieces that are sent one by one, then the connection is closed."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def refusal(status: int, code: str, message: str, hint: str | None = None, **headers: str) -> Answer:
    """An error in the form in which the server sends it."""
    text = message if hint is None else f"{message} {hint}"
    error: dict[str, Any] = {"message": text, "type": "invalid_request_error", "param": None, "code": code}
    if hint is not None:
        error["hint"] = hint
    return Answer({"error": error}, status, {name.replace("_", "-"): value for name, value in headers.items()})


def page(data: list[Any], *, has_more: bool = False) -> dict[str, Any]:
    """A list as the server sends it."""
    last = data[-1].get("id") if data else None
    return {"object": "list", "data": data, "has_more": has_more, "first_id": None, "last_id": last}


def sse(*events: dict[str, Any], done: bool = True) -> list[bytes]:
    """Server-sent events with a keep-alive comment before them."""
    lines = [b": keep-alive\n\n", *(f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode() for event in events)]
    return [*lines, b"data: [DONE]\n\n"] if done else lines


Handler = Callable[[Asked], Any]


class FakeServer:
    """Routes are given with `on(method, pattern)`; the newest that fits answers. Use as a context manager."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.hung_up = threading.Event()
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = []
        outer = self

        class Requests(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def handle_one(self) -> None:
                outer._serve(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = handle_one  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> FakeServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def on(self, method: str, pattern: str, answer: Any) -> None:
        """Answer requests whose whole path fits `pattern` with a value, or with what a function of the request returns."""
        handler: Handler = answer if callable(answer) else lambda _asked: answer
        self._routes.insert(0, (method, re.compile(pattern), handler))

    def calls(self, method: str, path: str) -> list[Asked]:
        """The requests with that method and path."""
        return [asked for asked in self.asked if (asked.method, asked.path) == (method, path)]

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        body = _body(request)
        query = dict(parse_qsl(parts.query))
        headers = {name.lower(): value for name, value in request.headers.items()}
        asked = Asked(request.command, unquote(parts.path), query, headers, body)
        self.asked.append(asked)
        for method, pattern, handler in self._routes:
            if method == asked.method and pattern.fullmatch(asked.path):
                found = handler(asked)
                answer = found if isinstance(found, Answer) else Answer(found)
                break
        else:
            answer = refusal(404, "not_found", f"No route {asked.method} {asked.path}.")
        try:
            _send(request, answer)
        except (BrokenPipeError, ConnectionResetError):
            self.hung_up.set()


def _body(request: BaseHTTPRequestHandler) -> bytes:
    if request.headers.get("Transfer-Encoding") == "chunked":
        parts = []
        while size := int(request.rfile.readline(), 16):
            parts.append(request.rfile.read(size))
            request.rfile.readline()
        request.rfile.readline()
        return b"".join(parts)
    return request.rfile.read(int(request.headers.get("Content-Length") or 0))


def _send(request: BaseHTTPRequestHandler, answer: Answer) -> None:
    streamed = isinstance(answer.body, Iterable) and not isinstance(answer.body, bytes | str | dict)
    streamed = streamed and not (isinstance(answer.body, list) and answer.body and isinstance(answer.body[0], dict))
    request.send_response(answer.status)
    for name, value in answer.headers.items():
        request.send_header(name, value)
    if streamed:
        request.close_connection = True
        request.send_header("Connection", "close")
        request.end_headers()
        for piece in answer.body:
            request.wfile.write(piece)
            request.wfile.flush()
        return
    body = answer.body if isinstance(answer.body, bytes) else b"" if answer.body is None else json.dumps(answer.body).encode()
    if "Content-Length" not in answer.headers:
        request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)
