"""Which adapters of a space's model are trained, and from where: one for each shard of its documents.

Method: Bourtoule et al. 2021, "Machine Unlearning" (SISA): a document belongs to one shard, by its id alone, and its samples to
that shard's adapter alone. So what goes, or changes, touches one adapter; the others are kept as they are, to the byte. What is
served is the mean of their changes to the weights. A space with one shard has one adapter, which is what is served.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from modelworks.contract.errors import NotFound
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.catalog.schemas import Comparison, Version
from modelworks.kernel.dataspace import DataspaceService
from modelworks.kernel.dataspace.learning import terms_of
from modelworks.kernel.dataspace.schemas import MOST_SHARDS, LearningResult, LearningSettings, LearningShard
from modelworks.kernel.dataspace.store import SpaceLearningRow, SpaceRow
from modelworks.kernel.gateway.generation.language import LANGUAGE_TASK
from modelworks.kernel.jobs.schemas import JobSpec

#: Documents of a shard at least, and shards at most, where the settings do not say how many there are.
_DOCUMENTS, _MOST_UNASKED = 500, 8
#: Passes over the samples, and how many of them make a step, where the budget allows.
_EPOCHS, _BATCH = 3, 4
_REPLAY: Final = 0.5
_SETS: Final = tuple(f"samples-shard-{number}{part}" for number in range(1, MOST_SHARDS + 1) for part in ("", "-new"))
#: What learning makes in the catalog, by kind: what people said, samples in all their parts, and adapters.
SAMPLE_SETS: Final = ("samples", "samples-test", "samples-new", "corrections", *_SETS)
MODELS: Final = ("model", *(f"shard-{number}" for number in range(1, MOST_SHARDS + 1)))


def number_of(session: Session, spaces: DataspaceService, row: SpaceRow, terms: LearningSettings) -> int:
    """Into how many shards a space's documents are divided now: what is set, else a power of two by their number.

    Another number trains every shard anew, so that it stays until the space has twice, or half, as many documents.
    """
    if terms.shards is not None:
        return terms.shards
    fit = max(1, spaces.learnings.num_documents(session, row.id) // _DOCUMENTS)
    wanted = min(_MOST_UNASKED, 1 << (fit.bit_length() - 1))
    last = spaces.learnings.latest(session, row.id, "succeeded")
    before = wanted if last is None else number_in(last)
    return before if before in (wanted, 2 * wanted) else wanted


def planned(
    session: Session,
    spaces: DataspaceService,
    catalog: CatalogService,
    row: SpaceRow,
    learning: SpaceLearningRow,
    made: Mapping[str, str],
) -> list[LearningShard]:
    """What becomes of each shard that has samples.

    Args:
        made: ids of the data sets of samples, by name.
    """
    numbers: Sequence[int] = learning.counts.get("shards") or [int(learning.counts.get("num_samples", 0))]
    fresh: Sequence[int] = learning.counts.get("fresh") or [0] * len(numbers)
    live = answering(session, spaces, row, learning)
    found = []
    for number, (num_samples, num_fresh) in enumerate(zip(numbers, fresh, strict=True), 1):
        name = f"{row.catalog_name}/samples" + ("" if len(numbers) == 1 else f"-shard-{number}")
        if name not in made:
            continue  # nothing was asked about its documents
        samples = catalog.get_version(session, row.project_id, made[name])
        shard = LearningShard(
            number=number,
            way="anew",
            samples_version_id=samples.id,
            key=_key(learning, samples.digest, len(numbers)),
            num_samples=num_samples,
        )
        if len(numbers) > 1 and (same := _same(session, catalog, learning, shard.key)) is not None:
            shard.way, shard.from_version_id, shard.adapter_version_id = "kept", same, same
        elif num_fresh and f"{name}-new" in made:
            start = None if live is None else _start(session, catalog, learning, live, number, len(numbers), samples)
            if start is not None:
                shard.way, shard.from_version_id, shard.num_fresh = "continued", start, num_fresh
                shard.new_version_id = made[f"{name}-new"]
        found.append(shard)
    return found


def trainings(row: SpaceRow, learning: SpaceLearningRow, shards: Sequence[LearningShard]) -> Iterator[tuple[str, JobSpec]]:
    """What is to be trained: the name of each run, and its wish. The budget is divided by the number of shards."""
    terms = terms_of(learning)
    num = number_in(learning)
    replay = float(terms.training.get("replay_fraction", _REPLAY))
    for shard in shards:
        if shard.way == "kept":
            continue
        wanted = shard.num_samples if shard.way == "anew" else shard.num_fresh / (1 - replay)
        inputs = {"base": f"model:{learning.base_version_id}", "train": f"dataset:{shard.samples_version_id}"}
        if shard.way == "continued":
            inputs |= {
                "adapter": f"model:{shard.from_version_id}",
                "train": f"dataset:{shard.new_version_id}",
                "replay": f"dataset:{shard.samples_version_id}",
            }
        params: dict[str, Any] = {
            "method": "lora",
            "steps": max(1, min(terms.max_steps // num, math.ceil(wanted * _EPOCHS / _BATCH))),
            "batch_size": _BATCH,
            # Other documents are held out to measure on.
            "validation_fraction": 0.0,
            **terms.training,
        }
        if num > 1:
            params["merged"] = False
        spec = JobSpec(
            verb="train",
            task=LANGUAGE_TASK,
            inputs=inputs,
            params=params,
            output_name=learning.model if num == 1 else f"{row.catalog_name}/shard-{shard.number}",
        )
        yield run_of(shard, num), spec


def together(learning: SpaceLearningRow, shards: Sequence[LearningShard]) -> JobSpec:
    """How the adapters of all shards are made one."""
    adapters = {f"adapter_{at}": f"model:{shard.adapter_version_id}" for at, shard in enumerate(shards, 1)}
    data = f"dataset:{learning.samples_version_id}"
    return JobSpec(
        verb="train",
        task=LANGUAGE_TASK,
        inputs={"base": f"model:{learning.base_version_id}", **adapters, "train": data},
        params={"method": "combine"},
        output_name=learning.model,
    )


def shards_of(learning: SpaceLearningRow) -> list[LearningShard]:
    """The shards of one, once its samples are made; none of a time when there were no shards."""
    return [LearningShard.model_validate(each) for each in learning.results.get("shards", [])]


def number_in(learning: SpaceLearningRow) -> int:
    """Into how many shards one divided its samples, empty ones too."""
    return max(1, len(learning.counts.get("shards") or []))


def run_of(shard: LearningShard, num: int) -> str:
    """What the run that trains a shard is called."""
    return "training" if num == 1 else f"training {shard.number}"


def answering(session: Session, spaces: DataspaceService, row: SpaceRow, learning: SpaceLearningRow) -> SpaceLearningRow | None:
    """What the model that answers now has learned, where it is the space's own and knows nothing forgotten."""
    if row.settings["language_model"] != learning.model:
        return None
    return spaces.learnings.latest(session, row.id, "succeeded", untainted=True)


def _key(learning: SpaceLearningRow, samples: str, num: int) -> str:
    """What an adapter is a function of: equal ones need not be trained twice."""
    terms = terms_of(learning)
    told = [learning.base_version_id, samples, num, terms.max_steps, terms.training]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _same(session: Session, catalog: CatalogService, learning: SpaceLearningRow, key: str) -> str | None:
    """An adapter of an earlier time that was trained on the very same samples, and knows nothing forgotten."""
    query = select(SpaceLearningRow).where(SpaceLearningRow.space_id == learning.space_id, SpaceLearningRow.id != learning.id)
    for before in session.scalars(query.order_by(SpaceLearningRow.id.desc())):
        for shard in shards_of(before):
            if shard.key == key and not shard.tainted_by and _is_there(session, catalog, learning, shard.adapter_version_id):
                return shard.adapter_version_id
    return None


def _start(
    session: Session,
    catalog: CatalogService,
    learning: SpaceLearningRow,
    live: SpaceLearningRow,
    number: int,
    num: int,
    samples: Version,
) -> str | None:
    """The adapter that answers now for a shard, where nothing that it knows has gone since: None to begin from the base."""
    terms, then = terms_of(learning), terms_of(live)
    is_alike = live.base_version_id == learning.base_version_id and then.training == terms.training
    if not (terms.go_on and is_alike and number_in(live) == num):
        return None
    before = next((shard for shard in shards_of(live) if shard.number == number), None)
    adapter = live.adapter_version_id if num == 1 or before is None else before.adapter_version_id
    known = live.samples_version_id if num == 1 or before is None else before.samples_version_id
    if (num > 1 and before is None) or known is None or not _is_there(session, catalog, learning, adapter):
        return None
    with suppress(NotFound):
        old = catalog.get_version(session, learning.project_id, known)
        if old.state == "ready" and {file.path for file in old.files} <= {file.path for file in samples.files}:
            return adapter
    return None


def _is_there(session: Session, catalog: CatalogService, learning: SpaceLearningRow, version_id: str | None) -> bool:
    with suppress(NotFound):
        return version_id is not None and catalog.get_version(session, learning.project_id, version_id).state == "ready"
    return False


def compared(
    session: Session, catalog: CatalogService, learning: SpaceLearningRow, general: Version | None
) -> list[LearningResult]:
    """The base and the adapter that is to answer beside each other, on everything that both were measured on."""
    base = catalog.get_version(session, learning.project_id, learning.base_version_id)
    adapter = catalog.get_version(session, learning.project_id, str(learning.adapter_version_id))
    test = catalog.get_version(session, learning.project_id, str(learning.test_version_id))
    found: list[LearningResult] = []
    for role, data in (("test", test), ("general", general)):
        if data is None:
            continue
        comparison: Comparison = catalog.evaluations.compare_versions(session, learning.project_id, base, adapter, data)
        for row in comparison.rows:
            told = row.model_dump(exclude={"baseline", "candidate"})
            found.append(LearningResult(data=role, before=row.baseline, after=row.candidate, **told))
    return found
