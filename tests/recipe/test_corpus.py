"""The data set of a recipe: which documents it takes, which it holds out, and what it says about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.recipe.conftest import sentence

from modelworks.contract.errors import NotFound
from modelworks.recipe.corpus import MANIFEST, build
from modelworks.recipe.places import Places
from modelworks.recipe.recipe import read_recipe


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted(folder.rglob("*.jsonl")) for line in file.read_text().splitlines()]


def made(recipe_file: Path, target: Path, **options: Any) -> dict[str, Any]:
    return build(read_recipe(recipe_file), Places(recipe_file.parent), target, **options)


def test_every_document_is_trained_on_or_held_out_and_counted(recipe_file: Path, tmp_path: Path) -> None:
    manifest = made(recipe_file, tmp_path / "made")
    training, held_out = records(tmp_path / "made" / "train"), records(tmp_path / "made" / "held-out")
    assert {each["text"] for each in training}.isdisjoint(each["text"] for each in held_out)
    assert len(training) + len(held_out) == 30
    assert held_out
    assert not any("draft" in each["text"] for each in [*training, *held_out])
    english, chinese = manifest["sources"]
    assert english["documents"] + english["held_out_documents"] == 20
    assert (english["licence"], chinese["licence"]) == ("MIT", "CC0-1.0")
    assert manifest["bytes"]["zh"] == sum(len(each["text"].encode()) for each in training if each["language"] == "zh")
    assert json.loads((tmp_path / "made" / MANIFEST).read_text()) == manifest


def test_the_same_files_give_the_same_bytes(recipe_file: Path, tmp_path: Path) -> None:
    assert made(recipe_file, tmp_path / "a") == made(recipe_file, tmp_path / "b")
    assert (tmp_path / "a/train/data.jsonl").read_bytes() == (tmp_path / "b/train/data.jsonl").read_bytes()
    (recipe_file.parent / "en" / "00.txt").write_text(sentence(99))
    assert (
        made(recipe_file, tmp_path / "c")["sources"][0]["digest"] != made(recipe_file, tmp_path / "d")["sources"][1]["digest"]
    )


def test_copies_near_copies_and_other_languages_are_left_out(recipe_file: Path, tmp_path: Path) -> None:
    folder = recipe_file.parent / "en"
    (folder / "90.txt").write_text(sentence(3).replace(" ", "\n"))
    paragraph = "A paragraph that stands in two documents and is long enough to be told from chance by its words alone."
    (folder / "91.txt").write_text(paragraph + "\n\nOne end of it is this one.")
    (folder / "92.txt").write_text(paragraph + "\n\nAnd another.")
    with (recipe_file.parent / "zh.jsonl").open("a") as file:
        file.write(json.dumps({"text": "Nobody has translated this page 文 of the manual yet."}) + "\n")
    english, chinese = made(recipe_file, tmp_path / "made")["sources"]
    assert english["copies"] == 2
    assert chinese["other_language"] == 1


def test_a_limit_takes_a_part_that_does_not_depend_on_the_order(recipe_file: Path, tmp_path: Path) -> None:
    recipe_file.write_text(recipe_file.read_text().replace('origin = "us"', 'origin = "us"\nlimit_bytes = 800', 1))
    english = made(recipe_file, tmp_path / "made")["sources"][0]
    assert 800 <= english["bytes"] + english["held_out_bytes"] < 900
    tenth = made(recipe_file, tmp_path / "tenth", scale=0.1)["sources"][0]
    assert 80 <= tenth["bytes"] + tenth["held_out_bytes"] < 180


def test_python_files_keep_their_names(recipe_file: Path, tmp_path: Path) -> None:
    for file in (recipe_file.parent / "en").iterdir():
        file.rename(file.with_suffix(".py"))
    recipe_file.write_text(recipe_file.read_text().replace("*.txt", "*.py").replace('"en"', '"py"'))
    made(recipe_file, tmp_path / "made")
    assert (tmp_path / "made/train/english/en").is_dir()
    assert {file.suffix for file in (tmp_path / "made/train/english/en").iterdir()} == {".py"}


def test_a_source_that_is_missing_is_said_or_left_out(recipe_file: Path, tmp_path: Path) -> None:
    (recipe_file.parent / "zh.jsonl").unlink()
    with pytest.raises(NotFound, match="chinese"):
        made(recipe_file, tmp_path / "a")
    manifest = made(recipe_file, tmp_path / "b", available=True)
    assert [row["missing"] for row in manifest["sources"]] == [False, True]


def test_packages_are_found_unpacked_and_their_lack_says_what_to_do(recipe_file: Path, tmp_path: Path) -> None:
    text = recipe_file.read_text().replace('root = "recipe"', 'root = "package"\npackage = "no-such-package-here"', 1)
    recipe_file.write_text(text)
    with pytest.raises(NotFound) as caught:
        made(recipe_file, tmp_path / "a")
    assert "apt-get install no-such-package-here" in (caught.value.hint or "")
    unpacked = tmp_path / "packages" / "no-such-package-here"
    unpacked.mkdir(parents=True)
    (recipe_file.parent / "en").rename(unpacked / "en")
    manifest = build(read_recipe(recipe_file), Places(recipe_file.parent, tmp_path / "packages"), tmp_path / "b")
    assert manifest["sources"][0]["documents"] > 0
