"""RSS 2.0, RSS 1.0 and Atom (RFC 4287): each entry is a document."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import TYPE_CHECKING

from modelworks.contract.errors import Cancelled, InvalidData, ModelworksError
from modelworks.kernel.dataspace.sources.asking import Asker, bearer, existing
from modelworks.kernel.dataspace.sources.forms import FeedForm, WebForm
from modelworks.kernel.dataspace.sources.links import canonical
from modelworks.kernel.dataspace.sources.markup import parse_xml
from modelworks.kernel.dataspace.sources.source import MAX_KEY_CHARS, Item, Surroundings, attributes_of, text_item
from modelworks.kernel.dataspace.sources.web import WebSource

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_ROOTS = ("rss", "feed", "RDF")


class FeedSource:
    """Entries of a feed, told apart by guid or id."""

    #: A feed shows its newest entries only.
    lists_all = False

    def __init__(self, form: FeedForm, surroundings: Surroundings) -> None:
        self._form = form
        self._around = surroundings
        self._asker = Asker(surroundings, form.uri, bearer(surroundings.credential))

    def scan(self) -> Iterator[Item]:
        noted = self._around.cursor
        conditions = {}
        if self._around.known and noted.get("etag"):
            conditions["If-None-Match"] = noted["etag"]
        elif self._around.known and noted.get("modified"):
            conditions["If-Modified-Since"] = noted["modified"]
        found = existing(
            self._asker.get(self._form.uri, accept="application/rss+xml, application/atom+xml, */*", conditions=conditions)
        )
        if found.status == 304:
            return
        root = parse_xml(found.content, self._form.uri)
        if _local(root) not in _ROOTS:
            raise InvalidData(
                f"{self._form.uri} is not a feed: its root is {_local(root)!r}.", hint="Give the address of RSS or Atom."
            )
        seen: set[str] = set()
        for entry in (each for each in root.iter() if _local(each) in ("item", "entry")):
            for item in self._entry(entry):
                if item.key not in seen:
                    seen.add(item.key)
                    yield item
        self._around.cursor = {"etag": found.headers.get("etag"), "modified": found.headers.get("last-modified")}

    def _entry(self, entry: Element) -> Iterator[Item]:
        link = _link(entry)
        key = _text(entry, "guid", "id") or link or _text(entry, "title")
        if not key:
            self._around.note("An entry without guid, link and title was left out.")
            return
        title = _text(entry, "title") or key
        told = {"url": link, "published": _text(entry, "pubDate", "published", "date"), "author": _author(entry)}
        if self._form.follow and link is not None:
            yield from self._followed(key[:MAX_KEY_CHARS], title, link)
            return
        content = _content(entry)
        page = f"<!doctype html><html><head><meta charset='utf-8'><title>{html.escape(title)}</title></head>"
        page += f"<body><h1>{html.escape(title)}</h1>{content}</body></html>"
        yield text_item(key[:MAX_KEY_CHARS], title, page, media_type="text/html; charset=utf-8", attributes=attributes_of(told))

    def _followed(self, key: str, title: str, link: str) -> Iterator[Item]:
        """The page behind an entry; it is read once, since an entry that changes gets another link or is rare."""
        if key in self._around.known:
            yield Item(key=key, name=title, fingerprint=self._around.known[key])
            return
        around = Surroundings(
            policy=self._around.policy,
            limits=self._around.limits,
            workdir=self._around.workdir,
            blobs=self._around.blobs,
            is_cancelled=self._around.is_cancelled,
        )
        try:
            for page in WebSource(WebForm(uri=link), around).scan():
                yield Item(
                    key=key,
                    name=title,
                    fingerprint=page.fingerprint,
                    read=page.read,
                    num_bytes=page.num_bytes,
                    media_type=page.media_type,
                    attributes=page.attributes,
                )
        except Cancelled:
            raise
        except ModelworksError as error:
            yield Item(key=key, name=title, fingerprint="", fault=error)


def _local(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _text(entry: Element, *names: str) -> str | None:
    for name in names:
        for child in entry:
            if _local(child) == name and child.text and child.text.strip():
                return " ".join(child.text.split())
    return None


def _link(entry: Element) -> str | None:
    for child in entry:
        if _local(child) != "link" or child.get("rel", "alternate") != "alternate":
            continue
        try:
            url = canonical(child.get("href") or (child.text or "").strip())
        except ValueError:
            continue
        if url.startswith(("http://", "https://")):
            return url
    return None


def _author(entry: Element) -> str | None:
    for child in entry:
        if _local(child) == "author":
            return _text(child, "name") or (child.text or "").strip() or None
    return _text(entry, "creator")


def _content(entry: Element) -> str:
    """What an entry holds as HTML: the longest of its texts."""
    found = [""]
    for child in entry:
        if (name := _local(child)) in ("encoded", "content", "description", "summary"):
            kind = child.get("type", "text" if name in ("content", "summary") else "html")  # RFC 4287, 3.1.1
            if kind == "xhtml":
                found.append(" ".join("".join(child.itertext()).split()).join(("<p>", "</p>")))
            elif kind == "text":
                found.append(f"<p>{html.escape(child.text or '')}</p>")
            else:
                found.append(child.text or "")
    return max(found, key=len)
