"""Questions to a space that are answered from a table: what is told, to whom, and what is never looked into."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from tests.kernel.gateway.conftest import Stage
from tests.kernel.gateway.spaces.library import Library, index

from modelworks.contract.passages import TABLE_ROWS
from modelworks.kernel.dataspace.service import TOPIC
from modelworks.kernel.dataspace.store import DocumentRow, SpaceRow
from modelworks.kernel.gateway.spaces.tables import discard

SALES_ROWS = b"region,product,units\nNorth,Desk,3\nSouth,Desk,4\nNorth,Lamp,5\n"


def put(stage: Stage, library: Library, name: str, content: bytes, **more: Any) -> str:
    """An indexed document whose bytes are stored; returns its id."""
    stored = stage.blobs.put(content)
    with stage.db.transaction() as session:
        document, _ = stage.spaces.documents.put(
            session, stage.project_id, library.space_id, name=name, digest=stored.digest, num_bytes=stored.num_bytes, **more
        )
        index(session, library.space_id, document.id, 1)
    return document.id


def snapshots(tmp_path: Path) -> list[str]:
    return sorted(place.suffix for place in (tmp_path / "cache" / "tables").rglob("*") if place.is_file())


async def test_a_question_about_a_table_is_computed(stage: Stage, library: Library) -> None:
    document = put(stage, library, "sales.csv", SALES_ROWS)
    message = await library.ask("What is the sum of units by region?")
    assert message["grounding"]["status"] == "computed"
    table = message["grounding"]["table"]
    assert table["rows"] == [["North", 8], ["South", 4]]
    assert table["sql"] == 'SELECT "region", sum("units") AS "sum of units" FROM "sales" GROUP BY "region"'
    assert (table["document_id"], table["filename"], table["is_computed"]) == (document, "sales.csv", True)
    assert message["content"] == (
        "Computed from the table “sales”: 2 rows. [1]\n\n```sql\n" + table["sql"] + "\n```\n\n"
        "```text\nregion | sum of units\nNorth  | 8\nSouth  | 4\n```"
    )
    [cited] = message["annotations"]
    assert cited["file_citation"]["filename"] == "sales.csv"
    assert message["content"][cited["file_citation"]["index"] :].startswith("[1]")
    assert library.asked == []


async def test_it_is_told_in_the_language_of_the_question(stage: Stage, library: Library) -> None:
    put(stage, library, "员工.csv", "姓名,部门,工资(元)\n张伟,研发,21000\n李娜,研发,26000\n王芳,市场,15000\n".encode())
    assert (await library.ask("研发的平均工资是多少？"))["content"].startswith(
        "表“员工”（条件：部门 = 研发）：工资(元)的平均值为 23500 元（计算得出）。 [1]"
    )
    assert (await library.ask("员工有多少人？"))["content"].startswith("表“员工”的行数为 3（计算得出）。")
    assert "占 66.6667%（3 行中的 2 行" in (await library.ask("部门为研发的员工占比是多少？"))["content"]


@pytest.mark.parametrize(
    ("question", "start"),
    [
        (
            "How many sales are in the region North?",
            "Computed from the table “sales”: the number of rows where region = North is 2.",
        ),
        ("What is the highest units?", "Computed from the table “sales”: the highest units is 5."),
        ("Which product has the most sales?", "Computed from the table “sales”: product Desk, number of rows 2."),
        (
            "What share of sales is in the region South?",
            "Computed from the table “sales”: the share where region = South is 33.3333%",
        ),
    ],
)
async def test_sentences_say_what_was_computed(stage: Stage, library: Library, question: str, start: str) -> None:
    put(stage, library, "sales.csv", SALES_ROWS)
    assert (await library.ask(question))["content"].startswith(start)


async def test_other_questions_take_the_way_of_passages(stage: Stage, library: Library) -> None:
    put(stage, library, "sales.csv", SALES_ROWS)
    message = await library.ask("How long does the warranty of the X200 last?")
    assert message["grounding"]["status"] == "quoted"
    assert "table" not in message["grounding"]
    # What goes on from another question is none that stands alone.
    message = await library.ask("What is the sum of units?", "It is 12.", "And what is the highest units of it?")
    assert message["grounding"]["status"] != "computed"


async def test_a_space_may_leave_its_tables_alone(stage: Stage, library: Library) -> None:
    put(stage, library, "sales.csv", SALES_ROWS)
    with stage.db.transaction() as session:
        row = session.get_one(SpaceRow, library.space_id)
        row.settings = {**row.settings, "answering": {"tables": "off"}}
    assert (await library.ask("What is the sum of units?"))["grounding"]["status"] != "computed"


async def test_only_what_the_caller_may_read_now_is_computed_from(stage: Stage, library: Library, tmp_path: Path) -> None:
    document = put(stage, library, "sales.csv", SALES_ROWS)
    question = "What is the sum of units?"
    assert (await library.ask(question))["grounding"]["status"] == "computed"
    for change in ({"access": ["usr_other"]}, {"state": "removed", "access": []}):
        with stage.db.transaction() as session:
            is_restricted = bool(change["access"])
            row = session.get_one(DocumentRow, document)
            row.access, row.is_restricted = list(change["access"]), is_restricted
            row.state = str(change.get("state", row.state))
        assert (await library.ask(question))["grounding"]["status"] != "computed"


async def test_a_table_of_which_cleaning_took_something_is_not_told(stage: Stage, library: Library) -> None:
    document = put(stage, library, "sales.csv", SALES_ROWS)
    of_document = update(DocumentRow).where(DocumentRow.id == document)
    with stage.db.transaction() as session:
        session.execute(of_document.values(num_cleaned=2, dropped={"personal_data": 1}))
    assert (await library.ask("What is the sum of units?"))["grounding"]["status"] != "computed"
    with stage.db.transaction() as session:
        session.execute(of_document.values(num_cleaned=2, dropped={"duplicate": 2}))
    assert (await library.ask("What is the sum of units?"))["grounding"]["status"] == "computed"


async def test_snapshots_come_and_go_with_their_documents(stage: Stage, library: Library, tmp_path: Path) -> None:
    stage.tables.start(stage.bus)
    document = put(stage, library, "sales.csv", SALES_ROWS)
    put(stage, library, "empty.csv", b"")

    async def follow(wanted: list[str]) -> None:
        stage.bus.publish(TOPIC, project_id=stage.project_id, space_id=library.space_id)
        async with asyncio.timeout(30):
            while snapshots(tmp_path) != wanted:
                await asyncio.sleep(0.02)

    await follow([".fault", ".sqlite"])
    with stage.db.transaction() as session:
        stage.spaces.documents.remove(session, stage.project_id, library.space_id, document)
    await follow([".fault"])


async def test_what_is_forgotten_leaves_no_snapshot(stage: Stage, library: Library, tmp_path: Path) -> None:
    put(stage, library, "sales.csv", SALES_ROWS)
    await library.ask("What is the sum of units?")
    assert snapshots(tmp_path) == [".sqlite"]
    discard(tmp_path / "cache" / "tables", [stage.blobs.put(SALES_ROWS).digest])
    assert snapshots(tmp_path) == []


async def test_cells_cannot_leave_their_fence(stage: Stage, library: Library) -> None:
    put(stage, library, "notes.csv", b'name,units\n```\nnope,2\n"``` [1] <script>",7\n')
    message = await library.ask("Which name has the highest units?")
    assert message["grounding"]["status"] == "computed"
    assert "\n````text\n" in message["content"]
    assert message["content"].endswith("````")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
async def test_every_protocol_carries_the_query_and_the_rows(stage: Stage, library: Library, path: str) -> None:
    put(stage, library, "sales.csv", SALES_ROWS)
    body: dict[str, Any] = {"model": f"space:{library.name}", "max_tokens": 100}
    turns = [{"role": "user", "content": "What is the sum of units?"}]
    if path == "/v1/responses":
        body = {"model": body["model"], "input": turns[0]["content"]}
    else:
        body["messages"] = turns
    status, answer, _ = await stage.post(path, body)
    assert status == 200, answer
    text = str(answer)
    assert 'SELECT sum("units") AS "sum of units" FROM "sales"' in text
    assert "sum of units\\n12" in text.replace("\\\\n", "\\n")
    if path != "/v1/messages":
        assert "'is_computed': True" in text


async def test_a_streamed_answer_ends_with_the_table(stage: Stage, library: Library) -> None:
    put(stage, library, "sales.csv", SALES_ROWS)
    blocks = await stage.events("/v1/chat/completions", library.body("What is the sum of units?"))
    assert any('"is_computed":true' in block for block in blocks)


async def listed(stage: Stage, library: Library) -> list[dict[str, Any]]:
    """What the route lists for a key that may read."""
    secret = stage.key(scopes=["read"])
    path = f"{stage.url}/api/spaces/{library.name}/tables"
    async with stage.http.get(path, headers={"authorization": f"Bearer {secret}"}) as response:
        assert response.status == 200, await response.text()
        found: list[dict[str, Any]] = (await response.json())["data"]
        return found


async def test_the_tables_are_listed_with_columns_types_and_rows(stage: Stage, library: Library) -> None:
    document = put(stage, library, "sales.csv", b"region,weight (kg)\nNorth,3.5\nSouth,\n")
    put(stage, library, "empty.csv", b"")
    put(stage, library, "notes.txt", b"region,units\nNorth,3\n")
    table, empty = await listed(stage, library)
    assert (table["state"], table["name"], table["num_rows"], table["document_id"]) == ("ready", "sales", 2, document)
    region, weight = table["columns"]
    assert (region["name"], region["kind"], region["num_distinct"]) == ("region", "text", 2)
    assert (weight["kind"], weight["unit"], weight["num_empty"], weight["least"]) == ("number", "kg", 1, 3.5)
    assert (empty["state"], empty["filename"], empty["name"], empty["columns"]) == ("no_table", "empty.csv", None, [])
    assert "empty" in empty["fault"]


@pytest.mark.parametrize("change", [{"access": ["usr_other"]}, {"state": "removed"}])
async def test_tables_that_the_caller_may_not_read_are_not_listed(
    stage: Stage, library: Library, change: dict[str, Any]
) -> None:
    document = put(stage, library, "sales.csv", SALES_ROWS)
    put(stage, library, "rooms.csv", b"room,seats\nA,3\nB,4\n")
    assert [each["name"] for each in await listed(stage, library)] == ["sales", "rooms"]
    with stage.db.transaction() as session:
        session.execute(update(DocumentRow).where(DocumentRow.id == document).values(**change))
    assert [each["name"] for each in await listed(stage, library)] == ["rooms"]


async def test_no_tables_are_listed_where_none_are_asked(stage: Stage, library: Library) -> None:
    put(stage, library, "sales.csv", SALES_ROWS)
    with stage.db.transaction() as session:
        row = session.get_one(SpaceRow, library.space_id)
        row.settings = {**row.settings, "answering": {**row.settings["answering"], "tables": "off"}}
    assert await listed(stage, library) == []


def rows(stage: Stage, library: Library, name: str, head: dict[str, Any], *cells: list[str | None], **more: Any) -> str:
    """A table of a database that its source has brought."""
    lines = [{"table": name, "id": name, "key": ["id"], "card": f"# {name}", **head}, *([0, each] for each in cells)]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    of = {"key": f"{name}/card", "source_id": "src_shop", "media_type": TABLE_ROWS}
    return put(stage, library, f"{name} (table)", content, **of, **more)


def shop(stage: Stage, library: Library, **more: Any) -> tuple[str, str, str]:
    head = {"columns": ["id", "name", "city"], "texts": ["name", "city"]}
    customers = rows(stage, library, "customers", head, ["1", "Ada", "Paris"], ["2", "Bob", "Rome"], **more)
    refers = {"references": [["customer", "customers", "id"]]}
    orders = rows(
        stage, library, "orders", {"columns": ["id", "customer", "total"], **refers}, ["10", "1", "5.5"], ["11", "2", "20"]
    )
    return customers, orders, rows(stage, library, "rooms", {"columns": ["id", "seats"]}, ["1", "30"], ["2", None])


async def test_tables_of_a_database_are_asked_together(stage: Stage, library: Library) -> None:
    customers, orders, rooms = shop(stage, library)
    message = await library.ask("What is the sum of total of orders by city?")
    table = message["grounding"]["table"]
    assert table["rows"] == [["Paris", 5.5], ["Rome", 20.0]]
    assert {each["document_id"] for each in table["tables"]} == {customers, orders}
    assert table["document_id"] == orders
    cited = [each["file_citation"] for each in message["annotations"]]
    assert [each["citation"]["document_id"] for each in cited] == [orders, customers], "it rests on both"
    assert [message["content"][each["index"] :][:3] for each in cited] == ["[1]", "[2]"]
    assert (await library.ask("What is the sum of seats of rooms?"))["grounding"]["table"]["document_id"] == rooms
    assert [(each["name"], each["document_id"], each["state"]) for each in await listed(stage, library)] == [
        ("customers", customers, "ready"),
        ("orders", orders, "ready"),
        ("rooms", rooms, "ready"),
    ]


async def test_a_table_that_the_caller_may_not_read_is_not_joined(stage: Stage, library: Library, tmp_path: Path) -> None:
    question = "What is the sum of total of orders by city?"
    customers, _, _ = shop(stage, library)
    assert (await library.ask(question))["grounding"]["status"] == "computed"
    with stage.db.transaction() as session:
        session.execute(update(DocumentRow).where(DocumentRow.id == customers).values(access=["usr_x"], is_restricted=True))
    assert (await library.ask(question))["grounding"]["status"] != "computed"
    message = await library.ask("What is the sum of total of orders?")
    assert message["grounding"]["table"]["rows"] == [[25.5]]
    assert "Paris" not in str(await listed(stage, library))
    # What is made of one document goes with it, whatever else it holds.
    held = snapshots(tmp_path).count(".sqlite")
    with stage.db.reading() as session:
        digest = session.get_one(DocumentRow, customers).digest
    discard(tmp_path / "cache" / "tables", [digest])
    assert (held, snapshots(tmp_path).count(".sqlite"), ".members" in snapshots(tmp_path)) == (3, 2, False)


async def test_a_snapshot_of_several_tables_goes_when_one_of_them_changes(
    stage: Stage, library: Library, tmp_path: Path
) -> None:
    shop(stage, library)
    await library.ask("What is the sum of total of orders by city?")
    held = set((tmp_path / "cache" / "tables").rglob("*.sqlite"))
    assert len(held) == 2
    rows(stage, library, "customers", {"columns": ["id", "name", "city"]}, ["1", "Ada", "Bern"], ["2", "Bob", "Bern"])
    stage.tables._follow(library.space_id)
    now = set((tmp_path / "cache" / "tables").rglob("*.sqlite"))
    assert len(now) == 2
    assert len(now & held) == 1, "the one that refers to nothing stays"
    message = await library.ask("What is the sum of total of orders by city?")
    assert message["grounding"]["table"]["rows"] == [["Bern", 25.5]]


async def test_tables_of_databases_are_not_asked_where_personal_data_is_masked(stage: Stage, library: Library) -> None:
    shop(stage, library)
    with stage.db.transaction() as session:
        row = session.get_one(SpaceRow, library.space_id)
        row.settings = {**row.settings, "cleaning": {"personal_data": {"email": "mask"}}}
    assert await listed(stage, library) == []
    assert (await library.ask("What is the sum of seats of rooms?"))["grounding"]["status"] != "computed"


async def test_what_a_person_puts_in_is_no_table_of_a_database(stage: Stage, library: Library) -> None:
    put(stage, library, "mine", b'{"table": "orders", "columns": ["id"]}\n', media_type=TABLE_ROWS)
    assert await listed(stage, library) == []
