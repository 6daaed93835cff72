"""Signing in through an OpenID provider: the way there and back, accounts and roles, and every way to cheat."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey
from sqlalchemy import select
from tests.kernel.access.openid_provider import CLIENT, EC_KEY, RSA_KEY, SECRET, OpenIdProvider, parameters

from modelworks.contract.errors import AuthenticationFailed, InvalidRequest
from modelworks.kernel.access import AccessService, AuditLog, OidcSignIn, Sealer, SessionService, oidc_routes, session_routes
from modelworks.kernel.access.oidc_provider import OidcProvider, Tokens, _usable
from modelworks.kernel.access.routes import principal_dependency
from modelworks.kernel.access.sessions import COOKIE
from modelworks.kernel.access.store import MembershipRow, UserRow
from modelworks.kernel.base.clock import FixedClock
from modelworks.kernel.base.events import Events

BASE = "http://platform/mw"
CALLBACK = f"{BASE}/api/session/oidc/callback"
OTHER_RSA = RSAKey.generate_key(2048, {"kid": "rsa-1", "use": "sig"})


class House:
    """The platform with a provider beside it, and browsers."""

    def __init__(self, app: FastAPI, access: AccessService, provider: OpenIdProvider, oidc: OidcSignIn, admin: str) -> None:
        self.app, self.db, self.provider, self.oidc = app, access.db, provider, oidc
        self.admin = {"x-api-key": admin}
        self.http = self.open()

    def open(self, address: str = "192.0.2.1") -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app, client=(address, 1)), base_url="http://platform")

    async def begin(self, http: httpx.AsyncClient | None = None, **query: str) -> dict[str, str]:
        """Up to the provider's answer: what it sends the browser back with."""
        http = http or self.http
        away = await http.get("/api/session/oidc", params=query)
        assert away.status_code == 303, away.text
        # The browser sees the server below /mw, where a proxy puts it; the client here asks it directly.
        (cookie,) = [each for each in http.cookies.jar if each.path == "/mw/api/session/oidc"]
        http.cookies.delete(oidc_routes.COOKIE, path="/mw/api/session/oidc", domain=cookie.domain)
        http.cookies.set(oidc_routes.COOKIE, cookie.value or "", domain=cookie.domain)
        async with httpx.AsyncClient() as browser:
            back = (await browser.get(away.headers["location"])).headers["location"]
        assert back.startswith(CALLBACK)
        return parameters(back)

    async def finish(self, answer: dict[str, Any], http: httpx.AsyncClient | None = None) -> httpx.Response:
        return await (http or self.http).get("/api/session/oidc/callback", params=answer)

    async def sign_in(self, **query: str) -> httpx.Response:
        return await self.finish(await self.begin(**query))

    def roles(self) -> dict[str, str]:
        with self.db.reading() as session:
            return dict(session.execute(select(MembershipRow.place_id, MembershipRow.role)).tuples().all())

    def people(self) -> list[UserRow]:
        with self.db.reading() as session:
            return list(session.scalars(select(UserRow).order_by(UserRow.id)))


@pytest.fixture
def provider(clock: FixedClock) -> Iterator[OpenIdProvider]:
    made = OpenIdProvider(clock, CALLBACK)
    yield made
    made.close()


@pytest.fixture
async def house(
    app: FastAPI, access: AccessService, admin_key: str, clock: FixedClock, events: Events, provider: OpenIdProvider
) -> AsyncIterator[House]:
    AuditLog(access.db, clock)
    sessions = SessionService(access, clock, events)
    client = OidcProvider(provider.issuer, CLIENT, SECRET, clock, allow=["127.0.0.1"])
    oidc = OidcSignIn(
        sessions,
        client,
        Sealer([b"k" * 32]),
        clock,
        base_url=BASE + "/",
        roles={"ml": ["developer@plant"], "ml-leads": ["viewer@plant", "admin@plant", "viewer@default"]},
    )
    app.include_router(session_routes.router(sessions, principal_dependency(access), secure=False))
    app.include_router(oidc_routes.router(oidc, secure=False))
    house = House(app, access, provider, oidc, admin_key)
    made = await house.http.post("/api/projects", headers=house.admin, json={"name": "plant"})
    assert made.status_code == 201
    yield house
    await house.http.aclose()


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def test_somebody_new_signs_in_acts_and_signs_out(house: House) -> None:
    ways = (await house.http.get("/api/sign-in")).json()
    assert (ways["provider"], ways["start"]) == (house.provider.issuer, "/api/session/oidc")
    done = await house.sign_in(next="/mw/console?tab=1&x=2")
    assert done.status_code == 200
    assert 'content="0;url=/mw/console?tab=1&amp;x=2"' in done.text
    cookies = [each.lower() for each in done.headers.get_list("set-cookie")]
    assert any(COOKIE in each and "httponly" in each and "samesite=strict" in each for each in cookies)
    assert done.headers["cache-control"] == "no-store"
    (ann,) = house.people()
    assert (ann.name, ann.email, ann.issuer, ann.subject) == ("Ann Li", "ann@plant.example", house.provider.issuer, "u-1")
    who = (await house.http.get("/api/session")).json()
    assert (who["name"], who["role"]) == ("Ann Li", "developer")
    token = {"x-csrf-token": who["csrf_token"]}
    assert code(await house.http.delete("/api/session")) == (403, "csrf_failed")
    assert (await house.http.delete("/api/session", headers=token)).status_code == 204
    farewell = await house.http.get("/api/session/oidc/sign-out")
    assert farewell.status_code == 303
    assert farewell.headers["location"].startswith(f"{house.provider.issuer}/end?")
    assert parameters(farewell.headers["location"])["post_logout_redirect_uri"] == f"{BASE}/"


async def test_keys_and_metadata_are_fetched_once_and_again_when_they_change(house: House, clock: FixedClock) -> None:
    await house.sign_in()
    await house.sign_in()
    assert [house.provider.asked.count(path) for path in ("/.well-known/openid-configuration", "/jwks")] == [1, 1]
    house.provider.keys = [EC_KEY]
    clock.advance(11)
    assert (await house.sign_in()).status_code == 200, "the new key was looked for"
    assert house.provider.asked.count("/jwks") == 2
    house.provider.forge = lambda header, _claims: header.update(kid="nobody")
    for _ in range(3):
        assert code(await house.sign_in()) == (401, "sign_in_failed")
    assert house.provider.asked.count("/jwks") == 2, "an unknown key is no reason to ask again and again"
    clock.advance(3601)
    house.provider.forge = lambda _header, _claims: None
    house.provider.keys = [RSA_KEY, EC_KEY]
    assert (await house.sign_in()).status_code == 200
    assert house.provider.asked.count("/.well-known/openid-configuration") == 2


async def test_roles_follow_the_groups_at_every_sign_in(house: House) -> None:
    projects = (await house.http.get("/api/projects", headers=house.admin)).json()["data"]
    plant, default = ({each["name"]: each["id"] for each in projects}[name] for name in ("plant", "default"))
    house.provider.person["groups"] = ["ml-leads", "unknown"]
    await house.sign_in()
    assert house.roles() == {plant: "admin", default: "viewer"}
    house.provider.person["groups"] = "ml"
    await house.sign_in()
    assert house.roles() == {plant: "developer"}
    del house.provider.person["groups"]
    house.provider.more = {"groups": ["ml-leads"]}
    await house.sign_in(project_id=default)
    assert house.roles() == {plant: "admin", default: "viewer"}, "what the token does not say is asked for"
    assert (await house.http.get("/api/session")).json()["project_id"] == default
    house.provider.more = {}
    assert (await house.sign_in()).status_code == 403
    assert house.roles() == {}
    house.provider.person |= {"sub": "u-2", "email": "eve@plant.example"}
    assert code(await house.sign_in()) == (403, "no_role")
    assert len(house.people()) == 1, "no account for whom no group lets in"


async def test_an_unverified_address_names_nobody_and_a_known_one_is_not_taken_over(house: House) -> None:
    projects = (await house.http.get("/api/projects", headers=house.admin)).json()["data"]
    boss = {"kind": "person", "name": "Boss", "email": "boss@plant.example", "place_id": projects[0]["id"], "role": "owner"}
    assert (await house.http.post("/api/users", headers=house.admin, json=boss)).status_code == 201
    for verified in (False, "true", 1, None):
        house.provider.person |= {"sub": f"x-{verified}", "email": "boss@plant.example", "email_verified": verified}
        assert (await house.sign_in()).status_code == 200
    assert [each.email for each in house.people()] == ["boss@plant.example", None, None, None, None]
    house.provider.person |= {"sub": "u-9", "email_verified": True}
    assert code(await house.sign_in()) == (409, "account_exists")
    house.oidc._link_email = True
    assert (await house.sign_in()).status_code == 200
    assert next((each.subject, each.email) for each in house.people()) == ("u-9", "boss@plant.example")
    house.provider.person["sub"] = "u-10"
    assert code(await house.sign_in()) == (409, "account_exists"), "one account is one person's at the provider"


async def test_a_disabled_account_stays_out_and_nobody_gives_themselves_a_password(house: House) -> None:
    await house.sign_in()
    (ann,) = house.people()
    token = {"x-csrf-token": (await house.http.get("/api/session")).json()["csrf_token"]}
    body = {"password": "correct horse battery"}
    kept = await house.http.put(f"/api/users/{ann.id}/password", headers=token, json=body)
    assert code(kept) == (403, "permission_denied")
    assert (await house.http.post(f"/api/users/{ann.id}/disable", headers=house.admin)).status_code == 200
    assert code(await house.sign_in()) == (401, "disabled_account")
    assert (await house.http.get("/api/session")).status_code == 401


def changed(**claims: Any) -> Any:
    return lambda _header, found: found.update(claims)


def unsigned(header: dict[str, Any], claims: dict[str, Any]) -> str:
    parts = ({**header, "alg": "none"}, claims)
    return ".".join(base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=").decode() for each in parts) + "."


def by_public_key(header: dict[str, Any], claims: dict[str, Any]) -> str:
    """The public key, which all can read, taken for a shared secret."""
    pem = RSA_KEY.as_pem(private=False)
    parts = ({**header, "alg": "HS256"}, claims)
    text = ".".join(base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=").decode() for each in parts)
    return f"{text}.{base64.urlsafe_b64encode(hmac.digest(pem, text.encode(), 'sha256')).rstrip(b'=').decode()}"


def by_own_key(header: dict[str, Any], claims: dict[str, Any]) -> str:
    """A key that the token brings along."""
    header["jwk"] = OTHER_RSA.as_dict(private=False)
    return jwt.encode(header, claims, OTHER_RSA, ["RS256"])


def tampered(header: dict[str, Any], claims: dict[str, Any]) -> str:
    head, _, signature = jwt.encode(header, claims, RSA_KEY, ["RS256"]).split(".")
    body = base64.urlsafe_b64encode(json.dumps({**claims, "groups": ["ml-leads"]}).encode()).rstrip(b"=").decode()
    return f"{head}.{body}.{signature}"


FORGERIES: dict[str, Any] = {
    "another nonce": changed(nonce="another"),
    "no nonce": lambda _header, claims: claims.pop("nonce") and None,
    "a list of nonces": lambda _header, claims: claims.update(nonce=[claims["nonce"]]),
    "another audience": changed(aud="another"),
    "two audiences": changed(aud=[CLIENT, "another"]),
    "authorized for another": changed(azp="another"),
    "another issuer": changed(iss="http://127.0.0.1:1"),
    "expired": lambda _header, claims: claims.update(iat=claims["iat"] - 900, exp=claims["iat"] - 61),
    "never expires": lambda _header, claims: claims.pop("exp") and None,
    "from the future": lambda _header, claims: claims.update(iat=claims["iat"] + 900),
    "not yet valid": lambda _header, claims: claims.update(nbf=claims["iat"] + 900),
    "no subject": changed(sub=""),
    "a long subject": changed(sub="x" * 256),
    "another access token": changed(at_hash="AAAA"),
    "alg none": unsigned,
    "HS256 with the public key": by_public_key,
    "its own key": by_own_key,
    "tampered with": tampered,
    "an unknown key": lambda header, _claims: header.update(kid="unknown"),
    "a token to reach things with": lambda header, _claims: header.update(typ="at+jwt"),
    "no token": lambda _header, _claims: "nonsense",
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_token_is_refused(provider: OpenIdProvider, clock: FixedClock, forge: Any) -> None:
    client = OidcProvider(provider.issuer, CLIENT, SECRET, clock, allow=["127.0.0.1"])
    provider.forge = forge
    with pytest.raises(AuthenticationFailed, match="not accepted"):
        client.verify(Tokens(provider.id_token("n", "a"), "a"), "n")
    provider.forge = lambda _header, _claims: None
    assert client.verify(Tokens(provider.id_token("n", "a"), "a"), "n")["sub"] == "u-1", "an honest one is not"


async def test_a_forged_token_lets_nobody_in(house: House) -> None:
    house.provider.forge = changed(nonce="another")
    assert code(await house.sign_in()) == (401, "sign_in_failed")
    assert house.people() == []
    assert COOKIE not in house.http.cookies


async def test_answers_fit_one_browser_one_time(house: House, clock: FixedClock) -> None:
    answer = await house.begin()
    stranger = house.open("192.0.2.2")
    assert code(await house.finish(answer, stranger)) == (401, "sign_in_expired"), "stolen on its way back"
    theirs = await house.begin(stranger)
    assert code(await house.finish(theirs)) == (401, "sign_in_failed"), "slipped to somebody else (login CSRF)"
    assert code(await house.finish({**theirs, "code": answer["code"]}, stranger)) == (401, "sign_in_failed"), "PKCE"
    answer = await house.begin()
    for wrong in ({"state": "x"}, {"state": ""}, {"iss": "http://127.0.0.1:1"}, {"error": "access_denied"}, {"code": "x"}):
        assert code(await house.finish({**answer, **wrong})) == (401, "sign_in_failed")
    for missing in ("state", "iss", "code"):
        assert code(await house.finish({key: each for key, each in answer.items() if key != missing}))[0] == 401
    assert code(await house.finish({**answer, "code": [answer["code"], "x"]})) == (400, "invalid_request")
    kept = house.http.cookies[oidc_routes.COOKIE]
    assert (await house.finish(answer)).status_code == 200
    house.http.cookies.set(oidc_routes.COOKIE, kept)
    assert code(await house.finish(answer)) == (401, "sign_in_failed"), "the code was used"
    late = await house.begin()
    clock.advance(601)
    assert code(await house.finish(late)) == (401, "sign_in_expired")


async def test_a_cookie_of_ones_own_making_is_refused(house: House) -> None:
    answer = await house.begin()
    sealed = house.http.cookies[oidc_routes.COOKIE].strip('"')
    house.http.cookies.clear()
    for cookie in (sealed[:-8] + "AAAAAAA=", Sealer([b"x" * 32]).seal('{"state": "s"}', "oidc-sign-in"), "v1::", "{}"):
        house.http.cookies.set(oidc_routes.COOKIE, cookie)
        assert code(await house.finish(answer)) == (401, "sign_in_expired")


ELSEWHERE = [
    "https://evil.example",
    "//evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    "/a\nb",
    "evil",
]


async def test_nobody_is_led_elsewhere_afterwards(house: House) -> None:
    for page in ELSEWHERE:
        answer = await house.http.get("/api/session/oidc", params={"next": page})
        assert code(answer) == (400, "invalid_request"), page
    done = await house.sign_in(next='/"><script>alert(1)</script>')
    assert "<script>" not in done.text, "markup stays text"


async def test_guessing_is_slowed(house: House) -> None:
    for _ in range(50):
        assert (await house.finish({"state": "x", "code": "y"})).status_code == 401
    assert code(await house.finish({"state": "x", "code": "y"})) == (429, "sign_in_throttled")
    assert (await house.finish(await house.begin(), house.open("192.0.2.9"))).status_code == 401


async def test_a_provider_that_is_not_what_it_should_be(house: House, clock: FixedClock) -> None:
    for said, word in (
        ({"issuer": "http://127.0.0.1:1"}, "calls itself"),
        ({"token_endpoint": None}, "token_endpoint"),
        ({"jwks_uri": "file:///etc/passwd"}, "jwks_uri"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "authorization_endpoint"),
    ):
        house.provider.metadata = said
        clock.advance(6)
        answer = await house.http.get("/api/session/oidc")
        assert code(answer) == (502, "upstream_failed")
        assert word in answer.text
    asked = len(house.provider.asked)
    assert (await house.http.get("/api/session/oidc")).status_code == 502
    assert len(house.provider.asked) == asked, "a provider that fails is left alone for a while"


async def test_endpoints_are_reached_through_the_guard_only(house: House, clock: FixedClock) -> None:
    """A provider may not send the platform to what only this machine reaches."""
    house.provider.metadata = {"token_endpoint": "http://127.0.0.2:1/token"}
    assert code(await house.sign_in()) == (403, "egress_denied")
    guarded = OidcProvider(house.provider.issuer, CLIENT, SECRET, clock)
    house.oidc.provider = guarded
    assert code(await house.http.get("/api/session/oidc")) == (403, "egress_denied")


async def test_further_claims_about_somebody_else_are_refused(house: House) -> None:
    del house.provider.person["groups"]
    house.provider.more = {"sub": "u-2", "groups": ["ml-leads"]}
    assert code(await house.sign_in()) == (401, "sign_in_failed")


async def test_clients_prove_themselves_as_the_provider_wants(house: House, clock: FixedClock) -> None:
    await house.sign_in()
    assert "client_secret" not in house.provider.forms[-1]
    clock.advance(3601)
    house.provider.metadata = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    assert (await house.sign_in()).status_code == 200
    assert house.provider.forms[-1]["client_secret"] == SECRET
    house.oidc.provider = OidcProvider(house.provider.issuer, CLIENT, None, clock, allow=["127.0.0.1"])
    assert (await house.sign_in()).status_code == 200
    assert "client_secret" not in house.provider.forms[-1]
    house.oidc.provider = OidcProvider(house.provider.issuer, CLIENT, "wrong", clock, allow=["127.0.0.1"])
    assert code(await house.sign_in()) == (401, "sign_in_failed")


def test_keys_that_prove_nothing_are_not_used() -> None:
    weak = {"kty": "RSA", "kid": "rsa-1", "n": "AQAB", "e": "AQAB"}
    shared = OctKey.generate_key(256, {"kid": "rsa-1"}).as_dict(private=True)
    other = ECKey.generate_key("P-384", {"kid": "ec-2", "use": "enc"}).as_dict(private=False)
    found = _usable([weak, shared, other, "nonsense", {"kty": "EC"}, EC_KEY.as_dict(private=True), RSA_KEY.as_dict()])
    assert [key.kid for key in found] == ["ec-1", "rsa-1"]
    assert not any(key.is_private for key in found)


def test_a_role_that_does_not_exist_is_found_at_the_start(house: House) -> None:
    for text in ("king@plant", "admin", "admin@", "@plant"):
        with pytest.raises(InvalidRequest, match="ROLES"):
            OidcSignIn(
                house.oidc.sessions, house.oidc.provider, Sealer([b"k" * 32]), FixedClock(), base_url=BASE, roles={"a": [text]}
            )
