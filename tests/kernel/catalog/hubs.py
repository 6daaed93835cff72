"""A small server on this machine that speaks what the two hubs' own clients ask for, and breaks off when told to."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """One repository `org/tiny`."""

    files: dict[str, bytes]
    licence: str = "apache-2.0"
    url: str = ""
    #: Paths of requests that had a body, with their Range header.
    gets: list[tuple[str, str | None]] = field(default_factory=list)
    #: File -> number of bytes after which the connection breaks, once.
    break_after: dict[str, int] = field(default_factory=dict)
    #: File -> bytes that are sent instead of those announced.
    tampered: dict[str, bytes] = field(default_factory=dict)

    def large(self, path: str) -> bool:
        return path.endswith((".safetensors", ".bin"))

    def etag(self, path: str) -> str:
        data = self.files[path]
        if self.large(path):
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def hf_info(self) -> dict[str, object]:
        siblings = []
        for path, data in self.files.items():
            entry: dict[str, object] = {"rfilename": path, "size": len(data)}
            if self.large(path):
                sha256 = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 130}
            else:
                entry["blobId"] = self.etag(path)
            siblings.append(entry)
        return {
            "id": "org/tiny",
            "modelId": "org/tiny",
            "sha": COMMIT,
            "private": False,
            "tags": ["safetensors", f"license:{self.licence}"],
            "pipeline_tag": "text-generation",
            "siblings": siblings,
        }

    def ms_files(self) -> dict[str, object]:
        files = [
            {"Path": path, "Name": path, "Type": "blob", "Size": len(data), "Sha256": hashlib.sha256(data).hexdigest()}
            for path, data in self.files.items()
        ]
        return {"Code": 200, "Success": True, "Data": {"Files": files}}


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            url = urlsplit(self.path)
            path = unquote(url.path)
            query = parse_qs(url.query)
            if path in (
                "/api/models/org/tiny",
                f"/api/models/org/tiny/revision/{COMMIT}",
                "/api/models/org/tiny/revision/main",
            ):
                return self.send_json(hub.hf_info(), body=body)
            if path.startswith("/org/tiny/resolve/"):
                return self.send_file(path.removeprefix("/org/tiny/resolve/").partition("/")[2], body=body)
            if path in ("/openapi/v1/models/org/tiny", "/api/v1/models/org/tiny"):
                data = {"id": "org/tiny", "license": hub.licence, "tasks": ["text-generation"]}
                return self.send_json({"success": True, "data": data, "Code": 200, "Data": data}, body=body)
            if path == "/api/v1/models/org/tiny/repo/files":
                return self.send_json(hub.ms_files(), body=body)
            if path == "/api/v1/models/org/tiny/repo":
                return self.send_file(query["FilePath"][0], body=body)
            return self.send_json({"error": "not found", "Code": 404, "Message": "not found"}, status=404, body=body)

        def send_json(self, value: object, *, status: int = 200, body: bool) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            if body:
                self.wfile.write(data)

        def send_file(self, name: str, *, body: bool) -> None:
            if name not in hub.files:
                return self.send_json({"error": "no such file"}, status=404, body=body)
            data = hub.tampered.get(name, hub.files[name])
            given = self.headers.get("Range")
            start, stop = 0, len(data)
            if given:
                first, _, last = given.removeprefix("bytes=").partition("-")
                start = int(first)
                stop = min(stop, int(last) + 1) if last else stop
            if body:
                hub.gets.append((name, given))
            self.send_response(206 if given else 200)
            self.send_header("Content-Length", str(stop - start))
            self.send_header("ETag", f'"{hub.etag(name)}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Accept-Ranges", "bytes")
            if given:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
            self.end_headers()
            if not body:
                return None
            limit = hub.break_after.pop(name, None)
            if limit is not None:
                self.wfile.write(data[start : start + limit])
                self.wfile.flush()
                self.connection.close()
                self.close_connection = True
                return None
            self.wfile.write(data[start:stop])
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
