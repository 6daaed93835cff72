"""Runs: submitted, started within the slots or on a cluster, followed, cancelled, resumed from their last checkpoint."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelworks.kernel.jobs.deployments import RunDeployments
    from modelworks.kernel.jobs.executors import Executor, Launch, Status
    from modelworks.kernel.jobs.executors.local import LocalExecutor
    from modelworks.kernel.jobs.executors.ray import RayExecutor
    from modelworks.kernel.jobs.schemas import JobSpec, MetricPoint, ResourcesOverride, RunEvent, RunRecord
    from modelworks.kernel.jobs.service import JobsService
    from modelworks.kernel.jobs.supervisor import Supervisor

__all__ = [
    "Executor",
    "JobSpec",
    "JobsService",
    "Launch",
    "LocalExecutor",
    "MetricPoint",
    "RayExecutor",
    "ResourcesOverride",
    "RunDeployments",
    "RunEvent",
    "RunRecord",
    "Status",
    "Supervisor",
]

# Resolved on first use: every run's process imports this package, and needs neither the service nor its database.
_MODULES = {
    "Executor": "executors",
    "JobsService": "service",
    "Launch": "executors",
    "LocalExecutor": "executors.local",
    "RayExecutor": "executors.ray",
    "RunDeployments": "deployments",
    "Status": "executors",
    "Supervisor": "supervisor",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'schemas')}"), name)
