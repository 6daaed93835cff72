"""Lists of JSON objects, however they are paged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.dataspace.sources.surroundings import Site, contents, listed, opened, surroundings

from modelworks.contract.errors import InvalidData, PermissionDenied


def _object(number: int) -> dict[str, Any]:
    return {"id": number, "title": f"第{number}", "body": {"text": f"Text {number}"}, "readers": [f"usr_{number}"]}


def _put(site: Site, path: str, value: Any, **headers: str) -> None:
    site.put(path, json.dumps(value), "application/json", **headers)


def test_objects_are_documents(tmp_path: Path, site: Site) -> None:
    _put(site, "/api", {"data": {"items": [_object(1), _object(2), _object(1)]}})
    form = {"kind": "rest", "uri": f"{site.url}/api", "items": "data.items", "name": "title"}
    items = listed(opened(surroundings(tmp_path), **form, attributes=["body.text"], access="readers"))
    assert {key: item.name for key, item in items.items()} == {"1": "第1", "2": "第2"}
    assert items["1"].attributes == {"body.text": "Text 1"}
    assert items["1"].access == ["usr_1"]
    written = contents(opened(surroundings(tmp_path), **form, template="{title}: {body.text} {nothing}"))
    assert written["2"].decode() == "第2: Text 2 "
    assert json.loads(contents(opened(surroundings(tmp_path), **form))["1"]) == _object(1)


def test_an_object_that_names_no_readers_is_nobodys(tmp_path: Path, site: Site) -> None:
    _put(site, "/api", [{"id": 1}, {"id": 2, "readers": []}])
    items = listed(opened(surroundings(tmp_path), kind="rest", uri=f"{site.url}/api", access="readers"))
    assert [item.access for item in items.values()] == [["nobody"], ["nobody"]]


@pytest.mark.parametrize(
    ("paging", "pages"),
    [
        ({"kind": "link"}, {"/api": {"link": '</api?p=2>; rel="next", </api>; rel="first"'}, "/api?p=2": {}}),
        ({"kind": "next", "field": "next"}, {"/api": {"next": "/api?p=2"}, "/api?p=2": {"next": None}}),
        ({"kind": "cursor", "field": "more", "parameter": "c"}, {"/api": {"more": "x y"}, "/api?c=x+y": {"more": ""}}),
        ({"kind": "page", "parameter": "p"}, {"/api?p=1": {}, "/api?p=2": {}, "/api?p=3": {"empty": True}}),
        ({"kind": "offset", "parameter": "o"}, {"/api?o=0": {}, "/api?o=2": {}, "/api?o=4": {"empty": True}}),
    ],
)
def test_ways_of_paging(tmp_path: Path, site: Site, paging: dict[str, Any], pages: dict[str, dict[str, Any]]) -> None:
    for number, (path, more) in enumerate(pages.items()):
        objects = [] if more.get("empty") else [_object(2 * number + 1), _object(2 * number + 2)]
        headers = {"link": more["link"]} if "link" in more else {}
        _put(site, path, {"items": objects} | more, **headers)
    found = listed(opened(surroundings(tmp_path), kind="rest", uri=f"{site.url}/api", items="items", paging=paging))
    assert set(found) == {"1", "2", "3", "4"}
    assert site.paths() == list(pages)


def test_a_list_without_an_end_and_one_that_leads_away(tmp_path: Path, site: Site) -> None:
    form = {
        "kind": "rest",
        "uri": f"{site.url}/api",
        "items": "items",
        "paging": {"kind": "next", "field": "next"},
        "secret": "s",
    }
    _put(site, "/api", {"items": [_object(1)], "next": "/api"})
    with pytest.raises(InvalidData, match="circle"):
        listed(opened(surroundings(tmp_path, credential="t"), **form))
    _put(site, "/api", {"items": [_object(1)], "next": "http://127.0.0.1:9/steal"})
    with pytest.raises(PermissionDenied, match="another place"):
        listed(opened(surroundings(tmp_path, credential="t"), **form))
    _put(site, "/api", {"items": [_object(1)], "next": "/api?p=2"})
    _put(site, "/api?p=2", {"items": [_object(2)], "next": "/api?p=3"})
    around = surroundings(tmp_path, credential="t")
    assert set(listed(opened(around, **form, max_pages=2))) == {"1", "2"}
    assert not around.is_complete
    assert {headers.get("authorization") for _, headers in site.asked} == {"Bearer t"}


@pytest.mark.parametrize(
    ("answer", "message"), [({"items": {}}, "no list"), ({"items": [{"name": 1}]}, "no 'id'"), ({"items": ["x"]}, "no 'id'")]
)
def test_answers_of_another_form(tmp_path: Path, site: Site, answer: Any, message: str) -> None:
    _put(site, "/api", answer)
    with pytest.raises(InvalidData, match=message):
        listed(opened(surroundings(tmp_path), kind="rest", uri=f"{site.url}/api", items="items"))
    site.put("/api", "<html>", "text/html")
    with pytest.raises(InvalidData, match="JSON"):
        listed(opened(surroundings(tmp_path), kind="rest", uri=f"{site.url}/api", items="items"))
