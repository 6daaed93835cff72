"""Two tenants in one platform: a row of the one in every table, every text in it marked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import JSON, Boolean, Column, Float, Integer, LargeBinary, Table, insert, select

from modelworks.kernel.base.database import Base, Database, UtcDateTime
from modelworks.kernel.base.migration import load_metadata

#: In the victim's ids and names, which others may ask for.
MARK = "victim7f3a"
#: In every other text of the victim's rows: where an answer to somebody else holds it, something leaked.
HIDDEN = "hidden91c4"
VICTIM = f"prj_{MARK}"
NAME = f"{MARK}-name"
DIGEST = "sha256:" + "7f3a" * 16

#: What rooms read by meaning, so that the victim's own routes find the rows.
_VALUES: dict[str, Any] = {
    "artifacts.kind": "model",
    "versions.state": "ready",
    "versions.level": "L0",
    "runs.state": "succeeded",
    "runs.verb": "train",
    "runs.executor": "local",
    "deployments.state": "running",
    "replicas.state": "ready",
    "reservations.holder": f"reservation_holders-{MARK}",
    "deployments.kind": "predictor",
    "deployments.observed_state": "ready",
    "users.kind": "person",
    "memberships.role": "owner",
    "projects.use": "commercial",
    "files.purpose": "fine-tune",
    "uploads.state": "pending",
    "uploads.purpose": "fine-tune",
    "fine_tuning_jobs.state": "running",
    "fine_tuning_jobs.wish": "run",
    "eval_runs.state": "completed",
    "batches.state": "completed",
    "eval_items.state": "pass",
    "space_sources.state": "idle",
    "space_documents.state": "indexed",
    "space_builds.state": "succeeded",
    "space_builds.step": "done",
    "space_events.level": "info",
    "space_forgettings.state": "succeeded",
    "space_forgettings.step": "done",
    "space_feedback.rating": "up",
    "space_feedback.status": "quoted",
}
_LISTS = {"files", "scopes", "devices", "saves", "outputs", "checkpoint", "fields", "results", "testing_criteria"}
#: Not of a tenant, or of the platform itself.
PLATFORM_TABLES = {"alembic_version", "audit_heads", "audit_entries", "server_lock", "sign_in_failures"}


def value(table: Table, column: Column[Any]) -> Any:
    """A value that fits the column and carries the mark."""
    for key in column.foreign_keys:
        return value(key.column.table, key.column)
    place = f"{table.name}.{column.name}"
    if place in _VALUES:
        return _VALUES[place]
    if column.name == "project_id" or place == "projects.id" or place == "memberships.place_id":
        return VICTIM
    kind = column.type
    if isinstance(kind, UtcDateTime):
        ended = column.name in ("revoked_at", "disabled_at", "expires_at", "cancel_requested_at", "not_before")
        # Seen in the future: nothing of the victim's is tidied up as abandoned while the walk lasts.
        ahead = ended or column.name == "seen_at"
        return None if ended and column.nullable else datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=3650 * ahead)
    if isinstance(kind, JSON):
        is_list = column.name in (
            "files",
            "scopes",
            "devices",
            "saves",
            "outputs",
            "checkpoint",
            "fields",
            "results",
            "testing_criteria",
            "access",
            "faults",
            "documents",
            "file_ids",
            "tainted_by",
            "sentences",
            "digests",
        )
        return [] if is_list or column.name.endswith(("_allow", "_messages", "items")) else {}
    if isinstance(kind, Boolean):
        return False
    if isinstance(kind, Integer | Float):
        return 1
    if isinstance(kind, LargeBinary):
        return MARK.encode()
    if column.name == "digest":
        return DIGEST
    if column.name == "name" or column.name == "filename":
        return NAME
    if column.primary_key or column.name.endswith("_id"):
        return f"{table.name}-{MARK}"[-(getattr(kind, "length", None) or 64) :]
    return f"{column.name}-{HIDDEN}"[-(getattr(kind, "length", None) or 64) :]


def tables() -> list[Table]:
    """Every table that holds something of a tenant."""
    load_metadata()
    return [table for table in Base.metadata.sorted_tables if table.name not in PLATFORM_TABLES]


def settle(db: Database) -> None:
    """Give the victim a row in every table."""
    with db.writing() as connection:
        for table in tables():
            connection.execute(insert(table).values({column.name: value(table, column) for column in table.columns}))


def belongings(db: Database) -> dict[str, list[str]]:
    """The victim's rows as text, by table: those of its project, and those that it was given at the start."""
    found = {}
    with db.reading() as session:
        for table in tables():
            settled = {column.name: value(table, column) for column in table.primary_key}
            rows = [dict(row) for row in session.execute(select(table)).mappings()]
            mine = [
                row for row in rows if row.get("project_id") == VICTIM or all(row[name] == settled[name] for name in settled)
            ]
            found[table.name] = sorted(json.dumps(row, default=str, sort_keys=True) for row in mine)
    return found


#: What a parameter of a path names, where its own name does not say it.
_NAMED = {
    "version_id": "versions",
    "key_id": "api_keys",
    "user_id": "users",
    "file_id": "files",
    "upload_id": "uploads",
    "fine_tuning_job_id": "fine_tuning_jobs",
    "eval_id": "evals",
    "batch_id": "batches",
    "response_id": "responses",
    "conversation_id": "conversations",
    "replica_id": "replicas",
    "space": "spaces",
    "vector_store_id": "spaces",
    "document_id": "space_documents",
    "source_id": "space_sources",
    "publication": "space_publications",
    "feedback": "space_feedback",
    "build_id": "space_builds",
    "answer_id": "space_answers",
    "forgetting_id": "space_forgettings",
    "subject_id": "versions",
    "digest": "",
}


def names_of(parameter: str, path: str) -> list[str]:
    """What the victim has that a parameter of a path may name."""
    if parameter == "digest":
        return [DIGEST]
    if parameter == "batch_id" and "/file_batches/" in path:
        return [identifier("vector_store_batches")]
    if parameter == "run_id":
        return [identifier("eval_runs" if "/evals/" in path else "runs")]
    return [identifier(_NAMED[parameter])] if parameter in _NAMED else [NAME, f"{NAME}@v1", VICTIM]


def identifier(table: str) -> str:
    """The id of the victim's row in a table."""
    return f"{table}-{MARK}"


def filled(schema: dict[str, Any], document: dict[str, Any], text: str, depth: int = 0) -> Any:
    """A value of a JSON schema, with `text` wherever a free text may stand."""
    if "$ref" in schema:
        return filled(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document, text, depth)
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return filled(next(each for each in schema[union] if each.get("type") != "null"), document, text, depth)
    if "enum" in schema:
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        if depth > 3:
            return {}
        return {name: filled(each, document, text, depth + 1) for name, each in schema.get("properties", {}).items()}
    if kind == "array":
        return [filled(schema.get("items", {}), document, text, depth + 1)]
    if kind in ("integer", "number"):
        return schema.get("minimum", schema.get("default", 1)) or 1
    if kind == "boolean":
        return False
    if schema.get("format") == "date-time":
        return "2030-01-01T00:00:00Z"
    return text


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every method and path of an OpenAPI document."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation
