"""The memory of a process that stays."""

from __future__ import annotations

import ctypes
from contextlib import suppress

#: M_ARENA_MAX of <malloc.h>.
_ARENA_MAX = -8


def keep_memory_together() -> bool:
    """Have all threads take memory from one heap, where the C library is glibc; returns whether it is.

    It makes a heap for every thread, up to eight a core, and they stay. That spares threads waiting; those of Python
    wait for its lock anyway. Call it before threads are started.
    """
    with suppress(OSError, AttributeError):
        return bool(ctypes.CDLL(None).mallopt(_ARENA_MAX, 1))
    return False
