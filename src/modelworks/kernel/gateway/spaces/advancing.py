"""What the pipelines of a data space that are rows have in common: they go on, step by step, until they have to wait."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from modelworks.contract.errors import ModelworksError
from modelworks.kernel.base.database import Database

#: From this status on it is the storage or the database that fails, not what was asked for: the step is tried again later.
AWAY = 502


class Pipeline(Protocol):
    """A row that says how far its pipeline is."""

    state: Any
    step: Any


Row = TypeVar("Row", bound=Pipeline)


def advance(
    db: Database,
    kind: type[Row],
    pipeline_id: str,
    steps: Mapping[str, Callable[[Row], None]],
    fail: Callable[[Row, ModelworksError], None],
) -> None:
    """Let a pipeline go on as far as it can now: a step that leaves the row where it was waits for something.

    Args:
        steps: what each step does; it writes into the row itself, in a transaction that looks at the row again.
        fail: ends the pipeline at that step.

    Raises:
        ModelworksError: something is away (`AWAY`); the step is to be tried again.
    """
    while True:
        with db.reading() as session:
            row = session.get(kind, pipeline_id)
        if row is None or row.state != "running":
            return
        try:
            steps[row.step](row)
        except ModelworksError as error:
            if error.status >= AWAY:
                raise
            fail(row, error)
            return
        with db.reading() as session:
            after = session.get(kind, pipeline_id)
        if after is None or after.step == row.step:
            return
