"""The reconciler's part for adapters: load what is wished on every replica, route to it, unload what is not wished any more.

An adapter belongs to a replica's process: when that is started again, its adapters are loaded again. A moved alias loads the
new version beside the old one, which goes on answering until every replica has the new one. An adapter that is not wished any
more is first taken out of the table of the pool; when the last request that uses it is over, the replica is told to unload it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import httpx
import structlog
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from modelworks.contract.errors import ModelworksError, Unavailable, from_wire
from modelworks.kernel.catalog import CatalogService
from modelworks.kernel.catalog.schemas import Version
from modelworks.kernel.serving.place import HeldAdapter, Place, Seen, Wish, references_of, resolve_served
from modelworks.kernel.serving.schemas import ADAPTER_HEADER, AdapterChange, DeployedModel, DeploymentState, Kind
from modelworks.kernel.serving.store import AdapterRow
from modelworks.kernel.serving.target import Slot, Target

log = structlog.get_logger(__name__)

#: Compiling a graph of a large model takes minutes.
_CHANGE_TIMEOUT_S = 1800.0
#: A refused adapter is tried again so rarely; wishing for it again tries at once.
_RETRY_S = 60.0
#: An adapter taken out of the table counts as idle after so long without a request: one may be on its way to it.
_IDLE_S = 0.3


@dataclass(slots=True)
class AdapterWish:
    """An adapter as read, with the version that its reference means now."""

    row: AdapterRow
    version: Version | None
    error: str | None = None


class Adapting:
    """Keeps the wishes for adapters; called from the reconciler's thread alone.

    Args:
        cache: the folder of materialised versions.
        executor: loads run there.
        wake: called when one is over.
    """

    def __init__(self, catalog: CatalogService, cache: Path, executor: Executor, wake: Callable[[], None]) -> None:
        self._catalog = catalog
        self._cache = cache
        self._executor = executor
        self._wake = wake
        self._wishes: dict[str, list[AdapterWish]] = {}
        #: The version that answers under an adapter's name, by the adapter's id.
        self._answering: dict[str, str] = {}
        self._seen: dict[str, Seen] = {}

    def read(self, session: Session) -> None:
        """Take the wishes in."""
        wishes: dict[str, list[AdapterWish]] = {}
        for row in session.scalars(select(AdapterRow).order_by(AdapterRow.name)):
            version, error = None, None
            if row.state == "running":
                try:
                    version = resolve_served(self._catalog, session, row.project_id, row.model_ref)
                except ModelworksError as raised:
                    error = raised.message
            wishes.setdefault(row.deployment_id, []).append(AdapterWish(row, version, error))
            self._seen[row.id] = Seen(_state(row.observed_state), row.version_id, row.last_error)
        self._wishes = wishes

    def retry(self, places: Iterable[Place]) -> None:
        """Try what was refused at once."""
        for place in places:
            for held in place.adapters.values():
                held.retry_at = 0.0

    def pursue(self, place: Place) -> bool:
        """Bring one replica nearer to what is wished; returns whether what it answers with has changed."""
        if place.changing is not None:
            return place.changing.done() and self._take_in(place)
        if place.slot is None or place.state != "ready" or not place.holds_adapters:
            return False
        now = time.monotonic()
        wishes = self._wishes.get(place.deployment_id, [])
        wanted = {wish.version.id: wish.version for wish in wishes if wish.version is not None}
        load = [
            version
            for version in wanted.values()
            if version.id not in place.adapters
            or (place.adapters[version.id].slot is None and now >= place.adapters[version.id].retry_at)
        ]
        used = {self._answering.get(wish.row.id) for wish in wishes if wish.row.state == "running"}
        unload = [
            version_id
            for version_id, held in place.adapters.items()
            if version_id not in wanted and version_id not in used and _is_idle(held, now)
        ]
        if load or unload:
            place.changing_load, place.changing_unload = tuple(load), tuple(unload)
            place.changing_slot = place.slot
            place.changing = self._executor.submit(self._change, place, load, unload)
            place.changing.add_done_callback(lambda _future: self._wake())
        return False

    def targets(self, wish: Wish, answering: Sequence[Place]) -> dict[tuple[str, str], Target]:
        """The entries of a deployment's adapters in the pool's table; `answering` are the replicas that requests go to."""
        found: dict[tuple[str, str], Target] = {}
        for adapter in self._wishes.get(wish.row.id, []):
            if adapter.row.state != "running":
                self._answering.pop(adapter.row.id, None)
                continue
            version = self._choose(adapter, answering)
            seen = self._observe(wish, adapter, version, answering)
            slots = [place.adapters[version.id].slot for place in answering if version and version.id in place.adapters]
            told = version or adapter.version
            references = frozenset() if told is None else references_of(told)
            if adapter.row.model_ref != adapter.row.name:
                references |= {adapter.row.model_ref}
            found[adapter.row.project_id, adapter.row.name] = Target(
                model=_deployed_model(wish, adapter, seen, told),
                slots=tuple(slot for slot in slots if slot is not None),
                references=references,
            )
        return found

    def news(
        self, wishes: Mapping[str, Wish], places: Sequence[Place], answering: Callable[[Wish], Sequence[Place]]
    ) -> AdapterNews:
        """What the database does not say yet."""
        seen: dict[str, Seen] = {}
        gone: list[str] = []
        edges: list[tuple[str, str, str]] = []
        for deployment_id, adapters in self._wishes.items():
            wish = wishes.get(deployment_id)
            if wish is None:
                continue
            here = [place for place in places if place.deployment_id == deployment_id]
            ready = answering(wish)
            for adapter in adapters:
                if adapter.row.state != "running":
                    still = {self._seen[adapter.row.id].version_id} & {vid for place in here for vid in place.adapters}
                    busy = any(place.changing is not None for place in here)
                    if not busy and (not still or self._shared(deployment_id, still)):
                        gone.append(adapter.row.id)
                    continue
                version = self._choose(adapter, ready)
                now = self._observe(wish, adapter, version, ready)
                if now != self._seen.get(adapter.row.id):
                    seen[adapter.row.id] = now
                    if version is not None:
                        edges.append((adapter.row.project_id, deployment_id, version.id))
        return AdapterNews(seen, gone, edges)

    def write(self, session: Session, news: AdapterNews) -> None:
        """Write what `news` found."""
        for row_id, seen in news.seen.items():
            row = session.get(AdapterRow, row_id)
            if row is not None:
                row.observed_state, row.version_id, row.last_error = seen.state, seen.version_id, seen.error
        if news.gone:
            # Wished for again meanwhile: then it stays.
            session.execute(delete(AdapterRow).where(AdapterRow.id.in_(news.gone), AdapterRow.state == "removed"))

    def written(self, news: AdapterNews) -> None:
        """The transaction of `write` is committed."""
        self._seen.update(news.seen)
        for row_id in news.gone:
            self._seen.pop(row_id, None)
        for adapters in self._wishes.values():
            adapters[:] = [adapter for adapter in adapters if adapter.row.id not in news.gone]

    # --- inside -----------------------------------------------------------------------------------------------------

    def _shared(self, deployment_id: str, version_ids: set[str | None]) -> bool:
        """Whether another adapter of the deployment wants one of these versions too, so that it stays loaded."""
        others = self._wishes.get(deployment_id, [])
        return any(other.version is not None and other.version.id in version_ids for other in others)

    def _choose(self, adapter: AdapterWish, answering: Sequence[Place]) -> Version | None:
        """The version that requests get: the wished one once every replica has it, before that the one that answered."""
        wanted = adapter.version
        if wanted is not None and answering and all(_has(place, wanted.id) for place in answering):
            self._answering[adapter.row.id] = wanted.id
            return wanted
        before = self._answering.get(adapter.row.id)
        for version_id in (before, None if wanted is None else wanted.id):
            holder = next((place for place in answering if version_id and _has(place, version_id)), None)
            if holder is not None and version_id is not None:
                self._answering[adapter.row.id] = version_id
                return holder.adapters[version_id].version
        return None

    def _observe(self, wish: Wish, adapter: AdapterWish, version: Version | None, answering: Sequence[Place]) -> Seen:
        if wish.row.state != "running":
            return Seen("stopped", None, None)
        wanted = adapter.version
        refused = [place.adapters[wanted.id].error for place in answering if wanted is not None and wanted.id in place.adapters]
        error = adapter.error or next((each for each in refused if each is not None), None)
        if error is None and answering and not any(place.holds_adapters for place in answering):
            error = (
                "The engine of this deployment, with its options, holds no adapters. "
                "Deploy the base with others, or the adapter's merged weights."
            )
        if version is not None:
            full = wanted is not None and version.id == wanted.id and all(_has(place, version.id) for place in answering)
            return Seen("ready" if full else "degraded", version.id, error)
        return Seen("failed" if error is not None else "loading", None, error)

    def _take_in(self, place: Place) -> bool:
        future, place.changing = place.changing, None
        assert future is not None  # noqa: S101 - the caller's condition
        refused: Mapping[str, ModelworksError] = {}
        try:
            refused = future.result()
        except ModelworksError as error:
            refused = {version.id: error for version in place.changing_load}
        except Exception as error:
            log.exception("adapters cannot be loaded", replica=place.id)
            refused = {version.id: Unavailable(f"It cannot be loaded: {error}.") for version in place.changing_load}
        if place.slot is None or place.slot is not place.changing_slot:
            # The process ended meanwhile, and its adapters with it.
            return True
        for version_id in place.changing_unload:
            place.adapters.pop(version_id, None)
        for version in place.changing_load:
            raised = refused.get(version.id)
            if raised is None:
                place.adapters[version.id] = HeldAdapter(version, _slot(place, place.slot, version))
                log.info("an adapter is ready", replica=place.id, adapter=version.ref)
                continue
            hint = f" {raised.hint}" if raised.hint else ""
            retry_at = time.monotonic() + _RETRY_S
            place.adapters[version.id] = HeldAdapter(version, None, f"{raised.message}{hint}", retry_at)
            log.warning("an adapter is refused", replica=place.id, adapter=version.ref, error=raised.message)
        return True

    def _change(self, place: Place, load: Sequence[Version], unload: Sequence[str]) -> dict[str, ModelworksError]:
        slot = place.slot
        if slot is None or place.spec is None or place.adapters_url is None:
            raise Unavailable("The replica ended.")
        models = [self._catalog.local_model(each, self._catalog.materialise(each, self._cache)) for each in load]
        body = AdapterChange(load=models, unload=list(unload)).model_dump_json()
        # Not those of its requests: a server that speaks OpenAI's protocol is not told the token of the process above it.
        headers = {"Authorization": f"Bearer {place.spec.token}", "content-type": "application/json"}
        try:
            answer = httpx.post(place.adapters_url, content=body, headers=headers, timeout=_CHANGE_TIMEOUT_S, trust_env=False)
            found = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(f"The replica does not answer: {type(error).__name__}.") from error
        if answer.status_code != 200:
            raise from_wire(found["error"])
        return {version_id: from_wire(wire) for version_id, wire in found["refused"].items()}


@dataclass(frozen=True, slots=True)
class AdapterNews:
    """What a turn has to write about adapters, by the ids of their rows; and (project, deployment, version) that answer."""

    seen: dict[str, Seen]
    gone: list[str]
    edges: list[tuple[str, str, str]]

    def __bool__(self) -> bool:
        return bool(self.seen or self.gone)


def _has(place: Place, version_id: str) -> bool:
    held = place.adapters.get(version_id)
    return held is not None and held.slot is not None


def _is_idle(held: HeldAdapter, now: float) -> bool:
    if held.slot is None:
        return True
    if held.slot.busy > 0:
        held.idle_since = None
        return False
    if held.idle_since is None:
        held.idle_since = now
    return now - held.idle_since >= _IDLE_S


def _slot(place: Place, parent: Slot, version: Version) -> Slot:
    if parent.route.kind == "openai":
        return Slot(place.id, replace(parent.route, version_id=version.id, upstream_model=version.id), parent=parent)
    headers = {**parent.route.headers, ADAPTER_HEADER.decode(): version.id}
    return Slot(place.id, replace(parent.route, version_id=version.id, headers=headers), parent=parent)


def _deployed_model(wish: Wish, adapter: AdapterWish, seen: Seen, version: Version | None) -> DeployedModel:
    row = wish.row
    length = row.options.get("context_length") or ({} if version is None else version.metadata).get("context_length")
    return DeployedModel(
        name=adapter.row.name,
        project_id=adapter.row.project_id,
        deployment_id=row.id,
        task=row.task,
        capability=row.capability,
        kind=cast(Kind, row.kind),
        engine=row.engine,
        version_id=seen.version_id,
        created=int(adapter.row.created_at.timestamp()),
        state=seen.state,
        root=adapter.row.model_ref if version is None else version.ref,
        parent=row.name,
        max_model_len=length if isinstance(length, int) else None,
        last_error=seen.error,
    )


def _state(text: str) -> DeploymentState:
    known: dict[str, DeploymentState] = {"ready": "ready", "degraded": "degraded", "failed": "failed", "stopped": "stopped"}
    return known.get(text, "loading")
