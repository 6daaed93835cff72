"""Boosted trees as plain arrays: grown by LightGBM, kept in safetensors, answered by numpy alone.

Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree" (2017). The library is needed to train, not to answer,
and what is loaded is numbers whose shape is checked, not a file that a parser in C++ reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from modelworks.contract.errors import InvalidData, MissingExtra

Floats = NDArray[np.float64]

#: Rows that go through all trees at a time.
_CHUNK: Final = 512
#: Names of the arrays of a forest, after its own name and a full stop.
_PARTS: Final = ("feature", "threshold", "left", "right", "nan_left", "value", "root")


@dataclass(frozen=True, slots=True)
class Forest:
    """Trees whose values are added up. Node i goes left where `row[feature] <= threshold`, or where NaN and `nan_left`.

    A leaf has feature -1. Children come after their parent, so that a walk always ends.
    """

    feature: NDArray[np.int32]
    threshold: Floats
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    nan_left: NDArray[np.bool_]
    value: Floats
    root: NDArray[np.int32]

    def predict(self, rows_nf: Floats) -> Floats:
        """The sum over the trees for each row."""
        return np.concatenate([self._walked(rows_nf[at : at + _CHUNK]) for at in range(0, max(len(rows_nf), 1), _CHUNK)])

    def _walked(self, rows_nf: Floats) -> Floats:
        node_nt = np.broadcast_to(self.root, (len(rows_nf), len(self.root))).copy()
        row_n, tree_n = np.nonzero(self.feature[node_nt] >= 0)
        while len(row_n):
            here = node_nt[row_n, tree_n]
            value = rows_nf[row_n, self.feature[here]]
            goes_left = np.where(np.isnan(value), self.nan_left[here], value <= self.threshold[here])
            here = np.where(goes_left, self.left[here], self.right[here])
            node_nt[row_n, tree_n] = here
            inner = self.feature[here] >= 0
            row_n, tree_n = row_n[inner], tree_n[inner]
        total_n: Floats = self.value[node_nt].sum(axis=1)
        return total_n

    def tensors(self, name: str) -> dict[str, NDArray[Any]]:
        """The arrays by the names under which `opened` finds them."""
        return {f"{name}.{part}": getattr(self, part) for part in _PARTS}


def opened(tensors: Mapping[str, NDArray[Any]], name: str, num_features: int) -> Forest:
    """The forest of that name.

    Raises:
        InvalidData: an array is missing, has another length, or points outside (a walk might never end).
    """
    try:
        parts = {part: tensors[f"{name}.{part}"] for part in _PARTS}
    except KeyError as error:
        raise InvalidData(f"The model lacks {error.args[0]!r}.") from error
    forest = Forest(
        feature=parts["feature"].astype(np.int32),
        threshold=parts["threshold"].astype(np.float64),
        left=parts["left"].astype(np.int32),
        right=parts["right"].astype(np.int32),
        nan_left=parts["nan_left"].astype(np.bool_),
        value=parts["value"].astype(np.float64),
        root=parts["root"].astype(np.int32),
    )
    count = len(forest.feature)
    inner = np.flatnonzero(forest.feature >= 0)
    sound = all(getattr(forest, part).shape == (count,) for part in _PARTS[:-1]) and forest.root.ndim == 1
    sound = sound and bool(((forest.root >= 0) & (forest.root < count)).all()) and bool((forest.feature < num_features).all())
    for child in (forest.left, forest.right):
        sound = sound and bool(((child[inner] > inner) & (child[inner] < count)).all())
    if not sound:
        raise InvalidData(f"The trees {name!r} of the model are damaged.", hint="Train the model again.")
    return forest


def grow(
    rows_nf: Floats,
    targets_n: Floats,
    *,
    num_trees: int,
    learning_rate: float = 0.03,
    leaves: int = 15,
    smallest_leaf: int = 30,
    seed: int = 0,
    objective: Literal["l2", "l1", "quantile"] = "l2",
    quantile: float = 0.5,
) -> Forest:
    """Grow trees by gradient boosting on one core; the same arguments give the same trees.

    Raises:
        MissingExtra: LightGBM is not installed.
    """
    try:
        import lightgbm
    except ImportError as error:
        raise MissingExtra.of("lightgbm", "weather") from error
    params = {
        "objective": objective,
        "alpha": quantile,
        "learning_rate": learning_rate,
        "num_leaves": leaves,
        "min_data_in_leaf": min(smallest_leaf, max(1, len(rows_nf) // 20)),
        "bagging_fraction": 0.7,
        "bagging_freq": 1,
        "feature_fraction": 0.5,
        "lambda_l2": 5.0,
        "seed": seed % (1 << 31),
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    booster = lightgbm.train(params, lightgbm.Dataset(rows_nf, targets_n), num_boost_round=num_trees)
    return _flat([tree["tree_structure"] for tree in booster.dump_model()["tree_info"]])


def _flat(trees: list[dict[str, Any]]) -> Forest:
    """LightGBM's nested trees as arrays."""
    rows: list[list[float]] = []

    def add(node: dict[str, Any]) -> int:
        place = len(rows)
        if "split_feature" not in node:
            rows.append([-1, 0.0, 0, 0, 0, float(node["leaf_value"])])
            return place
        threshold = float(node["threshold"])
        # Where a feature was never missing, LightGBM takes a missing value for 0.
        nan_left = node["default_left"] if node["missing_type"] == "NaN" else threshold >= 0
        rows.append([node["split_feature"], threshold, 0, 0, float(nan_left), 0.0])
        rows[place][2] = add(node["left_child"])
        rows[place][3] = add(node["right_child"])
        return place

    roots = [add(tree) for tree in trees]
    table = np.array(rows, dtype=np.float64).reshape(len(rows), 6)
    return Forest(
        feature=table[:, 0].astype(np.int32),
        threshold=table[:, 1].copy(),
        left=table[:, 2].astype(np.int32),
        right=table[:, 3].astype(np.int32),
        nan_left=table[:, 4].astype(np.bool_),
        value=table[:, 5].copy(),
        root=np.array(roots, dtype=np.int32),
    )
