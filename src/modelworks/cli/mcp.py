"""`mcp add | ls | tools | rm`: tool servers elsewhere that responses of the project may name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from modelworks.cli.connection import connect
from modelworks.cli.messages import tr
from modelworks.cli.output import Column, DryRun, Format, Output, Yes, age_of, confirm, plain, show_list, show_one
from modelworks.contract.errors import InvalidRequest


def _rule(name: str) -> Any:
    def shown(record: Mapping[str, Any]) -> str:
        rule = record.get(name)
        return rule if isinstance(rule, str) else "all" if rule is None else json.dumps(rule, ensure_ascii=False)

    return shown


def _reads(record: Mapping[str, Any]) -> str:
    return "yes" if (record.get("annotations") or {}).get("readOnlyHint") else ""


COLUMNS: list[Column] = [
    ("NAME", "name"),
    ("URL", "url"),
    ("TOOLS", _rule("allowed_tools")),
    ("APPROVAL", _rule("require_approval")),
    ("LISTED", age_of("listed_at")),
]
FIELDS: list[Column] = [
    ("Name", "name"),
    ("URL", "url"),
    ("Description", "description"),
    ("Tools", _rule("allowed_tools")),
    ("Approval", _rule("require_approval")),
    ("Bearer secret", "authorization_secret"),
    ("Header secrets", "header_secrets"),
    ("Seconds", "timeout_s"),
    ("Changed", "updated_at"),
]
TOOLS: list[Column] = [("NAME", "name"), ("READS ONLY", _reads), ("DESCRIPTION", "description")]

Name = Annotated[str, typer.Argument(help="Its name in the project.")]


def add(
    name: Name,
    url: Annotated[str, typer.Argument(help="Where it answers, as https://tools.plant.example/mcp.")],
    bearer: Annotated[str | None, typer.Option("--bearer-secret", help="Secret that is sent as a bearer token.")] = None,
    header: Annotated[list[str] | None, typer.Option(help="NAME=SECRET: a header and the secret that it carries.")] = None,
    tool: Annotated[list[str] | None, typer.Option(help="A tool that may be called; all, where none is named.")] = None,
    unasked: Annotated[list[str] | None, typer.Option(help="A tool that is called without approval.")] = None,
    trust_reads: Annotated[bool, typer.Option("--trust-reads", help="Tools that only read need no approval.")] = False,
    never_ask: Annotated[bool, typer.Option("--never-ask", help="No tool of it needs approval.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds for one answer.", min=0.1)] = None,
    description: Annotated[str | None, typer.Option(help="What it is for.")] = None,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Register a tool server, or change the one that has the name. Its tools need approval unless said otherwise."""
    if never_ask and (unasked or trust_reads):
        raise InvalidRequest("--never-ask says it of all tools.", hint="Leave --unasked and --trust-reads out.", code="usage")
    rule: Any = "never" if never_ask else "always"
    if unasked or trust_reads:
        rule = {"never": ({"tool_names": unasked} if unasked else {}) | ({"read_only": True} if trust_reads else {})}
    headers: dict[str, str] = {}
    for each in header or ():
        key, equals, secret = each.partition("=")
        if not (key and equals and secret):
            raise InvalidRequest(f"--header {each!r} names no secret.", hint="Write NAME=SECRET.", code="usage")
        headers[key] = secret
    with connect() as client:
        found = client.mcp_servers.put(
            name,
            url,
            description=description,
            authorization_secret=bearer,
            header_secrets=headers or None,
            allowed_tools=tool or None,
            require_approval=rule,
            timeout_s=timeout,
            dry_run=dry_run,
        )
    show_one(found, FIELDS, output, name="name")


def ls(output: Output = Format.table) -> None:
    """List the project's tool servers."""
    with connect() as client:
        show_list(client.mcp_servers.list().data, COLUMNS, output, name="name")


def tools(
    name: Name,
    refresh: Annotated[bool, typer.Option("--refresh", help="Ask the server anew; its list is kept for an hour.")] = False,
    output: Output = Format.table,
) -> None:
    """List the tools that may be called on a server."""
    with connect() as client:
        show_list(client.mcp_servers.tools(name, refresh=refresh).data, TOOLS, output, name="name")


def rm(name: Name, yes: Yes = False, output: Output = Format.table) -> None:
    """Forget a tool server. Responses that name it are refused from then on."""
    with connect() as client:
        if not confirm(tr("Remove {name} for good?", name=plain(name)), yes=yes):
            raise typer.Exit(1)
        show_one(client.mcp_servers.remove(name), FIELDS, output, name="name")


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    group = typer.Typer(help="Tool servers elsewhere: add, ls, tools, rm.", no_args_is_help=True, rich_markup_mode=None)
    for name, verb in (("add", add), ("ls", ls), ("tools", tools), ("rm", rm)):
        group.command(name)(verb)
    app.add_typer(group, name="mcp")
