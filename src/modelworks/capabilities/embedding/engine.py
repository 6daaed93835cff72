"""Compute rows in batches of like length, whoever asked for them: one thread, OpenVINO or torch.

What is waiting when the thread is free goes together, so that many small requests cost little more than one large one.
"""

from __future__ import annotations

import logging
import math
import threading
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from modelworks.capabilities.embedding.encoder import Row, chunks, padded
from modelworks.contract.errors import MissingExtra, ModelworksError, Unavailable

log = logging.getLogger(__name__)

#: Rows that are looked at together for a batch: what comes later does not wait for more than these.
_WINDOW_ROWS = 256
#: The largest angle (as 1 - cosine) between a vector of the engine and the checkpoint's, and the largest difference of a score.
_WORST_ANGLE = {"f32": 1e-5, "bf16": 2e-3}
_WORST_SCORE = {"f32": 1e-3, "bf16": 0.03}

#: Rows as numbers [n, d].
Compute = Callable[[Sequence[Row]], np.ndarray[Any, Any]]


@dataclass(eq=False, slots=True)
class _Waiting:
    row: Row
    result: np.ndarray[Any, Any] | None = None
    error: Exception | None = None


class Batcher:
    """Computes rows for many callers in one thread.

    Args:
        compute: what is asked for each batch.
        max_batch_tokens: tokens of a batch, padding included; a longer row goes alone.
    """

    def __init__(self, compute: Compute, max_batch_tokens: int) -> None:
        self._compute = compute
        self._max_batch_tokens = max_batch_tokens
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="embedding", daemon=True)
        self._thread.start()

    def run(self, rows: Sequence[Row]) -> np.ndarray[Any, Any]:
        """The numbers of these rows, in their order; [n, d].

        Raises:
            Unavailable: the engine was closed.
        """
        waiting = [_Waiting(row) for row in rows]
        with self._changed:
            if self._closing:
                raise Unavailable("The model is being unloaded.", retry_after_s=1)
            self._queue.extend(waiting)
            self._changed.notify_all()
            self._changed.wait_for(lambda: all(each.result is not None or each.error is not None for each in waiting))
        failed = next((each.error for each in waiting if each.error is not None), None)
        if failed is not None:
            raise failed
        return np.stack([each.result for each in waiting if each.result is not None])

    def close(self) -> None:
        """Finish the batch under way, refuse what waits and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if self._closing:
                    for each in self._queue:
                        each.error = Unavailable("The model is being unloaded.", retry_after_s=1)
                    self._queue.clear()
                    self._changed.notify_all()
                    return
                window = [self._queue.popleft() for _ in range(min(_WINDOW_ROWS, len(self._queue)))]
            for batch in chunks([len(each.row.ids) for each in window], self._max_batch_tokens):
                self._answer([window[index] for index in batch])

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        try:
            numbers = self._compute([each.row for each in batch])
            error: Exception | None = None
        except Exception as failure:  # of every one who waits for it
            error = failure
        with self._changed:
            for place, each in enumerate(batch):
                if error is None:
                    each.result = numbers[place]
                else:
                    each.error = error
            self._changed.notify_all()


def torch_compute(module: nn.Module, precision: Literal["f32", "bf16"]) -> Compute:
    """Compute with torch, in f32 or under autocast to bf16."""

    def compute(rows: Sequence[Row]) -> np.ndarray[Any, Any]:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            found: np.ndarray[Any, Any] = module(**padded(rows)).float().numpy()
            return found

    return compute


def openvino_compute(module: nn.Module, example: Sequence[Row], precision: str, num_threads: int | None) -> Compute:
    """Compute with OpenVINO, which traces the module on `example`.

    Raises:
        MissingExtra: OpenVINO is not installed.
        RuntimeError: the module cannot be converted.
    """
    try:
        import openvino
    except ImportError:
        raise MissingExtra.of("openvino", "embedding") from None
    # Tracing warns of every size that it takes for a constant; what it got wrong shows on the probe.
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = openvino.convert_model(module, example_input=padded(example))
    hints: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if num_threads is not None:
        hints["INFERENCE_NUM_THREADS"] = num_threads
    request = openvino.Core().compile_model(graph, "CPU", hints).create_infer_request()

    def compute(rows: Sequence[Row]) -> np.ndarray[Any, Any]:
        feed = {name: tensor.numpy() for name, tensor in padded(rows).items()}
        return np.array(request.infer(feed)[0], dtype=np.float32)

    return compute


def has_bf16() -> bool:
    """Whether OpenVINO computes in bf16 on this processor without emulating it."""
    try:
        import openvino
    except ImportError:
        raise MissingExtra.of("openvino", "embedding") from None
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def strays(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], precision: str) -> bool:
    """Whether numbers of an engine are not those of the checkpoint, as far as the precision allows: [n, d] or scores [n, 1]."""
    if not np.isfinite(found).all():
        return True
    if wanted.shape[1] == 1:
        probabilities = 1 / (1 + np.exp(-found)) - 1 / (1 + np.exp(-wanted))
        return bool(np.abs(probabilities).max() > _WORST_SCORE[precision])
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    cosines = (found * wanted).sum(axis=1) / np.maximum(lengths, 1e-12)
    return bool((1 - cosines).max() > _WORST_ANGLE[precision])


def open_compute(
    module: nn.Module, probe: Sequence[Row], *, engine: str, precision: str, num_threads: int | None
) -> tuple[Compute, str]:
    """What computes a module, and its name with the precision ("openvino bf16").

    Numbers on `probe` are held against the checkpoint's in f32. What strays is not used: bf16 gives way to f32 where the
    choice is ours, OpenVINO to torch where no engine was asked for.

    Args:
        engine: "auto", "openvino" or "torch".
        precision: "auto", "f32" or "bf16".

    Raises:
        Unavailable: the engine or precision that was asked for cannot compute this model.
    """
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    wanted = torch_compute(module, "f32")(probe)
    if not math.isfinite(float(np.abs(wanted).max())):
        raise Unavailable("The checkpoint computes something that is no number.", hint="Its weights are damaged.")
    reasons: list[str] = []
    if engine != "torch":
        for tried in _precisions(precision):
            try:
                compute = openvino_compute(module, probe, tried, num_threads)
                if not strays(compute(probe), wanted, tried):
                    return compute, f"openvino {tried}"
                reasons.append(f"{tried} strays from the checkpoint")
            except ModelworksError:
                if engine == "openvino":
                    raise
                break
            except Exception as failure:  # the converter raises whatever it meets
                reasons.append(f"{type(failure).__name__}: {failure}"[:300])
                break
        if engine == "openvino":
            raise Unavailable(
                f"OpenVINO does not compute this model: {'; '.join(reasons)}.",
                hint="Use the engine transformers.",
                code="engine_failed",
            )
        if reasons:
            log.warning("OpenVINO does not compute this model, torch does: %s", "; ".join(reasons))
    for tried in (precision,) if precision == "bf16" else ("f32",):
        compute = torch_compute(module, "bf16" if tried == "bf16" else "f32")
        if not strays(compute(probe), wanted, tried):
            return compute, f"torch {tried}"
    raise Unavailable("bf16 strays from what this checkpoint computes in f32.", hint="Use precision=f32.", code="engine_failed")


def _precisions(precision: str) -> tuple[str, ...]:
    if precision != "auto":
        return (precision,)
    try:
        return ("bf16", "f32") if has_bf16() else ("f32",)
    except MissingExtra:
        return ("f32",)
