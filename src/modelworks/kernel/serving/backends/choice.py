"""Which back end runs what, by the settings."""

from __future__ import annotations

from collections.abc import Mapping

from modelworks.contract.errors import InvalidRequest
from modelworks.kernel.base.settings import Settings
from modelworks.kernel.serving.backends import Backend
from modelworks.kernel.serving.backends.local import LocalBackend
from modelworks.kernel.serving.backends.remote import OpenSecret, RemoteBackend


def make_backends(settings: Settings, open_secret: OpenSecret | None = None) -> Mapping[str, Backend]:
    """The back ends that the reconciler wants: "predictor", "openai", "upstream".

    Processes that speak OpenAI's protocol always run on this machine: their programs are installed here.

    Raises:
        InvalidRequest: Ray Serve is wanted and its addresses are not set.
    """
    # Engines keep what they made of a model (a converted copy) here, so that the next replica starts sooner.
    env = {"MODELWORKS_ENGINE_CACHE": str(settings.home / "cache" / "engines")}
    if settings.vllm_python is not None:
        env["MODELWORKS_VLLM_PYTHON"] = settings.vllm_python
    local = LocalBackend(env)
    predictor: Backend = local
    if settings.serving_backend == "ray-serve":
        from modelworks.kernel.serving.backends.ray_serve import RayServeBackend

        if settings.ray_address is None or settings.ray_serve_url is None:
            raise InvalidRequest(
                "The serving back end ray-serve needs to know where the cluster is.",
                hint="Set MODELWORKS_RAY_ADDRESS (the dashboard) and MODELWORKS_RAY_SERVE_URL (Serve's HTTP proxy).",
                code="missing_setting",
            )
        predictor = RayServeBackend(
            settings.ray_address, settings.ray_serve_url, settings.effective_storage_url, settings.storage_options
        )

    return {"predictor": predictor, "openai": local, "upstream": RemoteBackend(settings.egress_allow, open_secret)}
