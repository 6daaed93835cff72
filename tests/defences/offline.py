"""Uses the platform where there is no network but the loopback, and says what tried to leave. Run in a namespace of its own."""

from __future__ import annotations

import fcntl
import importlib
import json
import pkgutil
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import openai
from tests.journeys.language_model import train_and_deploy
from tests.journeys.platform_process import PlatformProcess

import modelworks

_SIOCSIFFLAGS, _IFF_UP_RUNNING = 0x8914, 0x41
#: An address that is nobody's (RFC 5737).
NOWHERE = ("192.0.2.1", 9)
#: Run when they are imported: Alembic's environment, and the command line itself.
NOT_IMPORTED = ("__main__", ".migrations.")
#: Extras that may be absent.
OPTIONAL = {"ray"}


def attempts() -> int:
    """How often somebody here tried to reach what has no route: the kernel counts it, whoever hides the failure."""
    lines = Path("/proc/self/net/snmp").read_text("ascii").splitlines()
    names, values = (line.split() for line in lines if line.startswith("Ip:"))
    four = int(values[names.index("OutNoRoutes")])
    six = dict(line.split() for line in Path("/proc/self/net/snmp6").read_text("ascii").splitlines())
    return four + int(six.get("Ip6OutNoRoutes", 0))


def import_everything() -> int:
    """Import every module; returns how many there are."""
    number = 0
    for module in pkgutil.walk_packages(modelworks.__path__, "modelworks."):
        if any(each in module.name for each in NOT_IMPORTED):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in OPTIONAL:
                raise
        number += 1
    return number


def main(folder: Path) -> dict[str, object]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as loopback:
        fcntl.ioctl(loopback, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP_RUNNING))
    before = attempts()
    for try_it in (lambda: socket.create_connection(NOWHERE, 1), lambda: socket.getaddrinfo("models.example", 443)):
        try:
            try_it()
        except OSError:
            continue
        raise SystemExit("there is a way out")
    seen = attempts()
    found: dict[str, object] = {"noticed": seen - before, "modules": import_everything(), "imports": attempts() - seen}
    with PlatformProcess(folder / "home") as platform, platform.client() as client:
        found["server"] = attempts() - seen
        train_and_deploy(client, "offline", folder / "text", steps=1, warmup_steps=0)
        found["training"] = attempts() - seen
        asking = openai.OpenAI(base_url=f"{platform.url}/v1", api_key=platform.key, max_retries=0)
        message: Any = {"role": "user", "content": "Hello"}
        answer = asking.chat.completions.create(model="offline", messages=[message], max_tokens=4)
        found["answer"] = answer.choices[0].finish_reason
    found["chat"] = attempts() - seen
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
