"""Train a base model by reinforcement: it answers prompts, a grader judges, and what earns more becomes likelier."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from modelworks.capabilities.text.checkpoint import Position
from modelworks.capabilities.text.datasets import PromptSample, read_prompts
from modelworks.capabilities.text.engines.opening import Checkpoint
from modelworks.capabilities.text.engines.transformers_model import load_model
from modelworks.capabilities.text.grading.judge_door import JudgeDoor, check_item
from modelworks.capabilities.text.grading.opening import open_grader
from modelworks.capabilities.text.prompt_format import PromptFormat, served_format
from modelworks.capabilities.text.schemas import ReinforcementParams
from modelworks.capabilities.text.training import adapter as adapters
from modelworks.capabilities.text.training.answering import Answer, draw_answers
from modelworks.capabilities.text.training.batches import Order
from modelworks.capabilities.text.training.loop import Batch, TrainingLoop
from modelworks.capabilities.text.training.policy import Policy, advantages, policy_batch, reward_batch, with_likelihoods
from modelworks.capabilities.text.training.rows import Row, places_of
from modelworks.capabilities.text.training.spread import Spread
from modelworks.capabilities.text.training.tuning import (
    figures,
    no_patience,
    read_parts,
    require_base,
    save_tuned,
    schedule_of,
    unmoved,
)
from modelworks.contract.errors import InvalidData, InvalidRequest, ModelworksError
from modelworks.contract.generation import Message
from modelworks.contract.grading import Case, Grade, Grading, Sample
from modelworks.contract.run import Run

_log = logging.getLogger(__name__)
#: What a generator is for, beside the seed: answers to learn from, answers to measure by.
_LEARNING, _MEASURING = 2, 3


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is to be answered, and the record that answers are judged with."""

    ids: tuple[int, ...]
    item: Mapping[str, Any]
    #: File and line.
    source: str = ""


def reinforce(run: Run, params: ReinforcementParams) -> None:
    """Train and save with `run.save`, as `tuning.tune` does.

    Inputs: model "base"; data set "train" of prompts; optionally data set "validation", else a part of "train" is held out; the
    deployment "judge", where the grader asks a model.
    Curves: `reward` and `reward_std` of the answers that are learnt from, `answer_tokens`, and the shares `cut_answers`,
    `without_signal` (groups whose answers all earn the same) and `grader_failures`; `entropy` of the draws in nats; `kl` from
    the base model in nats per token, where beta is not 0; `validation_reward`, at step 0 that of the base model.

    Raises:
        InvalidRequest: there is no base model, it has no usable chat template, the grader failed on every answer
            (`grader_failed`), or training diverged.
        InvalidData: the data set holds no usable prompt, or an item lacks what the grader reads; names file and line.
        IntegrityFailed: as `tuning.tune`. Cancelled: the user stopped the run; a checkpoint was stored first.
    """
    require_base(run, params)
    if params.num_threads is not None:
        torch.set_num_threads(params.num_threads)
    base = run.model("base")
    context_length = Checkpoint.of(base).context_length
    prompt_format = served_format(base).for_training()
    asking = JudgeDoor.of(run, params.grader)
    grading = open_grader(params.grader, ask=asking)
    run.progress(0, 1, "steps")
    parts = [list(_checked(part, grading)) for part in read_parts(run, params, read_prompts)]
    length = min(params.max_length or context_length, context_length)
    longest = params.longest_answer(length)
    training, num_too_long = _prompts(prompt_format, parts[0], length - longest)
    held_out = _prompts(prompt_format, parts[1], length - longest)[0] if parts[1] else []
    if params.patience is not None and not held_out:
        raise no_patience()
    run.raise_if_cancelled()
    model = load_model(base.path, torch.float32)
    if params.gradient_checkpointing:
        model.activation_checkpointing_enable()
    torch.manual_seed(run.seed)
    reference: _Reference | None = None
    if params.adapter is not None:
        model = adapters.attach(model, params.adapter)
        reference = _Reference(model, model.disable_adapter)
    elif params.beta:
        reference = _Reference(copy.deepcopy(model).requires_grad_(False), nullcontext)
    judge = _Judge(grading, asking, params, prompt_format)
    reference = reference if params.beta else None
    source = AnswerSource(model, training, held_out, judge, params, longest, reference, run.seed)
    before = source.measure() if held_out else None
    if before is not None and run.resume_from is None:
        run.log(0, validation_reward=before)
    policy = Policy(beta=params.beta, clip_low=params.clip_low, clip_high=params.clip_high, temperature=params.temperature)
    schedule = replace(schedule_of(params, source.steps_per_epoch), group=params.updates)
    schedule = replace(schedule, checkpoint_every=-(-schedule.checkpoint_every // params.updates) * params.updates)
    counts = {
        "num_samples": float(len(training)),
        "num_too_long": float(num_too_long),
        "num_trained_parameters": float(sum(each.numel() for each in model.parameters() if each.requires_grad)),
    }
    if before is not None:
        counts["base_validation_reward"] = before
    probe = [Row(prompt.ids, (0.0,) * len(prompt.ids)) for prompt in training[:4]]

    def again() -> Any:
        loaded = load_model(base.path, torch.float32)
        return loaded if params.adapter is None else adapters.attach(loaded, params.adapter)

    def keep(at: Position, found: Mapping[str, float]) -> None:
        with unmoved():
            kept = Spread().copied(model, again)
            measured = figures(at, found, counts)
            save_tuned(run, params, base, kept, params.adapter, prompt_format, probe, at, measured, is_kept=True)

    loop = TrainingLoop(run, schedule, model, prompt_format.tokenizer, source, policy, keep=keep)
    done = loop.finish()
    metrics = loop.validation_metrics()
    if metrics:
        run.log(done.step, **metrics)
    measured = figures(done, metrics, counts)
    save_tuned(run, params, base, model, params.adapter, prompt_format, probe, done, measured)


def _checked(samples: Sequence[PromptSample], grading: Grading) -> Iterable[PromptSample]:
    """The samples, if each has what the grader reads of it: that is known before anything is answered."""
    for sample in samples:
        check_item(grading, sample.item, sample.source, sample.line)
        yield sample


def _prompts(prompt_format: PromptFormat, samples: Iterable[PromptSample], length: int) -> tuple[list[Prompt], int]:
    """The prompts that leave room for an answer, and how many do not.

    Raises:
        InvalidData: none does, or the template refuses one.
    """
    found: list[Prompt] = []
    num_too_long = 0
    for sample in samples:
        try:
            turns = [Message.model_validate(message) for message in sample.messages]
            ids = prompt_format.encoder.render(turns, sample.tools).ids()
        except (ModelworksError, ValueError) as error:
            said = error.message if isinstance(error, ModelworksError) else str(error)
            raise InvalidData(
                f"{sample.source}, line {sample.line}: {said.rstrip('.')}.",
                hint="Correct the sample, or use a base model with another template.",
            ) from error
        if len(ids) <= length:
            found.append(Prompt(tuple(ids), sample.item, f"{sample.source}, line {sample.line}"))
        else:
            num_too_long += 1
    if not found:
        raise InvalidData(
            f"No prompt leaves room for an answer: {num_too_long} have more than {max(0, length)} tokens.",
            hint="Lower max_answer_tokens, raise max_length, or shorten the prompts.",
        )
    return found, num_too_long


@dataclass(frozen=True, slots=True)
class _Reference:
    """The base model: a copy of it, or the trained one with its adapter switched off."""

    model: Any
    as_base: Any

    def __call__(self) -> AbstractContextManager[Any]:
        found: AbstractContextManager[Any] = self.as_base()
        return found


class _Judge:
    """From answers to rewards."""

    def __init__(
        self, grading: Grading, asking: JudgeDoor | None, params: ReinforcementParams, prompt_format: PromptFormat
    ) -> None:
        self._grading = grading
        self._asking = asking
        self._reward_cut = params.reward_cut
        self._format = None if params.answer_format is None else re.compile(params.answer_format, re.DOTALL)
        self._prompt_format = prompt_format
        self._has_told = False

    def __call__(self, answers: Sequence[Answer], items: Sequence[Mapping[str, Any]]) -> tuple[list[float], int]:
        """A reward per answer, and on how many the grader failed.

        Raises:
            InvalidRequest: it failed on all. Unavailable: the model that it asks stayed away.
        """
        texts = [self.text(answer) for answer in answers]
        cases = [Case(Sample(output_text=text), item) for text, item in zip(texts, items, strict=True)]
        grades = self._grading.grade(cases)
        if self._asking is not None and self._asking.away is not None:
            raise self._asking.away
        failed = [grade for grade in grades if grade.is_failure]
        if failed:
            self._tell(failed, len(grades))
        return [self._reward(*each) for each in zip(answers, texts, grades, strict=True)], len(failed)

    def text(self, answer: Answer) -> str:
        """What the answer says, as serving shows it."""
        ids = [token for token in answer.ids if token not in self._prompt_format.stop_ids]
        return str(self._prompt_format.tokenizer.decode(ids, skip_special_tokens=True))

    def _reward(self, answer: Answer, text: str, grade: Grade) -> float:
        is_well_formed = self._format is None or self._format.fullmatch(text) is not None
        if is_well_formed and (self._reward_cut or not answer.is_cut):
            return grade.score
        # Otherwise the surest way to a reward is to go on for ever, or past the form.
        return min(grade.score, 0.0)

    def _tell(self, failed: Sequence[Grade], number: int) -> None:
        reason = failed[0].message or "it gave no reason"
        if len(failed) == number:
            raise InvalidRequest(
                f"The grader failed on all of {number} answers: {reason.rstrip('.')}.",
                hint="Try it with POST /v1/fine_tuning/alpha/graders/run on a record of the data set.",
                param="params.grader",
                code="grader_failed",
            )
        if not self._has_told:
            self._has_told = True
            _log.warning(
                "the grader failed on %d of %d answers; the curve grader_failures counts: %s", len(failed), number, reason
            )


class AnswerSource:
    """Answers of the model as it is, as a source of the loop: what a step reads follows from its number and the weights.

    With several updates to a set of answers the later ones read what the first has drawn; a new attempt begins with a new set.
    """

    def __init__(
        self,
        model: Any,
        training: Sequence[Prompt],
        held_out: Sequence[Prompt],
        judge: _Judge,
        params: ReinforcementParams,
        longest: int,
        reference: _Reference | None,
        seed: int,
    ) -> None:
        self._model = model
        self._training = training
        self._held_out = held_out[: params.max_validation_prompts]
        self._judge = judge
        self._params = params
        self._longest = longest
        self._reference = reference
        self._seed = seed
        self._order = Order(len(training), params.batch_size, params.accumulation, seed)
        self._stop_ids = judge._prompt_format.stop_ids
        self._drawn: tuple[int, list[Batch]] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in one pass."""
        return self._order.steps_per_epoch * self._params.updates

    def step(self, number: int) -> Sequence[Batch]:
        which = number // self._params.updates
        if self._drawn is None or self._drawn[0] != which:
            self._model.eval()
            chosen = [[self._training[item] for item in items] for items in self._order.step(which)]
            self._drawn = (which, [self._batch(prompts, which, part) for part, prompts in enumerate(chosen)])
            self._model.train()
        return self._drawn[1]

    def place(self, number: int) -> str:
        chosen = (item for items in self._order.step(number // self._params.updates) for item in items)
        return places_of(Row((), (), self._training[item].source) for item in chosen)

    def validation(self) -> Iterable[Batch]:
        """Rewards of answers to the held-out prompts, drawn with the same numbers every time."""
        each = self._params.validation_samples
        for start in range(0, len(self._held_out), self._params.batch_size):
            prompts = self._held_out[start : start + self._params.batch_size]
            answers, _ = self._answers(prompts, each, (_MEASURING, start))
            yield reward_batch(self._judge(answers, [prompt.item for prompt in prompts for _ in range(each)])[0])

    def measure(self) -> float:
        """The mean reward on the held-out prompts."""
        self._model.eval()
        batches = list(self.validation())
        self._model.train()
        return -sum(float(-batch.tensors["rewards"].sum()) for batch in batches) / sum(batch.weight for batch in batches)

    def _answers(self, prompts: Sequence[Prompt], each: int, purpose: Sequence[int]) -> tuple[list[Answer], float]:
        state = np.random.SeedSequence([self._seed, *purpose]).generate_state(1, np.uint64)[0]
        return draw_answers(
            self._model,
            [prompt.ids for prompt in prompts],
            each=each,
            max_tokens=self._longest,
            stop_ids=self._stop_ids,
            temperature=self._params.temperature,
            generator=torch.Generator().manual_seed(int(state >> np.uint64(1))),
        )

    def _batch(self, prompts: Sequence[Prompt], which: int, part: int) -> Batch:
        params, size = self._params, self._params.group_size
        answers, entropy = self._answers(prompts, size, (_LEARNING, which, part))
        rewards, num_failed = self._judge(answers, [prompt.item for prompt in prompts for _ in range(size)])
        groups = [rewards[start : start + size] for start in range(0, len(rewards), size)]
        gains = [gain for group in groups for gain in advantages(group, scale=params.scale_advantages)]
        figures = {
            "reward": float(np.mean(rewards)),
            "reward_std": float(np.std(rewards)),
            "answer_tokens": float(np.mean([len(answer.ids) for answer in answers])),
            "cut_answers": float(np.mean([answer.is_cut for answer in answers])),
            "without_signal": float(np.mean([max(group) == min(group) for group in groups])),
            "grader_failures": num_failed / len(rewards),
            "entropy": entropy,
        }
        rows = [
            _row(prompt, answer, learns=not (params.mask_cut and answer.is_cut))
            for prompt, answer in zip([prompt for prompt in prompts for _ in range(size)], answers, strict=True)
        ]
        batch = policy_batch(
            rows,
            gains,
            figures,
            weighting=params.length_weighting,
            max_tokens=self._longest,
            keep_all=self._reference is not None,
        )
        if self._reference is not None:
            with self._reference():
                batch = with_likelihoods(batch, "reference", self._reference.model, params.temperature)
        if params.updates > 1:
            batch = with_likelihoods(batch, "before", self._model, params.temperature)
        return batch


def _row(prompt: Prompt, answer: Answer, *, learns: bool) -> Row:
    return Row((*prompt.ids, *answer.ids), (0.0,) * len(prompt.ids) + (float(learns),) * len(answer.ids))
