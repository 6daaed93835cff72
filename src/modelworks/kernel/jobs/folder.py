"""The folder of one attempt: what the supervisor and the worker tell each other through files."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from modelworks.kernel.jobs.schemas import LaunchSpec

#: Room taken in advance for the exit report, so that it can be written when the disk is full.
_EXIT_BYTES = 16 << 10


class AttemptFolder:
    """Names and small files of `runs/<run id>/<attempt>/`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec = path / "spec.json"
        self.journal = path / "journal.jsonl"
        self.heartbeat = path / "heartbeat"
        self.cancel = path / "cancel"
        self.exit = path / "exit.json"
        self.log = path / "log.txt"
        self.work = path / "work"
        self.resume = path / "resume"
        self.inputs = path / "inputs"
        #: Of the attempt's own Ray, whose sockets need a short path.
        self.ray = Path(tempfile.gettempdir()) / f"mw-{path.parent.name[-12:]}-{path.name}"

    @classmethod
    def of(cls, home: Path, run_id: str, attempt: int) -> AttemptFolder:
        """The folder of an attempt under a home folder."""
        return cls(home / "runs" / run_id / str(attempt))

    def create(self) -> None:
        """Make the folder and its empty work folder; nobody else may look in."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.work.mkdir(exist_ok=True)

    def write_spec(self, spec: LaunchSpec) -> None:
        """Write the spec, readable by the owner only: it holds the storage's secrets."""
        fd = os.open(self.spec, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as stream:
            stream.write(spec.model_dump_json())

    def take_spec(self) -> LaunchSpec:
        """Read the spec and delete it: the code that runs next has no business with it."""
        spec = LaunchSpec.model_validate_json(self.spec.read_bytes())
        self.spec.unlink()
        return spec

    def beat(self) -> None:
        """Leave a sign of life."""
        self.heartbeat.touch()

    def last_beat(self) -> int | None:
        """When the last sign of life was left (ns, comparable only with itself), or None."""
        try:
            return self.heartbeat.stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def reserve_exit(self) -> None:
        """Take the room that `write_exit` needs."""
        self.exit.write_bytes(b" " * _EXIT_BYTES)

    def write_exit(self, report: dict[str, Any]) -> None:
        """Write how the attempt ended, in place."""
        data = json.dumps(report).encode()
        if len(data) > _EXIT_BYTES:
            data = json.dumps({"outcome": report.get("outcome"), "retry": report.get("retry", False)}).encode()
        fd = os.open(self.exit, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(fd, data.ljust(_EXIT_BYTES), 0)
        finally:
            os.close(fd)

    def read_exit(self) -> dict[str, Any] | None:
        """What `write_exit` wrote, or None where the attempt did not come so far."""
        try:
            report = json.loads(self.exit.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return report if isinstance(report, dict) else None

    def remove_private(self) -> None:
        """Delete everything but the log."""
        for file in (self.spec, self.journal, self.heartbeat, self.cancel, self.exit):
            file.unlink(missing_ok=True)
        for folder in (self.work, self.resume, self.inputs, self.ray):
            _make_deletable(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _make_deletable(folder: Path) -> None:
    # Materialised files come in read-only folders.
    for parent, _, _ in os.walk(folder):
        Path(parent).chmod(0o700)
