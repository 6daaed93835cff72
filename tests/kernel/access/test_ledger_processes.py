"""64 callers in two processes over one database, requests given up at random, and one process killed in the middle."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import UTC, datetime

from sqlalchemy import func, select
from tests.kernel.access import ledger_worker

from modelworks.kernel.access import Allowances, Prices
from modelworks.kernel.access.allowances import BudgetSet, LimitSet
from modelworks.kernel.access.invoices import verify
from modelworks.kernel.access.ledger import LOST
from modelworks.kernel.access.prices import PriceSet
from modelworks.kernel.access.store import ProjectRow, ReservationRow, UsageRow
from modelworks.kernel.base.clock import SystemClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events

BUDGET = 15_000
MOST = 100


def test_requests_ledger_and_invoice_agree_after_kill_9(database: Database) -> None:
    allowances = Allowances(SystemClock(), Events())
    with database.transaction() as session:
        session.add(ProjectRow(id="prj_1", name="one", created_at=datetime.now(UTC)))
        session.flush()
        Prices(SystemClock(), Events()).set(session, PriceSet(model="chat", input=1_000_000, output=3_000_000))
        budgets = [
            allowances.set(session, "prj_1", wanted)
            for wanted in (
                BudgetSet(metric="tokens", amount=BUDGET),
                BudgetSet(metric="cost", amount=10**9),
                BudgetSet(scope="model", subject="chat", metric="requests", amount=10**6),
                LimitSet(metric="concurrency", amount=64),
                LimitSet(metric="requests", amount=10**6),
            )
        ]
    url = database.engine.url.render_as_string(hide_password=False)
    processes = [
        subprocess.Popen(
            [sys.executable, ledger_worker.__file__, url, "32", str(seed), requests, pause_after],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed, requests, pause_after in ((1, "30", "1000000"), (2, "1000000", "120"))
    ]
    first, second = processes
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        first.communicate(timeout=120)
        assert first.returncode == -signal.SIGKILL
        _, errors = second.communicate("on\n", timeout=120)
        assert second.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    with database.reading() as session:
        found = verify(session)
        assert session.scalar(select(func.count()).select_from(ReservationRow)) == 0
        rows = list(session.scalars(select(UsageRow)))
        tokens, cost, requests, at_once, _ = (allowances.get(session, "prj_1", budget.id) for budget in budgets)
    assert found.ok, found.first_difference
    # The process that went on found the other one silent, and counted what it had held: else room would be missing at the end.
    assert 0 < sum(row.error_code == LOST for row in rows) <= 64
    used = sum(row.prompt_tokens + row.completion_tokens for row in rows)
    assert (tokens.used, tokens.reserved) == (used, 0)
    assert (cost.used, cost.reserved) == (sum(row.cost for row in rows), 0)
    assert (requests.used, requests.reserved) == (len(rows), 0)
    assert (at_once.used, at_once.reserved) == (0, 0)
    # Never more than was allowed, and nobody was sent away while there was room for what was asked.
    assert BUDGET - MOST < used <= BUDGET
