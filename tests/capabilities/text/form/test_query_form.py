"""A real engine held to the form of a query: what it writes is one, however little it understands."""

import json
import re
from contextlib import suppress
from pathlib import Path

from jsonschema import Draft202012Validator
from tests.capabilities.text.conftest import ask

from modelworks.capabilities.text.serve import Generator
from modelworks.tables.composing import Unwritten, composed, offer
from modelworks.tables.snapshot import build

QUESTION = "What are the units of 5 sales in the region North, and those of South?"


async def test_what_a_model_without_knowledge_writes_is_a_query_or_refused(generator: Generator, tmp_path: Path) -> None:
    source, snapshot = tmp_path / "sales.csv", tmp_path / "sales.sqlite"
    source.write_text("region,units\nNorth,3\nSouth,4\nNorth,5\n", "utf-8")
    build(source, "csv", source.name, snapshot)
    form = offer([snapshot], QUESTION)
    assert form is not None
    # Of the whole form this one always chooses that no table answers; here it must describe a query.
    schema = form.schema["anyOf"][0]
    held = {"json_schema": schema, "strict": True, "place": "response_format.json_schema.schema"}
    # Neither the tables nor a long query fit into the context of a model so small: what it writes is mostly cut.
    chat = [{"role": "user", "content": "?"}]
    answer = await ask(generator, messages=chat, answer_form=held, n=16, seed=5, temperature=1.2)
    texts = [reply.text for reply in answer.replies.values()]
    assert all(text.startswith('{"table": "sales", "show": [{"function": ') for text in texts), texts
    for reply in answer.replies.values():
        assert {*re.findall(r'"column": "(.*?)"', reply.text)} <= {"*", "region", "units"}
        assert {*re.findall(r'"table": "(.*?)"', reply.text)} <= {"sales"}
        if reply.finish_reason == "stop":
            Draft202012Validator(schema).validate(json.loads(reply.text))
            # A value that it invented and a sum of texts are what a schema cannot refuse.
            with suppress(Unwritten):
                found = composed([snapshot], QUESTION, reply.text)
                assert found is None or found.sql.startswith("SELECT ")
