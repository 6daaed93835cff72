"""What the forms of Office share: relations of parts, the title, and macros, which are never looked at."""

from __future__ import annotations

import posixpath
from typing import Any

from modelworks.capabilities.document.archive import SafeArchive
from modelworks.contract.passages import Fault


def local(element: Any) -> str:
    """An element's name without its namespace: the strict and the transitional form differ only there."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def relations(archive: SafeArchive, part: str) -> dict[str, tuple[str, str]]:
    """Type and target by id; targets inside the archive are made paths in it, those outside are left away."""
    if not archive.has(part):
        return {}
    folder = posixpath.dirname(posixpath.dirname(part))
    found = {}
    for element in archive.xml(part):
        target = element.get("Target") or ""
        if element.get("TargetMode") == "External" or not target:
            continue
        path = target.lstrip("/") if target.startswith("/") else posixpath.normpath(posixpath.join(folder, target))
        found[element.get("Id") or ""] = (element.get("Type") or "", path)
    return found


def core_title(archive: SafeArchive) -> str | None:
    """The title among the properties of the document."""
    if not archive.has("docProps/core.xml"):
        return None
    for element in archive.xml("docProps/core.xml"):
        if local(element) == "title" and (element.text or "").strip():
            return str(element.text).strip()
    return None


def macros(archive: SafeArchive) -> list[Fault]:
    """A note where the document carries programs."""
    if not any(name.lower().endswith(("vbaproject.bin", ".vbs", "macros.bin")) for name in archive.names):
        return []
    return [
        Fault(
            code="macros_ignored",
            message="The document carries macros. They were neither run nor read; its text was.",
            hint="Nothing needs to be done; a copy without macros is safer for people.",
        )
    ]
