"""A run without a kernel: the same door, its inputs given as folders, everything that passes through it recorded."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelworks.contract.deployment import Deployment
from modelworks.contract.errors import Cancelled, InvalidRequest, NotFound
from modelworks.contract.run import LocalDataset, LocalModel, World


@dataclass(frozen=True, slots=True)
class LogPoint:
    """One call of `Run.log`."""

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class ProgressPoint:
    """One call of `Run.progress`."""

    done: float
    total: float
    what: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One call of `Run.checkpoint`: a copy of the folder, made at once, and the last step logged before it (None: none)."""

    path: Path
    step: int | None


@dataclass(frozen=True, slots=True)
class Saved:
    """One call of `Run.save`: a copy of the file or folder, its kind and its metadata."""

    path: Path
    kind: str
    metadata: dict[str, Any] = field(default_factory=dict)

    def model(self, ref: str = "saved@v1") -> LocalModel:
        """The result as the model that the kernel would hand to a replica or to a later run."""
        return LocalModel(
            ref=ref,
            version_id="mdl_" + digest_of(self.path)[7:33].upper(),
            path=self.path,
            digest=digest_of(self.path),
            task=self.metadata.get("task"),
            level=self.metadata.get("level"),
            licence=self.metadata.get("licence"),
            metadata=dict(self.metadata),
        )


class FakeRun:
    """Implements `modelworks.contract.run.Run` on a folder, in the caller's process.

    Args:
        root: an existing or new folder for the work folder and for copies of checkpoints and results.
        models: folder (or a `LocalModel`, e.g. `saved.model()`) by role.
        datasets: folder (or a `LocalDataset`) by role.
        deployments: by role, anything that has the name and the `complete` of `contract.deployment.Deployment`.
        seed: what `run.seed` says.
        resume_from: a folder given to `checkpoint` before, e.g. `first.checkpoints[-1].path`; makes this the second attempt.
        world: the processes that share the run; the caller sets torch's process group up and gives each its own `root`.
        cancel_at: `raise_if_cancelled` raises once a step of at least this number has been logged; 0 raises at once.

    Like the kernel's run it copies what is checkpointed or saved at the time of the call, so a trainer may go on writing
    there, and refuses what the kernel would refuse: a missing path, a number that is not finite JSON, a step that goes back.
    """

    def __init__(
        self,
        root: Path,
        *,
        models: Mapping[str, Path | LocalModel] | None = None,
        datasets: Mapping[str, Path | LocalDataset] | None = None,
        deployments: Mapping[str, Deployment] | None = None,
        seed: int = 0,
        resume_from: Path | None = None,
        cancel_at: int | None = None,
        world: World | None = None,
    ) -> None:
        self._world = world or World()
        self._models = {role: _local_model(role, given) for role, given in (models or {}).items()}
        self._datasets = {role: _local_dataset(role, given) for role, given in (datasets or {}).items()}
        self._deployments = dict(deployments or {})
        self._seed = seed
        self._attempt = 1 if resume_from is None else 2
        self._folder = Path(root) / f"attempt-{self._attempt}"
        if self._folder.exists():
            shutil.rmtree(self._folder)
        self._workdir = self._folder / "work"
        self._workdir.mkdir(parents=True)
        self._resume_from: Path | None = None
        if resume_from is not None:
            self._resume_from = self._folder / "resume"
            shutil.copytree(resume_from, self._resume_from)
        self._cancel_at = cancel_at
        self._cancelled = cancel_at is not None and cancel_at <= 0
        self.logs: list[LogPoint] = []
        self.progress_points: list[ProgressPoint] = []
        self.checkpoints: list[Checkpoint] = []
        self.saved: list[Saved] = []
        #: Roles that were asked for, in order: what the kernel would record as "used".
        self.used: list[str] = []

    @property
    def id(self) -> str:
        return "run_00000000000000000000000FAKE"

    @property
    def seed(self) -> int:
        return self._seed

    @property
    def workdir(self) -> Path:
        return self._workdir

    @property
    def attempt(self) -> int:
        return self._attempt

    @property
    def world(self) -> World:
        return self._world

    @property
    def resume_from(self) -> Path | None:
        return self._resume_from

    def model(self, role: str = "base") -> LocalModel:
        """The model given under that role; raises NotFound where there is none."""
        if role not in self._models:
            raise _no_input("model", role, self._models)
        self._use(role)
        return self._models[role]

    def dataset(self, role: str = "train") -> LocalDataset:
        """The data set given under that role; raises NotFound where there is none."""
        if role not in self._datasets:
            raise _no_input("data set", role, self._datasets)
        self._use(role)
        return self._datasets[role]

    def deployment(self, role: str = "teacher") -> Deployment:
        """The deployment given under that role; raises NotFound where there is none."""
        if role not in self._deployments:
            raise _no_input("deployment", role, self._deployments)
        self._use(role)
        return self._deployments[role]

    def has_input(self, role: str) -> bool:
        return role in self._models or role in self._datasets or role in self._deployments

    def log(self, step: int, **metrics: float) -> None:
        if self.logs and step < self.logs[-1].step:
            raise InvalidRequest(f"Step {step} was logged after step {self.logs[-1].step}.", hint="Log rising step numbers.")
        for name, value in metrics.items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise InvalidRequest(
                    f"The metric {name!r} of step {step} is {value!r}, not a number.", hint="Log plain floats."
                )
            if not math.isfinite(value):
                raise InvalidRequest(f"The metric {name!r} of step {step} is {value}.", hint="Log finite numbers.")
        self.logs.append(LogPoint(step, {name: float(value) for name, value in metrics.items()}))
        if self._cancel_at is not None and step >= self._cancel_at:
            self._cancelled = True

    def progress(self, done: float, total: float, what: str) -> None:
        if not (math.isfinite(done) and math.isfinite(total)) or done < 0 or total < 0:
            raise InvalidRequest(f"A progress of {done} out of {total} {what} makes no sense.", hint="Give numbers from 0 up.")
        self.progress_points.append(ProgressPoint(done, total, what))

    def checkpoint(self, path: Path) -> None:
        if not self._world.is_first:
            return
        copy = self._folder / "checkpoints" / str(len(self.checkpoints) + 1)
        _copy(path, copy, what="checkpoint")
        self.checkpoints.append(Checkpoint(copy, self.logs[-1].step if self.logs else None))

    def save(self, path: Path, *, kind: str, metadata: Mapping[str, Any] | None = None) -> None:
        if not self._world.is_first:
            return
        copy = self._folder / "saved" / str(len(self.saved) + 1)
        if path.is_file():
            copy.mkdir(parents=True)
            copy = copy / path.name
        _copy(path, copy, what="result")
        self.saved.append(Saved(copy, kind, dict(metadata or {})))

    def raise_if_cancelled(self) -> None:
        if self._cancelled:
            raise Cancelled("The run was cancelled.", hint="Resume it to go on from the last checkpoint.")

    def cancel(self) -> None:
        """What a user's request to stop does: the next `raise_if_cancelled` raises."""
        self._cancelled = True

    def check_inputs_unchanged(self) -> None:
        """Raise InvalidRequest when code under test wrote into a model or a data set that it was given to read."""
        given: dict[str, LocalModel | LocalDataset] = {**self._models, **self._datasets}
        for role, local in given.items():
            if local.path.exists() and digest_of(local.path) != local.digest:
                raise InvalidRequest(f"The input {role!r} at {local.path} was changed.", hint="Write to run.workdir instead.")

    def _use(self, role: str) -> None:
        if role not in self.used:
            self.used.append(role)


class FakeInputs:
    """What an estimator sees (`contract.estimate.TrainingInputs`), given as folders by role."""

    def __init__(self, **folders: Path) -> None:
        self._folders = folders

    def has(self, role: str) -> bool:
        return role in self._folders

    def sizes(self, role: str) -> dict[str, int]:
        folder = self._folders[role]
        return {file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*") if file.is_file()}

    def read(self, role: str, path: str) -> bytes | None:
        file = self._folders[role] / path
        return file.read_bytes() if file.is_file() else None

    def folder(self, role: str) -> Path | None:
        return self._folders.get(role)


def digest_of(path: Path) -> str:
    """`sha256:…` over the relative paths and bytes of a file or folder, in a fixed order."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        name = file.name if file == path else file.relative_to(path).as_posix()
        digest.update(f"{len(name)}:{name}:{file.stat().st_size}:".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def _local_model(role: str, given: Path | LocalModel) -> LocalModel:
    if isinstance(given, LocalModel):
        return given
    digest = digest_of(given)
    return LocalModel(ref=f"{role}@v1", version_id="mdl_" + digest[7:33].upper(), path=given, digest=digest)


def _local_dataset(role: str, given: Path | LocalDataset) -> LocalDataset:
    if isinstance(given, LocalDataset):
        return given
    digest = digest_of(given)
    return LocalDataset(ref=f"{role}@v1", version_id="ds_" + digest[7:33].upper(), path=given, digest=digest)


def _no_input(noun: str, role: str, known: Mapping[str, object]) -> NotFound:
    return NotFound(
        f"This run has no {noun} of the role {role!r}.",
        hint=f"It has: {', '.join(sorted(known)) or 'none'}.",
        code="input_not_found",
    )


def _copy(path: Path, target: Path, *, what: str) -> None:
    if path.is_dir() and any(each.is_file() for each in path.rglob("*")):
        shutil.copytree(path, target)
    elif path.is_file():
        shutil.copyfile(path, target)
    else:
        raise InvalidRequest(f"The {what} {path} does not exist or is empty.", hint="Write it before handing it over.")
