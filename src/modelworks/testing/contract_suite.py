"""What every capability must keep, as a test class to inherit. Needs pytest; works in any repository.

    from modelworks.testing.contract_suite import CapabilityContract, TaskCase

    class TestContract(CapabilityContract):
        capability = capability
        cases: ClassVar = {"text-classification": TaskCase(datasets=write_data, request={"text": "It rains."})}

A capability that passes can be trained, evaluated, resumed, deployed and invoked by the kernel, which knows nothing else
about it.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.resources
import inspect
import json
import math
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, ValidationError

from modelworks.contract import Capability, LocalModel, ServerCommand, Task
from modelworks.contract.errors import Cancelled
from modelworks.contract.evaluation import SAMPLES_FILE, SampleResult
from modelworks.contract.tasks import TASK_MODES
from modelworks.testing.fake_run import FakeRun, digest_of

#: A declaration that imports one of these makes the server and the command line slow to start.
HEAVY = (
    "torch",
    "numpy",
    "transformers",
    "tokenizers",
    "pandas",
    "PIL",
    "cv2",
    "scipy",
    "openvino",
    "ray",
    "sqlalchemy",
    "fastapi",
)

#: Every preset says under which licence its weights are and what they take; one that is fetched also says from where.
PRESET_FIELDS = ("licence", "size_bytes", "memory_bytes")


def _nothing(folder: Path) -> Mapping[str, Path]:
    return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskCase:
    """The tiny inputs with which one task is tried."""

    #: Write data sets under the folder and return them by role ("train", "test").
    datasets: Callable[[Path], Mapping[str, Path]] = _nothing
    #: Write models under the folder and return them by role ("base"; "model" for a task that is not trained).
    models: Callable[[Path], Mapping[str, Path]] = _nothing
    train_params: Mapping[str, Any] = field(default_factory=dict)
    evaluate_params: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    #: A request as it arrives in JSON; None for a static task.
    request: Mapping[str, Any] | None = None
    #: Requests that the input schema must refuse.
    bad_requests: Sequence[Mapping[str, Any]] = ()
    #: The logged step after which the user cancels, for the test of resuming.
    cancel_at: int = 1
    #: A resumed run must give the same bytes as an undisturbed one.
    exact_resume: bool = True


class CapabilityContract:
    """Inherit, set `capability` and `cases` (by task name), and run pytest."""

    capability: ClassVar[Capability]
    cases: ClassVar[Mapping[str, TaskCase]]

    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, FakeRun]:
        """One undisturbed training of every task that has a trainer, by task name."""
        owner = request.cls
        runs = {}
        for task in _tasks(owner, lambda task: task.trainer is not None):
            root = tmp_path_factory.mktemp(task.name)
            case = owner.cases[task.name]
            runs[task.name] = _train(task, case, root, case.datasets(root / "data"), case.models(root / "models"))
        return runs

    def test_the_declaration_is_light(self) -> None:
        module = f"{self.capability.package}.capability"
        program = (
            f"import sys, json, {module}\n"
            f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
            "own = [name for name in sys.modules if name.startswith('modelworks.')]\n"
            "print(json.dumps([heavy, own]))"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=120, check=False
        )
        assert done.returncode == 0, f"{module} cannot be imported alone:\n{done.stderr}"
        heavy, own = json.loads(done.stdout)
        assert not heavy, f"importing {module} brings {heavy}: import them in train.py, evaluate.py or serve.py"
        # The script that confines a process lies beside the floors: kernel and capabilities run the same one.
        parents = ("modelworks.capabilities", "modelworks.isolation", self.capability.package)
        strangers = [
            name for name in own if not name.startswith(("modelworks.contract", f"{self.capability.package}.", *parents))
        ]
        assert not strangers, f"{module} may import the contract and its own package only, but brings {strangers}"

    def test_every_task_has_a_case_and_the_mode_of_its_field(self) -> None:
        names = {task.name for task in self.capability.tasks}
        assert names == set(self.cases), "cases must name exactly the declared tasks"
        for task in self.capability.tasks:
            assert TASK_MODES.get(task.name, task.mode) == task.mode, f"{task.name} is answered in mode {TASK_MODES[task.name]}"

    def test_schemas_can_be_published_and_their_examples_hold(self) -> None:
        for task in self.capability.tasks:
            for schema in _schemas(task):
                published = schema.model_json_schema()
                json.dumps(published)
                for example in published.get("examples", []):
                    schema.model_validate(example)

    def test_requests_are_accepted_and_bad_ones_refused(self) -> None:
        for task in _tasks(type(self), lambda task: task.mode != "static"):
            case = self.cases[task.name]
            assert case.request is not None, f"{task.name}: give the case a request"
            task.input.model_validate(case.request)
            for bad in case.bad_requests:
                with pytest.raises(ValidationError):
                    task.input.model_validate(bad)

    def test_code_named_by_import_path_exists(self) -> None:
        for task in self.capability.tasks:
            functions = (
                task.predictor,
                task.trainer,
                task.evaluator,
                task.validator,
                task.cleaner,
                task.quantiser,
                task.exporter,
            )
            for path in (*functions, *task.predictors.values(), *task.servers.values(), *task.importers.values()):
                if path is not None:
                    assert callable(_resolve(path)), f"{path} is not callable"

    def test_servers_describe_a_process(self, trained: dict[str, FakeRun], tmp_path: Path) -> None:
        for task in self.capability.tasks:
            for engine, path in task.servers.items():
                model = _model(task, self.cases[task.name], trained, tmp_path)
                command = _resolve(path)(model, _options(task, self.cases[task.name]))
                assert isinstance(command, ServerCommand), f"engine {engine!r} gives {type(command).__name__}"
                said = [*command.argv, *command.env.values()]
                assert any("{port}" in word for word in said), f"engine {engine!r} must take the kernel's {{port}}"

    def test_training_saves_a_result_and_says_how_it_went(self, trained: dict[str, FakeRun]) -> None:
        for task in _tasks(type(self), lambda task: task.trainer is not None):
            run = trained[task.name]
            assert run.saved, f"{task.name}: the trainer returned without run.save"
            for saved in run.saved:
                json.dumps(saved.metadata)
            models = [saved for saved in run.saved if saved.kind == "model"]
            assert models, f"{task.name}: no result of the kind model"
            for saved in models:
                assert saved.metadata.get("task") == task.name, f"{task.name}: metadata must name the task"
                assert saved.metadata.get("level") in ("L0", "L1", "L2"), f"{task.name}: metadata must give the level"
            assert run.logs, f"{task.name}: nothing was logged"
            assert run.progress_points, f"{task.name}: no progress was reported"
            last = run.progress_points[-1]
            assert last.done == pytest.approx(last.total), f"{task.name}: the last progress is {last.done} of {last.total}"
            assert run.used, f"{task.name}: the trainer read no input through the run"
            run.check_inputs_unchanged()

    def test_unknown_parameters_are_refused(self) -> None:
        for task in self.capability.tasks:
            for schema in (task.train_params, task.evaluate_params, task.quantise_params, task.export_params, task.options):
                if schema is not None:
                    with pytest.raises(ValidationError):
                        schema.model_validate({"no_such_parameter": 1})

    def test_a_cancelled_training_goes_on_from_its_checkpoint(self, trained: dict[str, FakeRun], tmp_path: Path) -> None:
        for task in _tasks(type(self), lambda task: task.trainer is not None):
            case = self.cases[task.name]
            root = tmp_path / task.name
            datasets, models = case.datasets(root / "data"), case.models(root / "models")
            first = FakeRun(root, datasets=datasets, models=models, cancel_at=case.cancel_at)
            with pytest.raises(Cancelled):
                _resolve(task.trainer)(first, _params(task, case))
            assert not any(saved.kind == "model" for saved in first.saved), f"{task.name}: saved a model although cancelled"
            assert first.checkpoints, f"{task.name}: cancelled after step {case.cancel_at} without a checkpoint"
            checkpoint = first.checkpoints[-1]
            second = _train(task, case, root, datasets, models, resume_from=checkpoint.path)
            assert [saved.kind for saved in second.saved] == [saved.kind for saved in trained[task.name].saved]
            if checkpoint.step is not None and second.logs:
                assert second.logs[0].step > checkpoint.step, f"{task.name}: began again instead of resuming"
            if case.exact_resume:
                ours = [digest_of(saved.path) for saved in second.saved]
                undisturbed = [digest_of(saved.path) for saved in trained[task.name].saved]
                assert ours == undisturbed, f"{task.name}: the resumed run gave other bytes than an undisturbed one"

    def test_evaluation_returns_exactly_the_declared_metrics(self, trained: dict[str, FakeRun], tmp_path: Path) -> None:
        for task in _tasks(type(self), lambda task: task.evaluator is not None):
            case = self.cases[task.name]
            root = tmp_path / task.name
            model = _model(task, case, trained, root)
            assert model is not None, f"{task.name}: nothing to evaluate; give the case models with the role model"
            run = FakeRun(root, models={"model": model}, datasets=case.datasets(root / "data"))
            params = task.evaluate_params.model_validate(dict(case.evaluate_params)) if task.evaluate_params else None
            metrics = _resolve(task.evaluator)(run, params)
            task.check_metrics(metrics)
            _check_samples(task, run, metrics)
            assert all(math.isfinite(value) for value in metrics.values()), f"{task.name}: {dict(metrics)}"
            assert {"model", "test"} <= set(run.used), f"{task.name}: must measure role model on role test, used {run.used}"

    def test_answers_are_outputs(self, trained: dict[str, FakeRun], tmp_path: Path) -> None:
        for task in _tasks(type(self), lambda task: task.mode == "sync"):
            with _predictor(task, self.cases[task.name], trained, tmp_path) as predictor:
                answer = predictor.predict(_request(task, self.cases[task.name]))
                if inspect.isawaitable(answer):
                    answer = asyncio.run(_awaited(answer))
                _check_output(task, answer)

    def test_streams_give_outputs_and_stop_when_closed(self, trained: dict[str, FakeRun], tmp_path: Path) -> None:
        for task in _tasks(type(self), lambda task: task.mode == "stream"):
            with _predictor(task, self.cases[task.name], trained, tmp_path) as predictor:
                asyncio.run(_try_stream(task, predictor, self.cases[task.name]))

    def test_jobs_return_an_output_and_save_what_it_speaks_of(self, tmp_path: Path) -> None:
        for task in _tasks(type(self), lambda task: task.mode == "job"):
            case = self.cases[task.name]
            root = tmp_path / task.name
            run = FakeRun(root, models=case.models(root / "models"), datasets=case.datasets(root / "data"))
            _check_output(task, _resolve(task.predictor)(run, _request(task, case)))
            assert run.saved, f"{task.name}: the job returned without run.save"

    def test_the_user_page_and_the_presets_are_there(self) -> None:
        folder = importlib.resources.files(self.capability.package)
        page = folder.joinpath("README.md").read_text(encoding="utf-8")
        missing = [task.name for task in self.capability.tasks if task.name not in page]
        assert not missing, f"README.md does not speak of {missing}"
        presets = _presets(tomllib.loads(folder.joinpath("presets.toml").read_text(encoding="utf-8")))
        assert "tiny" in presets, "presets.toml needs a preset called tiny that runs anywhere"
        for name, preset in presets.items():
            # What changes on a hub is pinned; an installed wheel has one version.
            is_on_hub = str(preset.get("source", "")).startswith(("hf://", "ms://"))
            wanted = (*PRESET_FIELDS, *(("revision",) if is_on_hub else ()))
            lacking = [key for key in wanted if key not in preset]
            assert not lacking, f"preset {name!r} lacks {lacking}"


class _predictor:  # noqa: N801 - reads as a statement: with _predictor(…)
    """A constructed predictor, closed at the end where it can be."""

    def __init__(self, task: Task, case: TaskCase, trained: Mapping[str, FakeRun], folder: Path) -> None:
        self._predictor = _resolve(task.predictor)(_model(task, case, trained, folder), _options(task, case))

    def __enter__(self) -> Any:
        return self._predictor

    def __exit__(self, *_: object) -> None:
        close = getattr(self._predictor, "close", None)
        if callable(close):
            close()


def _presets(tables: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By name, in either spelling: one table per name, or an array of tables `preset` with names inside."""
    rows = tables.get("preset", tables.get("presets", tables))
    return {row["name"]: row for row in rows} if isinstance(rows, list) else dict(rows)


def _tasks(owner: Any, wanted: Callable[[Task], bool]) -> Iterator[Task]:
    return (task for task in owner.capability.tasks if wanted(task))


def _schemas(task: Task) -> list[type[BaseModel]]:
    optional = (task.options, task.train_params, task.evaluate_params, task.quantise_params, task.export_params)
    return [task.input, task.output, *(schema for schema in optional if schema is not None)]


def _resolve(path: str | None) -> Any:
    assert path is not None
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _check_samples(task: Task, run: FakeRun, metrics: Mapping[str, float]) -> None:
    """Where an evaluator reports its samples, their weighted means are the metrics that it returned."""
    for saved in run.saved:
        if saved.kind != "report" or saved.path.name != SAMPLES_FILE:
            continue
        lines = saved.path.read_text(encoding="utf-8").splitlines()
        samples = [SampleResult.model_validate_json(line) for line in lines]
        assert len({each.sample for each in samples}) == len(samples), f"{task.name}: two samples have the same name"
        for name in {name for each in samples for name in each.values}:
            pairs = [each.values[name] for each in samples if name in each.values]
            mean = sum(value * weight for value, weight in pairs) / sum(weight for _, weight in pairs)
            assert metrics[name] == pytest.approx(mean, rel=1e-6, abs=1e-9), f"{task.name}: {name} is not the samples' mean"


def _params(task: Task, case: TaskCase) -> BaseModel:
    assert task.train_params is not None
    return task.train_params.model_validate(dict(case.train_params))


def _options(task: Task, case: TaskCase) -> BaseModel | None:
    return None if task.options is None else task.options.model_validate(dict(case.options))


def _request(task: Task, case: TaskCase) -> BaseModel:
    return task.input.model_validate(case.request)


def _train(
    task: Task,
    case: TaskCase,
    root: Path,
    datasets: Mapping[str, Path],
    models: Mapping[str, Path],
    *,
    resume_from: Path | None = None,
) -> FakeRun:
    run = FakeRun(root, datasets=datasets, models=models, resume_from=resume_from)
    _resolve(task.trainer)(run, _params(task, case))
    return run


def _model(task: Task, case: TaskCase, trained: Mapping[str, FakeRun], folder: Path) -> LocalModel | None:
    """The model to answer with: the trained one, else the one that the case brings, else none."""
    if task.name in trained:
        return next(saved for saved in trained[task.name].saved if saved.kind == "model").model()
    brought = case.models(folder / f"models-of-{task.name}")
    return FakeRun(folder / "bringing", models=brought).model("model") if "model" in brought else None


def _check_output(task: Task, answer: Any) -> None:
    output = task.output.model_validate(answer.model_dump() if isinstance(answer, BaseModel) else answer)
    json.loads(output.model_dump_json())


async def _awaited(answer: Any) -> Any:
    return await answer


async def _try_stream(task: Task, predictor: Any, case: TaskCase) -> None:
    count = 0
    async for output in _steps(predictor.stream(_request(task, case))):
        _check_output(task, output)
        count += 1
    assert count, f"{task.name}: the stream was empty"
    stream = predictor.stream(_request(task, case))
    close = getattr(stream, "aclose", None) or getattr(stream, "close", None)
    assert callable(close), f"{task.name}: a stream must have aclose or close, or it cannot be stopped"
    first = await anext(stream) if hasattr(stream, "__anext__") else next(stream)
    _check_output(task, first)
    closed = close()
    if inspect.isawaitable(closed):
        await closed
    rest = [output async for output in _steps(stream)]
    assert not rest, f"{task.name}: the stream gave {len(rest)} more outputs after it was closed"


async def _steps(stream: Any) -> Any:
    if hasattr(stream, "__anext__"):
        async for output in stream:
            yield output
    else:
        for output in stream:
            yield output
