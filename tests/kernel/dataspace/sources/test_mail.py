"""Mailboxes: a file, and a server that speaks IMAP."""

from __future__ import annotations

import email
import email.policy
import re
import socketserver
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest
from tests.kernel.dataspace.sources.surroundings import contents, listed, opened, surroundings

from modelworks.contract.errors import InvalidData, NotFound, PermissionDenied
from modelworks.kernel.catalog.sources import SourcePolicy
from modelworks.kernel.dataspace.sources.forms import SourceLimits
from modelworks.kernel.dataspace.sources.mail import items_of


def message(subject: str, text: str, *attachments: tuple[str, bytes], number: int = 1) -> bytes:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "Li <li@example.com>", "wang@example.com", subject
    made["Date"], made["Message-ID"] = "Mon, 02 Mar 2026 10:00:00 +0800", f"<m{number}@example.com>"
    made.set_content(text)
    made.add_alternative(f"<p>{text}</p>", subtype="html")
    for name, content in attachments:
        made.add_attachment(content, maintype="application", subtype="pdf", filename=name)
    return made.as_bytes()


@pytest.fixture
def box(tmp_path: Path) -> Path:
    place = tmp_path / "mail.mbox"
    messages = [message("报价", "价格是 12 元。", ("报价.pdf", b"%PDF-1")), message("Two", "From here on.", number=2)]
    place.write_bytes(
        b"".join(b"From x Mon Mar  2 10:00:00 2026\n" + re.sub(rb"(?m)^From ", b">From ", each) + b"\n" for each in messages)
    )
    return place


def test_messages_and_attachments_are_documents(tmp_path: Path, box: Path) -> None:
    source = opened(surroundings(tmp_path), kind="mbox", uri=box.as_uri())
    items, texts = listed(source), contents(source)
    assert set(items) == {"<m1@example.com>", "<m1@example.com>#1", "<m2@example.com>"}
    assert items["<m1@example.com>"].name == "报价"
    assert items["<m1@example.com>"].attributes["date"] == "2026-03-02"
    assert items["<m1@example.com>#1"].name == "报价 / 报价.pdf"
    assert texts["<m1@example.com>#1"] == b"%PDF-1"
    read = email.message_from_bytes(texts["<m1@example.com>"], policy=email.policy.default)
    assert read["subject"] == "报价"
    assert read.get_content().strip() == "价格是 12 元。"
    assert contents(source) == texts, "the same message gives the same bytes"
    assert set(listed(opened(surroundings(tmp_path), kind="mbox", uri=box.as_uri(), attachments=False))) == {
        "<m1@example.com>",
        "<m2@example.com>",
    }


def test_an_uploaded_mailbox(tmp_path: Path, box: Path) -> None:
    around = surroundings(tmp_path)
    digest = around.blobs.put_file(box).digest
    assert len(listed(opened(around, kind="mbox", digest=digest))) == 3
    (tmp_path / "no.mbox").write_bytes(b"PK\x03\x04")
    with pytest.raises(InvalidData, match="not a mailbox"):
        listed(opened(around, kind="mbox", uri=(tmp_path / "no.mbox").as_uri()))


def test_a_message_over_the_limit_is_one_fault(tmp_path: Path, box: Path) -> None:
    size = len(message("Two", "From here on.", number=2)) + 50
    around = surroundings(tmp_path, limits=SourceLimits(max_file_bytes=size))
    found = listed(opened(around, kind="mbox", uri=box.as_uri()))
    assert {key for key, item in found.items() if item.fault is not None} == {"<m1@example.com>"}
    assert found["<m2@example.com>"].fault is None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no headers at all",
        b"Subject: =?utf-8?b?broken\xff?=\nContent-Type: text/plain; charset=no-such\n\n\xff\xfe text",
        b"Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: multipart/mixed; boundary=x\n\n--x--",
        b"To: \xff\xfe@[]<>,,;\nDate: yesterday\nMessage-ID: [x]\n\nbody",
        b"Content-Type: text/plain\nContent-Transfer-Encoding: base64\n\n!!!",
    ],
)
def test_broken_messages_are_read_as_far_as_they_go(raw: bytes) -> None:
    (first, *_) = items_of("k", raw, attachments=True)
    assert first.read is not None
    assert b"MIME-Version" in b"".join(first.read())


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        self.messages = {1: message("报价", "价格", ("a.pdf", b"%PDF-1")), 4: message("Two", "Second.", number=2)}
        self.said: list[str] = []
        super().__init__(("127.0.0.1", 0), _Line)


class _Line(socketserver.StreamRequestHandler):
    """As much of IMAP4rev1 as reading a folder needs."""

    server: _Server

    def handle(self) -> None:
        self.wfile.write(b"* OK ready\r\n")
        while line := self.rfile.readline().decode().strip():
            tag, _, command = line.partition(" ")
            self.server.said.append(command)
            self.wfile.write(self._answer(command) + f"{tag} {self._verdict(command)}\r\n".encode())

    def _verdict(self, command: str) -> str:
        if command.startswith("LOGIN") and "right" not in command:
            return "NO wrong password hunter2"
        if command.startswith(("SELECT", "EXAMINE")) and "Missing" in command:
            return "NO no such folder"
        return "OK done"

    def _answer(self, command: str) -> bytes:
        messages = self.server.messages
        if command == "CAPABILITY":
            return b"* CAPABILITY IMAP4rev1\r\n"
        if command.startswith(("EXAMINE", "SELECT")):
            return b"* 2 EXISTS\r\n* OK [UIDVALIDITY 7] valid\r\n"
        if command.startswith("UID SEARCH"):
            return f"* SEARCH {' '.join(map(str, messages))}\r\n".encode()
        fetch = re.match(r"UID FETCH (\d+) \((.*)\)", command)
        if fetch is None:
            return b""
        raw = messages[int(fetch[1])]
        if fetch[2] == "RFC822.SIZE":
            return f"* {fetch[1]} FETCH (UID {fetch[1]} RFC822.SIZE {len(raw)})\r\n".encode()
        return f"* {fetch[1]} FETCH (UID {fetch[1]} BODY[] {{{len(raw)}}}\r\n".encode() + raw + b")\r\n"


@pytest.fixture
def imap() -> Iterator[_Server]:
    server = _Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def _form(imap: _Server, **more: object) -> dict[str, object]:
    port = imap.server_address[1]
    return {"kind": "imap", "host": "127.0.0.1", "port": port, "tls": False, "user": "li", "secret": "mail"} | more


def test_folders_of_a_server(tmp_path: Path, imap: _Server) -> None:
    around = surroundings(tmp_path, credential="right")
    known = {key: item.fingerprint for key, item in listed(opened(around, **_form(imap))).items()}
    assert set(known) == {"INBOX/7/1", "INBOX/7/1#1", "INBOX/7/4"}
    assert not any(command.startswith("SELECT") for command in imap.said), "a folder that is selected is changed"
    assert any("PEEK" in command for command in imap.said)
    imap.said.clear()
    del imap.messages[4]
    imap.messages[9] = message("Three", "Third.", number=3)
    again = surroundings(tmp_path, credential="right", known=known)
    assert set(listed(opened(again, **_form(imap, since="2026-03-01")))) == {"INBOX/7/1", "INBOX/7/1#1", "INBOX/7/9"}
    assert "UID SEARCH SINCE 1-Mar-2026" in imap.said
    assert not any(command.startswith("UID FETCH 1 ") for command in imap.said), "what is known is not asked for again"


def test_names_of_folders_in_chinese(tmp_path: Path, imap: _Server) -> None:
    around = surroundings(tmp_path, credential="right")
    assert "收件&/7/4" in listed(opened(around, **_form(imap, mailboxes=["收件&"])))
    assert 'EXAMINE "&ZTZO9g-&-"' in imap.said  # modified UTF-7


def test_refusals_of_a_server(tmp_path: Path, imap: _Server) -> None:
    with pytest.raises(PermissionDenied) as caught:
        listed(opened(surroundings(tmp_path, credential="wrong"), **_form(imap)))
    assert "hunter2" not in f"{caught.value.message}{caught.value.hint}{caught.value.__cause__}"
    with pytest.raises(NotFound, match="no folder"):
        listed(opened(surroundings(tmp_path, credential="right"), **_form(imap, mailboxes=["Missing"])))
    with pytest.raises(PermissionDenied, match="public network"):
        listed(opened(surroundings(tmp_path, credential="right", policy=SourcePolicy()), **_form(imap)))
