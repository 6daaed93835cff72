"""The whole platform with a provider: what the settings say is what holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from tests.kernel.access.openid_provider import CLIENT, SECRET, OpenIdProvider, parameters

from modelworks.kernel.access.sessions import COOKIE
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.settings import Settings
from modelworks.server import create_app, create_platform

PUBLIC = "https://models.plant.example"


class Now(FixedClock):
    """The provider's clock is the platform's: that of the machine."""

    def __init__(self) -> None:
        from datetime import UTC, datetime

        super().__init__(datetime.now(UTC))


@pytest.fixture
def provider() -> Iterator[OpenIdProvider]:
    with closing(OpenIdProvider(Now(), f"{PUBLIC}/api/session/oidc/callback")) as made:
        yield made


@pytest.mark.parametrize("allowed", [["127.0.0.1"], []])
async def test_a_provider_lets_in_whom_the_settings_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: OpenIdProvider, allowed: list[str]
) -> None:
    monkeypatch.setenv("MODELWORKS_HOME", str(tmp_path))
    settings = Settings(
        home=tmp_path,
        log_level="error",
        public_url=PUBLIC,
        egress_allow=allowed,
        oidc_issuer=provider.issuer,
        oidc_client_id=CLIENT,
        oidc_client_secret=SECRET,
        oidc_roles={"ml": ["viewer@default"]},
    )
    with closing(create_platform(settings)) as platform:
        transport = httpx.ASGITransport(create_app(platform))
        async with httpx.AsyncClient(transport=transport, base_url=PUBLIC) as http:
            away = await http.get("/api/session/oidc", headers={"host": "evil.example"})
            if not allowed:
                assert (away.status_code, away.json()["error"]["code"]) == (403, "egress_denied")
                assert provider.asked == []
                return
            assert parameters(away.headers["location"])["redirect_uri"].startswith(PUBLIC), "whatever Host says"
            async with httpx.AsyncClient() as browser:
                back = (await browser.get(away.headers["location"])).headers["location"]
            done = await http.get(back)
            assert done.status_code == 200
            assert done.headers["content-security-policy"].startswith("default-src 'none'")
            assert all("Secure" in each for each in done.headers.get_list("set-cookie") if COOKIE in each)
            assert (await http.get("/api/session")).json()["scopes"] == ["read"]
            log = await http.get("/api/session/oidc/callback", params={"state": "x"})
            assert SECRET not in log.text
