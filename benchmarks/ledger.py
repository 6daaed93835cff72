"""The accounts under fire: many callers at once, answers given up at random, the server killed in between.

    python benchmarks/ledger.py [--workers 64] [--budget 400000] [--kills 3] [--upstream]

A real server with a price, budgets in tokens and money, and limits. Every worker asks for chats, streamed and whole, and
hangs up in the middle of some, until the budget in tokens has no room for what it asks. Meanwhile the server is killed
(SIGKILL) and started again. Then it must hold, or the status is 1:

- requests = ledger = invoice, added up apart by the server and, from the list of requests, here;
- every answer that a caller saw to its end is recorded once, with the tokens that the caller was told;
- nothing stays reserved, and what died with a server is counted once, at most one request for each worker and kill;
- the budget is never overspent, and nobody was turned away for good while there was room for the largest request.

With `--upstream` a server elsewhere answers (its counts are exact, and it needs no model), else a very small model.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import io
import json
import random
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from private_server import PrivateServer

MODEL = "tiny"
MOST_ANSWER = 60
WORDS = ("river", "valley", "lathe", "soup", "bridge", "fog", "bread", "motor")
LEASE_S = 6.0
#: Of a refusal by a budget: used, allowed, reserved, wanted.
_SAID = re.compile(r"([\d,]+) of ([\d,]+) tokens are used, ([\d,]+) are reserved .* may need ([\d,]+)\.")


@dataclass
class Seen:
    """What the callers saw."""

    #: By request id: tokens of the prompt and of the answer, as the answer's usage said.
    complete: dict[str, tuple[int, int]] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    largest: int = 0
    tokens: int = 0


async def serve_upstream() -> tuple[web.AppRunner, str]:
    """A server elsewhere that counts words as tokens and writes as many as it is allowed."""

    async def take(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        prompt, number = len(body["messages"][-1]["content"].split()), body["max_tokens"]
        usage = {"prompt_tokens": prompt, "completion_tokens": number, "total_tokens": prompt + number}
        base = {"id": "c", "created": 1, "model": "m"}
        if not body.get("stream"):
            await asyncio.sleep(0.002 * number)
            choice = {"index": 0, "message": {"role": "assistant", "content": "word " * number}, "finish_reason": "stop"}
            return web.json_response({**base, "object": "chat.completion", "choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        # Whoever asks may hang up.
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            await write(response, base, number, usage)
        return response

    async def write(response: web.StreamResponse, base: dict[str, Any], number: int, usage: dict[str, int]) -> None:
        for n in range(number):
            delta = {"role": "assistant", "content": "word "} if n == 0 else {"content": "word "}
            chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": None if n + 1 < number else "length"}]}
            event = {**base, "object": "chat.completion.chunk", **chunk}
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            await asyncio.sleep(0.002)
        event = {**base, "object": "chat.completion.chunk", "choices": [], "usage": usage}
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\ndata: [DONE]\n\n")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    return runner, f"http://127.0.0.1:{port}/v1"


class Fire:
    """The callers of one run."""

    def __init__(self, server: PrivateServer, arguments: argparse.Namespace) -> None:
        self.server = server
        self.arguments = arguments
        self.headers = {"authorization": f"Bearer {server.key}"}
        self.seen = Seen()
        #: Clear while the server is down.
        self.up = asyncio.Event()
        self.up.set()

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        async with (
            aiohttp.ClientSession(headers=self.headers) as http,
            http.request(method, self.server.url + path, json=body) as response,
        ):
            if response.status >= 300:
                raise SystemExit(f"{method} {path} answered {response.status}: {await response.text()}")
            if "json" not in response.content_type:
                return await response.text()
            return await response.json()

    async def worker(self, chance: random.Random, http: aiohttp.ClientSession) -> None:
        """Ask until the budget has no room."""
        while True:
            await self.up.wait()
            streamed = chance.random() < 0.7
            body: dict[str, Any] = {
                "model": MODEL,
                "max_tokens": chance.randint(1, MOST_ANSWER),
                "messages": [{"role": "user", "content": " ".join(chance.choices(WORDS, k=chance.randint(1, 20)))}],
            }
            if streamed:
                body |= {"stream": True, "stream_options": {"include_usage": True}}
            leaves = chance.random() < 0.3
            try:
                told = await self.ask(http, body, leaves, chance)
            except (aiohttp.ClientError, TimeoutError, ConnectionError):
                self.seen.outcomes["broken by a kill" if not self.up.is_set() else "broken"] += 1
                await asyncio.sleep(0.2)
                continue
            if told == "exhausted":
                return
            if told == "wait":
                await asyncio.sleep(0.1 + 0.3 * chance.random())

    async def ask(self, http: aiohttp.ClientSession, body: dict[str, Any], leaves: bool, chance: random.Random) -> str:
        seen = self.seen
        url = f"{self.server.url}/v1/chat/completions"
        limit = aiohttp.ClientTimeout(total=0.05 * chance.random() if leaves and not body.get("stream") else 120)
        try:
            async with http.post(url, json=body, timeout=limit) as response:
                if response.status != 200:
                    return self.refused(response.status, await response.json())
                request_id = response.headers["x-request-id"]
                usage: dict[str, Any] | None = None
                if body.get("stream"):
                    left = chance.randint(0, body["max_tokens"]) if leaves else -1
                    async for line in response.content:
                        if not line.startswith(b"data: {"):
                            continue
                        event = json.loads(line[6:])
                        if "error" in event:
                            seen.outcomes[f"error in a stream: {event['error']['code']}"] += 1
                            return "again"
                        usage = event.get("usage") or usage
                        if left == 0:
                            seen.outcomes["given up in a stream"] += 1
                            return "again"
                        left -= 1
                else:
                    usage = (await response.json())["usage"]
        except TimeoutError:
            if leaves:
                seen.outcomes["given up before the answer"] += 1
                return "again"
            raise
        if usage is None:
            seen.faults.append(f"an answer without its usage: {request_id}")
            return "again"
        if request_id in seen.complete:
            seen.faults.append(f"two answers with the id {request_id}")
        seen.complete[request_id] = (usage["prompt_tokens"], usage["completion_tokens"])
        seen.tokens += usage["total_tokens"]
        seen.outcomes["streamed to the end" if body.get("stream") else "answered whole"] += 1
        return "again"

    def refused(self, status: int, body: dict[str, Any]) -> str:
        """What a refusal means; one that its own figures do not bear out is a fault."""
        error, seen = body["error"], self.seen
        seen.outcomes[f"{status} {error['code']}"] += 1
        if status in (502, 503):
            return "wait"
        figures = _SAID.search(error["message"])
        if status != 429 or figures is None:
            seen.faults.append(f"{status}: {error['message']}")
            return "wait"
        used, allowed, reserved, wanted = (int(each.replace(",", "")) for each in figures.groups())
        seen.largest = max(seen.largest, wanted)
        gone = used + wanted > allowed
        if used + reserved + wanted <= allowed or gone != (error["code"] == "insufficient_quota"):
            seen.faults.append(f"a false refusal: {error['code']}: {error['message']}")
        return "exhausted" if gone else "wait"

    async def killer(self) -> None:
        """Kill the server at even shares of the budget, and start it again."""
        kills = self.arguments.kills
        for number in range(1, kills + 1):
            while self.seen.tokens < self.arguments.budget * number / (kills + 2):
                await asyncio.sleep(0.05)
            self.up.clear()
            self.server.kill()
            await asyncio.to_thread(self.server.start)
            self.up.set()

    async def settled(self) -> list[dict[str, Any]]:
        """The budgets once nothing is reserved any more."""
        deadline = time.monotonic() + 20 * LEASE_S
        while True:
            found = (await self.call("GET", "/api/budgets"))["data"] + (await self.call("GET", "/api/limits"))["data"]
            if not any(each["reserved"] for each in found):
                return list(found)
            if time.monotonic() > deadline:
                raise SystemExit(f"something stays reserved: {found}")
            await asyncio.sleep(0.5)

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=120)
        connector = aiohttp.TCPConnector(limit=0, force_close=False)
        killing = asyncio.create_task(self.killer())
        async with aiohttp.ClientSession(headers=self.headers, connector=connector, timeout=timeout) as http:
            seed = self.arguments.seed
            workers = (self.worker(random.Random(seed * 1000 + n), http) for n in range(self.arguments.workers))
            await asyncio.gather(*workers)
        if not killing.done():
            killing.cancel()
            self.seen.faults.append("the budget was used up before the last kill")


def checks(
    fire: Fire, allowances: list[dict[str, Any]], rows: list[dict[str, str]], said: dict[str, Any], invoice: dict[str, Any]
) -> list[tuple[str, bool]]:
    """Each statement of the docstring, and whether it holds."""
    arguments, seen = fire.arguments, fire.seen
    prompt = sum(int(row["prompt_tokens"]) for row in rows)
    completion = sum(int(row["completion_tokens"]) for row in rows)
    cost = sum(int(row["cost"]) for row in rows)
    lost = sum(row["error_code"] == "process_lost" for row in rows)
    by_metric = {each["metric"]: each for each in allowances if each["object"] == "budget"}
    recorded: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        recorded.setdefault(row["request_id"], []).append(row)
    wrong = [
        request_id
        for request_id, (prompted, written) in seen.complete.items()
        if [(row["status"], int(row["prompt_tokens"]), int(row["completion_tokens"])) for row in recorded.get(request_id, ())]
        != [("200", prompted, written)]
    ]
    used = by_metric["tokens"]["used"]
    billed = (invoice["num_requests"], invoice["prompt_tokens"], invoice["completion_tokens"], invoice["cost"])
    return [
        (f"the server's own proof: {said['first_difference'] or 'everything agrees'}", bool(said["ok"])),
        (
            f"requests = invoice: {(len(rows), prompt, completion, cost)} = {billed}",
            (len(rows), prompt, completion, cost) == billed,
        ),
        (f"requests = budget: {prompt + completion} tokens = {used}", prompt + completion == used),
        (f"cost of requests = budget: {cost} = {by_metric['cost']['used']}", cost == by_metric["cost"]["used"]),
        (f"answers seen to the end, recorded once as seen: {len(seen.complete)}, wrong {wrong[:3]}", not wrong),
        (f"counted as lost: {lost}, at most one per worker and kill", lost <= arguments.workers * arguments.kills),
        (f"the budget of {arguments.budget} is not overspent: {used}", used <= arguments.budget),
        (f"and there is no room for {seen.largest} more", used > arguments.budget - seen.largest),
        (f"given up: {sum(row['aborted'] == 'True' for row in rows) - lost}", any(row["status"] == "499" for row in rows)),
        (f"no false refusal, no answer without its figures: {seen.faults[:3]}", not seen.faults),
    ]


async def measure(server: PrivateServer, arguments: argparse.Namespace, upstream: str | None) -> bool:
    fire = Fire(server, arguments)
    if upstream is not None:
        await fire.call("POST", "/api/deployments", {"name": MODEL, "base_url": upstream, "upstream_model": "m"})
    # None of these limits is ever reached: a refusal by one of them is a fault.
    at_once = arguments.workers * (arguments.kills + 3)
    for path, body in (
        ("prices", {"model": "*", "input": 1_000_000, "output": 3_000_000}),
        ("budgets", {"metric": "tokens", "period": "month", "amount": arguments.budget}),
        ("budgets", {"metric": "cost", "period": "month", "amount": 10**12}),
        ("limits", {"metric": "concurrency", "amount": at_once}),
        ("limits", {"metric": "requests", "amount": 10**7}),
    ):
        await fire.call("POST" if path == "prices" else "PUT", f"/api/{path}", body)
    began = time.monotonic()
    await fire.run()
    took_s = time.monotonic() - began
    allowances = await fire.settled()
    said = await fire.call("GET", "/api/invoices/verify")
    rows = list(csv.DictReader(io.StringIO(await fire.call("GET", "/api/usage/export"))))
    (invoice,) = (await fire.call("GET", "/api/invoices"))["data"]
    print(f"{arguments.workers} workers, {arguments.kills} kills, {len(rows)} requests, {took_s:.0f} s")
    for outcome, number in sorted(fire.seen.outcomes.items()):
        print(f"{number:7}  {outcome}")
    found = checks(fire, allowances, rows, said, invoice)
    for statement, holds in found:
        print(f"{'holds ' if holds else 'FAILS '}  {statement}")
    return all(holds for _, holds in found)


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--budget", type=int, default=400_000, help="tokens")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--upstream", action="store_true")
    arguments = parser.parse_args()
    settings = {"reservation_lease_s": str(LEASE_S), "egress_allow": '["127.0.0.1"]', "log_level": "error"}
    with PrivateServer(shown=False, **settings) as server:
        if arguments.upstream:
            runner, url = await serve_upstream()
            holds = await measure(server, arguments, url)
            await runner.cleanup()
        else:
            from tiny_models import deploy_language

            with server.client() as client:
                await asyncio.to_thread(deploy_language, client, MODEL, server.folder / "text")
            holds = await measure(server, arguments, None)
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    asyncio.run(main())
