"""The process that reads tables: one wish as JSON on its input, one answer as JSON on its output.

`{"op": "build", "sources", "kind", "name", "target"}`, `{"op": "ask", "snapshots", "question"}`,
`{"op": "describe", "snapshots"}`, `{"op": "offer", "snapshots", "question"}`,
`{"op": "compose", "snapshots", "question", "written"}`.
It takes no more memory and time than it is allowed, whatever a file or a question holds.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from modelworks.tables.answering import answer, described
from modelworks.tables.composing import Unwritten, composed, offer
from modelworks.tables.running import QueryRefused
from modelworks.tables.snapshot import NoTable, build

_MEMORY_BYTES: Final = 3 << 30
_CPU_S: Final = 600


def _answered(asked: dict[str, Any]) -> dict[str, Any]:
    if asked["op"] == "build":
        try:
            card = build([Path(each) for each in asked["sources"]], asked["kind"], asked["name"], Path(asked["target"]))
        except NoTable as error:
            return {"fault": str(error)}
        return json.loads(card.dumps())  # type: ignore[no-any-return]
    snapshots = [Path(each) for each in asked["snapshots"]]
    if asked["op"] == "describe":
        return {
            "cards": [None if card is None else [asdict(each) for each in card.tables] for card in map(described, snapshots)]
        }
    if asked["op"] == "offer":
        form = offer(snapshots, asked["question"])
        return {"offer": None if form is None else asdict(form)}
    if asked["op"] == "compose":
        try:
            found = composed(snapshots, asked["question"], asked["written"])
        except (Unwritten, QueryRefused) as error:
            return {"answer": None, "fault": str(error)}
    else:
        found = answer(snapshots, asked["question"])
    if found is None:
        return {"answer": None}
    query = found.parsed.query
    return {
        "answer": {
            "place": found.place,
            "sql": found.sql,
            "kind": query.kind,
            "base": query.base,
            "units": {each.label: each.unit for each in (*query.groups, *query.shown) if each.unit is not None},
            "conditions": [each.told for each in query.conditions],
            "tables": [
                {"name": each.name, "place": each.place, "num_rows": each.num_rows, "origin": each.origin}
                for each in found.tables
            ],
            **asdict(found.result),
        }
    }


def main() -> None:
    """Answer one wish."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    os.nice(5)
    json.dump(_answered(json.load(sys.stdin)), sys.stdout, ensure_ascii=True)


if __name__ == "__main__":
    main()
