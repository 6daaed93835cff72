"""What a recipe may say, and how wrong ones are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelworks.contract.errors import InvalidRequest, NotFound
from modelworks.recipe.recipe import read_recipe
from modelworks.recipe.stages import parameters

STARTER = Path(__file__).resolve().parents[2] / "starter"


def test_a_recipe_is_read_with_a_digest_of_what_it_says(recipe_file: Path) -> None:
    recipe = read_recipe(recipe_file)
    assert [source.name for source in recipe.source] == ["english", "chinese"]
    assert recipe.digest == read_recipe(recipe_file).digest
    recipe_file.write_text(recipe_file.read_text().replace("held_out = 0.2", "held_out = 0.1"))
    assert read_recipe(recipe_file).digest != recipe.digest


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('licence = "MIT"', "", "source.0.licence"),
        ("held_out = 0.2", "hold_out = 0.2", "text.hold_out"),
        ('name = "chinese"', 'name = "english"', "two sources have the same name"),
        ('data = "text"', 'data = "skills"', "there is no table"),
        ('data = "text"', 'data = "pairs"', r"no table \[pairs\]"),
        ("min_chars = 5", 'translation_of = "french"', "'french', which is no source"),
        ('root = "recipe"', 'root = "package"', "a package is named"),
        ('name = "small"', "name = ", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(recipe_file: Path, old: str, new: str, said: str) -> None:
    recipe_file.write_text(recipe_file.read_text().replace(old, new, 1))
    with pytest.raises(InvalidRequest, match=said):
        read_recipe(recipe_file)


def test_a_missing_recipe_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"nowhere\.toml"):
        read_recipe(tmp_path / "nowhere.toml")


def test_the_scale_shortens_a_stage_and_below_a_tenth_makes_it_small(recipe_file: Path) -> None:
    (stage,) = read_recipe(recipe_file).stage
    assert parameters(stage, 1.0) == {"tokens": 1000, "hidden_size": 64}
    assert parameters(stage, 0.5) == {"tokens": 500, "hidden_size": 64}
    assert parameters(stage, 0.01) == {"tokens": 10, "hidden_size": 16}
    assert parameters(stage, 0.01, {"tokens": 5000}) == {"tokens": 50, "hidden_size": 16}
    # What is counted stays a whole number, and one at least; a part of an epoch does not.
    assert parameters(stage, 0.01, {"epochs": 3, "max_steps": 250})["epochs"] == 1
    assert parameters(stage, 0.01, {"epochs": 3, "max_steps": 250})["max_steps"] == 2
    assert parameters(stage, 0.01, {"epochs": 3.0})["epochs"] == pytest.approx(0.03)


def test_the_shipped_recipes_are_valid_and_name_licences_of_the_open_class_only() -> None:
    restricted = ("-nc", "-nd", "noncommercial", "non-commercial", "no licence", "unclear")
    for file in sorted(STARTER.glob("*.toml")):
        recipe = read_recipe(file)
        for source in recipe.source:
            assert source.origin
            assert not any(word in source.licence.lower() for word in restricted), source.name
