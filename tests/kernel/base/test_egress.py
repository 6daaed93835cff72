"""Outgoing requests reach what they may and nothing else; downloads resume, are limited and checked."""

from __future__ import annotations

import datetime
import hashlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from modelworks.contract.errors import (
    Cancelled,
    IntegrityFailed,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    PermissionDenied,
    TimedOut,
    UpstreamFailed,
)
from modelworks.kernel.base.egress import ask, check_url, fetch, fetch_bytes

LOCAL = ["127.0.0.1"]
CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()

Answer = Callable[[BaseHTTPRequestHandler], None]


class Source:
    """An HTTP server whose answers a test sets by path; it notes the requests."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        source = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                source.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                source.answers[self.path](self)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # clients that hang up are part of these tests

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def serve(self, path: str, content: bytes = CONTENT, *, etag: str | None = '"v1"', stop_after: int | None = None) -> None:
        """A file with `Range` support; `stop_after` breaks the first answer off."""
        stops = [] if stop_after is None else [stop_after]

        def answer(request: BaseHTTPRequestHandler) -> None:
            start = 0
            asked = request.headers.get("range")
            if asked and request.headers.get("if-range") == etag:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
            request.send_response(206 if start else 200)
            if start:
                request.send_header("content-range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            if etag:
                request.send_header("etag", etag)
            request.send_header("content-length", str(len(content) - start))
            request.end_headers()
            stop = start + stops.pop() if stops else len(content)
            request.wfile.write(content[start:stop])
            request.wfile.flush()
            if stop < len(content):
                request.connection.shutdown(socket.SHUT_RDWR)
                request.close_connection = True

        self.answers[path] = answer

    def say(self, path: str, status: int, body: bytes = b"", **headers: str) -> None:
        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(status)
            for name, value in headers.items():
                request.send_header(name.replace("_", "-"), value)
            request.send_header("content-length", str(len(body)))
            request.end_headers()
            request.wfile.write(body)

        self.answers[path] = answer


@pytest.fixture
def source() -> Iterator[Source]:
    made = Source()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def resolves_to(*addresses: str) -> Callable[[str, int], list[str]]:
    return lambda host, port: list(addresses)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://017700000001/",
        "http://0x7f.1/",
        "http://localhost/",
        "http://localhost./",
        "http://0.0.0.0/",
        "http://10.0.0.1/",
        "http://172.16.3.4/",
        "http://192.168.1.1/",
        "http://100.64.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[::127.0.0.1]/",
        "http://[fe80::1]/",
        "http://[fd00::1]/",
        "http://[ff02::1]/",
        "http://[2002:7f00:1::]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[64:ff9b:1::7f00:1]/",
        "http://[fec0::1]/",
        "http://[5f00::1]/",
        "http://[3fff::1]/",
        "http://192.88.99.1/",
        "http://168.63.129.16/metadata",
    ],
)
def test_private_addresses_are_refused_in_every_spelling(url: str) -> None:
    with pytest.raises(PermissionDenied, match="public network") as caught:
        check_url(url)
    assert caught.value.error_code == "egress_denied"
    assert "MODELWORKS_EGRESS_ALLOW" in (caught.value.hint or "")


def test_public_addresses_pass() -> None:
    for url in ("http://8.8.8.8/x", "https://[2606:4700::1111]/", "http://[::ffff:8.8.8.8]/", "http://[64:ff9b::808:808]/"):
        assert check_url(url).addresses
    target = check_url("https://Files.Example.:8443/a", resolver=resolves_to("8.8.8.8", "8.8.8.8", "2606:4700::1111"))
    assert (target.host, target.port, target.addresses) == ("files.example", 8443, ("8.8.8.8", "2606:4700::1111"))


def test_one_private_address_among_public_ones_is_refused() -> None:
    with pytest.raises(PermissionDenied):
        check_url("http://files.example/", resolver=resolves_to("8.8.8.8", "10.0.0.1"))


@pytest.mark.parametrize(
    ("allow", "passes"),
    [
        (["10.1.0.0/16"], True),
        (["10.1.2.3"], True),
        (["files.plant.lan"], True),
        ([".plant.lan"], True),
        (["*.plant.lan"], True),
        (["10.2.0.0/16"], False),
        (["plant.lan"], False),
        ([".ant.lan"], False),
        (["lan"], False),
    ],
)
def test_the_allow_list_names_hosts_and_networks(allow: list[str], passes: bool) -> None:
    for address in ("10.1.2.3", "::ffff:10.1.2.3"):
        if passes:
            check_url("http://files.plant.lan/", allow, resolver=resolves_to(address))
        else:
            with pytest.raises(PermissionDenied):
                check_url("http://files.plant.lan/", allow, resolver=resolves_to(address))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "file:///etc/passwd",
        "ftp://x/",
        "http://",
        "//x",
        "gopher://x",
        "http://u:p@8.8.8.8/",
        "http://a\nb/",
        "http://x:99999/",
        "http://0177.0.0.1/",
    ],
)
def test_what_is_no_plain_web_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        check_url(url, resolver=resolves_to("8.8.8.8"))


def test_a_name_that_does_not_resolve_is_said() -> None:
    def fails(host: str, port: int) -> list[str]:
        raise socket.gaierror("unknown name")

    with pytest.raises(UpstreamFailed, match="cannot be resolved"):
        check_url("http://nowhere.example/", resolver=fails)
    with pytest.raises(UpstreamFailed, match="no address"):
        check_url("http://nowhere.example/", resolver=resolves_to())


def test_a_file_is_fetched_checked_and_told_of(source: Source, tmp_path: Path) -> None:
    source.serve("/model")
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "deep" / "model.safetensors"
    fetched = fetch(
        f"{source.url}/model", target, allow=LOCAL, expected_sha256=SHA256.upper(), on_progress=lambda *step: seen.append(step)
    )
    assert target.read_bytes() == CONTENT
    assert (fetched.sha256, fetched.num_bytes, fetched.final_url) == (SHA256, len(CONTENT), f"{source.url}/model")
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert list(target.parent.iterdir()) == [target]


def test_a_download_that_breaks_off_goes_on_from_there(source: Source, tmp_path: Path) -> None:
    source.serve("/model", stop_after=700_000)
    fetched = fetch(f"{source.url}/model", tmp_path / "m", allow=LOCAL, expected_sha256=SHA256, wait_s=0)
    assert fetched.num_bytes == len(CONTENT)
    assert "range" not in source.requests[0][1]
    assert int(source.requests[1][1]["range"].removeprefix("bytes=").rstrip("-")) > 0
    assert source.requests[1][1]["if-range"] == '"v1"'
    assert (tmp_path / "m").read_bytes() == CONTENT


def test_another_process_goes_on_too_and_a_changed_source_starts_anew(source: Source, tmp_path: Path) -> None:
    source.serve("/model", stop_after=500_000)
    with pytest.raises(UpstreamFailed, match=r"broke off|ended"):
        fetch(f"{source.url}/model", tmp_path / "m", allow=LOCAL, attempts=1)
    assert not (tmp_path / "m").exists()
    assert (tmp_path / "m.part").stat().st_size > 0
    other = CONTENT[::-1]
    source.serve("/model", other, etag='"v2"')
    fetch(f"{source.url}/model", tmp_path / "m", allow=LOCAL)
    assert (tmp_path / "m").read_bytes() == other
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


def test_without_a_mark_of_the_content_it_starts_anew(source: Source, tmp_path: Path) -> None:
    for etag in (None, 'W/"weak"'):
        source.requests.clear()
        source.serve("/model", etag=etag, stop_after=500_000)
        fetch(f"{source.url}/model", tmp_path / "m", allow=LOCAL, expected_sha256=SHA256, wait_s=0)
        assert all("range" not in headers for _, headers in source.requests)


def test_a_part_that_the_source_no_longer_has_starts_anew(source: Source, tmp_path: Path) -> None:
    source.serve("/model", stop_after=500_000)
    with pytest.raises(UpstreamFailed):
        fetch(f"{source.url}/model", tmp_path / "m", allow=LOCAL, attempts=1)
    whole = source.answers["/model"]

    def refuse_parts(request: BaseHTTPRequestHandler) -> None:
        if "range" in request.headers:
            request.send_response(416)
            request.send_header("content-length", "0")
            request.end_headers()
        else:
            whole(request)

    source.answers["/model"] = refuse_parts
    assert fetch(f"{source.url}/model", tmp_path / "m", allow=LOCAL, wait_s=0).sha256 == SHA256


def test_other_content_than_expected_is_removed(source: Source, tmp_path: Path) -> None:
    source.serve("/model")
    with pytest.raises(IntegrityFailed, match="expected"):
        fetch(f"{source.url}/model", tmp_path / "m", allow=LOCAL, expected_sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_too_much_is_refused_announced_or_not(source: Source, tmp_path: Path) -> None:
    source.serve("/announced")

    def unannounced(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("transfer-encoding", "chunked")
        request.end_headers()
        for _ in range(40):
            request.wfile.write(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
        request.wfile.write(b"0\r\n\r\n")

    source.answers["/unannounced"] = unannounced
    for path in ("/announced", "/unannounced"):
        with pytest.raises(PayloadTooLarge, match="100000 bytes"):
            fetch(source.url + path, tmp_path / "m", allow=LOCAL, max_bytes=100_000)
        with pytest.raises(PayloadTooLarge):
            fetch_bytes(source.url + path, allow=LOCAL, max_bytes=100_000)
        assert not (tmp_path / "m").exists()
    assert len(fetch_bytes(f"{source.url}/unannounced", allow=LOCAL, max_bytes=400_000)[0]) == 400_000


def test_cancelling_keeps_the_part(source: Source, tmp_path: Path) -> None:
    source.serve("/model")
    answers = iter([False, True])
    with pytest.raises(Cancelled):
        fetch(f"{source.url}/model", tmp_path / "m", allow=LOCAL, cancelled=lambda: next(answers, True))
    assert not (tmp_path / "m").exists()
    assert fetch(f"{source.url}/model", tmp_path / "m", allow=LOCAL).sha256 == SHA256


def test_refusals_and_failures_are_told_apart(source: Source, tmp_path: Path) -> None:
    for status, error in (
        (404, NotFound),
        (410, NotFound),
        (401, PermissionDenied),
        (403, PermissionDenied),
        (418, UpstreamFailed),
    ):
        source.requests.clear()
        source.say("/x", status)
        with pytest.raises(error, match=str(status)):
            fetch(f"{source.url}/x", tmp_path / "m", allow=LOCAL, wait_s=0)
        assert len(source.requests) == 1
    source.requests.clear()
    source.say("/x", 503)
    with pytest.raises(UpstreamFailed, match="503"):
        fetch(f"{source.url}/x", tmp_path / "m", allow=LOCAL, attempts=3, wait_s=0)
    assert len(source.requests) == 3
    source.say("/x", 200, b"zip", content_encoding="gzip")
    with pytest.raises(UpstreamFailed, match="compressed"):
        fetch_bytes(f"{source.url}/x", allow=LOCAL, max_bytes=100)
    with pytest.raises(UpstreamFailed, match="cannot be reached"):
        fetch_bytes("http://127.0.0.1:9/", allow=LOCAL, max_bytes=100)


def test_a_silent_source_is_given_up(source: Source) -> None:
    silence = threading.Event()

    def say_nothing(_: BaseHTTPRequestHandler) -> None:
        silence.wait(10)

    source.answers["/slow"] = say_nothing
    with pytest.raises(TimedOut):
        fetch_bytes(f"{source.url}/slow", allow=LOCAL, max_bytes=10, timeout_s=0.2)
    silence.set()


def test_a_question_stays_at_its_address(source: Source) -> None:
    source.say("/json", 200, b"{}", content_type="Application/JSON; charset=utf-8")
    answer = ask(f"{source.url}/json", allow=LOCAL, max_bytes=10)
    assert (answer.status, answer.content, answer.media_type) == (200, b"{}", "application/json")
    source.say("/moved", 302, b"", location=f"{source.url}/json")
    assert ask(f"{source.url}/moved", allow=LOCAL, max_bytes=10).status == 302
    source.say("/long", 400, b"x" * 11)
    with pytest.raises(PayloadTooLarge):
        ask(f"{source.url}/long", allow=LOCAL, max_bytes=10)
    with pytest.raises(PermissionDenied):
        ask(f"{source.url}/json", max_bytes=10)
    assert "/json" not in [path for path, _ in source.requests[2:]]


def test_an_answer_that_trickles_is_given_up(source: Source) -> None:
    def trickle(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        for _ in range(60):
            request.wfile.write(b"x")
            request.wfile.flush()
            threading.Event().wait(0.05)

    source.answers["/slow"] = trickle
    with pytest.raises(TimedOut, match="too slowly"):
        ask(f"{source.url}/slow", allow=LOCAL, max_bytes=1000, timeout_s=0.2)


def test_redirects_are_followed_and_each_is_checked(source: Source, tmp_path: Path) -> None:
    source.serve("/end")
    source.say("/start", 302, location="/middle")
    source.say("/middle", 307, location=f"{source.url}/end")
    assert fetch(f"{source.url}/start", tmp_path / "m", allow=LOCAL).final_url == f"{source.url}/end"
    for denied in ("http://169.254.169.254/", "http://10.0.0.1:1/", "http://[::1]:1/", f"http://127.0.0.2:{source.port}/end"):
        source.say("/start", 302, location=denied)
        with pytest.raises(PermissionDenied):
            fetch(f"{source.url}/start", tmp_path / "n", allow=LOCAL)
    for wrong in ("file:///etc/passwd", "http://"):
        source.say("/start", 302, location=wrong)
        with pytest.raises((InvalidRequest, UpstreamFailed)):
            fetch(f"{source.url}/start", tmp_path / "n", allow=LOCAL)
    source.say("/loop", 301, location="/loop")
    with pytest.raises(UpstreamFailed, match="redirects"):
        fetch(f"{source.url}/loop", tmp_path / "n", allow=LOCAL)


def test_credentials_stay_with_their_origin(source: Source) -> None:
    source.say("/here", 200, b"x")
    source.say("/start", 302, location="/here", set_cookie="a=b")
    sent = {"Authorization": "Bearer secret", "X-Other": "kept"}
    fetch_bytes(f"{source.url}/start", allow=LOCAL, headers=sent, max_bytes=10)
    assert source.requests[-1][1]["authorization"] == "Bearer secret"
    source.say("/start", 302, location=f"http://elsewhere.example:{source.port}/here")
    fetch_bytes(f"{source.url}/start", allow=LOCAL, headers=sent, max_bytes=10, resolver=resolves_to("127.0.0.1"))
    path, headers = source.requests[-1]
    assert path == "/here"
    assert headers["host"] == f"elsewhere.example:{source.port}"
    assert "authorization" not in headers
    assert "cookie" not in headers
    assert headers["x-other"] == "kept"


def test_a_name_that_changes_its_mind_leads_nowhere_else(source: Source) -> None:
    source.say("/x", 200, b"inner")
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["8.8.8.8"] if len(asked) > 1 else ["127.0.0.1"]

    # The name is asked once; what was checked is what is connected to.
    content, _ = fetch_bytes(f"http://rebind.example:{source.port}/x", allow=LOCAL, max_bytes=10, resolver=rebinding)
    assert (content, asked) == (b"inner", ["rebind.example"])
    # Public when checked, private when a redirect leads there again: refused.
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])
    source.say("/x", 302, location=f"http://rebind.example:{source.port}/x")
    with pytest.raises(PermissionDenied):
        fetch_bytes(
            f"http://rebind.example:{source.port}/x", allow=LOCAL, max_bytes=10, resolver=lambda host, port: next(answers)
        )


def test_the_environments_proxy_is_not_asked(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    source.say("/x", 200, b"direct")
    assert fetch_bytes(f"{source.url}/x", allow=LOCAL, max_bytes=10)[0] == b"direct"


def certificate(folder: Path, name: str) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_https_names_the_host_in_tls_and_checks_its_certificate(source: Source, tmp_path: Path) -> None:
    pem = certificate(tmp_path, "files.example")
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(pem)
    names: list[str | None] = []
    served.sni_callback = lambda _socket, name, _context: names.append(name)
    source.server.socket = served.wrap_socket(source.server.socket, server_side=True)
    source.say("/x", 200, b"safe")
    trusted = ssl.create_default_context(cafile=str(pem))
    local = resolves_to("127.0.0.1")
    url = f"https://files.example:{source.port}/x"
    assert fetch_bytes(url, allow=LOCAL, max_bytes=10, tls=trusted, resolver=local)[0] == b"safe"
    assert names == ["files.example"]
    assert source.requests[-1][1]["host"] == f"files.example:{source.port}"
    for wrong, context in ((url, None), (url.replace("files", "other"), trusted)):
        with pytest.raises(UpstreamFailed, match=r"(?i)certificate"):
            fetch_bytes(wrong, allow=LOCAL, max_bytes=10, tls=context, resolver=local)
    source.say("/x", 302, location=f"http://files.example:{source.port}/x")
    with pytest.raises(PermissionDenied, match="https to http"):
        fetch_bytes(url, allow=LOCAL, max_bytes=10, tls=trusted, resolver=local)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:1/x", "127.0.0.1 is not on the public network"),
        ("http://[::1]:1/x", "::1 is not on the public network"),
        ("http://2130706433/x", "2130706433, which leads to 127.0.0.1, is not on the public network"),
    ],
)
def test_a_refused_address_is_named_once_and_a_disguise_is_lifted(url: str, shown: str) -> None:
    with pytest.raises(PermissionDenied) as refused:
        check_url(url)
    assert refused.value.message.startswith(shown)
