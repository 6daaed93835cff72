"""How the server speaks HTTP."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request

from modelworks.kernel.base.settings import Settings
from modelworks.server import listening


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "seen"),
    [
        ([], "127.0.0.1", "10.1.2.3", "127.0.0.1"),  # nobody is believed by default, not even this machine
        (["127.0.0.1"], "127.0.0.1", "10.1.2.3", "10.1.2.3"),
        (["192.0.2.0/24"], "192.0.2.7", "10.1.2.3", "10.1.2.3"),
        (["192.0.2.0/24"], "192.0.3.7", "10.1.2.3", "192.0.3.7"),
        # What the caller itself wrote stands left of what the proxy saw.
        (["192.0.2.0/24"], "192.0.2.7", "10.1.2.3, 203.0.113.9", "203.0.113.9"),
        (["192.0.2.0/24"], "192.0.2.7", "10.1.2.3, 203.0.113.9, 192.0.2.8", "203.0.113.9"),
    ],
)
async def test_only_a_trusted_proxy_names_the_caller(
    tmp_path: Path, trusted: list[str], peer: str, forwarded: str, seen: str
) -> None:
    app = FastAPI()

    @app.get("/who")
    async def who(request: Request) -> str:
        return request.client.host if request.client else ""

    config = listening(app, Settings(home=tmp_path, trusted_proxies=trusted))
    config.load()
    transport = httpx.ASGITransport(config.loaded_app, client=(peer, 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://platform") as http:
        assert (await http.get("/who", headers={"x-forwarded-for": forwarded})).json() == seen
