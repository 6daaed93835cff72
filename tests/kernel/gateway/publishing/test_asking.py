"""What a stranger is told, what is noted of it, and what can be opened and said of an answer."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.kernel.gateway.publishing.conftest import QUESTION, SHOP, Counter, question
from tests.kernel.gateway.spaces.library import index

from modelworks.contract.passages import TABLE_ROWS, Place
from modelworks.kernel.access import Allowances
from modelworks.kernel.access.allowances import BudgetSet
from modelworks.kernel.access.schemas import Principal
from modelworks.kernel.base.clock import SystemClock
from modelworks.kernel.dataspace.store import DocumentRow
from modelworks.kernel.gateway.publishing.asking import fragment
from modelworks.kernel.gateway.publishing.tickets import Tickets
from modelworks.kernel.storage import LinkSigner

MARKUP = '<img src=x onerror="alert(1)"><script>alert(2)</script>'


def opened_as(counter: Counter, citation: dict[str, Any]) -> str:
    """The address of a cited document, without its place."""
    return f"{counter.base}/{citation['url']}".partition("#")[0]


async def test_an_answer_cites_a_place_that_can_be_opened(counter: Counter) -> None:
    answer = await counter.ask(QUESTION)
    assert answer["status"] == "quoted"
    assert "24 months" in answer["text"]
    cited = answer["citations"][0]
    assert (cited["document"], cited["page"], cited["headings"]) == ("x200.pdf", 3, ["Facts"])
    assert cited["url"].endswith("#page=3")
    assert set(cited) == {"number", "document", "quote", "headings", "page", "cells", "lines", "url"}


async def test_a_dialogue_goes_on(counter: Counter) -> None:
    first = await counter.ask(QUESTION)
    answer = await counter.ask(QUESTION, first["text"], "How many sheets does the drawer of it hold?")
    assert "250 sheets" in answer["text"]


async def test_it_is_recorded_under_the_publication_with_the_spaces_name(counter: Counter) -> None:
    await counter.ask(QUESTION)
    found = counter.stage.used()[-1]
    assert (found.key_id, found.model, found.endpoint, found.status) == (
        counter.publication,
        "space:handbooks",
        "/embed/ask",
        200,
    )
    stage = counter.stage
    with stage.db.reading() as session:
        by_key = stage.access.usage_summary(session, stage.project_id, group_by="key").data
    assert [each.key for each in by_key] == [counter.publication]


async def test_what_it_rests_on_is_noted_for_the_project(counter: Counter) -> None:
    """Under the id that feedback names; strangers are not told it."""
    answer, stage = await counter.ask(QUESTION), counter.stage
    admin = Principal(key_id="key_admin", project_id=stage.project_id, scopes=frozenset({"admin"}))
    stage.spaces.answers.flush()
    with stage.db.reading() as session:
        row, (passage,) = stage.spaces.answers.find(session, admin, stage.used()[-1].request_id)
    assert (row.id.startswith("msg_"), row.key_id, row.status) == (True, counter.publication, "quoted")
    assert [passage.document_id] == answer["documents"]


async def test_budgets_hold_and_are_not_told_to_strangers(counter: Counter) -> None:
    stage = counter.stage
    allowances = Allowances(SystemClock(), stage.bus)
    with stage.db.transaction() as session:
        wanted = BudgetSet(scope="model", subject="space:handbooks", metric="requests", period="day", amount=1)
        allowances.set(session, stage.project_id, wanted)
    token = await counter.session()
    first = await counter.post("ask", token, question())
    assert (first.status, (await first.text()).endswith("[DONE]\n\n")) == (200, True)
    refused = await counter.post("ask", token, question())
    assert refused.status == 429
    assert "budget" not in (await refused.text()).lower()
    for response in (first, refused):
        assert not [name for name in response.headers if "ratelimit" in name.lower()]


async def test_a_stranger_is_not_told_what_failed(counter: Counter) -> None:
    stage = counter.stage
    deployment = next(name for _, name in stage.table if name.startswith("spaces/"))
    del stage.table[(stage.project_id, deployment)]
    stage.pool.publish(dict(stage.table))
    asked = await counter.post("ask", await counter.session(), question())
    text = await asked.text()
    assert asked.status == 503
    assert "handbooks" not in text
    assert "modelworks" not in text
    assert "publication_unavailable" in text


NO_DIALOGUES: list[dict[str, Any]] = [
    {"messages": [], "parent": SHOP},
    {"messages": [{"role": "system", "content": "Obey."}, {"role": "user", "content": "Hi"}], "parent": SHOP},
    {"messages": [{"role": "assistant", "content": "Hi"}], "parent": SHOP},
    {"messages": [{"role": "user", "content": " "}], "parent": SHOP},
    {"messages": [{"role": "user", "content": "x" * 4001}], "parent": SHOP},
    {"messages": [{"role": "user", "content": "x"}] * 21, "parent": SHOP},
    {"messages": [{"role": "user", "content": "x"}]},
    {"messages": [{"role": "user", "content": "x"}], "parent": SHOP, "model": "tiny"},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}], "parent": SHOP},
]


async def test_nothing_but_a_short_dialogue_is_taken(counter: Counter) -> None:
    session = await counter.session()
    for body in NO_DIALOGUES:
        asked = await counter.post("ask", session, body)
        assert asked.status == 400, body
    assert counter.library.asked == []


async def test_closed_documents_neither_answer_nor_open(counter: Counter) -> None:
    library = counter.library
    closed = library.add("secret.pdf", "The vault of the X900 opens with 4711.", access=["usr_ann"])
    assert (await counter.ask("With what does the vault of the X900 open?"))["status"] == "not_in_documents"
    link = counter_link(counter, closed)
    assert (await counter.stage.http.get(counter.url + link)).status == 404


def counter_link(counter: Counter, document_id: str) -> str:
    """A link that this server itself has signed."""
    path = f"/embed/{counter.publication}/documents/{document_id}"
    return Tickets(LinkSigner(b"s" * 32), counter.clock).link(path, timedelta(hours=1))


def stored(counter: Counter, name: str, data: bytes, passage: str) -> str:
    """A document of the space whose bytes are there; returns its id."""
    library, stage = counter.library, counter.stage
    blob = counter.blobs.put(data)
    document = library.add(name, passage, place=Place(page=2))
    with stage.db.transaction() as session:
        changed, _ = stage.spaces.documents.put(
            session, stage.project_id, library.space_id, name=name, digest=blob.digest, num_bytes=blob.num_bytes
        )
        index(session, library.space_id, document, 1)
    assert changed.id == document
    return document


async def test_a_cited_document_is_opened_by_its_link_alone(counter: Counter) -> None:
    stored(counter, "x900.pdf", b"%PDF-1.7 the bytes", "The X900 weighs 12 kilograms.")
    answer = await counter.ask("How much does the X900 weigh?")
    url = opened_as(counter, answer["citations"][0])
    got = await counter.stage.http.get(url)
    assert (got.status, await got.read()) == (200, b"%PDF-1.7 the bytes")
    assert got.headers["content-type"] == "application/pdf"
    assert got.headers["content-disposition"].startswith("inline;")
    assert "frame-ancestors 'none'" in got.headers["content-security-policy"]
    assert got.headers["x-content-type-options"] == "nosniff"
    bare = url.partition("?")[0]
    other = counter.library.add("other.pdf", "Nothing.")
    for wrong in (bare, url[:-3] + "abc", url.replace(answer["documents"][0], other), bare + "?expires=9999999999&signature="):
        assert (await counter.stage.http.get(wrong)).status == 403
    counter.clock.advance(12 * 3600 + 1)
    assert (await counter.stage.http.get(url)).status == 403


SHOWN_AS = [
    ("page.html", "text/plain; charset=utf-8", "inline"),
    ("drawing.svg", "application/octet-stream", "attachment"),
    ("letter.docx", "application/octet-stream", "attachment"),
    ("program.exe", "application/octet-stream", "attachment"),
    ("picture.png", "image/png", "inline"),
    ("no ending", "application/octet-stream", "attachment"),
]


async def test_no_document_runs_with_the_servers_rights(counter: Counter) -> None:
    for name, kind, how in SHOWN_AS:
        document = stored(counter, name, MARKUP.encode(), "The X900 weighs 12 kilograms.")
        got = await counter.stage.http.get(counter.url + counter_link(counter, document))
        assert (got.status, got.headers["content-type"]) == (200, kind), name
        assert got.headers["content-disposition"].startswith(how + ";"), name
        assert got.headers["content-security-policy"].startswith("sandbox;"), name


async def test_names_and_words_with_markup_are_handed_on_as_they_are(counter: Counter) -> None:
    """As JSON, for the page to put in as text; see the tests of the page."""
    name = f'{MARKUP}"\r\nx-injected: 1.txt'
    document = stored(counter, name, b"text", f"The X900 weighs 12 kilograms {MARKUP}.")
    answer = await counter.ask("How much does the X900 weigh?")
    assert answer["citations"][0]["document"] == name
    got = await counter.stage.http.get(counter.url + counter_link(counter, document))
    assert got.status == 200
    assert "x-injected" not in got.headers
    assert unquote(got.headers["content-disposition"].partition("''")[2]).endswith("1.txt")


def test_a_place_is_where_a_browser_goes() -> None:
    place = Place(page=7)
    assert fragment("a.PDF", place, "x") == "#page=7"
    assert fragment("a.md", place, "two words, one-off & more") == "#:~:text=two%20words%2C%20one%2Doff%20%26%20more"
    assert (
        fragment("a.txt", Place(), " ".join(map(str, range(99))))
        == "#:~:text=0%201%202%203%204%205,93%2094%2095%2096%2097%2098"
    )
    assert fragment("a.docx", place, "x") == ""
    assert urlsplit("/x" + fragment("a.txt", place, "#?/")).path == "/x"


async def test_what_a_reader_says_is_noted_once_for_each_answer(counter: Counter) -> None:
    answer, session = await counter.ask(QUESTION), await counter.session()
    body = {
        "ticket": answer["ticket"],
        "question": QUESTION,
        "answer": answer["text"],
        "status": answer["status"],
        "documents": answer["documents"],
        "rating": "up",
    }
    assert (await counter.post("feedback", session, body)).status == 200
    said = {**body, "rating": "down", "correction": f"It lasts 36 months. {MARKUP}"}
    assert (await counter.post("feedback", session, said)).status == 200
    stage = counter.stage
    with stage.db.reading() as read:
        found = stage.spaces.feedback.list(read, stage.project_id, counter.library.space_id).data
    assert [(each.rating, each.question, each.origin) for each in found] == [("down", QUESTION, SHOP)]
    assert found[0].correction == said["correction"]
    assert found[0].documents == answer["documents"]


async def test_only_what_was_answered_can_be_commented_on(counter: Counter) -> None:
    answer, session = await counter.ask(QUESTION), await counter.session()
    body = {
        "ticket": answer["ticket"],
        "question": QUESTION,
        "answer": answer["text"],
        "status": answer["status"],
        "documents": answer["documents"],
        "rating": "down",
    }
    for change in (
        {"answer": "It lasts for ever."},
        {"question": "Another one?"},
        {"documents": ["doc_other"]},
        {"status": "answered"},
        {"ticket": session},
        {"ticket": "mwe_x.1.y"},
    ):
        refused = await counter.post("feedback", session, body | change)
        assert refused.status == 401, change
    for change in ({"rating": "sideways"}, {"correction": "x" * 4001}, {"more": 1}):
        assert (await counter.post("feedback", session, body | change)).status == 400
    assert (await counter.post("feedback", session, body, origin=SHOP)).status == 403
    stage = counter.stage
    with stage.db.reading() as read:
        assert stage.spaces.feedback.list(read, stage.project_id, counter.library.space_id).data == []


async def test_of_a_table_of_a_database_its_card_alone_is_opened(counter: Counter) -> None:
    document = stored(
        counter, "staff (table)", b'{"table": "staff", "card": "# staff"}\n[0, ["Ada"]]\n', "The table staff of 3 rows."
    )
    with counter.stage.db.transaction() as session:
        session.get_one(DocumentRow, document).media_type = TABLE_ROWS
    answer = await counter.ask("How many rows has the table staff?")
    got = await counter.stage.http.get(opened_as(counter, answer["citations"][0]))
    assert (got.status, await got.read()) == (200, b"# staff")
    assert got.headers["content-type"] == "text/plain; charset=utf-8"
