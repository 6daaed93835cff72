"""Which tools of a server elsewhere may be called, which of them unasked, and which headers may be sent there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from modelworks.contract.errors import InvalidRequest

LABEL: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
VALUE: Final = re.compile(r"[\x20-\x7e\t]{0,8192}")
#: Headers that are the protocol's and the connection's own.
_OWN_HEADERS: Final = re.compile(
    r"(?i)host|connection|content-.*|transfer-encoding|accept.*|te|trailer|upgrade|expect|mcp-.*|cookie"
)


@dataclass(frozen=True, slots=True)
class Choice:
    """Some tools of a server: by name, or by whether they say that they only read. Without either, all."""

    names: frozenset[str] | None = None
    read_only: bool | None = None

    def holds(self, tool: Mapping[str, Any]) -> bool:
        if self.names is not None and tool["name"] not in self.names:
            return False
        reads = bool((tool.get("annotations") or {}).get("readOnlyHint"))
        return self.read_only is None or reads == self.read_only


def choice(given: Any, place: str) -> Choice:
    """`allowed_tools` as OpenAI writes it: a list of names, or an object; raises InvalidRequest."""
    if given is None:
        return Choice()
    if isinstance(given, list):
        given = {"tool_names": given}
    names, read_only = (given.get("tool_names"), given.get("read_only")) if isinstance(given, dict) else (5, None)
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise wrong(place, "must be a list of names, or an object with tool_names or read_only")
    if read_only is not None and not isinstance(read_only, bool):
        raise wrong(f"{place}.read_only", "must be true or false")
    return Choice(None if names is None else frozenset(names), read_only)


def unasked(given: Any, place: str) -> Choice | None:
    """What `never` of `require_approval` names; everything else needs approval, as with OpenAI nothing said means always.

    Raises:
        InvalidRequest: it is neither a word nor says which tools.
    """
    if given in (None, "always"):
        return None
    if given == "never":
        return Choice()
    if not isinstance(given, dict) or {*given} - {"always", "never"} or not given:
        raise wrong(place, "must be always, never, or say which tools of both")
    never = None if given.get("never") is None else choice(given["never"], f"{place}.never")
    always = Choice() if given.get("always") is None else choice(given["always"], f"{place}.always")
    if never is not None and never.names is not None and always.names is not None and never.names & always.names:
        raise wrong(place, "names a tool under both always and never")
    return never


def is_sendable(name: str, value: object = "") -> bool:
    """Whether this header may be sent to a server elsewhere."""
    if not _HEADER.fullmatch(name) or _OWN_HEADERS.fullmatch(name):
        return False
    return isinstance(value, str) and VALUE.fullmatch(value) is not None


def wrong(place: str, what: str) -> InvalidRequest:
    """The error for a field that is not in form."""
    return InvalidRequest(f"{place}: {what}.", param=place, code="invalid_value")
