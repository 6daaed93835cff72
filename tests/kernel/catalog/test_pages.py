"""Pages of capabilities: found by entry point, given out as named files under one policy, and nothing beside them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from modelworks.contract.capability import Capability
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.catalog import discovery
from modelworks.server import create_app, create_platform

DECLARATION = """
from pydantic import BaseModel
from modelworks.contract import Capability, Task

class Text(BaseModel):
    text: str

capability = Capability(
    name="tide", summary="Tides.", package="tide_pages", page="page",
    tasks=(Task(name="tide-table", input=Text, output=Text, predictor="tide_pages.serve:Table"),),
)
"""
SECRET = "TOP-SECRET"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page of a capability that a distribution brings."""
    site = tmp_path / "site"
    package = site / "tide_pages"
    (package / "page" / "parts").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "capability.py").write_text(DECLARATION)
    (package / "secret.json").write_text(SECRET)
    (package / "page" / "index.html").write_text("<!doctype html><title>Tides</title>")
    (package / "page" / "parts" / "draw.js").write_text("export const one = 1\n")
    for name in ("code.py", ".hidden.json", "noending", "data.bin"):
        (package / "page" / name).write_text(SECRET)
    (package / "page" / "out.json").symlink_to(package / "secret.json")
    info = site / "tide_pages-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tide-pages\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[modelworks.capabilities]\ntide = tide_pages.capability:capability\n")
    monkeypatch.syspath_prepend(str(site))
    discovery.refresh()
    yield package / "page"
    for module in list(sys.modules):
        if module.partition(".")[0] == "tide_pages":
            del sys.modules[module]
    monkeypatch.undo()
    discovery.refresh()


@pytest.fixture
def http(folder: Path, tmp_path: Path) -> Iterator[TestClient]:
    platform = create_platform(Settings(home=tmp_path / "home", log_level="error"))
    # Not entered as a context: nothing is started, pages need none of it.
    yield TestClient(create_app(platform), follow_redirects=False)
    platform.close()


def test_a_page_needs_no_key_and_runs_under_the_strict_policy(http: TestClient) -> None:
    listed = http.get("/pages").json()["data"]
    assert {"object": "capability.page", "capability": "tide", "summary": "Tides.", "url": "/pages/tide/"} in listed
    moved = http.get("/pages/tide")
    assert (moved.status_code, moved.headers["location"]) == (307, "tide/")
    page = http.get("/pages/tide/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "Tides" in page.text
    script = http.get("/pages/tide/parts/draw.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    for answer in (page, script):
        policy = dict(each.split(" ", 1) for each in answer.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert {policy[f"{kind}-src"] for kind in ("script", "style", "img", "font", "connect")} == {"'self'"}
        assert (policy["require-trusted-types-for"], policy["trusted-types"]) == ("'script'", "'none'")
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
        assert len(answer.headers.get_list("content-security-policy")) == 1
        assert "set-cookie" not in answer.headers


def test_a_file_is_sent_again_only_when_it_changed(http: TestClient, folder: Path) -> None:
    first = http.get("/pages/tide/parts/draw.js")
    assert first.headers["cache-control"] == "no-cache"
    kept = {"if-none-match": first.headers["etag"]}
    again = http.get("/pages/tide/parts/draw.js", headers=kept)
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    (folder / "parts" / "draw.js").write_text("export const one = 2\n")
    assert http.get("/pages/tide/parts/draw.js", headers=kept).text == "export const one = 2\n"


OUTSIDE = (
    "../secret.json",
    "%2e%2e/secret.json",
    "..%2fsecret.json",
    "%2e%2e%2fsecret.json",
    "parts/%2e%2e/%2e%2e/secret.json",
    "parts/..%2f..%2fsecret.json",
    "..%5csecret.json",
    "%2fetc%2fpasswd.txt",
    "parts%00/draw.js",
    "out.json",
    "code.py",
    ".hidden.json",
    "noending",
    "data.bin",
    "parts",
    "parts/",
    "nowhere.js",
)


def test_nothing_beside_the_named_files_is_given_out(http: TestClient) -> None:
    for path in OUTSIDE:
        answer = http.get(f"/pages/tide/{path}")
        assert answer.status_code == 404, (path, answer.text)
        assert SECRET not in answer.text, path
    # Folders are not listed.
    assert "draw.js" not in http.get("/pages/tide/parts/").text


def test_a_capability_without_a_page_has_none(http: TestClient) -> None:
    for name in ("nobody", "text", "%2e%2e", "tide_pages"):
        for path in (f"/pages/{name}/", f"/pages/{name}"):
            assert http.get(path).status_code == 404, path
    assert "text" not in [each["capability"] for each in http.get("/pages").json()["data"]]


@pytest.mark.parametrize("page", ["..", "../other", "/etc", "a/b", ""])
def test_a_page_is_a_folder_of_its_package(page: str) -> None:
    with pytest.raises(ValueError, match="is a folder of its package"):
        Capability(name="tide", summary="Tides.", package="tide_pages", page=page, tasks=())
