"""A whole platform in a process of its own, on a free port and an empty home folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from modelworks.client import Modelworks


class PlatformProcess:
    """`modelworks serve`, started on entering and stopped on leaving.

    Args:
        home: its home folder; keep it to start the same platform again.
        site: a folder of further distributions that it and all its workers shall find.
        settings: further settings by lower-case name.
    """

    def __init__(self, home: Path, *, site: Path | None = None, **settings: Any) -> None:
        self.home = home
        self.url = ""
        self._settings = settings
        self._site = site
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready.

        Raises:
            RuntimeError: it ended, or was not ready in two minutes; with the end of its log.
        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MODELWORKS_")}
        environment |= {f"MODELWORKS_{name.upper()}": str(value) for name, value in self._settings.items()}
        environment |= {"MODELWORKS_HOME": str(self.home), "MODELWORKS_PORT": str(port), "MODELWORKS_LOG_FORMAT": "json"}
        if self._site is not None:
            environment["PYTHONPATH"] = os.pathsep.join([str(self._site), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.home.mkdir(parents=True, exist_ok=True)
        self.url = f"http://127.0.0.1:{port}"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "modelworks.cli", "serve"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                # Nothing is verified without TLS; reading the certificates at every turn would take the server's time.
                if httpx.get(f"{self.url}/readyz", timeout=5, verify=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise RuntimeError(f"the server did not become ready ({self.process.poll()}):\n{self.log.read_text()[-4000:]}")

    @property
    def log(self) -> Path:
        return self.home.parent / f"{self.home.name}.log"

    @property
    def key(self) -> str:
        return (self.home / "admin.key").read_text().strip()

    def client(self) -> Modelworks:
        return Modelworks(self.url, self.key)

    def kill(self) -> None:
        """What a crash does: no chance to clean up."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(timeout=30)

    def stop(self) -> None:
        """What Ctrl-C does; killed with its children if it does not end."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=30)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        if error is not None:
            print(self.log.read_text(errors="replace")[-6000:])


def wait_until_ready(client: Modelworks, name: str, *, timeout_s: float = 90) -> dict[str, Any]:
    """Wait until a deployment answers; raises AssertionError with its state and error otherwise."""
    deadline = time.monotonic() + timeout_s
    while True:
        deployment = client.deployments.get(name)
        if deployment["state"] == "ready":
            return deployment
        assert deployment["state"] != "failed", deployment
        assert time.monotonic() < deadline, deployment
        time.sleep(0.1)
