"""`train --recipe`: a whole recipe, stage by stage, each of which is a run like any other."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelworks.cli.messages import tr
from modelworks.cli.output import Column, Format, note, show_list, show_one, size_text
from modelworks.cli.run import ended
from modelworks.contract.errors import InvalidRequest
from modelworks.recipe import card, corpus, pairs, skills, stages
from modelworks.recipe.places import Places
from modelworks.recipe.recipe import Recipe, read_recipe

if TYPE_CHECKING:
    from modelworks.client import Modelworks

_COLUMNS: list[Column] = [
    ("SOURCE", "name"),
    ("LANGUAGE", "language"),
    ("DOCUMENTS", "documents"),
    ("SIZE", lambda row: size_text(row["bytes"])),
    ("HELD OUT", "held_out_documents"),
    ("COPIES", "copies"),
    ("LICENCE", "licence"),
]


def train_recipe(
    client: Modelworks,
    file: Path,
    *,
    name: str | None,
    scale: float,
    packages: Path | None,
    available: bool,
    keep: Path | None,
    changed: dict[str, Any],
    dry_run: bool,
    output: Format,
) -> None:
    """Make the data of a recipe, train its stages in order, register the result with its card.

    A stage that was made before from the same data with the same parameters is not repeated; one that was stopped goes on.

    Args:
        changed: parameters by stage that are taken instead of the recipe's.

    Raises:
        InvalidRequest: the recipe, the scale or the stage of a changed parameter is wrong.
        NotFound: a source is not on this machine.
    """
    if not 0 < scale <= 1:
        raise InvalidRequest(f"The scale {scale:g} is not above 0 and at most 1.", hint="Write --scale 0.01.", param="scale")
    recipe = read_recipe(file)
    unknown = sorted(changed.keys() - {stage.name for stage in recipe.stage})
    if unknown or not all(isinstance(each, dict) for each in changed.values()):
        raise InvalidRequest(
            f"The recipe has no stage {unknown[0]!r}." if unknown else "A parameter of a recipe names its stage.",
            hint=f"Write -p STAGE.key=value; stages: {', '.join(stage.name for stage in recipe.stage)}.",
            param="params",
        )
    chosen = name or _called(recipe.name, scale)
    folder = keep or Path(tempfile.mkdtemp(prefix="modelworks-recipe-"))
    try:
        places = Places(file.resolve().parent, packages)
        made = folder / "data"
        shutil.rmtree(made, ignore_errors=True)
        manifest = corpus.build(
            recipe,
            places,
            made,
            scale=scale,
            available=available,
            on_source=_reading,
        )
        conversations = None
        if recipe.skills is not None:
            _reading(recipe.skills.program)
            conversations = skills.build(recipe.skills, places, made / "skills", scale=scale, available=available)
        asked = None
        if recipe.pairs is not None:
            _reading("pairs")
            asked = pairs.build(recipe, recipe.pairs, made, made / "pairs")
        if dry_run:
            show_list(manifest["sources"], _COLUMNS, output, name="name")
            return
        _train(client, file, recipe, chosen, scale, changed, made, manifest, conversations, asked, output)
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def _called(recipe: str, scale: float) -> str:
    """What the model of a recipe is called."""
    return recipe if scale == 1 else f"{recipe}-scale-{scale:g}"


def _reading(name: str) -> None:
    note(tr("Reading {name} …", name=name))


def _train(
    client: Modelworks,
    file: Path,
    recipe: Recipe,
    name: str,
    scale: float,
    changed: dict[str, Any],
    made: Path,
    manifest: dict[str, Any],
    conversations: dict[str, Any] | None,
    asked: dict[str, Any] | None,
    output: Format,
) -> None:
    sets = _data_sets(client, recipe, name, made, manifest)
    base = None if recipe.base is None else client.models.get(_called(recipe.base, scale))["version"]["id"]
    trained: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
    version: dict[str, Any] = {}
    for stage in recipe.stage:
        inputs = dict(sets[stage.data])
        if base is not None:
            inputs["base"] = base
        params = stages.parameters(stage, scale, changed.get(stage.name))
        wanted = stages.request(recipe, stage, inputs, f"{name}-{stage.name}", params)
        run = stages.earlier(client, client.runs.submit(**wanted, dry_run=True))
        if run is None:
            run = client.runs.submit(**wanted)
            note(tr("Stage {stage}: run {run} is queued.", stage=stage.name, run=run["id"]))
        elif run["state"] in ("failed", "cancelled"):
            run = client.runs.resume(run["id"])
            note(tr("Stage {stage}: run {run} goes on from its checkpoint.", stage=stage.name, run=run["id"]))
        elif run["state"] == "succeeded":
            note(tr("Stage {stage}: run {run} has made it already.", stage=stage.name, run=run["id"]))
        run = ended(client, run["id"], output, shown=False)
        version = client.models.version(run["outputs"][0]["version_id"])
        base = version["id"]
        trained.append((stage.name, run, version))
    beside = made / "beside"
    beside.mkdir()
    text = card.card(recipe, manifest, trained, conversations, asked)
    (beside / "README.md").write_text(text, "utf-8")
    shutil.copyfile(file, beside / "recipe.toml")
    shutil.copyfile(made / corpus.MANIFEST, beside / f"recipe-{corpus.MANIFEST}")
    result = stages.finish(client, recipe, name, version, beside, text)
    from modelworks.cli.model import VERSION_COLUMNS

    show_one(result, VERSION_COLUMNS, output)


def _data_sets(
    client: Modelworks, recipe: Recipe, name: str, made: Path, manifest: dict[str, Any]
) -> dict[str, dict[str, str]]:
    """The inputs of a stage, by the kind of data that it reads; what no stage reads is not stored."""
    licences = ", ".join(sorted({row["licence"] for row in manifest["sources"] if not row["missing"]}))
    sets: dict[str, dict[str, str]] = {}
    if any(stage.data == "text" for stage in recipe.stage):
        sets["text"] = {"train": stages.data_version(client, f"{name}-text", made / "train", licences)["id"]}
    if recipe.pairs is not None:
        sets["pairs"] = {"train": stages.data_version(client, f"{name}-pairs", made / "pairs" / "train", licences)["id"]}
        if (made / "pairs" / "held-out").is_dir():
            # Read by no stage: what a weight of fusion is chosen by, and progress is seen with.
            stages.data_version(client, f"{name}-pairs-held-out", made / "pairs" / "held-out", licences)
    if recipe.skills is not None:
        sets["skills"] = {}
        for part, role in (("train", "train"), ("held-out", "validation")):
            called = f"{name}-skills" if part == "train" else f"{name}-skills-{part}"
            version = stages.data_version(client, called, made / "skills" / part, recipe.skills.licence)
            sets["skills"][role] = version["id"]
    return sets
