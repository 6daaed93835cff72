"""The card of a model that a recipe made: what it is, what it learnt from and under which licences, and how it was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modelworks.recipe.recipe import Recipe

Record = Mapping[str, Any]


def card(
    recipe: Recipe,
    manifest: Record,
    trained: Sequence[tuple[str, Record, Record]],
    skills: Record | None = None,
    pairs: Record | None = None,
) -> str:
    """Markdown with front matter that a hub understands.

    Args:
        manifest: what `corpus.build` returned.
        trained: (stage, run, version that it made) in their order.
        skills: the manifest of the conversations, where there are any.
        pairs: the manifest of the queries and passages, where there are any.
    """
    languages = [each for each in manifest["bytes"] if each in ("zh", "en")]
    lines = [
        "---",
        f"license: {recipe.licence}",
        "language:",
        *(f"- {language}" for language in languages),
        "pipeline_tag: " + recipe.task,
        "---",
        f"# {recipe.name}",
        "",
        recipe.summary,
        "",
        f"Made by the recipe `{recipe.name}` ({recipe.digest}) at scale {manifest['scale']:g}. "
        "The recipe lies beside the weights.",
        "",
        "## What it read",
        "",
        "| source | language | documents | bytes | share | licence | by |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in manifest["sources"]:
        if row.get("missing"):
            lines.append(f"| {row['name']} | {row['language']} | not on the machine | | | {row['licence']} | {row['origin']} |")
            continue
        lines.append(
            f"| {row['name']} | {row['language']} | {row['documents']:,} | {row['bytes']:,} | {100 * row['share']:.1f} % "
            f"| {row['licence']} | {row['origin']} |"
        )
    total = ", ".join(f"{language} {size / 1e6:.2f} MB" for language, size in manifest["bytes"].items())
    lines += ["", f"Altogether: {total}. A part of the documents of each source was held out by a hash of their text.", ""]
    if skills:
        lines += ["## What it learnt to answer", "", "| skill | conversations | held out |", "|---|---|---|"]
        lines += [f"| {name} | {count['train']:,} | {count['held_out']:,} |" for name, count in skills["skills"].items()]
        lines += ["", f"Licences of what they were made from: {skills['licence']}.", ""]
    if pairs:
        lines += ["## What was asked", "", "| kind of query | Chinese | English | held out |", "|---|---|---|---|"]
        lines += [
            f"| {kind} | {count.get('zh', 0):,} | {count.get('en', 0):,} | {count.get('held_out', 0):,} |"
            for kind, count in pairs["kinds"].items()
        ]
        lines += ["", "All queries were made of the documents above, by rules; nobody asked them.", ""]
    lines += ["## How it was trained", "", "| stage | run | measured |", "|---|---|---|"]
    for name, run, version in trained:
        said = ", ".join(f"{key} {value:.4g}" for key, value in sorted(version["metrics"].items()))
        lines.append(f"| {name} | {run['id']} | {said} |")
    return "\n".join([*lines, ""])
