"""What runs may occupy together on this machine, and which accelerators each of them gets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from modelworks.contract.capability import Resources
from modelworks.contract.errors import InvalidRequest
from modelworks.kernel.base.settings import Settings

#: Sums of binary fractions such as 0.1 may exceed a whole number by this much.
_EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class Capacity:
    """Cores, bytes and accelerators for all runs together."""

    cpu: float
    memory_bytes: int
    gpu: float

    def check(self, wanted: Resources) -> None:
        """Raise InvalidRequest where `wanted` would not even fit alone."""
        for what, need, have, setting in (
            ("cores", wanted.cpu, self.cpu, "MODELWORKS_SLOTS_CPU"),
            ("bytes of memory", wanted.memory_bytes, self.memory_bytes, "MODELWORKS_SLOTS_MEMORY_BYTES"),
            ("accelerators", wanted.gpu, self.gpu, "MODELWORKS_SLOTS_GPU"),
        ):
            if need > have + _EPSILON:
                raise InvalidRequest(
                    f"The run needs {need:g} {what}; runs may occupy {have:g} on this machine.",
                    hint=f"Ask for less with `resources`, or raise {setting} where the machine has more.",
                    param="resources",
                    code="exceeds_capacity",
                )

    def fits(self, wanted: Resources, occupied: Iterable[Resources]) -> bool:
        """Whether `wanted` fits beside what is occupied."""
        taken = list(occupied)
        return (
            wanted.cpu + sum(item.cpu for item in taken) <= self.cpu + _EPSILON
            and wanted.memory_bytes + sum(item.memory_bytes for item in taken) <= self.memory_bytes
            and wanted.gpu + sum(item.gpu for item in taken) <= self.gpu + _EPSILON
        )

    def devices(self, wanted: Resources, occupied: Sequence[tuple[Sequence[int], float]]) -> tuple[int, ...] | None:
        """Indices of accelerators for `wanted`, or None while none are free.

        Args:
            wanted: whole numbers get devices of their own, fractions below one share a device.
            occupied: for each running attempt its devices and how many accelerators it asked for.
        """
        if wanted.gpu == 0:
            return ()
        load = [0.0] * int(self.gpu)
        for indices, gpu in occupied:
            for index in indices:
                if index < len(load):
                    load[index] += gpu if gpu < 1 else 1.0
        if wanted.gpu < 1:
            # The fullest device that still has room keeps whole ones free for those who need them.
            fitting = [index for index, taken in enumerate(load) if taken + wanted.gpu <= 1 + _EPSILON]
            return (max(fitting, key=lambda index: load[index]),) if fitting else None
        free = [index for index, taken in enumerate(load) if taken == 0]
        count = int(wanted.gpu + 1 - _EPSILON)
        return tuple(free[:count]) if len(free) >= count else None


def capacity(settings: Settings) -> Capacity | None:
    """The slots of the local executor; None where a cluster's own scheduler decides."""
    if settings.executor != "local":
        return None
    cores = float(len(os.sched_getaffinity(0)))
    memory = int(_machine_memory() * 0.8)
    return Capacity(settings.slots_cpu or cores, settings.slots_memory_bytes or memory, settings.slots_gpu)


def _machine_memory() -> int:
    """Bytes that this process and its children may use: the machine's, or the container's limit."""
    total = int(psutil.virtual_memory().total)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total
