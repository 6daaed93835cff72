"""Reports of forgetting: what their signature covers, and how a copy is checked without any server.

The signature is Ed25519 (RFC 8032) over the report as JSON with sorted keys and without spaces, in UTF-8. The server notes the
report's digest in its audit chain, too: with an exported chain a report is checked by the standard library alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from modelworks.chain import find_break

ALGORITHM: Final = "Ed25519"
KIND: Final = "space.forgetting.report"
#: What the entry of the chain is called.
_NOUN: Final = "forgetting"
_KEY_CHARS: Final = 64


@dataclass(frozen=True, slots=True)
class Checked:
    """What is wrong with a report; None: it holds."""

    problem: str | None
    #: The public key that it was signed with, where it says one.
    public_key: str | None = None


def covered(report: Mapping[str, Any]) -> bytes:
    """The bytes that the signature and the digest cover: all but the signature."""
    plain = {name: value for name, value in report.items() if name != "signature"}
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def report_digest(report: Mapping[str, Any]) -> str:
    """SHA-256 of what is covered, as `sha256:…`."""
    return f"sha256:{hashlib.sha256(covered(report)).hexdigest()}"


def entry_digest(report: Mapping[str, Any]) -> str:
    """What the audit chain says of the forgetting once the report was issued: the digest of its row's watched columns."""
    values = {
        "id": report.get("id"),
        "project_id": report.get("project_id"),
        "space_id": report.get("space_id"),
        "document_id": (report.get("document") or {}).get("id"),
        "state": "succeeded",
        "report_digest": report_digest(report),
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_form(report: Mapping[str, Any]) -> Checked:
    """Whether it is a report that says what it must; the signature is not looked at."""
    if report.get("object") != KIND:
        return Checked("it is no report of forgetting")
    signature = report.get("signature")
    if not isinstance(signature, Mapping) or signature.get("algorithm") != ALGORITHM:
        return Checked(f"it carries no {ALGORITHM} signature")
    key = signature.get("public_key")
    if not isinstance(key, str) or len(key) != _KEY_CHARS:
        return Checked("it does not say which key signed it")
    if report.get("holds") is not True:
        return Checked("it says itself that something was found again", key)
    return Checked(None, key)


def check_chain(report: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]) -> str | None:
    """Why an exported audit chain does not vouch for a report; None where it does."""
    wanted, met = entry_digest(report), False

    def passing() -> Iterable[Mapping[str, Any]]:
        nonlocal met
        for entry in entries:
            is_about = entry.get("noun") == _NOUN and entry.get("subject") == report.get("id")
            met = met or (is_about and entry.get("after") == wanted)
            yield entry

    _, broken = find_break(passing())
    if broken is not None:
        return f"the chain breaks at entry {broken.seq}: {broken.reason}"
    return None if met else "the chain has no entry of this report: it was changed, or another server issued it"
