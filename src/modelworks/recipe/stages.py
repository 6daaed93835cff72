"""The stages of a recipe as runs of a server: each is looked for first, and made only where nothing has made it yet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelworks.client.transport import files_of
from modelworks.recipe.recipe import Recipe, Stage

if TYPE_CHECKING:
    from modelworks.client import Modelworks

Record = dict[str, Any]

#: Parameters that say how long a stage trains; they shrink with the scale.
_LENGTHS = ("tokens", "steps", "max_steps", "epochs")
#: Below this scale a stage's `small` parameters are taken.
SMALL = 0.1
_PAGE = 100


def parameters(stage: Stage, scale: float, changed: Mapping[str, Any] | None = None) -> Record:
    """What a stage is trained with: its own parameters, small ones over them, `changed` over all; lengths by the scale."""
    params = dict(stage.params) | (stage.small if scale < SMALL else {}) | dict(changed or {})
    for name in _LENGTHS:
        if scale != 1 and isinstance(params.get(name), int | float):
            scaled = params[name] * scale
            params[name] = scaled if isinstance(params[name], float) else max(1, round(scaled))
    return params


def data_version(client: Modelworks, name: str, folder: Path, licence: str, card: str | None = None) -> Record:
    """The version of a data set that holds exactly the files of a folder: the newest one if it does, else a new one."""
    from modelworks.client.transport import digest_of
    from modelworks.contract.errors import NotFound

    try:
        newest = client.datasets.get(name)["version"]
    except NotFound:
        newest = None
    if newest is not None:
        wanted = {relative: digest_of(place)[0] for relative, place in files_of(folder)}
        if wanted == {file["path"]: file["digest"] for file in newest["files"]}:
            return dict(newest)
    return dict(client.datasets.add(name, folder, licence=licence, card=card))


def request(recipe: Recipe, stage: Stage, inputs: Mapping[str, str], name: str, params: Record) -> Record:
    """What is submitted for a stage."""
    return {
        "verb": "train",
        "capability": recipe.capability,
        "task": stage.task or recipe.task,
        "inputs": dict(inputs),
        "params": params,
        "name": name,
        "seed": stage.seed,
    }


def earlier(client: Modelworks, wanted: Record) -> Record | None:
    """A run that was given the same inputs, parameters and seed: one that succeeded, else the newest.

    Args:
        wanted: the run as the server would make it now (an answer to `dry_run`).
    """
    same = []
    after: str | None = None
    while True:
        page = client.runs.list(after=after, limit=_PAGE)
        same += [run for run in page.data if _is_same(run, wanted)]
        if not page.has_more or not page.data:
            break
        after = page.last_id or page.data[-1]["id"]
    return next((run for run in same if run["state"] == "succeeded" and run.get("outputs")), same[0] if same else None)


def _is_same(run: Record, wanted: Record) -> bool:
    def versions(of: Record) -> dict[str, str]:
        return {role: given["version_id"] for role, given in (of.get("inputs") or {}).items()}

    plain = ("verb", "task", "output_name", "params", "seed")
    return all(run.get(field) == wanted.get(field) for field in plain) and versions(run) == versions(wanted)


def finish(client: Modelworks, recipe: Recipe, name: str, made: Record, folder: Path, card: str) -> Record:
    """Register the last stage's result under the recipe's name, with the card, the recipe and its manifest among its files.

    Args:
        made: the version that the last stage made.
        folder: files to lay beside the weights.
    """
    more = [
        {"path": relative, **{key: sent[key] for key in ("digest", "num_bytes")}}
        for relative, place in files_of(folder)
        for sent in [client.blobs.upload(place)]
    ]
    files = {file["path"]: {key: file[key] for key in ("path", "digest", "num_bytes")} for file in made["files"]}
    files |= {file["path"]: file for file in more}
    return dict(
        client.models.register(
            name,
            sorted(files.values(), key=lambda file: str(file["path"])),
            task=recipe.task,
            level="L0",
            licence=recipe.licence,
            source=f"recipe:{recipe.name}",
            card=card,
            metadata=made["metadata"] | {"recipe": recipe.name, "recipe_digest": recipe.digest},
            metrics=made["metrics"],
            parents=[made["id"]],
        )
    )
