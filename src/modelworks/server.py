"""The composition root: the only file that wires the rooms together."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from secrets import token_urlsafe

import structlog
import uvicorn
from fastapi import FastAPI
from sqlalchemy import text
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp
from uvicorn.loops.auto import auto_loop_factory

from modelworks import __version__
from modelworks.contract.errors import Conflict, InvalidRequest, ModelworksError
from modelworks.kernel import gateway
from modelworks.kernel.access import (
    AccessService,
    Admission,
    Allowances,
    AuditLog,
    Ledger,
    MemberService,
    OidcSignIn,
    Prices,
    Sealer,
    SecretService,
    SessionService,
    UsageRecorder,
    account_routes,
    audit_routes,
    member_routes,
    oidc_routes,
    secret_routes,
    session_routes,
)
from modelworks.kernel.access import routes as access_routes
from modelworks.kernel.base import revision, telemetry
from modelworks.kernel.base.clock import Clock, SystemClock
from modelworks.kernel.base.database import Database
from modelworks.kernel.base.events import Events
from modelworks.kernel.base.lock import ServerLock
from modelworks.kernel.base.memory import keep_memory_together
from modelworks.kernel.base.settings import Settings, load_settings
from modelworks.kernel.catalog import CatalogService, pages
from modelworks.kernel.catalog import routes as catalog_routes
from modelworks.kernel.catalog.sources import SourcePolicy
from modelworks.kernel.dataspace import DataspaceService, SourceService, SourceSteps, publication_routes, source_routes
from modelworks.kernel.dataspace import routes as dataspace_routes
from modelworks.kernel.gateway import (
    BatchService,
    BatchSteps,
    ConversationService,
    Door,
    Drain,
    DrainingServer,
    EvalService,
    EvalSteps,
    FileService,
    FineTuningService,
    GatewayService,
    Measuring,
    Publishing,
    ResponseService,
    ResponseSteps,
    SpaceDoor,
    SpaceForgetting,
    SpaceSteps,
    ToolRegister,
    ToolServers,
    TuningSteps,
)
from modelworks.kernel.gateway.forwarding import Behind, Forward
from modelworks.kernel.gateway.mcp import register_routes
from modelworks.kernel.gateway.processes import GatewayProcesses, command_of, listen, listeners, url_of
from modelworks.kernel.gateway.protocol import GuardedProtocol
from modelworks.kernel.gateway.spaces import forgetting_routes
from modelworks.kernel.gateway.spaces.probing import IndexProbe
from modelworks.kernel.jobs import Executor, JobsService, LocalExecutor, RunDeployments, Supervisor
from modelworks.kernel.jobs import routes as jobs_routes
from modelworks.kernel.serving import ReplicaPool
from modelworks.kernel.serving import routes as serving_routes
from modelworks.kernel.serving.backends.choice import make_backends
from modelworks.kernel.serving.reconciler import Reconciler
from modelworks.kernel.serving.resolver import GuardedResolver
from modelworks.kernel.serving.service import ServingService
from modelworks.kernel.serving.sharing import LINE_BYTES, Hub, Spoke
from modelworks.kernel.storage import BlobStore, LinkSigner, ReportSigner, referenced_by
from modelworks.kernel.storage import routes as storage_routes

log = structlog.get_logger(__name__)

#: What is cancelled at the end of a server's time gets so long to end.
_CANCEL_S = 2
_LOCK_LOOK_S = 5.0
#: Holds the word by which the processes of one server know each other.
_WORD = "MODELWORKS_GATEWAY_WORD"


@dataclass(kw_only=True)
class Platform:
    """The rooms of one server, opened and not yet started."""

    settings: Settings
    db: Database
    clock: Clock
    events: Events
    blobs: BlobStore
    signer: LinkSigner
    access: AccessService
    audit: AuditLog
    secrets: SecretService
    sealer: Sealer
    usage: UsageRecorder
    accounts: Admission
    catalog: CatalogService
    jobs: JobsService
    supervisor: Supervisor
    serving: ServingService
    pool: ReplicaPool
    #: None in a further process of the same server, which answers requests and does nothing else.
    reconciler: Reconciler | None
    spaces: DataspaceService
    space_steps: SpaceSteps
    forgetting: SpaceForgetting
    index_probe: IndexProbe
    source_steps: SourceSteps
    files: FileService
    tuning: FineTuningService
    tuning_steps: TuningSteps
    evals: EvalService
    eval_steps: EvalSteps
    tool_register: ToolRegister
    responses: ResponseService
    response_steps: ResponseSteps
    batches: BatchService
    batch_steps: BatchSteps
    lock: ServerLock
    drain: Drain = field(default_factory=Drain)
    #: The further processes, started with the first one.
    beside: GatewayProcesses | None = None
    closing: ExitStack = field(default_factory=ExitStack)
    _guard: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to follow runs and to make deployments so; call it in the server's event loop."""
        await self.pool.start()
        self.usage.start()
        if self.reconciler is None:
            return
        self.supervisor.start()
        self.reconciler.start()
        self.index_probe.bind(asyncio.get_running_loop())
        for steps in (self.tuning_steps, self.space_steps, self.forgetting, self.source_steps):
            steps.start()
        self.eval_steps.start()
        self.response_steps.start()
        self.batch_steps.start()
        self._guard = asyncio.create_task(self._guard_lock())
        if self.beside is not None:
            self.beside.start()

    async def _guard_lock(self) -> None:
        """End this server when another one took over its database: two supervisors would start every run twice."""
        while True:
            await asyncio.sleep(_LOCK_LOOK_S)
            try:
                await run_in_threadpool(self.lock.renew)
            except Conflict as error:
                log.critical("another server took over the database: this one stops", reason=error.message)
                signal.raise_signal(signal.SIGTERM)
                return
            except ModelworksError as error:
                log.warning("the lock on the database cannot be renewed", reason=error.message)

    async def quiesce(self) -> None:
        """The server will stop: begin nothing in the background; returns when what must not be broken off is over."""
        parts = [self.eval_steps.stop(), self.batch_steps.stop(), self.response_steps.rest()]
        if self.beside is not None:
            parts.append(self.beside.stop())
        await asyncio.gather(*parts)

    async def stop(self) -> None:
        """End the replicas of this machine and stop following runs; runs go on and are taken over by the next server."""
        if self.reconciler is None:
            await self.pool.close()
            await run_in_threadpool(self.close)
            return
        if self._guard is not None:
            self._guard.cancel()
        if self.beside is not None:
            self.beside.kill()
        await self.eval_steps.stop()
        await self.batch_steps.stop()
        await self.response_steps.stop()
        for steps in (self.tuning_steps, self.space_steps, self.forgetting, self.source_steps):
            await run_in_threadpool(steps.stop)
        await run_in_threadpool(self.reconciler.close)
        await run_in_threadpool(self.supervisor.stop)
        await self.pool.close()
        await run_in_threadpool(self.close)

    def close(self) -> None:
        """Write what waits, close connections, release the lock. May be called twice."""
        self.closing.close()

    def referenced(self, digests: Collection[str]) -> set[str]:
        """Those of the blobs that a version, a run, a document or a file needs: what the garbage collection must leave."""
        return referenced_by(self.catalog, self.jobs, self.spaces, self.source_steps.sources, self.files, self.batches)(digests)

    def metrics(self) -> bytes:
        """The page that Prometheus reads, with gauges as of now."""
        try:
            with self.db.reading() as session:
                runs, replicas = self.jobs.counts(session), self.serving.counts(session)
        except ModelworksError as error:
            # Without the database the rest of the page is needed all the more.
            log.warning("runs and replicas cannot be counted", reason=error.message)
            return telemetry.metrics_response()
        for gauge, counts in ((telemetry.RUNS, runs), (telemetry.REPLICAS, replicas)):
            gauge.clear()
            for state, number in counts.items():
                gauge.labels(state).set(number)
        return telemetry.metrics_response()

    def problems(self) -> Mapping[str, str]:
        """What keeps this server from being ready, by part."""
        found: dict[str, str] = {}
        if self.drain.is_stopping:
            found["server"] = "It is stopping."
        try:
            with self.db.reading() as session:
                session.execute(text("SELECT 1"))
        except Exception as error:
            found["database"] = error.message if isinstance(error, ModelworksError) else type(error).__name__
        return found


def create_platform(settings: Settings, *, is_further: bool = False, is_lasting: bool = False) -> Platform:
    """Open every room: take the lock, bring the database up to date (with a backup), make the first key.

    Args:
        is_further: for a further process of a server: the first one has done all that, and follows runs and deployments.
        is_lasting: for a server that stays: what only its start needs is done by another process.

    Raises:
        InvalidRequest: the home folder cannot be written, or a setting does not fit.
        Conflict: another server runs on the same database.
        ModelworksError: a migration failed (`migration_failed`) or the database is newer than the code (`database_newer`).
    """
    settings.prepare_home()
    with ExitStack() as opening:
        opening.callback(telemetry.setup_tracing(settings))
        db = Database(settings.effective_database_url)
        opening.callback(db.dispose)
        lock = ServerLock(settings, db)
        if not is_further:
            lock.acquire()
            opening.callback(lock.release)
            report = revision.upgrade(db, settings.home, apart=is_lasting)
            if report.applied:
                log.info("database migrated", applied=list(report.applied), backup=report.backup)
        clock, events = SystemClock(), Events()
        blobs = BlobStore(settings.effective_storage_url, settings.storage_options)
        audit = AuditLog(db, clock)  # before anything is changed
        access = AccessService(db, clock, events)
        if not is_further:
            with db.transaction() as session:
                access.bootstrap(session, settings.home)
        sealer = Sealer.from_file(settings.effective_secret_key_file)
        secrets = SecretService(db, clock, sealer)
        usage = UsageRecorder(db, Ledger(clock, lease_s=settings.reservation_lease_s))
        opening.callback(usage.close)
        accounts = Admission(db, usage, clock, events)
        catalog = CatalogService(db, blobs, clock, events, settings)
        jobs = JobsService(db, catalog, blobs, clock, events, settings)
        serving = ServingService(db, catalog, clock, events, settings)
        local_url, remote_url = settings.local_url, settings.public_url or settings.local_url
        jobs.connect(RunDeployments(access, serving, clock, url=local_url, remote_url=remote_url))
        spaces = DataspaceService(db, jobs, clock, events)
        opening.callback(spaces.answers.close)
        sources = SourceService(spaces, jobs, catalog, blobs, secrets.value, SourcePolicy.of(settings), clock, events)
        files = FileService(db, catalog, blobs, clock, max_bytes=settings.max_file_bytes)
        tuning = FineTuningService(db, jobs, catalog, serving, files, clock, project_name=access.project_name)
        pool = ReplicaPool(
            max_queue=settings.max_queue,
            load_wait_s=settings.load_wait_s,
            queue_wait_s=settings.queue_wait_s,
            resolver=GuardedResolver(settings.egress_allow),
        )
        pool.on_unknown(tuning.kept.when_asked)
        cache, probe = settings.home / "cache" / "versions", IndexProbe(pool)
        space_steps = SpaceSteps(spaces, jobs, catalog, serving, blobs, events, cache)
        # Models that evals ask are asked as clients ask them.
        asked = GatewayService(
            access=access,
            usage=usage,
            accounts=accounts,
            pool=pool,
            db=db,
            jobs=jobs,
            catalog=catalog,
            clock=clock,
            spaces=SpaceDoor(spaces, tables=space_steps.tables),
        )
        evals = EvalService(db, asked, files, clock, base_url=settings.public_url or settings.local_url)
        life = timedelta(days=settings.response_days)
        tool_servers = ToolServers(settings.egress_allow, timeout_s=settings.tool_timeout_s)
        tool_register = ToolRegister(db, clock, tool_servers, secrets.value, settings.egress_allow)
        responses = ResponseService(
            db, ConversationService(db, clock), clock, life=life, tool_servers=tool_servers, register=tool_register
        )
        response_steps = ResponseSteps(responses, asked, access.principal_of, events)
        batches = BatchService(db, files, clock)
        forgetting = SpaceForgetting(
            spaces,
            jobs,
            catalog,
            blobs,
            space_steps.learning,
            events,
            clock,
            signer=ReportSigner(settings.home / "report.key"),
            drop_file=files.delete,
            referenced=referenced_by(catalog, jobs, spaces, sources, files, batches),
            cache=cache,
            ask=probe,
        )
        door = Door(asked, responses, response_steps, max_body_bytes=settings.max_body_bytes)
        return Platform(
            settings=settings,
            db=db,
            clock=clock,
            events=events,
            blobs=blobs,
            signer=LinkSigner.from_home(settings.home),
            access=access,
            audit=audit,
            secrets=secrets,
            sealer=sealer,
            usage=usage,
            accounts=accounts,
            catalog=catalog,
            jobs=jobs,
            supervisor=Supervisor(jobs, make_executor(settings), db, settings, events, clock),
            serving=serving,
            pool=pool,
            reconciler=None
            if is_further
            else Reconciler(
                db,
                catalog,
                clock,
                events,
                settings,
                pool,
                make_backends(settings, secrets.value),
                open_secret=secrets.value,
            ),
            spaces=spaces,
            source_steps=SourceSteps(sources, jobs, catalog, blobs, clock, events),
            space_steps=space_steps,
            forgetting=forgetting,
            index_probe=probe,
            files=files,
            tuning=tuning,
            tuning_steps=TuningSteps(tuning, jobs, catalog, files, clock, events),
            evals=evals,
            eval_steps=EvalSteps(evals, asked, files, Measuring(db, catalog, files)),
            tool_register=tool_register,
            responses=responses,
            response_steps=response_steps,
            batches=batches,
            batch_steps=BatchSteps(batches, door, blobs, access.principal_of, questions=settings.batch_questions),
            lock=lock,
            closing=opening.pop_all(),
        )


def make_executor(settings: Settings) -> Executor:
    """Where runs are executed, by the settings.

    Raises:
        InvalidRequest: Ray is wanted and its address is not set.
    """
    if settings.executor == "local":
        return LocalExecutor(settings.home)
    from modelworks.kernel.jobs.executors.ray import RayExecutor

    if settings.ray_address is None:
        raise InvalidRequest(
            "The executor ray needs to know where the cluster is.",
            hint="Set MODELWORKS_RAY_ADDRESS to the address of the dashboard, e.g. http://127.0.0.1:8265.",
            code="missing_setting",
        )
    return RayExecutor(settings.ray_address, settings.public_url or settings.local_url)


def create_app(platform: Platform) -> FastAPI:
    """The web application over an opened platform; its lifespan starts and stops the platform."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await platform.start()
        try:
            yield
        finally:
            await platform.stop()

    settings = platform.settings
    app = FastAPI(
        title="Modelworks",
        version=__version__,
        summary="A private large-model platform: catalog, runs, deployments and an OpenAI-compatible API.",
        lifespan=lifespan,
        docs_url=None,  # the usual page loads its scripts from a foreign host
        redoc_url=None,
        redirect_slashes=False,
    )
    gateway.install(
        app,
        GatewayService(
            access=platform.access,
            usage=platform.usage,
            accounts=platform.accounts,
            pool=platform.pool,
            db=platform.db,
            jobs=platform.jobs,
            catalog=platform.catalog,
            clock=platform.clock,
            spaces=SpaceDoor(
                platform.spaces, platform.space_steps.learning, platform.space_steps.cleaning, platform.space_steps.tables
            ),
            keep_alive_s=settings.keep_alive_s,
            problems=platform.problems,
            metrics=platform.metrics,
            version=__version__,
        ),
        max_body_bytes=settings.max_body_bytes,
        files=platform.files,
        tuning=platform.tuning,
        evals=platform.evals,
        batches=platform.batches,
        responses=platform.responses,
        response_steps=platform.response_steps,
        publishing=Publishing(platform.spaces, platform.blobs, platform.signer, platform.clock, settings.public_url),
        cors_origins=settings.cors_origins,
        observe=_observe,
        drain=platform.drain,
    )
    principal = access_routes.principal_dependency(platform.access)
    app.include_router(access_routes.router(platform.access, principal))
    app.include_router(member_routes.router(MemberService(platform.access, platform.clock, platform.events), principal))
    sessions = SessionService(platform.access, platform.clock, platform.events)
    secure = (settings.public_url or "").startswith("https://")
    app.include_router(session_routes.router(sessions, principal, secure=secure))
    oidc = OidcSignIn.from_settings(settings, sessions, platform.sealer, platform.clock)
    app.include_router(oidc_routes.router(oidc, secure=secure))
    app.include_router(secret_routes.router(platform.secrets, principal))
    app.include_router(register_routes.router(platform.tool_register, principal))
    app.include_router(audit_routes.router(platform.audit, platform.access, principal))
    allowances, prices = Allowances(platform.clock, platform.events), Prices(platform.clock, platform.events)
    app.include_router(account_routes.router(platform.access, allowances, prices, principal))
    app.include_router(
        storage_routes.router(
            platform.blobs,
            platform.signer,
            principal,
            clock=platform.clock,
            max_blob_bytes=settings.max_blob_bytes,
            referenced=platform.referenced,
            public_url=settings.public_url,
        )
    )
    app.include_router(catalog_routes.router(platform.catalog, platform.db, principal))
    app.include_router(pages.router())
    app.include_router(jobs_routes.router(platform.jobs, principal))
    app.include_router(dataspace_routes.router(platform.spaces, platform.blobs, platform.files.stored, principal))
    app.include_router(source_routes.router(platform.source_steps.sources, principal))
    app.include_router(forgetting_routes.router(platform.access, platform.forgetting, platform.serving))
    app.include_router(publication_routes.router(platform.spaces, principal, public_url=settings.public_url))
    app.include_router(serving_routes.router(platform.serving, platform.db, platform.blobs, principal))
    return app


def _observe(method: str, route: str, status: int, seconds: float) -> None:
    telemetry.HTTP_REQUESTS.labels(method, route, str(status)).inc()
    telemetry.HTTP_DURATION.labels(method, route).observe(seconds)


def serve(settings: Settings) -> None:
    """Run the platform until it is told to stop (SIGINT, SIGTERM); see `DrainingServer`.

    Raises:
        Conflict: the port is taken, or another server runs on the same database.
        ModelworksError: see `create_platform`.
    """
    keep_memory_together()
    telemetry.configure_logging(settings)
    settings.prepare_home()
    opened = listen(settings)
    settings = settings.model_copy(update={"port": opened[0].getsockname()[1]})
    with ExitStack() as closing:
        for listener in opened:
            closing.callback(listener.close)
        platform = create_platform(settings, is_lasting=True)
        closing.callback(platform.close)
        app: ASGIApp = create_app(platform)
        mine = [opened[0]]
        if len(opened) > 1:
            # Where the others pass on what only this process handles.
            inner = listeners("127.0.0.1", 0, 1)[0]
            closing.callback(inner.close)
            mine.append(inner)
            word = token_urlsafe(32)
            app = Behind(app, word)
            command = command_of(str(settings.home), settings.host, settings.port, url_of(inner))
            hub = Hub(platform.pool, platform.events)
            platform.beside = GatewayProcesses(command, {_WORD: word}, opened[1:], hub.attend, LINE_BYTES)
        server = DrainingServer(listening(app, settings), platform.drain, limit_s=settings.shutdown_s, quiesce=platform.quiesce)
        print(f"Modelworks {__version__} at {settings.local_url} (home: {settings.home})", file=sys.stderr, flush=True)
        server.run(sockets=mine)


async def answer_beside(settings: Settings, inner_url: str, listener: socket.socket, channel: socket.socket) -> None:
    """Run a further process of a server until it is told to stop, or the first one is gone.

    Args:
        inner_url: where the first process takes what only it handles.
        listener: for requests. channel: the end of a socket pair; see `serving/sharing.py`.
    """
    platform = create_platform(settings, is_further=True)
    try:
        spoke = Spoke(platform.pool, platform.events)
        reader, writer = await asyncio.open_connection(sock=channel, limit=LINE_BYTES)
        told = asyncio.Event()
        following = asyncio.create_task(spoke.attend(reader, writer, told.set))
        knowing = asyncio.create_task(told.wait())
        await asyncio.wait([following, knowing], return_when=asyncio.FIRST_COMPLETED)
        app = Forward(create_app(platform), inner_url, os.environ[_WORD], platform.drain)
        # The first process breaks off what is left after its own time.
        limit_s = max(0.0, settings.shutdown_s - _CANCEL_S - 1)
        server = DrainingServer(listening(app, settings), platform.drain, limit_s=limit_s)

        def lost(_task: asyncio.Task[None]) -> None:
            # Without the first process there are no replicas.
            for _ in range(2):
                server.handle_exit(signal.SIGTERM, None)

        following.add_done_callback(lost)
        await server.serve(sockets=[listener])
        following.remove_done_callback(lost)
        following.cancel()
        await app.close()
    finally:
        platform.close()


def main(argv: list[str]) -> None:
    """`python -m modelworks.server HOME HOST PORT INNER_URL LISTENER CHANNEL`, started by the first process of a server."""
    home, host, port, inner_url, listener, channel = argv
    os.environ["MODELWORKS_HOME"] = home
    settings = load_settings(host=host, port=int(port))
    telemetry.configure_logging(settings)
    sockets = [socket.socket(fileno=int(each)) for each in (listener, channel)]
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        runner.run(answer_beside(settings, inner_url, *sockets))


def listening(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """How the server speaks HTTP."""
    return uvicorn.Config(
        app,
        http=GuardedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # Otherwise whoever connects from this machine could name any address as the caller's.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_graceful_shutdown=_CANCEL_S,
        timeout_keep_alive=75,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
