"""A server elsewhere that speaks OpenAI's protocol and answers when the test lets it."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


def _event(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "1", "object": "chat.completion.chunk", "model": "slow", "choices": [choice]}).encode()


class SlowUpstream:
    """Streams end once `let_go` is set; answers in one piece come at once."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.num_asked = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.let_go.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            def _json(self, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                self._json({"object": "list", "data": []})

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                upstream.num_asked += 1
                if not asked.get("stream"):
                    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
                    message = {"role": "assistant", "content": "done"}
                    choice = {"index": 0, "message": message, "finish_reason": "stop"}
                    self._json({"object": "chat.completion", "model": "slow", "choices": [choice], "usage": usage})
                    return
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                self.wfile.write(_event("begun ") + b"\n\n")
                self.wfile.flush()
                upstream.let_go.wait(60)
                self.wfile.write(_event("done", "stop") + b"\n\ndata: [DONE]\n\n")

            def log_message(self, *_arguments: Any) -> None:
                return

        return Handler
