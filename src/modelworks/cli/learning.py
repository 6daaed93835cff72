"""`space learn | learnings | unlearn`: a model of one's own documents."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelworks.cli.connection import connect
from modelworks.cli.messages import tr
from modelworks.cli.model import Limit
from modelworks.cli.output import Column, DryRun, Format, Output, age_of, note, pick, plain, show_list, show_one

if TYPE_CHECKING:
    from modelworks.client import Modelworks

COLUMNS: list[Column] = [
    ("ID", "id"),
    ("STATE", "state"),
    ("STEP", lambda learning: step_text(learning)),
    ("BASE", "base"),
    ("SAMPLES", "counts.num_samples"),
    ("BASE → ADAPTER", lambda learning: result_text(learning["results"][0]) if learning["results"] else None),
    ("AGE", age_of()),
]
FIELDS: list[Column] = [
    ("Id", "id"),
    ("State", "state"),
    ("Step", lambda learning: step_text(learning)),
    ("Error", lambda learning: pick(learning, "error.message")),
    ("Base", "base"),
    ("Model", "model"),
    ("Samples", "counts.makers"),
    ("Shards", lambda learning: "; ".join(map(shard_text, learning["shards"])) if len(learning["shards"]) > 1 else None),
    ("Base → adapter", lambda learning: "; ".join(map(result_text, learning["results"])) or None),
    ("Gate", lambda learning: " ".join(learning["judgement"]) or None),
    ("Runs", "runs"),
]
PREVIEW_FIELDS: list[Column] = [
    ("Name", "name"),
    ("Base", "base"),
    ("Documents", "num_documents"),
    ("Left out", "num_closed"),
    ("Shards", "num_shards"),
    ("Corrections", "num_corrections"),
    ("Not accepted", "num_unaccepted"),
    ("Found wrong", "num_rejected"),
    ("May go on", "may_go_on"),
]
SPACE_FIELDS: list[Column] = [
    ("Name", "name"),
    ("Language model", "settings.language_model"),
    ("Passages", "num_passages"),
    ("Learning", "settings.learning"),
]
_POLL_S = 1.0

SpaceName = Annotated[str, typer.Argument(metavar="SPACE", help="Its name or id.")]


def learn(
    space: SpaceName,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Wait until it is over, and say how far it is.")] = False,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Make a model of one's own: samples of the passages, an adapter, a measurement, the gate, a deployment."""
    with connect() as client:
        found = client.spaces.learn(space, dry_run=dry_run)
        if dry_run:
            show_one(found, PREVIEW_FIELDS, output, name="name")
            return
        if follow:
            found = _follow(client, space, found)
    show_one(found, FIELDS, output, name="id")
    if found["state"] in ("refused", "failed", "cancelled"):
        raise typer.Exit(1)


def learnings(space: SpaceName, limit: Limit = 20, output: Output = Format.table) -> None:
    """List what a space has learned, and what it was worth."""
    with connect() as client:
        show_list(client.spaces.learnings(space, limit=limit), COLUMNS, output, name="id")


def unlearn(space: SpaceName, output: Output = Format.table) -> None:
    """Answer as before the last time that was learned."""
    with connect() as client:
        show_one(client.spaces.roll_back_learning(space), SPACE_FIELDS, output, name="name")


def step_text(learning: dict[str, Any] | Any) -> str:
    """Where it stands: `training 3/10 steps`."""
    progress = learning["progress"]
    return str(learning["step"]) + (f" {progress['done']:g}/{progress['total']:g} {progress['what']}" if progress else "")


def result_text(result: dict[str, Any]) -> str:
    """One metric before and after: `loss 2.1 → 1.4 (better)`."""
    where = "" if result["data"] == "test" else f" ({result['data']})"
    return f"{result['metric']}{where} {result['before']:.4g} → {result['after']:.4g} ({result['verdict']})"


def shard_text(shard: dict[str, Any]) -> str:
    """One shard: `2 kept, 120 samples`, with what was forgotten of it since."""
    tainted = f", knows {len(shard['tainted_by'])} forgotten" if shard["tainted_by"] else ""
    return f"{shard['number']} {shard['way']}, {shard['num_samples']} samples{tainted}"


def _follow(client: Modelworks, space: str, learning: dict[str, Any]) -> dict[str, Any]:
    told = ""
    while learning["state"] == "running":
        if (now := step_text(learning)) != told:
            told = now
            note(told)
        time.sleep(_POLL_S)
        learning = client.spaces.learning(space, learning["id"])
    if learning["error"]:
        note(tr("Learning failed: {reason}", reason=plain(pick(learning, "error.message"))))
    return learning


def add_to(group: typer.Typer) -> None:
    """Add these verbs to those of `space`."""
    for verb in (learn, learnings, unlearn):
        group.command(verb.__name__)(verb)
