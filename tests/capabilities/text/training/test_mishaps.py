"""Trainings that cannot go on: numbers that are none, and a disk that is full. What was stored before stays usable."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.capabilities.text.training.conftest import QUICK, TALKS, tuned, write_lines

from modelworks.capabilities.text.schemas import LoraParams, PreferenceParams, ReinforcementParams, SupervisedParams
from modelworks.capabilities.text.training import batches, disk, loop, preference
from modelworks.contract import LocalModel
from modelworks.contract.errors import InvalidRequest, StorageFull
from modelworks.testing.fake_run import FakeRun, digest_of

PARAMS = SupervisedParams(**QUICK, steps=6, batch_size=2, packing=False, learning_rate=1e-3, checkpoint_every=2)


@contextmanager
def small_files(num_bytes: int) -> Iterator[None]:
    """No file may grow past this size, as on a disk that is full in the middle of one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


class SmallDisk(FakeRun):
    """Has no room for files of that size from a step on."""

    def __init__(self, root: Path, *, full_from: int, **given: Any) -> None:
        super().__init__(root, **given)
        self._full_from = full_from
        self.limit: Any = None

    def log(self, step: int, **metrics: float) -> None:
        super().log(step, **metrics)
        if step == self._full_from and self.limit is None:
            self.limit = small_files(64 << 10)
            self.limit.__enter__()


def test_a_disk_that_is_full_in_a_checkpoint_leaves_the_one_before(tmp_path: Path, model: LocalModel, talks: Path) -> None:
    given: dict[str, Any] = {"models": {"base": model}, "datasets": {"train": talks}, "seed": 2}
    run = SmallDisk(tmp_path / "run", full_from=4, **given)
    try:
        with pytest.raises(StorageFull) as caught:
            tuned(run, PARAMS)
    finally:
        run.limit.__exit__(None, None, None)
    assert caught.value.message.startswith("The disk is full while writing the checkpoint of step 4: it needs about 1.")
    assert "are free" in caught.value.message
    assert caught.value.hint == "Free some space and resume the run: it goes on from the checkpoint of step 2."
    assert [each.step for each in run.checkpoints] == [2]
    assert not (run.workdir / "checkpoint").exists()
    assert not run.saved
    resumed = tuned(FakeRun(tmp_path / "resumed", **given, resume_from=run.checkpoints[0].path), PARAMS)
    unbroken = tuned(FakeRun(tmp_path / "unbroken", **given), PARAMS)
    assert digest_of(resumed.saved[0].path) == digest_of(unbroken.saved[0].path)


@pytest.mark.parametrize("method", [SupervisedParams, LoraParams])
def test_a_disk_that_is_full_in_the_result_says_what_it_needs(
    tmp_path: Path, model: LocalModel, talks: Path, method: type[SupervisedParams]
) -> None:
    run = SmallDisk(tmp_path, models={"base": model}, datasets={"train": talks}, full_from=2)
    try:
        with pytest.raises(StorageFull, match=r"while writing the tuned model: it needs about 0\.\d MiB"):
            tuned(run, method(**QUICK, steps=2, batch_size=2))
    finally:
        run.limit.__exit__(None, None, None)
    assert not run.saved
    assert not (run.workdir / "model").exists()


def test_other_errors_are_passed_on(tmp_path: Path) -> None:
    for error in (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), disk.SafetensorError("invalid header")):
        with pytest.raises(type(error)), disk.enough_room(tmp_path / "x", "it", 1, "Try."):
            raise error
    for code in (errno.ENOSPC, errno.EDQUOT):
        with (
            pytest.raises(StorageFull, match=r"needs about 2\.9 GiB"),
            disk.enough_room(tmp_path / "x", "it", 3000 << 20, ""),
        ):
            raise disk.SafetensorError(f"Error while serializing: I/O error: full (os error {code})")


@pytest.mark.parametrize("method", ["supervised", "preference", "reinforcement"])
def test_a_step_whose_loss_is_no_number_is_named_with_its_records(
    tmp_path: Path, model: LocalModel, talks: Path, preferences: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The fourth step reads something that breaks it; nothing of it gets into the weights that are kept."""
    calls: list[int] = []
    honest = batches.weighted_losses
    usual: dict[str, Any] = {**QUICK, "batch_size": 2, "checkpoint_every": 2, "steps": 6}

    def broken(*arguments: Any) -> torch.Tensor:
        found: torch.Tensor = honest(*arguments)
        if torch.is_grad_enabled():
            calls.append(1)
        return found * float("nan") if len(calls) == 4 and torch.is_grad_enabled() else found

    monkeypatch.setattr(batches, "weighted_losses", broken)
    monkeypatch.setattr(preference, "weighted_losses", broken)
    params: Any
    datasets = {"train": preferences if method == "preference" else talks}
    if method == "supervised":
        params = SupervisedParams(**usual, packing=False)
    elif method == "preference":
        params = PreferenceParams(**usual)
    else:
        step = loop.TrainingLoop._check_finite
        monkeypatch.setattr(
            loop.TrainingLoop,
            "_check_finite",
            lambda self, what, value: step(self, what, float("nan") if self._at.step == 3 else value),
        )
        grader = {"type": "string_check", "name": "n", "input": "{{sample.output_text}}", "reference": "x", "operation": "like"}
        params = ReinforcementParams(**usual, grader=grader, group_size=2, max_answer_tokens=4)  # type: ignore[arg-type]
        datasets = {"train": tmp_path / "prompts"}
        write_lines(datasets["train"], [{"messages": [{"role": "user", "content": question}]} for question, _ in TALKS])
    run = FakeRun(tmp_path / "run", models={"base": model}, datasets=datasets, seed=1)
    pattern = r"diverged: the loss is nan at step 4, with a learning rate of [\d.e-]+, on samples\.jsonl, line \d"
    with pytest.raises(InvalidRequest, match=pattern) as caught:
        tuned(run, params)
    assert "The weights of step 2 are kept in a checkpoint." in caught.value.message
    assert caught.value.hint is not None
    assert "look at samples.jsonl, line " in caught.value.hint
    assert [each.step for each in run.checkpoints] == [2]
    assert not run.saved
