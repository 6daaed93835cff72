"""Parameters that a request hands on to a task as they are."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator

#: No task's own parameters are nested half as deep. Pydantic, which writes them again, gives up at 255.
MOST_LEVELS = 64


def _flat(value: dict[str, Any]) -> dict[str, Any]:
    level: list[Any] = [value]
    for _ in range(MOST_LEVELS):
        inner = (each.values() if isinstance(each, dict) else each for each in level)
        level = [child for children in inner for child in children if isinstance(child, dict | list)]
        if not level:
            return value
    raise ValueError(f"is nested more than {MOST_LEVELS} levels deep")


Parameters = Annotated[dict[str, Any], AfterValidator(_flat)]
