"""`deploy`, `undeploy`, `ps`: what answers under which name."""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated, Any

import typer

from modelworks.cli.adapter import named, stop_answering
from modelworks.cli.adapter import wait_until_ready as wait_for_adapter
from modelworks.cli.connection import collect, connect, pairs_of
from modelworks.cli.messages import tr
from modelworks.cli.output import (
    Column,
    DryRun,
    Format,
    Output,
    Record,
    Yes,
    age_of,
    note,
    plain,
    show_list,
    show_one,
)
from modelworks.contract.errors import InvalidRequest, TimedOut


def _ready_text(record: Record) -> str:
    if record.get("kind") == "static" or record.get("base_url"):
        return ""
    replicas = record.get("replicas") or []
    return f"{sum(replica['state'] == 'ready' for replica in replicas)}/{record.get('num_replicas', 1)}"


def _shortened(text: str | None) -> str | None:
    """The beginning of a message, so that a list stays a list; `-o json` and `deploy` show it whole."""
    return text if text is None or len(text) <= _ERROR_CHARS else text[: _ERROR_CHARS - 1].rstrip() + "…"


#: Longest error in a list.
_ERROR_CHARS = 80
LIST_COLUMNS: list[Column] = [
    ("NAME", "name"),
    ("STATE", "state"),
    ("READY", _ready_text),
    ("TASK", "task"),
    ("ENGINE", "engine"),
    ("MODEL", lambda record: record.get("model") or record.get("base_url")),
    ("VERSION", "version_id"),
    ("AGE", age_of()),
    ("ERROR", lambda record: _shortened(record.get("last_error"))),
]
FIELDS: list[Column] = [
    *[(title.capitalize(), source) for title, source in LIST_COLUMNS[:-1]],
    ("Error", "last_error"),
    ("Options", "options"),
    ("Id", "id"),
]


def deploy(
    model: Annotated[str | None, typer.Argument(help="Reference of the model; none with --base-url.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="The id that clients use; by default the model's name.")] = None,
    task: Annotated[str | None, typer.Option("--task", help="By default what the model was made for.")] = None,
    capability: Annotated[str | None, typer.Option("--capability", help="Where several offer the task.")] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="One of the task's engines.")] = None,
    replicas: Annotated[int, typer.Option("--replicas", min=1, help="How many processes answer.")] = 1,
    option: Annotated[list[str] | None, typer.Option("-p", "--option", help="key=value for the engine; repeatable.")] = None,
    resource: Annotated[list[str] | None, typer.Option("--resource", help="cpu=…, memory_bytes=…, gpu=… of a replica.")] = None,
    base_url: Annotated[str | None, typer.Option("--base-url", help="An OpenAI-compatible server, up to /v1.")] = None,
    upstream_model: Annotated[str | None, typer.Option("--upstream-model", help="How that server calls the model.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option("--api-key-env", help="Variable of our server that holds the key of that server.")
    ] = None,
    api_key_secret: Annotated[
        str | None, typer.Option("--api-key-secret", help="Secret of the project that holds it; see `secrets set`.")
    ] = None,
    adapters: Annotated[
        list[str] | None,
        typer.Option("--adapter", help="A model trained as an adapter of this one, or NAME=MODEL; repeatable."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it answers.")] = True,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait at most.")] = 900.0,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Let a model answer requests. Deploying the same name again changes it without an interruption."""
    chosen = name or (model.partition("@")[0] if model else None)
    if chosen is None:
        raise InvalidRequest("There is nothing to deploy.", hint="Give a model, or --base-url with --name.", code="usage")
    beside = [named(text) for text in adapters or []]
    with connect() as client:
        deployment = client.deployments.apply(
            chosen,
            dry_run=dry_run,
            model=model,
            task=task,
            capability=capability,
            engine=engine,
            num_replicas=replicas,
            options=pairs_of(option or [], "-p"),
            resources=pairs_of(resource or [], "--resource") or None,
            base_url=base_url,
            upstream_model=upstream_model,
            api_key_env=api_key_env,
            api_key_secret=api_key_secret,
        )
        # Asked for before anything is waited for, so that the replica loads them together.
        added = [] if dry_run else [client.deployments.add_adapter(chosen, ref, name=each) for ref, each in beside]
        if wait and not dry_run:
            deployment = wait_until_ready(client, deployment, timeout_s)
            if deployment["state"] == "ready":
                added = [wait_for_adapter(client, each, timeout_s) for each in added]
    show_one(deployment, FIELDS, output, name="name")
    if deployment.get("state") == "failed" or any(each["state"] == "failed" for each in added):
        raise typer.Exit(1)


def wait_until_ready(client: Any, deployment: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """Poll until the deployment answers with what was asked for, or has failed.

    Raises:
        TimedOut: it is still loading after `timeout_s`; it goes on loading.
    """
    name, deadline, told = deployment["name"], time.monotonic() + timeout_s, False
    error_shown: str | None = None
    while deployment["state"] not in ("ready", "failed", "stopped"):
        if not told:
            note(tr("Waiting for {name} to load …", name=name))
            told = True
        if deployment.get("last_error") and deployment["last_error"] != error_shown:
            error_shown = deployment["last_error"]
            note(plain(error_shown))
        if time.monotonic() > deadline:
            raise TimedOut(f"{name} is still loading after {timeout_s:.0f} s.", hint="See `modelworks ps`; it goes on loading.")
        time.sleep(0.5)
        deployment = client.deployments.get(name)
    if deployment["state"] == "ready":
        note(tr("{name} is ready.", name=name))
    elif deployment.get("last_error"):
        note(plain(deployment["last_error"]))
    return deployment


def undeploy(
    name: Annotated[str, typer.Argument(help="Name of the deployment.")],
    dry_run: DryRun = False,
    yes: Yes = False,
    output: Output = Format.table,
) -> None:
    """Stop answering under a name. Running requests are finished first; the model stays in the catalog."""
    with connect() as client:
        deployment = client.deployments.get(name)
        remove = partial(client.deployments.remove, name)
        stop_answering(name, [deployment], LIST_COLUMNS, remove, dry_run=dry_run, yes=yes, output=output)


def ps(
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 100,
    output: Output = Format.table,
) -> None:
    """List the deployments with their state."""
    with connect() as client:
        show_list(collect(client.deployments.list, limit), LIST_COLUMNS, output, name="name")


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (deploy, undeploy, ps):
        app.command()(verb)
