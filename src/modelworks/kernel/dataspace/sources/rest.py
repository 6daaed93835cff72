"""A list of JSON objects behind an address, page by page; each object is a document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

from modelworks.contract.errors import InvalidData, PermissionDenied
from modelworks.kernel.dataspace.sources.asking import Asker, Found, bearer, existing
from modelworks.kernel.dataspace.sources.forms import RestForm
from modelworks.kernel.dataspace.sources.source import (
    MAX_KEY_CHARS,
    NOBODY,
    Item,
    Surroundings,
    attributes_of,
    filled,
    text_item,
)

_ABSENT = object()


class RestSource:
    """Objects of a list, told apart by one of their fields."""

    lists_all = True

    def __init__(self, form: RestForm, surroundings: Surroundings) -> None:
        self._form = form
        self._around = surroundings
        credential = bearer(surroundings.credential, header=form.header, scheme=form.scheme)
        self._asker = Asker(surroundings, form.uri, credential)

    def scan(self) -> Iterator[Item]:
        url: str | None = self._first()
        asked: set[str] = set()
        seen: set[str] = set()
        number, offset = self._form.paging.start, 0
        while url is not None:
            if url in asked:
                raise InvalidData(
                    f"The list goes round in a circle: page {len(asked) + 1} is one that was read.",
                    hint="Check paging.",
                    param="paging",
                )
            if len(asked) >= self._form.max_pages:
                self._around.incomplete(f"Reading ended after {len(asked)} pages (max_pages); nothing was taken for gone.")
                return
            asked.add(url)
            found = existing(self._asker.get(url, accept="application/json", may_go=self._is_own))
            answer = _parsed(found)
            listed = _at(answer, self._form.items)
            if not isinstance(listed, list):
                where = self._form.items or "the answer"
                raise InvalidData(
                    f"{where} of {self._form.uri.partition('?')[0]} is no list.",
                    hint="Name the path of the list in items.",
                    param="items",
                )
            for entry in listed:
                item = self._item(entry)
                if item.key not in seen:
                    seen.add(item.key)
                    yield item
            number, offset = number + 1, offset + len(listed)
            url = self._next(url, found, answer, len(listed), number, offset)

    def _item(self, entry: Any) -> Item:
        form = self._form
        key = _at(entry, form.key)
        if key is _ABSENT or isinstance(key, dict | list | None):
            raise InvalidData(
                f"An object of the list has no {form.key!r}.",
                hint="Name the path of what tells objects apart in key.",
                param="key",
            )
        name = _at(entry, form.name) if form.name else key
        if form.template is not None:
            values = {each: _shown(_at(entry, each)) for each in re.findall(r"\{([^{}]+)\}", form.template)}
            content, media_type = filled(form.template, values, where="the list"), "text/plain"
        else:
            content, media_type = json.dumps(entry, ensure_ascii=False, indent=1, sort_keys=True), "application/json"
        access: list[str] | None = None
        if form.access is not None:
            named = _at(entry, form.access)
            access = [str(each) for each in named] if isinstance(named, list) else _shown(named).split(",")
            # A field that is not there names nobody, which must not come to mean everybody.
            access = [each.strip() for each in access if each.strip()] or [NOBODY]
        told = {each: _shown(value) for each in form.attributes if (value := _at(entry, each)) is not _ABSENT}
        title = _shown(name)[:500] or str(key)
        return text_item(
            str(key)[:MAX_KEY_CHARS], title, content, media_type=media_type, attributes=attributes_of(told), access=access
        )

    def _first(self) -> str:
        paging = self._form.paging
        told = {} if paging.size_parameter is None else {paging.size_parameter: str(paging.size)}
        if paging.kind == "page" and paging.parameter:
            told[paging.parameter] = str(paging.start)
        elif paging.kind == "offset" and paging.parameter:
            told[paging.parameter] = "0"
        return _with(self._form.uri, told)

    def _next(self, url: str, found: Found, answer: Any, num_listed: int, number: int, offset: int) -> str | None:
        """The address of the page after this one, or None. It stays with the origin: credentials go along."""
        paging = self._form.paging
        following: str | None = None
        match paging.kind:
            case "link":
                following = _linked(found.headers.get("link", ""))
            case "next" | "cursor":
                value = _at(answer, paging.field or "")
                if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
                    following = str(value) if paging.kind == "next" else _with(url, {paging.parameter or "": str(value)})
            case "page" if num_listed:
                following = _with(url, {paging.parameter or "": str(number)})
            case "offset" if num_listed:
                following = _with(url, {paging.parameter or "": str(offset)})
        if following is None:
            return None
        following = urljoin(url, following)
        if not self._is_own(following):
            raise PermissionDenied(
                f"The list of {urlsplit(url).netloc} continues at another place.",
                hint="Name that one as its source.",
                param="uri",
            )
        return following

    def _is_own(self, url: str) -> bool:
        here, there = urlsplit(self._form.uri), urlsplit(url)
        return (here.scheme, here.netloc) == (there.scheme, there.netloc)


def _parsed(found: Found) -> Any:
    try:
        return json.loads(found.content)
    except (ValueError, RecursionError) as error:
        raise InvalidData(
            f"{found.url.partition('?')[0]} did not answer with JSON: {type(error).__name__}.", hint="Check the address."
        ) from error


def _at(value: Any, path: str) -> Any:
    """What lies at a dotted path (`data.items`, `authors.0.name`); `_ABSENT` where nothing does."""
    for part in path.split(".") if path else ():
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return _ABSENT
    return value


def _shown(value: Any) -> str:
    if value is None or value is _ABSENT:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _with(url: str, told: Mapping[str, str]) -> str:
    parts = urlsplit(url)
    kept = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in told]
    return parts._replace(query=urlencode([*kept, *told.items()])).geturl()


def _linked(header: str) -> str | None:
    """The address with `rel="next"` of a Link header (RFC 8288)."""
    for match in re.finditer(r"<([^<>]*)>([^<]*)", header):
        if re.search(r";\s*rel\s*=\s*\"?[^\";]*\bnext\b", match[2]):
            return match[1]
    return None
