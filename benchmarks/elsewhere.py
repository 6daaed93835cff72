"""A small server elsewhere, for benchmarks: tools over MCP, and a model that refuses over OpenAI's protocol."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

_SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
#: Named by what comes of calling them.
TOOLS = ("look", "fail", "break")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is said."""

    def do_GET(self) -> None:
        self._send(200, json.dumps({"object": "list", "data": [{"id": "refusing", "object": "model"}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path.startswith("/v1/"):
            self._refuse(bool(body.get("stream")))
        else:
            self._serve_tools(body)

    def _send(self, status: int, content: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _serve_tools(self, body: dict[str, Any]) -> None:
        method = body["method"]
        if method == "notifications/initialized":
            self._send(202, b"")
        elif method == "initialize":
            info = {"name": "elsewhere", "version": "1"}
            result = {"protocolVersion": body["params"]["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": info}
            self._answer(body, result=result)
        elif method == "tools/list":
            hints = {"readOnlyHint": True}
            listed = [{"name": name, "description": "Acts.", "inputSchema": _SCHEMA, "annotations": hints} for name in TOOLS]
            self._answer(body, result={"tools": listed})
        elif method == "tools/call" and body["params"]["name"] == "look":
            self._answer(body, result={"content": [{"type": "text", "text": "seen"}]})
        elif method == "tools/call" and body["params"]["name"] == "fail":
            self._answer(body, result={"content": [{"type": "text", "text": "failed"}], "isError": True})
        elif method == "tools/call":
            self._answer(body, error={"code": -32603, "message": "broken"})
        else:
            # It speaks the form with a handshake alone.
            self._send(404, b"{}")

    def _answer(self, body: dict[str, Any], **said: Any) -> None:
        self._send(200, json.dumps({"jsonrpc": "2.0", "id": body["id"], **said}).encode())

    def _refuse(self, stream: bool) -> None:
        head = {"id": "x", "created": 1, "model": "refusing"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        if not stream:
            message = {"role": "assistant", "content": None, "refusal": "No."}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            self._send(200, json.dumps(whole).encode())
            return
        choices: list[list[dict[str, Any]]] = [
            [{"index": 0, "delta": {"role": "assistant", "refusal": "No."}, "finish_reason": None}],
            [{"index": 0, "delta": {}, "finish_reason": "stop"}],
            [],
        ]
        chunks = [{**head, "object": "chat.completion.chunk", "choices": each} for each in choices]
        chunks[-1]["usage"] = usage
        events = [f"data: {json.dumps(each)}\n\n" for each in chunks]
        self._send(200, "".join([*events, "data: [DONE]\n\n"]).encode(), "text/event-stream")


class Elsewhere:
    """Listens on a free port of this machine, from entering to leaving."""

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
