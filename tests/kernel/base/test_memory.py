"""One heap for all threads."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

CODE = """
import ctypes, threading
from modelworks.kernel.base.memory import keep_memory_together
if {together}:
    assert keep_memory_together()
barrier = threading.Barrier(8)
def take():
    kept = [bytearray(300) for _ in range(2000)]
    barrier.wait()
    del kept
threads = [threading.Thread(target=take) for _ in range(8)]
for each in threads: each.start()
for each in threads: each.join()
ctypes.CDLL(None).malloc_stats()
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_stats"), reason="the C library is not glibc: it has no heaps to count"
)
def test_threads_share_a_heap() -> None:
    heaps = []
    for together in (False, True):
        done = subprocess.run(
            [sys.executable, "-c", CODE.format(together=together)], capture_output=True, text=True, check=True
        )
        heaps.append(done.stderr.count("Arena "))
    assert heaps[0] > 1
    assert heaps[1] == 1
