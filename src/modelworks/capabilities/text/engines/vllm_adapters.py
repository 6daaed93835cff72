"""Load adapters into a running vLLM, and refuse each one that it does not answer with as it was trained.

vLLM's documented endpoints are used: `POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter`, and `/v1/completions` with a
prompt of ids and log-probabilities. This was tested against a stand-in that keeps to that documentation, not against a running
vLLM.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from modelworks.capabilities.text.engines.adapter import Adapter
from modelworks.capabilities.text.engines.probe import Probe
from modelworks.capabilities.text.engines.tolerance import TOLERANCES, allowed_difference
from modelworks.capabilities.text.prompt_format import PromptFormat
from modelworks.capabilities.text.schemas import ADAPTER_CONFIG, ServeOptions
from modelworks.contract import LocalModel
from modelworks.contract.errors import IntegrityFailed, InvalidRequest, ModelworksError, Unavailable

_log = logging.getLogger(__name__)
#: The most that vLLM gives by default (`--max-logprobs`); the probe keeps the 16 highest logits.
_NUM_TOP = 20
#: Log-probabilities that move by less, relative to the logits' spread, do not move: the adapter changes nothing.
_UNMOVED = 1e-5
#: An accelerator's sums may differ from one batch to the next; what an adapter moves must be clearly more than that.
_NOISE_FACTOR = 2.0
_TIMEOUT_S = 300.0
_ID_PREFIX = "token_id:"


@dataclass(frozen=True, slots=True)
class TopLogprobs:
    """The log-probabilities of the likeliest tokens after a prompt, by id."""

    by_id: Mapping[int, float]

    @property
    def floor(self) -> float:
        """No token that is not listed is likelier than that."""
        return min(self.by_id.values())

    def moved_from(self, other: TopLogprobs) -> float:
        """At least how far some token's log-probability is from what it is in `other`."""
        both = [abs(value - other.by_id[token]) for token, value in self.by_id.items() if token in other.by_id]
        here = [value - other.floor for token, value in self.by_id.items() if token not in other.by_id]
        there = [value - self.floor for token, value in other.by_id.items() if token not in self.by_id]
        return max(0.0, *both, *here, *there)

    def difference(self, probe: Probe) -> float:
        """At least the largest difference of the logits behind these from the probe's.

        A log-probability is a logit less one number that is the same for all tokens and that the probe does not keep: so the
        number that fits best is taken. A token that is not listed has at most the log-probability `floor`.
        """
        listed = [self.by_id[token] - logit for token, logit in probe.logits.items() if token in self.by_id]
        if not listed:
            return math.inf
        at_most = [self.floor - logit for token, logit in probe.logits.items() if token not in self.by_id]
        return (max(listed) - min([*listed, *at_most])) / 2


class VllmAdapters:
    """The `AdapterHost` of one vLLM process; an adapter's name there is its version's id, so that none is ever replaced.

    Args:
        model: the base model that it serves, under the name `model.ref`.
        options: what the process was started with.
        url: of its protocol, `http://127.0.0.1:8000/v1`.
    """

    def __init__(self, model: LocalModel, options: ServeOptions, url: str) -> None:
        self._model = model
        self._options = options
        self._http = httpx.Client(base_url=url, timeout=_TIMEOUT_S, trust_env=False)
        self._loaded: set[str] = set()
        self._format: PromptFormat | None = None
        # A checkpoint of 32 bits that says nothing of precision is computed in 16.
        self._tolerance = TOLERANCES["f32" if options.precision == "f32" else "bf16"].logits

    @property
    def holds_adapters(self) -> bool:
        return True

    def load_adapters(self, models: Sequence[LocalModel]) -> dict[str, ModelworksError]:
        """See `AdapterHost.load_adapters`: files, base, prompt format and the answer to a probe must be as in the training."""
        refused: dict[str, ModelworksError] = {}
        for model in models:
            if model.version_id in self._loaded:
                continue
            try:
                self._load(self._checked(model))
                self._loaded.add(model.version_id)
            except ModelworksError as error:
                refused[model.version_id] = error
        return refused

    def unload_adapters(self, version_ids: Collection[str]) -> None:
        """See `AdapterHost.unload_adapters`; requests under way keep the adapter that they began with."""
        for version_id in self._loaded.intersection(version_ids):
            self._unload(version_id)
            self._loaded.discard(version_id)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _checked(self, model: LocalModel) -> Adapter:
        """Everything that is refused before vLLM is told."""
        # One more, since a moved alias is followed by loading the new version before the old one goes.
        if len(self._loaded) > self._options.max_adapters:
            raise InvalidRequest(
                f"This deployment keeps room for {self._options.max_adapters} adapters, and more are loaded.",
                hint="Deploy with a larger max_adapters, or remove one.",
                param="adapters",
                code="too_many_adapters",
            )
        if self._format is None:
            self._format = PromptFormat.of(self._model.path)
        adapter = Adapter.of(model, self._model, self._format.record())
        missing = sorted(adapter.stop_ids - set(self._format.stop_ids))
        if missing:
            raise IntegrityFailed(
                f"Answers of the adapter {model.ref!r} end with the id {missing[0]}, and vLLM ends them with the base's own, "
                f"{', '.join(map(str, self._format.stop_ids))}.",
                hint="Deploy its merged weights.",
                code="prompt_format_changed",
            )
        rank = int(json.loads((adapter.folder / ADAPTER_CONFIG).read_text("utf-8"))["r"])
        largest = self._options.max_adapter_rank
        if rank > largest:
            raise InvalidRequest(
                f"The adapter {model.ref!r} has rank {rank}, and this deployment keeps room for ranks up to {largest}.",
                hint=f"Deploy with max_adapter_rank of at least {rank}.",
                param="adapters",
                code="adapter_rank_too_large",
            )
        return adapter

    def _load(self, adapter: Adapter) -> None:
        """Load an adapter and hold its answer against the trained graph's; it is unloaded again where that fails."""
        base = self._ask(self._model.ref, adapter.probe)
        again = self._ask(self._model.ref, adapter.probe)
        told = {"lora_name": adapter.version_id, "lora_path": str(adapter.folder)}
        answer = self._post("load_lora_adapter", told)
        if answer.status_code == 400 and "already" in answer.text:
            # Left by a load whose answer was lost: what it has read is not known, so it reads the files again.
            self._unload(adapter.version_id)
            answer = self._post("load_lora_adapter", told)
        if answer.status_code != 200:
            raise InvalidRequest(
                f"vLLM does not load the adapter {adapter.ref!r}: {_message(answer)}",
                hint="Deploy its merged weights.",
                param="adapters",
                code="adapter_not_loaded",
            )
        try:
            self._prove(adapter, base, again)
        except BaseException:
            try:
                self._unload(adapter.version_id)
            except Unavailable:
                _log.warning("the refused adapter %s stays in vLLM, where nothing asks for it", adapter.ref)
            raise

    def _prove(self, adapter: Adapter, base: TopLogprobs, again: TopLogprobs) -> None:
        """Raise IntegrityFailed unless the loaded adapter answers the probe as the trained graph did, and the base does not."""
        probe = adapter.probe
        got = self._ask(adapter.version_id, probe)
        moved = got.moved_from(base)
        noise = base.moved_from(again)
        if not moved > max(_UNMOVED * max(1.0, probe.spread), _NOISE_FACTOR * noise):
            raise IntegrityFailed(
                f"The adapter {adapter.ref!r} changes nothing in vLLM: the log-probabilities after its probe differ from the "
                f"base's by {moved:.3g}, where two answers of the base differ by {noise:.3g}.",
                hint="Load the adapter that was trained, or deploy its merged weights.",
                code="adapter_changes_nothing",
            )
        difference, before = got.difference(probe), base.difference(probe)
        allowed = allowed_difference(self._tolerance, probe.spread)
        if not difference <= allowed or not difference < before:
            raise IntegrityFailed(
                f"With the adapter {adapter.ref!r} vLLM would not answer as it was trained: its logits differ by "
                f"{difference:.3g} from those of the trained graph, where {allowed:.3g} is allowed and the base alone differs "
                f"by {before:.3g}.",
                hint="Restore the weights that were trained, or deploy the merged ones.",
                code="trained_weights_differ",
            )

    def _ask(self, name: str, probe: Probe) -> TopLogprobs:
        asked = {
            "model": name,
            "prompt": list(probe.ids),
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": _NUM_TOP,
            "return_tokens_as_token_ids": True,
        }
        answer = self._post("completions", asked)
        if answer.status_code != 200:
            raise Unavailable(f"vLLM does not answer the check of a load: {_message(answer)}")
        try:
            top: dict[str, Any] = answer.json()["choices"][0]["logprobs"]["top_logprobs"][0]
            found = {int(token.removeprefix(_ID_PREFIX)): float(value) for token, value in top.items()}
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            found = {}
        if not found:
            raise IntegrityFailed(
                "vLLM answers without the log-probabilities by id that a load is verified with.",
                hint="Use a version of it that knows return_tokens_as_token_ids.",
                code="adapter_not_verified",
            )
        return TopLogprobs(found)

    def _unload(self, version_id: str) -> None:
        answer = self._post("unload_lora_adapter", {"lora_name": version_id})
        if answer.status_code not in (200, 404):
            raise Unavailable(f"vLLM does not unload the adapter {version_id}: {_message(answer)}")

    def _post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        try:
            return self._http.post(path, json=body)
        except httpx.HTTPError as error:
            raise Unavailable(f"vLLM does not answer: {type(error).__name__}.", hint="See the replica's log.") from error


def _message(answer: httpx.Response) -> str:
    """What vLLM says: `{"error": {"message"}}`, or `{"message"}` in earlier versions."""
    try:
        said = answer.json()
        found = said.get("error", said)
        text = found["message"] if isinstance(found, dict) else found
    except (ValueError, KeyError, AttributeError):
        text = answer.text
    return f"{str(text)[:300]} (HTTP {answer.status_code})"
