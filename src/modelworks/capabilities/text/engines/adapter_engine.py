"""One base model with any number of adapters, loaded and unloaded while it answers.

The adapters' matrices are constants of the graph, which the CPU plugin packs when it compiles it, and two graphs share nothing.
So a load compiles a graph with all adapters beside the one that answers; new requests go to the new one, and the old one is
closed when the last of its requests is over. Where there is no memory for two, it is compiled in the other's place: running
requests are finished and new ones wait meanwhile. Unloading is only forgetting: the place of an unloaded adapter is given back
with the next load.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

from modelworks.capabilities.text.engines.adapter import Adapter
from modelworks.capabilities.text.engines.adapter_graph import MOST_ADAPTERS, layer_names, put_adapters
from modelworks.capabilities.text.engines.base import Decoding, Emit, Step, Ticket
from modelworks.capabilities.text.engines.openvino_engine import GraphDecoder, OpenVINOEngine
from modelworks.capabilities.text.engines.openvino_model import cache_folder
from modelworks.capabilities.text.engines.probe import Probe
from modelworks.capabilities.text.gguf_export import Shape
from modelworks.contract.errors import IntegrityFailed, InvalidRequest, ModelworksError, NotFound, Unavailable

_log = logging.getLogger(__name__)
#: Opens an engine on a folder with the adapters of these version ids.
OpenEngine = Callable[[Path, Sequence[str]], OpenVINOEngine]
#: Logits that an adapter moves by less, relative to their spread, are not moved: it changes nothing.
_UNMOVED = 1e-5
#: Tokens that the batching engine and the graph alone must agree on after a load: the later ones need what was remembered.
_CHECKED_TOKENS = 3
_CHECK_TIMEOUT_S = 120.0
_RETIRE_POLL_S = 0.05
_FOLDER_PREFIX = ".adapters-"


@dataclass(frozen=True, slots=True)
class BaseGraph:
    """What graphs with adapters are made from.

    Args:
        folder: the base model as `openvino_model.converted` makes it; `checkpoint`: the one that it was made from.
        tolerance: the largest accepted difference of a probe's logits, for logits whose spread is 1 or less.
    """

    folder: Path
    checkpoint: Path
    shape: Shape
    int8: bool
    properties: Mapping[str, Any]
    tolerance: float


class AdapterEngine:
    """A `TokenEngine` for a base model and its adapters.

    Args:
        engine: the base model alone, already answering.
        open_engine: opens the graphs that are made here as `engine` was opened.
        in_place: a load closes the graph that answers before it compiles the next one.
    """

    def __init__(self, engine: OpenVINOEngine, graph: BaseGraph, open_engine: OpenEngine, *, in_place: bool = False) -> None:
        self._graph = graph
        self._open_engine = open_engine
        self._in_place = in_place
        self._engine = engine
        #: Those that answer, by version id; each is on the current graph.
        self._loaded: dict[str, Adapter] = {}
        #: Those on the current graph, in its order; an unloaded one keeps its place until the next load.
        self._placed: list[Adapter] = []
        self._folder: Path | None = None
        self._retiring: list[OpenVINOEngine] = []
        #: What arrived while a load is in the place of the graph; None where none is.
        self._waiting: list[_Waiting] | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._changing = threading.Lock()

    @property
    def name(self) -> str:
        return self._engine.name

    @property
    def num_running(self) -> int:
        with self._lock:
            return sum(engine.num_running for engine in (self._engine, *self._retiring)) + self._num_waiting()

    def _num_waiting(self) -> int:
        return sum(not each.cancelled for each in self._waiting or ())

    @property
    def adapters(self) -> frozenset[str]:
        """Version ids of those that answer."""
        with self._lock:
            return frozenset(self._loaded)

    def adapter(self, version_id: str) -> Adapter:
        """An adapter that answers.

        Raises:
            NotFound: it is not loaded.
        """
        with self._lock:
            return self._found(version_id)

    def _found(self, version_id: str) -> Adapter:
        found = self._loaded.get(version_id)
        if found is None:
            raise NotFound(f"The adapter {version_id} is not loaded here.", hint="Add it to the deployment.", code="no_adapter")
        return found

    def start(self, prompt_ids: list[int], decoding: Decoding, emit: Emit) -> Ticket:
        # An engine is retired under the same lock, so that none is closed between being chosen and being asked.
        with self._lock:
            if decoding.adapter is not None:
                self._found(decoding.adapter)
            if self._waiting is None or self._closed:
                return self._engine.start(prompt_ids, decoding, emit)
            waiting = _Waiting(prompt_ids, decoding, emit)
            self._waiting.append(waiting)
            return waiting

    def close(self) -> None:
        with self._lock:
            self._closed = True
            engines = [self._engine, *self._retiring]
        for engine in engines:
            engine.close()
        self._let_in()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def load(self, adapters: Sequence[Adapter]) -> dict[str, ModelworksError]:
        """Load adapters, each verified against what its trained graph answered.

        Returns:
            Why some were refused, by version id.

        Raises:
            UnsupportedArchitecture: the base model's graph cannot carry adapters.
        """
        with self._changing:
            with self._lock:
                kept = list(self._loaded.values())
                placed = {adapter.version_id for adapter in self._placed}
            again = [each for each in adapters if each.version_id in placed]
            new = [each for each in adapters if each.version_id not in placed]
            refused = self._build(kept + again, new) if new else {}
            with self._lock:
                self._loaded |= {each.version_id: each for each in adapters if each.version_id not in refused}
                on_graph = {each.version_id for each in self._placed}
                self._loaded = {version_id: each for version_id, each in self._loaded.items() if version_id in on_graph}
            return refused

    def unload(self, version_ids: Collection[str]) -> None:
        """Accept no more requests for these; those under way are finished."""
        with self._lock:
            for version_id in version_ids:
                self._loaded.pop(version_id, None)

    # --- a new graph ------------------------------------------------------------------------------------------------

    def _build(self, kept: Sequence[Adapter], new: Sequence[Adapter]) -> dict[str, ModelworksError]:
        refused: dict[str, ModelworksError] = {}
        for number, adapter in enumerate((*kept, *new)):
            try:
                if number - len(refused) == MOST_ADAPTERS:
                    raise InvalidRequest(
                        f"A deployment holds at most {MOST_ADAPTERS} adapters.", hint="Deploy the base a second time for more."
                    )
                adapter.pairs(layer_names(self._graph.shape))
            except ModelworksError as error:
                refused[adapter.version_id] = error
        if all(each.version_id in refused for each in new):
            return refused
        with self._room():
            return self._exchange(kept, new, refused)

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Where a graph is compiled in the place of the one that answers: empty that place, and fill it whatever happens."""
        if not self._in_place:
            yield
            return
        with self._lock:
            before, self._waiting = self._engine, []
        try:
            while before.num_running and not self._closed:
                time.sleep(_RETIRE_POLL_S)
            before.close()
            _give_back()
            if self._closed:
                raise Unavailable("The replica is shutting down.", hint="Try again.")
            try:
                yield
            finally:
                with self._lock:
                    folder = self._folder or self._graph.folder
                    placed = [each.version_id for each in self._placed]
                    unchanged = self._engine is before and not self._closed
                if unchanged:
                    again = self._open_engine(folder, placed)
                    with self._lock:
                        self._engine, closed = again, self._closed
                    if closed:
                        again.close()
        finally:
            self._let_in()

    def _let_in(self) -> None:
        with self._lock:
            on_graph = {None, *(each.version_id for each in self._placed)}
            for each in self._waiting or ():
                each.begin(self._engine, known=each.adapter in on_graph)
            self._waiting = None

    def _exchange(
        self, kept: Sequence[Adapter], new: Sequence[Adapter], refused: dict[str, ModelworksError]
    ) -> dict[str, ModelworksError]:
        """Compile, prove and switch to a graph with all that are not refused; returns why some are."""
        while True:
            placed = [each for each in (*kept, *new) if each.version_id not in refused]
            fresh = [each for each in new if each.version_id not in refused]
            if not fresh:
                return refused
            folder = _new_folder()
            try:
                self._write(folder, placed)
                found, answers = self._prove(folder, placed, fresh)
                refused |= found
                if found:
                    shutil.rmtree(folder, ignore_errors=True)
                    continue
                engine = self._open_engine(folder, [each.version_id for each in placed])
                try:
                    self._agree(engine, answers)
                except BaseException:
                    engine.close()
                    raise
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            self._switch(engine, folder, placed)
            return refused

    def _write(self, folder: Path, placed: Sequence[Adapter]) -> None:
        graph = ov.Core().read_model(self._graph.folder / "openvino_model.xml")
        pairs = [each.pairs(layer_names(self._graph.shape)) for each in placed]
        put_adapters(graph, self._graph.checkpoint, pairs, int8=self._graph.int8)
        graph.set_rt_info("f32", ["runtime_options", "KV_CACHE_PRECISION"])
        ov.serialize(graph, str(folder / "openvino_model.xml"), str(folder / "openvino_model.bin"))
        del graph, pairs
        _give_back()

    def _prove(
        self, folder: Path, placed: Sequence[Adapter], fresh: Iterable[Adapter]
    ) -> tuple[dict[str, ModelworksError], list[_Answer]]:
        """Ask the graph alone: which adapters are refused, and what the others answer to their probes."""
        decoder = GraphDecoder(folder, self._graph.properties)
        refused: dict[str, ModelworksError] = {}
        answers: list[_Answer] = []
        numbers = {each.version_id: number for number, each in enumerate(placed, start=1)}
        for adapter in fresh:
            ids = list(adapter.probe.ids)
            state = decoder.new_state()
            plain = decoder.read(state, ids, 0)
            if not answers:
                answers.append(_Answer(adapter, None, _continued(decoder, state, plain, len(ids))))
            named = [token + numbers[adapter.version_id] * self._graph.shape.vocab_size for token in ids]
            state = decoder.new_state()
            logits = decoder.read(state, named, 0)
            moved = float(np.abs(logits - plain).max())
            try:
                if not moved > _UNMOVED * max(1.0, adapter.probe.spread):
                    raise IntegrityFailed(
                        f"The adapter {adapter.ref!r} changes nothing: the logits after its probe differ from the base's by "
                        f"{moved:.3g}.",
                        hint="Load the adapter that was trained.",
                        code="adapter_changes_nothing",
                    )
                adapter.probe.check(logits, self._graph.tolerance, adapter.ref)
            except ModelworksError as error:
                refused[adapter.version_id] = error
                continue
            answers.append(_Answer(adapter, adapter.version_id, _continued(decoder, state, logits, len(ids))))
        return refused, answers

    def _agree(self, engine: OpenVINOEngine, answers: Iterable[_Answer]) -> None:
        """Ask the batching engine the same: it must use the adapter, or none, for the prompt and for what follows it.

        Raises:
            IntegrityFailed: it answers otherwise.
        """
        for answer in answers:
            probe = answer.adapter.probe
            allowed = self._graph.tolerance * max(1.0, probe.spread)
            for (token, logprob), (got, said) in zip(answer.steps, _ask(engine, probe, answer.version_id), strict=True):
                if not abs(logprob - said) <= allowed:
                    raise IntegrityFailed(
                        f"With the adapter {answer.adapter.ref!r} the batching engine answers otherwise than the graph alone: "
                        f"a log-probability of {'the base' if answer.version_id is None else 'it'} is {said:.3g}, "
                        f"not {logprob:.3g}.",
                        code="adapter_not_used",
                    )
                if got != token:
                    break  # two tokens that are as good as alike: what follows differs rightly

    def _switch(self, engine: OpenVINOEngine, folder: Path, placed: list[Adapter]) -> None:
        with self._lock:
            old, old_folder = self._engine, self._folder
            self._engine, self._folder, self._placed = engine, folder, placed
            closed = self._closed
            if not closed:
                self._retiring.append(old)
        if closed:
            engine.close()
            shutil.rmtree(folder, ignore_errors=True)
            return
        threading.Thread(target=self._retire, args=(old, old_folder), name="retire-engine", daemon=True).start()

    def _retire(self, old: OpenVINOEngine, folder: Path | None) -> None:
        while old.num_running and not self._closed:
            time.sleep(_RETIRE_POLL_S)
        old.close()
        with self._lock:
            self._retiring.remove(old)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


class _Waiting:
    """A choice that begins when a load has made room for it."""

    def __init__(self, prompt_ids: list[int], decoding: Decoding, emit: Emit) -> None:
        self.adapter = decoding.adapter
        self.cancelled = False
        self._asked = (prompt_ids, decoding, emit)
        self._begun: Ticket | None = None
        self._lock = threading.Lock()

    def begin(self, engine: OpenVINOEngine, *, known: bool) -> None:
        """Start on `engine`, or end with why not; `known`: its adapter is there."""
        with self._lock:
            if self.cancelled:
                return
            try:
                if not known:
                    raise NotFound(f"The adapter {self.adapter} is no longer loaded here.", code="no_adapter")
                self._begun = engine.start(*self._asked)
            except ModelworksError as error:
                self._asked[2](error)

    def cancel(self) -> None:
        with self._lock:
            self.cancelled = True
            if self._begun is not None:
                self._begun.cancel()


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the graph alone answers to an adapter's probe, with the adapter or (None) with the base model."""

    adapter: Adapter
    version_id: str | None
    #: Greedy tokens with the natural logs of their probabilities.
    steps: list[tuple[int, float]]


def _continued(decoder: GraphDecoder, state: Any, logits: npt.NDArray[np.float32], position: int) -> list[tuple[int, float]]:
    steps: list[tuple[int, float]] = []
    for place in range(position, position + _CHECKED_TOKENS):
        steps.append(_highest(logits))
        logits = decoder.read(state, [steps[-1][0]], place)
    return steps


def _highest(logits: npt.NDArray[np.float32]) -> tuple[int, float]:
    """The likeliest token and the natural log of its probability."""
    values = logits.astype(np.float64)
    token = int(values.argmax())
    return token, -math.log(float(np.exp(values - values[token]).sum()))


def _ask(engine: OpenVINOEngine, probe: Probe, version_id: str | None) -> list[tuple[int, float]]:
    """Greedy tokens and their log-probabilities after the probe."""
    steps: queue.Queue[Step | ModelworksError] = queue.Queue()
    decoding = Decoding(max_tokens=_CHECKED_TOKENS, temperature=0.0, logprobs=True, adapter=version_id)
    engine.start(list(probe.ids), decoding, steps.put)
    found: list[tuple[int, float]] = []
    while len(found) < _CHECKED_TOKENS:
        try:
            step = steps.get(timeout=_CHECK_TIMEOUT_S)
        except queue.Empty:
            raise Unavailable("The batching engine does not answer the check of a load.") from None
        if isinstance(step, ModelworksError):
            raise step
        if step.token_id is not None and step.logprob is not None:
            found.append((step.token_id, step.logprob))
    return found


def _give_back() -> None:
    """Return freed memory to the system: glibc keeps what was many small matrices. Other C libraries see to it themselves."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _new_folder() -> Path:
    """A folder for one graph, beside the converted models; those of processes that are gone are removed."""
    parent = cache_folder()
    for folder in parent.glob(f"{_FOLDER_PREFIX}*"):
        pid = folder.name.removeprefix(_FOLDER_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_FOLDER_PREFIX}{os.getpid()}-", dir=parent))
