"""A process of `test_ledger_processes`: many requests at once against one budget, until it is used up or killed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Iterator

from modelworks.contract.errors import QuotaExceeded, RateLimited
from modelworks.kernel.access import Admission, Demand, Ledger, UsageRecord, UsageRecorder
from modelworks.kernel.base.clock import SystemClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events


class Pause:
    """After so many requests nobody here begins another one until the test says so: one process may not use up everything."""

    def __init__(self, after: int) -> None:
        self._left = after
        self._over = asyncio.Event()

    async def wait(self) -> None:
        self._left -= 1
        if self._left == 0:
            await asyncio.to_thread(sys.stdin.readline)
            self._over.set()
        if self._left <= 0:
            await self._over.wait()


async def work(admission: Admission, recorder: UsageRecorder, chance: random.Random, left: Iterator[int], pause: Pause) -> None:
    """One caller: asks until the budget has no room for what it wants, or until this process has had its time."""
    while True:
        await pause.wait()
        prompt, completion = chance.randint(1, 40), chance.randint(1, 60)
        demand = Demand(
            project_id="prj_1",
            key_id=f"key_{chance.randint(1, 2)}",
            model="chat",
            endpoint="/v1/chat/completions",
            request_id="req_1",
            prompt_tokens=prompt,
            completion_tokens=completion,
            likely_tokens=prompt,
        )
        rate, held = await admission.meet(demand)
        if rate is None or held is None:
            raise SystemExit("the terms were not found")
        try:
            await admission.reserve(held)
        except QuotaExceeded:
            return
        except RateLimited:
            await asyncio.sleep(0.1 + chance.random() * 0.3)
            continue
        await asyncio.sleep(chance.random() * 0.02)
        written = chance.randint(0, completion)
        ended = chance.choice([200, 200, 200, 499, 502])
        record = UsageRecord(
            project_id="prj_1",
            key_id=demand.key_id,
            endpoint=demand.endpoint,
            model="chat",
            request_id="req_1",
            status=ended,
            prompt_tokens=prompt,
            completion_tokens=written,
            aborted=ended == 499,
            cost=rate.cost(prompt, 0, written),
            price_id=rate.id,
            id=held.id,
            claims=held.claims,
        )
        recording = asyncio.ensure_future(recorder.record(record))
        if ended == 499:
            # The caller is gone before the record is confirmed.
            await asyncio.sleep(0)
            recording.cancel()
            await asyncio.wait([recording])
        else:
            await recording
        if next(left, None) is None:
            # In the middle of what the other callers do.
            os.kill(os.getpid(), signal.SIGKILL)


async def main(url: str, workers: int, seed: int, requests: int, pause_after: int) -> None:
    db, clock = Database(url), SystemClock()
    recorder = UsageRecorder(db, Ledger(clock, lease_s=4))
    admission = Admission(db, recorder, clock, Events())
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    left, pause = iter(range(requests)), Pause(pause_after)
    await asyncio.gather(
        *(work(admission, recorder, random.Random(seed * 1000 + number), left, pause) for number in range(workers))
    )
    recorder.close()
    db.dispose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])))
