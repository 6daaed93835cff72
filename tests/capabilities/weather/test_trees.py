"""Trees as arrays answer what the library that grew them answers, missing values and all."""

from __future__ import annotations

import lightgbm
import numpy as np
import pytest

from modelworks.capabilities.weather.trees import Forest, grow, opened
from modelworks.contract.errors import InvalidData


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_arrays_answer_as_the_library(missing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(700, 5))
    target = rows[:, 0] * np.where(rows[:, 1] > 0, 2, -1) + rng.normal(0, 0.1, 700)
    rows[rng.random(rows.shape) < missing] = np.nan
    made = []
    real = lightgbm.train
    monkeypatch.setattr(lightgbm, "train", lambda *given, **more: made.append(real(*given, **more)) or made[-1])
    forest = grow(rows, target, num_trees=40, seed=3)
    asked = rng.normal(size=(600, 5))
    # Missing where it never was before, too.
    asked[rng.random(asked.shape) < 0.2] = np.nan
    assert np.allclose(forest.predict(asked), made[0].predict(asked), atol=1e-12)
    assert np.std(forest.predict(rows) - target) < 0.85 * np.std(target)


def test_the_same_seed_grows_the_same_trees() -> None:
    rng = np.random.default_rng(0)
    rows, target = rng.normal(size=(200, 3)), rng.normal(size=200)
    one, two, other = (grow(rows, target, num_trees=5, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one.tensors("a")[name], two.tensors("a")[name]) for name in one.tensors("a"))
    assert not np.array_equal(one.threshold, other.threshold)


def test_no_rows_give_no_numbers() -> None:
    forest = grow(np.ones((40, 2)), np.ones(40), num_trees=2)
    assert forest.predict(np.empty((0, 2))).shape == (0,)


def _stump(**changes: list[float]) -> dict[str, np.ndarray]:
    parts = {
        "feature": [0, -1, -1],
        "threshold": [0.0, 0.0, 0.0],
        "left": [1, 0, 0],
        "right": [2, 0, 0],
        "nan_left": [1, 0, 0],
        "value": [0.0, -1.0, 1.0],
        "root": [0],
    }
    return {f"x.{name}": np.array(value) for name, value in {**parts, **changes}.items()}


def test_a_tree_is_opened() -> None:
    forest = opened(_stump(), "x", 1)
    assert isinstance(forest, Forest)
    assert forest.predict(np.array([[-2.0], [2.0], [np.nan], [0.0]])).tolist() == [-1.0, 1.0, -1.0, -1.0]


@pytest.mark.parametrize(
    "changes",
    [
        {"left": [0, 0, 0]},
        {"right": [3, 0, 0]},
        {"root": [5]},
        {"root": [-1]},
        {"feature": [1, -1, -1]},
        {"value": [0.0]},
    ],
)
def test_damaged_trees_are_refused(changes: dict[str, list[float]]) -> None:
    with pytest.raises(InvalidData, match="damaged"):
        opened(_stump(**changes), "x", 1)


def test_a_missing_array_is_named() -> None:
    tensors = _stump()
    del tensors["x.value"]
    with pytest.raises(InvalidData, match=r"x\.value"):
        opened(tensors, "x", 1)
