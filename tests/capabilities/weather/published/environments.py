"""Environments as an operator makes them, here with a package that stands in for the published one."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path


def environment(folder: Path, packages: dict[str, str], *, with_ours: bool = True, by: Path | None = None) -> Path:
    """The interpreter of a new environment with these packages (name to source), beside numpy and torch where it has ours.

    Args:
        by: a folder with a link to the interpreter, of which the environment is made as if it lay there.
    """
    base = Path(sys.executable).resolve()
    if by is not None:
        by.mkdir(parents=True)
        (by / base.name).symlink_to(base)
        base = by / base.name
    home = base.parent
    place = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    place.mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n")
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.symlink_to(base)
    if with_ours:
        (place / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for name, source in packages.items():
        path = place / Path(*name.split(".")) / "__init__.py"
        path.parent.mkdir(parents=True)
        path.write_text(source)
    return python
