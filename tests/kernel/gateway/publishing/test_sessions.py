"""From which pages a token is taken, what the session is worth that it gives, and for how long."""

from __future__ import annotations

from tests.kernel.gateway.publishing.conftest import QUESTION, SHOP, Counter, question

from modelworks.kernel.dataspace.store import PublicationRow

OTHER = "https://other.example"


async def test_a_page_that_is_named_gets_a_session_and_may_read_it(counter: Counter) -> None:
    begun = await counter.begin()
    body = await begun.json()
    assert (begun.status, body["origin"], body["expires_in"]) == (200, SHOP, 900)
    assert begun.headers.getall("access-control-allow-origin") == [SHOP]
    assert "Origin" in begun.headers["vary"]
    assert "access-control-allow-credentials" not in begun.headers
    assert begun.headers["cache-control"] == "no-store"
    assert counter.token not in body["token"]


async def test_other_pages_get_none_and_may_not_read_why(counter: Counter) -> None:
    for origin in (
        OTHER,
        "null",
        None,
        "http://shop.example",
        "https://shop.example:8443",
        "https://shop.example.evil.example",
        "https://evil.example#https://shop.example",
    ):
        begun = await counter.begin(origin)
        assert (begun.status, (await begun.json())["error"]["code"]) == (403, "origin_not_allowed"), origin
        assert "access-control-allow-origin" not in begun.headers


async def test_a_referer_stands_for_an_origin_that_is_missing(counter: Counter) -> None:
    assert (await counter.begin(None, referer=SHOP + "/products?id=1")).status == 200
    assert (await counter.begin(None, referer=OTHER + "/" + SHOP)).status == 403
    assert (await counter.begin(OTHER, referer=SHOP + "/")).status == 403


async def test_the_server_itself_is_a_page_only_where_sharing_is_allowed(counter: Counter) -> None:
    assert (await counter.begin(counter.url)).status == 403
    counter.publication, counter.token = counter.publish(origins=[], share=True)
    begun = await counter.begin(counter.url)
    assert begun.status == 200
    assert (await counter.begin(SHOP)).status == 403
    token = (await begun.json())["token"]
    assert (await counter.ask(QUESTION, session=token, parent=counter.url))["status"] == "quoted"


async def test_a_wrong_token_is_refused_and_its_page_may_read_so(counter: Counter) -> None:
    for token, status in (("", 400), ("mwp_wrong", 401), ("x" * 2_000_000, 413)):
        begun = await counter.begin(token=token)
        assert begun.status == status
        assert begun.headers["access-control-allow-origin"] == SHOP


async def test_a_token_opens_its_own_publication_and_no_other_route(counter: Counter) -> None:
    publication, token = counter.publish(name="other")
    assert (await counter.begin(token=token)).status == 401
    for secret in (token, counter.token, await counter.session()):
        for path in ("/v1/models", "/v1/tasks"):
            asked = await counter.stage.http.get(counter.url + path, headers={"authorization": f"Bearer {secret}"})
            assert asked.status == 401
    session = await counter.session()
    counter.publication = publication
    assert (await counter.post("ask", session, question())).status == 401


async def test_a_session_is_worth_nothing_in_another_page(counter: Counter) -> None:
    session = await counter.session()
    for origin in (OTHER, SHOP, "null", None):
        asked = await counter.post("ask", session, question(), origin=origin)
        assert (asked.status, (await asked.json())["error"]["code"]) == (403, "origin_not_allowed"), origin
        assert "access-control-allow-origin" not in asked.headers
    held = await counter.post("ask", session, question(parent=OTHER))
    assert (held.status, (await held.json())["error"]["code"]) == (403, "origin_not_allowed")
    assert counter.library.asked == []
    assert (await counter.post("ask", session, question())).status == 200


async def test_a_browser_is_not_told_that_another_page_may_ask(counter: Counter) -> None:
    """The question that a browser asks before a request with headers of its own."""
    headers = {"origin": SHOP, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    asked = await counter.stage.http.options(counter.base + "/ask", headers=headers)
    assert "access-control-allow-origin" not in asked.headers
    assert asked.status >= 400


async def test_a_session_ends_and_cannot_be_made_longer(counter: Counter) -> None:
    session = await counter.session()
    counter.clock.advance(899)
    assert (await counter.post("ask", session, question())).status == 200
    counter.clock.advance(2)
    over = await counter.post("ask", session, question())
    assert (over.status, (await over.json())["error"]["code"]) == (401, "session_ended")
    path, expires, signature = session.removeprefix("mwe_").split(".")
    for forged in (
        f"mwe_{path}.{int(expires) + 900}.{signature}",
        f"mwe_{path}.{expires}.",
        f"mwe_{path[:-2]}.{expires}.{signature}",
        f"{path}.{expires}.{signature}",
        "mwe_",
        "",
        "mwe_ä.1.x",
    ):
        assert (await counter.post("ask", forged.encode().decode("latin-1"), question())).status == 401


async def test_a_ticket_for_one_purpose_is_none_for_another(counter: Counter) -> None:
    answer = await counter.ask(QUESTION)
    assert (await counter.post("ask", answer["ticket"], question())).status == 401


async def test_what_is_revoked_ends_open_chats_too(counter: Counter) -> None:
    session, stage = await counter.session(), counter.stage
    with stage.db.transaction() as written:
        stage.spaces.publications.revoke(written, stage.project_id, counter.library.space_id, counter.publication)
    for response in (await counter.begin(), await counter.post("ask", session, question())):
        assert (response.status, (await response.json())["error"]["code"]) == (404, "publication_not_found")
    for path in (f"/embed/{counter.publication}/frame", f"/share/{counter.publication}", "/embed/pub_unknown/frame"):
        assert (await stage.http.get(counter.url + path)).status == 404


async def test_an_origin_that_is_left_out_ends_the_chats_of_its_pages(counter: Counter) -> None:
    session, stage = await counter.session(), counter.stage
    with stage.db.transaction() as written:
        row = written.get_one(PublicationRow, counter.publication)
        row.settings = {**row.settings, "origins": [OTHER]}
    refused = await counter.post("ask", session, question())
    assert (refused.status, (await refused.json())["error"]["code"]) == (403, "origin_not_allowed")


async def test_questions_are_counted_for_each_address_and_together(counter: Counter) -> None:
    counter.publication, counter.token = counter.publish(requests_per_minute=3, requests_per_minute_per_address=2)
    session = await counter.session()
    for _ in range(2):
        assert (await counter.post("ask", session, question())).status == 200
    refused = await counter.post("ask", session, question())
    assert (refused.status, (await refused.json())["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) == 30
    # Another session is no other reader.
    assert (await counter.post("ask", await counter.session(), question())).status == 429
    counter.clock.advance(31)
    # Of the three for everybody one and a half are used by then.
    assert (await counter.post("ask", session, question())).status == 200


async def test_sessions_are_counted_too(counter: Counter) -> None:
    found = [(await counter.begin(token="mwp_guess")).status for _ in range(61)]
    assert found == [401] * 60 + [429]
    assert (await counter.begin()).status == 429
    counter.clock.advance(2)
    assert (await counter.begin()).status == 200
