"""A server's part that looks after runs, as a process that a test can kill: `python -m tests.kernel.jobs.server_process`."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from tests.kernel.jobs.rooms import make_rooms

from modelworks.kernel.base.database import Database
from modelworks.kernel.base.settings import Settings


def main(home: str, url: str) -> None:
    rooms = make_rooms(Settings(home=Path(home), slots_cpu=4, slots_memory_bytes=8 << 30), Database(url))
    rooms.supervisor.start()
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
