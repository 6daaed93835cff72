"""Make smaller versions of a model, and say what each of them saves and costs.

Method: round-to-nearest in groups of 32 numbers with one scale each, as GGUF's Q8_0 and Q4_0 define it, which the
embedded engine computes with as they are. Groups with a scale and a minimum (Q4_1) were tried and left out: the engine
rounds the minimum once more, so that it computes something else than what is stored.
"""

from __future__ import annotations

import shutil
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from modelworks.capabilities.text.engines.base import Decoding, Step, TokenEngine
from modelworks.capabilities.text.engines.opening import Checkpoint, open_openvino, probe_ids
from modelworks.capabilities.text.engines.probe import METADATA_KEY, STORED_KEY, Probe
from modelworks.capabilities.text.engines.transformers_model import TransformersDecoder, load_model
from modelworks.capabilities.text.evaluate import measured
from modelworks.capabilities.text.evaluation.report import SampleReport
from modelworks.capabilities.text.gguf_export import FOLDER_FILES, GgufType, Shape, export
from modelworks.capabilities.text.prompt_format import PromptFormat, served_format
from modelworks.capabilities.text.schemas import PROMPT_FORMAT, Precision, Quantised, QuantiseParams, ServeOptions
from modelworks.capabilities.text.weights import GGUF_WEIGHTS
from modelworks.contract import LocalModel
from modelworks.contract.errors import InvalidRequest, ModelworksError
from modelworks.contract.evaluation import SampleResult
from modelworks.contract.quantisation import REPORT_FILE, MetricDifference, QuantiseReport, Variant
from modelworks.contract.run import Run

KINDS: Mapping[Quantised, GgufType] = {"int8": "q8_0", "int4": "q4_0"}
#: Data sets that the versions are measured on: held-out text, and the task that the model is for.
_ROLES = ("test", "task")
#: Answers that are generated at the same time when speed is measured, and how often.
_BATCH, _ROUNDS = 8, 3
_CACHE_BYTES = 64 << 20
_NUM_RESAMPLES, _AT_A_TIME, _MIN_SAMPLES = 2000, 50, 5
#: What a smaller version keeps of the full one's metadata.
_KEPT = (
    "name",
    "architecture",
    "context_length",
    "num_parameters",
    "vocab_size",
    "template_digest",
    PROMPT_FORMAT,
    METADATA_KEY,
)


@dataclass(frozen=True, slots=True)
class _Measured:
    variant: Variant
    reports: Mapping[str, SampleReport]


def quantise(run: Run, params: QuantiseParams) -> QuantiseReport:
    """Save one version per precision with `run.save`, and the report of what each costs.

    Inputs: model "base"; optionally data set "test" (held-out text) and data set "task" (conversations, preferences, multiple
    choice), on which all are measured.

    Every version is opened by the engine that will serve it, and held against the full model, before it is saved.

    Raises:
        InvalidRequest: the model is quantised already, or its rows cannot be stored in groups of 32.
        UnsupportedArchitecture: GGUF does not know it.
        IntegrityFailed: a quantised matrix or the engine's logits are further from the full model's than the precision
            explains.
        Cancelled: the user stopped the run.
    """
    if params.num_threads is not None:
        torch.set_num_threads(params.num_threads)
    base = run.model("base")
    checkpoint = Checkpoint.of(base)
    if checkpoint.quantised is not None:
        raise InvalidRequest(
            f"The model {base.ref!r} is stored as {checkpoint.quantised} already.",
            hint="Quantise the model that it was made from.",
            param="inputs.base",
        )
    Shape.of(checkpoint.config)
    prompt_format = served_format(base)
    ids = probe_ids(checkpoint.vocab_size) if checkpoint.probe is None else list(checkpoint.probe.ids)
    num_steps = 1 + len(params.to)
    run.progress(0, num_steps, "versions")
    full_logits = _logits(load_model(base.path, torch.float32), ids)
    full = _measure(run, params, base, "full", prompt_format, ids, full_logits)
    found = [full]
    for number, precision in enumerate(params.to, 1):
        run.raise_if_cancelled()
        folder = run.workdir / precision
        _write(base.path, folder, precision)
        probe = Probe.taken(load_model(folder, torch.float32), ids)
        metadata = _metadata(base, precision, probe)
        smaller = base.model_copy(
            update={
                "path": folder,
                "digest": f"{base.digest}:{precision}",
                "ref": f"{base.ref} ({precision})",
                "metadata": metadata,
            }
        )
        each = _compared(_measure(run, params, smaller, precision, prompt_format, ids, full_logits), full, run.seed)
        found.append(each)
        run.save(folder, kind="model", metadata=metadata | {"part": precision, "metrics": _metrics_of(each.variant)})
        run.progress(number + 1, num_steps, "versions")
    report = QuantiseReport(variants=[each.variant for each in found])
    file = run.workdir / REPORT_FILE
    file.write_text(report.model_dump_json(indent=2) + "\n", "utf-8")
    run.save(file, kind="report")
    run.progress(num_steps, num_steps, "versions")
    return report


def _write(source: Path, folder: Path, precision: Quantised) -> None:
    folder.mkdir()
    for name in ("tokenizer.json", *FOLDER_FILES):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    export(source, folder / GGUF_WEIGHTS, KINDS[precision])


def _metadata(base: LocalModel, precision: Quantised, probe: Probe) -> dict[str, Any]:
    kept = {name: base.metadata[name] for name in _KEPT if base.metadata.get(name) is not None}
    return kept | {
        "task": base.task or "text-generation",
        "level": base.level,
        "licence": base.licence,
        "method": "quantise",
        "quantised": {
            "precision": precision,
            "kind": KINDS[precision],
            "group": 32,
            "base": base.ref,
            "base_digest": base.digest,
        },
        STORED_KEY: probe.record(),
    }


def _measure(
    run: Run,
    params: QuantiseParams,
    model: LocalModel,
    name: str,
    prompt_format: PromptFormat,
    ids: list[int],
    full_logits: npt.NDArray[np.float32],
) -> _Measured:
    checkpoint = Checkpoint.of(model)
    # The engine looks at the numbers first: what it refuses is not worth measuring.
    speed = _tokens_per_cpu_s(checkpoint, params, ids)
    graph = load_model(model.path, torch.float32)
    variant = Variant(
        name=name,
        num_bytes=sum(file.stat().st_size for file in model.path.iterdir() if file.suffix in (".safetensors", ".gguf")),
        tokens_per_cpu_s=speed,
        logit_difference=float(np.abs(_logits(graph, ids) - full_logits).max()),
    )
    reports: dict[str, SampleReport] = {}
    for role in _ROLES:
        if run.has_input(role):
            run.raise_if_cancelled()
            reports[role] = measured(run, run.dataset(role).path, params, checkpoint, prompt_format, graph)
            variant.metrics[role] = reports[role].metrics()
    return _Measured(variant, reports)


def _logits(graph: Any, ids: list[int]) -> npt.NDArray[np.float32]:
    decoder = TransformersDecoder(graph)
    return decoder.read(decoder.new_state(), ids, 0)


def _tokens_per_cpu_s(checkpoint: Checkpoint, params: QuantiseParams, ids: list[int]) -> float:
    """The median over rounds of greedy answers, eight at a time, in the embedded engine; the first round is not counted."""
    precision: Precision = "f32" if checkpoint.quantised is None else "auto"
    context = min(checkpoint.context_length, len(ids) + params.speed_tokens)
    options = ServeOptions(
        precision=precision,
        max_batch=_BATCH,
        prefix_caching=False,
        context_length=max(16, context),
        cache_size_bytes=_CACHE_BYTES,
        num_threads=params.num_threads,
    )
    engine = open_openvino(checkpoint, options).engine
    num_tokens = max(1, context - len(ids))
    try:
        rounds = [_round(engine, ids, num_tokens) for _ in range(1 + _ROUNDS)]
    finally:
        engine.close()
    return statistics.median(rounds[1:])


def _round(engine: TokenEngine, ids: list[int], num_tokens: int) -> float:
    done, failed = threading.Semaphore(0), list[ModelworksError]()

    def emit(step: Step | ModelworksError) -> None:
        if isinstance(step, ModelworksError):
            failed.append(step)
        if isinstance(step, ModelworksError) or step.finish is not None:
            done.release()

    started = time.process_time()
    for _ in range(_BATCH):
        engine.start(ids, Decoding(max_tokens=num_tokens, temperature=0.0), emit)
    for _ in range(_BATCH):
        done.acquire()
    if failed:
        raise failed[0]
    return _BATCH * num_tokens / max(time.process_time() - started, 1e-6)


def _compared(each: _Measured, full: _Measured, seed: int) -> _Measured:
    """With the differences from the full model, sample by sample."""
    for role, report in each.reports.items():
        before, after = full.variant.metrics[role], each.variant.metrics[role]
        each.variant.differences[role] = {
            name: MetricDifference(full=before[name], quantised=after[name])
            if (interval := _interval(full.reports[role].samples, report.samples, name, seed)) is None
            else MetricDifference(full=before[name], quantised=after[name], low=interval[0], high=interval[1])
            for name in after
            if name in before
        }
    return each


def _interval(
    full: Sequence[SampleResult], quantised: Sequence[SampleResult], metric: str, seed: int
) -> tuple[float, float] | None:
    """The 95 % interval of the difference of two weighted means by a paired percentile bootstrap (Efron 1979) over samples."""
    theirs = {each.sample: each.values for each in quantised}
    pairs = [
        (*each.values[metric], *theirs[each.sample][metric])
        for each in full
        if metric in each.values and metric in theirs.get(each.sample, {})
    ]
    if len(pairs) < _MIN_SAMPLES:
        return None
    before, before_weight, after, after_weight = np.asarray(pairs, dtype=np.float64).T
    sums = np.stack([before * before_weight, before_weight, after * after_weight, after_weight])
    chance = np.random.default_rng(seed)
    drawn = [
        sums[:, chance.integers(0, len(pairs), (min(_AT_A_TIME, _NUM_RESAMPLES), len(pairs)))].sum(axis=2)
        for _ in range(_NUM_RESAMPLES // _AT_A_TIME)
    ]
    base, base_weight, new, new_weight = np.concatenate(drawn, axis=1)
    low, high = np.quantile(new / new_weight - base / base_weight, [0.025, 0.975])
    return float(low), float(high)


def _metrics_of(variant: Variant) -> dict[str, float]:
    """What the catalog keeps: the numbers on held-out text under the names that evaluations use, the task's behind its role."""
    found = dict(variant.metrics.get("test", {}))
    found |= {f"task_{name}": value for name, value in variant.metrics.get("task", {}).items()}
    found |= {"num_bytes": float(variant.num_bytes), "logit_difference": variant.logit_difference}
    return found if variant.tokens_per_cpu_s is None else found | {"tokens_per_cpu_s": variant.tokens_per_cpu_s}
