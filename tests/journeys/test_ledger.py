"""The accounts under fire, in small: eight callers, answers given up at random, the server killed in between."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "ledger.py"


@pytest.mark.slow
def test_requests_ledger_and_invoice_agree_when_the_server_is_killed() -> None:
    few = ["--upstream", "--workers", "8", "--budget", "8000", "--kills", "1"]
    done = subprocess.run([sys.executable, str(SCRIPT), *few], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for statement in ("requests = invoice", "requests = budget", "cost of requests = budget", "answers seen to the end"):
        assert f"holds   {statement}" in done.stdout, done.stdout


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    spec = importlib.util.spec_from_file_location("ledger_under_fire", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up.
    monkeypatch.setitem(sys.modules, "ledger_under_fire", module)
    spec.loader.exec_module(module)
    return module


def row(request_id: str, prompt: int, completion: int, status: int = 200, error: str = "") -> dict[str, str]:
    figures = {"prompt_tokens": prompt, "completion_tokens": completion, "cost": prompt + 3 * completion, "status": status}
    said = {"request_id": request_id, "error_code": error, "aborted": str(status != 200)}
    return {**{name: str(value) for name, value in figures.items()}, **said}


def test_the_proof_sees_every_kind_of_wrong_account(ledger: ModuleType) -> None:
    seen = ledger.Seen(complete={"a": (10, 20), "b": (5, 5)}, largest=50)
    rows = [row("a", 10, 20), row("b", 5, 5), row("c", 4, 6, 499), row("d", 10, 10, 500, "process_lost")]
    used, cost = 70, 29 + 3 * 41
    allowances = [{"object": "budget", "metric": "tokens", "used": used}, {"object": "budget", "metric": "cost", "used": cost}]
    invoice = {"num_requests": 4, "prompt_tokens": 29, "completion_tokens": 41, "cost": cost}
    good: dict[str, Any] = {
        "arguments": SimpleNamespace(budget=100, workers=1, kills=1),
        "seen": seen,
        "allowances": allowances,
        "rows": rows,
        "said": {"ok": True, "first_difference": None},
        "invoice": invoice,
    }

    def failing(change: Any = None) -> list[str]:
        case = copy.deepcopy(good)
        if change is not None:
            change(case)
        fire = SimpleNamespace(arguments=case["arguments"], seen=case["seen"])
        found = ledger.checks(fire, case["allowances"], case["rows"], case["said"], case["invoice"])
        return [statement for statement, holds in found if not holds]

    assert failing() == []
    wrong: list[tuple[str, Any]] = [
        ("requests = invoice", lambda case: case["rows"].pop(1)),
        ("requests = budget", lambda case: case["allowances"][0].update(used=71)),
        ("cost of requests", lambda case: case["allowances"][1].update(used=0)),
        ("recorded once as seen", lambda case: case["rows"].append(row("a", 0, 0))),
        ("recorded once as seen", lambda case: case["seen"].complete.update(e=(1, 1))),
        ("counted as lost", lambda case: setattr(case["arguments"], "kills", 0)),
        ("not overspent", lambda case: setattr(case["arguments"], "budget", 69)),
        ("no room", lambda case: setattr(case["arguments"], "budget", 120)),
        ("given up", lambda case: case["rows"][2].update(status="200")),
        ("no false refusal", lambda case: case["seen"].faults.append("a false refusal")),
        ("own proof", lambda case: case["said"].update(ok=False, first_difference="tokens")),
    ]
    for statement, change in wrong:
        assert any(statement in each for each in failing(change)), statement


def test_a_refusal_is_held_against_its_own_figures(ledger: ModuleType) -> None:
    fire = SimpleNamespace(seen=ledger.Seen())
    said = "{} of 1,000 tokens are used, {} are reserved by requests under way, and this one may need {}. It starts anew."

    def told(code: str, *figures: int) -> str:
        error = {"code": code, "message": said.format(*figures)}
        return str(ledger.Fire.refused(fire, 429, {"error": error}))

    assert told("rate_limit_exceeded", 500, 450, 100) == "wait"
    assert told("insufficient_quota", 950, 0, 100) == "exhausted"
    assert fire.seen.faults == []
    told("rate_limit_exceeded", 500, 100, 100)
    told("insufficient_quota", 500, 450, 100)
    assert len(fire.seen.faults) == 2
