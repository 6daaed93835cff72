"""Heavy modules, brought in without the garbage collector looking through them again and again."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing(module: str) -> Iterator[None]:
    """Import that module inside of this; where it is there already, nothing else happens.

    Modules are not garbage, but making them sets off collections that look at everything made before: a fifth of the CPU time
    that torch and transformers take to come in (5.3 → 4.3 s). What is there at the end is left out of later collections, too.
    """
    if module in sys.modules:
        yield
        return
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()
