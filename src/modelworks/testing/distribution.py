"""Make a capability's project discoverable without pip: for tests, where installing would need a network and a build."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

from modelworks.contract.errors import InvalidData


def install_pure(project: Path, target: Path) -> Path:
    """Put the packages of a pure-Python project and its metadata into `target`, and return `target`.

    `project` has a `pyproject.toml` with a `[project]` table and its packages under `src/`. Every process that has `target`
    on its path (`PYTHONPATH`, which child processes inherit) then finds the project's entry points, as after
    `pip install --target`.

    Raises:
        InvalidData: the project has no name or no version, or nothing under `src/`.
    """
    described = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
    name, version = described.get("name"), described.get("version")
    packages = [path for path in (project / "src").iterdir() if path.is_dir()] if (project / "src").is_dir() else []
    if not name or not version or not packages:
        raise InvalidData(
            f"{project / 'pyproject.toml'} does not describe an installable project.",
            hint="Give it a name, a version and a package under src/.",
        )
    target.mkdir(parents=True, exist_ok=True)
    for package in packages:
        shutil.copytree(package, target / package.name, ignore=shutil.ignore_patterns("__pycache__", "*.dist-info"))
    info = target / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    lines = []
    for group, points in described.get("entry-points", {}).items():
        lines += [f"[{group}]", *(f"{point} = {value}" for point, value in points.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    return target
