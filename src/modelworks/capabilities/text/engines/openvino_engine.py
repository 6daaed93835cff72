"""OpenVINO GenAI's continuous batching: many choices computed together, step by step, on CPUs.

Sampling happens inside the library. Observed of the pinned version and held by tests: a request's generator is its own, so a
seed gives the same tokens whatever else is in the batch; log-probabilities are those of the unmodified distribution; presence
and frequency penalties count generated tokens and the repetition penalty the prompt's as well. What the library cannot do
(log-probabilities of alternatives and of the prompt, logit bias) or does not do surely (a form that the answer must have) runs
on the same graph through a `LogitsEngine`, choice by choice.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import openvino_genai

from modelworks.capabilities.text.engines.base import Decoding, Emit, Step, Ticket
from modelworks.capabilities.text.engines.logits import LogitsEngine
from modelworks.contract.errors import ModelworksError, Unavailable

_log = logging.getLogger(__name__)
#: Tokens of one sequence that share a block of the cache, as the CPU device has it.
BLOCK_TOKENS = 32
#: Prompt tokens computed in one step: the longest wait of a cancellation.
_MAX_TOKENS_PER_STEP = 512
_CLOSING = ("The replica is shutting down.", "Try again.")


def multiplies_bf16() -> bool:
    """Whether this machine's processor computes in bf16; where it does not, the library takes f32 and says nothing."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class _Choice:
    """A choice in the pipeline, or on its way there."""

    def __init__(self, engine: OpenVINOEngine, prompt_ids: list[int], decoding: Decoding, emit: Emit) -> None:
        self._engine = engine
        self.prompt_ids = prompt_ids
        self.decoding = decoding
        self.emit = emit
        self.handle: Any = None
        self.num_generated = 0
        self.cancelled = False

    def cancel(self) -> None:
        self._engine.wake(self)


class OpenVINOEngine:
    """One pipeline, driven by one thread.

    Args:
        folder: an OpenVINO model as `openvino_model.converted` makes it.
        properties: the plugin's properties (`INFERENCE_PRECISION_HINT`, `KV_CACHE_PRECISION`, `INFERENCE_NUM_THREADS`).
        num_cache_blocks: blocks of `BLOCK_TOKENS` tokens that the cache holds.
        max_batch: choices computed together.
        prefix_caching: keep blocks of finished choices for prompts that begin alike.
        end_id: the vocabulary's last id; the library insists on one that may end a text.
        adapters: version ids of the adapters that `adapter_graph.put_adapters` put on the model, in their order.
    """

    def __init__(
        self,
        folder: Path,
        properties: Mapping[str, Any],
        *,
        num_cache_blocks: int,
        max_batch: int,
        prefix_caching: bool,
        end_id: int,
        adapters: Sequence[str] = (),
    ) -> None:
        #: Which of the graph's adapters a version is, from 1.
        self._numbers = {version_id: number for number, version_id in enumerate(adapters, start=1)}
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.num_kv_blocks = num_cache_blocks
        scheduler.max_num_seqs = max_batch
        scheduler.max_num_batched_tokens = _MAX_TOKENS_PER_STEP
        scheduler.dynamic_split_fuse = True
        scheduler.enable_prefix_caching = prefix_caching
        self._folder = folder
        self._properties = dict(properties)
        self._end_id = end_id
        self._pipeline: Any = openvino_genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", self._properties)
        self._wake = threading.Condition()
        self._arrived: deque[_Choice] = deque()
        self._running: list[_Choice] = []
        self._closed = False
        self._next_id = 0
        self._single: LogitsEngine | None = None
        self._single_lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="openvino-pipeline", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        return "openvino"

    @property
    def num_running(self) -> int:
        with self._wake:
            here = len(self._arrived) + len(self._running)
        return here + (self._single.num_running if self._single is not None else 0)

    def start(self, prompt_ids: list[int], decoding: Decoding, emit: Emit) -> Ticket:
        read_ids = prompt_ids
        if decoding.adapter is not None:
            offset = self._numbers[decoding.adapter] * (self._end_id + 1)
            read_ids = [token + offset for token in prompt_ids]
        # The pipeline would look up the prompt's ids, as they tell an adapter, among its logits to punish their repetition.
        needs_own_ids = decoding.adapter is not None and decoding.repetition_penalty != 1.0
        is_constrained = decoding.constraint is not None
        if decoding.logit_bias or decoding.top_logprobs or decoding.prompt_logprobs or needs_own_ids or is_constrained:
            return self._one_by_one().start(prompt_ids, decoding, emit, read_ids)
        choice = _Choice(self, read_ids, decoding, emit)
        with self._wake:
            if self._closed:
                raise Unavailable(_CLOSING[0], hint=_CLOSING[1])
            self._arrived.append(choice)
            self._wake.notify()
        return choice

    def wake(self, cancelled: _Choice) -> None:
        """Mark a choice as cancelled and see to it soon."""
        with self._wake:
            cancelled.cancelled = True
            self._wake.notify()

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()
        # Its memory is wanted back now, not when the last reference to this object is gone.
        self._pipeline = None
        with self._single_lock:
            if self._single is not None:
                self._single.close()
            self._single = None

    def _one_by_one(self) -> LogitsEngine:
        """The engine for what the pipeline cannot do, compiled at its first use."""
        with self._single_lock:
            if self._closed:
                raise Unavailable(_CLOSING[0], hint=_CLOSING[1])
            if self._single is None:
                self._single = LogitsEngine("openvino", GraphDecoder(self._folder, self._properties), max_batch=4)
            return self._single

    def _work(self) -> None:
        while True:
            with self._wake:
                while not (self._closed or self._arrived or self._running):
                    self._wake.wait()
                arrived, self._arrived = self._arrived, deque()
                self._running.extend(arrived)
                closed = self._closed
            if closed:
                break
            for choice in arrived:
                self._add(choice)
            try:
                if self._pipeline.has_non_finished_requests():
                    self._pipeline.step()
            except Exception as error:
                _log.exception("the pipeline failed")
                self._fail_all(error)
                continue
            over = [choice for choice in self._running if self._is_over(choice)]
            going_on = [choice for choice in self._running if choice not in over]
            if over and not going_on:
                self._settle()
            with self._wake:
                self._running = going_on
        for choice in self._running:
            if choice.handle is not None:
                choice.handle.cancel()
            choice.emit(Unavailable(_CLOSING[0], hint=_CLOSING[1]))
        self._running.clear()
        self._settle()

    def _settle(self) -> None:
        """Step twice more: the library notices a cancelled request in one step and gives its blocks back in the next."""
        try:
            self._pipeline.step()
            self._pipeline.step()
        except RuntimeError:
            _log.exception("the pipeline failed while it was emptied")

    def _add(self, choice: _Choice) -> None:
        if choice.cancelled:
            return
        self._next_id += 1
        try:
            prompt = ov.Tensor(np.asarray([choice.prompt_ids], dtype=np.int64))
            choice.handle = self._pipeline.add_request(self._next_id, prompt, self._config(choice.decoding))
        except Exception:  # whatever one request brings must not end the thread that answers all of them
            _log.exception("the pipeline refused a request")
            choice.emit(Unavailable("The engine refused this request."))
            choice.cancelled = True

    def _config(self, decoding: Decoding) -> Any:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = decoding.max_tokens
        # Both must be set and agree, or the configuration is refused; an empty set means the tokenizer's own, which is absent.
        stops = set(decoding.stop_ids) or {self._end_id}
        config.eos_token_id = min(stops)
        config.stop_token_ids = stops
        config.ignore_eos = not decoding.stop_ids
        config.do_sample = decoding.temperature > 0
        if config.do_sample:
            config.temperature = decoding.temperature
            config.top_p = decoding.top_p
            if decoding.top_k is not None:
                config.top_k = decoding.top_k
            config.rng_seed = decoding.seed % 2**63
        config.logprobs = int(decoding.logprobs)
        config.presence_penalty = decoding.presence_penalty
        config.frequency_penalty = decoding.frequency_penalty
        config.repetition_penalty = decoding.repetition_penalty
        return config

    def _is_over(self, choice: _Choice) -> bool:
        """Emit what the last step gave a choice, or take it out of the pipeline where it was cancelled."""
        if not choice.cancelled:
            return self._drain(choice)
        if choice.handle is not None:
            choice.handle.cancel()
        return True

    def _drain(self, choice: _Choice) -> bool:
        """Emit what the last step gave a choice; True when it is over."""
        while choice.handle.can_read():
            for output in choice.handle.read().values():
                logprobs = list(output.generated_log_probs)
                for position, token_id in enumerate(output.generated_ids):
                    if token_id in choice.decoding.stop_ids:
                        choice.emit(Step(None, finish="stop"))
                        return True
                    choice.num_generated += 1
                    last = choice.num_generated >= choice.decoding.max_tokens
                    logprob = logprobs[position] if choice.decoding.logprobs else None
                    choice.emit(Step(int(token_id), logprob, finish="length" if last else None))
                    if last:
                        return True
        if choice.handle.get_status() != openvino_genai.GenerationStatus.RUNNING:
            choice.emit(
                Unavailable(
                    "The attention cache has no room for this request.",
                    hint="Try again later, or deploy the model with a larger cache_size_bytes.",
                )
            )
            return True
        return False

    def _fail_all(self, error: Exception) -> None:
        with self._wake:
            failed, self._running = self._running, []
        for choice in failed:
            if choice.handle is not None:
                choice.handle.cancel()
            fault: ModelworksError = Unavailable("The engine failed while computing this request.")
            fault.__cause__ = error
            choice.emit(fault)


class GraphDecoder:
    """The same graph, run directly: logits for a choice that the pipeline cannot sample. A state is an infer request."""

    def __init__(self, folder: Path, properties: Mapping[str, Any]) -> None:
        self._compiled = ov.Core().compile_model(str(folder / "openvino_model.xml"), "CPU", dict(properties))

    def new_state(self) -> Any:
        """A request with an empty cache."""
        return self._compiled.create_infer_request()

    def read(self, state: Any, token_ids: list[int], position: int) -> npt.NDArray[np.float32]:
        """Append tokens; see `LogitsDecoder.read`."""
        logits: npt.NDArray[np.float32] = self.read_all(state, token_ids, position)[-1]
        return logits

    def read_all(self, state: Any, token_ids: list[int], position: int) -> npt.NDArray[np.float32]:
        """Append tokens; see `LogitsDecoder.read_all`."""
        end = position + len(token_ids)
        result = state.infer(
            {
                "input_ids": np.asarray([token_ids], dtype=np.int64),
                "attention_mask": np.ones((1, end), dtype=np.int64),
                "position_ids": np.arange(position, end, dtype=np.int64)[None],
                "beam_idx": np.zeros(1, dtype=np.int32),
            }
        )
        logits: npt.NDArray[np.float32] = np.array(result["logits"][0], dtype=np.float32)
        return logits
