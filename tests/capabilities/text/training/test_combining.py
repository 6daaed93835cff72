"""Adapters that go on from one, lie alone, and are added up."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from tests.capabilities.text.training.conftest import LORA, TALKS, conversation, tuned, write_lines

from modelworks.capabilities.text.engines.transformers_model import load_model
from modelworks.capabilities.text.schemas import CombineParams, TrainParams
from modelworks.capabilities.text.train import train
from modelworks.capabilities.text.training import adapter as adapters
from modelworks.contract import LocalModel
from modelworks.contract.errors import IntegrityFailed, InvalidRequest
from modelworks.testing.fake_run import FakeRun, digest_of

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def named(run: FakeRun, name: str) -> LocalModel:
    return run.saved[0].model().model_copy(update={"ref": f"{name}@v1", "version_id": f"mdl_{name.upper()}"})


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, model: LocalModel, talks: Path) -> FakeRun:
    """The adapter of the fixture `lora`, saved without its merge."""
    run = FakeRun(tmp_path_factory.mktemp("alone"), models={"base": model}, datasets={"train": talks}, seed=3)
    return tuned(run, LORA.model_copy(update={"merged": False}))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, model: LocalModel) -> FakeRun:
    """Another one, of other answers and another scale, alone as well."""
    turned = [conversation(asked, TALKS[number - 1][1]) for number, (asked, _) in enumerate(TALKS)]
    data = write_lines(tmp_path_factory.mktemp("turned"), turned)
    run = FakeRun(tmp_path_factory.mktemp("other"), models={"base": model}, datasets={"train": data}, seed=4)
    return tuned(run, LORA.model_copy(update={"merged": False, "rank": 4, "steps": 12}))


def combined(tmp_path: Path, model: LocalModel, talks: Path, found: list[LocalModel], **params: Any) -> FakeRun:
    roles = {f"adapter_{number}": each for number, each in enumerate(found, 1)}
    run = FakeRun(tmp_path / "whole", models={"base": model, **roles}, datasets={"train": talks})
    train(run, TrainParams.model_validate({"method": "combine", "num_threads": 1, **params}))
    return run


def changes(folder: Path, base: Path) -> dict[str, torch.Tensor]:
    """What an adapter's merge changed of the base's weights, by name."""
    before, after = load_file(base / "model.safetensors"), load_file(folder / "model.safetensors")
    return {name: after[name] - value for name, value in before.items() if not torch.equal(after[name], value)}


def change_of(alone: FakeRun, model: LocalModel, tmp_path: Path) -> dict[str, torch.Tensor]:
    """The same of one that lies alone."""
    worn = adapters.merge(adapters.wear(load_model(model.path, torch.float32), alone.saved[0].path / adapters.FOLDER))
    worn.save_pretrained(tmp_path / "merged")
    return changes(tmp_path / "merged", model.path)


def test_an_adapter_alone_is_the_one_that_is_saved_with_its_merge(alone: FakeRun, lora: FakeRun) -> None:
    (saved,) = alone.saved
    assert [path.name for path in saved.path.iterdir()] == [adapters.FOLDER]
    assert digest_of(saved.path / adapters.FOLDER) == digest_of(lora.saved[0].path / adapters.FOLDER)
    assert saved.metadata["adapter"] == lora.saved[0].metadata["adapter"]


def test_together_they_are_the_mean_of_their_changes(
    tmp_path: Path, model: LocalModel, talks: Path, alone: FakeRun, other: FakeRun
) -> None:
    run = combined(tmp_path, model, talks, [named(alone, "first"), named(other, "second")])
    (saved,) = run.saved
    assert run.used == ["base", "adapter_1", "adapter_2", "train"]
    record = saved.metadata["adapter"]
    assert (record["rank"], record["base_digest"], saved.metadata["method"]) == (12, model.digest, "combine")
    assert (saved.metadata["metrics"]["num_adapters"], saved.metadata["metrics"]["scale"]) == (2.0, 0.5)
    first = change_of(alone, model, tmp_path / "1")
    second = change_of(other, model, tmp_path / "2")
    whole = changes(saved.path, model.path)
    assert set(whole) == set(first) == set(second)
    for name, change in whole.items():
        wanted = (first[name] + second[name]) / 2
        assert (change - wanted).abs().max() < 1e-6, name
        assert (change - wanted).abs().max() < 0.01 * change.abs().max(), name
    run.check_inputs_unchanged()


def test_one_alone_with_scale_1_stays_what_it_is(tmp_path: Path, model: LocalModel, talks: Path, lora: FakeRun) -> None:
    run = combined(tmp_path, model, talks, [named(lora, "first")], scale=1.0)
    kept, whole = changes(lora.saved[0].path, model.path), changes(run.saved[0].path, model.path)
    assert all((whole[name] - kept[name]).abs().max() < 1e-6 for name in kept)


def test_a_training_goes_on_from_an_adapter_and_rehearses(
    tmp_path: Path, model: LocalModel, talks: Path, alone: FakeRun
) -> None:
    fresh = write_lines(tmp_path / "fresh", [conversation("Hail?", "Small."), conversation("Ice?", "Thin.")])
    params = LORA.model_copy(update={"steps": 1, "dropout": 0.0, "learning_rate": 1e-4, "replay_fraction": 0.6})
    given: dict[str, Any] = {"datasets": {"train": talks}, "seed": 3}
    anew = tuned(FakeRun(tmp_path / "anew", models={"base": model}, **given), params)
    models = {"base": model, "adapter": named(alone, "first")}
    on = tuned(FakeRun(tmp_path / "on", models=models, **given), params)
    first = [run.saved[0].metadata["metrics"]["first_loss"] for run in (anew, on)]
    assert first[1] < 0.8 * first[0], "it begins where the adapter ended"
    datasets = {"train": fresh, "replay": talks}
    replayed = tuned(FakeRun(tmp_path / "replayed", models=models, datasets=datasets, seed=3), params)
    metrics = replayed.saved[0].metadata["metrics"]
    assert (metrics["num_samples"], metrics["num_replayed"]) == (5.0, 3.0), "two new ones are 40 % of five"
    assert replayed.used == ["base", "train", "replay", "adapter"]


def test_what_does_not_fit_is_refused(tmp_path: Path, model: LocalModel, talks: Path, lora: FakeRun, other: FakeRun) -> None:
    first = named(lora, "first")
    given: dict[str, Any] = {"datasets": {"train": talks}, "seed": 3}
    with pytest.raises(InvalidRequest, match="rank 4") as refused:
        tuned(FakeRun(tmp_path / "1", models={"base": model, "adapter": named(other, "second")}, **given), LORA)
    assert refused.value.error_code == "adapter_of_another_shape"
    with pytest.raises(InvalidRequest, match="is no adapter"):
        tuned(FakeRun(tmp_path / "2", models={"base": model, "adapter": model}, **given), LORA)
    with pytest.raises(InvalidRequest, match="needs adapters"):
        combined(tmp_path / "3", model, talks, [])
    fewer = LORA.model_copy(update={"targets": ["q_proj"], "steps": 1})
    narrow = tuned(FakeRun(tmp_path / "4", models={"base": model}, **given), fewer)
    with pytest.raises(InvalidRequest, match="different layers"):
        combined(tmp_path / "5", model, talks, [first, named(narrow, "narrow")])
    record = {**first.metadata["adapter"], "files": {}}
    changed = first.model_copy(update={"metadata": {**first.metadata, "adapter": record}})
    with pytest.raises(IntegrityFailed):
        combined(tmp_path / "6", model, talks, [changed])
    with pytest.raises(ValidationError):
        CombineParams.model_validate({"method": "combine", "rank": 4})
