"""A caller and a fake upstream that take as little CPU as Python can, for measurements on machines where they share the cores.

    python benchmarks/gateway_load.py upstream PORT
    python benchmarks/gateway_load.py callers PORT KEY REQUESTS CONNECTIONS
    python benchmarks/gateway_load.py busy SECONDS

Both write and read HTTP/1.1 as bytes: the requests are all alike, and every answer is checked for its status and length alone.
`callers` prints the seconds that it took, its own CPU seconds, and the middle and the 99th percentile of the times of requests.
`busy` prints how often it went through a small loop of plain Python in that time: what the machine gives to a process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from typing import cast

ASKED = json.dumps(
    {"model": "bench", "messages": [{"role": "user", "content": "Say something short."}], "max_tokens": 64}
).encode()
ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "fake",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Something short."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16},
    }
).encode()
_LENGTH = b"content-length: "


def _whole(data: bytes) -> int:
    """How many bytes the message at the beginning of `data` has; 0 where it is not complete."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return 0
    head = data[:end].lower()
    at = head.find(_LENGTH)
    length = 0 if at < 0 else int(head[at + len(_LENGTH) :].partition(b"\r\n")[0])
    return end + 4 + length if len(data) >= end + 4 + length else 0


class Upstream(asyncio.Protocol):
    """Answers every request with the same answer, at once."""

    def __init__(self) -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(ANSWER)}\r\n\r\n"
        self._answer = head.encode() + ANSWER
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (size := _whole(self._data)) > 0:
            self._data = self._data[size:]
            self._transport.write(self._answer)


class Caller(asyncio.Protocol):
    """One connection that asks again as soon as it is answered, as long as there is something left to ask."""

    def __init__(self, request: bytes, left: list[int], times: list[float], done: asyncio.Event) -> None:
        self._request = request
        self._left = left
        self._times = times
        self._done = done
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._ask()

    def _ask(self) -> None:
        if self._left[0] > 0:
            self._left[0] -= 1
            self._began = time.perf_counter()
            self._transport.write(self._request)
        else:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._data += data
        size = _whole(self._data)
        if not size:
            return
        if not self._data.startswith(b"HTTP/1.1 200") or size != len(self._data):
            raise SystemExit(f"the server answered {self._data[:500]!r}")
        self._data = b""
        self._times.append(time.perf_counter() - self._began)
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._left[1] -= 1
        if self._left[1] == 0:
            self._done.set()


async def upstream(port: int) -> None:
    """Serve until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    await server.serve_forever()


async def callers(port: int, key: str, num_requests: int, num_connections: int) -> None:
    """Ask, and print what it took as JSON."""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(ASKED)}\r\n\r\n"
    )
    left, times, done = [num_requests, num_connections], list[float](), asyncio.Event()
    loop = asyncio.get_running_loop()
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(num_connections):
        await loop.create_connection(lambda: Caller(head.encode() + ASKED, left, times, done), "127.0.0.1", port)
    await done.wait()
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    if len(times) != num_requests:
        raise SystemExit(f"{num_requests - len(times)} requests were not answered")
    times.sort()
    found = {"wall_s": wall_s, "cpu_s": cpu_s, "p50_s": times[len(times) // 2], "p99_s": times[len(times) * 99 // 100]}
    print(json.dumps(found))


def busy(seconds: float) -> None:
    """Do nothing but plain Python on a small dictionary, and print how often per second."""
    began, rounds, table = time.perf_counter(), 0, dict[int, str]()
    while (took := time.perf_counter() - began) < seconds:
        for number in range(1000):
            table[number] = str(number)
        rounds += 1
    print(rounds / took)


def main() -> None:
    """The command line, for the benchmark."""
    if sys.argv[1] == "busy":
        return busy(float(sys.argv[2]))
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    if sys.argv[1] == "upstream":
        asyncio.run(upstream(int(sys.argv[2])))
    else:
        asyncio.run(callers(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
    return None


if __name__ == "__main__":
    main()
