"""What a process computed with: libraries with versions, interpreter, processor, threads. Part of every run's record."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

#: The journal entry and the event that hold it.
EVENT = "environment"
#: Instruction sets by which libraries choose their kernels, and with them the order of sums.
_FLAGS = frozenset(
    {"sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}
    | {"avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "asimdhp", "i8mm", "bf16"}
    | {"sve", "sve2"}
)
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class RunEnvironment(BaseModel):
    """The lock of a run: with the same of all this, the same inputs, parameters and seed give the same bytes."""

    python: str
    platform: str
    cpu: str
    cpu_flags: list[str] = Field(default_factory=list)
    num_cores: int
    #: What the process computed with where libraries say it (`torch`, `mkl`), and the variables that decide it.
    threads: dict[str, int | str] = Field(default_factory=dict)
    #: Versions of what was imported, by the distribution's name.
    libraries: dict[str, str] = Field(default_factory=dict)


class EnvironmentDifference(BaseModel):
    """One thing that is not as it was; None: it is not there."""

    what: str
    then: str | None
    now: str | None


def of_this_process() -> RunEnvironment:
    """What has been imported and set up to now; call it when the work is done."""
    model, flags = _processor()
    return RunEnvironment(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        cpu=model,
        cpu_flags=sorted(flags),
        num_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=_threads(),
        libraries=_imported(),
    )


def differences(then: RunEnvironment, now: RunEnvironment) -> list[EnvironmentDifference]:
    """What is not as it was, of that which can change a result."""
    found: list[tuple[str, str | None, str | None]] = [
        ("Python", then.python, now.python),
        ("platform", then.platform, now.platform),
        ("processor", then.cpu, now.cpu),
    ]
    found.append(("processor's instructions", " ".join(then.cpu_flags), " ".join(now.cpu_flags)))
    names = sorted(then.threads.keys() | now.threads.keys())
    found += [(f"threads ({name})", _text(then.threads, name), _text(now.threads, name)) for name in names]
    libraries = sorted(then.libraries.keys() | now.libraries.keys())
    found += [(name, _text(then.libraries, name), _text(now.libraries, name)) for name in libraries]
    return [EnvironmentDifference(what=what, then=before, now=after) for what, before, after in found if before != after]


def installed_instead(then: RunEnvironment) -> list[EnvironmentDifference]:
    """What differs on this machine from what a run computed with, without importing any of it."""
    model, flags = _processor()
    now = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": model,
        "cpu_flags": sorted(flags),
        "libraries": {name: version for name in then.libraries if (version := _version(name)) is not None},
    }
    return differences(then, then.model_copy(update=now))


def thread_variables(then: RunEnvironment) -> dict[str, str]:
    """The variables that let another process compute with as many threads."""
    found = {name: str(then.threads[name]) for name in _THREAD_VARIABLES if name in then.threads}
    if "OMP_NUM_THREADS" not in found and "torch" in then.threads:
        found["OMP_NUM_THREADS"] = str(then.threads["torch"])
    return found


def _imported() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in list(sys.modules):
        is_absent = sys.modules.get(name) is None  # what was switched off has an entry, too
        if is_absent or "." in name or name.startswith("_") or name in sys.stdlib_module_names:
            continue
        distribution = name.replace("_", "-")
        version = _version(distribution)
        if version is not None:
            found[distribution] = version
    return dict(sorted(found.items()))


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except (metadata.PackageNotFoundError, ValueError):
        return None


def _threads() -> dict[str, int | str]:
    found: dict[str, int | str] = {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ}
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        found["torch"] = int(torch.get_num_threads())
        match = re.search(r"mkl_get_max_threads\(\) : (\d+)", str(torch.__config__.parallel_info()))
        if match is not None:
            found["mkl"] = int(match[1])
    return found


def _processor() -> tuple[str, set[str]]:
    """The processor's name and those of its instruction sets that matter."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return platform.processor() or platform.machine(), set()
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    listed = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = set(listed[1].split()) & _FLAGS if listed is not None else set()
    return (named[1].strip() if named is not None else platform.machine()), flags


def _text(values: Mapping[str, int | str], name: str) -> str | None:
    return str(values[name]) if name in values else None
