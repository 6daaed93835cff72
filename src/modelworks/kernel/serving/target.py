"""What a request can be sent to: replicas with their counts, and deployments as the reconciler publishes them."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelworks.contract.errors import Unavailable
from modelworks.kernel.serving.schemas import DeployedModel, Route


@dataclass(slots=True, eq=False, weakref_slot=True)
class Slot:
    """One replica that answers. The object lives as long as the replica's process, so that its count survives publishing."""

    replica_id: str
    route: Route
    in_flight: int = 0
    suspect_until: float = 0.0
    #: The replica's own slot, where this one stands for an adapter on it.
    parent: Slot | None = None
    #: So many requests it answers at a time, with whichever adapters; 0 is any number.
    capacity: int = 0
    #: Requests that other processes of this server have it answer, as they say.
    elsewhere: int = 0

    @property
    def busy(self) -> int:
        """Requests that it answers for this process and others: it is not ended before they are over."""
        return self.in_flight + self.elsewhere

    @property
    def load(self) -> int:
        """Requests that the replica is answering, with whichever adapter."""
        return self.in_flight if self.parent is None else self.parent.in_flight

    @property
    def is_full(self) -> bool:
        """Whether another request would have to wait."""
        capacity = self.capacity if self.parent is None else self.parent.capacity
        return 0 < capacity <= self.load

    def enter(self) -> None:
        """Count a request in."""
        self.in_flight += 1
        if self.parent is not None:
            self.parent.in_flight += 1

    def leave(self) -> None:
        """Count a request out."""
        self.in_flight -= 1
        if self.parent is not None:
            self.parent.in_flight -= 1


@dataclass(frozen=True, slots=True)
class Target:
    """One deployment of the published table."""

    model: DeployedModel
    slots: tuple[Slot, ...]
    #: For kind static: the route without a replica.
    static: Route | None = None
    #: Other references of exactly the version that answers: `name@v3`, `name@alias`, the version's id.
    references: frozenset[str] = frozenset()
    #: The replicas of a candidate, and which share of the requests they answer.
    canary: tuple[Slot, ...] = ()
    share: float = 0.0
    #: Whose requests wait in one queue with its own, as the same replicas answer them: another deployment's id.
    queue: str | None = None

    @property
    def line(self) -> str:
        """Names the queue of its requests."""
        return self.queue or self.model.deployment_id


#: (project id, deployment name) → deployment.
Table = Mapping[tuple[str, str], Target]


def falls_to_canary(deployment_id: str, split_by: str, share: float) -> bool:
    """Whether a request is among the share: by a hash, so that it is so again, and stays so when the share grows."""
    digest = hashlib.sha256(f"{deployment_id}\0{split_by}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def best_of(target: Target, split_by: str | None) -> Slot | Route | None:
    """The least busy ready replica, full or not, or None when there is none at this moment.

    A canary that is not ready leaves its share to the deployment itself; one that is full keeps it.
    """
    if target.static is not None:
        return target.static
    if target.canary and falls_to_canary(target.model.deployment_id, split_by or secrets.token_hex(8), target.share):
        slot = _least_busy(target.canary)
        if slot is not None:
            return slot
    return _least_busy(target.slots)


def _least_busy(slots: Sequence[Slot]) -> Slot | None:
    if len(slots) == 1:
        slot = slots[0]
        if slot.suspect_until == 0.0 or slot.suspect_until < time.monotonic():
            return slot
        return None
    best: Slot | None = None
    now = time.monotonic()
    for slot in slots:
        if slot.suspect_until > now:
            continue
        if best is None or (slot.is_full, slot.load) < (best.is_full, best.load):
            best = slot
    return best


def why_down(model: DeployedModel) -> Unavailable | None:
    """Why nobody should wait for it."""
    if model.state == "failed":
        return Unavailable(
            f"The deployment {model.name!r} has failed: {model.last_error or 'no reason was given'}",
            hint="GET /api/deployments shows its replicas; it is tried again from time to time.",
            code="deployment_failed",
            retry_after_s=60,
        )
    if model.state == "stopped":
        return Unavailable(f"The deployment {model.name!r} is stopped.", hint="Start it again with `modelworks deploy`.")
    return None
