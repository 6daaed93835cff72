"""The chat in a real browser, in pages of other origins: one that may hold it, and one that may not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from html import escape
from pathlib import Path

import pytest
from aiohttp import web
from tests.kernel.gateway.conftest import listen
from tests.kernel.gateway.publishing.browser import Browser, find_chromium, open_browser
from tests.kernel.gateway.publishing.conftest import QUESTION, Counter
from tests.kernel.gateway.spaces.test_tables import put

from modelworks.contract.passages import Place

HOST = "document.querySelector('[data-modelworks]')?.dataset.modelworks"
#: A name that would mark the page if it were ever taken for markup.
NAME = "<img src=x onerror=\"document.body.dataset.broken='yes'\"><script>document.body.dataset.broken='yes'</script>.md"


@pytest.fixture
async def browser(counter: Counter, tmp_path: Path) -> AsyncIterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium is installed: put it on the path, or name it in CHROMIUM")
    async with open_browser(program, tmp_path / "profile", counter.stage.http) as opened:
        yield opened


class Shop:
    """Somebody else's page, with a strict policy of its own."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self.origin = ""

    async def open(self, stack: AsyncExitStack) -> None:
        app = web.Application()
        app.router.add_get("/", self._page)
        app.router.add_get("/framed", self._framed)
        self.origin = await listen(app, stack)

    async def _page(self, request: web.Request) -> web.Response:
        counter, extra = self._counter, request.query.get("more", "")
        script = f'<script src="{counter.base}.js" data-token="{counter.token}" {extra} async></script>'
        return self._answer(f'<!doctype html><html lang="en"><title>Shop</title><body><h1>Shop</h1>{script}')

    async def _framed(self, _request: web.Request) -> web.Response:
        return self._answer(f'<!doctype html><title>Shop</title><iframe src="{escape(self._counter.base)}/frame"></iframe>')

    def _answer(self, page: str) -> web.Response:
        url = self._counter.url
        policy = f"default-src 'none'; script-src {url}; connect-src {url}; frame-src {url}"
        return web.Response(text=page, content_type="text/html", headers={"content-security-policy": policy})


@pytest.fixture
async def shop(counter: Counter) -> AsyncIterator[Shop]:
    async with AsyncExitStack() as stack:
        made = Shop(counter)
        await made.open(stack)
        yield made


async def test_a_page_that_is_named_holds_the_chat(counter: Counter, browser: Browser, shop: Shop) -> None:
    counter.publication, counter.token = counter.publish(origins=[shop.origin], title="Ask the shop")
    counter.library.add(NAME, "The X900 scanner weighs 12 kilograms.", place=Place(lines=(3, 4)))
    await browser.open(shop.origin + "/")
    await browser.until(shop.origin, HOST, "closed")
    await browser.look(shop.origin, "document.querySelector('[data-modelworks]').shadowRoot.querySelector('button').click()")
    await browser.until(shop.origin, HOST, "open")
    await browser.until(counter.url, "document.body.dataset.state", "ready")
    assert await browser.look(counter.url, "document.getElementById('title').textContent") == "Ask the shop"
    for number, question in enumerate((QUESTION, "How many kilograms does the X900 scanner weigh?"), 1):
        asked = f"document.getElementById('question').value = {question!r}; document.getElementById('form').requestSubmit()"
        await browser.look(counter.url, asked)
        await browser.until(counter.url, "document.body.dataset.answers", str(number))
        # The session is over then; the page gets another one by itself.
        counter.clock.advance(901)
    log = await browser.look(counter.url, "document.getElementById('log').textContent")
    assert "24 months" in log
    assert NAME in log
    assert await browser.look(counter.url, "document.querySelectorAll('#log img, #log script').length") == 0
    assert await browser.look(counter.url, "document.body.dataset.broken ?? 'no'") == "no"
    links = await browser.look(counter.url, "[...document.querySelectorAll('.sources a')].map((each) => each.href)")
    assert links[0].startswith(f"{counter.base}/documents/doc_")
    assert links[0].endswith("#page=3")
    # The page's policy makes markup of a text impossible, whatever the script did.
    forbidden = "(() => { try { document.body.innerHTML = '<b>x</b>'; return 'made' } catch (error) { return error.name } })()"
    assert await browser.look(counter.url, forbidden) == "TypeError"
    await browser.look(counter.url, "document.querySelector('.voice button').click()")
    await browser.until(counter.url, "document.querySelector('.voice [role=status]') !== null")
    stage = counter.stage
    with stage.db.reading() as session:
        said = stage.spaces.feedback.list(session, stage.project_id, counter.library.space_id).data
    assert [(each.rating, each.origin, each.question) for each in said] == [("up", shop.origin, QUESTION)]
    await browser.look(counter.url, "document.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape' }))")
    await browser.until(shop.origin, HOST, "closed")
    focused = "document.querySelector('[data-modelworks]').shadowRoot.activeElement.tagName"
    assert await browser.look(shop.origin, focused) == "BUTTON"


async def test_a_page_that_is_not_named_gets_nothing(counter: Counter, browser: Browser, shop: Shop) -> None:
    await browser.open(shop.origin + "/?more=data-open%20data-language=zh")
    await browser.until(shop.origin, HOST, "refused")
    root = "document.querySelector('[data-modelworks]').shadowRoot"
    assert await browser.look(shop.origin, f"{root}.querySelectorAll('iframe').length") == 0
    assert await browser.look(shop.origin, f"{root}.querySelector('[role=alert]').textContent") == "此处无法打开聊天。"
    # A session of another page, replayed here: the browser does not let the request through, or the answer.
    session = await counter.session()
    headers = f"{{ authorization: 'Bearer {session}' }}"
    replay = (
        f"fetch('{counter.base}/ask', {{ method: 'POST', headers: {headers}, body: '{{}}' }}).then(() => 'let', (e) => e.name)"
    )
    assert await browser.look(shop.origin, replay) == "TypeError"
    assert counter.library.asked == []


async def test_a_page_that_is_not_named_cannot_hold_the_frame_either(counter: Counter, browser: Browser, shop: Shop) -> None:
    await browser.open(shop.origin + "/framed")
    await browser.until(shop.origin, "document.readyState", "complete")
    assert counter.url not in browser.contexts.values()
    counter.publication, counter.token = counter.publish(origins=[shop.origin])
    await browser.open(shop.origin + "/framed")
    await browser.until(counter.url, "document.body.dataset.mode", "frame")


async def test_a_shared_page_asks_by_itself(counter: Counter, browser: Browser) -> None:
    counter.publication, counter.token = counter.publish(origins=[], share=True, language="zh", greeting="您好")
    await browser.open(f"{counter.url}/share/{counter.publication}#{counter.token}")
    await browser.until(counter.url, "document.body.dataset.state", "ready")
    assert await browser.look(counter.url, "document.documentElement.lang") == "zh"
    assert "您好" in await browser.look(counter.url, "document.getElementById('log').textContent")
    asked = f"document.getElementById('question').value = {QUESTION!r}; document.getElementById('form').requestSubmit()"
    await browser.look(counter.url, asked)
    await browser.until(counter.url, "document.body.dataset.answers", "1")
    assert "24 months" in await browser.look(counter.url, "document.getElementById('log').textContent")


async def test_a_computed_answer_shows_its_query_when_it_is_opened(counter: Counter, browser: Browser) -> None:
    put(counter.stage, counter.library, "sales.csv", b"region,units\n<b>North</b>,3\nSouth,4\n")
    counter.publication, counter.token = counter.publish(origins=[], share=True, language="en")
    await browser.open(f"{counter.url}/share/{counter.publication}#{counter.token}")
    await browser.until(counter.url, "document.body.dataset.state", "ready")
    field = "document.getElementById('question')"
    asked = f"{field}.value = 'What is the sum of units by region?'; document.getElementById('form').requestSubmit()"
    await browser.look(counter.url, asked)
    await browser.until(counter.url, "document.body.dataset.answers", "1")
    said = await browser.look(counter.url, "[...document.querySelectorAll('.assistant > .text')].pop().textContent")
    assert said == "Computed from the table “sales”: 2 rows. [1]"
    found = "document.querySelector('details.computed')"
    assert await browser.look(counter.url, f"{found}.open") is False
    await browser.look(counter.url, f"{found}.querySelector('summary').click()")
    await browser.until(counter.url, f"{found}.open")
    assert (await browser.look(counter.url, f"{found}.querySelector('pre').textContent")).startswith("SELECT")
    cells = await browser.look(counter.url, f"[...{found}.querySelectorAll('td')].map((each) => each.textContent)")
    assert cells == ["<b>North</b>", "3", "South", "4"]
    assert await browser.look(counter.url, f"{found}.querySelectorAll('b').length") == 0
    assert await browser.look(counter.url, f"{found}.querySelector('th').scope") == "col"
