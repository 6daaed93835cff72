"""A replica: a process (or a Ray Serve replica) that holds one predictor and answers over HTTP.

    GET  /health   200 {"status": "ready"} or 503 {"status": "loading" | "failed"}
    POST /invoke   the task's input as JSON → the task's output as JSON
    POST /stream   the task's input as JSON → one output per line (application/x-ndjson); a failure in mid-stream is the last
                   line, {"error": …}
    POST /adapters {"load": [models], "unload": [version ids]} → {"refused": {version id: error}}
    GET  /stats    {"in_flight", "served", "failed", "aborted", "aborted_tokens"}

A request that carries `x-modelworks-adapter: VERSION_ID` is answered with that adapter; see `contract/adapter.py`.

An error before the first output is `{"error": ModelworksError.to_wire()}` with its status. When the client goes away the
predictor's iterator is closed at once, also while it is working on its first output.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import inspect
import json
import logging
import os
import socket
import sys
import threading
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, cast

import orjson
from pydantic import BaseModel, ValidationError

from modelworks.contract.adapter import AdapterHost
from modelworks.contract.capability import Task
from modelworks.contract.errors import (
    AuthenticationFailed,
    InvalidRequest,
    MethodNotAllowed,
    ModelworksError,
    NotFound,
    Unavailable,
    UnsupportedParameter,
)
from modelworks.contract.run import LocalModel
from modelworks.kernel.catalog.discovery import find_task, resolve_import
from modelworks.kernel.serving.schemas import ADAPTER_HEADER, AdapterChange, ReplicaSpec

log = logging.getLogger("modelworks.replica")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: Outputs that a predictor's thread may be ahead of a slow client.
_AHEAD = 64
#: Threads for plain `predict` and for plain iterators: each request occupies one while it is answered.
_NUM_THREADS = 64
#: The exit code of a replica whose predictor could not be made.
LOAD_FAILED = 3


class Replica:
    """The ASGI application around one predictor.

    Args:
        task: whose input and output it speaks.
        load: makes the predictor; called once, in a thread, by `start_loading`.
        token: the bearer token that requests must carry.
        on_state: called with "ready", or "failed" and the error, from the loading thread.
    """

    def __init__(
        self,
        task: Task,
        load: Callable[[], Any],
        token: str,
        on_state: Callable[[str, ModelworksError | None], None] | None = None,
    ) -> None:
        self._task = task
        self._load = load
        self._expected = f"Bearer {token}".encode()
        self._on_state = on_state
        self._predictor: Any = None
        self._state = "loading"
        self._error: ModelworksError | None = None
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="predict")
        self._changing = threading.Lock()
        self._in_flight = 0
        self._served = 0
        self._failed = 0
        self._aborted = 0
        self._aborted_tokens = 0

    # --- loading ----------------------------------------------------------------------------------------------------

    def start_loading(self) -> threading.Thread:
        """Make the predictor in a thread, so that /health answers meanwhile."""
        thread = threading.Thread(target=self.load, name="load", daemon=True)
        thread.start()
        return thread

    def load(self) -> None:
        """Make the predictor now; a failure is kept for /health and reported, not raised."""
        error: ModelworksError | None = None
        try:
            self._predictor = self._load()
            self._state = "ready"
        except ModelworksError as raised:
            log.exception("the predictor cannot be made")
            error = raised
        except Exception as raised:
            # A bug or a broken library: the deployment's owner needs its text to repair it.
            log.exception("the predictor cannot be made")
            error = ModelworksError(f"The predictor cannot be made: {type(raised).__name__}: {raised}", code="load_failed")
        if error is not None:
            self._error = error
            self._state = "failed"
        if self._on_state is not None:
            self._on_state(self._state, error)

    @property
    def error(self) -> ModelworksError | None:
        """Why loading failed."""
        return self._error

    def close(self) -> None:
        """Let the predictor give back what it holds."""
        close = getattr(self._predictor, "close", None)
        if callable(close):
            close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    # --- ASGI -------------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        root: str = scope.get("root_path", "")
        if root and path.startswith(root):
            path = path[len(root) :]
        try:
            await self._dispatch(path, scope, receive, send)
        except ModelworksError as error:
            await _reply(send, error.status, {"error": error.to_wire()})

    async def _dispatch(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if path == "/health":
            ready = self._state == "ready"
            await _reply(send, 200 if ready else 503, {"status": self._state})
            return
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if not hmac.compare_digest(given, self._expected):
            raise AuthenticationFailed("This replica answers only its own server.")
        if path == "/stats":
            await _reply(send, 200, self.stats())
            return
        if path not in ("/invoke", "/stream", "/adapters"):
            raise NotFound(f"A replica has no {path}.")
        if scope["method"] != "POST":
            raise MethodNotAllowed(f"{path} takes POST.")
        if self._state != "ready":
            raise self._error or Unavailable("The replica is still loading.", code="model_loading", retry_after_s=1)
        if path == "/adapters":
            await _reply(send, 200, await self._change_adapters(await _body(receive)))
            return
        request = self._parse(await _body(receive))
        named = next((value for name, value in scope["headers"] if name == ADAPTER_HEADER), None)
        adapter = {} if named is None else {"adapter": named.decode("latin-1")}
        if adapter and not self.holds_adapters:
            raise NotFound("This replica holds no adapters.", code="no_adapter")
        answer = self._stream if path == "/stream" else self._invoke
        self._in_flight += 1
        try:
            await _Connection(receive, send).run(partial(answer, adapter=adapter), request)
        finally:
            self._in_flight -= 1

    @property
    def holds_adapters(self) -> bool:
        """Whether the predictor takes adapters."""
        return isinstance(self._predictor, AdapterHost) and self._predictor.holds_adapters

    async def _change_adapters(self, body: bytes) -> dict[str, Any]:
        wanted = AdapterChange.model_validate_json(body)
        host = self._predictor
        if not self.holds_adapters:
            raise UnsupportedParameter(
                "The engine of this deployment holds no adapters.",
                hint="Deploy the base with an engine that does, or the adapter's merged weights.",
                param="adapters",
            )

        def change() -> dict[str, Any]:
            with self._changing:
                host.unload_adapters(wanted.unload)
                refused = host.load_adapters(wanted.load) if wanted.load else {}
            return {"refused": {version_id: error.to_wire() for version_id, error in refused.items()}}

        return await asyncio.get_running_loop().run_in_executor(self._threads, change)

    def stats(self) -> dict[str, int]:
        """Requests in flight and counted since the start; `aborted`: the client went away before the end."""
        return {
            "in_flight": self._in_flight,
            "served": self._served,
            "failed": self._failed,
            "aborted": self._aborted,
            "aborted_tokens": self._aborted_tokens,
        }

    def _parse(self, body: bytes) -> BaseModel:
        try:
            return self._task.input.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            if first["type"] == "json_invalid":
                raise InvalidRequest(f"The request is not valid JSON: {first['msg']}.", code="invalid_json") from None
            param = ".".join(str(part) for part in first["loc"]) or None
            where = f"{param}: " if param else "The input: "
            fault = first["msg"].removeprefix("Value error, ").rstrip(".")
            raise InvalidRequest(
                f"{where}{fault}.",
                hint=f"GET /v1/tasks/{self._task.name}/schema shows what the task takes.",
                param=param,
                code="invalid_value",
            ) from None

    def _encode(self, output: Any) -> bytes:
        if not isinstance(output, self._task.output):
            if isinstance(output, BaseModel):
                output = output.model_dump()
            output = self._task.output.model_validate(output)
        return cast(bytes, type(output).__pydantic_serializer__.to_json(output))

    # --- answering --------------------------------------------------------------------------------------------------

    async def _invoke(self, connection: _Connection, request: BaseModel, *, adapter: dict[str, str]) -> None:
        predict = getattr(self._predictor, "predict", None)
        try:
            if predict is None:
                raise MethodNotAllowed(f"The task {self._task.name!r} answers with a stream: use /stream.")
            body = self._encode(await self._predict(partial(predict, **adapter), request))
        except asyncio.CancelledError:
            self._aborted += 1
            raise
        except Exception as raised:
            self._failed += 1
            error = _as_error(raised)
            await _reply(connection.send, error.status, {"error": error.to_wire()})
            return
        self._served += 1
        await _send_body(connection.send, 200, b"application/json", body)

    async def _predict(self, predict: Callable[[Any], Any], request: BaseModel) -> Any:
        if inspect.iscoroutinefunction(getattr(predict, "func", predict)):
            return await predict(request)
        result = await asyncio.get_running_loop().run_in_executor(self._threads, predict, request)
        return await result if inspect.isawaitable(result) else result

    async def _outputs(self, request: BaseModel, adapter: dict[str, str]) -> AsyncIterator[Any]:
        """One request's outputs, whatever kind of predictor there is. Closing this closes the predictor's iterator."""
        stream = getattr(self._predictor, "stream", None)
        if stream is None:
            yield await self._predict(partial(self._predictor.predict, **adapter), request)
            return
        outputs = stream(request, **adapter)
        if not hasattr(outputs, "__aiter__"):
            outputs = _in_thread(iter(outputs), self._threads)
        try:
            async for output in outputs:
                yield output
        finally:
            aclose = getattr(outputs, "aclose", None)
            if aclose is not None:
                await aclose()

    async def _stream(self, connection: _Connection, request: BaseModel, *, adapter: dict[str, str]) -> None:
        send = connection.send
        started = False
        num_tokens = 0
        outputs = self._outputs(request, adapter)
        try:
            async for output in outputs:
                line = self._encode(output) + b"\n"
                num_tokens += len(getattr(output, "token_ids", ()))
                if not started:
                    started = True
                    await send(_start(200, b"application/x-ndjson"))
                await send({"type": "http.response.body", "body": line, "more_body": True})
        except asyncio.CancelledError:
            self._aborted += 1
            self._aborted_tokens += num_tokens
            raise
        except Exception as raised:
            self._failed += 1
            error = _as_error(raised)
            if not started:
                await _reply(send, error.status, {"error": error.to_wire()})
                return
            line = orjson.dumps({"error": error.to_wire()}) + b"\n"
            await send({"type": "http.response.body", "body": line, "more_body": False})
            return
        finally:
            await cast(Any, outputs).aclose()
        self._served += 1
        if not started:
            await send(_start(200, b"application/x-ndjson"))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Connection:
    """Runs one answer and cancels it when the client goes away."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self.send = send

    async def run(self, answer: Callable[[_Connection, BaseModel], Awaitable[None]], request: BaseModel) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - an invariant of asyncio
        gone = False
        over = False

        async def watch() -> None:
            nonlocal gone
            while (await self._receive())["type"] != "http.disconnect":
                pass
            if not over:
                gone = True
                task.cancel()

        watcher = asyncio.create_task(watch())
        try:
            await answer(self, request)
        except asyncio.CancelledError:
            if not gone:
                raise
            task.uncancel()
        except OSError:
            # Sending failed because the client went away; `answer` has closed the iterator.
            log.info("the client went away while it was sent to")
        finally:
            over = True
            watcher.cancel()


async def _in_thread(iterator: Iterator[Any], threads: ThreadPoolExecutor) -> AsyncIterator[Any]:
    """A plain iterator's outputs, made in one thread. A generator is closed as soon as its current step is over."""
    loop = asyncio.get_running_loop()
    outputs: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
    room = threading.Semaphore(_AHEAD)
    stop = threading.Event()

    def post(kind: str, value: Any = None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(outputs.put_nowait, (kind, value))

    def work() -> None:
        try:
            for output in iterator:
                if stop.is_set():
                    break
                post("output", output)
                room.acquire()
            else:
                post("end")
        except Exception as error:
            post("error", error)
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    threads.submit(work)
    try:
        while True:
            kind, value = await outputs.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            room.release()
            yield value
    finally:
        stop.set()
        room.release(_AHEAD)
        close = getattr(iterator, "close", None)
        # A generator refuses to be closed from another thread while it runs; anything else is told at once.
        if close is not None and not isinstance(iterator, types.GeneratorType):
            close()


def _as_error(raised: Exception) -> ModelworksError:
    if isinstance(raised, ModelworksError):
        return raised
    log.error("the predictor failed", exc_info=raised)
    return ModelworksError(
        "The model failed to answer because of an internal error.", hint="The replica's log has the details."
    )


def _start(status: int, content_type: bytes, length: int | None = None) -> Message:
    headers = [(b"content-type", content_type)]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    return {"type": "http.response.start", "status": status, "headers": headers}


async def _send_body(send: Send, status: int, content_type: bytes, body: bytes) -> None:
    await send(_start(status, content_type, len(body)))
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _reply(send: Send, status: int, value: Any) -> None:
    await _send_body(send, status, b"application/json", orjson.dumps(value))


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Unavailable("The client went away before its request was complete.")
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


# --- the process ----------------------------------------------------------------------------------------------------


def build(spec: ReplicaSpec, on_state: Callable[[str, ModelworksError | None], None] | None = None) -> Replica:
    """The application for a spec; `spec.model.path` must be a folder of this machine.

    Raises:
        NotFound: the capability or task is not installed here.
    """
    _, task = find_task(spec.capability, spec.task)
    return Replica(task, lambda: make_predictor(spec, task, spec.model), spec.token, on_state)


def make_predictor(spec: ReplicaSpec, task: Task, model: LocalModel | None) -> Any:
    """Import and construct the predictor; heavy libraries come in here.

    Raises:
        MissingExtra: a heavy library is not installed.
    """
    factory = cast(Callable[[LocalModel | None, BaseModel | None], Any], resolve_import(spec.import_path or ""))
    options = None if task.options is None else task.options.model_validate(spec.options)
    return factory(model, options)


def write_status(folder: Path, status: dict[str, Any]) -> None:
    """Replace status.json in one step."""
    target = folder / "status.json"
    temporary = target.with_suffix(".new")
    temporary.write_text(json.dumps(status), encoding="utf-8")
    temporary.replace(target)


def die_with_parent(on_death: Callable[[], None] | None = None, *, ask_kernel: bool = True) -> None:
    """End this process when the server ends, however it ends.

    The server holds the other end of our standard input and never writes: end of file means that it is gone. The operating
    system's own signal is asked for as well, for a process that hangs inside a library and runs no thread of ours.

    Args:
        on_death: called first when the server is gone.
        ask_kernel: False where `on_death` must surely be called: the signal leaves no time for it.
    """

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1024):
                pass
        if on_death is not None:
            on_death()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
    if ask_kernel:
        request_death_signal()


def request_death_signal() -> None:
    """Ask Linux to kill this process when the thread that started it ends; elsewhere nothing happens."""
    if sys.platform == "linux":
        import ctypes
        import signal

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGKILL))


def main(argv: list[str]) -> int:
    """`python -m modelworks.kernel.serving.worker <folder>/spec.json`, started by the local back end."""
    die_with_parent()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    spec = ReplicaSpec.model_validate_json(Path(argv[0]).read_bytes())
    import uvicorn

    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    # From here on connections wait instead of being refused: the predictor may be ready before the server is.
    listener.listen(2048)
    port = listener.getsockname()[1]

    replica: Replica | None = None

    def on_state(state: str, error: ModelworksError | None) -> None:
        status: dict[str, Any] = {
            "state": state,
            "port": port,
            "holds_adapters": replica is not None and replica.holds_adapters,
        }
        if error is not None:
            status["error"] = error.to_wire()
        write_status(spec.folder, status)
        if error is not None:
            # Nothing was served yet, and a half-made predictor may hold threads that would keep the process alive.
            sys.stderr.flush()
            os._exit(LOAD_FAILED)

    write_status(spec.folder, {"state": "loading", "port": port})
    try:
        replica = build(spec, on_state)
    except ModelworksError as error:
        on_state("failed", error)
        return LOAD_FAILED
    config = uvicorn.Config(
        replica,
        log_config=None,
        access_log=False,
        lifespan="off",
        # Longer than the pool's connections live, so that it never sends on a connection that is being closed here.
        timeout_keep_alive=120,
        timeout_graceful_shutdown=int(os.environ.get("MODELWORKS_REPLICA_GRACE_S", "30")),
    )
    server = uvicorn.Server(config)
    replica.start_loading()
    server.run(sockets=[listener])
    replica.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
