"""A platform of its own for a benchmark: a server on a free port, an empty home, and the command line that talks to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

from modelworks.client import Modelworks


class PrivateServer:
    """`modelworks serve` in a temporary home, started on entering, stopped and deleted on leaving.

    Args:
        shown: print each command and what it answers, as a person would see it.
        keep: a home folder to use, and to leave there; a temporary one when not given.
        settings: further settings of the server by lower-case name.
    """

    def __init__(self, *, shown: bool = True, keep: Path | None = None, **settings: str) -> None:
        self._shown = shown
        self._settings = settings
        self._keep = keep
        self._folder = Path(tempfile.mkdtemp(prefix="modelworks-benchmark-")) if keep is None else keep.absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._environment: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        """Where a benchmark may put files of its own."""
        return self._folder

    @property
    def url(self) -> str:
        """Where the server listens."""
        return self._environment["MODELWORKS_URL"]

    @property
    def key(self) -> str:
        """The first key, which may do everything."""
        return (self._folder / "home" / "admin.key").read_text().strip()

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> Path:
        """What the server says."""
        return self._folder / "server.log"

    def client(self) -> Modelworks:
        """Our own client with the first key."""
        return Modelworks(self.url, self.key)

    def kill(self) -> None:
        """What a crash does: no chance to clean up. `start` starts the same home again."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        """Start the server, and wait until it is ready."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MODELWORKS_")}
        self._environment = {
            **kept,
            **{f"MODELWORKS_{name.upper()}": value for name, value in self._settings.items()},
            "MODELWORKS_HOME": str(self._folder / "home"),
            "MODELWORKS_PORT": str(port),
            "MODELWORKS_URL": f"http://127.0.0.1:{port}",
            "MODELWORKS_LANG": "en",
            # Figures are CPU time: one thread, in tokenizers too, wastes none of it on waiting.
            "OMP_NUM_THREADS": "1",
            "RAYON_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "modelworks.cli", "serve"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise SystemExit(f"the server did not become ready:\n{self.log.read_text()[-4000:]}")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if self._keep is None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def command(self, *words: str, may_fail: bool = False) -> str:
        """Run `modelworks …`; show and return what it prints."""
        if self._shown:
            print(f"\n$ modelworks {' '.join(word if ' ' not in word else repr(word) for word in words)}", flush=True)
        done = self._run(words)
        if done.returncode and not may_fail:
            raise SystemExit(f"modelworks {' '.join(words)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        said = done.stdout + (done.stderr if done.returncode or "not" in done.stderr else "")
        if self._shown:
            print(said.rstrip(), flush=True)
        return said

    def answer(self, *words: str) -> Any:
        """What `modelworks … -o json` prints."""
        if self._shown:
            print(f"$ modelworks {' '.join(word if ' ' not in word else repr(word) for word in words)}", flush=True)
        done = self._run((*words, "-o", "json"))
        if done.returncode:
            raise SystemExit(f"modelworks {' '.join(words)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return json.loads(done.stdout)

    def fetch(self, dataset: str, folder: Path) -> None:
        """Write the files of a data set into a new folder, through the Python client."""
        with self.client() as client:
            for file in client.datasets.get(dataset)["version"]["files"]:
                target = folder / file["path"]
                target.parent.mkdir(parents=True, exist_ok=True)
                client.blobs.download(file["digest"], target)

    def train(self, name: str, inputs: dict[str, str], params: dict[str, Any], base: str | None = None) -> tuple[str, float]:
        """Train and wait; returns the version's reference and the CPU seconds of the run's whole process."""
        words = ["train", "text-generation", "--name", name, *(["--base", base] if base else []), "--seed", "1", "--follow"]
        for role, ref in inputs.items():
            words += ["--data", f"{role}={ref}"]
        for key, value in params.items():
            words += ["-p", f"{key}={json.dumps(value) if not isinstance(value, str) else value}"]
        run, cpu_s = self.measured(*words)
        (made,) = run["outputs"]
        return f"{made['name']}@v{made['number']}", cpu_s

    def measured(self, *words: str) -> tuple[Any, float]:
        """What a verb that waits for its run answers, and the CPU seconds of the run's process, from its start to its end.

        They are counted by the operating system when the server reaps that process; nothing else may run meanwhile.
        """
        before = self._reaped_s()
        answer = self.answer(*words)
        assert self._process is not None
        while psutil.Process(self._process.pid).children():
            time.sleep(0.2)
        return answer, self._reaped_s() - before

    def _reaped_s(self) -> float:
        assert self._process is not None
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.children_user + times.children_system)

    def _run(self, words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "modelworks.cli", *words]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
