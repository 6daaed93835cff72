"""What the two hubs have in common: how a repository is named, and how its parts of a part are chosen."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from modelworks.contract.errors import InvalidRequest, NotFound
from modelworks.kernel.catalog.schemas import SourceFile

_SEGMENT = r"[A-Za-z0-9_][\w.-]*"
_URI = re.compile(
    rf"^(?P<scheme>hf|ms)://(?P<type>(models|datasets)/)?(?P<repo>{_SEGMENT}(/{_SEGMENT})?)"
    r"(@(?P<revision>[\w.%-]+))?(/(?P<path>[^@]+))?$",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class HubLocation:
    """A repository at a hub, perhaps a revision and a folder or file of it."""

    repo: str
    repo_type: str
    revision: str | None
    path: str | None


def parse_location(uri: str, *, kind: str, revision: str | None) -> HubLocation:
    """Read `hf://org/name[@revision][/path]`; slashes in a revision are written %2F.

    Args:
        revision: overrides the one in the URI.

    Raises:
        InvalidRequest: not of this form (code `invalid_source`).
    """
    match = _URI.match(uri)
    if match is None:
        raise InvalidRequest(
            f"{uri[:200]!r} does not name a repository.",
            hint="Write hf://org/name, hf://org/name@revision or hf://org/name/folder (the same with ms://).",
            param="source",
            code="invalid_source",
        )
    stated = unquote(match["revision"]) if match["revision"] else None
    stated_type = match["type"].removesuffix("s/") if match["type"] else None
    repo_type = stated_type or ("dataset" if kind == "dataset" else "model")
    return HubLocation(match["repo"], repo_type, revision or stated, match["path"].strip("/") if match["path"] else None)


def within(files: Sequence[SourceFile], location: HubLocation, uri: str) -> list[SourceFile]:
    """The files under the location's path.

    Raises:
        NotFound: there are none.
    """
    path = location.path
    found = [file for file in files if path is None or file.path == path or file.path.startswith(path + "/")]
    if not found:
        what = f"nothing under {path!r}" if path is not None else "no files"
        raise NotFound(f"{uri} has {what}.", hint="Check the path and the revision.", param="source")
    return found


def local_path(path: str, location: HubLocation) -> str:
    """A file's path in the version: relative to the folder that was named."""
    if location.path is None:
        return path
    return path.rpartition("/")[2] if path == location.path else path.removeprefix(location.path + "/")
