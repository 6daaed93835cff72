"""Questions and answers that a deployed model writes about passages; only answers that the passage supports are taken.

Method: question generation with a check of consistency (Alberti et al. 2019, "Synthetic QA Corpora Generation with Roundtrip
Consistency"), the check being one of words.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cache
from importlib.resources import files
from typing import Any, Final

from modelworks.capabilities.document.language import sentences
from modelworks.capabilities.document.samples.makers import Draft, tongue_of
from modelworks.capabilities.document.samples.schemas import Language, SampleRequest
from modelworks.capabilities.document.samples.support import share, stands
from modelworks.contract.errors import InvalidRequest, ModelworksError, PermissionDenied
from modelworks.contract.passages import Passage
from modelworks.contract.run import Run

_FILE: Final = "written.jsonl"
_CHECKPOINT_EVERY: Final = 25
_LEAST_CHARS: Final = 60
_MOST_CHARS: Final = 400
#: A question must be about the passage.
_LEAST_SHARE: Final = 0.4
_LINES: Final = re.compile(
    r"(?:question|问题|问)\s*[:：]\s*(?P<question>[^\n]+)\n+\s*(?:answer|答案|回答|答)\s*[:：]\s*(?P<answer>[^\n]+)",
    re.IGNORECASE,
)

#: What was written about a text: question and answer, or why there is none.
Written = Mapping[str, str]


def key_of(passage: Passage) -> str:
    """What names a passage by what it says: it was written about already if this is the same."""
    return hashlib.sha256(passage.text.encode()).hexdigest()


class Teacher:
    """Asks the deployment of the role "teacher" about passages.

    Args:
        known: what was written before, by `key_of`: it is not asked again.
    """

    def __init__(self, run: Run, request: SampleRequest, known: Mapping[str, Written]) -> None:
        self._run = run
        self._request = request
        self._teacher = run.deployment("teacher")
        self._folder = run.workdir / "checkpoint"
        self._folder.mkdir(exist_ok=True)
        self._file = self._folder / _FILE
        self.dropped: Counter[str] = Counter()
        self._written: dict[str, Written] = dict(known)
        if run.resume_from is not None and (run.resume_from / _FILE).is_file():
            shutil.copyfile(run.resume_from / _FILE, self._file)
            for line in self._file.read_text("utf-8").splitlines():
                found = json.loads(line)
                self._written[found.pop("key")] = found
        self._num_stored = len(self._written)

    def drafts(self, passages: Sequence[Passage], most: int) -> Iterator[Draft]:
        """What is asked about these, in their order, about `most` of them.

        Raises:
            Unavailable: the teacher stays away; a checkpoint was stored. Cancelled: the user stopped the run.
        """
        fit = [each for each in passages if each.kind in ("text", "list") and len(each.text) >= _LEAST_CHARS]
        asked = [(each, tongue) for each in fit if (tongue := tongue_of(each.text)) is not None][:most]
        self._finish([each for each, _ in asked])
        for passage, tongue in asked:
            written = self._written[key_of(passage)]
            reason = written.get("refused") or _fault(written, passage, tongue)
            if reason is not None:
                self.dropped[reason] += 1
                continue
            answer = tuple(each.strip() for each in sentences(written["answer"]) if each.strip())
            yield Draft("teacher", written["question"], answer, passage, tongue)

    def _finish(self, passages: Sequence[Passage]) -> None:
        waiting = iter({key: each for each in passages if (key := key_of(each)) not in self._written}.values())
        total = len({key_of(each) for each in passages})
        pool = ThreadPoolExecutor(self._request.concurrency, thread_name_prefix="teacher")
        asked: set[Future[tuple[str, Written]]] = set()
        try:
            with self._file.open("a", encoding="utf-8") as file:
                while True:
                    self._run.raise_if_cancelled()
                    for passage in waiting:
                        asked.add(pool.submit(self._ask, passage))
                        if len(asked) >= self._request.concurrency:
                            break
                    if not asked:
                        break
                    done, asked = wait(asked, timeout=1.0, return_when=FIRST_COMPLETED)
                    for future in done:
                        key, written = future.result()
                        self._written[key] = written
                        file.write(json.dumps({"key": key, **written}, ensure_ascii=False) + "\n")
                    file.flush()
                    if done:
                        have = sum(key_of(each) in self._written for each in passages)
                        self._run.progress(min(have, total), total, "questions")
                    if len(self._written) - self._num_stored >= _CHECKPOINT_EVERY:
                        self._store()
        except ModelworksError:
            self._store()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _store(self) -> None:
        if len(self._written) > self._num_stored:
            self._run.checkpoint(self._folder)
            self._num_stored = len(self._written)

    def _ask(self, passage: Passage) -> tuple[str, Written]:
        messages: list[dict[str, Any]] = [
            {"role": "system", "content": _instructions()},
            {"role": "user", "content": passage.text},
        ]
        try:
            answer = self._teacher.complete(messages, max_tokens=self._request.max_tokens, temperature=0)
        except PermissionDenied:
            raise
        except InvalidRequest:
            return key_of(passage), {"refused": "refused"}
        found = _LINES.search(answer.content or "")
        if found is None:
            return key_of(passage), {"refused": "malformed"}
        return key_of(passage), {"question": found["question"].strip(), "answer": found["answer"].strip()}


def _fault(written: Written, passage: Passage, tongue: Language) -> str | None:
    question, answer = written["question"], written["answer"]
    if not question.endswith(("?", "？")) or len(question) > _MOST_CHARS or len(answer) > _MOST_CHARS:
        return "malformed"
    if tongue_of(question) != tongue:
        return "language"
    if share(question, passage.text + "\n" + "\n".join(passage.place.headings)) < _LEAST_SHARE:
        return "off_topic"
    if answer.lower() in question.lower() or not stands(answer, passage.text, tongue):
        return "unsupported"
    return None


@cache
def _instructions() -> str:
    return files(__package__).joinpath("prompts/ask.md").read_text("utf-8").partition("\n---\n")[2].strip()
