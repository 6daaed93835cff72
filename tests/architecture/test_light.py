"""Law 2: declarations, the client and the command line are light."""

import json
import subprocess
import sys

import pytest
from tests.architecture.sources import capability_folders

from modelworks.testing.contract_suite import HEAVY

BASE = (
    "modelworks",
    "modelworks.contract",
    "modelworks.contract.generation",
    "modelworks.contract.media",
    "modelworks.contract.predictor",
    "modelworks.contract.tasks",
    "modelworks.client",
    "modelworks.cli",
    "modelworks.cli.recipe",
    "modelworks.testing",
    "modelworks.testing.template",
)
SERVER_ONLY = ("uvicorn", "starlette", "structlog", "aiohttp", "fsspec", "alembic", "pydantic_settings", "prometheus_client")


def loaded_by(*modules: str) -> set[str]:
    program = f"import json, sys\nfor name in {modules!r}: __import__(name)\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_the_base_brings_no_heavy_library() -> None:
    loaded = loaded_by(*BASE)
    assert not loaded & {*HEAVY, *SERVER_ONLY, "pytest"}


@pytest.mark.parametrize("folder", capability_folders(), ids=lambda folder: folder.name)
def test_declarations_bring_no_heavy_library(folder) -> None:
    package = f"modelworks.capabilities.{folder.name}"
    loaded = loaded_by(f"{package}.capability")
    assert not loaded & {*HEAVY, *SERVER_ONLY}
    above = {name for name in loaded if name.startswith("modelworks.")}
    # A script of the standard library that several capabilities start.
    below = {"modelworks.capabilities", "modelworks.isolation"}
    strangers = {name for name in above - below if not name.startswith(("modelworks.contract", package))}
    assert not strangers, f"{package}.capability imports {strangers}"


def test_the_check_would_see_a_heavy_library() -> None:
    assert "sqlalchemy" in loaded_by("sqlalchemy")


@pytest.mark.parametrize("process", ["modelworks.kernel.jobs.worker", "modelworks.kernel.serving.worker"])
def test_processes_of_runs_and_replicas_start_without_the_servers_libraries(process: str) -> None:
    """One is started for every run and every replica: what they do not need, they do not pay for."""
    assert not loaded_by(process) & {"sqlalchemy", "fastapi", "alembic", "aiohttp", "typer"}


def test_the_server_starts_without_what_most_servers_never_use() -> None:
    """Idle memory is a promise: sealing and OpenID load their libraries when they are used."""
    assert not loaded_by("modelworks.server") & {"cryptography", "joserfc", "torch", "numpy", "ray", "transformers"}
