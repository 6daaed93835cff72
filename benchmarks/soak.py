"""The server under mixed traffic for a long time: memory, descriptors, threads and connections must stay flat.

    python benchmarks/soak.py --minutes 30 [--callers 4] [--pause 0.02]

The official clients ask a real server with two very small models for everything at once: chats and responses, whole, streamed
and given up in the middle, messages, embeddings, files, batches, evals, conversations, and what is refused. Every few seconds
the memory (resident), descriptors, threads and connections of the server and of its replicas are read. After a fifth of the
time (the warm-up) the medians of the first and of the last quarter of the rest are compared; the size of the database is shown
beside, as every request leaves its record there. Status 1 where memory, descriptors or threads grew by more than 5 %, where a
request failed that should not, or where a connection is left when everybody has gone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
import psutil
from private_server import PrivateServer
from tiny_models import deploy_encoder, deploy_language

LIMIT = 0.05
CHAT, ENCODER = "tiny", "encoder"
SAID: Any = [{"role": "user", "content": "Tell me of the river and of the valley."}]


@dataclass(frozen=True)
class Sample:
    """What was read at one moment."""

    at_s: float
    figures: dict[str, float]


class Watch:
    """Reads what the server's processes hold."""

    def __init__(self, server: PrivateServer) -> None:
        self._server = psutil.Process(server.pid)
        self._home = server.folder / "home"
        self._began = time.monotonic()
        self.samples: list[Sample] = []

    def look(self) -> Sample:
        """One sample of everything."""
        replicas = [each for each in self._server.children(recursive=True) if "serving.worker" in " ".join(each.cmdline())]
        figures = {
            **self._of("server", [self._server]),
            **self._of("replicas", replicas),
            "connections": float(self.connections()),
            "database MiB": sum(path.stat().st_size for path in self._home.glob("modelworks.db*")) / 2**20,
        }
        sample = Sample(time.monotonic() - self._began, figures)
        self.samples.append(sample)
        return sample

    def connections(self) -> int:
        """Connections of callers with the server."""
        found = self._server.net_connections("tcp")
        ports = {each.laddr.port for each in found if each.status == psutil.CONN_LISTEN}
        return sum(each.laddr.port in ports and each.status != psutil.CONN_LISTEN for each in found)

    @staticmethod
    def _of(name: str, processes: list[psutil.Process]) -> dict[str, float]:
        return {
            f"{name} MiB": sum(each.memory_info().rss for each in processes) / 2**20,
            f"{name} descriptors": float(sum(each.num_fds() for each in processes)),
            f"{name} threads": float(sum(each.num_threads() for each in processes)),
        }


class Caller:
    """One of several who ask for this and that."""

    def __init__(self, server: PrivateServer, seed: int) -> None:
        self.chance = random.Random(seed)
        self.openai = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0, timeout=300)
        self.anthropic = anthropic.AsyncAnthropic(base_url=server.url, api_key=server.key, max_retries=0, timeout=300)

    async def close(self) -> None:
        await self.openai.close()
        await self.anthropic.close()

    def length(self) -> int:
        return self.chance.randint(4, 48)

    async def chat(self) -> None:
        answer = await self.openai.chat.completions.create(model=CHAT, messages=SAID, max_tokens=self.length())
        assert answer.usage is not None

    async def chat_streamed(self) -> None:
        stream = await self.openai.chat.completions.create(
            model=CHAT, messages=SAID, max_tokens=self.length(), stream=True, stream_options={"include_usage": True}
        )
        last: Any = None
        async for chunk in stream:
            last = chunk
        assert last.usage is not None

    async def chat_given_up(self) -> None:
        stream = await self.openai.chat.completions.create(model=CHAT, messages=SAID, max_tokens=400, stream=True, n=2)
        left = self.chance.randint(1, 20)
        async for _ in stream:
            left -= 1
            if left == 0:
                break
        await stream.close()

    async def call_given_up(self) -> None:
        asking = self.openai.completions.create(model=CHAT, prompt="The river", max_tokens=300)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asking, 0.1 * self.chance.random())

    async def call_of_tool(self) -> None:
        parameters = {
            "type": "object",
            "properties": {"a": {"type": "boolean"}},
            "required": ["a"],
            "additionalProperties": False,
        }
        tool: Any = {"type": "function", "function": {"name": "act", "parameters": parameters, "strict": True}}
        answer = await self.openai.chat.completions.create(
            model=CHAT, messages=SAID, tools=[tool], tool_choice="required", parallel_tool_calls=False, max_tokens=200
        )
        calls: Any = answer.choices[0].message.tool_calls
        if answer.choices[0].finish_reason == "tool_calls":
            assert set(json.loads(calls[0].function.arguments)) == {"a"}

    async def response(self) -> None:
        first = await self.openai.responses.create(model=CHAT, input="The river", max_output_tokens=16)
        stream = await self.openai.responses.create(
            model=CHAT, input="And then?", previous_response_id=first.id, max_output_tokens=16, stream=True
        )
        last: Any = None
        async for event in stream:
            last = event
        for found in (first.id, last.response.id):
            await self.openai.responses.retrieve(found)
            await self.openai.responses.delete(found)

    async def response_in_background(self) -> None:
        made = await self.openai.responses.create(model=CHAT, input="The river", max_output_tokens=16, background=True)
        while made.status in ("queued", "in_progress"):
            await asyncio.sleep(0.2)
            made = await self.openai.responses.retrieve(made.id)
        assert made.status in ("completed", "incomplete"), made.status
        await self.openai.responses.delete(made.id)

    async def message(self) -> None:
        await self.anthropic.messages.create(model=CHAT, messages=SAID, max_tokens=self.length())
        async with self.anthropic.messages.stream(model=CHAT, messages=SAID, max_tokens=self.length()) as stream:
            async for _ in stream.text_stream:
                pass

    async def embeddings(self) -> None:
        answer = await self.openai.embeddings.create(
            model=ENCODER, input=["The river", "the valley"] * self.chance.randint(1, 8)
        )
        assert len(answer.data) >= 2

    async def file(self) -> None:
        content = bytes(self.chance.randrange(256) for _ in range(64)) * self.chance.randint(1, 2000)
        made = await self.openai.files.create(file=("some.bin", io.BytesIO(content)), purpose="user_data")
        assert (await self.openai.files.content(made.id)).content == content
        await self.openai.files.delete(made.id)

    async def batch(self) -> None:
        body = {"model": CHAT, "messages": SAID, "max_tokens": 4}
        lines = [{"custom_id": str(n), "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(3)]
        content = "\n".join(map(json.dumps, lines)).encode()
        file = await self.openai.files.create(file=("questions.jsonl", content), purpose="batch")
        made = await self.openai.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        while made.status not in ("completed", "failed", "expired", "cancelled"):
            await asyncio.sleep(0.5)
            made = await self.openai.batches.retrieve(made.id)
        assert made.status == "completed", made
        assert made.output_file_id is not None
        for found in (file.id, made.output_file_id):
            await self.openai.files.delete(found)

    async def eval(self) -> None:
        schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
        check: Any = {"type": "string_check", "name": "same", "operation": "eq", "input": "{{item.a}}", "reference": "b"}
        made = await self.openai.evals.create(
            data_source_config={"type": "custom", "item_schema": schema}, testing_criteria=[check]
        )
        source: Any = {"type": "jsonl", "source": {"type": "file_content", "content": [{"item": {"a": "b"}}] * 3}}
        run = await self.openai.evals.runs.create(made.id, data_source=source)
        while run.status in ("queued", "in_progress"):
            await asyncio.sleep(0.5)
            run = await self.openai.evals.runs.retrieve(run.id, eval_id=made.id)
        assert run.status == "completed", run
        await self.openai.evals.delete(made.id)

    async def conversation(self) -> None:
        made = await self.openai.conversations.create(items=[{"type": "message", "role": "user", "content": "Hello"}])
        await self.openai.responses.create(model=CHAT, input="And?", conversation=made.id, max_output_tokens=16, store=False)
        await self.openai.conversations.items.list(made.id)
        await self.openai.conversations.delete(made.id)

    async def refused(self) -> None:
        wrong: list[Callable[[], Awaitable[Any]]] = [
            lambda: self.openai.chat.completions.create(model="none", messages=SAID),
            lambda: self.openai.chat.completions.create(model=CHAT, messages=SAID, temperature=9),
            lambda: self.openai.responses.retrieve("resp_none"),
        ]
        try:
            await self.chance.choice(wrong)()
        except openai.APIStatusError as error:
            if error.status_code not in (400, 404):
                raise


#: What is asked for, and how often.
ACTIONS: dict[str, int] = {
    "chat": 8,
    "chat_streamed": 8,
    "chat_given_up": 6,
    "call_given_up": 4,
    "call_of_tool": 3,
    "response": 4,
    "response_in_background": 2,
    "message": 4,
    "embeddings": 8,
    "file": 4,
    "batch": 1,
    "eval": 1,
    "conversation": 2,
    "refused": 4,
}


async def traffic(server: PrivateServer, arguments: argparse.Namespace, watch: Watch) -> tuple[Counter[str], list[str]]:
    """Ask for `arguments.minutes`; returns how often each action was done, and what failed."""
    done: Counter[str] = Counter()
    failed: list[str] = []
    deadline = time.monotonic() + 60 * arguments.minutes
    callers = [Caller(server, arguments.seed + number) for number in range(arguments.callers)]

    async def go_on(caller: Caller) -> None:
        while time.monotonic() < deadline:
            (action,) = caller.chance.choices(list(ACTIONS), list(ACTIONS.values()))
            try:
                await getattr(caller, action)()
                done[action] += 1
            except (openai.OpenAIError, anthropic.AnthropicError, AssertionError) as error:
                failed.append(f"{action}: {type(error).__name__}: {str(error)[:300]}")
            await asyncio.sleep(arguments.pause)

    async def look() -> None:
        shown = 0.0
        while time.monotonic() < deadline:
            sample = await asyncio.to_thread(watch.look)
            if sample.at_s >= shown:
                shown = sample.at_s + 60
                told = ", ".join(f"{name} {value:.1f}" for name, value in sample.figures.items())
                print(f"{sample.at_s / 60:5.1f} min, {sum(done.values())} actions: {told}", file=sys.stderr, flush=True)
            await asyncio.sleep(min(5.0, arguments.minutes))

    await asyncio.gather(look(), *(go_on(caller) for caller in callers))
    for caller in callers:
        await caller.close()
    return done, failed


def growth(samples: list[Sample], name: str) -> tuple[float, float]:
    """Medians of the first and of the last quarter after the warm-up."""
    whole_s = samples[-1].at_s
    warm = [sample.figures[name] for sample in samples if sample.at_s >= whole_s / 5]
    quarter = max(1, len(warm) // 4)
    return statistics.median(warm[:quarter]), statistics.median(warm[-quarter:])


def judge(samples: list[Sample]) -> bool:
    """Print each figure; whether all that must stay flat did."""
    flat = True
    for name in samples[0].figures:
        first, last = growth(samples, name)
        share = (last - first) / first if first else 0.0
        judged = name.endswith(("MiB", "descriptors", "threads")) and not name.startswith("database")
        # A descriptor or two more are open at one moment than at another.
        grown = judged and share > LIMIT and (name.endswith("MiB") or last - first > 4)
        flat = flat and not grown
        print(f"{name:24} {first:9.1f} -> {last:9.1f}  {share:+7.1%}  {'GROWS' if grown else '' if judged else '(not judged)'}")
    return flat


async def measure(server: PrivateServer, arguments: argparse.Namespace) -> bool:
    watch = Watch(server)
    done, failed = await traffic(server, arguments, watch)
    deadline = time.monotonic() + 30
    while (left := watch.connections()) and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
    print(f"{arguments.minutes} min, {arguments.callers} callers, {sum(done.values())} actions: {dict(done)}")
    flat = judge(watch.samples)
    print(f"connections left: {left}; failed: {len(failed)} {failed[:5]}")
    return flat and not left and not failed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--callers", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between two actions of a caller")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with PrivateServer(shown=False, log_level="error") as server:
        with server.client() as client:
            deploy_language(client, CHAT, server.folder / "text", tools=True)
            deploy_encoder(client, ENCODER, server.folder / "pairs")
        good = asyncio.run(measure(server, arguments))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
