"""What the gateway costs: CPU time per request and per stream, beside LiteLLM's proxy over the same fake upstream.

    python benchmarks/gateway.py --litellm-python /path/to/python

Both servers run with one worker, check an API key and forward to the same upstream, which answers at once. Ours also
writes a usage record (SQLite) before each answer ends. Counted is the CPU time of the server's process tree alone; the load
generator and the upstream are other processes. Rounds alternate between the servers; figures are medians over rounds,
ratios are medians of the rounds' ratios. Without `--litellm-python` only ours is measured. With `--accounts` a second server of
ours has a price, two budgets and three limits that every request must meet, so that each is reserved before and settled after.

    python benchmarks/gateway.py --gateways 1 2

measures instead how many requests a second servers of ours with so many gateway processes answer, with callers and an upstream
that take next to nothing (`gateway_load.py`). What callers see says something only where nothing else runs, so the same is told
without what others took of the cores, and from CPU time alone; see `_round`. In each round as many processes of plain Python
run that share nothing: what they get done over what one does is all that the machine can give (`ratio of the machine`).
`--accounts` goes with it; `--requests 4000 --concurrency 32` keeps every process busy for seconds. `--one-core-each` gives N
gateways, their callers and the upstream N cores together: the ratio is then that of N times the cores. Without it one gateway
has a core to itself, and its callers and the upstream have the other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from aiohttp import web

NUM_CHUNKS = 64
LOAD = Path(__file__).with_name("gateway_load.py")
MASTER_KEY = "sk-benchmark"
ASKED: dict[str, Any] = {"model": "bench", "messages": [{"role": "user", "content": "Say something short."}], "max_tokens": 64}


# The upstream: answers at once, in a process of its own.


def _answer() -> bytes:
    return json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "fake",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Something short."}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16},
        }
    ).encode()


def _event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake", "choices": choices, **more}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def _events() -> list[bytes]:
    delta: list[dict[str, Any]] = [
        {"role": "assistant", "content": ""},
        *({"content": f"word{n} "} for n in range(NUM_CHUNKS - 2)),
    ]
    found = [_event([{"index": 0, "delta": each, "finish_reason": None}]) for each in delta]
    found.append(_event([{"index": 0, "delta": {}, "finish_reason": "stop"}]))
    return found


def serve_upstream(port: int) -> None:
    """Run the upstream; the header `x-pause-ms` is not passed on by proxies, so the pause lies in the prompt."""
    answer, events = _answer(), _events()
    usage = _event([], usage={"prompt_tokens": 12, "completion_tokens": NUM_CHUNKS, "total_tokens": 12 + NUM_CHUNKS})

    async def take(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if not body.get("stream"):
            return web.Response(body=answer, content_type="application/json")
        pause_s = 0.002 if "slowly" in body["messages"][-1]["content"] else 0.0
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            await response.write(event)
            await asyncio.sleep(pause_s)
        if (body.get("stream_options") or {}).get("include_usage"):
            await response.write(usage)
        await response.write(b"data: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", take)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


# The servers under measurement.


@dataclass
class Server:
    """One server under measurement."""

    name: str
    url: str
    key: str
    process: psutil.Process
    ready_s: float
    idle_bytes: int = 0
    results: dict[str, list[float]] = field(default_factory=dict)

    def cpu_s(self) -> float:
        """CPU seconds that the process tree has used so far."""
        total = 0.0
        for process in [self.process, *self.process.children(recursive=True)]:
            times = process.cpu_times()
            total += times.user + times.system
        return total

    def resident_bytes(self) -> int:
        """Memory of the process tree."""
        return sum(process.memory_info().rss for process in [self.process, *self.process.children(recursive=True)])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(argv: list[str], stack: ExitStack, log: Path, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a process that ends with the stack; its output goes to `log`."""
    output = stack.enter_context(log.open("wb"))
    process = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})})

    def stop() -> None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(stop)
    return process


async def until_ready(url: str, process: subprocess.Popen[bytes], log: Path, limit_s: float = 180.0) -> float:
    """Seconds until `url` answers 200."""
    began = time.perf_counter()
    async with aiohttp.ClientSession() as http:
        while time.perf_counter() - began < limit_s:
            if process.poll() is not None:
                break
            try:
                async with http.get(url) as response:
                    if response.status == 200:
                        return time.perf_counter() - began
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)
    raise SystemExit(f"{url} did not become ready:\n{log.read_text(errors='replace')[-3000:]}")


#: What every request meets with `--accounts`: none of it is ever reached.
ACCOUNTS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "prices", {"model": "*", "input": 150_000, "cached": 75_000, "output": 600_000}),
    ("PUT", "budgets", {"metric": "tokens", "period": "day", "amount": 10**12}),
    ("PUT", "budgets", {"metric": "cost", "period": "month", "amount": 10**12}),
    ("PUT", "limits", {"metric": "requests", "amount": 10**7}),
    ("PUT", "limits", {"metric": "tokens", "amount": 10**9}),
    ("PUT", "limits", {"metric": "concurrency", "amount": 10**4}),
]


async def start_ours(
    name: str, folder: Path, upstream: str, stack: ExitStack, *, accounts: bool = False, gateways: int = 1
) -> Server:
    """Our whole platform with one deployment that forwards to the upstream."""
    port, home, log = free_port(), folder / name, folder / f"{name}.log"
    env = {
        "MODELWORKS_HOME": str(home),
        "MODELWORKS_PORT": str(port),
        "MODELWORKS_EGRESS_ALLOW": '["127.0.0.1"]',
        "MODELWORKS_LOG_LEVEL": "warning",
        "MODELWORKS_GATEWAYS": str(gateways),
    }
    process = start([sys.executable, "-m", "modelworks.cli", "serve"], stack, log, env)
    url = f"http://127.0.0.1:{port}"
    ready_s = await until_ready(f"{url}/readyz", process, log)
    key = (home / "admin.key").read_text().strip()
    headers = {"authorization": f"Bearer {key}"}
    spec = {"name": "bench", "base_url": upstream, "upstream_model": "fake"}
    async with aiohttp.ClientSession(headers=headers) as http:
        async with http.post(f"{url}/api/deployments", json=spec) as response:
            if response.status >= 300:
                raise SystemExit(f"the deployment was refused: {await response.text()}")
        for method, path, body in ACCOUNTS if accounts else []:
            async with http.request(method, f"{url}/api/{path}", json=body) as response:
                if response.status >= 300:
                    raise SystemExit(f"{path} were refused: {await response.text()}")
        # Waits until the deployment answers.
        async with http.post(f"{url}/v1/chat/completions", json=ASKED) as response:
            if response.status != 200:
                raise SystemExit(f"the deployment does not answer: {await response.text()}")
    return Server(name, url, key, psutil.Process(process.pid), ready_s)


async def start_litellm(python: str, folder: Path, upstream: str, stack: ExitStack) -> Server:
    """LiteLLM's proxy as its documentation recommends for production, without a database."""
    port, log, config = free_port(), folder / "litellm.log", folder / "litellm.yaml"
    config.write_text(
        f"""\
model_list:
  - model_name: bench
    litellm_params:
      model: openai/fake
      api_base: {upstream}
      api_key: none
litellm_settings:
  set_verbose: false
  request_timeout: 600
general_settings:
  master_key: {MASTER_KEY}
"""
    )
    env = {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "*"}
    argv = [str(Path(python).parent / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    process = start([python, *argv, "--num_workers", "1", "--telemetry", "False"], stack, log, env)
    url = f"http://127.0.0.1:{port}"
    ready_s = await until_ready(f"{url}/health/liveliness", process, log)
    return Server("litellm", url, MASTER_KEY, psutil.Process(process.pid), ready_s)


# The load.


async def load(server: Server, body: dict[str, Any], count: int, concurrency: int) -> float:
    """CPU milliseconds of the server per request."""
    left = iter(range(count))
    headers = {"authorization": f"Bearer {server.key}", "content-type": "application/json"}
    data = json.dumps(body).encode()
    streamed = bool(body.get("stream"))

    async def ask(http: aiohttp.ClientSession) -> None:
        for _ in left:
            async with http.post(f"{server.url}/v1/chat/completions", data=data) as response:
                answer = await response.read()
                if response.status != 200 or (streamed and (b"[DONE]" not in answer or b"word61" not in answer)):
                    raise SystemExit(f"{server.name} answered {response.status}: {answer[-500:]!r}")

    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as http:
        before = server.cpu_s()
        await asyncio.gather(*(ask(http) for _ in range(concurrency)))
        return (server.cpu_s() - before) * 1000 / count


def gateway_processes(server: Server) -> list[psutil.Process]:
    """Each process of the server that answers requests, the first one first."""
    return [server.process, *(each for each in server.process.children() if "modelworks.server" in each.cmdline())]


def scheduled_s(process: psutil.Process) -> tuple[float, float]:
    """Seconds that the process's main thread, which holds its loop, has run, and that it was ready and had no core."""
    ran, waited, _ = Path(f"/proc/{process.pid}/task/{process.pid}/schedstat").read_text().split()
    return int(ran) / 1e9, int(waited) / 1e9


async def until_listening(server: Server, gateways: int) -> None:
    """Wait until that many processes answer on the server's port."""
    port = int(server.url.rpartition(":")[2])
    while True:
        processes = [server.process, *server.process.children()]
        listening = [
            process
            for process in processes
            if any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in process.net_connections("tcp"))
        ]
        if len(listening) >= gateways:
            return
        await asyncio.sleep(0.2)


def cpu_of(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))


def machine_s() -> tuple[float, float]:
    """Seconds that the machine's cores have been busy, and idle, since it started."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    return sum(times[:8]) - idle, idle


def confine(process: psutil.Process, cores: range) -> None:
    """Let all threads of a process and of its children run on these cores alone; those they start later, too."""
    for each in (process, *process.children(recursive=True)):
        for thread in each.threads():
            os.sched_setaffinity(thread.id, cores)


async def callers(url: str, key: str, requests: int, connections: int) -> dict[str, float]:
    """Ask from a process of its own; see `gateway_load.py`."""
    argv = [str(LOAD), "callers", url.rpartition(":")[2], key, str(requests), str(connections)]
    asking = await asyncio.create_subprocess_exec(sys.executable, *argv, stdout=asyncio.subprocess.PIPE)
    answer, _ = await asking.communicate()
    if asking.returncode != 0:
        raise SystemExit(f"the callers of {url} ended with {asking.returncode}")
    return dict(json.loads(answer))


async def plain_python(processes: int) -> float:
    """Rounds per second that so many processes get done which share nothing but the machine."""
    argv = [sys.executable, str(LOAD), "busy", "1.5"]
    running = [await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE) for _ in range(processes)]
    return sum([float((await each.communicate())[0]) for each in running])


async def measure_gateways(arguments: argparse.Namespace) -> dict[str, Any]:
    """What servers with so many gateway processes answer: medians over rounds, and of the rounds' ratios to the first."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream_port = free_port()
        upstream_url = f"http://127.0.0.1:{upstream_port}"
        fake = start([sys.executable, str(LOAD), "upstream", str(upstream_port)], stack, folder / "upstream.log")
        upstream = psutil.Process(fake.pid)
        await asyncio.sleep(1)
        servers: dict[int, Server] = {}
        for number in arguments.gateways:
            server = await start_ours(
                f"gateways-{number}", folder, upstream_url + "/v1", stack, accounts=arguments.accounts, gateways=number
            )
            servers[number] = server
            await until_listening(server, number)
            await callers(server.url, server.key, 20 * arguments.concurrency, arguments.concurrency)
        rounds: dict[int, list[dict[str, float]]] = {number: [] for number in servers}
        machine: dict[int, list[float]] = {number: [] for number in servers}
        for turn in range(arguments.rounds):
            for number in [*servers] if turn % 2 == 0 else [*reversed(servers)]:
                found = await _round(servers[number], upstream, arguments)
                rounds[number].append(found)
                shown = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
                print(f"round {turn + 1}: {number} gateways: {shown}", file=sys.stderr)
            for number in servers:
                if arguments.one_core_each:
                    os.sched_setaffinity(0, range(number))
                machine[number].append(await plain_python(number))
        first = arguments.gateways[0]
        alone = {
            "direct": await callers(upstream_url, "none", 2000, 1),
            "through": await callers(servers[first].url, servers[first].key, 2000, 1),
        }

        def ratio(number: int, name: str) -> float:
            pairs = zip(rounds[first], rounds[number], strict=True)
            return round(statistics.median(theirs[name] / ours[name] for ours, theirs in pairs), 2)

        return {
            "concurrency": arguments.concurrency,
            "rounds": arguments.rounds,
            "requests_per_round": arguments.requests,
            "accounts": arguments.accounts,
            "cores": os.cpu_count(),
            "one_core_each": arguments.one_core_each,
            "load_average": [round(each, 2) for each in os.getloadavg()],
            "one_caller_p50_ms": {name: round(each["p50_s"] * 1000, 3) for name, each in alone.items()},
            "gateways": {
                number: {
                    **{name: round(statistics.median(each[name] for each in rounds[number]), 3) for name in rounds[number][0]},
                    **{f"ratio of {name}": ratio(number, name) for name in ("per_s", "per_s_of_own_cores")},
                    "ratio of the machine": round(
                        statistics.median(b / a for a, b in zip(machine[first], machine[number], strict=True)), 2
                    ),
                }
                for number in servers
            },
        }


async def _round(server: Server, upstream: psutil.Process, arguments: argparse.Namespace) -> dict[str, float]:
    """One server under load.

    `per_s`: requests a second as callers saw them. `per_s_of_own_cores`: what that would be, had none of the processes waited
    for a core: the time in which its loop was ready to run and had none is left out, that in which it waited for anything else
    (the other gateway, the database, requests) is not (`blocked`). `per_cpu_s_of_the_busiest`: from its CPU time alone.
    """
    gateways, fed = gateway_processes(server), cpu_of(upstream)
    if arguments.one_core_each:
        confine(psutil.Process(), range(len(gateways)))
    before, (busy, idle) = [(cpu_of(each), *scheduled_s(each)) for each in gateways], machine_s()
    asked = await callers(server.url, server.key, arguments.requests, arguments.concurrency)
    after, (now_busy, now_idle) = [(cpu_of(each), *scheduled_s(each)) for each in gateways], machine_s()
    used, ran, waited = zip(
        *([b - a for a, b in zip(*pair, strict=True)] for pair in zip(before, after, strict=True)), strict=True
    )
    wall_s, fed = asked["wall_s"], cpu_of(upstream) - fed
    whole_s = (now_busy - busy + now_idle - idle) / (os.cpu_count() or 1)
    own_s = max(wall_s - statistics.mean(waited), statistics.mean(ran))
    return {
        "per_s": arguments.requests / wall_s,
        "per_s_of_own_cores": arguments.requests / own_s,
        "per_cpu_s_of_the_busiest": arguments.requests / max(used),
        "cpu_ms": sum(used) * 1000 / arguments.requests,
        "share_of_the_busiest": max(used) / sum(used),
        "blocked": 1 - statistics.mean(ran) / own_s,
        "cpu_ms_of_callers_and_upstream": (asked["cpu_s"] + fed) * 1000 / arguments.requests,
        "cores_idle": (now_idle - idle) / whole_s,
        "cores_taken_by_others": (now_busy - busy - sum(used) - asked["cpu_s"] - fed) / whole_s,
        "p50_ms": asked["p50_s"] * 1000,
        "p99_ms": asked["p99_s"] * 1000,
    }


async def recorded(server: Server) -> int:
    """How many requests our server has recorded."""
    async with (
        aiohttp.ClientSession(headers={"authorization": f"Bearer {server.key}"}) as http,
        http.get(f"{server.url}/api/usage") as response,
    ):
        return int((await response.json())["total"]["num_requests"])


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run everything and return the figures."""
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    chat = ASKED
    burst = {**ASKED, "stream": True}
    paced = {**burst, "messages": [{"role": "user", "content": "Say it slowly."}]}
    kinds: list[tuple[str, dict[str, Any], int]] = [
        ("request", chat, arguments.requests),
        ("stream, paced", paced, arguments.streams),
        ("stream, burst", burst, arguments.streams),
    ]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream_port = free_port()
        upstream_log = folder / "upstream.log"
        upstream = start([sys.executable, __file__, "--serve-upstream", str(upstream_port)], stack, upstream_log)
        await asyncio.sleep(0.5)
        if upstream.poll() is not None:
            raise SystemExit(upstream_log.read_text())
        address = f"http://127.0.0.1:{upstream_port}/v1"
        starting: list[Awaitable[Server]] = [start_ours("modelworks", folder, address, stack)]
        if arguments.accounts:
            starting.append(start_ours("with accounts", folder, address, stack, accounts=True))
        if arguments.litellm_python:
            starting.append(start_litellm(arguments.litellm_python, folder, address, stack))
        # One after the other, so that neither slows the other's start.
        servers = [await each for each in starting]
        for server in servers:
            say(f"{server.name}: ready after {server.ready_s:.1f} s")
        await asyncio.sleep(3)
        for server in servers:
            server.idle_bytes = server.resident_bytes()
        for server in servers:
            for _, body, _count in kinds:
                await load(server, body, 2 * arguments.concurrency, arguments.concurrency)
        for number in range(arguments.rounds):
            for name, body, count in kinds:
                # The order changes from round to round.
                for server in servers if number % 2 == 0 else reversed(servers):
                    cpu_ms = await load(server, body, count, arguments.concurrency)
                    server.results.setdefault(name, []).append(cpu_ms)
                    say(f"round {number + 1}: {server.name}, {name}: {cpu_ms:.2f} CPU-ms")
        ours = servers[0]
        asked = 1 + len(kinds) * 2 * arguments.concurrency + arguments.rounds * sum(count for *_, count in kinds)
        found: dict[str, Any] = {
            "concurrency": arguments.concurrency,
            "rounds": arguments.rounds,
            "requests_per_round": arguments.requests,
            "streams_per_round": arguments.streams,
            "chunks_per_stream": NUM_CHUNKS,
            "usage_records": {"asked": asked, "recorded": await recorded(ours)},
            "servers": {
                server.name: {
                    "cpu_ms": {name: round(statistics.median(values), 3) for name, values in server.results.items()},
                    "idle_mib": round(server.idle_bytes / 2**20, 1),
                    "after_mib": round(server.resident_bytes() / 2**20, 1),
                    "ready_s": round(server.ready_s, 2),
                }
                for server in servers
            },
        }
        if len(servers) > 1:
            theirs = servers[-1]
            found["ratio"] = {
                name: round(statistics.median(b / a for a, b in zip(ours.results[name], theirs.results[name], strict=True)), 2)
                for name in ours.results
            }
        return found


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    names = list(found["servers"])
    rows = [
        (f"CPU-ms per {kind}", *(f"{found['servers'][name]['cpu_ms'][kind]:.2f}" for name in names))
        for kind in found["servers"][names[0]]["cpu_ms"]
    ]
    for label, field_name in [
        ("memory idle, MiB", "idle_mib"),
        ("memory after, MiB", "after_mib"),
        ("seconds to ready", "ready_s"),
    ]:
        rows.append((label, *(f"{found['servers'][name][field_name]:.1f}" for name in names)))
    ratios = found.get("ratio", {})
    print(f"{'':28}" + "".join(f"{name:>14}" for name in names) + (f"{'ratio':>10}" if ratios else ""))
    for label, *values in rows:
        ratio = ratios.get(label.removeprefix("CPU-ms per "))
        print(f"{label:28}" + "".join(f"{value:>14}" for value in values) + (f"{ratio:>9.1f}x" if ratio else ""))
    print(f"usage records: {found['usage_records']['recorded']} of {found['usage_records']['asked']} requests")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--litellm-python", help="interpreter of an environment in which litellm[proxy] is installed")
    parser.add_argument("--accounts", action="store_true", help="measure a server with a price, budgets and limits beside ours")
    parser.add_argument("--gateways", type=int, nargs="+", help="measure servers with so many gateway processes")
    parser.add_argument(
        "--one-core-each", action="store_true", help="with --gateways: as many cores for everything as there are gateways"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=320, help="requests per round and server")
    parser.add_argument("--streams", type=int, default=64, help="streams per round, kind and server")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--serve-upstream", type=int, metavar="PORT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve_upstream is not None:
        serve_upstream(arguments.serve_upstream)
        return
    if arguments.gateways:
        print(json.dumps(asyncio.run(measure_gateways(arguments)), indent=2))
        return
    found = asyncio.run(measure(arguments))
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)


if __name__ == "__main__":
    main()
