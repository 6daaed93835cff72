from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from modelworks.contract.errors import InvalidRequest
from modelworks.contract.run import LocalModel
from serving_toys.capability import CountInput, CountOutput, EchoInput, EchoOutput, Options


def _greeting(model: LocalModel | None) -> str:
    return "" if model is None else (model.path / "greeting.txt").read_text()


class Echo:
    def __init__(self, model: LocalModel | None, options: Options) -> None:
        time.sleep(options.load_s)
        if options.needs_file is not None and not Path(options.needs_file).exists():
            raise RuntimeError(f"{options.needs_file} is not there")
        self._start = _greeting(model) + options.prefix

    def predict(self, request: EchoInput) -> Any:
        time.sleep(request.delay_s)
        if request.action == "crash":
            os._exit(9)
        if request.action == "bug":
            raise RuntimeError("secret detail of a bug")
        if request.action == "refuse":
            raise InvalidRequest("That text is not wanted.", param="text", code="unwanted")
        if request.action == "wrong":
            return {"text": 1}
        if request.action == "dict":
            return {"text": self._start + request.text, "pid": os.getpid()}
        return EchoOutput(text=self._start + request.text, pid=os.getpid())


class AsyncEcho:
    def __init__(self, model: LocalModel | None, options: Options) -> None:
        self.cancelled = 0

    async def predict(self, request: EchoInput) -> EchoOutput:
        await asyncio.sleep(request.delay_s)
        return EchoOutput(text=request.text, pid=os.getpid())


class Broken:
    def __init__(self, model: LocalModel | None, options: Options) -> None:
        raise RuntimeError("the weights do not fit")


class Refusing:
    def __init__(self, model: LocalModel | None, options: Options) -> None:
        raise InvalidRequest("These files are not a model.", hint="Train one.")


def _note(request: CountInput) -> None:
    if request.note is not None:
        with Path(request.note).open("a") as note:
            note.write("closed\n")


class Counter:
    def __init__(self, model: LocalModel | None, options: None) -> None:
        pass

    async def stream(self, request: CountInput) -> AsyncIterator[CountOutput]:
        finished = False
        try:
            await asyncio.sleep(request.first_delay_s)
            for value in range(request.num):
                if value == request.fail_at:
                    raise InvalidRequest("Enough.", code="enough")
                yield CountOutput(value=value, token_ids=[value], filler="x" * request.wide)
                await asyncio.sleep(request.delay_s)
            finished = True
        finally:
            if not finished:
                _note(request)


class PlainCounter:
    def __init__(self, model: LocalModel | None, options: None) -> None:
        pass

    def stream(self, request: CountInput) -> Iterator[CountOutput]:
        finished = False
        try:
            time.sleep(request.first_delay_s)
            for value in range(request.num):
                if value == request.fail_at:
                    raise InvalidRequest("Enough.", code="enough")
                yield CountOutput(value=value, token_ids=[value], filler="x" * request.wide)
                time.sleep(request.delay_s)
            finished = True
        finally:
            if not finished:
                _note(request)


class _Numbers:
    """An iterator that can be closed from another thread while it works."""

    def __init__(self, request: CountInput) -> None:
        self._request = request
        self._closed = threading.Event()
        self._next = 0

    def __iter__(self) -> Iterator[CountOutput]:
        return self

    def __next__(self) -> CountOutput:
        delay = self._request.first_delay_s if self._next == 0 else self._request.delay_s
        if self._closed.wait(delay) or self._next >= self._request.num:
            raise StopIteration
        self._next += 1
        return CountOutput(value=self._next - 1)

    def close(self) -> None:
        if not self._closed.is_set():
            self._closed.set()
            if self._next < self._request.num:
                _note(self._request)


class ObjectCounter:
    def __init__(self, model: LocalModel | None, options: None) -> None:
        pass

    def stream(self, request: CountInput) -> Iterator[CountOutput]:
        return _Numbers(request)


def nightly(run: Any, request: Any) -> None:
    return None
