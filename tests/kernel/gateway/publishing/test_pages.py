"""The pages and scripts that readers load: who may hold them, and that nothing in them makes markup of what is told."""

from __future__ import annotations

import re

import pytest
from tests.kernel.gateway.publishing.conftest import SHOP, Counter
from yarl import URL

from modelworks.kernel.gateway.publishing.pages import text_of

SCRIPTS = ("chat.js", "embed.js")
#: What makes markup, or code, of a text.
SINKS = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|srcdoc|setAttribute\(\"on"


async def test_the_frame_is_held_by_the_pages_that_are_named(counter: Counter) -> None:
    counter.publication, _ = counter.publish(origins=[SHOP, "http://127.0.0.1:8080"], title="Secret title")
    got = await counter.stage.http.get(counter.base + "/frame")
    policy = got.headers.getall("content-security-policy")
    assert len(policy) == 1
    assert f"frame-ancestors {SHOP} http://127.0.0.1:8080" in policy[0]
    assert "default-src 'none'" in policy[0]
    assert "unsafe" not in policy[0]
    assert "require-trusted-types-for 'script'" in policy[0]
    # Browsers that honour it would not let any page hold the frame.
    assert "x-frame-options" not in got.headers
    page = await got.text()
    assert "Secret title" not in page
    nonce = re.search(r"script-src 'nonce-([\w-]{16,})'", policy[0])
    assert nonce is not None
    elements = re.findall(r"<(?:script|link)[^>]*>", page)
    assert len(elements) == 2
    assert all(f'nonce="{nonce[1]}"' in each for each in elements)
    again = await counter.stage.http.get(counter.base + "/frame")
    assert nonce[1] not in again.headers["content-security-policy"]
    assert "{{" not in page


async def test_a_shared_page_is_held_by_nobody_and_there_only_where_allowed(counter: Counter) -> None:
    assert (await counter.stage.http.get(f"{counter.url}/share/{counter.publication}")).status == 404
    publication, _ = counter.publish(share=True)
    got = await counter.stage.http.get(f"{counter.url}/share/{publication}")
    assert got.status == 200
    assert "frame-ancestors 'none'" in got.headers["content-security-policy"]
    assert (got.headers["referrer-policy"], got.headers["x-robots-tag"]) == ("same-origin", "noindex")
    assert 'data-mode="share"' in await got.text()


async def test_what_the_pages_name_is_there(counter: Counter) -> None:
    publication, _ = counter.publish(share=True)
    for path in (f"/embed/{publication}/frame", f"/share/{publication}"):
        page = await (await counter.stage.http.get(counter.url + path)).text()
        for link in re.findall(r'(?:src|href)="([^"]+)"', page):
            url = URL(counter.url + path).join(URL(link))
            got = await counter.stage.http.get(url)
            assert got.status == 200, url
            assert got.content_type in ("text/javascript", "text/css")
    assert (await counter.stage.http.get(counter.url + "/embed/assets/chat.html")).status == 404
    assert (await counter.stage.http.get(counter.url + "/embed/assets/..%2froutes.py")).status == 404


async def test_the_script_is_small_and_says_nothing_of_the_publication(counter: Counter) -> None:
    got = await counter.stage.http.get(counter.base + ".js")
    text = await got.text()
    assert (got.status, got.content_type) == (200, "text/javascript")
    assert got.headers["cross-origin-resource-policy"] == "cross-origin"
    assert len(text.encode()) < 10_000
    assert SHOP not in text
    assert counter.publication not in text


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_is_told_is_put_in_as_text(name: str) -> None:
    assert not re.search(SINKS, text_of(name))
    assert re.search(SINKS, 'x.innerHTML = "…"'), "what the line above would see"


def test_nothing_is_loaded_from_elsewhere() -> None:
    for name in (*SCRIPTS, "chat.css", "chat.html"):
        text = re.sub(r"^\s*//.*$", "", text_of(name), flags=re.MULTILINE)
        # The name of a kind of elements, which nobody loads.
        text = text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|@import|url\(", text), name


def test_both_languages_say_the_same() -> None:
    for name in SCRIPTS:
        words = text_of(name).partition("const WORDS = ")[2]
        english, chinese = re.findall(r"^    (?:en|zh): \{(.*?)\}(?:,|;)$", words, flags=re.DOTALL | re.MULTILINE)[:2]
        names = [re.findall(r"(?:^|[,{\s])(\w+): \"", each) for each in (english, chinese)]
        assert names[0] == names[1]
        assert len(names[0]) >= 4
        assert not re.search(r"[\u4e00-\u9fff]", english)


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb` (WCAG 2.2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_everything_can_be_read_by_day_and_by_night() -> None:
    css = text_of("chat.css")
    schemes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    ]
    assert len(schemes) == 2
    for colours in schemes:
        for text, ground in (
            ("ink", "ground"),
            ("ink", "raised"),
            ("faint", "ground"),
            ("on-accent", "accent"),
            ("accent", "ground"),
            ("accent", "raised"),
            ("wrong", "ground"),
        ):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground, colours)
        assert contrast(colours["edge"], colours["ground"]) >= 3
    assert "prefers-reduced-motion" in css
    assert ":focus-visible" in css


def test_the_page_can_be_used_without_eyes_and_without_a_mouse() -> None:
    page, chat, embed = (text_of(name) for name in ("chat.html", "chat.js", "embed.js"))
    for needed in ('role="log"', 'aria-live="polite"', 'role="alert"', '<label for="question"', "<h1", 'lang="en"'):
        assert needed in page, needed
    for needed in ('"aria-busy"', '"aria-pressed"', '"Escape"', ".focus()", "documentElement.lang"):
        assert needed in chat, needed
    for needed in ('"aria-expanded"', '"aria-haspopup"', '"dialog"', '"Escape"', "button.focus()", "frame.title"):
        assert needed in embed, needed
