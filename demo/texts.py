"""Real text that is on every machine with Python: this project's documents and the standard library's documentation."""

from __future__ import annotations

import ast
import shutil
import sysconfig
from pathlib import Path

#: Suffixes that a folder named with DOCS= is read for.
SUFFIXES = (".txt", ".md", ".rst", ".py")


def collect(target: Path, docs: Path | None, project: Path) -> tuple[int, int]:
    """Write training text into `target`, one file per document; returns the number of documents and of bytes.

    With `docs`, that folder alone is read. Otherwise: the project's documents, the language reference that ships inside
    Python (`pydoc_data.topics`), and the docstrings of every standard-library module.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    if docs is not None:
        _copy(docs, target)
    else:
        _copy(project / "docs", target / "project")
        _language_reference(target / "reference")
        _docstrings(Path(sysconfig.get_path("stdlib")), target / "library")
    files = [path for path in target.rglob("*") if path.is_file()]
    return len(files), sum(path.stat().st_size for path in files)


def _copy(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.suffix in SUFFIXES and path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def _language_reference(target: Path) -> None:
    from pydoc_data.topics import topics

    target.mkdir(parents=True)
    for name, text in topics.items():
        (target / f"{name.replace('/', '_')}.txt").write_text(text, encoding="utf-8")


def _docstrings(library: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for path in sorted(library.rglob("*.py")):
        inside = path.relative_to(library)
        if {"site-packages", "test", "tests", "idle_test", "__pycache__"} & set(inside.parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        parts = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text:
                    title = inside.with_suffix("").as_posix().replace("/", ".") if isinstance(node, ast.Module) else node.name
                    parts.append(f"# {title}\n\n{text}\n")
        text = "\n".join(parts)
        if len(text) > 200:
            (target / f"{'.'.join(inside.with_suffix('').parts)}.txt").write_text(text, encoding="utf-8")
