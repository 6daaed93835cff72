"""Serving: desired deployments, one reconciler that makes them so, and the pool that routes requests to replicas."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelworks.kernel.serving.pool import ReplicaPool
    from modelworks.kernel.serving.queue import Turn
    from modelworks.kernel.serving.reconciler import Reconciler
    from modelworks.kernel.serving.schemas import DeployedModel, Deployment, DeploymentSpec, Route
    from modelworks.kernel.serving.service import ServingService

__all__ = ["DeployedModel", "Deployment", "DeploymentSpec", "Reconciler", "ReplicaPool", "Route", "ServingService", "Turn"]

# Resolved on first use: every replica's process imports this package, and needs neither the HTTP client nor the reconciler.
_MODULES = {"ReplicaPool": "pool", "Reconciler": "reconciler", "ServingService": "service", "Turn": "queue"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'schemas')}"), name)
