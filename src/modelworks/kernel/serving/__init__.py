"""Serving: desired deployments, one reconciler that makes them so, and the pool that routes requests to replicas."""

from modelworks.kernel.serving.pool import ReplicaPool
from modelworks.kernel.serving.reconciler import Reconciler
from modelworks.kernel.serving.schemas import DeployedModel, Deployment, DeploymentSpec, Route
from modelworks.kernel.serving.service import ServingService

__all__ = ["DeployedModel", "Deployment", "DeploymentSpec", "Reconciler", "ReplicaPool", "Route", "ServingService"]
