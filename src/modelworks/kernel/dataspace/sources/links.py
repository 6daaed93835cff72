"""What a page says to whoever walks through a site: its title, its links, and what must not be kept or followed."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import urldefrag, urljoin, urlsplit, urlunsplit

_MAX_LINKS = 5000
_PORTS = {"http": 80, "https": 443}


class PageLinks(HTMLParser):
    """Reads a page; nothing in it is run or fetched.

    Attributes:
        title: as it calls itself, or None.
        links: absolute addresses without fragments, in order, each once.
        is_indexable: False where a robots tag says `noindex`.
    """

    def __init__(self, url: str) -> None:
        super().__init__(convert_charrefs=True)
        self.title: str | None = None
        self.is_indexable = True
        self._is_followed = True
        self._base = url
        self._found: dict[str, None] = {}
        self._in_title = False

    @classmethod
    def of(cls, url: str, content: bytes, charset: str | None) -> PageLinks:
        """The links of a page's bytes."""
        page = cls(url)
        try:
            text = content.decode(charset or "utf-8", errors="replace")
        except LookupError:
            text = content.decode("utf-8", errors="replace")
        page.feed(text)
        page.close()
        return page

    @property
    def links(self) -> list[str]:
        return list(self._found) if self._is_followed else []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "title" and self.title is None:
            self._in_title, self.title = True, ""
        elif tag == "base" and values.get("href"):
            self._base = _joined(self._base, values["href"]) or self._base
        elif tag == "meta" and values.get("name", "").lower() in ("robots", "modelworks"):
            said = {word.strip().lower() for word in values.get("content", "").split(",")}
            self.is_indexable = self.is_indexable and not said & {"noindex", "none"}
            self._is_followed = self._is_followed and not said & {"nofollow", "none"}
        elif tag in ("a", "area") and "nofollow" not in values.get("rel", "").lower().split():
            link = _joined(self._base, values.get("href", ""))
            if link is not None and len(self._found) < _MAX_LINKS:
                self._found[link] = None

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False

    def handle_data(self, data: str) -> None:
        if self._in_title and self.title is not None and len(self.title) < 500:
            self.title += data


def canonical(url: str) -> str:
    """One form for addresses that mean the same: host in small letters, no fragment, no default port, a path.

    Raises:
        ValueError: it is none.
    """
    parts = urlsplit(urldefrag(url)[0])
    host = (parts.hostname or "").lower()
    port = parts.port
    if ":" in host:
        host = f"[{host}]"
    netloc = host if port is None or port == _PORTS.get(parts.scheme.lower()) else f"{host}:{port}"
    return urlunsplit((parts.scheme.lower(), netloc, parts.path or "/", parts.query, ""))


def _joined(base: str, link: str) -> str | None:
    try:
        url = urljoin(base, link.strip())
        parts = urlsplit(url)
        if not link.strip() or parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            return None
        return canonical(url)
    except ValueError:
        return None
