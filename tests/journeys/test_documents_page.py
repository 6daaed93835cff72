"""Somebody without a command line: documents and folders are dropped on a page in a real browser, and become answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from tests.journeys.platform_process import PlatformProcess
from tests.kernel.gateway.publishing.browser import Browser, find_chromium, open_browser

pytestmark = pytest.mark.slow
#: A name that would mark the page if it were ever taken for markup.
HOSTILE = "<img src=x onerror=\"document.body.dataset.broken='yes'\">.md"
FILES = {
    "leave.md": "# Leave\n\nEvery employee has 30 days of paid leave a year.",
    "差旅.md": "# 差旅\n\n住宿标准为每晚六百元。",
    HOSTILE: "# Parking\n\nVisitors park on deck <b>seven</b>.",
    ".hidden.md": "# Hidden\n\nNobody sends this.",
    # What it claims to be, it is not.
    "broken.pdf": "%PDF-1.7\nnothing of the kind",
}
FOLDERS = {
    "plans/garden.md": "# Garden\n\nThe garden opens at seven.",
    "plans/2026/屋顶.md": "# 屋顶\n\n屋顶在五月修理。",
    "plans/.git/config.md": "# Config\n\nNobody sends this.",
    "rules/leave.md": "# Leave\n\nThe kitchen is cleaned on Fridays.",
}
DROP = """
(() => {
  const data = new DataTransfer();
  for (const [name, text] of Object.entries(FILES)) data.items.add(new File([text], name));
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
})()
"""


class Page:
    """The page of one platform in one browser."""

    def __init__(self, platform: PlatformProcess, browser: Browser) -> None:
        self.platform = platform
        self.browser = browser

    async def look(self, expression: str) -> object:
        return await self.browser.look(self.platform.url, expression)

    async def until(self, expression: str, wanted: object = True) -> None:
        await self.browser.until(self.platform.url, expression, wanted)

    async def fill(self, field: str, text: str, form: str) -> None:
        await self.look(
            f"document.getElementById({field!r}).value = {text!r}; document.getElementById({form!r}).requestSubmit()"
        )

    async def text(self, place: str) -> str:
        return str(await self.look(f"document.getElementById({place!r}).textContent"))


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium is installed: put it on the path, or name it in CHROMIUM")
    with PlatformProcess(tmp_path / "home") as platform:
        async with aiohttp.ClientSession() as http, open_browser(program, tmp_path / "profile", http) as browser:
            yield Page(platform, browser)


async def test_documents_are_dropped_asked_and_removed_and_folders_brought(page: Page, tmp_path: Path) -> None:
    await page.browser.open(page.platform.url + "/spaces")
    await page.until("document.body.dataset.state", "out")
    await page.fill("key", "mw-nothing", "enter")
    await page.until("document.getElementById('problem').hidden", False)
    assert "not accepted" in await page.text("problem")

    await page.fill("key", page.platform.key, "enter")
    await page.until("document.body.dataset.state", "in")
    await page.fill("name", "handbook", "create")
    await page.until("document.getElementById('space-name').textContent", "handbook")
    assert await page.look("document.getElementById('ask-go').disabled") is True, "there is nothing to ask yet"
    await page.look(DROP.replace("FILES", json.dumps(FILES)))
    await page.until("document.getElementById('state').dataset.state", "ready")
    await page.until("document.querySelectorAll('#documents tr[data-state=indexed]').length", 3)
    await page.until("document.querySelectorAll('#documents tr[data-state=failed]').length", 1)
    told = await page.text("documents")
    assert "damaged" in told, "why a file failed is told where it stands"
    assert HOSTILE in told
    assert ".hidden" not in told + await page.text("sent")
    assert "Every employee" not in told

    for number, (question, answer) in enumerate(
        (
            ("How many days of paid leave does an employee have?", "30 days"),
            ("住宿标准是多少？", "六百元"),
            ("Where do visitors park?", "seven"),
        ),
        1,
    ):
        await page.fill("question", question, "ask")
        await page.until("document.body.dataset.answers", str(number))
        assert answer in str(await page.look("document.querySelector('.answer').textContent"))
        assert await page.look("document.querySelectorAll('.answer')[0].querySelectorAll('.sources li').length") == 1
    assert await page.look("document.querySelectorAll('#main img, #main b').length") == 0
    assert await page.look("document.body.dataset.broken ?? 'no'") == "no"

    await page.look("document.getElementById('language').click()")
    await page.until("document.documentElement.lang", "zh")
    assert await page.text("documents-label") == "空间中的文档"

    await page.look("window.confirm = () => true")
    row = "[...document.querySelectorAll('#documents tr')].find((row) => row.textContent.startsWith('leave.md'))"
    await page.look(f"{row}.querySelectorAll('button')[1].click()")
    await page.until("document.querySelectorAll('#documents tr').length", 3)
    with page.platform.client() as client:
        left = {each["name"] for each in client.spaces.documents("handbook").data}
    assert left == {"差旅.md", HOSTILE, "broken.pdf"}

    for path, text in FOLDERS.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, "utf-8")
    box = "document.getElementById('drop').getBoundingClientRect()"
    await page.look("document.getElementById('drop').scrollIntoView()")
    x, y = [int(str(await page.look(f"Math.round({box}.{edge} + 20)"))) for edge in ("x", "y")]
    await page.browser.drop([tmp_path / "plans"], x, y)
    await page.until("document.querySelectorAll('#documents tr[data-state=indexed]').length", 4)
    await page.browser.choose("folder", [tmp_path / "rules"])
    await page.until("document.querySelectorAll('#documents tr[data-state=indexed]').length", 5)
    with page.platform.client() as client:
        brought = {each["name"] for each in client.spaces.documents("handbook").data} - left
    assert brought == {"plans/garden.md", "plans/2026/屋顶.md", "rules/leave.md"}

    # A page of somebody else's finds no key: it lies in this tab alone, and goes with signing out.
    await page.look("document.getElementById('leave').click()")
    await page.until("document.body.dataset.state", "out")
    assert await page.look("sessionStorage.getItem('key') ?? 'none'") == "none"
