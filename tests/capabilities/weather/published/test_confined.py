"""The process that a checkpoint is opened in, attacked by what it runs."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.capabilities.weather.published.environments import environment

from modelworks.capabilities.weather.published import confined
from modelworks.capabilities.weather.published.confined import WAYS, Confined, Limits, Program
from modelworks.contract.errors import (
    Cancelled,
    InvalidData,
    InvalidRequest,
    MissingExtra,
    ModelworksError,
    TimedOut,
    Unavailable,
)

VARIABLE = "MODELWORKS_AURORA_PYTHON"
SHAPE = (2, 3, 4)

#: Stands in for a package whose model runs what a hostile checkpoint would. It needs no torch: the worker asks it for little.
HOSTILE = """
import os, socket, subprocess, sys, time
import numpy as np
class Metadata:
    pass
def attack(code):
    exec(code, {**globals()})
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("environment") / "env", {"torch": TORCH, "aurora": HOSTILE + MODEL})


#: The worker's module imports torch before the model: a stand-in is enough, and quicker.
TORCH = "import numpy as np, types\ntensor = np.array\nfloat32 = np.float32\ndef from_numpy(x): return x\n"
MODEL = """
class Plain:
    static_vars = ()
    max_history_size = 1
    class timestep:
        @staticmethod
        def total_seconds(): return 21600
    def __init__(self, code='', step_code=''):
        self._step_code = step_code
        attack(code)
    def _adapt_checkpoint(self, weights): return weights
    def state_dict(self): return {"encoder.surf_token_embeds.weights.2t": np.zeros((1, 1, 1))}
    def load_state_dict(self, weights, strict): pass
    def eval(self): pass
"""


def works(layers: tuple[str, ...], python: Path, root: Path) -> bool:
    try:
        opened(python, root, layers=layers).close()
    except Unavailable:
        return False
    return True


def opened(
    python: Path,
    root: Path,
    code: str = "",
    *,
    layers: tuple[str, ...] | None = None,
    watch: Callable[[], None] = lambda: None,
    limits: Limits | None = None,
    **given: Any,
) -> Confined:
    from safetensors.numpy import save_file

    root.mkdir(parents=True, exist_ok=True)
    weights, static = root / "weights.safetensors", root / "static.safetensors"
    if not weights.exists():
        save_file({"encoder.surf_token_embeds.weights.2t": np.zeros((1, 1, 1), np.float32)}, weights)
        save_file({"lsm": np.zeros(1, np.float32)}, static)
    known: dict[str, Any] = {
        "class": "Plain",
        "options": {"code": code},
        "weights": str(weights),
        "static": str(static),
        "fields": [],
        "levels": [],
        "latitude": [],
        "longitude": [],
        **given,
    }
    os.environ[VARIABLE] = str(python)
    program = Program(
        "Aurora",
        "aurora",
        VARIABLE,
        "microsoft-aurora",
        (weights, static),
        known,
        SHAPE,
        limits or Limits(4 << 30, 60.0),
        WAYS if layers is None else (layers,),
    )
    return Confined(program, watch)


@pytest.fixture(autouse=True)
def named() -> Iterator[None]:
    before = os.environ.get(VARIABLE)
    yield
    os.environ.pop(VARIABLE, None)
    if before is not None:
        os.environ[VARIABLE] = before


@pytest.fixture(params=WAYS, ids="+".join)
def layers(request: pytest.FixtureRequest, python: Path, tmp_path: Path) -> tuple[str, ...]:
    wanted: tuple[str, ...] = request.param
    if not works(wanted, python, tmp_path):
        pytest.skip(f"this machine lacks {' or '.join(wanted)}")
    return wanted


def refusal(python: Path, root: Path, code: str, layers: tuple[str, ...], **more: Any) -> ModelworksError:
    with pytest.raises(ModelworksError) as refused:
        opened(python, root, code, layers=layers, **more)
    return refused.value


def test_what_a_checkpoint_does_is_refused_and_told(python: Path, layers: tuple[str, ...], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the server")
    (tmp_path / "own").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for code in (
            f"open({str(secret)!r}).read()",
            f"open({str(tmp_path / 'made')!r}, 'w')",
            f"open({str(Path(__file__))!r}, 'a')",
            "open('/etc/hostname').read()",
            f"socket.create_connection(('127.0.0.1', {port}), timeout=5)",
            "socket.socket(socket.AF_UNIX)",
            "os.fork()",
            "subprocess.run([sys.executable, '-c', ''], check=True)",
            f"os.kill({os.getpid()}, 0)",
        ):
            error = refusal(python, tmp_path / "own", code, layers)
            assert error.error_code == "worker_refused", (code, error.message)
            assert "Error" in error.message
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    assert not (tmp_path / "made").exists()


def test_it_sees_nothing_of_the_servers_environment(
    python: Path, layers: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELWORKS_SECRET_KEY", "of-the-server")
    error = refusal(python, tmp_path, "raise ValueError(sorted(os.environ))", layers)
    assert "HOME" in error.message
    assert "MODELWORKS" not in error.message


def test_an_interpreter_may_be_reached_over_links(layers: tuple[str, ...], tmp_path: Path) -> None:
    # As /usr/bin/python3 is a link to python3.11, or the folder of a version manager one to another folder.
    packages = {"torch": TORCH, "aurora": HOSTILE + MODEL}
    (tmp_path / "current").symlink_to(tmp_path / "versions")
    (tmp_path / "versions").mkdir()
    python = environment(tmp_path / "env", packages, by=tmp_path / "current" / "bin")
    opened(python, tmp_path / "work", layers=layers).close()


def test_a_full_disk_is_that_of_the_worker(python: Path, layers: tuple[str, ...], tmp_path: Path) -> None:
    fill = "for index in range(400):\n  f = open(f'{os.environ[\"HOME\"]}/{index}', 'wb'); f.write(bytes(1 << 20)); f.flush()"
    error = refusal(python, tmp_path, fill + "\ntime.sleep(30)", layers)
    assert error.error_code in ("worker_refused", "worker_failed"), error.message
    grow = "f = open(given_output, 'r+b')\nwhile True: f.write(bytes(1 << 18)); f.flush()"
    # The file that it may write holds one state, and no more.
    find = "import gc\ngiven_output = next(d['output'] for d in gc.get_objects() if type(d) is dict and 'output' in d)\n"
    error = refusal(python, tmp_path, find + grow, layers)
    assert error.error_code == "worker_refused", error.message
    assert "too large" in error.message


def test_memory_and_time_have_limits(python: Path, layers: tuple[str, ...], tmp_path: Path) -> None:
    error = refusal(python, tmp_path, "x = np.ones(1 << 29)", layers, limits=Limits(1 << 30, 60.0))
    assert isinstance(error, InvalidRequest)
    assert error.error_code == "worker_memory"
    assert "MODELWORKS_WEATHER_WORKER_GIB" in str(error.hint)
    begun = time.monotonic()
    error = refusal(python, tmp_path, "time.sleep(60)", layers, limits=Limits(4 << 30, 1.0))
    assert isinstance(error, TimedOut)
    assert time.monotonic() - begun < 30


def test_a_cancelled_run_ends_the_process(python: Path, tmp_path: Path) -> None:
    until = time.monotonic() + 1.0

    def watch() -> None:
        if time.monotonic() > until:
            raise Cancelled("stopped")

    begun = time.monotonic()
    with pytest.raises(Cancelled):
        opened(python, tmp_path, "time.sleep(60)", watch=watch)
    assert time.monotonic() - begun < 30


def test_nobody_holds_it_and_it_is_gone(python: Path, tmp_path: Path) -> None:
    worker = opened(python, tmp_path)
    process, root = worker._process, worker._root
    assert process is not None
    assert process.poll() is None
    assert root.is_dir()
    del worker
    assert process.poll() == -signal.SIGKILL
    assert not root.exists()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("os.write(4, b'') ; os._exit(3)", "ended \\(exit 3\\)"),
        ("[os.write(n, b'no json\\n') for n in range(3, 9) if os.path.exists(f'/dev/fd/{n}') or True]", "protocol"),
        ("[os.write(n, b'[' * 70000) for n in range(3, 9)]; time.sleep(30)", "protocol"),
        ('[os.write(n, b\'{"event": "state"}\\n\') for n in range(3, 9)]; time.sleep(30)', "'state' where 'ready'"),
        ("raise ValueError('no such weights')", "failed: ValueError: no such weights"),
    ],
)
def test_what_it_says_is_not_believed(python: Path, tmp_path: Path, code: str, said: str) -> None:
    # Whichever number the line to the platform has: the others are closed.
    code = code.replace("os.write(n, b", "__import__('contextlib').suppress(OSError).__enter__() or attempt(n, b")
    code = "def attempt(n, data):\n  try: os.write(n, data)\n  except OSError: pass\n" + code.replace(
        "__import__('contextlib').suppress(OSError).__enter__() or ", ""
    ).replace("os.write(4, b'') ; ", "")
    with pytest.raises(InvalidData, match=said):
        opened(python, tmp_path, code)


def test_what_is_missing_is_named(python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = environment(tmp_path / "bare", {"torch": ""})
    with pytest.raises(MissingExtra, match="No module named 'aurora'") as lacking:
        opened(bare, tmp_path)
    assert "microsoft-aurora" in str(lacking.value.hint)
    with pytest.raises(MissingExtra, match="names no interpreter"):
        opened(tmp_path / "nowhere", tmp_path)
    mute = tmp_path / "mute"
    mute.write_text("#!/bin/sh\nexit 1\n")
    mute.chmod(0o755)
    with pytest.raises(MissingExtra, match="does not answer"):
        opened(mute, tmp_path)
    monkeypatch.setenv("MODELWORKS_WEATHER_WORKER_GIB", "much")
    with pytest.raises(InvalidRequest, match="MODELWORKS_WEATHER_WORKER_GIB is 'much'"):
        Limits.configured()
    monkeypatch.setenv("MODELWORKS_WEATHER_WORKER_GIB", "2")
    monkeypatch.setenv("MODELWORKS_WEATHER_STEP_S", "7.5")
    assert Limits.configured() == Limits(2 << 30, 7.5)


def test_where_nothing_shuts_it_off_nothing_runs(python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "isolation.py"
    source = Path(confined.isolation.__file__).read_text()
    broken.write_text(source.replace("_check(_libc.capset(", "_check(-1 + 0 * _libc.capset("))
    monkeypatch.setattr(confined.isolation, "__file__", str(broken))
    proof = "open(os.environ['HOME'] + '/ran', 'w')"
    with pytest.raises(Unavailable, match="so it is not run") as refused:
        opened(python, tmp_path, proof)
    assert refused.value.error_code == "no_sandbox"
    assert "capset" in refused.value.message
