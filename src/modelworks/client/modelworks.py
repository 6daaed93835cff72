"""The client itself: the groups of calls on what the platform keeps, put together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

from modelworks.client.accounts import Accounts, AsyncAccounts, AsyncUsage, Usage
from modelworks.client.adapters import AsyncAdapters
from modelworks.client.evaluations import AsyncEvals, AsyncEvaluations
from modelworks.client.governance import AsyncAudit, AsyncKeys, AsyncMembers, AsyncSecrets, Audit, Keys, Members, Secrets
from modelworks.client.retrieval import AsyncRetrieval
from modelworks.client.spaces import AsyncSpaces, Spaces
from modelworks.client.tool_servers import AsyncMcpServers, McpServers
from modelworks.client.transport import (
    AsyncGroup,
    Loop,
    Page,
    Record,
    Transport,
    chunks_of,
    digest_of,
    files_of,
    given,
    segment,
)
from modelworks.client.transport import Shell as _Shell
from modelworks.client.transport import waits as _waits
from modelworks.client.transport import yields as _yields
from modelworks.contract.errors import (
    IntegrityFailed,
    ModelworksError,
    NotFound,
    RateLimited,
    TimedOut,
    Unavailable,
)

__all__ = ["FINISHED", "AsyncModelworks", "Modelworks", "Page", "Record"]

#: States in which a run will not change any more by itself.
FINISHED = frozenset({"succeeded", "failed", "cancelled"})


class AsyncBlobs(AsyncGroup):
    """Content-addressed bytes."""

    async def exists(self, digest: str) -> bool:
        """Whether the server has these bytes."""
        try:
            await self._transport.request("HEAD", f"/api/blobs/{segment(digest)}")
        except NotFound:
            return False
        return True

    async def upload(self, source: Path | bytes | BinaryIO) -> Record:
        """Send a file, bytes or a seekable stream unless the server has them: `{"digest", "num_bytes", "known"}`.

        Raises:
            IntegrityFailed: the bytes changed on the way or under our hands.
        """
        digest, num_bytes = await asyncio.to_thread(digest_of, source)
        if await self.exists(digest):
            return {"digest": digest, "num_bytes": num_bytes, "known": True}
        headers = {"X-Content-SHA256": digest, "Content-Length": str(num_bytes), "Content-Type": "application/octet-stream"}
        # Repeating needs a fresh reader each time, so the retry is here and not in the transport.
        for attempt in range(self._transport.max_retries + 1):
            try:
                sent: Record = await self._transport.json(
                    "PUT", "/api/blobs", retry=False, content=chunks_of(source), headers=headers
                )
            except (Unavailable, RateLimited):
                if attempt == self._transport.max_retries:
                    raise
                await asyncio.sleep(0.25 * 2**attempt)
            else:
                if sent["digest"] != digest:
                    raise IntegrityFailed(f"The server stored {sent['digest']} where {digest} was sent.")
                return {**sent, "known": False}
        raise AssertionError("unreachable")

    async def download(self, digest: str, target: Path) -> Path:
        """Fetch into `target`, continuing a `.part` file that an interrupted download left; the digest is checked.

        Raises:
            NotFound: the server has no such blob. IntegrityFailed: the bytes do not have that digest.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        start = part.stat().st_size if part.exists() else 0
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            async with self._transport.stream("GET", f"/api/blobs/{segment(digest)}", headers=headers) as answer:
                with part.open("ab" if answer.status_code == 206 else "wb") as file:
                    async for chunk in answer.aiter_bytes():
                        file.write(chunk)
        except ModelworksError as error:
            if not start or error.status not in (400, 416):
                raise  # 416: the part was complete already; the digest decides
        found, _ = await asyncio.to_thread(digest_of, part)
        if found != digest:
            part.unlink()
            raise IntegrityFailed(f"The bytes of {digest} arrived as {found}.", hint="Try again.")
        part.replace(target)
        return target

    async def collect(self, *, dry_run: bool = False, grace_s: float | None = None) -> Record:
        """Delete (or with `dry_run` count) the bytes that no version and no run refers to. Needs an admin key."""
        return dict(await self._transport.json("POST", "/api/blobs/collect", json=given(dry_run=dry_run, grace_s=grace_s)))

    async def upload_folder(self, folder: Path, *, on_file: Callable[[Record], None] | None = None) -> list[Record]:
        """Send every file of a folder (or one file) and return its manifest: `[{"path", "digest", "num_bytes"}, …]`.

        Files that the server knows are skipped, so an interrupted upload continues where it stopped. Hidden files and
        links are left out. `on_file` hears of each file as it is stored, with `known`.

        Raises:
            InvalidRequest: there is no such folder, or nothing in it.
        """
        files = await asyncio.to_thread(files_of, folder)
        manifest: list[Record] = []
        for name, path in files:
            sent = await self.upload(path)
            manifest.append({"path": name, "digest": sent["digest"], "num_bytes": sent["num_bytes"]})
            if on_file is not None:
                on_file({**manifest[-1], "known": sent["known"]})
        return manifest


class AsyncArtifacts(AsyncGroup):
    """Models, data sets and their versions; `ref` is `name`, `name@alias`, `name@v3` or a version's id."""

    def __init__(self, transport: Transport, path: str, kind: str) -> None:
        super().__init__(transport)
        self._path = path
        self._kind = kind

    async def list(self, *, search: str | None = None, after: str | None = None, limit: int = 100) -> Page:
        """Newest first."""
        return await self._transport.page(self._path, search=search, after=after, limit=limit)

    async def get(self, ref: str) -> Record:
        """The version that a reference names now."""
        return dict(await self._transport.json("GET", f"{self._path}/{segment(ref)}"))

    async def version(self, version_id: str) -> Record:
        """A version of any kind with its files, a removed one too."""
        return dict(await self._transport.json("GET", f"/api/versions/{segment(version_id)}"))

    async def register(self, /, name: str, files: Sequence[Mapping[str, Any]], **fields: Any) -> Record:
        """Make a version of stored blobs; `fields`: task, level, licence, source, card, metadata, parents."""
        body = {"name": name, "files": list(files), **given(**fields)}
        return dict(await self._transport.json("POST", self._path, json=body))

    async def add(
        self, /, name: str, folder: Path | str, *, on_file: Callable[[Record], None] | None = None, **fields: Any
    ) -> Record:
        """Upload a folder (known files are skipped) and register it as the next version of `name`."""
        files = await AsyncBlobs(self._transport).upload_folder(Path(folder), on_file=on_file)
        return await self.register(name, files, **fields)

    async def remove(self, ref: str, *, dry_run: bool = False, force: bool = False) -> Record:
        """Remove one version, or all versions of a plain name; answers with what goes. `Conflict` while it is in use."""
        params = given(dry_run=dry_run or None, force=force or None)
        return dict(await self._transport.json("DELETE", f"{self._path}/{segment(ref)}", params=params) or {})

    async def set_alias(self, ref: str, alias: str) -> Record:
        """Let `name@alias` mean the version that `ref` names: promotion and roll-back."""
        return dict(await self._transport.json("PUT", "/api/aliases", json={"ref": ref, "alias": alias, "kind": self._kind}))

    async def remove_alias(self, ref: str, alias: str) -> None:
        """Forget `name@alias`; the version stays."""
        await self._transport.json("DELETE", "/api/aliases", params={"ref": ref, "alias": alias, "kind": self._kind})


class AsyncLineage(AsyncGroup):
    """Where things come from and where they went."""

    async def graph(self, id: str, *, direction: str = "both", depth: int | None = None) -> Record:
        """Nodes and edges around a version or a run; direction is up, down or both."""
        params = {"direction": direction, "depth": depth}
        return dict(await self._transport.json("GET", f"/api/lineage/{segment(id)}", params=params))

    async def tree(self, ref: str) -> Record:
        """The family tree of a model, with level, licence, metrics and data sets per version."""
        return dict(await self._transport.json("GET", f"/api/tree/{segment(ref)}"))


class AsyncRuns(AsyncGroup):
    """Training, evaluation, imports and other work that takes a while."""

    async def submit(
        self,
        *,
        verb: str,
        task: str | None = None,
        capability: str | None = None,
        inputs: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        name: str | None = None,
        seed: int | None = None,
        resources: Mapping[str, Any] | None = None,
        force: bool = False,
        dry_run: bool = False,
    ) -> Record:
        """Queue a run, or with `dry_run` only have it checked; refused at once where it cannot work.

        Args:
            inputs: references by role, `{"base": "qwen@default", "train": "corpus"}`. name: what the result is called.
            force: also where a training is estimated to need more memory than it may have.
        """
        body = given(capability=capability, task=task, output_name=name, seed=seed, resources=resources)
        body |= {"verb": verb, "inputs": dict(inputs or {}), "params": dict(params or {})}
        if force:
            body["force"] = True
        params_ = {"dry_run": "true"} if dry_run else {}
        return dict(await self._transport.json("POST", "/api/runs", json=body, params=params_))

    async def list(self, *, state: str | None = None, after: str | None = None, limit: int = 100) -> Page:
        """Newest first."""
        return await self._transport.page("/api/runs", state=state, after=after, limit=limit)

    async def get(self, run_id: str) -> Record:
        """One run with its state, progress, error and results."""
        return dict(await self._transport.json("GET", f"/api/runs/{segment(run_id)}"))

    async def cancel(self, run_id: str) -> Record:
        """Ask a run to stop; its last checkpoint stays."""
        return dict(await self._transport.json("POST", f"/api/runs/{segment(run_id)}/cancel", retry=True))

    async def resume(self, run_id: str) -> Record:
        """Let a failed or cancelled run go on from its last checkpoint, as its next attempt."""
        return dict(await self._transport.json("POST", f"/api/runs/{segment(run_id)}/resume"))

    async def reproduce(self, run_id: str, *, dry_run: bool = False) -> Record:
        """Repeat a finished run and compare: `{"run", "repeats", "differences"}`; the new run's result says what came out."""
        params = {"dry_run": "true"} if dry_run else {}
        return dict(await self._transport.json("POST", f"/api/runs/{segment(run_id)}/reproduce", params=params))

    async def metrics(self, run_id: str) -> Page:
        """The points of the run's curves."""
        return await self._transport.page(f"/api/runs/{segment(run_id)}/metrics")

    async def events(self, run_id: str, *, follow: bool = True, after_seq: int = 0) -> AsyncGenerator[Record, None]:
        """What happened in the run, in order; with `follow` until it ends, across restarts of the server."""
        failures, path = 0, f"/api/runs/{segment(run_id)}/events"
        while True:
            params = {"after_seq": after_seq, "follow": "true" if follow else "false"}
            try:
                async with contextlib.aclosing(self._transport.events("GET", path, params=params)) as events:
                    async for event in events:
                        failures, after_seq = 0, int(event.get("seq", after_seq))
                        yield event
                return
            except (Unavailable, TimedOut):
                failures += 1
                if not follow or failures > 6:
                    raise
                await asyncio.sleep(min(8.0, 0.5 * 2**failures))

    async def logs(self, run_id: str, *, follow: bool = False) -> AsyncGenerator[str, None]:
        """The lines that the run's attempts printed."""
        params = {"follow": "true"} if follow else {}
        async with contextlib.aclosing(
            self._transport.lines("GET", f"/api/runs/{segment(run_id)}/logs", params=params)
        ) as lines:
            async for line in lines:
                yield line

    async def wait(self, run_id: str, *, poll_s: float = 1.0) -> Record:
        """Wait until the run has ended; succeeded, failed or cancelled is in its `state`."""
        while True:
            run = await self.get(run_id)
            if run["state"] in FINISHED:
                return run
            await asyncio.sleep(poll_s)


class AsyncDeployments(AsyncAdapters):
    """What answers requests, under which name."""

    async def apply(self, /, name: str, *, dry_run: bool = False, **fields: Any) -> Record:
        """Create or change a deployment; `fields`: model, task, engine, options, num_replicas, base_url …"""
        params = {"dry_run": "true"} if dry_run else {}
        # The same wish twice is the same wish: repeating is safe.
        body = {"name": name, **given(**fields)}
        return dict(await self._transport.json("POST", "/api/deployments", json=body, params=params, retry=True))

    async def list(self, *, after: str | None = None, limit: int = 100) -> Page:
        """Each with what is desired and what is observed."""
        return await self._transport.page("/api/deployments", after=after, limit=limit)

    async def get(self, name: str) -> Record:
        """One deployment with its replicas."""
        return dict(await self._transport.json("GET", f"/api/deployments/{segment(name)}"))

    async def remove(self, name: str) -> Record:
        """Stop answering under this name; running requests are finished first."""
        return dict(await self._transport.json("DELETE", f"/api/deployments/{segment(name)}") or {})


class AsyncTasks(AsyncRetrieval):
    """What the installed capabilities can do, and asking for it."""

    async def list(self) -> Page:
        """Every task with its capability and mode."""
        return await self._transport.page("/v1/tasks")

    async def schema(self, task: str) -> Record:
        """JSON schemas of the task's input and output."""
        return dict(await self._transport.json("GET", f"/v1/tasks/{segment(task)}/schema"))

    async def invoke(self, task: str, model: str | None, input: Any) -> Record:
        """One answer; for a task of mode job the run that works on it."""
        return dict(
            await self._transport.json("POST", f"/v1/tasks/{segment(task)}", json={**given(model=model), "input": input})
        )

    async def stream(self, task: str, model: str | None, input: Any) -> AsyncGenerator[Record, None]:
        """The outputs of a task of mode stream, as they come."""
        body, headers = {**given(model=model), "input": input}, {"Accept": "application/x-ndjson"}
        outputs = self._transport.events("POST", f"/v1/tasks/{segment(task)}", json=body, headers=headers)
        async with contextlib.aclosing(outputs) as items:
            async for item in items:
                yield item

    async def chat(self, /, model: str, messages: Iterable[Mapping[str, Any]], **fields: Any) -> AsyncGenerator[Record, None]:
        """The chunks of a streamed chat completion in OpenAI's form; closing the iterator stops the generation."""
        body = {"model": model, "messages": list(messages), "stream": True, **given(**fields)}
        chunks = self._transport.events("POST", "/v1/chat/completions", json=body)
        async with contextlib.aclosing(chunks) as items:
            async for item in items:
                yield item


class AsyncServer(AsyncGroup):
    """The server itself."""

    async def health(self) -> Record:
        """Whether it is up; needs no key."""
        return dict(await self._transport.json("GET", "/healthz") or {})

    async def version(self) -> str | None:
        """The server's version, from its health or its OpenAPI document."""
        health = await self.health()
        if health.get("version"):
            return str(health["version"])
        document = await self._transport.json("GET", "/openapi.json")
        found = (document or {}).get("info", {}).get("version")
        return None if found is None else str(found)

    async def ready(self) -> Record:
        """Whether it takes requests; `Unavailable` while it does not."""
        return dict(await self._transport.json("GET", "/readyz", retry=False) or {})

    async def whoami(self) -> Record:
        """The key that is used, its project and scopes."""
        return dict(await self._transport.json("GET", "/api/whoami"))

    async def projects(self) -> Page:
        """The projects that the key may see."""
        return await self._transport.page("/api/projects")

    async def models(self) -> Page:
        """What can be asked by name, as OpenAI lists it."""
        return await self._transport.page("/v1/models")

    async def capabilities(self) -> Page:
        """The installed capabilities."""
        return await self._transport.page("/api/capabilities")

    async def presets(self) -> Page:
        """The curated checkpoints of the installed capabilities."""
        return await self._transport.page("/api/presets")

    async def describe_source(self, source: str, *, revision: str | None = None, kind: str = "model") -> Record:
        """Licence, size and files of a source, before anything is fetched."""
        body = given(source=source, revision=revision, kind=kind)
        return dict(await self._transport.json("POST", "/api/sources/describe", json=body, retry=True))


class AsyncModelworks:
    """The client for asynchronous programs; the arguments are those of `Transport`."""

    def __init__(self, base_url: str | None = None, api_key: str | None = None, **options: Any) -> None:
        self.transport = Transport(base_url, api_key, **options)
        self.blobs = AsyncBlobs(self.transport)
        self.models = AsyncArtifacts(self.transport, "/api/models", "model")
        self.datasets = AsyncArtifacts(self.transport, "/api/datasets", "dataset")
        self.lineage = AsyncLineage(self.transport)
        self.runs = AsyncRuns(self.transport)
        self.evaluations = AsyncEvaluations(self.transport)
        self.evals = AsyncEvals(self.transport)
        self.deployments = AsyncDeployments(self.transport)
        self.keys = AsyncKeys(self.transport)
        self.members = AsyncMembers(self.transport)
        self.secrets = AsyncSecrets(self.transport)
        self.mcp_servers = AsyncMcpServers(self.transport)
        self.spaces = AsyncSpaces(self.transport)
        self.audit = AsyncAudit(self.transport)
        self.usage = AsyncUsage(self.transport)
        self.accounts = AsyncAccounts(self.transport)
        self.tasks = AsyncTasks(self.transport)
        self.server = AsyncServer(self.transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.transport.aclose()


class Blobs(_Shell[AsyncBlobs]):
    """`AsyncBlobs`, waiting."""

    exists = _waits(AsyncBlobs.exists)
    upload = _waits(AsyncBlobs.upload)
    download = _waits(AsyncBlobs.download)
    collect = _waits(AsyncBlobs.collect)
    upload_folder = _waits(AsyncBlobs.upload_folder)


class Artifacts(_Shell[AsyncArtifacts]):
    """`AsyncArtifacts`, waiting."""

    list = _waits(AsyncArtifacts.list)
    get = _waits(AsyncArtifacts.get)
    version = _waits(AsyncArtifacts.version)
    register = _waits(AsyncArtifacts.register)
    add = _waits(AsyncArtifacts.add)
    remove = _waits(AsyncArtifacts.remove)
    set_alias = _waits(AsyncArtifacts.set_alias)
    remove_alias = _waits(AsyncArtifacts.remove_alias)


class Lineage(_Shell[AsyncLineage]):
    """`AsyncLineage`, waiting."""

    graph = _waits(AsyncLineage.graph)
    tree = _waits(AsyncLineage.tree)


class Runs(_Shell[AsyncRuns]):
    """`AsyncRuns`, waiting."""

    submit = _waits(AsyncRuns.submit)
    list = _waits(AsyncRuns.list)
    get = _waits(AsyncRuns.get)
    cancel = _waits(AsyncRuns.cancel)
    resume = _waits(AsyncRuns.resume)
    reproduce = _waits(AsyncRuns.reproduce)
    metrics = _waits(AsyncRuns.metrics)
    events = _yields(AsyncRuns.events)
    logs = _yields(AsyncRuns.logs)
    wait = _waits(AsyncRuns.wait)


class Evaluations(_Shell[AsyncEvaluations]):
    """`AsyncEvaluations`, waiting."""

    list = _waits(AsyncEvaluations.list)
    ensure = _waits(AsyncEvaluations.ensure)
    compare = _waits(AsyncEvaluations.compare)
    promote = _waits(AsyncEvaluations.promote)
    gate = _waits(AsyncEvaluations.gate)
    set_gate = _waits(AsyncEvaluations.set_gate)
    start_canary = _waits(AsyncEvaluations.start_canary)
    end_canary = _waits(AsyncEvaluations.end_canary)
    roll_back = _waits(AsyncEvaluations.roll_back)
    moves = _waits(AsyncEvaluations.moves)


class Evals(_Shell[AsyncEvals]):
    """`AsyncEvals`, waiting."""

    list = _waits(AsyncEvals.list)
    get = _waits(AsyncEvals.get)
    create = _waits(AsyncEvals.create)
    store = _waits(AsyncEvals.store)
    run = _waits(AsyncEvals.run)
    runs = _waits(AsyncEvals.runs)
    get_run = _waits(AsyncEvals.get_run)
    wait = _waits(AsyncEvals.wait)
    items = _waits(AsyncEvals.items)


class Deployments(_Shell[AsyncDeployments]):
    """`AsyncDeployments`, waiting."""

    apply = _waits(AsyncDeployments.apply)
    list = _waits(AsyncDeployments.list)
    get = _waits(AsyncDeployments.get)
    remove = _waits(AsyncDeployments.remove)
    add_adapter = _waits(AsyncDeployments.add_adapter)
    adapters = _waits(AsyncDeployments.adapters)
    remove_adapter = _waits(AsyncDeployments.remove_adapter)


class Tasks(_Shell[AsyncTasks]):
    """`AsyncTasks`, waiting."""

    list = _waits(AsyncTasks.list)
    schema = _waits(AsyncTasks.schema)
    invoke = _waits(AsyncTasks.invoke)
    stream = _yields(AsyncTasks.stream)
    chat = _yields(AsyncTasks.chat)
    embed = _waits(AsyncTasks.embed)
    rerank = _waits(AsyncTasks.rerank)


class Server(_Shell[AsyncServer]):
    """`AsyncServer`, waiting."""

    health = _waits(AsyncServer.health)
    version = _waits(AsyncServer.version)
    ready = _waits(AsyncServer.ready)
    whoami = _waits(AsyncServer.whoami)
    projects = _waits(AsyncServer.projects)
    models = _waits(AsyncServer.models)
    capabilities = _waits(AsyncServer.capabilities)
    presets = _waits(AsyncServer.presets)
    describe_source = _waits(AsyncServer.describe_source)


class Modelworks:
    """The client for programs that wait: every method of `AsyncModelworks`, run on a private event loop."""

    def __init__(self, base_url: str | None = None, api_key: str | None = None, **options: Any) -> None:
        core = AsyncModelworks(base_url, api_key, **options)
        self._loop = loop = Loop()
        self.transport = core.transport
        self.blobs = Blobs(core.blobs, loop)
        self.models = Artifacts(core.models, loop)
        self.datasets = Artifacts(core.datasets, loop)
        self.lineage = Lineage(core.lineage, loop)
        self.runs = Runs(core.runs, loop)
        self.evaluations = Evaluations(core.evaluations, loop)
        self.evals = Evals(core.evals, loop)
        self.deployments = Deployments(core.deployments, loop)
        self.keys = Keys(core.keys, loop)
        self.members = Members(core.members, loop)
        self.secrets = Secrets(core.secrets, loop)
        self.mcp_servers = McpServers(core.mcp_servers, loop)
        self.spaces = Spaces(core.spaces, loop)
        self.audit = Audit(core.audit, loop)
        self.usage = Usage(core.usage, loop)
        self.accounts = Accounts(core.accounts, loop)
        self.tasks = Tasks(core.tasks, loop)
        self.server = Server(core.server, loop)

    def close(self) -> None:
        """Close every connection and end the private event loop."""
        self._loop.run(self.transport.aclose())
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
