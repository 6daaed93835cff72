"""What is said of a run that memory ran out on. Light: every run's process imports it."""

from __future__ import annotations

import errno
import re
from typing import Any

from modelworks.contract.errors import ModelworksError
from modelworks.contract.estimate import Estimate

#: The code of a run that ended because memory ran out.
OUT_OF_MEMORY = "out_of_memory"
#: How libraries say that they got no memory, of the machine or of an accelerator.
_NO_MEMORY = re.compile(r"can't allocate memory|out of memory|bad_alloc|cannot allocate memory", re.IGNORECASE)
#: How torch says what it asked for.
_ASKED = re.compile(r"tried to allocate (\d+) bytes", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's own error, the system's, or the RuntimeError of a library that asked for too much."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error))))


def out_of_memory(peak_bytes: int | None, reason: str | None) -> ModelworksError:
    """The error of a run that memory ran out on.

    Args:
        peak_bytes: the most that it had taken. reason: what a library said that got no more.
    """
    asked = _ASKED.search(reason or "")
    had = "" if peak_bytes is None else f" It had taken {size_text(peak_bytes)}"
    more = f" and asked for {size_text(int(asked[1]))} more" if asked and had else ""
    return ModelworksError(
        f"The run ran out of memory.{had}{more}{'.' if had else ''}",
        hint="Let it compute less at a time, use a smaller model, or give the machine more memory.",
        code=OUT_OF_MEMORY,
    )


def with_hints(error: dict[str, Any], estimate: Estimate) -> dict[str, Any]:
    """The error of a run that ran out of memory, with what was estimated before and what the task says to change."""
    return {
        **error,
        "message": f"{error['message']} It was estimated to need {size_text(estimate.memory_bytes)}.",
        "hint": f"Change what helps most: {'; '.join(estimate.hints)}." if estimate.hints else error.get("hint"),
    }


def size_text(num_bytes: int) -> str:
    """A number of bytes for people."""
    return f"{num_bytes / (1 << 30):.1f} GiB" if num_bytes >= 1 << 30 else f"{num_bytes / (1 << 20):.0f} MiB"
