"""Where the files of a source lie on this machine. Nothing is fetched: what is missing is said, with how to get it."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from modelworks.contract.errors import NotFound
from modelworks.recipe.recipe import TextSource

#: Folders that belong to nobody's documentation, and are large.
_NEVER = frozenset({"site-packages", "__pycache__", ".git"})


class Places:
    """The roots of a recipe's sources.

    Args:
        recipe: the folder of the recipe.
        packages: a folder that holds one unpacked package per sub-folder; without it, or where it lacks one, the packages that
            are installed are asked (`dpkg -L`).
    """

    def __init__(self, recipe: Path, packages: Path | None = None) -> None:
        self._recipe = recipe
        self._packages = packages

    def shared(self) -> Path:
        """The folder of `MODELWORKS_SHARED`, else `shared` beside the folder that the recipe's project lies in.

        Raises:
            NotFound: it is not there.
        """
        given = os.environ.get("MODELWORKS_SHARED")
        candidates = [Path(given)] if given else [folder.parent / "shared" for folder in self._recipe.resolve().parents]
        found = next((folder for folder in candidates if (folder / "data").is_dir()), None)
        if found is None:
            raise NotFound(
                "The shared data are not on this machine.", hint="Set MODELWORKS_SHARED to the folder that holds data/."
            )
        return found

    def beside(self, name: str) -> Path:
        """A file beside the recipe."""
        return self._recipe / name

    def files(self, source: TextSource) -> list[tuple[str, Path]]:
        """(name inside the source, place) of each file, sorted by name.

        Raises:
            NotFound: the root is missing, or no file fits.
        """
        found = self._listed(source)
        fitting = {
            name: place
            for name, place in found
            if _fits(name, source.files) and not _fits(name, source.exclude) and place.is_file() and not place.is_symlink()
        }
        if not fitting:
            raise NotFound(
                f"The source {source.name!r} has no file that fits {', '.join(source.files)}.", hint="Correct its patterns."
            )
        return sorted(fitting.items())

    def _listed(self, source: TextSource) -> list[tuple[str, Path]]:
        if source.package is not None:
            return self._package(source.package)
        if source.root == "python":
            return _below(Path(sysconfig.get_path("stdlib")))
        return _below(self.shared() if source.root == "shared" else self._recipe)

    def _package(self, name: str) -> list[tuple[str, Path]]:
        if self._packages is not None and (self._packages / name).is_dir():
            return _below(self._packages / name)
        try:
            answer = subprocess.run(["dpkg", "-L", name], capture_output=True, text=True, check=False)
        except OSError:
            answer = None
        if answer is None or answer.returncode:
            raise NotFound(
                f"The package {name!r} is not installed.",
                hint=f"Install it (apt-get install {name}), or unpack it (apt-get download {name}; dpkg-deb -x {name}_*.deb "
                f"FOLDER/{name}) and give --packages FOLDER.",
            )
        return [(line.lstrip("/"), Path(line)) for line in answer.stdout.splitlines() if Path(line).is_file()]


def _below(folder: Path) -> list[tuple[str, Path]]:
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [each for each in folders if each not in _NEVER]
        inside = os.path.relpath(place, folder)
        prefix = "" if inside == "." else inside.replace(os.sep, "/") + "/"
        found += [(prefix + name, Path(place, name)) for name in names if not name.endswith(".pyc")]
    return found


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
