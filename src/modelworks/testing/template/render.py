"""Turn the template's files into a project."""

from __future__ import annotations

import importlib.resources
import keyword
import re
from importlib.resources.abc import Traversable
from pathlib import Path

from modelworks.contract.errors import Conflict, InvalidRequest

_NAME = re.compile(r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")
_SUFFIX = ".tmpl"


def render(name: str, folder: Path) -> Path:
    """Write the project of a capability called `name` into `folder` and return the folder.

    Raises:
        InvalidRequest: the name is not made of lower-case words joined by hyphens, or is a word of Python.
        Conflict: the folder has something in it already; nothing is changed.
    """
    package = name.replace("-", "_")
    if not _NAME.match(name) or keyword.iskeyword(package):
        raise InvalidRequest(
            f"{name!r} cannot name a capability.",
            hint="Use lower-case words joined by hyphens, such as ticket-topic.",
            param="name",
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{folder} is not empty.", hint="Give a new folder.")
    words = {"name": name, "package": package, "title": name.replace("-", " ").capitalize()}
    _write(importlib.resources.files("modelworks.testing.template").joinpath("files"), folder, words)
    return folder


def _write(source: Traversable, target: Path, words: dict[str, str]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        if entry.is_dir():
            if entry.name != "__pycache__":
                _write(entry, target / (words["package"] if entry.name == "package" else entry.name), words)
            continue
        text = entry.read_text(encoding="utf-8")
        for word, value in words.items():
            text = text.replace(f"<<{word}>>", value)
        (target / entry.name.removesuffix(_SUFFIX)).write_text(text, encoding="utf-8")
