"""A predictor that holds adapters: an adapter's greeting replaces the base's."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Collection, Mapping, Sequence

from modelworks.contract.errors import IntegrityFailed, ModelworksError, NotFound
from modelworks.contract.run import LocalModel
from serving_toys.capability import EchoInput, EchoOutput, Options


def _greeting(model: LocalModel) -> str:
    return (model.path / "greeting.txt").read_text()


class Hosting:
    holds_adapters = True

    def __init__(self, model: LocalModel | None, options: Options) -> None:
        assert model is not None
        self._base = _greeting(model)
        self._adapters: dict[str, str] = {}
        self._loads = 0
        self._load_s = options.load_s
        self._busy = threading.Lock()

    def load_adapters(self, models: Sequence[LocalModel]) -> Mapping[str, ModelworksError]:
        assert self._busy.acquire(blocking=False), "asked twice at the same time"
        refused: dict[str, ModelworksError] = {}
        time.sleep(self._load_s)
        self._loads += 1
        for model in models:
            greeting = _greeting(model)
            if "zero" in greeting:
                refused[model.version_id] = IntegrityFailed(f"{model.ref} changes nothing.", hint="Train it.")
            else:
                self._adapters[model.version_id] = greeting
        self._busy.release()
        return refused

    def unload_adapters(self, version_ids: Collection[str]) -> None:
        for version_id in version_ids:
            self._adapters.pop(version_id, None)

    async def predict(self, request: EchoInput, adapter: str | None = None) -> EchoOutput:
        if adapter is not None and adapter not in self._adapters:
            raise NotFound("That adapter is not loaded.")
        greeting = self._base if adapter is None else self._adapters[adapter]
        await asyncio.sleep(request.delay_s)
        if request.action == "crash":
            os._exit(9)
        if request.action == "list":
            greeting = f"{self._loads} {sorted(self._adapters.values())} "
        return EchoOutput(text=greeting + request.text, pid=os.getpid())
