"""Nothing leaves the machine unless it is asked to: the platform is used where the kernel counts every attempt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.architecture.sources import PROJECT

#: A network, a user and a file system of its own; names are looked up at an address to which there is no way.
ENTER = ("unshare", "-rnm", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"')


@pytest.mark.slow
def test_nothing_leaves_the_machine(tmp_path: Path) -> None:
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("nameserver 192.0.2.1\noptions timeout:1 attempts:1\n")
    try:
        probe = subprocess.run([*ENTER, resolver, "true"], capture_output=True, text=True, check=False)
        reason = probe.stderr.strip() if probe.returncode else ""
    except FileNotFoundError:
        reason = "there is no unshare"
    if reason and "CI" not in os.environ:
        pytest.skip(f"this machine allows no namespaces: {reason}")
    assert not reason
    # A proxy on this machine would hide what goes out through it.
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    for name in ("CI", "DO_NOT_TRACK", "HF_HUB_OFFLINE"):  # where these are set, some libraries are silent by themselves
        environment.pop(name, None)
    done = subprocess.run(
        [*ENTER, resolver, sys.executable, "-m", "tests.defences.offline", tmp_path],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["noticed"] >= 2, "an attempt to connect and one to look a name up are counted"
    assert found["modules"] > 300
    assert found["answer"] in ("stop", "length")
    assert {name: found[name] for name in ("imports", "server", "training", "chat")} == dict.fromkeys(
        ("imports", "server", "training", "chat"), 0
    )
