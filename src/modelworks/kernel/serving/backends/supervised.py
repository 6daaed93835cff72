"""The process above a server that already speaks OpenAI's protocol: starts it on a free port and ends with our server.

`python -m modelworks.kernel.serving.backends.supervised <folder>/spec.json`, started by the local back end. It is a process of
its own because that server knows nothing of ours and would live on when ours is killed. Where the capability can load adapters
into that server, this process answers `POST /adapters` as a replica does, on a port of its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import cast

from pydantic import BaseModel

from modelworks.contract.adapter import AdapterHost
from modelworks.contract.capability import ServerCommand
from modelworks.contract.errors import InvalidRequest, ModelworksError
from modelworks.contract.run import LocalModel
from modelworks.kernel.catalog.discovery import find_task, resolve_import
from modelworks.kernel.serving.schemas import ReplicaSpec
from modelworks.kernel.serving.worker import LOAD_FAILED, Replica, die_with_parent, request_death_signal, write_status

_TERM_GRACE_S = 10.0


def command_of(spec: ReplicaSpec) -> ServerCommand:
    """Ask the capability for the command.

    Raises:
        ModelworksError: what the capability says (a missing interpreter, an option that server does not have).
        InvalidRequest: it returned something else than a command.
    """
    _, task = find_task(spec.capability, spec.task)
    factory = cast(Callable[[LocalModel | None, BaseModel | None], object], resolve_import(spec.import_path or ""))
    options = None if task.options is None else task.options.model_validate(spec.options)
    command = factory(spec.model, options)
    if not isinstance(command, ServerCommand):
        raise InvalidRequest(f"{spec.import_path} returned a {type(command).__name__}, not a ServerCommand.")
    return command


def free_port() -> int:
    """A port of the loopback interface that is free at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve_adapters(spec: ReplicaSpec, open_host: Callable[[str], AdapterHost], url: str) -> int:
    """Answer `POST /adapters`, as `worker.Replica` does, from a thread that ends with the process; returns its port.

    Args:
        url: under which the server speaks OpenAI's protocol.
    """
    import uvicorn

    _, task = find_task(spec.capability, spec.task)
    replica = Replica(task, lambda: open_host(url), spec.token)
    replica.load()
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    server = uvicorn.Server(uvicorn.Config(replica, log_config=None, access_log=False, lifespan="off"))
    threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="adapters", daemon=True).start()
    return int(listener.getsockname()[1])


def main(argv: list[str]) -> int:
    """Run the server until it or our server ends; returns its exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    spec = ReplicaSpec.model_validate_json(Path(argv[0]).read_bytes())
    try:
        command = command_of(spec)
        port = free_port()
        arguments = [argument.replace("{port}", str(port)) for argument in command.argv]
        env = {name: value.replace("{port}", str(port)) for name, value in command.env.items()}
        try:
            child = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **env},
                preexec_fn=request_death_signal,  # safe: no thread has been started yet
            )
        except OSError as error:
            raise InvalidRequest(
                f"The server's program {arguments[0]!r} cannot be started: {error.strerror}.",
                hint="Install it or correct its path in the settings.",
                code="server_not_startable",
            ) from error
    except ModelworksError as error:
        write_status(spec.folder, {"state": "failed", "error": error.to_wire()})
        return LOAD_FAILED
    except Exception as error:
        logging.exception("the server's command cannot be made")
        wire = ModelworksError(f"The server's command cannot be made: {type(error).__name__}: {error}", code="load_failed")
        write_status(spec.folder, {"state": "failed", "error": wire.to_wire()})
        return LOAD_FAILED
    # That server may have children of its own; they are in our process group, as it is.
    die_with_parent(lambda: os.killpg(os.getpgrp(), signal.SIGKILL), ask_kernel=False)
    described = {
        "model": command.model,
        "health_path": command.health_path,
        "api_path": command.api_path,
        "start_timeout_s": command.start_timeout_s,
    }
    adapters_port = None
    if command.adapters is not None:
        adapters_port = serve_adapters(spec, command.adapters, f"http://127.0.0.1:{port}{command.api_path}")
    write_status(spec.folder, {"state": "loading", "port": port, "command": described, "adapters_port": adapters_port})

    def terminate(_signal: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        # Whatever it does with the request to end, it ends.
        signal.signal(signal.SIGALRM, lambda _signal, _frame: child.kill())
        signal.setitimer(signal.ITIMER_REAL, _TERM_GRACE_S)

    signal.signal(signal.SIGTERM, terminate)
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
