"""sbom: a bill of materials that scanners read."""

from __future__ import annotations

import json
from importlib.metadata import Distribution
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from tests.cli.conftest import Cli

from modelworks.cli.sbom import licence


def test_the_bill_is_valid_and_whole(cli: Cli) -> None:
    done = cli("sbom", "-o", "json")
    bill = json.loads(done.out)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(done.out) is None
    parts = {part["name"]: part for part in bill["components"]}
    assert len(parts) > 50
    assert parts["pydantic"]["purl"] == f"pkg:pypi/pydantic@{parts['pydantic']['version']}"
    assert parts["pydantic"]["licenses"] == [{"expression": "MIT"}]
    assert "+" not in parts["torch"]["purl"]
    graph = {each["ref"]: each["dependsOn"] for each in bill["dependencies"]}
    assert graph.keys() == {bill["metadata"]["component"]["bom-ref"], *(part["bom-ref"] for part in parts.values())}
    needed = graph[bill["metadata"]["component"]["bom-ref"]]
    assert {parts[name]["bom-ref"] for name in ("pydantic", "httpx", "typer", "fastapi")} <= set(needed)
    assert parts["pydantic-core"]["bom-ref"] in graph[parts["pydantic"]["bom-ref"]]


def test_people_see_licences(cli: Cli) -> None:
    lines = cli("sbom").out.splitlines()
    assert lines[0].split() == ["PACKAGE", "VERSION", "LICENCE"]
    assert any(line.split()[0] == "starlette" and line.endswith("BSD-3-Clause") for line in lines)
    assert "starlette" in cli("sbom", "-o", "name").out.splitlines()


def test_a_licence_is_read_from_its_file_where_the_metadata_is_silent(tmp_path: Path) -> None:
    folder = tmp_path / "quiet-1.dist-info"
    (folder / "licenses").mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.4\nName: quiet\nVersion: 1\nLicense-File: LICENSE\n")
    (folder / "RECORD").write_text("quiet-1.dist-info/licenses/LICENSE,,\n")
    file = folder / "licenses" / "LICENSE"
    file.write_text("        Apache License\n   Version 2.0, January 2004\n")
    assert licence(Distribution.at(folder)) == "Apache License Version 2.0"
    file.write_text("You may look at it, but not touch.\n")
    assert licence(Distribution.at(folder)) == "not stated"
