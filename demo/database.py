"""A small database of the project's own: the routes of its API, as its OpenAPI document lists them."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

_METHODS = ("get", "post", "put", "patch", "delete")


def make(target: Path, openapi: Path) -> int:
    """Write the table `routes` into a new SQLite file; returns the number of its rows."""
    paths = json.loads(openapi.read_text(encoding="utf-8"))["paths"]
    rows = [
        (method.upper(), path, path.strip("/").partition("/")[0] or "/", len(operation.get("parameters", ())))
        for path, operations in paths.items()
        for method, operation in operations.items()
        if method in _METHODS
    ]
    target.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(target)) as connection, connection:
        connection.execute(
            "CREATE TABLE routes (id INTEGER PRIMARY KEY, method TEXT NOT NULL, path TEXT NOT NULL, "
            "family TEXT NOT NULL, num_parameters INTEGER NOT NULL)"
        )
        connection.executemany("INSERT INTO routes (method, path, family, num_parameters) VALUES (?, ?, ?, ?)", rows)
    return len(rows)
