"""Rows as tensors: neighbours do not matter, every pass reads everything, and the order follows from the seed."""

from collections import Counter
from typing import Any

import pytest
import torch

from modelworks.capabilities.text.engines.transformers_model import load_model
from modelworks.capabilities.text.training.batches import (
    Order,
    RowSource,
    answers,
    answers_in_one_shape,
    check_packing,
    collate,
    token_losses,
)
from modelworks.capabilities.text.training.rows import Row
from modelworks.contract import LocalModel
from modelworks.contract.errors import InvalidRequest


def row(*ids: int, learnt: int = 2) -> Row:
    return Row(ids, (0.0,) * (len(ids) - learnt) + (1.0,) * learnt)


ROWS = [row(5, 9, 80, 7, 33), row(90, 4, 61, learnt=1), row(100, 101, 102, 103, 104, 105, 106, learnt=4)]


@pytest.fixture(scope="module")
def loaded(model: LocalModel) -> Any:
    return load_model(model.path, torch.float32)


def test_a_samples_loss_does_not_depend_on_its_neighbours(loaded: Any) -> None:
    with torch.no_grad():
        packed = token_losses(loaded, collate([[ROWS[0], ROWS[1], ROWS[2]], [ROWS[1]]]))
        for alone, (place, start) in zip(ROWS, ((0, 0), (0, 4), (0, 6)), strict=True):
            expected = torch.nn.functional.cross_entropy(
                loaded(input_ids=torch.tensor([alone.ids[:-1]])).logits[0], torch.tensor(alone.ids[1:]), reduction="none"
            )
            torch.testing.assert_close(packed[place, start : start + len(expected)], expected, atol=1e-4, rtol=1e-4)
        together, _ = answers(loaded, collate([ROWS]))
        one_by_one = sum(answers(loaded, collate([[each]]))[0] for each in ROWS)
    torch.testing.assert_close(together, one_by_one, atol=1e-3, rtol=1e-4)


def test_only_weighted_targets_count() -> None:
    batch = collate([ROWS[:2], ROWS[2:]])
    assert batch.weight == 2 + 1 + 4
    assert batch.num_tokens == 4 + 2 + 6
    assert batch.tensors["weights"].tolist() == [[0, 0, 1, 1, 0, 1], [0, 0, 1, 1, 1, 1]]
    assert batch.tensors["targets"].tolist()[0] == [9, 80, 7, 33, 4, 61]
    assert batch.tensors["positions"].tolist()[0] == [0, 1, 2, 3, 0, 1]
    assert torch.isfinite(batch.tensors["weights"]).all()


def test_batches_of_one_shape_say_the_same(loaded: Any) -> None:
    """Three rows of which two are filled: compiled code sees one shape, and the loss is that of the samples."""
    source = RowSource(ROWS, [], batch_size=2, accumulation=1, length=9, packing=False, seed=1, same_shape=True)
    lengths: Counter[tuple[int, ...]] = Counter()
    with torch.no_grad():
        found = 0.0
        for number in range(source.steps_per_epoch):
            for batch in source.step(number):
                lengths[tuple(batch.tensors["inputs"].shape)] += 1
                found += float(answers_in_one_shape(loaded, batch)[0])
        expected = sum(float(answers(loaded, collate([[each]]))[0]) for each in ROWS)
    assert lengths == {(2, 9): 2}
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_model_that_ignores_the_mask_is_found_out(loaded: Any) -> None:
    check_packing(loaded, ROWS)

    class Leaky:
        training = False

        def __call__(self, *, input_ids: Any, **_: Any) -> Any:
            return loaded(input_ids=input_ids)

        def eval(self) -> None: ...
        def train(self, mode: bool) -> None: ...

    with pytest.raises(InvalidRequest, match="see each other") as caught:
        check_packing(Leaky(), ROWS)
    assert caught.value.param == "packing"


def test_every_pass_reads_everything_once_in_an_order_of_its_own() -> None:
    order = Order(7, batch_size=2, accumulation=2, seed=1)
    assert order.steps_per_epoch == 2
    first = [order.step(0), order.step(1)]
    second = [order.step(2), order.step(3)]
    assert [[len(items) for items in step] for step in first] == [[2, 2], [2, 1]]
    for epoch in (first, second):
        assert Counter(item for step in epoch for items in step for item in items) == Counter(range(7))
    assert first != second
    assert Order(7, batch_size=2, accumulation=2, seed=1).step(3) == second[1]
    assert [Order(7, batch_size=2, accumulation=2, seed=2).step(step) for step in (0, 1)] != first


def test_packed_and_padded_sources_hold_the_same_tokens() -> None:
    def tokens(packing: bool) -> Counter[int]:
        source = RowSource(ROWS, ROWS[:1], batch_size=2, accumulation=1, length=16, packing=packing, seed=1)
        batches = [batch for step in range(source.steps_per_epoch) for batch in source.step(step)]
        assert sum(batch.weight for batch in source.validation()) == 2
        return Counter(int(token) for batch in batches for token in batch.tensors["targets"][batch.tensors["weights"] > 0])

    assert tokens(True) == tokens(False)
    assert sum(tokens(True).values()) == 7
