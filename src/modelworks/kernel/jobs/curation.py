"""Runs of the verbs validate and clean: a data set goes through the functions that its task names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from modelworks.contract.data import CleanReport, DataReport, OnProgress
from modelworks.contract.errors import InvalidData
from modelworks.contract.passages import DOCUMENTS_FILE
from modelworks.contract.run import Run

#: The part that bears the result's name; others have their own behind it (corpus-validation).
MAIN_PART = "train"


def validate_data(validator: Callable[..., Any], params: BaseModel | None, run: Run) -> dict[str, Any]:
    """Check the data set of the role "data", counted with the tokenizer of the role "model" where there is one."""
    data = run.dataset("data").path
    model = run.model("model").path if run.has_input("model") else None
    report = validator(data, params, model=model, on_progress=_teller(run))
    return DataReport.model_validate(report).model_dump(mode="json")


def clean_data(cleaner: Callable[..., Any], params: BaseModel | None, run: Run, *, dry_run: bool) -> dict[str, Any]:
    """Clean the data set of the role "data" against that of the role "test", and save what is left as new versions.

    Raises:
        InvalidData: nothing is left.
    """
    data = run.dataset("data")
    test = run.dataset("test").path if run.has_input("test") else None
    into = None if dry_run else run.workdir / "clean"
    report = CleanReport.model_validate(cleaner(data.path, params, test=test, into=into, on_progress=_teller(run)))
    if into is not None:
        _save(into, data.licence, report, run)
    return report.model_dump(mode="json")


def _save(into: Path, licence: str | None, report: CleanReport, run: Run) -> None:
    # A list of documents is a result, also where nothing of them is left.
    parts = sorted(part for part, count in report.kept.items() if count or (into / part / DOCUMENTS_FILE).is_file())
    if not parts:
        raise InvalidData(
            "Cleaning left nothing of the data set.",
            hint="Look at what goes and why with a run that has no output_name, then relax the parameters.",
        )
    for part in parts:
        metadata: dict[str, Any] = {"num_samples": report.kept[part], "removed": report.removed}
        if licence is not None:
            metadata["licence"] = licence
        if part != MAIN_PART:
            metadata["part"] = part
        run.save(into / part, kind="dataset", metadata=metadata)


def _teller(run: Run) -> OnProgress:
    def tell(done: float, total: float) -> None:
        run.raise_if_cancelled()
        run.progress(done, total, "bytes")

    return tell
