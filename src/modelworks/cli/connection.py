"""Which server a command talks to, and reading what a person gives as a value, a file or `-`."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelworks.contract.errors import InvalidRequest, PermissionDenied

if TYPE_CHECKING:
    from modelworks.client import Modelworks
    from modelworks.client.transport import Page

_SPAN = re.compile(r"^(\d{1,6})([mhdw])$")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(slots=True)
class Target:
    """The options given before the verb; None means the environment decides."""

    url: str | None = None
    api_key: str | None = None


#: Set by the root of the command line, once per process.
target = Target()


@contextmanager
def connect() -> Iterator[Modelworks]:
    """A client for the chosen server. With `MODELWORKS_PROJECT` set, a key of another project is refused.

    Raises:
        PermissionDenied: the key belongs to another project than the one that was asked for.
    """
    from modelworks.client import Modelworks

    with Modelworks(target.url, target.api_key) as client:
        project = os.environ.get("MODELWORKS_PROJECT")
        if project:
            mine = client.server.whoami()["project_id"]
            if project != mine and not any(
                known["id"] == mine for known in client.server.projects() if known["name"] == project
            ):
                raise PermissionDenied(
                    f"The key belongs to project {mine}, not to {project}.",
                    hint="Set MODELWORKS_API_KEY to a key of that project, or unset MODELWORKS_PROJECT.",
                    code="wrong_project",
                )
        yield client


def collect(fetch: Any, limit: int, **options: Any) -> list[dict[str, Any]]:
    """Up to `limit` records of a list, page by page; `fetch` is a client's `list` method."""
    found: list[dict[str, Any]] = []
    after: str | None = None
    while len(found) < limit:
        page: Page = fetch(after=after, limit=min(100, limit - len(found)), **options)
        found.extend(page.data)
        if not page.has_more or not page.data:
            break
        after = page.last_id or page.data[-1].get("id")
    return found[:limit]


def text_of(argument: str) -> str:
    """`-` is stdin, `@path` a file, anything else itself.

    Raises:
        InvalidRequest: the file cannot be read, or is not UTF-8.
    """
    if argument != "-" and not argument.startswith("@"):
        return argument
    where = "stdin" if argument == "-" else argument[1:]
    try:
        data = sys.stdin.buffer.read() if argument == "-" else Path(where).read_bytes()
        return data.decode("utf-8")
    except OSError as error:
        raise InvalidRequest(f"{where} cannot be read: {error.strerror}.", hint="Check the path.") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"{where} is not UTF-8: byte {error.start} is {data[error.start]:#04x}.", hint="Convert it to UTF-8 first."
        ) from error


def json_of(argument: str) -> Any:
    """JSON given as text, `@file` or `-`.

    Raises:
        InvalidRequest: it is not JSON; the message names line and column.
    """
    text = text_of(argument)
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidRequest(
            f"The input is not JSON: {error}.", hint='Give for example \'{"text": "…"}\', @file or -.'
        ) from error


def pairs_of(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """`key=value` options as an object: values are JSON where they can be, else text; dots in keys nest.

    Raises:
        InvalidRequest: an item has no `=`.
    """
    result: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise InvalidRequest(f"{option} {pair!r} is not of the form key=value.", hint=f"Write {option} key=value.")
        value: Any = text_of(text) if text.startswith("@") else text
        with suppress(ValueError):
            value = json.loads(value)
        inner = result
        *parents, last = key.split(".")
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise InvalidRequest(f"{option} {pair!r} contradicts an earlier value of {parent!r}.")
        inner[last] = value
    return result


def roles_of(given: Sequence[str], default: str) -> dict[str, str]:
    """Inputs as `ref` (the default role) or `role=ref`, by role.

    Raises:
        InvalidRequest: a role is given twice.
    """
    roles: dict[str, str] = {}
    for item in given:
        role, equals, ref = item.partition("=")
        role, ref = (role, ref) if equals else (default, item)
        if role in roles:
            raise InvalidRequest(f"The role {role!r} is given twice.", hint="Write role=reference for the second one.")
        roles[role] = ref
    return roles


def seconds_of(text: str) -> int:
    """A span (`30d`, `12h`, `90m`, `2w`) in seconds; raises InvalidRequest."""
    span = _SPAN.match(text)
    if span is None:
        raise InvalidRequest(f"{text!r} is not a span of time.", hint="Write 30d, 12h, 90m or 2w.", code="usage")
    return int(timedelta(**{_UNITS[span[2]]: int(span[1])}).total_seconds())


def moment_of(text: str, *, ahead: bool = True) -> str:
    """An ISO time in UTC from a date, or from a span (`30d`, `12h`, `90m`, `2w`) from now, ahead or back.

    Raises:
        InvalidRequest: it is neither.
    """
    span = _SPAN.match(text)
    if span:
        length = timedelta(**{_UNITS[span[2]]: int(span[1])})
        return (datetime.now(UTC) + (length if ahead else -length)).isoformat()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequest(
            f"{text!r} is neither a span nor a date.", hint="Write 30d, 12h, 90m, 2w or 2027-01-31.", code="usage"
        ) from error
    return moment.astimezone(UTC).isoformat()
