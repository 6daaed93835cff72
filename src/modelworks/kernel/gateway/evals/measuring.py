"""What an eval run measured, told to the catalog: `compare` sees it beside what runs of a capability measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from modelworks.contract.errors import NotFound
from modelworks.contract.evaluation import SAMPLES_FILE, SampleResult
from modelworks.contract.media import File
from modelworks.kernel.base.database import Database
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.gateway.evals.items import DONE
from modelworks.kernel.gateway.files.service import FileService
from modelworks.kernel.gateway.store import EvalItemRow, EvalRow, EvalRunRow

#: The part of the items that pass every criterion.
PASS_RATE = "pass_rate"  # noqa: S105 - a metric


class Measuring:
    """Tells the catalog of runs in which one version of a model answered the items of a file."""

    def __init__(self, db: Database, catalog: CatalogService, files: FileService) -> None:
        self._db = db
        self._catalog = catalog
        self._files = files

    def record(self, run_id: str) -> str | None:
        """Keep the run's result as an evaluation; returns its id, or None where it cannot be one.

        It can be none where the items stood in the request or their file is deleted, where the model is on another server,
        and where it was replaced by another version in the middle.
        """
        with self._db.reading() as session:
            run = session.get(EvalRunRow, run_id)
            row = None if run is None else session.get(EvalRow, run.eval_id)
            if run is None or row is None or run.model is None or run.data_source["source"].get("type") != "file_id":
                return None
            versions = [*session.scalars(select(EvalItemRow.version_id).where(EvalItemRow.run_id == run_id).distinct())]
            names = _names([criterion["name"] for criterion in row.testing_criteria])
            samples = [*_samples(session, run, names)]
        # An item whose answer failed has none: the version of the others counts.
        known = [version for version in versions if version is not None]
        if len(known) != 1 or not samples:
            return None
        report = "".join(sample.model_dump_json() + "\n" for sample in samples)
        # Written before the transaction: the storage may take its time.
        blob = self._files.blobs.put(report.encode())
        with self._db.transaction() as session:
            try:
                version = self._catalog.get_version(session, run.project_id, known[0])
                data = self._files.dataset(session, run.project_id, run.data_source["source"]["id"])
            except NotFound:
                return None
            # As a version the report is kept from the collection of garbage, and its lineage says what it speaks of.
            self._catalog.register(
                session,
                run.project_id,
                kind="report",
                name=f"evals/{run.id}",
                files=[File(path=SAMPLES_FILE, digest=blob.digest, num_bytes=blob.num_bytes)],
                source=f"eval-run:{run.id}",
                inputs=[(version.id, "model"), (data.id, "test")],
            )
            return self._catalog.evaluations.record(
                session,
                run.project_id,
                run_id=run.id,
                capability=None,
                task=version.task or "",
                version_id=version.id,
                dataset_version_id=data.id,
                # What must be the same for two models to be comparable.
                params={
                    "eval_id": run.eval_id,
                    "input_messages": run.data_source["input_messages"],
                    "sampling_params": run.data_source.get("sampling_params") or {},
                },
                metrics=_means(samples),
                report_digest=blob.digest,
            ).id


def _samples(session: Session, run: EvalRunRow, names: Sequence[str]) -> Iterator[SampleResult]:
    file_id = run.data_source["source"]["id"]
    query = select(EvalItemRow).where(EvalItemRow.run_id == run.id, EvalItemRow.state.in_(DONE)).order_by(EvalItemRow.seq)
    for row in session.scalars(query):
        values = {
            name: (float(result["score"]), 1.0)
            for name, result in zip(names, row.results, strict=False)
            if result.get("error") is None
        }
        sample: Mapping[str, Any] = row.sample or {}
        yield SampleResult(
            sample=f"{file_id}.jsonl:{row.seq}",
            values={PASS_RATE: (1.0 if row.state == "pass" else 0.0, 1.0), **values},
            detail={"answer": sample.get("output_text"), "status": row.state},
        )


def _means(samples: Sequence[SampleResult]) -> dict[str, float]:
    sums: dict[str, list[float]] = {}
    for sample in samples:
        for name, (value, _) in sample.values.items():
            sums.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in sums.items()}


def _names(names: Sequence[str]) -> list[str]:
    """The criteria's names, each once: criteria may be called alike."""
    found: list[str] = []
    for name in names:
        free, number = name, 2
        while free in found or free == PASS_RATE:
            free, number = f"{name} ({number})", number + 1
        found.append(free)
    return found
