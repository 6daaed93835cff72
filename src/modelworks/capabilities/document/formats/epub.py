"""Books (EPUB 2 and 3): the chapters of the spine, each a page of XHTML."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from urllib.parse import unquote

from modelworks.capabilities.document.archive import SafeArchive, corrupt
from modelworks.capabilities.document.blocks import Block, Parsed, Refused, Source
from modelworks.capabilities.document.formats.html import blocks_of_html, parse_html
from modelworks.capabilities.document.formats.office import local
from modelworks.capabilities.document.pages import Pages
from modelworks.capabilities.document.signature import MEDIA_TYPES
from modelworks.contract.passages import Fault


def read(source: Source, pages: Pages) -> Parsed:
    """All chapters in the order of the spine; a chapter that is missing or protected gives a fault."""
    parsed = Parsed(blocks=(), media_type=MEDIA_TYPES["epub"])
    with SafeArchive(source) as archive:
        if archive.has("META-INF/encryption.xml") and archive.has("META-INF/rights.xml"):
            raise Refused("encrypted", "The book is protected against copying.", "Put in an edition without protection.")
        package = _package(archive)
        root = archive.xml(package)
        parsed.title = next((str(each.text).strip() for each in root.iter() if local(each) == "title" and each.text), None)
        blocks = list(_chapters(archive, posixpath.dirname(package), root, parsed.faults))
    parsed.blocks = blocks
    return parsed


def _package(archive: SafeArchive) -> str:
    for element in archive.xml("META-INF/container.xml").iter():
        if local(element) == "rootfile" and element.get("full-path"):
            return str(element.get("full-path"))
    raise corrupt("it names no package")


def _chapters(archive: SafeArchive, folder: str, root: object, faults: list[Fault]) -> Iterator[Block]:
    items = {}
    order = []
    for element in root.iter():  # type: ignore[attr-defined]
        if local(element) == "item":
            items[element.get("id")] = (element.get("href") or "", element.get("properties") or "")
        elif local(element) == "itemref" and element.get("linear") != "no":
            order.append(element.get("idref"))
    for identity in order:
        href, properties = items.get(identity, ("", ""))
        if not href or "nav" in properties.split():
            continue
        path = posixpath.normpath(posixpath.join(folder, unquote(href)))
        if not archive.has(path):
            faults.append(Fault(code="part_missing", message=f"The chapter {path[:100]!r} is not in the book."))
            continue
        yield from blocks_of_html(parse_html(archive.read(path)), whole=True)
