"""The contract holds in all four modes: toy capabilities pass the inherited suite, and faulty ones do not."""

import dataclasses
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from modelworks.contract import Capability, Run, Task
from modelworks.testing import FakeRun
from modelworks.testing.contract_suite import CapabilityContract, TaskCase
from modelworks.testing.tiny_data import write_text

TOYS = Path(__file__).parent / "toys" / "src"
if str(TOYS) not in sys.path:
    sys.path.insert(0, str(TOYS))

toys: Capability = importlib.import_module("toys.capability").capability


def datasets(folder: Path) -> Mapping[str, Path]:
    return {
        "train": write_text(folder / "train", documents=4, sentences_each=10),
        "test": write_text(folder / "test", documents=2, sentences_each=5, seed=1),
    }


class TestToys(CapabilityContract):
    capability = toys
    cases: ClassVar = {
        "toy-spelling": TaskCase(
            datasets=datasets,
            train_params={"words_per_step": 20},
            options={"ignore_case": False},
            request={"text": "The pump zzz."},
            bad_requests=[{}, {"text": ""}],
        ),
        "toy-countdown": TaskCase(request={"start": 3}, bad_requests=[{"start": -1}, {"start": "many"}]),
        "toy-tide": TaskCase(request={"hours": 24}, bad_requests=[{"hours": 0}]),
        "toy-scene": TaskCase(datasets=datasets),
    }


class TestThreaded(CapabilityContract):
    """The same stream as a plain iterator."""

    capability = dataclasses.replace(
        toys, tasks=(dataclasses.replace(toys.task("toy-countdown"), predictor="toys.serve:ThreadedCountdown"),)
    )
    cases: ClassVar = {"toy-countdown": TaskCase(request={"start": 3})}


# Faulty code, each with the test of the suite that must find it.


def saves_nothing(run: Run, params: BaseModel) -> None:
    run.log(1, loss=1.0)
    run.progress(1, 1, "steps")
    run.dataset()


def starts_again(run: Run, params: BaseModel) -> None:
    for step in range(1, 4):
        run.raise_if_cancelled()
        run.log(step, loss=1.0)
        run.checkpoint(run.dataset().path)
    run.progress(1, 1, "steps")
    run.raise_if_cancelled()
    run.save(run.dataset().path, kind="model", metadata={"task": "toy-spelling", "level": "L0"})


def writes_into_its_input(run: Run, params: BaseModel) -> None:
    (run.dataset().path / "cache.txt").write_text("x")
    starts_again(run, params)


def forgets_a_metric(run: Run, params: object) -> Mapping[str, float]:
    run.model("model")
    run.dataset("test")
    return {}


class Deaf:
    """A stream that goes on after it was closed."""

    def __init__(self, model: object, options: object) -> None:
        self._left = 3

    def stream(self, request: Any) -> "Deaf":
        self._left = 3
        return self

    def __iter__(self) -> "Deaf":
        return self

    def __next__(self) -> dict[str, int]:
        if not self._left:
            raise StopIteration
        self._left -= 1
        return {"value": self._left}

    def close(self) -> None:
        return None


class Wrong:
    """Answers with something else than the declared output."""

    def __init__(self, model: object, options: object) -> None:
        pass

    def predict(self, request: object) -> dict[str, int]:
        return {"colour": 1}


HERE = __name__


@pytest.mark.parametrize(
    ("task", "change", "finder"),
    [
        ("toy-spelling", {"trainer": f"{HERE}:saves_nothing"}, "test_training_saves_a_result_and_says_how_it_went"),
        ("toy-spelling", {"trainer": f"{HERE}:writes_into_its_input"}, "test_training_saves_a_result_and_says_how_it_went"),
        ("toy-spelling", {"trainer": f"{HERE}:starts_again"}, "test_a_cancelled_training_goes_on_from_its_checkpoint"),
        ("toy-spelling", {"evaluator": f"{HERE}:forgets_a_metric"}, "test_evaluation_returns_exactly_the_declared_metrics"),
        ("toy-spelling", {"predictor": f"{HERE}:Wrong"}, "test_answers_are_outputs"),
        ("toy-spelling", {"evaluator": "toys.evaluate:no_such"}, "test_code_named_by_import_path_exists"),
        ("toy-countdown", {"predictor": f"{HERE}:Deaf"}, "test_streams_give_outputs_and_stop_when_closed"),
    ],
)
def test_the_suite_finds_faults(
    task: str, change: dict[str, str], finder: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    class Faulty(CapabilityContract):
        capability = dataclasses.replace(toys, tasks=(dataclasses.replace(toys.task(task), **change),))
        cases: ClassVar = {task: TestToys.cases[task]}

    trained = {}
    declared = Faulty.capability.task(task)
    if declared.trainer is not None:
        run = FakeRun(tmp_path / "training", datasets=datasets(tmp_path / "data"))
        _call(declared.trainer, run, declared.train_params.model_validate(dict(Faulty.cases[task].train_params)))
        trained[task] = run
    values = {"trained": trained, "tmp_path": tmp_path / "test"}
    test = getattr(Faulty(), finder)
    wanted = test.__code__.co_varnames[1 : test.__code__.co_argcount]
    # pytest.raises(…) that does not raise ends with Failed, which is no Exception.
    with pytest.raises((Exception, pytest.fail.Exception)):
        test(**{name: values[name] for name in wanted})


def test_a_heavy_declaration_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "heavy_toy"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "capability.py").write_text("import sqlalchemy\n")

    class Heavy(CapabilityContract):
        capability = dataclasses.replace(toys, package="heavy_toy")
        cases = TestToys.cases

    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AssertionError, match="sqlalchemy"):
        Heavy().test_the_declaration_is_light()


def _call(path: str, *arguments: object) -> object:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)(*arguments)


def test_the_declaration_refuses_contradictions() -> None:
    given: dict[str, Any] = {"name": "toy-x", "input": BaseModel, "output": BaseModel}
    with pytest.raises(ValueError, match="no predictor"):
        Task(**given, mode="static", predictor="toys.serve:tide")
    with pytest.raises(ValueError, match="needs a predictor"):
        Task(**given, mode="job")
    with pytest.raises(ValueError, match="train_params"):
        Task(**given, predictor="toys.serve:Speller", trainer="toys.train:learn_words")
    with pytest.raises(ValueError, match="declared together"):
        Task(**given, predictor="toys.serve:Speller", metrics=("loss",))
    with pytest.raises(ValueError, match="import path"):
        Task(**given, predictor="toys.serve.Speller")
    with pytest.raises(ValueError, match="hyphens"):
        Task(**{**given, "name": "Toy X"}, predictor="toys.serve:Speller")
    task = toys.task("toy-tide")
    with pytest.raises(ValueError, match="twice"):
        Capability(name="x", summary="", package="toys", tasks=(task, task))
