"""A headless Chromium, driven through its DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "chromium-headless-shell",
    "chrome-headless-shell",
)
#: As long as a busy machine may need; every step goes on as soon as it can.
PATIENCE_S = 60.0
#: A document's context: the session of its frame's process, and its number there.
Context = tuple[str, int]


def find_chromium() -> str | None:
    """The program: as CHROMIUM names it, on the path, or among Playwright's browsers."""
    if named := os.environ.get("CHROMIUM"):
        return named
    if found := next(filter(None, map(shutil.which, NAMES)), None):
        return found
    kept = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache" / "ms-playwright")
    patterns = (
        "chromium-*/chrome-linux*/chrome",
        "chromium_headless_shell-*/chrome-linux*/*shell",
        "chromium-*/chrome-mac/*.app",
    )
    return next((str(path) for pattern in patterns for path in sorted(kept.glob(pattern))), None)


@dataclass
class Browser:
    """One page, with the frames in it, whichever process they live in."""

    socket: aiohttp.ClientWebSocketResponse
    #: Origin and address of the frame by context.
    contexts: dict[Context, str] = field(default_factory=dict)
    _numbers: Any = field(default_factory=lambda: itertools.count(1))
    _waiting: dict[int, asyncio.Future[Any]] = field(default_factory=dict)
    _sent: set[asyncio.Task[Any]] = field(default_factory=set)

    async def read(self) -> None:
        """Take in answers and events until the connection ends."""
        async for message in self.socket:
            said = message.json()
            if (number := said.get("id")) is not None:
                if (waiting := self._waiting.pop(number, None)) is not None and not waiting.done():
                    waiting.set_result(said)
            else:
                self._note(said["method"], said.get("params", {}), said.get("sessionId", ""))

    def _note(self, method: str, told: dict[str, Any], session: str) -> None:
        if method == "Runtime.executionContextCreated":
            context = told["context"]
            if context.get("auxData", {}).get("isDefault"):
                self.contexts[session, context["id"]] = context["origin"]
        elif method == "Runtime.executionContextDestroyed":
            self.contexts.pop((session, told["executionContextId"]), None)
        elif method == "Runtime.executionContextsCleared":
            self.contexts = {each: origin for each, origin in self.contexts.items() if each[0] != session}
        elif method == "Target.attachedToTarget":
            self._later(self.follow(told["sessionId"]))
        elif method == "Target.detachedFromTarget":
            self.contexts = {each: origin for each, origin in self.contexts.items() if each[0] != told["sessionId"]}

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._sent.add(task)
        task.add_done_callback(self._sent.discard)

    async def follow(self, session: str = "") -> None:
        """Hear of the documents of a process, and of frames that get one of their own."""
        await self.send("Runtime.enable", session=session)
        attach = {"autoAttach": True, "waitForDebuggerOnStart": False, "flatten": True}
        await self.send("Target.setAutoAttach", session=session, **attach)

    async def send(self, method: str, *, session: str = "", **params: Any) -> dict[str, Any]:
        """Ask the browser; its answer. A process that has gone meanwhile answers with nothing."""
        number = next(self._numbers)
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        body = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        await self.socket.send_json(body)
        said = await asyncio.wait_for(waiting, PATIENCE_S)
        result: dict[str, Any] = said.get("result", {})
        return result

    async def open(self, url: str) -> None:
        """Go to a page."""
        await self.send("Page.navigate", url=url)

    async def drop(self, paths: list[Path], x: int, y: int) -> None:
        """Drag files and folders from outside over a point of the page, and let them go."""
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            await self.send("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    async def choose(self, element: str, paths: list[Path]) -> None:
        """Choose files or a folder in the field with this id."""
        found = await self.send("Runtime.evaluate", expression=f"document.getElementById({element!r})")
        await self.send("DOM.setFileInputFiles", files=[str(path) for path in paths], objectId=found["result"]["objectId"])

    async def look(self, origin: str, expression: str) -> Any:
        """The value of an expression in the first document of an origin that gives one; None where none does."""
        for (session, context), where in [*self.contexts.items()]:
            if where == origin:
                asked = {"expression": expression, "contextId": context, "returnByValue": True, "awaitPromise": True}
                found = await self.send("Runtime.evaluate", session=session, **asked)
                if "exceptionDetails" not in found and (value := found.get("result", {}).get("value")) is not None:
                    return value
        return None

    async def until(self, origin: str, expression: str, wanted: Any = True) -> None:
        """Wait until an expression has a value; what it had last is in the failure."""
        ends = asyncio.get_running_loop().time() + PATIENCE_S
        while (value := await self.look(origin, expression)) != wanted:
            assert asyncio.get_running_loop().time() < ends, (expression, value, self.contexts)
            await asyncio.sleep(0.05)


@asynccontextmanager
async def open_browser(program: str, folder: Path, http: aiohttp.ClientSession) -> AsyncIterator[Browser]:
    """A browser with a profile of its own, which ends with the block."""
    process = await asyncio.create_subprocess_exec(
        program,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--lang=en",
        "--remote-debugging-port=0",
        f"--user-data-dir={folder}",
        "about:blank",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        # Some systems start it by a script: what is ended is everything that the script began.
        start_new_session=True,
    )
    try:
        told = folder / "DevToolsActivePort"
        ends = asyncio.get_running_loop().time() + PATIENCE_S
        while not told.is_file() or "\n" not in told.read_text():
            assert process.returncode is None, f"{program} ended with {process.returncode}"
            assert asyncio.get_running_loop().time() < ends, f"{program} does not listen"
            await asyncio.sleep(0.05)
        port = told.read_text().splitlines()[0]
        async with http.get(f"http://127.0.0.1:{port}/json/list") as listed:
            pages = [each for each in await listed.json() if each["type"] == "page"]
        async with http.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            browser = Browser(socket)
            reading = asyncio.create_task(browser.read())
            try:
                await browser.send("Page.enable")
                await browser.follow()
                yield browser
            finally:
                reading.cancel()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
