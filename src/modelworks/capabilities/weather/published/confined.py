"""A program in an interpreter that the operator names, shut off from files, network and other processes.

What a checkpoint that is a pickle does when it is opened, it does here: it can read its own environment, its own files and what
the forecast begins from, and write one file of known size. `modelworks/isolation.py` says what shuts it off; where nothing
does, nothing is run. Messages are lines of JSON, states are safetensors files; none of either is trusted.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np
from safetensors.numpy import load, save_file

from modelworks import isolation
from modelworks.capabilities.weather.grid.grids import Floats
from modelworks.contract.errors import InvalidData, InvalidRequest, MissingExtra, ModelworksError, TimedOut, Unavailable
from modelworks.isolation import LANDLOCK, NAMESPACES, SECCOMP, SYSTEM_FILES

#: What shuts off files, network and new processes, the strongest first.
WAYS: Final[tuple[tuple[str, ...], ...]] = (
    (NAMESPACES, LANDLOCK, SECCOMP),
    (LANDLOCK, SECCOMP),
    (NAMESPACES, SECCOMP),
)
MEMORY_VARIABLE: Final = "MODELWORKS_WEATHER_WORKER_GIB"
SECONDS_VARIABLE: Final = "MODELWORKS_WEATHER_STEP_S"
_SCRATCH_BYTES: Final = 256 << 20
_SCRATCH_FILES: Final = 4096
#: Of a header and what JSON adds.
_MARGIN_BYTES: Final = 1 << 20
_LINE_BYTES: Final = 1 << 16
_TAIL_BYTES: Final = 1 << 13
_POLL_S: Final = 0.2
#: Linux follows no more than these.
_MOST_LINKS: Final = 40
_ASK: Final = (
    "import json, sys, sysconfig; print(json.dumps([sys.prefix, sys.base_prefix, sys.executable, sys._base_executable, "
    "sysconfig.get_path('stdlib'), *sys.path]))"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a worker may use.

    Attributes:
        memory_bytes: address space.
        step_s: wall time for a step, and for loading the model.
    """

    memory_bytes: int = 64 << 30
    step_s: float = 3600.0

    @classmethod
    def configured(cls) -> Limits:
        """Those that the operator set in the environment.

        Raises:
            InvalidRequest: a variable holds no number above 0.
        """
        found = []
        for name, known in ((MEMORY_VARIABLE, 64.0), (SECONDS_VARIABLE, 3600.0)):
            try:
                value = float(os.environ.get(name) or known)
            except ValueError:
                value = 0.0
            if not 0 < value < float("inf"):
                raise InvalidRequest(
                    f"{name} is {os.environ[name]!r}, which is no number above 0.", hint="Set it to a number, or unset it."
                )
            found.append(value)
        return cls(int(found[0] * (1 << 30)), found[1])


@dataclass(frozen=True, slots=True)
class Program:
    """What is run.

    Attributes:
        name: of the model, for messages.
        module: of `weather_worker`.
        variable: environment variable with the interpreter.
        packages: what to install there, for messages.
        files: what it may read, besides its environment.
        given: told to it at the start.
        shape: of the states that it gives, (C, H, W).
    """

    name: str
    module: str
    variable: str
    packages: str
    files: tuple[Path, ...]
    given: Mapping[str, Any]
    shape: tuple[int, int, int]
    limits: Limits = field(default_factory=Limits)
    ways: Sequence[tuple[str, ...]] = WAYS


def interpreter(variable: str, name: str, packages: str) -> str:
    """The interpreter that the operator named for a model.

    Raises:
        MissingExtra: none is named, or it is no file.
    """
    python = os.environ.get(variable)
    if not python or not Path(python).is_file():
        raise MissingExtra(
            f"{name} runs in an environment of its own, and {variable} names {'no interpreter' if python else 'none'}.",
            hint=f"Make a virtual environment with {packages}, and set {variable} to its Python interpreter.",
        )
    return python


class Confined:
    """One such process, from its start until `close` or until nobody holds it any more.

    Args:
        watch: called several times a second; what it raises ends the process.
    """

    def __init__(self, program: Program, watch: Callable[[], None]) -> None:
        """Start it and wait until its model is loaded.

        Raises:
            MissingExtra: no interpreter is named, or it lacks packages.
            Unavailable: nothing here shuts the process off.
            InvalidData, InvalidRequest, TimedOut: it refuses the files, ends, or needs more than it may.
        """
        self._program, self._watch = program, watch
        python = interpreter(program.variable, program.name, program.packages)
        self._root = Path(tempfile.mkdtemp(prefix="modelworks-worker-"))
        self._input, self._output = self._root / "in" / "states.safetensors", self._root / "out" / "state.safetensors"
        self._lines, self._tail, self._report = bytearray(), bytearray(), bytearray()
        self.layers: tuple[str, ...] = ()
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[..., Confined] = weakref.finalize(self, _remove, self._root)
        try:
            self._open(python)
        except BaseException:
            self.close()
            raise

    def _open(self, python: str) -> None:
        for folder in ("box", "in", "out"):
            (self._root / folder).mkdir()
        self._output.touch()
        here = Path(__file__).parent
        (self._root / "program.py").write_text(
            f"import sys\nsys.path.insert(0, {str(here)!r})\n"
            f"from weather_worker import {self._program.module}\nsys.path.pop(0)\n{self._program.module}.main()\n"
        )
        readable = [*_environment_of(python, self._program), str(here), str(self._root / "in")]
        readable += [os.path.realpath(path) for path in self._program.files]
        told = []
        for layers in self._program.ways:
            self._start(python, readable, layers)
            failed = self._built()
            if failed is None:
                self.layers = layers
                break
            told.append(f"{' and '.join(layers)}: {failed}")
            self._stop()
        else:
            raise Unavailable(
                f"Nothing on this machine shuts the worker of {self._program.name} off, so it is not run ({'; '.join(told)}).",
                hint="It takes Linux with seccomp, and Landlock (6.2 or newer) or user namespaces; containers may forbid them.",
                code="no_sandbox",
            )
        self._send({**self._program.given, "input": str(self._input), "output": str(self._output)})
        self._await("ready")

    def _start(self, python: str, readable: Sequence[str], layers: Sequence[str]) -> None:
        channels, rows, columns = self._program.shape
        report_out, report_in = os.pipe()
        threads = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ}
        plan = {
            "root": str(self._root),
            "python": python,
            "readable": list(dict.fromkeys(readable)),
            "writable": [str(self._output)],
            "report": report_in,
            "parent": os.getpid(),
            # Wall time is held from here; a step computes on many cores.
            "cpu_s": 1 << 30,
            "memory_bytes": self._program.limits.memory_bytes,
            "file_bytes": 4 * channels * rows * columns + _MARGIN_BYTES,
            "layers": list(layers),
            "flags": ["-I", "-B", "-X", "utf8"],
            "environment": {
                "CUDA_VISIBLE_DEVICES": "",
                "JAX_PLATFORMS": "cpu",
                "HF_HUB_OFFLINE": "1",
                "USER": "worker",
                **threads,
            },
            "box_bytes": _SCRATCH_BYTES,
            "box_files": _SCRATCH_FILES,
            "keeps_user": True,
            "tasks": 1024,
            "open_files": 1024,
        }
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", isolation.__file__, json.dumps(plan)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
                cwd=self._root,
                pass_fds=(report_in,),
                start_new_session=True,
            )
        finally:
            os.close(report_in)
        self._end.detach()
        self._end = weakref.finalize(self, _ended, self._process, report_out, self._root)
        self._pipes = {
            cast(IO[bytes], self._process.stdout).fileno(): self._lines,
            cast(IO[bytes], self._process.stderr).fileno(): self._tail,
            report_out: self._report,
        }
        for number in self._pipes:
            os.set_blocking(number, False)

    def _stop(self) -> None:
        """End the process, and keep the folder for the next way."""
        self._end.detach()
        report = next(number for number, kept in self._pipes.items() if kept is self._report)
        _kill(cast("subprocess.Popen[bytes]", self._process), report)
        for kept in (self._lines, self._tail, self._report):
            kept.clear()
        self._end = weakref.finalize(self, _remove, self._root)

    def close(self) -> None:
        """End the process and remove its files; may be called again."""
        self._end()

    def ask(self, history_schw: Floats, message: Mapping[str, Any]) -> Floats:
        """The state after the given ones, (C, H, W).

        Raises:
            InvalidData: it refuses, or gives what is no such state.
            TimedOut, InvalidRequest: it needs more time or memory than it may.
        """
        try:
            # Renamed into place, so that what is read is whole.
            new = self._input.with_suffix(".new")
            save_file({"states": np.ascontiguousarray(history_schw, np.float32)}, new)
            new.replace(self._input)
            self._send({"do": "advance", **message})
            self._await("state")
            return self._state()
        except BaseException:
            self.close()
            raise

    def _state(self) -> Floats:
        name = self._program.name
        try:
            found = load(self._output.read_bytes())["state"]
        except Exception as error:
            raise self._broken(f"gave no state: {error}") from error
        if found.shape != self._program.shape or found.dtype != np.float32:
            raise self._broken(f"gave {found.dtype} {found.shape} where float32 {self._program.shape} is the state")
        if not np.isfinite(found).all():
            raise InvalidData(
                f"{name} gave values that are no numbers.",
                hint="Are the initial states those that it was trained on, in the units of the documentation?",
                code="not_finite",
            )
        return np.asarray(found)

    # What is said

    def _send(self, message: Mapping[str, Any]) -> None:
        pipe = cast(IO[bytes], cast("subprocess.Popen[bytes]", self._process).stdin)
        try:
            pipe.write(json.dumps(message).encode() + b"\n")
            pipe.flush()
        except OSError as error:
            self._look(1.0)
            raise self._broken("does not listen any more") from error

    def _await(self, wanted: str) -> None:
        """Read until the process says `wanted`."""
        begun = time.monotonic()
        while True:
            is_over = not self._look(_POLL_S)
            while b"\n" in self._lines:
                line, _, rest = self._lines.partition(b"\n")
                self._lines[:] = rest
                if self._heard(bytes(line), wanted):
                    return
            if is_over:
                raise self._over()
            if len(self._lines) > _LINE_BYTES:
                raise self._broken("writes lines that are none of the protocol's")
            self._watch()
            if time.monotonic() - begun > self._program.limits.step_s:
                raise TimedOut(
                    f"The worker of {self._program.name} took longer than {self._program.limits.step_s:g} seconds.",
                    hint=f"Set {SECONDS_VARIABLE} to more seconds, or give it more cores.",
                    code="worker_timeout",
                )
            if NAMESPACES not in self.layers and _is_full(self._root / "box"):
                raise self._broken(f"wrote more than {_SCRATCH_BYTES >> 20} MiB or {_SCRATCH_FILES} files of scratch")

    def _heard(self, line: bytes, wanted: str) -> bool:
        try:
            message = json.loads(line)
            event = message["event"]
        except (ValueError, TypeError, KeyError) as error:
            raise self._broken("writes lines that are none of the protocol's") from error
        if event == "error":
            raise self._told(str(message.get("kind")), str(message.get("message"))[:500])
        if event not in (wanted, "progress"):
            raise self._broken(f"says {str(event)[:40]!r} where {wanted!r} is due")
        return bool(event == wanted)

    def _look(self, seconds: float) -> bool:
        """Take in what was written within a time; False where the process is over and everything was read."""
        is_done = cast("subprocess.Popen[bytes]", self._process).poll() is not None
        with selectors.DefaultSelector() as waiting:
            for number in self._pipes:
                waiting.register(number, selectors.EVENT_READ)
            has_read = False
            for key, _ in waiting.select(0 if is_done else seconds):
                data = os.read(key.fd, 1 << 16)
                kept = self._pipes[key.fd]
                kept += data
                if kept is not self._lines:
                    del kept[:-_TAIL_BYTES]
                if not data:
                    del self._pipes[key.fd]
                has_read |= bool(data)
        return has_read or not is_done

    def _built(self) -> str | None:
        """Wait until the isolation stands; why it does not."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            is_alive = self._look(_POLL_S)
            text = self._report.decode("utf-8", "replace")
            if text.startswith("failed"):
                return text.strip().removeprefix("failed ")[:300]
            if text.startswith("ready"):
                return None
            if not is_alive:
                break
        return self._said() or "no answer"

    def _said(self) -> str:
        return self._tail.decode("utf-8", "replace").strip().rpartition("\n")[2][:300]

    def _over(self) -> ModelworksError:
        last = (self._report.decode("utf-8", "replace").splitlines() or [""])[-1]
        if last == f"signal {int(signal.SIGKILL)}" or "MemoryError" in self._said():
            return self._told("memory", "it was ended")
        return self._broken(f"ended ({last or 'without a word'}): {self._said() or 'it said nothing'}")

    def _told(self, kind: str, message: str) -> ModelworksError:
        program = self._program
        if kind == "package":
            return MissingExtra(
                f"The environment of {program.name} lacks what it needs: {message}",
                hint=f"Install {program.packages} beside the interpreter that {program.variable} names.",
            )
        if kind == "memory":
            return InvalidRequest(
                f"The worker of {program.name} needs more than its {program.limits.memory_bytes / (1 << 30):g} GiB "
                f"of memory: {message}",
                hint=f"Set {MEMORY_VARIABLE} to more, or take a machine with more memory.",
                code="worker_memory",
            )
        if kind == "refused":
            return InvalidData(
                f"The worker of {program.name} was refused something while it ran: {message}",
                hint="A checkpoint needs no other files, network or processes; do not use one that does.",
                code="worker_refused",
            )
        return self._broken(f"failed: {message}")

    def _broken(self, what: str) -> InvalidData:
        return InvalidData(
            f"The worker of {self._program.name} {what}.",
            hint="Are the files those that were published, and the packages those that the documentation names?",
            code="worker_failed",
        )


def _environment_of(python: str, program: Program) -> list[str]:
    """What an interpreter reads: itself, its library, its packages. It is asked without anything of a checkpoint.

    Raises:
        MissingExtra: it does not answer.
    """
    try:
        answer = subprocess.run(
            [python, "-I", "-B", "-c", _ASK], capture_output=True, timeout=60, check=True, env={"PATH": "/usr/bin:/bin"}
        )
        prefix, base, executable, of_base, *own = [str(each) for each in json.loads(answer.stdout.splitlines()[-1])]
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
        raise MissingExtra(
            f"The interpreter that {program.variable} names does not answer: {error}",
            hint=f"Make a virtual environment with {program.packages}, and name its Python interpreter.",
        ) from error
    own += [prefix if prefix != base else "", f"{base}/lib", *_linked(python), *_linked(executable), *_linked(of_base)]
    found = [*SYSTEM_FILES, *own, *(os.path.realpath(path) for path in own if path)]
    # Folders before what lies in them: a folder that is shown shows that, too.
    return sorted({path for path in found if path and Path(path).exists()}, key=len)


def _linked(path: str) -> list[str]:
    """A path, and those that one link after the other leads to: an interpreter looks at each for its library."""
    found = [path]
    while (link := Path(found[-1])).is_symlink() and len(found) < _MOST_LINKS:
        found.append(os.path.normpath(link.parent / link.readlink()))
    return found


def _is_full(box: Path) -> bool:
    num_bytes = num_files = 0
    for folder, folders, names in os.walk(box):
        num_files += len(folders) + len(names)
        for name in names:
            with suppress(OSError):
                num_bytes += Path(folder, name).lstat().st_blocks * 512
        if num_files > _SCRATCH_FILES or num_bytes > _SCRATCH_BYTES:
            return True
    return False


def _kill(process: subprocess.Popen[bytes], report: int) -> None:
    """End the process, its group and, with the first process of its namespace, everything in that."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        with suppress(OSError):
            cast(IO[bytes], pipe).close()
    with suppress(OSError):
        os.close(report)


def _remove(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)


def _ended(process: subprocess.Popen[bytes], report: int, root: Path) -> None:
    _kill(process, report)
    _remove(root)
