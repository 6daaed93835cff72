"""Runs: submitted, started within the slots or on a cluster, followed, cancelled, resumed from their last checkpoint."""

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
    "RunEvent",
    "RunRecord",
    "Status",
    "Supervisor",
]
