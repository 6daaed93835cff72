"""What a source is given in tests, a site that answers as it is told, and what came out of a scan."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from modelworks.kernel.catalog.sources import SourcePolicy
from modelworks.kernel.dataspace.sources import SOURCE_FORM, Item, Source, Surroundings, open_source
from modelworks.kernel.dataspace.sources.forms import SourceLimits
from modelworks.kernel.storage import BlobStore

#: What a page gives: body, media type, further headers, status.
Page = tuple[bytes, str, dict[str, str], int]


def surroundings(tmp_path: Path, **changes: Any) -> Surroundings:
    """Of a source that may read this machine's addresses and everything below the test's folder but `home`."""
    workdir = tmp_path / "work"
    workdir.mkdir(exist_ok=True)
    policy = SourcePolicy(pull_roots=(tmp_path,), forbidden_roots=(tmp_path / "home",), egress_allow=("127.0.0.0/8",))
    given: dict[str, Any] = {
        "policy": policy,
        "limits": SourceLimits(),
        "workdir": workdir,
        "blobs": BlobStore(str(tmp_path / "blobs")),
        "is_cancelled": lambda: False,
    }
    return Surroundings(**(given | changes))


def opened(around: Surroundings, **form: Any) -> Source:
    """The source that a form describes."""
    return open_source(SOURCE_FORM.validate_python(form), around)


def listed(source: Source) -> dict[str, Item]:
    """Items by key, without their bytes."""
    found: dict[str, Item] = {}
    for item in source.scan():
        assert item.key not in found, f"{item.key} came twice"
        found[item.key] = item
    return found


def contents(source: Source) -> dict[str, bytes]:
    """Bytes by key of every item that has some."""
    return {item.key: b"".join(item.read()) for item in source.scan() if item.read is not None}


@dataclass
class Site:
    """Pages by path; `asked` holds the paths of requests with the headers that came with them."""

    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def put(self, path: str, body: str | bytes, media_type: str = "text/html", status: int = 200, **headers: str) -> None:
        content = body.encode() if isinstance(body, str) else body
        self.pages[path] = (content, media_type, {name.replace("_", "-"): value for name, value in headers.items()}, status)

    def paths(self) -> list[str]:
        """What was asked for but robots.txt."""
        return [path for path, _ in self.asked if path != "/robots.txt"]


@contextmanager
def serving() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            sent = {name.lower(): value for name, value in self.headers.items()}
            site.asked.append((self.path, sent))
            body, media_type, headers, status = site.pages.get(self.path, (b"nothing", "text/plain", {}, 404))
            if status == 200 and headers.get("etag") and sent.get("if-none-match") == headers["etag"]:
                body, status = b"", 304
            self.send_response(status)
            self.send_header("content-type", media_type)
            self.send_header("content-length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
