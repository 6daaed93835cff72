"""A server that speaks just enough of OpenAI's protocol: `python -m serving_toys.openai_server PORT [LOAD_S]`.

It keeps adapters: `/v1/load` and `/v1/unload` with a name and a greeting.
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STARTED = time.monotonic()
LOAD_S = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
ADAPTERS: dict[str, str] = {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer(200 if time.monotonic() - STARTED >= LOAD_S else 503, {})
        elif self.path == "/v1/models":
            wanted = os.environ.get("TOY_KEY")
            allowed = wanted is None or self.headers.get("Authorization") == f"Bearer {wanted}"
            self._answer(200 if allowed else 401, {"object": "list", "data": [{"id": "inner-name"}]})
        else:
            self._answer(404, {"error": {"message": "no"}})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/load":
            ADAPTERS[request["name"]] = request["greeting"]
            self._answer(200, {})
            return
        if self.path == "/v1/unload":
            ADAPTERS.pop(request["name"])
            self._answer(200, {})
            return
        model = request["model"]
        if model.startswith("mdl_") and model not in ADAPTERS:
            self._answer(404, {"error": {"message": f"no model {model}"}})
            return
        greeting = ADAPTERS.get(model, os.environ.get("TOY_GREETING"))
        time.sleep(request.get("delay_s", 0.0))
        told = {"model": model, "greeting": greeting, "pid": os.getpid(), "adapters": sorted(ADAPTERS.values())}
        self._answer(200, told | {"authorization": self.headers.get("Authorization")})

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
