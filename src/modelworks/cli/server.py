"""`serve`, `status`, `version`: the server itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from modelworks import __version__
from modelworks.cli.connection import connect
from modelworks.cli.messages import tr
from modelworks.cli.output import Format, Output, note, show_one
from modelworks.contract.errors import InvalidRequest, MissingExtra, ModelworksError


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [MODELWORKS_HOST, 127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, 0 for a free one [MODELWORKS_PORT, 8400].")] = None,
    home: Annotated[Path | None, typer.Option(help="Folder of database, blobs and logs [MODELWORKS_HOME].")] = None,
    gateways: Annotated[int | None, typer.Option(help="Processes that answer requests [MODELWORKS_GATEWAYS, 1].")] = None,
) -> None:
    """Start the platform on this machine, until Ctrl-C."""
    if home is not None:
        os.environ["MODELWORKS_HOME"] = str(home.expanduser().absolute())
    try:
        settings = settings_from({"host": host, "port": port, "gateways": gateways})
        for variable, meant in mistyped().items():
            note(tr("{variable} is no setting and has no effect. Is {meant} meant?", variable=variable, meant=meant))
        from modelworks.kernel.base.imports import importing

        with importing("modelworks.server"):
            from modelworks.server import serve as start
    except ModuleNotFoundError as error:
        raise missing_server(error) from error
    start(settings)


def mistyped() -> dict[str, str]:
    """See `settings.mistyped_variables`."""
    from modelworks.kernel.base.settings import mistyped_variables

    return mistyped_variables()


def missing_server(error: ModuleNotFoundError) -> ModelworksError:
    """The sentence for a library of the server that is not installed; our own bugs are not disguised as one.

    Raises:
        ModuleNotFoundError: the missing module is part of Modelworks itself.
    """
    library = (error.name or "").partition(".")[0]
    if library == "modelworks" or not library:
        raise error
    return MissingExtra.of(library, "server")


def settings_from(given: dict[str, Any]) -> Any:
    """The settings with the given ones on top.

    Raises:
        InvalidRequest: one of them is wrong, wherever it comes from, or the file cannot be read; the message names it.
    """
    from pydantic import ValidationError

    from modelworks.kernel.base.settings import load_settings

    try:
        return load_settings(**{name: value for name, value in given.items() if value is not None})
    except InvalidRequest as error:
        if not isinstance(error.__cause__, ValidationError):
            raise
        first = error.__cause__.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        raise InvalidRequest(
            f"The setting {name!r} is wrong: {first['msg'].removeprefix('Value error, ')}.",
            hint=f"Change the option, the variable MODELWORKS_{name.upper()} or modelworks.toml in the home folder.",
            param=name,
        ) from error


def status(output: Output = Format.table) -> None:
    """Say whether the server is ready, who you are, what goes on."""
    with connect() as client:
        client.server.health()
        record: dict[str, Any] = {"url": client.transport.base_url, "version": client.server.version(), "state": "up"}
        try:
            client.server.ready()
            record["state"] = "ready"
        except ModelworksError as error:
            record |= {"state": "not ready", "reason": error.message}
        me = client.server.whoami()
        record |= {"key": me.get("name"), "project": me.get("project_id"), "scopes": me.get("scopes")}
        deployments = client.deployments.list(limit=100)
        record["deployments"] = _counts(deployments.data)
        record["runs"] = _counts(client.runs.list(limit=100).data)
    fields = [(name.capitalize(), name) for name in ("url", "version", "state", "reason", "project", "key", "scopes")]
    show_one(record, [*fields, ("Deployments", "deployments"), ("Runs", "runs")], output, name="state")
    if record["state"] != "ready":
        raise typer.Exit(1)


def _counts(records: list[dict[str, Any]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for record in records:
        state = str(record.get("state"))
        counts[state] = counts.get(state, 0) + 1
    return dict(sorted(counts.items()))


def version(
    check: Annotated[bool, typer.Option("--check-compat", help="Also ask the server; exit 6 if we do not fit.")] = False,
    output: Output = Format.table,
) -> None:
    """Print the version. With --check-compat also the server's."""
    record: dict[str, Any] = {"client": __version__}
    if check:
        with connect() as client:
            record["server"] = client.server.version()
        record["compatible"] = compatible(__version__, record["server"])
    show_one(record, [("Client", "client"), ("Server", "server"), ("Compatible", "compatible")], output, name="client")
    if check and not record["compatible"]:
        raise InvalidRequest(
            f"The client is version {__version__}, the server {record['server']}.",
            hint="Install the same version on both sides.",
            code="version_mismatch",
        )


def compatible(client: str, server: str | None) -> bool:
    """Whether two versions fit: the same major version, and before 1.0 the same minor version."""
    if not server:
        return False
    ours, theirs = client.split("."), server.split(".")
    return ours[0] == theirs[0] and (ours[0] != "0" or ours[1:2] == theirs[1:2])


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command()(serve)
    app.command()(status)
    app.command()(version)
