"""Conversations that teach a model narrow skills, made by a program that lies beside the recipe.

The program is a Python file with a function

    def make(shared: Callable[[str], Path], limit: int | None, seed: int) -> Iterator[tuple[str, str, dict]]

that gives (skill, document, record): the name of a skill, what the record was made from (a passage, a template: records of one
document are held out together), and a record of a data set of conversations. `shared(path)` is the place of one of the shared
files that the recipe names, and raises NotFound where it is not on the machine. The same files and seed give the same records.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from modelworks.contract.errors import InvalidRequest, NotFound
from modelworks.recipe.places import Places
from modelworks.recipe.recipe import Skills, digest_of

Made = Iterator[tuple[str, str, dict[str, Any]]]
Maker = Callable[[Callable[[str], Path], int | None, int], Made]


def build(skills: Skills, places: Places, target: Path, *, scale: float = 1.0, available: bool = False) -> dict[str, Any]:
    """Write `train/data.jsonl`, `held-out/data.jsonl` and `manifest.json` into `target`, and return the manifest.

    Args:
        scale: the part of each skill's conversations that is kept, chosen by hash.
        available: go without skills whose data are not on this machine.

    Raises:
        NotFound: the program or a file is missing. InvalidRequest: the program gives nothing.
    """
    make = _maker(places.beside(skills.program))
    counts: dict[str, dict[str, int]] = {}
    for part in ("train", "held-out"):
        (target / part).mkdir(parents=True)
    digest = hashlib.sha256()
    with (
        (target / "train" / "data.jsonl").open("w", encoding="utf-8") as train,
        (target / "held-out" / "data.jsonl").open("w", encoding="utf-8") as held_out,
    ):
        for skill, document, record in make(_opener(skills, places, available), skills.limit, skills.seed):
            line = json.dumps({**record, "source": skill}, ensure_ascii=False)
            if scale < 1 and _position(line) > scale:
                continue
            is_held_out = _position(f"{skills.seed}:{document}") < skills.held_out
            (held_out if is_held_out else train).write(line + "\n")
            count = counts.setdefault(skill, {"train": 0, "held_out": 0})
            count["held_out" if is_held_out else "train"] += 1
            digest.update(line.encode())
    if not any(count["train"] for count in counts.values()) or not any(count["held_out"] for count in counts.values()):
        raise InvalidRequest(
            f"{skills.program} gives too few conversations to train on some and to hold out others.",
            hint="Raise the scale, or give it more of its data.",
        )
    manifest = {
        "program": digest_of(places.beside(skills.program).read_text("utf-8")),
        "licence": skills.licence,
        "digest": "sha256:" + digest.hexdigest(),
        "skills": counts,
    }
    (target / "manifest.json").write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", "utf-8")
    return manifest


def _maker(file: Path) -> Maker:
    spec = importlib.util.spec_from_file_location(f"modelworks_recipe_{file.stem}", file)
    if spec is None or spec.loader is None or not file.is_file():
        raise NotFound(f"The program {file} is not there.", hint="It lies beside the recipe.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast(Maker, module.make)


def _opener(skills: Skills, places: Places, available: bool) -> Callable[[str], Path]:
    def shared(path: str) -> Path:
        if path not in skills.shared:
            raise InvalidRequest(f"{skills.program} reads {path!r}, which the recipe does not name.", hint="Name it in shared.")
        place = places.shared() / path
        if not place.is_file():
            raise NotFound(f"{place} is not on this machine.", hint="Set MODELWORKS_SHARED to the folder that holds data/.")
        return place

    if not available:
        for path in skills.shared:
            shared(path)
    return shared


def _position(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
