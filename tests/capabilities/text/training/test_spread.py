"""Two processes train what one does: the same curve, checkpoints that either goes on from, one result."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.capabilities.text.training.conftest import TALKS, conversation, write_lines
from tests.capabilities.text.training.two_processes import (
    CASES,
    RESUMED,
    STRATEGIES,
    plain_model,
    report,
    run_case,
    text_batch,
    text_loss,
)

from modelworks.capabilities.text.engines.transformers_model import load_model
from modelworks.capabilities.text.schemas import TrainParams
from modelworks.capabilities.text.train import train
from modelworks.capabilities.text.training.plans import Stage, pipeline_plan, tensor_plan
from modelworks.capabilities.text.training.spread import Spread
from modelworks.contract import LocalModel
from modelworks.contract.errors import InvalidRequest
from modelworks.contract.run import World
from modelworks.testing.fake_run import FakeRun

# One start of the two processes serves all of these.
pytestmark = [pytest.mark.thorough, pytest.mark.xdist_group("two_processes")]

#: Sums in another order differ in the last bits of f32; Adam makes some more of it with each step.
TOLERANCE = 1e-5
_ROOT = Path(__file__).parents[4]
_ALONE = World()


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory, model: LocalModel, documents: Path, preferences: Path
) -> dict[str, FakeRun]:
    """Every case in one process, and its inputs in the folder above each run's."""
    folder = tmp_path_factory.mktemp("spread")
    for name, given in {"base": model.path, "documents": documents, "preferences": preferences}.items():
        shutil.copytree(given, folder / name)
    write_lines(
        folder / "talks", [conversation(f"{asked} {hour}?", told) for asked, told in TALKS for hour in ("Dawn", "Dusk")]
    )
    runs = {name: run_case(folder, name, "ddp", _ALONE) for name in CASES}
    shutil.copytree(runs[RESUMED].checkpoints[0].path, folder / "checkpoint")
    return runs


@pytest.fixture(scope="module")
def together(alone: dict[str, FakeRun], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes report of the same cases: the first one's report by case and strategy, and the second's as `other`."""
    folder = _folder(alone)
    environment = os.environ | {"PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    program = str(Path(__file__).with_name("two_processes.py"))
    ranks = [
        subprocess.Popen(
            [sys.executable, program, str(rank), str(folder)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for rank in range(2)
    ]
    try:
        said = [rank.communicate(timeout=300)[0].decode() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], said[0][-3000:] + said[1][-3000:]
    found: dict[str, Any] = json.loads((folder / "report-0.json").read_text())
    return found | {"other": json.loads((folder / "report-1.json").read_text())}


def _folder(alone: dict[str, FakeRun]) -> Path:
    return alone["lora"].workdir.parents[2]


def _largest_difference(ours: list[Any], theirs: list[Any]) -> float:
    """Of any curve but the speed, relative to its size; the curves must have the same points."""
    assert [(step, sorted(metrics)) for step, metrics in ours] == [(step, sorted(metrics)) for step, metrics in theirs]
    return max(
        abs(mine[name] - other[name]) / max(abs(other[name]), 1e-3)
        for (_, mine), (_, other) in zip(ours, theirs, strict=True)
        for name in mine
        if name != "tokens_per_s"
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", CASES)
def test_two_processes_have_the_curve_of_one(
    alone: dict[str, FakeRun], together: dict[str, Any], name: str, strategy: str
) -> None:
    expected, found = report(alone[name]), together[f"{name}-{strategy}"]
    difference = _largest_difference(found["curve"], expected["curve"])
    print(f"{name}, {strategy}: largest relative difference {difference:.1e}")
    assert difference < TOLERANCE
    [metrics], [known] = found["metrics"], expected["metrics"]
    assert metrics["tokens_seen"] == known["tokens_seen"]
    assert {key: metrics[key] for key in known} == pytest.approx(known, rel=1e-4)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", CASES)
def test_the_result_is_saved_once_and_in_one_piece(
    alone: dict[str, FakeRun], together: dict[str, Any], name: str, strategy: str
) -> None:
    [saved] = together[f"{name}-{strategy}"]["saved"]
    weights = load_file(Path(saved) / "model.safetensors")
    expected = load_file(alone[name].saved[0].path / "model.safetensors")
    assert {key: value.shape for key, value in weights.items()} == {key: value.shape for key, value in expected.items()}
    for key, value in expected.items():
        torch.testing.assert_close(weights[key], value, rtol=0, atol=2e-4)
    assert load_model(Path(saved), torch.float32).config.vocab_size == expected["model.embed_tokens.weight"].shape[0]
    other = together["other"][f"{name}-{strategy}"]
    assert (other["saved"], other["checkpoints"]) == ([], [])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_checkpoint_of_two_processes_is_one_that_a_single_one_goes_on_from(
    alone: dict[str, FakeRun], together: dict[str, Any], strategy: str
) -> None:
    [checkpoint, step] = together[f"{RESUMED}-{strategy}"]["checkpoints"][0]
    assert step == 6
    files = sorted(path.name for path in Path(checkpoint).iterdir())
    assert files == sorted(path.name for path in alone[RESUMED].checkpoints[0].path.iterdir())
    resumed = run_case(_folder(alone), RESUMED, "ddp", _ALONE, resume_from=Path(checkpoint))
    expected = [point for point in report(alone[RESUMED])["curve"] if point[0] > 6]
    assert _largest_difference(report(resumed)["curve"], expected) < TOLERANCE


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["pretrain", "supervised", "lora"])
def test_gradients_have_the_size_that_one_process_gives_them(
    alone: dict[str, FakeRun], together: dict[str, Any], name: str, strategy: str
) -> None:
    """Adam hides a factor that all gradients share; its averages do not."""
    [checkpoint, _] = together[f"{name}-{strategy}"]["checkpoints"][0]
    found = load_file(Path(checkpoint) / "optimiser.safetensors")
    expected = load_file(alone[name].checkpoints[0].path / "optimiser.safetensors")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if key.endswith((":exp_avg", ":exp_avg_sq")):
            largest = float(value.abs().max())
            torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-3 * largest, msg=key)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_go_on_from_the_checkpoint_of_one(
    alone: dict[str, FakeRun], together: dict[str, Any], strategy: str
) -> None:
    expected = [point for point in report(alone[RESUMED])["curve"] if point[0] > 6]
    assert _largest_difference(together[f"resumed-{strategy}"]["curve"], expected) < TOLERANCE


def _expected() -> tuple[dict[str, torch.Tensor], torch.Tensor, int, float]:
    """Gradients, logits, number of weights and loss of the whole model in one process."""
    model, ids_bt = plain_model(), text_batch()
    logits_btv = model(input_ids=ids_bt[:, :-1], use_cache=False).logits
    loss = text_loss(logits_btv, ids_bt[:, 1:])
    loss.backward()
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    return gradients, logits_btv.detach(), sum(each.numel() for each in model.parameters()), float(loss.detach())


def test_layers_that_are_cut_into_parts_compute_the_same(alone: dict[str, FakeRun], together: dict[str, Any]) -> None:
    gradients, logits_btv, num_weights, _ = _expected()
    for rank in range(2):
        found = load_file(_folder(alone) / f"parts-{rank}.safetensors")
        assert num_weights / 2 < int(found.pop("held")) < 0.8 * num_weights
        torch.testing.assert_close(found.pop("logits"), logits_btv, rtol=1e-5, atol=1e-6)
        assert found.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_layers_that_are_cut_into_stages_compute_the_same(alone: dict[str, FakeRun], together: dict[str, Any]) -> None:
    gradients, _, _, loss = _expected()
    first, last = (load_file(_folder(alone) / f"stage-{rank}.safetensors") for rank in range(2))
    assert float(last.pop("losses").mean()) == pytest.approx(loss, rel=1e-5)
    # A stage's module is flat; its layers keep their numbers.
    found = {name if name.startswith("lm_head") else f"model.{name}": value for name, value in (first | last).items()}
    assert not first.keys() & last.keys()
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_what_cannot_be_cut_is_refused() -> None:
    model = plain_model()
    with pytest.raises(InvalidRequest, match="num_attention_heads is 4, which 3 parts"):
        tensor_plan(model, 3)
    with pytest.raises(InvalidRequest, match="num_key_value_heads is 2, which 4 parts"):
        tensor_plan(model, 4)
    with pytest.raises(InvalidRequest, match="embedding is its head"):
        Stage(plain_model(tied=True), 0, 2)
    with pytest.raises(InvalidRequest, match="no plan for the layers of Linear"):
        tensor_plan(torch.nn.Linear(2, 2), 2)
    with pytest.raises(InvalidRequest, match="2 layers cannot make 3 stages"):
        pipeline_plan(2, 3)
    assert [list(each) for each in pipeline_plan(7, 3)] == [[0, 1], [2, 3, 4], [5, 6]]
    assert pipeline_plan(28, 4) == [range(0, 7), range(7, 14), range(14, 21), range(21, 28)]


def test_reinforcement_says_that_it_trains_alone(tmp_path: Path) -> None:
    params = TrainParams.model_validate(
        {
            "method": "reinforcement",
            "grader": {"type": "string_check", "name": "g", "operation": "eq", "input": "a", "reference": "a"},
        }
    )
    with pytest.raises(InvalidRequest, match="one process"):
        train(FakeRun(tmp_path, world=World(1, 2)), params)


def test_portions_together_are_the_whole() -> None:
    items = list(range(7))
    portions = [Spread(World(rank, 3)).portion(items) for rank in range(3)]
    assert portions == [[0, 3, 6], [1, 4], [2, 5]]
    assert Spread(World(2, 3)).portion([0, 1]) == []
    assert Spread().portion(items) == items
