"""`connect`: the configuration with which other programs use the models of this platform."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from modelworks.cli import connection, settings_files
from modelworks.cli.client_settings import CLIENTS, ClientProgram, Link
from modelworks.cli.messages import tr
from modelworks.cli.output import Column, DryRun, Format, Output, note, plain, print_json, show_list
from modelworks.contract.errors import AuthenticationFailed, InvalidRequest, ModelNotFound

#: The task that a chat client needs.
TASK = "text-generation"
LISTING: list[Column] = [("CLIENT", "client"), ("FOR", "title"), ("FORM", "syntax"), ("WRITTEN TO", "place")]


class Name(StrEnum):
    """The clients of `CLIENTS`, as the command line completes them."""

    openai = "openai"
    langchain = "langchain"
    continue_ = "continue"
    vscode = "vscode"
    claude_code = "claude-code"
    codex = "codex"
    open_webui = "open-webui"
    dify = "dify"


def connect(
    client: Annotated[Name | None, typer.Argument(help="Which program; --list shows them.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option("--model", help="Name of a deployment; default: the only one.")] = None,
    url: Annotated[str | None, typer.Option("--url", help="Address that the client uses; default: the server's.")] = None,
    key_env: Annotated[
        str, typer.Option("--key-env", help="Environment variable that holds the key there.")
    ] = "MODELWORKS_API_KEY",
    with_key: Annotated[bool, typer.Option("--with-key", help="Put your key itself into the configuration.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Merge it into the client's file; the former one is kept.")] = False,
    to: Annotated[Path | None, typer.Option("--to", help="Write to this file instead.", show_default=False)] = None,
    listing: Annotated[bool, typer.Option("--list", help="Only show the clients.")] = False,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Print what another program needs to use a model here. --write puts it into its file, --dry-run shows the difference."""
    if listing:
        show_list([_described(program) for program in CLIENTS.values()], LISTING, output, name="client")
        return
    if client is None:
        raise InvalidRequest("Which client?", hint="See `modelworks connect --list`.", code="usage")
    program = CLIENTS[client.value]
    link = _link(model, url, key_env, with_key=with_key)
    text = program.render(link)
    answer: dict[str, Any] = {
        "client": program.name,
        "model": link.model,
        "url": link.url,
        "syntax": program.syntax,
        "content": text,
        "notes": program.notes(link),
    }
    if write or dry_run or to is not None:
        answer |= _written(program, text, to, with_key=with_key, dry_run=dry_run)
    _show(answer, output)


def _described(program: ClientProgram) -> dict[str, Any]:
    place = str(program.place()) if program.place else None
    return {"client": program.name, "title": program.title, "syntax": program.syntax, "place": place}


def _link(model: str | None, url: str | None, key_variable: str, *, with_key: bool) -> Link:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", key_variable):
        raise InvalidRequest(f"--key-env {key_variable!r} is no name of a variable.", hint="Write MY_API_KEY.", code="usage")
    given = _address(url) if url is not None else None
    with connection.connect() as client:
        offered = {one["id"]: one for one in client.server.models().data if one.get("task") in (None, TASK)}
        address, key = client.transport.base_url, client.transport.api_key
    chosen = offered[_chosen(model, list(offered))]
    if with_key and not key:
        raise AuthenticationFailed("There is no key to put in.", hint="Set MODELWORKS_API_KEY, or leave --with-key away.")
    return Link(given or address, chosen["id"], key_variable, key if with_key else None, chosen.get("max_model_len"))


def _chosen(wanted: str | None, names: list[str]) -> str:
    known = f"Deployed are: {', '.join(names)}." if names else "No language model is deployed: see `modelworks deploy`."
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted is None and names:
        raise InvalidRequest("Which model?", hint=f"Give --model. {known}", code="usage")
    if wanted is None or wanted not in names:
        raise ModelNotFound(f"There is no language model {wanted or ''!r} here.", hint=known, param="model")
    return wanted


def _address(text: str) -> str:
    url = text.strip().rstrip("/").removesuffix("/v1").rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not re.fullmatch(r"[A-Za-z0-9:/._~%\[\]-]+", url):
        raise InvalidRequest(f"--url {text!r} is no address.", hint="Write https://models.example.", code="usage")
    return url


def _written(program: ClientProgram, text: str, to: Path | None, *, with_key: bool, dry_run: bool) -> dict[str, Any]:
    if to is None and program.place is None:
        raise InvalidRequest(
            f"{program.title} has no usual place for this.", hint="Give a file with --to, or leave --write away.", code="usage"
        )
    path = to.expanduser() if to is not None else program.place() if program.place else Path()
    old = settings_files.read(path)
    # Where VS Code has put its own reference to the key, that stays; a key that is asked for does not wait for it.
    stays = [field for field in program.stays if not (with_key and field == "apiKey")]
    new = settings_files.merged(old, text, program.syntax, path, replaced=program.replaced, stays=stays)
    found = {"path": str(path), "diff": settings_files.difference(old, new, path), "dry_run": dry_run, "backup": None}
    if not dry_run and new != old:
        backup = settings_files.write(path, old, new, private=with_key)
        found["backup"] = str(backup) if backup else None
    return found


def _show(answer: dict[str, Any], output: Format) -> None:
    path = answer.get("path")
    if output is Format.json:
        print_json(answer)
        return
    if output is Format.name:
        typer.echo(plain(path or answer["model"]))
        return
    if path is None:
        typer.echo(answer["content"], nl=False)
    elif not answer["diff"]:
        note(tr("{path} says so already: nothing was changed.", path=path))
    elif answer["dry_run"]:
        typer.echo(answer["diff"], nl=False)
    else:
        note(tr("Written to {path}.", path=path))
        if answer["backup"]:
            note(tr("The former file is kept as {path}.", path=answer["backup"]))
    for text in answer["notes"]:
        note(text)


def add_to(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(connect)
