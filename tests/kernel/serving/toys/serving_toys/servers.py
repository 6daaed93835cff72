from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import httpx

from modelworks.contract.capability import ServerCommand
from modelworks.contract.errors import IntegrityFailed, ModelworksError
from modelworks.contract.run import LocalModel
from serving_toys.capability import Options


def command(model: LocalModel | None, options: Options) -> ServerCommand:
    return ServerCommand(
        argv=(sys.executable, "-m", "serving_toys.openai_server", "{port}", str(options.load_s)),
        model="inner-name",
        env={"TOY_GREETING": "port {port}"},
        health_path=options.health,
        start_timeout_s=20.0 if options.health == "/health" else 1.0,
    )


def absent(model: LocalModel | None, options: Options) -> ServerCommand:
    return ServerCommand(argv=("/nowhere/vllm", "serve"), model="x")


def dying(model: LocalModel | None, options: Options) -> ServerCommand:
    return ServerCommand(argv=(sys.executable, "-c", "import sys; sys.exit('address already in use')"), model="x")


def hosting(model: LocalModel | None, options: Options) -> ServerCommand:
    return replace(command(model, options), adapters=Host)


class Host:
    """Loads adapters into the toy server: an adapter's greeting replaces the base's."""

    holds_adapters = True

    def __init__(self, url: str) -> None:
        self._url = url

    def load_adapters(self, models: Sequence[LocalModel]) -> Mapping[str, ModelworksError]:
        refused: dict[str, ModelworksError] = {}
        for model in models:
            greeting = (model.path / "greeting.txt").read_text()
            if "zero" in greeting:
                refused[model.version_id] = IntegrityFailed(f"{model.ref} changes nothing.", hint="Train it.")
            else:
                self._post("load", {"name": model.version_id, "greeting": greeting})
        return refused

    def unload_adapters(self, version_ids: Collection[str]) -> None:
        for version_id in version_ids:
            self._post("unload", {"name": version_id})

    def _post(self, path: str, body: dict[str, str]) -> None:
        httpx.post(f"{self._url}/{path}", json=body, trust_env=False).raise_for_status()
