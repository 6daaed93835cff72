"""How the client reaches a server: address, key, time limits, retries, streams, and errors rebuilt from their envelope."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Concatenate, Generic, ParamSpec, TypeVar
from urllib.parse import quote, urlsplit

import httpx

from modelworks import __version__
from modelworks.contract.errors import (
    AuthenticationFailed,
    IntegrityFailed,
    InvalidRequest,
    ModelworksError,
    TimedOut,
    Unavailable,
    UpstreamFailed,
    error_classes,
)

Record = dict[str, Any]
R = TypeVar("R")
G = TypeVar("G", bound="AsyncGroup", covariant=True)
P = ParamSpec("P")

DEFAULT_PORT = 8400
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE"})
_LONGEST_WAIT_S = 30.0
_CHUNK_BYTES = 1 << 20
_NO_KEY = (
    "Set MODELWORKS_API_KEY. On the server's own machine the first key is found by itself where MODELWORKS_HOME is the "
    "server's home folder and MODELWORKS_URL a loopback address."
)
_NOT_OURS = "Check that MODELWORKS_URL points to a Modelworks server."


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list; give `last_id` as `after` to get the next one."""

    data: list[Record]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None

    def __iter__(self) -> Iterator[Record]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)


def default_url() -> str:
    """`MODELWORKS_URL`, or the local server at `MODELWORKS_PORT` (8400)."""
    return os.environ.get("MODELWORKS_URL") or f"http://127.0.0.1:{os.environ.get('MODELWORKS_PORT') or DEFAULT_PORT}"


def home_folder() -> Path:
    """`MODELWORKS_HOME`, or `~/.modelworks`."""
    return Path(os.environ.get("MODELWORKS_HOME") or Path.home() / ".modelworks").expanduser()


def default_api_key(url: str) -> str | None:
    """`MODELWORKS_API_KEY`; for a server on this machine also the key it wrote to `admin.key` in its home folder."""
    given = os.environ.get("MODELWORKS_API_KEY")
    if given or urlsplit(url).hostname not in _LOOPBACK:  # the local administrator's key never leaves this machine
        return given or None
    try:
        return (home_folder() / "admin.key").read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def usable_key(key: str | None) -> str | None:
    """The key without white space around it.

    Raises:
        AuthenticationFailed: it holds characters that no header can carry; the key itself is not repeated.
    """
    key = key.strip() if key else None
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise AuthenticationFailed(
            "The API key holds spaces, line ends or characters beyond ASCII, which no key has.",
            hint="Copy the key again, whole and alone, into MODELWORKS_API_KEY or --api-key.",
        )
    return key


def error_from(status: int, body: bytes, headers: Mapping[str, str]) -> ModelworksError:
    """Rebuild the error that an answer carries: by its code where the class is known, else by its HTTP status.

    Args:
        status: the HTTP status. body: the answer's bytes, an OpenAI error envelope or anything else.
        headers: the answer's headers; `Retry-After` becomes `retry_after_s`.
    """
    detail: Record = {}
    with contextlib.suppress(ValueError):
        parsed = json.loads(body)
        found = parsed.get("error") if isinstance(parsed, dict) else None
        detail = found if isinstance(found, dict) else {"message": found} if isinstance(found, str) else {}
    code, hint = detail.get("code"), detail.get("hint")
    message = str(detail.get("message") or f"The server answered with HTTP status {status} and no explanation.")
    if hint and message.endswith(hint):  # the envelope repeats the hint in its message, for clients that show only that
        message = message[: -len(hint)].rstrip() or message
    wait = _seconds(headers.get("retry-after"))
    error = _class_for(status, code)(message, hint=hint, param=detail.get("param"), code=code, retry_after_s=wait)
    request_id = headers.get("x-request-id")
    if status >= 500 and request_id:
        error.add_note(f"request id: {request_id}")
    return error


def _class_for(status: int, code: str | None) -> type[ModelworksError]:
    classes = [cls for cls in error_classes().values() if cls is not ModelworksError]
    for cls in classes:
        if code is not None and cls.code == code:
            return cls
    for cls in classes:  # the base of a status stands before its children
        if cls.status == status and cls not in (IntegrityFailed,):
            return cls
    if 400 <= status < 500:
        return InvalidRequest
    return ModelworksError


def _seconds(value: str | None) -> float | None:
    try:
        return max(0.0, float(value)) if value is not None else None
    except ValueError:
        return None


class Transport:
    """Sends requests to one server: address, key, time limits, retries and errors in one place.

    Args:
        base_url: with or without `/v1`. api_key: sent as `Authorization: Bearer`.
        timeout_s: how long to wait for each answer to begin (streams may be silent for that long).
        max_retries: how often a call is repeated after its first attempt.
        handler: an httpx transport, to talk to an application in the same process.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 600.0,
        max_retries: int = 2,
        handler: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        url = (base_url or default_url()).strip().rstrip("/").removesuffix("/v1").rstrip("/")
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise InvalidRequest(
                f"{url!r} is not the address of a server.", hint="Give it as http://host:port, for example in MODELWORKS_URL."
            )
        self.base_url = url
        self.api_key = usable_key(api_key if api_key is not None else default_api_key(url))
        self.max_retries = max_retries
        headers = {"User-Agent": f"modelworks/{__version__}", "Accept": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        # A proxy meant for the internet must not stand between us and a server on this machine.
        self.is_local = urlsplit(url).hostname in _LOOPBACK
        self.http = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=httpx.Timeout(timeout_s, connect=5.0),
            transport=handler,
            trust_env=not self.is_local,
            # Loading the trusted certificates takes longer than most calls; without TLS there is nothing to verify.
            verify=urlsplit(url).scheme == "https",
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self.http.aclose()

    async def json(self, method: str, path: str, *, retry: bool | None = None, **options: Any) -> Any:
        """One call and its JSON answer (None for an empty one). `options` are httpx's (`json`, `params`, `headers` …).

        Raises:
            ModelworksError: what the server said, or `Unavailable`, `TimedOut` where it said nothing.
        """
        answer = await self.request(method, path, retry=retry, **options)
        if not answer.content:
            return None
        try:
            return answer.json()
        except ValueError as error:
            raise UpstreamFailed(
                f"{self.base_url}{path} did not answer with JSON.",
                hint="Check that MODELWORKS_URL points to a Modelworks server.",
            ) from error

    async def request(self, method: str, path: str, *, retry: bool | None = None, **options: Any) -> httpx.Response:
        """One call, repeated where that is safe; the whole body has been read."""
        async with self.stream(method, path, retry=retry, **options) as answer:
            await answer.aread()
            return answer

    @contextlib.asynccontextmanager
    async def stream(
        self, method: str, path: str, *, retry: bool | None = None, **options: Any
    ) -> AsyncIterator[httpx.Response]:
        """One call whose body is read piece by piece; failures raise before the block is entered."""
        params = options.get("params")
        if params:
            options["params"] = {name: value for name, value in params.items() if value is not None}
        repeatable = retry if retry is not None else method in _IDEMPOTENT
        answer = await self._send(method, path, repeatable, options)
        try:
            with self._readable_failures(path):
                yield answer
        finally:
            await answer.aclose()

    async def _send(self, method: str, path: str, repeatable: bool, options: Record) -> httpx.Response:
        attempt = 0
        while True:
            last = attempt >= self.max_retries
            try:
                with self._readable_failures(path):
                    answer = await self.http.send(self.http.build_request(method, path, **options), stream=True)
            except Unavailable as error:
                # A connection that was refused did not carry the request: repeating it is safe whatever it was.
                if last or not (repeatable or error.error_code == "connection_failed"):
                    raise
                wait = None
            else:
                if answer.status_code < 400:
                    return answer
                try:
                    with self._readable_failures(path):
                        refusal = error_from(answer.status_code, await answer.aread(), answer.headers)
                finally:
                    await answer.aclose()
                if answer.status_code == 401 and not self.api_key:
                    refusal.hint = _NO_KEY
                told_not_to = answer.headers.get("x-should-retry") == "false"
                if last or not repeatable or told_not_to or answer.status_code not in _RETRIED:
                    raise refusal
                wait = refusal.retry_after_s
                if wait is not None and wait > _LONGEST_WAIT_S:
                    raise refusal
            await asyncio.sleep(wait if wait is not None else min(8.0, 0.25 * 2**attempt) * (0.5 + random.random() / 2))  # noqa: S311
            attempt += 1

    @contextlib.contextmanager
    def _readable_failures(self, path: str) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unavailable(
                f"No server answers at {self.base_url}.",
                hint="Start one with `modelworks serve`, or give its address in MODELWORKS_URL.",
                code="connection_failed",
            ) from error
        except httpx.TimeoutException as error:
            raise TimedOut(f"{self.base_url}{path} did not answer in time.", hint="Try again, or allow more time.") from error
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(f"The connection to {self.base_url} was lost: {reason}.", hint="Try again.") from error

    async def lines(self, method: str, path: str, **options: Any) -> AsyncGenerator[str, None]:
        """The lines of a streamed answer, without their ends; closing the iterator closes the connection."""
        async with self.stream(method, path, **options) as answer:
            rest = b""
            # Only LF ends a line: str.splitlines would also cut at U+2028 and others, which JSON may hold unescaped.
            async for chunk in answer.aiter_bytes():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line.removesuffix(b"\r").decode(errors="replace")
            if rest:
                yield rest.decode(errors="replace")

    async def events(self, method: str, path: str, **options: Any) -> AsyncGenerator[Record, None]:
        """The JSON objects of a server-sent event stream (or of NDJSON); an `error` event is raised."""
        options.setdefault("headers", {"Accept": "text/event-stream"})
        async with contextlib.aclosing(self.lines(method, path, **options)) as lines:
            async for line in lines:
                text = line.removeprefix("data:").strip() if line.startswith("data:") else line.strip()
                if text == "[DONE]":
                    return
                if not text.startswith("{"):  # comments, event and id lines, blanks
                    continue
                item = json.loads(text)
                if isinstance(item.get("error"), dict) and "message" in item["error"] and "id" not in item:
                    raise error_from(500, text.encode(), {})
                yield item

    async def page(self, path: str, **params: Any) -> Page:
        """One page of a list."""
        answer = await self.json("GET", path, params=params)
        if not isinstance(answer, dict) or not isinstance(answer.get("data"), list):
            raise UpstreamFailed(f"{self.base_url}{path} did not answer with a list.", hint=_NOT_OURS)
        return Page(answer["data"], bool(answer.get("has_more")), answer.get("first_id"), answer.get("last_id"))


def segment(ref: str) -> str:
    """A reference as part of a path: slashes stay (the routes take paths), everything else is escaped."""
    return quote(ref, safe="/@:.-_~")


def given(**fields: Any) -> Record:
    """The fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def files_of(folder: Path) -> list[tuple[str, Path]]:
    """Each file under a folder (or the one file given) with its relative path; hidden files and links are left out.

    Raises:
        InvalidRequest: there is no such folder, or nothing in it.
    """
    if folder.is_file():
        return [(folder.name, folder)]
    if not folder.is_dir():
        raise InvalidRequest(f"There is no file or folder {folder}.", hint="Check the path.")
    found = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not path.is_symlink() and not any(part.startswith(".") for part in relative.parts):
            found.append((relative.as_posix(), path))
    if not found:
        raise InvalidRequest(
            f"The folder {folder} holds no files.", hint="Give a folder with the files of the data set or model."
        )
    return found


def _read(source: Path | bytes | BinaryIO) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield from (source[at : at + _CHUNK_BYTES] for at in range(0, len(source), _CHUNK_BYTES))
    elif isinstance(source, Path):
        with source.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    else:
        source.seek(0)
        while chunk := source.read(_CHUNK_BYTES):
            yield chunk


async def chunks_of(source: Path | bytes | BinaryIO) -> AsyncIterator[bytes]:
    """The bytes of a file, a string or a seekable stream (from its start), read outside the event loop."""
    chunks = _read(source)
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk


def digest_of(source: Path | bytes | BinaryIO) -> tuple[str, int]:
    """The digest (`sha256:…`) and the number of bytes of a source."""
    hasher, num_bytes = hashlib.sha256(), 0
    for chunk in _read(source):
        hasher.update(chunk)
        num_bytes += len(chunk)
    return f"sha256:{hasher.hexdigest()}", num_bytes


class AsyncGroup:
    """Base of the client's groups of methods."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport


class Loop:
    """A private event loop in a thread of its own, on which the sync shell runs the async core."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="modelworks-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # an interrupted caller must not leave the request running
            raise

    def iterate(self, items: AsyncGenerator[R, None]) -> Generator[R, None, None]:
        end = object()
        waiting: asyncio.Task[Any] | None = None

        async def step() -> Any:
            nonlocal waiting
            waiting = asyncio.current_task()
            return await anext(items, end)

        async def finish() -> None:
            # Where the caller was interrupted, the last step may still be running; a running generator cannot be closed.
            if waiting is not None and not waiting.done():
                if not waiting.cancelling():  # a second cancellation would break off the first one's cleaning up
                    waiting.cancel()
                await asyncio.wait([waiting])
            await items.aclose()

        try:
            while (item := self.run(step())) is not end:
                yield item
        finally:
            self.run(finish())

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


class Shell(Generic[G]):
    """A group whose methods wait for the answer."""

    def __init__(self, core: G, loop: Loop) -> None:
        self._core = core
        self._loop = loop


def waits(method: Callable[Concatenate[G, P], Coroutine[Any, Any, R]]) -> Callable[Concatenate[Shell[G], P], R]:
    """The waiting form of a method of the core."""

    def call(self: Shell[G], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._loop.run(method(self._core, *args, **kwargs))

    call.__name__, call.__doc__ = method.__name__, method.__doc__
    return call


def yields(
    method: Callable[Concatenate[G, P], AsyncGenerator[R, None]],
) -> Callable[Concatenate[Shell[G], P], Generator[R, None, None]]:
    """The waiting form of a method of the core that yields."""

    def call(self: Shell[G], /, *args: P.args, **kwargs: P.kwargs) -> Generator[R, None, None]:
        return self._loop.iterate(method(self._core, *args, **kwargs))

    call.__name__, call.__doc__ = method.__name__, method.__doc__
    return call
