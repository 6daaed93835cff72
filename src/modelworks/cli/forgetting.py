"""`impact | why | forget | verify-report`: what was made of a document, what an answer rests on, forgetting with proof."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelworks.cli.audit import entries_of
from modelworks.cli.connection import connect
from modelworks.cli.messages import tr
from modelworks.cli.output import Column, DryRun, Format, Output, Yes, confirm, note, pick, plain, print_json, show_one, table
from modelworks.contract.errors import IntegrityFailed, InvalidRequest, NotFound
from modelworks.proof import check_chain, check_form, covered

if TYPE_CHECKING:
    from modelworks.client import Modelworks

IMPACT: list[Column] = [
    ("Document", "document.name"),
    ("Id", "document.id"),
    ("Documents", lambda found: versions_text(found["documents"])),
    ("Passages", lambda found: versions_text(found["passages"])),
    ("Indexes", lambda found: versions_text(found["indexes"])),
    ("Samples", lambda found: f"{found['num_samples']} in {versions_text(found['samples'])}" if found["samples"] else None),
    ("Models", lambda found: versions_text([each["adapter"] for each in found["models"]])),
    ("Made of them", lambda found: versions_text([made for each in found["models"] for made in each["derived"]])),
    ("Evaluations", "evaluations"),
    ("Answers now", lambda found: ", ".join(f"{each['name']} ({each['by']})" for each in found["deployments"]) or None),
    ("Answers kept", "num_answers"),
    ("Computed", lambda found: [f"{each['answer_id']}: {query_text(each['computed'])}" for each in found.get("computed", [])]),
    ("Elsewhere", lambda found: versions_text(found["elsewhere"])),
]
WHY: list[Column] = [
    ("Answer", "id"),
    ("Space", "space"),
    ("Status", "status"),
    ("At", "created_at"),
    ("Documents", lambda found: "; ".join(document_text(each) for each in found["documents"]) or None),
    ("Query", lambda found: found.get("computed") and query_text(found["computed"])),
    ("Query by", "computed.by"),
    ("Tables", lambda found: [table_text(each) for each in pick(found, "computed.tables") or []]),
    ("Index", lambda found: found["index"] and versions_text([found["index"]])),
    ("Parsed by", "parsing_run_id"),
    ("Model", "model.name"),
    ("Version", lambda found: pick(found, "model.version") and versions_text([found["model"]["version"]])),
    ("Trained by", "model.training_run_id"),
    ("Samples", lambda found: pick(found, "model.samples") and versions_text([found["model"]["samples"]])),
    ("Learned from", lambda found: pick(found, "model.num_documents") and f"{found['model']['num_documents']} documents"),
]
FORGETTING: list[Column] = [
    ("Id", "id"),
    ("Document", "document_id"),
    ("State", "state"),
    ("Step", "step"),
    ("Removed", lambda found: removed_text(found["counts"])),
    ("Error", lambda found: pick(found, "error.message")),
    ("Hint", lambda found: pick(found, "error.hint")),
]
_POLL_S = 0.5

Document = Annotated[str, typer.Argument(metavar="DOCUMENT", help="Its id, or SPACE/NAME.")]


def impact(document: Document, output: Output = Format.table) -> None:
    """Show everything that was made of a document: versions, indexes, samples, models, and what answers with them."""
    with connect() as client:
        space, document_id = find(client, document)
        show_one(client.spaces.impact(space, document_id), IMPACT, output, name="document.id")


def why(
    answer: Annotated[str, typer.Argument(metavar="ANSWER", help="The id of an answer (chatcmpl_…), or its X-Request-Id.")],
    output: Output = Format.table,
) -> None:
    """Show what an answer of a data space rests on: documents, index, model, and what that was trained on."""
    with connect() as client:
        found = client.spaces.why(answer)
    show_one(found, WHY, output, name="id")
    if output is Format.table and pick(found, "computed.rows") is not None:
        typer.echo()
        for line in rows_text(found["computed"]):
            typer.echo(line)


def forget(
    document: Document,
    prove: Annotated[bool, typer.Option("--prove", help="Wait until it is over, and write the signed report.")] = False,
    report: Annotated[Path | None, typer.Option("--report", help="Where to; by default DOCUMENT-ID.report.json.")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Wait until it is over, and say how far it is.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    output: Output = Format.table,
) -> None:
    """Forget a document: its file, passages, vectors, samples and notes of answers; models trained on it are marked."""
    with connect() as client:
        space, document_id = find(client, document)
        if dry_run:
            show_one(client.spaces.forget(space, document_id, dry_run=True), IMPACT, output, name="document.id")
            return
        if not confirm(tr("Forget {name} for good?", name=plain(document)), yes=yes):
            raise typer.Exit(1)
        found = client.spaces.forget(space, document_id)
        if follow or prove or report is not None:
            found = _follow(client, found)
    if (prove or report is not None) and found["report"] is not None:
        path = report or Path(f"{found['document_id']}.report.json")
        try:
            path.write_text(json.dumps(found["report"], ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise InvalidRequest(f"{path} cannot be written: {error.strerror}.", hint="Check the folder.") from error
        note(tr("The report was written to {path}.", path=path))
        if source := found["report"].get("kept_by_source"):
            note(tr("Its source {source} may hold it still.", source=plain(source["id"])))
    show_one(found, FORGETTING, output, name="id")
    if found["state"] == "failed":
        raise typer.Exit(1)


def verify_report(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A report that `forget --prove` wrote.")],
    key: Annotated[
        str | None,
        typer.Option("--key", help="The platform's public key, as noted; without it and --chain the server is asked."),
    ] = None,
    chain: Annotated[
        Path | None, typer.Option("--chain", help="An exported audit log that must vouch for the report; needs no key.")
    ] = None,
    output: Output = Format.table,
) -> None:
    """Check that a report was issued by this platform and not changed since. With --key or --chain no server is asked."""
    report = _report(file)
    checked = check_form(report)
    problem = checked.problem
    by: list[str] = []
    if problem is None and chain is not None:
        problem = check_chain(report, entries_of(chain))
        by.append("chain")
    if problem is None and (key is not None or chain is None):
        if key is None:
            with connect() as client:
                key = client.spaces.report_key()
        problem = signature_problem(report, key.strip().lower(), checked.public_key)
        by.append("signature")
    if problem is not None:
        raise IntegrityFailed(f"{file}: {problem}.", hint="Ask for the report again.", code="report_invalid")
    told = {"holds": True, "checked": by, "document_id": report["document"]["id"], "finished_at": report["finished_at"]}
    if output is Format.json:
        print_json(told)
    elif output is Format.name:
        typer.echo(report["id"])
    else:
        typer.echo(tr("The report holds: {document} was forgotten.", document=report["document"]["id"]))


def find(client: Modelworks, text: str) -> tuple[str, str]:
    """The ids of a document and its space, by the document's id or as SPACE/NAME.

    Raises:
        NotFound: no space has such a document. InvalidRequest: several are called so.
    """
    space, slash, name = text.partition("/")
    if slash and not text.startswith("doc_"):
        documents = client.spaces.documents(space, search=name, limit=1000)
        found = [each for each in documents if name in (each["name"], each["key"], each["id"])]
        if len(found) > 1:
            raise InvalidRequest(f"{len(found)} documents are called {name!r}.", hint="Give the id of one.")
        if found:
            return found[0]["space_id"], found[0]["id"]
        return client.spaces.get(space)["id"], name
    after: str | None = None
    while True:
        page = client.spaces.list(after=after, limit=100)
        for each in page.data:
            # Also what was removed already, and what is being forgotten.
            try:
                client.spaces.impact(each["id"], text)
            except NotFound:
                continue
            return each["id"], text
        if not page.has_more:
            break
        after = page.last_id
    raise NotFound(
        f"No data space has a document {text[:80]!r}.",
        hint="Give its id (`modelworks space documents SPACE` lists them) or SPACE/NAME.",
        code="document_not_found",
    )


def versions_text(versions: list[dict[str, Any]]) -> str | None:
    """Versions in a row: `manual/index@v3, manual/index@v4 (removed)`."""
    told = [
        (f"{each['name']}@v{each['number']}" if each["name"] else each["version_id"])
        + (" (removed)" if each["state"] == "removed" else "")
        for each in versions
    ]
    return ", ".join(told) or None


def query_text(computed: Mapping[str, Any]) -> str:
    """The query of a computed answer, or that it is not told."""
    told = plain(computed["sql"]) if computed["sql"] is not None else "not told"
    return told if computed["state"] == "current" else f"{told} ({computed['state']})"


def table_text(table: Mapping[str, Any]) -> str:
    """A table as it was read: `sales v2 (3 rows, sha256:0123456789ab)`."""
    place = f" {table['place']}" if table["place"] else ""
    return plain(f"{table['name']}{place} v{table['version']} ({table['num_rows']} rows, {table['digest'][:19]})")


def rows_text(computed: Mapping[str, Any]) -> list[str]:
    """The rows that an answer showed, a line each, below the names of the columns."""
    heads = [each["name"] if each["unit"] is None else f"{each['name']} [{each['unit']}]" for each in computed["columns"]]
    shown = table([[plain(cell) for cell in line] for line in (heads, *computed["rows"])])
    return [*shown, "…"] if computed["is_cut"] else shown


def document_text(document: Mapping[str, Any]) -> str:
    """A document in one line, with what is told of its rights."""
    more = [f"v{document['version']}" if document["version"] else None, document["licence"], document["owner"]]
    more.append(None if document["state"] == "current" else document["state"])
    told = ", ".join(str(each) for each in more if each)
    return f"{document['name'] or document['document_id']}" + (f" ({told})" if told else "")


def removed_text(counts: Mapping[str, Any]) -> str | None:
    """What was removed, in numbers: `3 passages, 2 versions`."""
    told = []
    for name in ("files", "passages", "samples", "answers", "feedback", "kept", "versions", "blobs", "models"):
        value = counts.get("num_samples" if name == "samples" else name)
        number = len(value) if isinstance(value, list) else value
        if number:
            told.append(f"{number} {name}")
    return ", ".join(told) or None


def _follow(client: Modelworks, found: dict[str, Any]) -> dict[str, Any]:
    told = ""
    while found["state"] == "running":
        if found["step"] != told:
            told = found["step"]
            note(f"{told} {found['progress']['done']}/{found['progress']['total']}")
        time.sleep(_POLL_S)
        found = client.spaces.forgetting(found["id"])
    if found["error"]:
        note(tr("Forgetting stopped: {reason}", reason=plain(pick(found, "error.message"))))
    return found


def _report(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}.", hint="Check the path.") from error
    except ValueError as error:
        raise InvalidRequest(f"{file}: not JSON.", hint="Give a file that `forget --prove` wrote.") from error
    if not isinstance(found, dict):
        raise InvalidRequest(f"{file}: not a report.", hint="Give a file that `forget --prove` wrote.")
    return found


def signature_problem(report: Mapping[str, Any], key: str, signed_with: str | None) -> str | None:
    """Why the signature does not hold with that key; None where it does."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise InvalidRequest(
            "Signatures cannot be checked here: the package cryptography is not installed.",
            hint='Install "modelworks[server]", or check by an exported audit log: --chain FILE.',
            code="missing_dependency",
        ) from error
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
    except ValueError as error:
        raise InvalidRequest("--key: a public key has 64 hexadecimal digits.", hint="`/api/report-key` tells it.") from error
    if signed_with != key:
        return f"it was signed with another key, {str(signed_with)[:16]}…"
    try:
        public.verify(bytes.fromhex(str(report["signature"].get("value"))), covered(report))
    except (InvalidSignature, ValueError):
        return "it was changed after it was signed"
    return None


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for name, verb in (("impact", impact), ("why", why), ("forget", forget), ("verify-report", verify_report)):
        app.command(name)(verb)
