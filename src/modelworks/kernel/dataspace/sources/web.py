"""`https://…`: one page, the pages of a site map, or a walk below a prefix, as robots.txt allows (RFC 9309)."""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from modelworks.contract.errors import (
    Cancelled,
    InvalidData,
    MissingExtra,
    ModelworksError,
    PayloadTooLarge,
    PermissionDenied,
)
from modelworks.kernel.dataspace.sources.asking import Asker, Found, bearer, existing
from modelworks.kernel.dataspace.sources.forms import WebForm
from modelworks.kernel.dataspace.sources.links import PageLinks, canonical
from modelworks.kernel.dataspace.sources.markup import parse_xml
from modelworks.kernel.dataspace.sources.source import Item, Surroundings, attributes_of

AGENT = "modelworks"
_MAX_DELAY_S = 30.0
_MAX_MAP_BYTES = 50 << 20
_MAX_MAPS = 200
#: What pages are made of, and nobody reads.
_NOT_READ = ("image/", "video/", "audio/", "font/", "text/css", "text/javascript", "application/javascript")
_PAGES = ("text/html", "application/xhtml+xml")


@dataclass(slots=True)
class _Page:
    url: str
    depth: int


class WebSource:
    """Pages, each with its own address as its key.

    What a server says of a page's version (ETag, Last-Modified) and the page's links are kept in the cursor, so that a page
    that has not changed is neither sent again nor lost as a way to others.
    """

    lists_all = True

    def __init__(self, form: WebForm, surroundings: Surroundings) -> None:
        self._form = form
        self._around = surroundings
        self._start = canonical(form.uri)
        self._asker = Asker(surroundings, self._start, bearer(surroundings.credential), form.delay_s)
        self._robots: dict[str, Any] = {}
        self._before = _unpacked(surroundings.cursor)
        self._now: dict[str, dict[str, Any]] = {}

    def scan(self) -> Iterator[Item]:
        if self._form.mode == "crawl":
            yield from self._crawl()
        else:
            yield from self._listed()
        self._around.cursor = _packed(self._now)

    def _listed(self) -> Iterator[Item]:
        is_single = self._form.mode == "page"
        urls = [self._start] if is_single else self._mapped()
        for url in urls:
            try:
                self._check_robots(url)
                found = self._get(url, lambda target: self._is_open(target))
            except Cancelled:
                raise
            except ModelworksError as error:
                if is_single:
                    raise
                yield self._faulty(url, error)
                continue
            if found.status in (404, 410):
                if is_single:
                    existing(found)
                self._around.note(f"{url} is listed and does not exist.")
                continue
            item, _ = self._page(url, found)
            if item is not None:
                yield item

    def _crawl(self) -> Iterator[Item]:
        first = existing(self._begin())
        # Where the first address leads is where the walk begins: http becomes https, /docs becomes /docs/.
        start = canonical(first.url)
        prefix = canonical(self._form.prefix) if self._form.prefix else start[: start.rindex("/") + 1]
        waiting, seen, taken = deque([_Page(start, 0)]), {start}, 0
        while waiting:
            page = waiting.popleft()
            if taken >= self._form.max_pages:
                self._around.incomplete(f"The walk ended at {taken} pages (max_pages); nothing was taken for gone.")
                return
            try:
                found = first if page.url == start else self._walk(page.url, prefix)
            except Cancelled:
                raise
            except ModelworksError as error:
                if error.error_code == "robots_denied":
                    self._around.note(error.message)
                elif error.error_code != "redirected_away":
                    # What only it leads to is not found this time.
                    self._around.incomplete(f"{page.url} could not be read; nothing was taken for gone.")
                    yield self._faulty(page.url, error)
                continue
            if found.status in (404, 410):
                continue
            url = canonical(found.url)
            if url != page.url and url in seen:
                continue
            seen.add(url)
            taken += 1
            item, links = self._page(url, found)
            if item is not None:
                yield item
            if page.depth < self._form.max_depth:
                fresh = [link for link in links if link.startswith(prefix) and link not in seen]
                seen.update(fresh)
                waiting.extend(_Page(link, page.depth + 1) for link in fresh)

    def _begin(self) -> Found:
        self._check_robots(self._start)
        return self._get(self._start, self._is_open)

    def _walk(self, url: str, prefix: str) -> Found:
        self._check_robots(url)
        return self._get(url, lambda target: target.startswith(prefix) and self._is_open(target))

    def _get(self, url: str, may_go: Any) -> Found:
        noted = self._before.get(url)
        conditions: dict[str, str] = {}
        # Only where its document is still there: of one that is not, the bytes are needed.
        if noted is not None and url in self._around.known:
            if noted.get("etag"):
                conditions["If-None-Match"] = noted["etag"]
            elif noted.get("modified"):
                conditions["If-Modified-Since"] = noted["modified"]
        return self._asker.get(url, conditions=conditions, may_go=may_go)

    def _page(self, url: str, found: Found) -> tuple[Item | None, list[str]]:
        """The page as a document, where it wants to be one, and where it leads to."""
        if found.status == 304:
            noted = self._before[url]
            self._now[url] = noted
            item = Item(key=url, name=noted.get("title") or _name(url), fingerprint=self._around.known[url])
            return item, list(noted.get("links", ()))
        links: list[str] = []
        title, is_indexable = None, "noindex" not in found.headers.get("x-robots-tag", "").lower()
        if found.media_type in _PAGES:
            page = PageLinks.of(found.url, found.content, found.charset)
            links, title = page.links, " ".join((page.title or "").split()) or None
            is_indexable = is_indexable and page.is_indexable
        keep = links if self._form.mode == "crawl" else []
        noted = {
            "etag": found.headers.get("etag"),
            "modified": found.headers.get("last-modified"),
            "title": title,
            "links": keep,
        }
        if not is_indexable or found.media_type.startswith(_NOT_READ) or not found.content:
            # Nothing is noted: without a document its links have to be read anew each time.
            return None, links
        self._now[url] = {name: value for name, value in noted.items() if value}
        media_type = f"{found.media_type}; charset={found.charset}" if found.charset else found.media_type
        item = Item(
            key=url,
            name=title or _name(url),
            fingerprint=hashlib.sha256(found.content).hexdigest(),
            read=lambda: iter((found.content,)),
            num_bytes=len(found.content),
            media_type=media_type or None,
            attributes=attributes_of({"url": url, "modified": found.headers.get("last-modified")}),
        )
        return item, links

    def _faulty(self, url: str, error: ModelworksError) -> Item:
        if url in self._before:
            self._now[url] = self._before[url]
        return Item(key=url, name=_name(url), fingerprint="", fault=error)

    # -- site maps ----------------------------------------------------------------------------------------------------

    def _mapped(self) -> Iterable[str]:
        """Addresses of a site map, and of those that it names."""
        waiting, maps, urls = deque([self._start]), {self._start}, dict[str, None]()
        while waiting:
            place = waiting.popleft()
            root = parse_xml(_inflated(existing(self._asker.get(place))), place)
            is_index = _local(root.tag) == "sitemapindex"
            for entry in root:
                location = next((child.text for child in entry if _local(child.tag) == "loc"), None)
                url = _same_site(location, place)
                if url is None:
                    continue
                if not is_index:
                    urls.setdefault(url)
                elif url not in maps:
                    maps.add(url)
                    waiting.append(url)
            if len(maps) > _MAX_MAPS or len(urls) > self._form.max_pages:
                raise PayloadTooLarge(
                    f"The site map {self._start} names more than {self._form.max_pages} pages or {_MAX_MAPS} maps.",
                    hint="Raise max_pages, or name one of its parts.",
                    param="max_pages",
                )
        return urls

    # -- robots.txt ---------------------------------------------------------------------------------------------------

    def _is_open(self, url: str) -> bool:
        try:
            self._check_robots(url)
        except PermissionDenied:
            return False
        return True

    def _check_robots(self, url: str) -> None:
        rules = self._rules(url)
        if rules is not None and not rules.can_fetch(url, AGENT):
            raise PermissionDenied(
                f"The site's robots.txt closes {url}.",
                hint="Ask whoever runs the site, or take the documents another way.",
                code="robots_denied",
            )

    def _rules(self, url: str) -> Any:
        """The rules of an address's site; None: none. Where they cannot be read, everything is closed."""
        parts = urlsplit(url)
        site = f"{parts.scheme}://{parts.netloc}"
        if site not in self._robots:
            try:
                from protego import Protego
            except ModuleNotFoundError as error:
                raise MissingExtra.of("protego", "sources") from error
            try:
                found = self._asker.get(f"{site}/robots.txt", accept="text/plain, */*;q=0.1")
                text = found.content.decode("utf-8", errors="replace") if found.status == 200 else ""
            except PermissionDenied as error:
                if error.error_code == "egress_denied":
                    raise
                text = ""  # RFC 9309, 2.3.1.3: a file that is refused is as good as none
            rules = self._robots[site] = Protego.parse(text[: 512 << 10])
            asked = rules.crawl_delay(AGENT)
            if asked is not None:
                self._asker.delay_s = max(self._asker.delay_s, min(float(asked), _MAX_DELAY_S))
        return self._robots[site]


def _inflated(found: Found) -> bytes:
    """A site map, which may be packed (`sitemap.xml.gz`), within its protocol's limit of 50 MB."""
    if not found.content.startswith(b"\x1f\x8b"):
        return found.content
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(found.content)) as file:
            text = file.read(_MAX_MAP_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidData(f"The site map {found.url} is damaged: {error}.") from error
    if len(text) > _MAX_MAP_BYTES:
        raise PayloadTooLarge(f"The site map {found.url} unpacks to more than {_MAX_MAP_BYTES} bytes.")
    return text


def _same_site(location: str | None, place: str) -> str | None:
    """An address that a map may name: of its own host (sitemaps.org), so that nobody is sent to ask others for things."""
    try:
        url = canonical((location or "").strip())
    except ValueError:
        return None
    parts = urlsplit(url)
    is_same = parts.scheme in ("http", "https") and parts.netloc == urlsplit(place).netloc and parts.username is None
    return url if is_same else None


def _local(tag: Any) -> str:
    return str(tag).rpartition("}")[2]


def _name(url: str) -> str:
    parts = urlsplit(url)
    return unquote(f"{parts.netloc}{parts.path}")


def _packed(pages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Addresses once, links as their places: a site's pages all name the same ones."""
    places: dict[str, int] = {}
    packed = {}
    for url, page in pages.items():
        links = [places.setdefault(link, len(places)) for link in page.get("links", ())]
        packed[url] = {
            **{name: value for name, value in page.items() if name != "links"},
            **({"links": links} if links else {}),
        }
    return {"addresses": list(places), "pages": packed}


def _unpacked(cursor: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    addresses = cursor.get("addresses", [])
    return {
        url: {**page, "links": [addresses[each] for each in page.get("links", ())]}
        for url, page in cursor.get("pages", {}).items()
    }
