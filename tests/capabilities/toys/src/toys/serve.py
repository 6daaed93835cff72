"""Answers of the toys, in an event loop, in a thread and as a job."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from pydantic import BaseModel

from modelworks.contract import LocalModel, Run
from modelworks.contract.errors import InvalidData, InvalidRequest
from toys.schemas import CountdownInput, CountdownOutput, SpellingInput, SpellingOptions, SpellingOutput, TideInput, TideOutput


class Speller:
    """Sync, in a thread."""

    def __init__(self, model: LocalModel | None, options: SpellingOptions | None) -> None:
        if model is None:
            raise InvalidData("A speller needs a model.", hint="Train one and name it in the deployment.")
        self._fold = str.lower if options is None or options.ignore_case else str
        self._known = {self._fold(word) for word in json.loads((model.path / "words.json").read_text())}

    def predict(self, request: SpellingInput) -> SpellingOutput:
        return SpellingOutput(
            unknown=[word for word in re.findall(r"\w+", request.text) if self._fold(word) not in self._known]
        )


class Countdown:
    """Stream, in the event loop; needs no model."""

    def __init__(self, model: LocalModel | None, options: BaseModel | None) -> None:
        self.model = model

    async def stream(self, request: CountdownInput) -> AsyncIterator[CountdownOutput]:
        value = request.start
        try:
            for value in range(request.start, -1, -1):
                await asyncio.sleep(request.pause_s)
                if value == request.fail_at:
                    raise InvalidRequest(f"The countdown was told to fail at {value}.", hint="Ask again without fail_at.")
                yield CountdownOutput(value=value)
        finally:
            _note_end(request, value)


class ThreadedCountdown:
    """Stream, as a plain iterator."""

    def __init__(self, model: LocalModel | None, options: BaseModel | None) -> None:
        self.model = model

    def stream(self, request: CountdownInput) -> Iterator[CountdownOutput]:
        value = request.start
        try:
            for value in range(request.start, -1, -1):
                time.sleep(request.pause_s)
                yield CountdownOutput(value=value)
        finally:
            _note_end(request, value)


def tide(run: Run, request: TideInput) -> TideOutput:
    """Job: hourly water levels, saved as a table."""
    levels = []
    for hour in range(request.hours):
        run.raise_if_cancelled()
        levels.append(request.range_m / 2 * math.cos(2 * math.pi * hour / 12.42))
        run.progress(hour + 1, request.hours, "hours")
    table = run.workdir / "tide.csv"
    table.write_text("hour,level_m\n" + "".join(f"{hour},{level:.3f}\n" for hour, level in enumerate(levels)))
    run.save(table, kind="table", metadata={"unit": "m"})
    return TideOutput(highest_m=max(levels))


def _note_end(request: CountdownInput, value: int) -> None:
    if request.closed_file is not None:
        Path(request.closed_file).write_text(str(value))
