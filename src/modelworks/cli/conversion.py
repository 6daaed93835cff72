"""`quantise`: smaller versions of a model, and what they cost. `export`: a model for other programs."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelworks.cli.connection import connect, pairs_of, roles_of
from modelworks.cli.messages import tr
from modelworks.cli.model import Reference
from modelworks.cli.output import Column, DryRun, Format, Output, Record, bytes_of, note, plain, print_json, show_list
from modelworks.cli.run import Params, Seed, answer, dataset_ref, ended, queued, resolve_task
from modelworks.contract.errors import InvalidRequest

if TYPE_CHECKING:
    from modelworks.client import Modelworks

Detach = Annotated[bool, typer.Option("--detach", help="Do not wait: print the run's id.")]
_LARGEST = 6


def quantise(
    ref: Reference,
    to: Annotated[str, typer.Option("--to", help="Precisions, separated by commas: int8, int4.")] = "int8,int4",
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="Held-out data to measure on, as role=… where not test (task=…); repeatable."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="What the versions are called, before -int8; the model's.")] = None,
    param: Params = None,
    seed: Seed = None,
    detach: Detach = False,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Make smaller versions of a model. With a table of size, speed, and what they cost on the data."""
    with connect() as client:
        version = client.models.get(ref)["version"]
        capability, task = resolve_task(client, version.get("task") or "", "quantisable")
        inputs = {"base": ref}
        for role, given in roles_of(data or [], "test").items():
            inputs[role] = dataset_ref(client, given, dry_run=dry_run)
        params = pairs_of(param or [], "-p") | {"to": _precisions(to)}
        run = client.runs.submit(
            verb="quantise",
            capability=capability,
            task=task,
            inputs={role: given for role, given in inputs.items() if given},
            params=params,
            name=name or version["name"],
            seed=seed,
            dry_run=dry_run,
        )
        if dry_run:
            answer(client, run, output, dry_run=True, stay=False)
        elif detach:
            queued(run, output)
        else:
            _show(client, run["id"], output)


def _precisions(to: str) -> list[str]:
    found = [each.strip() for each in to.split(",") if each.strip()]
    if not found:
        raise InvalidRequest("No precision is given.", hint="Write --to int8,int4.", param="to")
    return found


def _show(client: Modelworks, run_id: str, output: Format) -> None:
    run = ended(client, run_id, output, shown=output is not Format.table)
    if output is not Format.table:
        return
    names = {made["name"].rpartition("-")[2]: f"{made['name']}@v{made['number']}" for made in run.get("outputs") or []}
    variants = list((run.get("result") or {}).get("variants") or [])
    show_list(variants, _columns(variants, names), output)
    for variant in variants:
        for role, differences in (variant.get("differences") or {}).items():
            for metric, found in differences.items():
                if found.get("low") is not None:
                    note(f"{variant['name']} {role} {plain(metric)}: {_difference_text(found)}")
    note(tr("Run {run} succeeded.", run=run_id))


def _columns(variants: list[dict[str, Any]], names: Mapping[str, str]) -> list[Column]:
    """The fixed columns, then one per measured metric."""

    def metric_of(role: str, metric: str) -> Column:
        return f"{role} {metric}".upper(), lambda record: (record["metrics"].get(role) or {}).get(metric)

    measured = dict.fromkeys((role, name) for each in variants for role, found in each["metrics"].items() for name in found)
    return [
        ("VARIANT", "name"),
        ("SIZE", bytes_of()),
        ("TOKENS/CPU-S", lambda record: _rounded(record.get("tokens_per_cpu_s"))),
        ("LARGEST LOGIT DIFFERENCE", "logit_difference"),
        *(metric_of(role, metric) for role, metric in list(measured)[:_LARGEST]),
        ("MADE", lambda record: names.get(record["name"])),
    ]


def _rounded(value: Any) -> str | None:
    return None if value is None else f"{value:.0f}"


def _difference_text(found: Record) -> str:
    return f"{found['quantised'] - found['full']:+.4g} [{found['low']:+.4g}, {found['high']:+.4g}]"


class Layout(StrEnum):
    """What a model is written as."""

    hf = "hf"
    gguf = "gguf"


def export(
    ref: Reference,
    target: Annotated[Path, typer.Argument(help="Folder to write to, new or empty; for gguf also a file that ends in .gguf.")],
    to: Annotated[Layout, typer.Option("--to", help="hf: a Hugging Face folder. gguf: one file for llama.cpp and its kin.")],
    kind: Annotated[
        str | None, typer.Option("--kind", help="What a GGUF file's matrices are stored as: f32, f16, bf16, q8_0 or q4_0.")
    ] = None,
    dry_run: DryRun = False,
    output: Output = Format.table,
) -> None:
    """Write a model for other programs. It carries its tokenizer, template, licence and a digest of what it means."""
    single = to is Layout.gguf and target.suffix == ".gguf"
    if target.exists() and (single or not target.is_dir() or any(target.iterdir())):
        raise InvalidRequest(
            f"{target} is there already.", hint="Name a folder that is new or empty, or another file.", param="target"
        )
    with connect() as client:
        version = client.models.get(ref)["version"]
        capability, task = resolve_task(client, version.get("task") or "", "exportable")
        run = client.runs.submit(
            verb="export",
            capability=capability,
            task=task,
            inputs={"model": ref},
            params={"to": to.value, **({"kind": kind} if kind else {})},
            name=f"{version['name']}-{to.value}",
            dry_run=dry_run,
        )
        if dry_run:
            answer(client, run, output, dry_run=True, stay=False)
            return
        run = ended(client, run["id"], output, shown=False)
        made = client.models.version(run["outputs"][0]["version_id"])
        files = [each for each in made["files"] if not single or each["path"].endswith(".gguf")]
        places = {each["path"]: target if single else target / each["path"] for each in files}
        for each in files:
            client.blobs.download(each["digest"], places[each["path"]])
    done = {"run_id": run["id"], "version_id": made["id"], "files": [str(place) for place in places.values()], **run["result"]}
    if output is Format.json:
        print_json(done)
    elif output is Format.name:
        for place in places.values():
            typer.echo(str(place))
    else:
        show_list(
            [{**each, "place": str(places[each["path"]])} for each in files], [("FILE", "place"), ("SIZE", bytes_of())], output
        )
        meaning = run["result"]["meaning"]
        note(tr("Digest of meaning: {digest}; read back, it agrees: {how}.", digest=meaning["digest"], how=meaning["agrees"]))


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (quantise, export):
        app.command()(verb)
