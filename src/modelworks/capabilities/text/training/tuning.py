"""Tune a base model on conversations or preferences: all of its weights, or a low-rank adapter.

What is trained is the very row of ids that is served (`rows`), and what is saved is loaded again and compared with the graph
that was trained, before anything is handed over.
"""

from __future__ import annotations

import logging
import math
import random
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import GenerationConfig

from modelworks.capabilities.text.checkpoint import Position
from modelworks.capabilities.text.datasets import ChatSample, PreferenceSample, PromptSample, read_chat, read_preferences
from modelworks.capabilities.text.datasets.samples import digest_of
from modelworks.capabilities.text.engines.adapter import file_digests
from modelworks.capabilities.text.engines.opening import Checkpoint
from modelworks.capabilities.text.engines.probe import METADATA_KEY, Probe
from modelworks.capabilities.text.engines.transformers_model import load_model
from modelworks.capabilities.text.prompt_format import PromptFormat, served_format
from modelworks.capabilities.text.schemas import (
    PROMPT_FORMAT,
    AdapterParams,
    CombineParams,
    DistillationParams,
    LoraParams,
    PreferenceParams,
    ReinforcementParams,
    SupervisedParams,
    TuningParams,
)
from modelworks.capabilities.text.training import adapter as adapters
from modelworks.capabilities.text.training.batches import RowSource, answers, answers_in_one_shape, check_packing
from modelworks.capabilities.text.training.disk import bytes_of, enough_room
from modelworks.capabilities.text.training.distillation import Distillation, teacher_of
from modelworks.capabilities.text.training.loop import Objective, Schedule, Source, TrainingLoop
from modelworks.capabilities.text.training.precision import Precision
from modelworks.capabilities.text.training.preference import Pair, PairSource, Preference, pair_of, with_references
from modelworks.capabilities.text.training.rows import Row, conversation_rows, within
from modelworks.capabilities.text.training.spread import Spread
from modelworks.contract.adapter import METADATA_KEY as ADAPTER_RECORD
from modelworks.contract.adapter import AdapterRecord
from modelworks.contract.errors import IntegrityFailed, InvalidRequest
from modelworks.contract.run import LocalModel, Run

log = logging.getLogger(__name__)

Params = SupervisedParams | LoraParams | PreferenceParams | DistillationParams
_S = TypeVar("_S", ChatSample, PreferenceSample, PromptSample)

#: Largest difference of a logit between the trained graph and the saved weights, relative to the logits' spread: rounding of
#: a merge in f32 stays two orders below it.
_SAVED_TOLERANCE = 1e-3
PROBE_ROWS, _PROBE_TOKENS = 4, 64


@dataclass(frozen=True, slots=True)
class _Material:
    """What is trained on, and what is found out about it on the way."""

    source: RowSource | PairSource
    objective: Objective
    #: Rows on whose logits the saved model must agree with the trained one.
    probe: list[Row]
    num_samples: int
    num_too_long: int


def tune(run: Run, params: Params) -> None:
    """Train and save with `run.save`: a Hugging Face folder, and for an adapter `adapter/` inside it, as peft reads it.

    Inputs: model "base"; model "teacher" for the method `distillation`; data set "train" of conversations, or of preferences
    for the method `preference`; optionally data set "validation", else a part of "train" is held out. For the method `lora`
    optionally model "adapter", which the training goes on from, and data set "replay" of conversations that it knows.

    Raises:
        InvalidRequest: there is no base model, it has no usable chat template, the adapter to go on from does not fit, or the
            loss stopped being a number.
        InvalidData: the data set holds no sample that can be learnt from; the message names file and line.
        IntegrityFailed: the base model is not spoken to as it was trained, or the saved weights compute something else than
            those that were trained.
        Cancelled: the user stopped the run; a checkpoint was stored first.
    """
    require_base(run, params)
    if params.num_threads is not None:
        torch.set_num_threads(params.num_threads)
    base = run.model("base")
    checkpoint = Checkpoint.of(base)
    prompt_format = served_format(base).for_training()
    run.progress(0, 1, "steps")
    # All of the data first: a fault in the last line is told before anything is computed.
    parts = read_parts(run, params, read_preferences if isinstance(params, PreferenceParams) else read_chat)
    num_new = len(parts[0])
    if isinstance(params, LoraParams) and run.has_input("replay"):
        parts = with_replay(parts[0], list(read_chat(run.dataset("replay").path)), params.replay_fraction, run.seed), parts[1]
    spread = Spread(run.world, params.strategy)
    num_leaked = count_leaked(*parts)
    if num_leaked:
        log.warning(
            "%d of %d validation samples are in the training data too: their loss says little", num_leaked, len(parts[1])
        )
    model = load_model(base.path, torch.float32)
    length = min(params.max_length or checkpoint.context_length, checkpoint.context_length)
    material = _material(run, params, prompt_format, model, length, parts, spread)
    if params.patience is not None and next(iter(material.source.validation()), None) is None:
        raise no_patience()
    run.raise_if_cancelled()
    shape = params if isinstance(params, LoraParams) else getattr(params, "adapter", None)
    start: Path | None = None
    if isinstance(params, LoraParams) and run.has_input("adapter"):
        start = adapters.start_of(run.model("adapter"), base, prompt_format.record(), params)

    def prepared(loaded: Any) -> Any:
        if params.gradient_checkpointing:
            loaded.activation_checkpointing_enable()
        # In every process the same.
        torch.manual_seed(run.seed)
        if shape is None:
            return loaded
        carrying = adapters.attach(loaded, shape)
        if start is not None:
            adapters.put(carrying, adapters.read(start))
        return carrying

    model = prepared(model)
    num_trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    schedule = schedule_of(params, material.source.steps_per_epoch)
    source: Source = material.source
    counts = {
        "num_samples": float(material.num_samples),
        "num_replayed": float(len(parts[0]) - num_new),
        "num_too_long": float(material.num_too_long),
        "num_leaked": float(num_leaked),
        "num_trained_parameters": float(num_trained),
    }

    def again() -> Any:
        return prepared(load_model(base.path, torch.float32))

    def keep(at: Position, found: Mapping[str, float]) -> None:
        with unmoved():
            kept = spread.copied(model, again)
            if kept is not None:
                measured = figures(at, found, counts)
                save_tuned(run, params, base, kept, shape, prompt_format, material.probe, at, measured, is_kept=True)

    precision = Precision(params if isinstance(params, SupervisedParams) else None, run.workdir, run.world.size)
    loop = TrainingLoop(run, schedule, model, prompt_format.tokenizer, source, material.objective, spread, keep, precision)
    done = loop.finish()
    metrics = loop.validation_metrics()
    if metrics:
        run.log(done.step, **metrics)
    whole = spread.finished(model, again)
    if whole is not None:
        measured = figures(done, metrics, counts)
        save_tuned(run, params, base, whole, shape, prompt_format, material.probe, done, measured)


def figures(at: Position, found: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
    """The metrics of a model that is saved: what the held-out data say of it, its losses, and what it learnt from."""
    losses = {"loss": at.last_loss, "first_loss": at.first_loss, "tokens_seen": float(at.tokens_seen)}
    return {**found, **losses, **counts}


@contextmanager
def unmoved() -> Iterator[None]:
    """Whatever is drawn inside, the training draws afterwards what it would have drawn without."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_available() else ()):
        yield


def require_base(run: Run, params: TuningParams | CombineParams) -> None:
    """Raise InvalidRequest unless the run has a base model."""
    if not run.has_input("base"):
        method = getattr(params, "method", "")
        raise InvalidRequest(
            f"The method {method!r} needs a base model.", hint="Give one under the role base.", param="inputs.base"
        )


def no_patience() -> InvalidRequest:
    """What to raise where training is to stop early and nothing is held out."""
    return InvalidRequest(
        "patience needs samples that are held out.",
        hint="Give a data set validation, or a validation_fraction above 0.",
        param="patience",
    )


def _material(
    run: Run,
    params: Params,
    prompt_format: PromptFormat,
    model: Any,
    length: int,
    parts: tuple[list[Any], list[Any]],
    spread: Spread,
) -> _Material:
    if isinstance(params, PreferenceParams):
        training, validation = parts
        pairs, too_long = _pairs(prompt_format, training, length)
        held_out = _pairs(prompt_format, validation, length)[0] if validation else []
        source = PairSource(
            with_references(model, pairs, spread),
            with_references(model, held_out, spread),
            batch_size=params.batch_size,
            accumulation=params.accumulation,
            seed=run.seed,
            spread=spread,
        )
        probe = [pair.chosen for pair in pairs[:PROBE_ROWS]]
        return _Material(source, Preference(params.beta), probe, len(pairs), too_long)
    chats, held_out_chats = parts
    rows, too_long = within(_rows(prompt_format, chats), length)
    held_out_rows = within(_rows(prompt_format, held_out_chats), length)[0] if held_out_chats else []
    if params.packing:
        check_packing(model, rows)
    is_compiled = isinstance(params, SupervisedParams) and params.compiled
    row_source = RowSource(
        rows,
        held_out_rows,
        batch_size=params.batch_size,
        accumulation=params.accumulation,
        length=length,
        packing=params.packing,
        seed=run.seed,
        spread=spread,
        same_shape=is_compiled,
    )
    objective: Objective = answers_in_one_shape if is_compiled else answers
    if isinstance(params, DistillationParams):
        objective = Distillation(teacher_of(run, prompt_format).to(spread.device), len(prompt_format.tokenizer), params)
    return _Material(row_source, objective, rows[:PROBE_ROWS], len(rows), too_long)


def read_parts(run: Run, params: TuningParams, read: Any) -> tuple[list[Any], list[Any]]:
    """Training and validation samples."""
    training = list(read(run.dataset("train").path))
    if run.has_input("validation"):
        return training, list(read(run.dataset("validation").path))
    return split_samples(training, params.validation_fraction)


def with_replay(fresh: Sequence[ChatSample], known: Sequence[ChatSample], fraction: float, seed: int) -> list[ChatSample]:
    """The new samples and, spread among them, so many of the known ones that they are about `fraction` of all.

    What a model knows is kept by rehearsing it (Robins 1995, "Catastrophic forgetting, rehearsal and pseudorehearsal").
    """
    new = {digest_of(sample) for sample in fresh}
    others = [sample for sample in known if digest_of(sample) not in new]
    wanted = min(len(others), math.ceil(len(fresh) * fraction / (1 - fraction)))
    chance = random.Random(seed)  # noqa: S311 - reproducible, not secret
    return [*fresh, *chance.sample(others, wanted)]


def count_leaked(training: Sequence[_S], validation: Sequence[_S]) -> int:
    """How many validation samples say exactly what a training sample says."""
    known = {digest_of(sample) for sample in training} if validation else set()
    return sum(1 for sample in validation if digest_of(sample) in known)


def split_samples(samples: Sequence[_S], fraction: float) -> tuple[list[_S], list[_S]]:
    """Split by what a sample says: copies of one never land on both sides, whatever their order in the files.

    Returns:
        (training, validation). At least one sample is held out where `fraction` is above 0 and there are two different ones.
    """
    digests = sorted({digest_of(sample) for sample in samples})
    num_held_out = min(max(1, round(fraction * len(digests))), len(digests) - 1) if fraction > 0 else 0
    held_out = set(digests[:num_held_out])
    return (
        [sample for sample in samples if digest_of(sample) not in held_out],
        [sample for sample in samples if digest_of(sample) in held_out],
    )


def _rows(prompt_format: PromptFormat, samples: Iterable[ChatSample]) -> Iterator[tuple[str, Row]]:
    for sample in samples:
        place = f"{sample.source}, line {sample.line}"
        for row in conversation_rows(prompt_format, sample.messages, sample.tools, sample.weights, place):
            yield place, row


def _pairs(prompt_format: PromptFormat, samples: Iterable[PreferenceSample], length: int) -> tuple[list[Pair], int]:
    found = [(f"{sample.source}, line {sample.line}", pair_of(prompt_format, sample)) for sample in samples]
    longer = {place: max(pair.chosen, pair.rejected, key=lambda row: len(row.ids)) for place, pair in found}
    _, num_too_long = within(iter(longer.items()), length)
    return [pair for place, pair in found if len(longer[place].ids) <= length], num_too_long


def schedule_of(params: TuningParams, steps_per_epoch: int) -> Schedule:
    """How long and how fast is trained, by the parameters."""
    num_steps = params.steps or max(1, math.ceil(params.epochs * steps_per_epoch))
    schedule = Schedule(
        num_steps=num_steps,
        learning_rate=params.learning_rate,
        min_learning_rate_ratio=params.min_learning_rate_ratio,
        warmup_steps=min(params.warmup_steps, num_steps // 10),
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_grad_norm,
        checkpoint_every=params.checkpoint_every,
        validate_every=params.validate_every,
        log_every=params.log_every,
        patience=params.patience,
    )
    return schedule.keeping(params.keep_epochs, steps_per_epoch)


def save_tuned(
    run: Run,
    params: Params | ReinforcementParams | CombineParams,
    base: LocalModel,
    model: Any,
    shape: AdapterParams | None,
    prompt_format: PromptFormat,
    probe: Sequence[Row],
    done: Position,
    metrics: dict[str, float],
    *,
    is_kept: bool = False,
) -> None:
    """Save the tuned model, its adapter merged or alone, once what was written computes what was trained.

    Args:
        is_kept: it is the model of an epoch before the last, which is named after its step.

    Raises:
        IntegrityFailed: it does not.
    """
    part = f"ckpt-step-{done.step}" if is_kept else None
    folder = run.workdir / (part or "model")
    expected = probe_logits(model, probe)
    taken = Probe.taken(model, probe[0].ids)
    hint = "Free some space and resume the run: it goes on from its last checkpoint."
    is_merged = shape is None or getattr(params, "merged", True)
    written = (each for each in model.parameters() if is_merged or each.requires_grad)
    with enough_room(folder, "the tuned model", bytes_of(written), hint):
        if shape is not None:
            adapters.write(model, folder / adapters.FOLDER, base.ref)
            prompt_format.write_record(folder / adapters.FOLDER)
        if is_merged:
            model = model if shape is None else adapters.merge(model)
            # The format brings the base model's own; some in circulation are refused by the library that would write them.
            model.generation_config = GenerationConfig()
            model.save_pretrained(folder)
            prompt_format.write(base.path, folder)
    context_length = int(model.config.get_text_config().max_position_embeddings)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    del model
    check_saved(folder, probe, expected, base=None if is_merged else base.path)
    metadata: dict[str, Any] = {
        "task": "text-generation",
        "level": params.level,
        "name": params.name,
        "licence": base.licence or run.dataset("train").licence,
        "metrics": metrics,
        "method": params.method,
        "steps": done.step,
        "context_length": context_length,
        "num_parameters": num_parameters,
        "template_digest": prompt_format.template,
        PROMPT_FORMAT: prompt_format.record(),
        METADATA_KEY: taken.record(),
    }
    if isinstance(params, DistillationParams):
        teacher = run.model("teacher")
        metadata["teacher"] = {"ref": teacher.ref, "digest": teacher.digest}
    if shape is not None:
        record = AdapterRecord(
            base=base.ref,
            base_digest=base.digest,
            folder=adapters.FOLDER,
            files=file_digests(folder / adapters.FOLDER),
            prompt_format=prompt_format.digest,
            rank=shape.rank,
            alpha=shape.alpha,
            targets=shape.targets,
        )
        metadata[ADAPTER_RECORD] = record.model_dump()
    run.save(folder, kind="model", metadata=metadata if part is None else {**metadata, "part": part})
    if is_kept:
        shutil.rmtree(folder)


def probe_logits(model: Any, probe: Sequence[Row]) -> list[torch.Tensor]:
    """Logits (positions, vocabulary) for the beginning of each row."""
    model.eval()
    with torch.no_grad():
        return [model(input_ids=torch.tensor([row.ids[:_PROBE_TOKENS]]), use_cache=False).logits[0].float() for row in probe]


def check_saved(folder: Path, probe: Sequence[Row], expected: Sequence[torch.Tensor], *, base: Path | None = None) -> None:
    """Load what was saved, as an engine will, and compare its logits with those of the graph that was trained.

    Args:
        base: the base model, where the folder holds an adapter alone.

    Raises:
        IntegrityFailed: they differ by more than rounding explains.
    """
    saved = load_model(folder if base is None else base, torch.float32)
    found = probe_logits(saved if base is None else adapters.wear(saved, folder / adapters.FOLDER), probe)
    for ours, theirs in zip(found, expected, strict=True):
        difference = float((ours - theirs).abs().max())
        allowed = _SAVED_TOLERANCE * max(1.0, float(theirs.std()))
        if not difference <= allowed:
            raise IntegrityFailed(
                f"The saved weights compute other logits than those that were trained: they differ by {difference:.3g}, "
                f"where {allowed:.3g} is allowed.",
                hint="Train again; where it repeats, the merge of this adapter is at fault: train all weights instead.",
                code="trained_weights_differ",
            )
