"""What runs on the Ray cluster: a Serve application around the same ASGI application as a local replica's.

Imported by Ray on the cluster's nodes, on which Modelworks must be installed with the capability's extra.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from ray import serve

from modelworks.kernel.catalog.manifest import materialise
from modelworks.kernel.serving.backends.ray_serve import ERROR_MARK
from modelworks.kernel.serving.schemas import ReplicaSpec
from modelworks.kernel.serving.worker import Receive, Replica, Scope, Send, build
from modelworks.kernel.storage import BlobStore

#: A replica that is being ended may finish what it is answering for so long.
_DRAIN_S = 600.0


def make_replica(arguments: dict[str, Any]) -> Replica:
    """Fetch the model into this node's cache and load the predictor; in Serve's own process for the replica.

    Raises:
        RuntimeError: the predictor cannot be made; its text holds the error for `ray_serve`.
    """
    spec = ReplicaSpec.model_validate(arguments["spec"])
    if spec.model is not None:
        default = Path(tempfile.gettempdir()) / f"modelworks-{os.getuid()}"
        cache = Path(os.environ.get("MODELWORKS_NODE_CACHE") or default) / "versions"
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        blobs = BlobStore(arguments["storage"]["url"], arguments["storage"]["options"])
        path = materialise(blobs, spec.files, spec.model.digest, cache)
        spec = spec.model_copy(update={"model": spec.model.model_copy(update={"path": path})})
    replica = build(spec)
    replica.load()
    if replica.error is not None:
        # Serve hands on text only, so the whole error is put into it.
        raise RuntimeError(ERROR_MARK + json.dumps(replica.error.to_wire()))
    return replica


class ServeReplica:
    """The class that Serve makes replicas of."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._replica = make_replica(arguments)

    def __serve_build_asgi_app__(self) -> Any:
        """Serve's hook: the application, made after the constructor has loaded the model."""
        replica = self._replica

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await replica(scope, receive, send)

        return application


def build_application(arguments: dict[str, Any]) -> Any:
    """What `import_path` of the declared application names: Serve calls it with the application's `args`."""
    spec = ReplicaSpec.model_validate(arguments["spec"])
    resources = spec.resources
    deployment = serve.deployment(
        name="replica",
        num_replicas=spec.num_replicas,
        # Engines batch by themselves; how many wait is decided in front of them.
        max_ongoing_requests=1024,
        graceful_shutdown_timeout_s=_DRAIN_S,
        ray_actor_options={"num_cpus": resources.cpu, "num_gpus": resources.gpu, "memory": resources.memory_bytes},
    )(serve.ingress(None)(ServeReplica))
    return deployment.bind(arguments)
