"""The Python client against a real HTTP server: errors, retries, streams, uploads, and the sync shell's completeness."""

from __future__ import annotations

import hashlib
import inspect
import io
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cli.fake_server import Answer, Asked, FakeServer, page, refusal, sse

from modelworks.client import AsyncModelworks, Modelworks
from modelworks.client.transport import default_api_key, error_from
from modelworks.contract import errors


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeServer]:
    for name in ("MODELWORKS_URL", "MODELWORKS_API_KEY", "MODELWORKS_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODELWORKS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("modelworks.client.transport.asyncio.sleep", _no_wait)
    with FakeServer() as server:
        yield server


_waits: list[float] = []


async def _no_wait(seconds: float) -> None:
    _waits.append(seconds)


@pytest.fixture
def client(server: FakeServer) -> Iterator[Modelworks]:
    _waits.clear()
    with Modelworks(server.url, "mw-secret") as client:
        yield client


def test_the_shell_has_every_method_of_the_core(client: Modelworks) -> None:
    core = AsyncModelworks("http://127.0.0.1:1", "k")
    groups = [name for name, value in vars(core).items() if name != "transport"]
    assert len(groups) >= 9
    for group in groups:
        wanted = {name for name, _ in inspect.getmembers(getattr(core, group), inspect.isroutine) if not name.startswith("_")}
        shell = getattr(client, group)
        found = {name for name, _ in inspect.getmembers(shell, callable) if not name.startswith("_")}
        assert found == wanted, group
        for name in wanted:
            assert getattr(shell, name).__doc__ == getattr(getattr(core, group), name).__doc__


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_address_with_and_without_v1_and_slash(server: FakeServer, suffix: str) -> None:
    server.on("GET", "/api/whoami", {"project_id": "prj_1"})
    with Modelworks(server.url + suffix, "mw-secret") as client:
        assert client.server.whoami() == {"project_id": "prj_1"}
    assert server.asked[0].headers["authorization"] == "Bearer mw-secret"


def test_an_address_that_is_none() -> None:
    with pytest.raises(errors.InvalidRequest, match="not the address of a server"):
        Modelworks("localhost:8400")


def test_the_local_key_is_not_sent_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MODELWORKS_API_KEY", raising=False)
    monkeypatch.setenv("MODELWORKS_HOME", str(tmp_path))
    (tmp_path / "admin.key").write_text("mw-admin\n")
    assert default_api_key("http://127.0.0.1:8400") == "mw-admin"
    assert default_api_key("https://models.example.org") is None
    monkeypatch.setenv("MODELWORKS_API_KEY", "mw-given")
    assert default_api_key("https://models.example.org") == "mw-given"


def test_a_reference_with_slashes_and_odd_characters_is_one_path(server: FakeServer, client: Modelworks) -> None:
    server.on("GET", "/api/models/.*", lambda asked: {"path": asked.path})
    assert client.models.get("Qwen/Qwen3@v2")["path"] == "/api/models/Qwen/Qwen3@v2"
    assert client.models.get("a b?c#d")["path"] == "/api/models/a b?c#d"


@pytest.mark.parametrize("name", sorted(set(errors.error_classes()) - {"ModelworksError"}))
def test_every_error_comes_back_as_its_class(server: FakeServer, client: Modelworks, name: str) -> None:
    kind = errors.error_classes()[name]
    sent = kind("The thing at fault.", hint="Do this.", param="field.0", retry_after_s=3.0 if kind.status == 429 else None)
    headers = {"x-should-retry": "false"} | ({"Retry-After": "3"} if sent.retry_after_s else {})
    server.on("GET", "/api/runs/run_1", Answer(sent.envelope(), kind.status, headers))
    with pytest.raises(errors.ModelworksError) as caught:
        client.runs.get("run_1")
    found = caught.value
    assert type(found) is kind
    assert (found.message, found.hint, found.param, found.error_code) == (sent.message, sent.hint, "field.0", kind.code)
    assert found.retry_after_s == sent.retry_after_s


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "InvalidRequest"),
        (401, "AuthenticationFailed"),
        (404, "NotFound"),
        (409, "Conflict"),
        (418, "InvalidRequest"),
        (429, "RateLimited"),
        (500, "ModelworksError"),
        (503, "Unavailable"),
        (599, "ModelworksError"),
    ],
)
def test_an_unknown_code_falls_back_to_the_status(status: int, kind: str) -> None:
    error = error_from(status, b'{"error": {"message": "No.", "code": "brand_new"}}', {"x-request-id": "req_7"})
    assert type(error).__name__ == kind
    assert (error.message, error.error_code) == ("No.", "brand_new")
    assert (getattr(error, "__notes__", []) == ["request id: req_7"]) == (status >= 500)


@given(st.integers(400, 599), st.binary(max_size=200))
def test_any_error_body_becomes_an_error(status: int, body: bytes) -> None:
    assert error_from(status, body, {}).message


def test_safe_calls_are_repeated_and_others_are_not(server: FakeServer, client: Modelworks) -> None:
    answers = [refusal(503, "unavailable", "Later."), refusal(429, "rate_limit_exceeded", "Slow.", Retry_After="7"), page([])]
    server.on("GET", "/api/runs", lambda _: answers.pop(0))
    assert client.runs.list().data == []
    assert len(_waits) == 2
    assert _waits[1] == 7.0
    server.on("POST", "/api/runs", refusal(503, "unavailable", "Later."))
    with pytest.raises(errors.Unavailable):
        client.runs.submit(verb="train", task="t")
    assert len(server.calls("POST", "/api/runs")) == 1


@pytest.mark.parametrize(
    "answer",
    [
        refusal(429, "insufficient_quota", "Empty.", x_should_retry="false"),
        refusal(429, "rate_limit_exceeded", "Slow.", Retry_After="3600"),
        refusal(404, "not_found", "None."),
    ],
)
def test_what_will_not_get_better_is_not_repeated(server: FakeServer, client: Modelworks, answer: Answer) -> None:
    server.on("GET", "/api/runs", answer)
    with pytest.raises(errors.ModelworksError):
        client.runs.list()
    assert len(server.asked) == 1


def test_no_server() -> None:
    with Modelworks("http://127.0.0.1:9", "k", max_retries=0) as client, pytest.raises(errors.Unavailable) as caught:
        client.server.health()
    assert caught.value.error_code == "connection_failed"
    assert "modelworks serve" in str(caught.value.hint)


def test_something_else_answers(server: FakeServer, client: Modelworks) -> None:
    server.on("GET", "/api/whoami", b"<html>")
    server.on("GET", "/api/models", {"hello": "world"})
    for call in (client.server.whoami, client.models.list):
        with pytest.raises(errors.UpstreamFailed) as caught:
            call()
        assert "MODELWORKS_URL" in str(caught.value.hint)


def test_a_timeout_is_told_as_one(server: FakeServer) -> None:
    release = threading.Event()
    server.on("GET", "/healthz", lambda _: (release.wait(5), {})[1])
    with Modelworks(server.url, "k", timeout_s=0.1, max_retries=0) as client, pytest.raises(errors.TimedOut):
        client.server.health()
    release.set()


def test_upload_sends_once_and_downloads_the_same(server: FakeServer, client: Modelworks, tmp_path: Path) -> None:
    stored: dict[str, bytes] = {}

    def put(asked: Asked) -> Answer:
        digest = "sha256:" + hashlib.sha256(asked.body).hexdigest()
        assert asked.headers["x-content-sha256"] == digest
        stored[digest] = asked.body
        return Answer({"digest": digest, "num_bytes": len(asked.body)}, 201)

    server.on("PUT", "/api/blobs", put)
    server.on("HEAD", "/api/blobs/.*", lambda asked: Answer(status=200 if asked.path.rpartition("/")[2] in stored else 404))
    server.on("GET", "/api/blobs/.*", lambda asked: Answer(stored[asked.path.rpartition("/")[2]]))
    content = bytes(range(256)) * 9000
    (tmp_path / "file").write_bytes(content)
    first = client.blobs.upload(tmp_path / "file")
    assert (first["known"], first["num_bytes"]) == (False, len(content))
    assert client.blobs.upload(content)["known"]
    assert client.blobs.upload(io.BytesIO(content))["known"]
    assert len(server.calls("PUT", "/api/blobs")) == 1
    assert client.blobs.upload(b"")["num_bytes"] == 0
    assert client.blobs.download(first["digest"], tmp_path / "copy").read_bytes() == content


def test_an_upload_is_repeated_from_its_start(server: FakeServer, client: Modelworks) -> None:
    bodies: list[bytes] = []

    def put(asked: Asked) -> Answer:
        bodies.append(asked.body)
        if len(bodies) == 1:
            return refusal(503, "unavailable", "Later.")
        return Answer({"digest": "sha256:" + hashlib.sha256(asked.body).hexdigest(), "num_bytes": len(asked.body)}, 201)

    server.on("HEAD", "/api/blobs/.*", Answer(status=404))
    server.on("PUT", "/api/blobs", put)
    client.blobs.upload(io.BytesIO(b"x" * 2_000_000))
    assert [len(body) for body in bodies] == [2_000_000, 2_000_000]


def test_a_download_continues_and_is_checked(server: FakeServer, client: Modelworks, tmp_path: Path) -> None:
    content = b"0123456789" * 100
    digest = "sha256:" + hashlib.sha256(content).hexdigest()

    def get(asked: Asked) -> Answer:
        start = int(asked.headers["range"].removeprefix("bytes=").rstrip("-"))
        if start >= len(content):
            return Answer(status=416)
        return Answer(content[start:], 206)

    server.on("GET", "/api/blobs/.*", get)
    (tmp_path / "copy.part").write_bytes(content[:300])
    assert client.blobs.download(digest, tmp_path / "copy").read_bytes() == content
    (tmp_path / "again.part").write_bytes(content)
    assert client.blobs.download(digest, tmp_path / "again").read_bytes() == content
    (tmp_path / "bad.part").write_bytes(b"tampered" + content[8:300])
    with pytest.raises(errors.IntegrityFailed):
        client.blobs.download(digest, tmp_path / "bad")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["again", "copy"]


def test_a_folder_becomes_a_manifest(server: FakeServer, client: Modelworks, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.txt").write_text("b")
    (folder / "deep" / "中.txt").write_text("a")
    (folder / ".hidden").write_text("no")
    (folder / "link").symlink_to("/etc/hostname")
    server.on("HEAD", "/api/blobs/.*", Answer(status=200))
    server.on("POST", "/api/datasets", lambda asked: {"id": "ds_1", **asked.json})
    told: list[str] = []
    version = client.datasets.add("corpus", folder, licence="CC0-1.0", on_file=lambda file: told.append(file["path"]))
    assert [file["path"] for file in version["files"]] == ["b.txt", "deep/中.txt"]
    assert (version["licence"], told) == ("CC0-1.0", ["b.txt", "deep/中.txt"])
    (tmp_path / "empty").mkdir()
    for missing in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(errors.InvalidRequest):
            client.datasets.add("corpus", missing)


def test_chat_chunks_arrive_one_by_one_with_odd_line_ends(server: FakeServer, client: Modelworks) -> None:
    release = threading.Event()
    chunk = {"id": "c", "choices": [{"delta": {"content": "line\u2028separator\x85 and 你好"}}]}

    def pieces(_: Asked) -> Iterator[bytes]:
        first, *rest = sse(chunk, {"id": "c", "choices": [], "usage": {"total_tokens": 3}})
        text = rest[0]
        yield first
        yield text[:30]  # an event may arrive in halves, in the middle of a character too
        yield text[30:].replace(b"\n", b"\r\n")
        release.wait(5)
        yield from rest[1:]

    server.on("POST", "/v1/chat/completions", pieces)
    chunks = client.tasks.chat("m", [{"role": "user", "content": "hi"}], temperature=None, seed=1)
    assert next(chunks) == chunk
    release.set()
    assert [item["usage"]["total_tokens"] for item in chunks] == [3]
    sent = server.asked[0].json
    assert sent == {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "seed": 1}


def test_an_error_in_the_middle_of_a_stream_is_raised(server: FakeServer, client: Modelworks) -> None:
    failure = errors.UpstreamFailed("The replica died.", hint="Ask again.").envelope()
    server.on("POST", "/v1/chat/completions", Answer(sse({"id": "c", "choices": []}, failure, done=False)))
    chunks = client.tasks.chat("m", [])
    assert next(chunks)["id"] == "c"
    with pytest.raises(errors.UpstreamFailed, match="replica died"):
        next(chunks)


def test_closing_a_stream_hangs_up(server: FakeServer, client: Modelworks) -> None:
    def endless(_: Asked) -> Iterator[bytes]:
        while True:
            yield sse({"id": "c", "choices": [], "pad": "x" * 10_000}, done=False)[1]
            time.sleep(0.005)

    server.on("POST", "/v1/chat/completions", endless)
    chunks = client.tasks.chat("m", [])
    next(chunks)
    chunks.close()
    assert server.hung_up.wait(10)


def test_events_go_on_after_the_server_was_away(server: FakeServer, client: Modelworks) -> None:
    def events(asked: Asked) -> Answer:
        after = int(asked.query["after_seq"])
        if after == 0:
            cut = b"".join(sse({"seq": 1, "type": "a"}, {"seq": 2, "type": "b"}, done=False))
            return Answer(cut, headers={"Content-Length": str(len(cut) + 100)} | {"Connection": "close"})
        assert after == 2
        if len(server.asked) == 2:
            return refusal(503, "unavailable", "Starting.", x_should_retry="false")
        return Answer(sse({"seq": 3, "type": "c"}))

    server.on("GET", "/api/runs/run_1/events", events)
    assert [event["seq"] for event in client.runs.events("run_1")] == [1, 2, 3]


def test_logs_keep_their_bytes_readable(server: FakeServer, client: Modelworks) -> None:
    server.on("GET", "/api/runs/run_1/logs", Answer([b"one\r\nt", b"wo \xff\nlast"]))
    assert list(client.runs.logs("run_1")) == ["one", "two \ufffd", "last"]


def test_wait_polls_until_the_run_has_ended(server: FakeServer, client: Modelworks) -> None:
    states = ["queued", "running", "failed"]
    server.on("GET", "/api/runs/run_1", lambda _: {"id": "run_1", "state": states.pop(0)})
    assert client.runs.wait("run_1")["state"] == "failed"


async def test_the_core_in_an_asynchronous_program(server: FakeServer) -> None:
    server.on("GET", "/api/models", page([{"id": "a"}], has_more=True))
    async with AsyncModelworks(server.url, "k") as client:
        found = await client.models.list(search="x", limit=5)
    assert ([row["id"] for row in found], found.has_more, found.last_id) == (["a"], True, "a")
    assert server.asked[0].query == {"search": "x", "limit": "5"}


#: Waits for an answer until it is interrupted, says so, and stays.
INTERRUPTED = """
import sys
from modelworks.client import Modelworks
try:
    next(Modelworks(sys.argv[1], api_key="mw-key").tasks.chat("m", []))
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.stdin.read()
"""


def test_an_interrupt_while_waiting_ends_the_request(server: FakeServer) -> None:
    """In a process of its own: a signal that came a moment too late would end the tests' own."""
    answering = threading.Event()

    def slow(_: Asked) -> Iterator[bytes]:
        yield b": waiting\n\n"
        answering.set()
        while True:
            yield b": keep-alive" + b" " * 20_000 + b"\n\n"
            time.sleep(0.005)

    server.on("POST", "/v1/chat/completions", slow)
    command = [sys.executable, "-c", INTERRUPTED, server.url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert answering.wait(60)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "interrupted\n"
        assert server.hung_up.wait(30), "the request ran on while the process did something else"
        assert process.poll() is None
