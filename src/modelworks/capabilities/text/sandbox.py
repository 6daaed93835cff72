"""Run Python code that nobody has read, as a language model writes it: with limits, without network, without files.

`modelworks/isolation.py` says what isolates. Code is run only where its files and its network are shut off; elsewhere it is
refused, unless the caller allows a weaker sandbox.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Literal, cast

from modelworks import isolation
from modelworks.isolation import NAMESPACES, SYSTEM_FILES

Layer = Literal["namespaces", "landlock", "seccomp"]
Status = Literal["ok", "error", "timeout", "memory", "refused"]

#: Combinations that shut off both files and network, the strongest first; then what is left to a caller who allows it.
STRONG: tuple[tuple[Layer, ...], ...] = (
    ("namespaces", "landlock", "seccomp"),
    ("landlock", "seccomp"),
    ("namespaces", "seccomp"),
    ("namespaces", "landlock"),
    ("namespaces",),
)
WEAK: tuple[tuple[Layer, ...], ...] = (("seccomp",), ("landlock",), ())

_ISOLATION = Path(isolation.__file__)
_LEAST_MEMORY = 64 << 20
_FILE_BYTES = 16 << 20
#: What the work folder may hold in all where it is no file system of its own.
_BOX_BYTES, _BOX_FILES = 64 << 20, 4096
_OUTPUT_BYTES = 1 << 20
_REPORT_BYTES = 1 << 12
#: How long the isolation may take to be built, which is no time of the program's.
_SETUP_S = 30.0
_POLL_S = 0.2

_HINT = (
    "It takes Linux with user namespaces, or with Landlock (6.2 or newer) and seccomp; a container may forbid both. "
    "Where you trust the code, set allow_weaker_sandbox."
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a program.

    `ok`: it ended by itself with code 0. `error`: with another code or by a signal. `timeout`, `memory`: it was ended, or
    ended itself, for want of those. `refused`: it was not run; `stderr` says why.
    """

    status: Status
    stdout: str
    stderr: str
    #: Seconds from the program's start to its end.
    wall_s: float
    #: Whether more was written than is kept.
    truncated: bool = False
    #: What isolated it.
    layers: tuple[Layer, ...] = ()


def run_python(
    code: str,
    *,
    stdin: str = "",
    timeout_s: float = 5.0,
    memory_bytes: int = 512 << 20,
    max_output_bytes: int = _OUTPUT_BYTES,
    allow_weaker_sandbox: bool = False,
    layers: Sequence[Layer] | None = None,
) -> Outcome:
    """Run a program as `python -I -S` in a process of its own and an empty work folder, and wait for it.

    It sees the standard library alone, no environment, no file but Python's, no network and no other process; it can start
    threads but no processes (where there is no seccomp, processes end with it). Thread-safe; does not raise for anything the
    program does.

    Args:
        timeout_s: seconds of wall time, and of processor time.
        memory_bytes: address space, 64 MiB at least.
        max_output_bytes: of each of stdout and stderr the first that many bytes are kept.
        allow_weaker_sandbox: run it with what isolation there is, limits in any case.
        layers: isolate with exactly these instead of the strongest combination that works here.
    """
    isolated_by = _chosen(allow_weaker_sandbox) if layers is None else tuple(layers)
    if isolated_by is None:
        return Outcome("refused", "", f"Nothing here isolates a program's files and network. {_HINT}", 0.0)
    root = Path(tempfile.mkdtemp(prefix="modelworks-sandbox-"))
    try:
        (root / "box").mkdir()
        (root / "program.py").write_text(code, encoding="utf-8", errors="surrogatepass")
        return _Execution(root, isolated_by, max_output_bytes).run(stdin, timeout_s, max(_LEAST_MEMORY, memory_bytes))
    finally:
        _remove(root)


@lru_cache(maxsize=2)
def active_layers(*, allow_weaker: bool = False) -> tuple[Layer, ...] | None:
    """What isolates programs on this machine, found by running one; None where nothing shuts off files and network."""
    for layers in (*STRONG, *(WEAK if allow_weaker else ())):
        if sys.platform.startswith("linux") or not layers:
            found = run_python("print(6 * 7)", timeout_s=10.0, layers=layers)
            if found.status == "ok" and found.stdout == "42\n":
                return layers
    return None


def _chosen(allow_weaker: bool) -> tuple[Layer, ...] | None:
    strong = active_layers()
    return active_layers(allow_weaker=True) if strong is None and allow_weaker else strong


class _Execution:
    """One program, from its start to its end."""

    def __init__(self, root: Path, layers: tuple[Layer, ...], max_output_bytes: int) -> None:
        self._root, self._layers = root, layers
        self._limits = {"stdout": max_output_bytes, "stderr": max_output_bytes, "report": _REPORT_BYTES}
        self._kept: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray(), "report": bytearray()}
        self._truncated = False

    def run(self, stdin: str, timeout_s: float, memory_bytes: int) -> Outcome:
        report_out, report_in = os.pipe()
        python, readable = _interpreter()
        plan = {
            "root": str(self._root),
            "python": python,
            "readable": readable,
            "report": report_in,
            "parent": os.getpid(),
            "cpu_s": int(timeout_s) + 1,
            "memory_bytes": memory_bytes,
            "file_bytes": _FILE_BYTES,
            "layers": list(self._layers),
        }
        try:
            process = subprocess.Popen(
                [python, "-I", "-S", str(_ISOLATION), json.dumps(plan)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
                cwd=self._root,
                pass_fds=(report_in,),
                start_new_session=True,
            )
        except OSError as error:
            os.close(report_out)
            return Outcome("refused", "", f"The sandbox could not be started: {error}", 0.0)
        finally:
            os.close(report_in)
        with process, os.fdopen(report_out, "rb", buffering=0) as report:
            try:
                ended, wall_s = self._attend(process, report, stdin.encode("utf-8", "replace"), timeout_s)
            finally:
                _end(process)
        return self._outcome(ended, wall_s, timeout_s)

    def _attend(self, process: subprocess.Popen[bytes], report: IO[bytes], text: bytes, timeout_s: float) -> tuple[str, float]:
        """Feed and read until the end. Returns why it ended (`done`, `timeout`, `full`) and the program's seconds."""
        given, out, errors = (cast(IO[bytes], pipe) for pipe in (process.stdin, process.stdout, process.stderr))
        begun, started, ended = time.monotonic(), 0.0, ""
        with selectors.DefaultSelector() as waiting:
            for name, pipe in (("stdout", out), ("stderr", errors), ("report", report)):
                os.set_blocking(pipe.fileno(), False)
                waiting.register(pipe, selectors.EVENT_READ, name)
            os.set_blocking(given.fileno(), False)
            if text:
                waiting.register(given, selectors.EVENT_WRITE, "stdin")
            else:
                given.close()
            while waiting.get_map() and not ended:
                for key, _ in waiting.select(_POLL_S):
                    if key.data == "stdin":
                        text = _write(given, text)
                        if not text:
                            waiting.unregister(key.fileobj)
                            given.close()
                    elif not self._read(key.data, key.fd):
                        waiting.unregister(key.fileobj)
                now = time.monotonic()
                if not started and self._kept["report"].startswith(b"ready"):
                    started = now
                if now - (started or begun) > (timeout_s if started else _SETUP_S):
                    ended = "timeout"
                elif NAMESPACES not in self._layers and _is_over_full(self._root / "box"):
                    ended = "full"
                elif process.poll() is not None:
                    # Whoever still holds the pipes was left behind: what is in them is read, and no more.
                    for key in [each for each in waiting.get_map().values() if each.data != "stdin"]:
                        while len(self._kept[key.data]) < self._limits[key.data] and self._read(key.data, key.fd):
                            pass
                    ended = "done"
        return ended or "done", time.monotonic() - (started or begun)

    def _read(self, name: str, number: int) -> bool:
        """Keep what can be read at once; False where there is nothing, now or for ever."""
        try:
            data = os.read(number, 1 << 16)
        except BlockingIOError:
            return False
        kept = self._kept[name]
        room = self._limits[name] - len(kept)
        self._truncated |= len(data) > room
        kept += data[: max(0, room)]
        return bool(data)

    def _outcome(self, ended: str, wall_s: float, timeout_s: float) -> Outcome:
        report = self._kept["report"].decode("utf-8", "replace").splitlines()
        stdout, stderr = (self._kept[name].decode("utf-8", "replace") for name in ("stdout", "stderr"))
        if "ready" not in report or any(line.startswith("failed") for line in report):
            told = [line.removeprefix("failed ") for line in report if line.startswith("failed")]
            why = told[0] if told else stderr.strip() or "no answer"
            return Outcome("refused", "", f"The sandbox could not be built with {', '.join(self._layers)}: {why}", 0.0)
        last = report[-1]
        status: Status = "ok" if last == "exit 0" else "error"
        if ended == "timeout" or last == f"signal {int(signal.SIGXCPU)}":
            status = "timeout"
        elif status == "error" and re.search(r"^MemoryError\b", stderr.rstrip().rpartition("\n")[2]):
            status = "memory"
        elif last == f"signal {int(signal.SIGKILL)}" and ended == "done":
            # Only the kernel ends it so: for processor time whose first warning was not heeded, or for want of memory.
            status = "timeout" if wall_s > timeout_s / 2 else "memory"
        elif ended == "full":
            status, stderr = "error", stderr + f"\nEnded: more than {_BOX_BYTES >> 20} MiB or {_BOX_FILES} files were written."
        elif last.startswith("signal"):
            stderr += f"\nEnded by {signal.Signals(int(last.split()[1])).name}."
        return Outcome(status, stdout, stderr, wall_s, self._truncated, self._layers)


def _write(pipe: IO[bytes], data: bytes) -> bytes:
    """Write what fits; returns what is left, nothing where nobody reads."""
    try:
        return data[os.write(pipe.fileno(), data[: 1 << 16]) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return b""


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the isolation and its process group; with the first process of its namespace, everything in that."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@lru_cache(maxsize=1)
def _interpreter() -> tuple[str, list[str]]:
    """The real interpreter, and the files and folders that it reads."""
    python = os.path.realpath(sys.executable)
    own = [f"{sys.base_prefix}/lib", sysconfig.get_path("stdlib")]
    wanted = [*SYSTEM_FILES, *(os.path.realpath(path) for path in own)]
    return python, list(dict.fromkeys(path for path in wanted if Path(path).exists()))


def _is_over_full(box: Path) -> bool:
    """Whether a work folder holds too much; one that cannot be looked at does."""
    num_bytes = num_files = 0
    folders = [str(box)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    num_files += 1
                    if num_files > _BOX_FILES:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        num_bytes += entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            continue  # it has just been deleted
        except OSError:
            return True
    return num_bytes > _BOX_BYTES


def _remove(root: Path) -> None:
    """Delete a work folder, whatever was made of it: of any depth, with links out of it, with folders that cannot be opened."""
    with suppress(RecursionError):
        shutil.rmtree(root / "box", ignore_errors=True)
    if (root / "box").exists():
        subprocess.run(["chmod", "-R", "u+rwX", "--", str(root)], check=False, capture_output=True)
        subprocess.run(["rm", "-rf", "--", str(root)], check=False, capture_output=True)
    shutil.rmtree(root, ignore_errors=True)
