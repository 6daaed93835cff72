"""Let a deployed model write the answers of a data set, so that another model can learn them.

Method: sequence-level distillation (Kim & Rush 2016): the student is trained on what the teacher says. With `system_prompt`,
which the teacher reads and the data set does not keep, also context distillation (Askell et al. 2021).
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modelworks.capabilities.text.datasets.files import Record, list_files, read_records
from modelworks.capabilities.text.datasets.forms import understand
from modelworks.capabilities.text.datasets.samples import (
    ChatSample,
    Fault,
    PreferenceSample,
    PromptSample,
    Sample,
    record_of,
)
from modelworks.capabilities.text.schemas import LabelParams
from modelworks.contract.deployment import Deployment
from modelworks.contract.errors import InvalidData, InvalidRequest, ModelworksError, PermissionDenied
from modelworks.contract.run import Run

_ANSWERS = "answers.jsonl"
_CHECKPOINT_S = 30.0
#: Stands for an answer that is yet to be written, while a record without one is read.
_OPEN: dict[str, Any] = {"role": "assistant", "content": "?"}


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked: everything before the last answer."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    source: str
    line: int

    @property
    def place(self) -> str:
        return f"{self.source}, line {self.line}"


def read_prompts(folder: Path) -> Iterator[Prompt]:
    """What each sample of a data set asks; samples need not have an answer, and a text is a question as it stands.

    Raises:
        InvalidData: the first error, with its file, line and field.
    """
    for file, name in list_files(folder):
        for record in read_records(file, name):
            sample, faults = (None, [record]) if isinstance(record, Fault) else understand(_with_answer(record))
            for fault in faults:
                if fault.severity == "error":
                    raise InvalidData(
                        f"{fault.place}: {fault.message}", hint=f"{fault.hint} `modelworks data validate` lists every fault."
                    )
            if sample is not None:
                yield _prompt_of(sample)


def _with_answer(record: Record) -> Record:
    """The record with an answer where it has none yet, so that it can be read as one that has."""
    value = record.value
    if not isinstance(value, dict) or {"preferred_output", "non_preferred_output", "chosen", "rejected"} & set(value):
        return record
    messages = value.get("messages")
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict) and messages[-1].get("role") != "assistant":
        return replace(record, value={**value, "messages": [*messages, _OPEN]})
    for question, answer in (("prompt", "completion"), ("instruction", "output")):
        if question in value and not value.get(answer):
            return replace(record, value={**value, answer: _OPEN["content"]})
    return record


def _prompt_of(sample: Sample) -> Prompt:
    if isinstance(sample, ChatSample):
        last = max(place for place, message in enumerate(sample.messages) if message["role"] == "assistant")
        return Prompt(sample.messages[:last], sample.tools, sample.source, sample.line)
    if isinstance(sample, PreferenceSample | PromptSample):
        return Prompt(sample.messages, sample.tools, sample.source, sample.line)
    return Prompt([{"role": "user", "content": sample.text}], None, sample.source, sample.line)


def label(run: Run, params: LabelParams) -> dict[str, Any]:
    """Ask the deployment of the role "teacher" everything that the data set of the role "data" asks, and save the answers.

    What is answered is kept in checkpoints: a later attempt asks only the rest. The result holds one conversation per answer,
    in the order of the source; only the teacher's answer has a weight.

    Returns:
        Counts: samples, and those left out (`refused` by the teacher, `truncated`, `empty`), and the tokens that were used.

    Raises:
        InvalidData: the data set cannot be read, or nothing of it was answered.
        Cancelled: the user stopped the run; a checkpoint was stored first.
    """
    data = run.dataset("data")
    teacher = run.deployment("teacher")
    prompts = list(read_prompts(data.path))[: params.max_samples]
    if not prompts:
        raise InvalidData("The data set asks nothing.", hint="Add files with samples.")
    answers = _Answers(run, params, teacher, prompts)
    answers.finish()
    kept = [record for _, record in sorted(answers.records().items()) if record is not None]
    counts = answers.counts()
    if not kept:
        raise InvalidData(
            f"The deployment {teacher.name!r} gave no usable answer to {len(prompts)} samples: {answers.reasons()}.",
            hint="Raise max_tokens where answers were cut off, and shorten samples that were refused.",
        )
    folder = run.workdir / "labelled"
    folder.mkdir()
    with (folder / "labelled.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in kept)
    metadata: dict[str, Any] = {"num_samples": len(kept), "labelled_by": teacher.name, "counts": counts}
    if data.licence is not None:
        metadata["licence"] = data.licence
    run.save(folder, kind="dataset", metadata=metadata)
    return counts


class _Answers:
    """The questions and what is known of their answers so far."""

    def __init__(self, run: Run, params: LabelParams, teacher: Deployment, prompts: list[Prompt]) -> None:
        self._run = run
        self._params = params
        self._teacher = teacher
        self._prompts = prompts
        self._folder = run.workdir / "checkpoint"
        self._folder.mkdir(exist_ok=True)
        self._file = self._folder / _ANSWERS
        if run.resume_from is not None:
            shutil.copyfile(run.resume_from / _ANSWERS, self._file)
        self._found = {line["index"]: line for line in self._lines()}
        self._stored_at = time.monotonic()
        self._num_stored = len(self._found)

    def _lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._file.read_text("utf-8").splitlines()] if self._file.is_file() else []

    def records(self) -> dict[int, dict[str, Any] | None]:
        """The records of the new data set by the number of their question; None where it was left out."""
        return {index: line.get("record") for index, line in self._found.items()}

    def counts(self) -> dict[str, Any]:
        """How many there are of what, and the tokens that were used."""
        outcomes = Counter(line["outcome"] for line in self._found.values())
        tokens = {
            name: sum(line.get(name, 0) for line in self._found.values()) for name in ("prompt_tokens", "completion_tokens")
        }
        return {"samples": len(self._prompts), **dict(sorted(outcomes.items())), **tokens}

    def reasons(self) -> str:
        """Why answers were left out, with the first refusal in full."""
        outcomes = Counter(line["outcome"] for line in self._found.values() if line.get("record") is None)
        told = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
        first = next((line["reason"] for line in self._found.values() if line.get("reason")), None)
        return told if first is None else f"{told} (the first: {first.rstrip('.')})"

    def finish(self) -> None:
        """Ask everything that has no answer yet, several questions at a time."""
        total = len(self._prompts)
        waiting = iter([index for index in range(total) if index not in self._found])
        self._run.progress(len(self._found), total, "samples")
        pool = ThreadPoolExecutor(self._params.concurrency, thread_name_prefix="ask")
        asked: set[Future[dict[str, Any]]] = set()
        try:
            with self._file.open("a", encoding="utf-8") as file:
                while True:
                    self._run.raise_if_cancelled()
                    for index in waiting:
                        asked.add(pool.submit(self._ask, index))
                        if len(asked) >= self._params.concurrency:
                            break
                    if not asked:
                        break
                    done, asked = wait(asked, timeout=1.0, return_when=FIRST_COMPLETED)
                    for future in done:
                        line = future.result()
                        file.write(json.dumps(line, ensure_ascii=False) + "\n")
                        file.flush()
                        self._found[line["index"]] = line
                    if done:
                        self._run.progress(len(self._found), total, "samples")
                        self._store_if_due()
        except ModelworksError:
            # Cancelled, or the teacher stays away: the next attempt asks only the rest.
            self._store()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, index: int) -> dict[str, Any]:
        prompt, params = self._prompts[index], self._params
        messages = prompt.messages
        if params.system_prompt is not None:
            rest = messages[1:] if messages[0]["role"] == "system" else messages
            messages = [{"role": "system", "content": params.system_prompt}, *rest]
        sampling: dict[str, Any] = {"max_tokens": params.max_tokens, "temperature": params.temperature}
        if params.top_p is not None:
            sampling["top_p"] = params.top_p
        if params.temperature > 0:
            # Each question its own, so that the same run asks the same whatever the order.
            sampling["seed"] = (self._run.seed + index) % (1 << 31)
        try:
            answer = self._teacher.complete(messages, tools=prompt.tools, **sampling)
        except PermissionDenied:
            raise
        except InvalidRequest as error:
            return {"index": index, "outcome": "refused", "reason": f"{prompt.place}: {error.message}"}
        line: dict[str, Any] = {
            "index": index,
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
        }
        if answer.finish_reason == "length" and not params.keep_truncated:
            return {**line, "outcome": "truncated"}
        said: dict[str, Any] = {"role": "assistant", "content": answer.content or ""}
        if answer.tool_calls:
            said["tool_calls"] = answer.tool_calls
        if not said["content"].strip() and not answer.tool_calls:
            return {**line, "outcome": "empty"}
        weights = [0.0] * len(prompt.messages) + [1.0]
        sample = ChatSample([*prompt.messages, said], prompt.tools, weights, prompt.source, prompt.line)
        return {**line, "outcome": "labelled", "record": record_of(sample)}

    def _store_if_due(self) -> None:
        is_due = time.monotonic() - self._stored_at >= _CHECKPOINT_S
        if is_due or len(self._found) - self._num_stored >= self._params.checkpoint_every:
            self._store()

    def _store(self) -> None:
        if len(self._found) == self._num_stored:
            return
        self._run.log(len(self._found), answered=float(len(self._found)))
        self._run.checkpoint(self._folder)
        self._num_stored, self._stored_at = len(self._found), time.monotonic()
