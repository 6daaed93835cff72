"""The models that a fine-tuning job leaves: its result and those of the epochs before, which answer once they are asked.

Their names follow from the job's and the step (`ft:…:ckpt-step-40`), so nothing is kept beside the versions in the catalog.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from modelworks.contract.errors import NotFound
from modelworks.kernel.base.database import Database
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.catalog.schemas import Version
from modelworks.kernel.gateway.files.service import Listing, seconds
from modelworks.kernel.gateway.store import FineTuningJobRow
from modelworks.kernel.jobs import JobsService
from modelworks.kernel.jobs.schemas import MetricPoint
from modelworks.kernel.serving.schemas import AdapterCreate, DeploymentSpec
from modelworks.kernel.serving.service import ServingService

#: Epochs before the last whose models a job keeps: with the result, those of the last three.
KEPT_EPOCHS: Final = 2
_MARK: Final = "ckpt-step-"
#: Of a name, for what follows the result's.
MARK_ROOM: Final = len(f":{_MARK}") + 10
_NAME = re.compile(rf"(?P<result>.+):{_MARK}(?P<step>\d{{1,10}})")

#: The names of OpenAI's curves for those of ours.
METRIC_NAMES: Final = {
    "loss": "train_loss",
    "accuracy": "train_mean_token_accuracy",
    "reward": "train_reward_mean",
    "validation_loss": "valid_loss",
    "validation_reward": "valid_reward_mean",
    "validation_accuracy": "valid_mean_token_accuracy",
}


@dataclass(frozen=True, slots=True)
class TunedCheckpoint:
    """A model that can be asked by its name."""

    name: str
    step: int
    version_id: str


class TunedCheckpoints:
    """Finds them, lists them, and lets them answer."""

    def __init__(self, db: Database, jobs: JobsService, catalog: CatalogService, serving: ServingService) -> None:
        self._db = db
        self._jobs = jobs
        self._catalog = catalog
        self._serving = serving
        self._one_at_a_time = asyncio.Lock()

    def of(self, session: Session, row: FineTuningJobRow) -> list[TunedCheckpoint]:
        """What a job has left before its result, newest first, without what was removed."""
        if row.state != "succeeded" or row.run_id is None:
            return []
        found = []
        for made in self._jobs.get(session, row.project_id, row.run_id).outputs:
            marked = re.fullmatch(rf".*-{_MARK}(\d{{1,10}})", made.name)
            if made.kind != "model" or marked is None or made.version_id == row.output_version_id:
                continue
            if self._catalog.get_version(session, row.project_id, made.version_id).state != "removed":
                step = int(marked[1])
                found.append(TunedCheckpoint(f"{row.fine_tuned_model}:{_MARK}{step}", step, made.version_id))
        return sorted(found, key=lambda each: -each.step)

    def find(self, session: Session, project_id: str, name: str) -> TunedCheckpoint | None:
        """The checkpoint of that name; None where a job of the project has left none."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        query = select(FineTuningJobRow).where(
            FineTuningJobRow.project_id == project_id, FineTuningJobRow.fine_tuned_model == match["result"]
        )
        row = session.scalar(query)
        step = int(match["step"])
        return None if row is None else next((each for each in self.of(session, row) if each.step == step), None)

    def list(self, session: Session, row: FineTuningJobRow, *, after: str | None, limit: int) -> Listing:
        """The models of a job that has succeeded, in OpenAI's form, newest first."""
        if row.state != "succeeded" or row.run_id is None or row.finished_at is None or row.output_version_id is None:
            return Listing([], False)
        points = self._jobs.metrics(session, row.project_id, row.run_id)
        last = max((point.step for point in points), default=0)
        job = row.id.removeprefix("ftjob_")
        models = [TunedCheckpoint(str(row.fine_tuned_model), last, row.output_version_id), *self.of(session, row)]
        shown = [
            {
                # The result's has no step: it is what the job is for, wherever it stopped.
                "id": f"ftckpt_{job}" if number == 0 else f"ftckpt_{job}_{model.step}",
                "object": "fine_tuning.job.checkpoint",
                "created_at": seconds(
                    row.finished_at
                    if number == 0
                    else self._catalog.get_version(session, row.project_id, model.version_id).created_at
                ),
                "fine_tuned_model_checkpoint": model.name,
                "fine_tuning_job_id": row.id,
                "metrics": _metrics(points, model.step),
                "step_number": model.step,
            }
            for number, model in enumerate(models)
        ]
        if after is not None:
            places = [place for place, each in enumerate(shown) if each["id"] == after]
            shown = shown[places[0] + 1 :] if places else []
        return Listing(shown[:limit], len(shown) > limit)

    def answer_with(self, session: Session, project_id: str, version: Version, name: str) -> None:
        """Let a version answer under a name: beside its base where that is deployed and takes adapters, else by itself.

        Raises:
            ModelworksError: it cannot be deployed.
        """
        host = self._serving.adapters.host_of(session, project_id, version.id)
        if host is None:
            self._serving.apply(session, project_id, DeploymentSpec(name=name, model=version.ref))
        else:
            self._serving.adapters.add(session, project_id, AdapterCreate(deployment=host, model=version.ref, name=name))

    async def when_asked(self, project_id: str, name: str) -> bool:
        """Let a checkpoint answer that somebody asks for the first time; whether there is one of that name.

        Raises:
            ModelworksError: it cannot be deployed.
        """
        if _NAME.fullmatch(name) is None:
            return False
        async with self._one_at_a_time:
            return await run_in_threadpool(self._begin, project_id, name)

    def _begin(self, project_id: str, name: str) -> bool:
        with self._db.transaction() as session:
            found = self.find(session, project_id, name)
            if found is None:
                return False
            if self._serving.adapters.is_taken(session, project_id, name) or self._is_deployed(session, project_id, name):
                return True
            version = self._catalog.get_version(session, project_id, found.version_id)
            self.answer_with(session, project_id, version, name)
            return True

    def remove(self, session: Session, project_id: str, checkpoint: TunedCheckpoint) -> None:
        """Let a checkpoint answer no more, and remove its version: nobody asks for it by another name.

        Raises:
            Conflict: another model was made from it (`in_use`).
        """
        if self._serving.adapters.is_taken(session, project_id, checkpoint.name):
            self._serving.adapters.remove(session, project_id, checkpoint.name)
        elif self._is_deployed(session, project_id, checkpoint.name):
            self._serving.remove(session, project_id, checkpoint.name)
        self._catalog.remove(session, project_id, checkpoint.version_id)

    def _is_deployed(self, session: Session, project_id: str, name: str) -> bool:
        try:
            return self._serving.get(session, project_id, name).desired != "removed"
        except NotFound:
            return False


def _metrics(points: Sequence[MetricPoint], step: int) -> dict[str, Any]:
    """The last point of each of OpenAI's curves up to a step."""
    found: dict[str, Any] = {"step": step}
    for point in points:
        if point.step <= step and point.name in METRIC_NAMES:
            found[METRIC_NAMES[point.name]] = point.value
    if "valid_loss" in found:
        # Measured on all of the held-out data, not on one batch of it.
        found["full_valid_loss"] = found["valid_loss"]
    if "valid_mean_token_accuracy" in found:
        found["full_valid_mean_token_accuracy"] = found["valid_mean_token_accuracy"]
    return found
