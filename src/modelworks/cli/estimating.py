"""What a training on a data set would need: beside what is wrong with the data, `data validate --for MODEL` says that too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modelworks.cli.output import plain
from modelworks.cli.run import memory_text, time_text
from modelworks.contract.errors import InvalidRequest

#: Larger files are no configuration and no tokenizer.
_MAX_READ_BYTES = 16 << 20


class FolderInputs:
    """Implements `contract.estimate.TrainingInputs` over folders of this machine."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders

    def has(self, role: str) -> bool:
        return role in self._folders

    def sizes(self, role: str) -> Mapping[str, int]:
        top = self._folders[role]
        files = [top] if top.is_file() else [file for file in top.rglob("*") if file.is_file()]
        return {file.name if file == top else file.relative_to(top).as_posix(): file.stat().st_size for file in files}

    def read(self, role: str, path: str) -> bytes | None:
        file = self._folders[role] / path
        return file.read_bytes() if file.is_file() and file.stat().st_size <= _MAX_READ_BYTES else None

    def folder(self, role: str) -> Path | None:
        return self._folders.get(role)


def local_estimate(
    estimator: Callable[..., Any] | None, params: Any, data: Path, base: Path, cpu: float
) -> dict[str, Any] | None:
    """What the estimator of a task says of folders; None where it says nothing."""
    if estimator is None:
        return None
    found = estimator(params, FolderInputs({"train": data, "base": base}), cpu)
    return None if found is None else dict(found.model_dump(mode="json"))


def training_params(given: dict[str, Any], epochs: int | None) -> dict[str, Any]:
    """The parameters of the training: those given, and as many epochs as the data are checked for."""
    return given if epochs is None or "epochs" in given or "steps" in given else {**given, "epochs": epochs}


def rows_of(base: str, params: Mapping[str, Any], estimate: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """The lines of a table."""
    how = ", ".join(f"{plain(str(name))} {plain(str(value))}" for name, value in params.items()) or "the task's own parameters"
    if estimate is None:
        return [("Training", f"{plain(base)}, {how}: nothing is known before it runs")]
    return [
        ("Training", f"{plain(base)}, {how}"),
        ("Memory", str(memory_text(dict(estimate)))),
        ("Time", time_text(dict(estimate)) or "not known before it runs"),
    ]


def folder_of_model(given: str, what: str) -> Path:
    """A folder of this machine; raises InvalidRequest where there is none, since nothing is sent."""
    path = Path(given).expanduser()
    if not path.is_dir():
        raise InvalidRequest(
            f"There is no folder {given!r}.",
            hint=f"For a local folder, name the folder of a model with {what}; or add the data first: modelworks data add.",
        )
    return path
