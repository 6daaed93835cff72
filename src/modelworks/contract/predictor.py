"""The shapes of heavy code: classes for answering, functions for training and evaluating. Structural: nothing to inherit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel

from modelworks.contract.quantisation import QuantiseReport
from modelworks.contract.run import LocalModel, Run


@runtime_checkable
class Predictor(Protocol):
    """Answers one request with one output (mode sync).

    Constructed once per replica as `Predictor(model, options)`: `model` is None for a task that needs none, `options` is an
    instance of the task's `options` class or None. A plain `predict` runs in a thread, an `async def` one in the event loop.
    """

    def predict(self, request: Any) -> Any | Awaitable[Any]: ...


@runtime_checkable
class StreamingPredictor(Protocol):
    """Answers one request with a sequence of outputs (mode stream).

    When the caller goes away the iterator is closed (`aclose`/`close`): generation must stop then, in prefill too.
    """

    def stream(self, request: Any) -> AsyncIterator[Any] | Iterator[Any]: ...


@runtime_checkable
class Closable(Protocol):
    """A predictor that holds threads or memory may have `close`, called when the replica is drained."""

    def close(self) -> None: ...


class PredictorFactory(Protocol):
    """What `Task.predictor` names for the modes sync and stream."""

    def __call__(self, model: LocalModel | None, options: BaseModel | None) -> Predictor | StreamingPredictor: ...


class JobPredictor(Protocol):
    """What `Task.predictor` names for mode job: it runs as a run, saves its files and returns the task's output."""

    def __call__(self, run: Run, request: Any) -> BaseModel: ...


class Trainer(Protocol):
    """What `Task.trainer` names. Results are what it gives to `run.save`."""

    def __call__(self, run: Run, params: Any) -> None: ...


class Labeler(Protocol):
    """What `Task.labeler` names: the deployment of the role "teacher" writes the answers of the data set of the role "data".

    The new data set is what it gives to `run.save`; it returns what is to be said about the run.
    """

    def __call__(self, run: Run, params: Any) -> Mapping[str, Any] | None: ...


class Quantiser(Protocol):
    """What `Task.quantiser` names: saves smaller versions of the model of role "base", each with a metadata `part` of its own.

    What it returns is also saved as a report (`contract.quantisation.REPORT_FILE`).
    """

    def __call__(self, run: Run, params: Any) -> QuantiseReport: ...


class Exporter(Protocol):
    """What `Task.exporter` names: saves the model of role "model" for other programs, as one folder of the kind "export"."""

    def __call__(self, run: Run, params: Any) -> Mapping[str, Any]: ...


class Importer(Protocol):
    """What `Task.importers` names: makes a model of this task of files that were fetched.

    Writes a folder `into` that is not there yet, or leaves it away where the files are to be kept as they are; returns what is
    to be kept with the version (`task`, `licence` and more). Returns None where the files are not its business.
    """

    def __call__(self, folder: Path, into: Path) -> Mapping[str, Any] | None: ...


class Evaluator(Protocol):
    """What `Task.evaluator` names: measures the model of role "model" on the data set of role "test".

    Returns every metric that the task declares, and of its optional ones those that the data allow. To let versions be
    compared with an interval, it saves one `SampleResult` per sample (see `contract.evaluation`).
    """

    def __call__(self, run: Run, params: Any) -> Mapping[str, float]: ...
