"""The page at /spaces: what it may load, that it makes no markup of what is told (in use: journeys/test_documents_page.py)."""

from __future__ import annotations

import re

import pytest
from tests.kernel.gateway.conftest import Stage
from tests.kernel.gateway.publishing.test_pages import SINKS, contrast
from tests.kernel.gateway.spaces.library import Library
from yarl import URL

from modelworks.kernel.gateway.spaces.page import FILES, text_of


async def test_the_page_loads_what_this_server_brings_and_no_other_page_holds_it(stage: Stage, library: Library) -> None:
    got = await stage.http.get(stage.url + "/spaces")
    assert str(got.url) == stage.url + "/spaces/"
    page = await got.text()
    policy = got.headers.getall("content-security-policy")
    assert len(policy) == 1
    for rule in (
        "default-src 'none'",
        "script-src 'self'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "trusted-types 'none'",
    ):
        assert rule in policy[0]
    assert "unsafe" not in policy[0]
    # Nothing stands in the page itself that the policy would have to allow.
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", page)
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) == 2
    for link in links:
        loaded = await stage.http.get(got.url.join(URL(link)))
        assert loaded.status == 200
        assert loaded.content_type in ("text/javascript", "text/css")
        assert loaded.headers["x-content-type-options"] == "nosniff"


async def test_there_is_nothing_else(stage: Stage, library: Library) -> None:
    for name in ("page.py", "..%2fpage.py", "%2e%2e/page.py", "spaces.txt"):
        got = await stage.http.get(URL(f"{stage.url}/spaces/{name}", encoded=True))
        assert got.status == 404, name


def test_what_is_told_is_put_in_as_text_and_comes_from_here() -> None:
    for name in FILES:
        assert not re.search(SINKS, text_of(name)), name
        assert not re.search(r"https?://|@import|url\(", re.sub(r"^\s*//.*$", "", text_of(name), flags=re.MULTILINE)), name


def test_both_languages_say_the_same() -> None:
    words = text_of("spaces.js").partition("const WORDS = ")[2].partition("  };\n")[0]
    english, chinese = re.findall(r"^    (?:en|zh): \{(.*?)^    \},$", words, flags=re.DOTALL | re.MULTILINE)
    names = [re.findall(r"(\w+): (?:\"[^\"]*\"|\{)", each) for each in (english, chinese)]
    assert names[0] == names[1]
    assert len(names[0]) >= 50
    assert re.findall(r"[\u4e00-\u9fff]+", english) == ["中文"], "the name of the other language, in that language"
    # What is filled in stands in both.
    forms = [{name: text.count("{}") for name, text in re.findall(r"(\w+): \"([^\"]*)\"", each)} for each in (english, chinese)]
    assert forms[0] == forms[1]


def test_every_text_of_the_page_is_named_and_every_name_is_there() -> None:
    asked = set(re.findall(r'one\("([\w-]+)"\)', text_of("spaces.js")))
    there = set(re.findall(r'id="([\w-]+)"', text_of("spaces.html")))
    assert asked <= there
    labelled = set(re.findall(r'(?:for|aria-labelledby|aria-describedby)="([\w-]+)"', text_of("spaces.html")))
    assert labelled <= there


@pytest.mark.parametrize("scheme", [0, 1])
def test_it_can_be_read_by_day_and_by_night(scheme: int) -> None:
    blocks = re.findall(r":root \{(.*?)\}", text_of("spaces.css"), re.DOTALL)
    assert len(blocks) == 2
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[scheme]))
    for text, ground in (
        ("ink", "ground"),
        ("ink", "raised"),
        ("faint", "ground"),
        ("faint", "raised"),
        ("on-accent", "accent"),
    ):
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for text, ground in (("wrong", "ground"), ("wrong", "raised"), ("accent", "ground")):
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert contrast(colours["edge"], colours["ground"]) >= 3
    assert ":focus-visible" in text_of("spaces.css")
