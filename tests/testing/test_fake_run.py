"""The fake run keeps the promises of the real one."""

from pathlib import Path

import pytest

from modelworks.contract import LocalModel, Run
from modelworks.contract.errors import Cancelled, InvalidRequest, NotFound
from modelworks.testing import FakeRun


def folder(path: Path, **files: str) -> Path:
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def test_it_is_a_run(tmp_path: Path) -> None:
    run = FakeRun(tmp_path)
    assert isinstance(run, Run)
    assert run.workdir.is_dir()
    assert not list(run.workdir.iterdir())
    assert (run.attempt, run.resume_from, run.seed) == (1, None, 0)


def test_inputs_by_role_are_recorded_as_used_and_unknown_roles_name_the_known_ones(tmp_path: Path) -> None:
    run = FakeRun(
        tmp_path / "run", models={"base": folder(tmp_path / "m", a="1")}, datasets={"train": folder(tmp_path / "d", b="2")}
    )
    assert run.dataset().path == tmp_path / "d"
    assert run.model().version_id.startswith("mdl_")
    assert run.used == ["train", "base"]
    assert run.has_input("train")
    assert not run.has_input("test")
    with pytest.raises(NotFound, match="teacher") as caught:
        run.model("teacher")
    assert "base" in str(caught.value.hint)
    with pytest.raises(NotFound):
        run.dataset("base")


def test_checkpoints_and_results_are_copies_of_the_moment(tmp_path: Path) -> None:
    run = FakeRun(tmp_path)
    work = folder(run.workdir / "state", step="1")
    run.log(1, loss=3)
    run.checkpoint(work)
    (work / "step").write_text("2")
    run.save(work, kind="model", metadata={"task": "text-generation", "level": "L0", "metrics": {"loss": 1.0}})
    run.save(work / "step", kind="report")
    (work / "step").write_text("3")
    assert (run.checkpoints[0].path / "step").read_text() == "1"
    assert run.checkpoints[0].step == 1
    assert (run.saved[0].path / "step").read_text() == "2"
    assert run.saved[1].path.read_text() == "2"
    model = run.saved[0].model()
    assert isinstance(model, LocalModel)
    assert (model.task, model.level, model.metadata["metrics"]) == ("text-generation", "L0", {"loss": 1.0})


def test_it_cancels_after_the_step_and_resumes_from_a_copy_of_the_checkpoint(tmp_path: Path) -> None:
    first = FakeRun(tmp_path, cancel_at=2)
    first.log(1, loss=2.0)
    first.raise_if_cancelled()
    first.checkpoint(folder(first.workdir / "state", step="1"))
    first.log(2, loss=1.0)
    with pytest.raises(Cancelled):
        first.raise_if_cancelled()
    second = FakeRun(tmp_path, resume_from=first.checkpoints[-1].path)
    assert second.attempt == 2
    assert second.resume_from is not None
    (second.resume_from / "step").write_text("changed")
    assert (first.checkpoints[-1].path / "step").read_text() == "1"


def test_a_request_to_cancel_at_any_time(tmp_path: Path) -> None:
    run = FakeRun(tmp_path)
    run.raise_if_cancelled()
    run.cancel()
    with pytest.raises(Cancelled):
        run.raise_if_cancelled()
    with pytest.raises(Cancelled):
        FakeRun(tmp_path / "other", cancel_at=0).raise_if_cancelled()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.5", None, True])
def test_curves_take_finite_numbers_only(tmp_path: Path, value: float) -> None:
    with pytest.raises(InvalidRequest, match="loss"):
        FakeRun(tmp_path).log(1, loss=value)


def test_steps_do_not_go_back_and_paths_must_exist(tmp_path: Path) -> None:
    run = FakeRun(tmp_path)
    run.log(5, loss=1.0)
    with pytest.raises(InvalidRequest, match="Step 4"):
        run.log(4, loss=1.0)
    with pytest.raises(InvalidRequest, match="does not exist"):
        run.save(run.workdir / "nothing", kind="model")
    with pytest.raises(InvalidRequest, match="progress"):
        run.progress(-1, 10, "steps")


def test_writing_into_an_input_is_found(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run", datasets={"train": folder(tmp_path / "d", a="1")})
    run.check_inputs_unchanged()
    (run.dataset().path / "cache").write_text("x")
    with pytest.raises(InvalidRequest, match="train"):
        run.check_inputs_unchanged()
