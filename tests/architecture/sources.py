"""Where the sources are, and how the tests of the architecture read them."""

from __future__ import annotations

import ast
import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PACKAGE = PROJECT / "src" / "modelworks"
KERNEL = PACKAGE / "kernel"
CAPABILITIES = PACKAGE / "capabilities"


def python_files(folder: Path = PACKAGE) -> list[Path]:
    """Every Python file below the folder, in a fixed order."""
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def relative(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


def capability_folders() -> list[Path]:
    return sorted(path for path in CAPABILITIES.iterdir() if path.is_dir() and path.name != "__pycache__")


def rooms() -> list[Path]:
    return sorted(path for path in KERNEL.iterdir() if path.is_dir() and path.name != "__pycache__")


def project_files() -> Iterator[Path]:
    """Every file that is, or would be, in the repository; without git, every file outside hidden and build folders."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=PROJECT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        names = [name for name in listed.stdout.decode().split("\0") if name]
        yield from (PROJECT / name for name in sorted(set(names)) if (PROJECT / name).is_file())
        return
    for path in sorted(PROJECT.rglob("*")):
        inside = path.relative_to(PROJECT).parts
        if path.is_file() and not any(part.startswith(".") or part in ("build", "dist", "__pycache__") for part in inside):
            yield path
