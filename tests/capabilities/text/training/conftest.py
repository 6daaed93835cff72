"""Conversations that a tiny model learns in a second."""

import json
from pathlib import Path
from typing import Any

import pytest

from modelworks.capabilities.text.schemas import LoraParams, SupervisedParams, TrainParams, TuningParams
from modelworks.capabilities.text.train import train
from modelworks.contract import LocalModel
from modelworks.testing.fake_run import FakeRun

TALKS = [
    ("Rain?", "No rain."),
    ("Snow?", "Much snow."),
    ("Wind?", "A storm."),
    ("Sun?", "At noon."),
    ("Fog?", "In the vale."),
]
QUICK: dict[str, Any] = {"num_threads": 1, "validation_fraction": 0, "log_every": 1}


def conversation(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **more}]}


def write_lines(folder: Path, records: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "samples.jsonl").write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    return folder


def tuned(run: FakeRun, params: TuningParams) -> FakeRun:
    """A run of the capability's trainer, through the parameters that a user gives."""
    train(run, TrainParams.model_validate(params.model_dump()))
    return run


@pytest.fixture(scope="session")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("talks"), [conversation(*talk) for talk in TALKS])


@pytest.fixture(scope="session")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = [
        {
            "input": {"messages": [{"role": "user", "content": question}]},
            "preferred_output": [{"role": "assistant", "content": answer}],
            "non_preferred_output": [{"role": "assistant", "content": "I will not say."}],
        }
        for question, answer in TALKS
    ]
    return write_lines(tmp_path_factory.mktemp("preferences"), records)


@pytest.fixture(scope="session")
def supervised(tmp_path_factory: pytest.TempPathFactory, model: LocalModel, talks: Path) -> FakeRun:
    """A finished run that knows its five answers by heart."""
    run = FakeRun(tmp_path_factory.mktemp("supervised"), models={"base": model}, datasets={"train": talks}, seed=3)
    params = SupervisedParams(**QUICK, steps=200, learning_rate=5e-3, checkpoint_every=80, batch_size=2)
    return tuned(run, params)


@pytest.fixture(scope="session")
def lora(tmp_path_factory: pytest.TempPathFactory, model: LocalModel, talks: Path) -> FakeRun:
    """A finished run with an adapter."""
    run = FakeRun(tmp_path_factory.mktemp("lora"), models={"base": model}, datasets={"train": talks}, seed=3)
    return tuned(run, LORA)


LORA = LoraParams(**QUICK, steps=30, learning_rate=1e-2, rank=8, alpha=16, dropout=0.05, checkpoint_every=12, batch_size=2)
