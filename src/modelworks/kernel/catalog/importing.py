"""Turn what was fetched into what a task reads, where a capability says how: a layout of elsewhere becomes a version's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from modelworks.kernel.catalog.checkpoint import list_folder
from modelworks.kernel.catalog.discovery import capabilities, resolve_import


def imported(folder: Path, into: Path) -> tuple[Path, dict[str, Any]]:
    """The folder to save and what to keep with it: what an importer wrote into `into`, or the folder as it was fetched.

    Raises:
        ModelworksError: the importer refuses the files.
    """
    names = [Path(file.path).name for file in list_folder(folder)]
    for _, capability in sorted(capabilities().items()):
        for task in capability.tasks:
            for ending, path in task.importers.items():
                if not any(name.endswith(ending) for name in names):
                    continue
                importer = cast(Callable[[Path, Path], Mapping[str, Any] | None], resolve_import(path))
                found = importer(folder, into)
                if found is not None:
                    return (into if into.is_dir() else folder), dict(found)
    return folder, {}
