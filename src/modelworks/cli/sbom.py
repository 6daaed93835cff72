"""`sbom`: what is installed beside the platform, as a bill of materials (CycloneDX 1.6) that scanners read.

Made from what the packages say of themselves, without a further library: a tool that has to be installed would be in the list.
"""

from __future__ import annotations

import importlib.metadata
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import typer

from modelworks import __version__
from modelworks.cli.output import Column, Format, Output, print_json, show_list

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MAX_LICENCE_CHARS = 120
COLUMNS: list[Column] = [("PACKAGE", "name"), ("VERSION", "version"), ("LICENCE", "licence")]


def sbom(output: Output = Format.table) -> None:
    """List what is installed, with versions and licences.

    With `-o json` it is a bill of materials that scanners read (CycloneDX 1.6).
    """
    if output is Format.json:
        print_json(bill_of_materials())
    else:
        rows = [
            {"name": name, "version": found.version, "licence": licence(found)} for name, found in sorted(installed().items())
        ]
        show_list(rows, COLUMNS, output, name="name")


def installed() -> dict[str, importlib.metadata.Distribution]:
    """Every installed distribution by its normalized name; of two with one name the one that Python imports."""
    found: dict[str, importlib.metadata.Distribution] = {}
    for each in importlib.metadata.distributions():
        if each.metadata["Name"]:
            found.setdefault(normalized(each.metadata["Name"]), each)
    return found


def licence(found: importlib.metadata.Distribution) -> str:
    """What a distribution says of its licence: an SPDX expression where it has one, else its words."""
    expression = _field(found, "License-Expression")
    if expression:
        return expression
    said = _field(found, "License").strip().splitlines()
    classified = [
        text.rpartition("::")[2].strip() for text in found.metadata.get_all("Classifier") or [] if text.startswith("License ::")
    ]
    # Some put the whole text of the licence there.
    if len(said) == 1 and said[0].strip().lower() not in ("", "unknown", "dual license"):
        return said[0].strip()[:_MAX_LICENCE_CHARS]
    return (
        ", ".join(classified)[:_MAX_LICENCE_CHARS]
        or (said[0].strip()[:_MAX_LICENCE_CHARS] if said else "")
        or _of_its_file(found)
        or "not stated"
    )


def _of_its_file(found: importlib.metadata.Distribution) -> str:
    """The heading of the licence that lies beside it, where the metadata is silent."""
    for file in found.files or []:
        if file.name.upper().split(".")[0] in ("LICENSE", "LICENCE") and ".dist-info" in str(file.parent):
            words = " ".join(Path(str(found.locate_file(file))).read_text(errors="replace")[:2000].split())
            if words.startswith("Apache License Version 2.0"):
                return "Apache License Version 2.0"
    return ""


def bill_of_materials() -> dict[str, Any]:
    """The environment as CycloneDX 1.6 JSON (ECMA-424); its graph leaves out what only extras of others ask for."""
    packages = installed()
    references = {name: _purl(name, found.version) for name, found in packages.items()}
    root = references.get("modelworks") or _purl("modelworks", __version__)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "lifecycles": [{"phase": "operations"}],
            "tools": {"components": [{"type": "application", "name": "modelworks", "version": __version__}]},
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": "modelworks",
                "version": __version__,
                "purl": root,
                "licenses": [{"expression": "Apache-2.0"}],
            },
        },
        "components": [_component(name, found) for name, found in sorted(packages.items()) if name != "modelworks"],
        "dependencies": [
            {
                "ref": reference,
                "dependsOn": sorted({references[each] for each in _needed(packages[name], name) if each in references}),
            }
            for name, reference in sorted(references.items())
        ],
    }


def normalized(name: str) -> str:
    """A distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _component(name: str, found: importlib.metadata.Distribution) -> dict[str, Any]:
    said = licence(found)
    is_expression = bool(_field(found, "License-Expression"))
    return {
        "type": "library",
        "bom-ref": _purl(name, found.version),
        "name": name,
        "version": found.version,
        "purl": _purl(name, found.version),
        "licenses": [{"expression": said} if is_expression else {"license": {"name": said}}],
    }


def _needed(found: importlib.metadata.Distribution, name: str) -> Iterator[str]:
    for requirement in found.requires or []:
        # What an extra brings belongs to whoever asked for it: of the platform's own, whatever is installed.
        match = _NAME.match(requirement)
        if match is not None and (name == "modelworks" or "extra ==" not in requirement):
            yield normalized(match[0])


def _field(found: importlib.metadata.Distribution, name: str) -> str:
    return str((found.metadata.get_all(name) or [""])[0])


def _purl(name: str, version: str) -> str:
    return f"pkg:pypi/{name}@{quote(version, safe='.-_~')}"


def add_to(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(sbom)
