"""`doctor`: looks at this machine and says what would keep the platform from working, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import site
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import typer

from modelworks import __version__
from modelworks.cli.output import Column, Format, Output, note, print_json, show_list, size_text, table
from modelworks.cli.server import missing_server, mistyped, settings_from
from modelworks.contract.errors import ModelworksError

State = Literal["ok", "note", "warning", "failure"]

_LEAST_FREE_BYTES = 5 << 30
_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)[^;]*;.*extra == ['\"]([\w-]+)['\"]")
_PROBE = b"modelworks doctor\n"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `failure` means the platform cannot work like this."""

    check: str
    state: State
    detail: str
    hint: str | None = None


SETTING_COLUMNS: list[Column] = [("SETTING", "name"), ("VALUE", "value"), ("FROM", "origin")]


def doctor(output: Output = Format.table) -> None:
    """Check what the platform needs on this machine.

    Shows every setting with its origin, and looks at the home folder, disk, database, storage, port, extras, executors, what
    isolates generated code, code that runs at every start of Python, and the clock. Exits with 1 when something would keep the
    platform from working.
    """
    settings: Any = None
    rows: list[dict[str, Any]] = []
    findings = [Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}, modelworks {__version__}")]
    try:
        from modelworks.kernel.base.settings import describe

        settings = settings_from({})
        rows = describe(settings)
        findings += [
            Finding("settings", "note", f"{variable} is no setting and has no effect.", f"Is {meant} meant?")
            for variable, meant in mistyped().items()
        ]
    except ModuleNotFoundError as error:
        absent = missing_server(error)
        findings.append(Finding("server", "note", "not installed: this is a client", absent.hint))
    except ModelworksError as error:
        findings.append(Finding("settings", "failure", error.message, error.hint))
    findings += [finding for look in LOOKS for finding in _looked(look, settings)]
    if output is Format.json:
        print_json({"settings": rows, "findings": [asdict(finding) for finding in findings]})
    else:
        if output is Format.table:
            if rows:
                show_list(rows, SETTING_COLUMNS, output)
                typer.echo("")
            for finding, line in zip(
                findings, table([[found.state, found.check, found.detail] for found in findings]), strict=True
            ):
                typer.echo(line)
                if finding.hint:
                    typer.echo(f"{'':9}{finding.hint}")
        else:
            show_list([asdict(finding) for finding in findings], [], output, name="check")
    failures = [finding for finding in findings if finding.state == "failure"]
    if failures:
        note("")
        for finding in failures:
            note(f"{finding.check}: {finding.detail} {finding.hint or ''}".rstrip())
        raise typer.Exit(1)


def _looked(look: Callable[[Any], Iterator[Finding]], settings: Any) -> list[Finding]:
    """What a check found; a check that itself breaks is a finding, not the end of the examination."""
    try:
        return list(look(settings))
    except Exception as error:
        return [Finding(look.__name__.removeprefix("look_at_"), "failure", f"{type(error).__name__}: {error}")]


def _home(settings: Any) -> Path:
    from modelworks.client.transport import home_folder

    return Path(settings.home) if settings is not None else home_folder()


def look_at_home(settings: Any) -> Iterator[Finding]:
    """The home folder: there or creatable, writable, private."""
    home = _home(settings)
    parent = next(folder for folder in (home, *home.parents) if folder.exists())
    if not os.access(parent, os.W_OK | os.X_OK) or not parent.is_dir():
        yield Finding("home", "failure", f"{home} cannot be written.", "Give a writable folder with MODELWORKS_HOME.")
    elif parent != home:
        yield Finding("home", "ok", f"{home} does not exist yet; it will be made.")
    elif home.stat().st_mode & 0o077:
        yield Finding("home", "warning", f"{home} can be read by other users.", f"chmod 700 {home}")
    else:
        yield Finding("home", "ok", str(home))


def look_at_disk(settings: Any) -> Iterator[Finding]:
    """Free space where the home folder is."""
    home = _home(settings)
    parent = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(parent).free
    enough = free >= _LEAST_FREE_BYTES
    found = f"{size_text(free)} free at {parent}"
    yield Finding("disk", "ok", found) if enough else Finding("disk", "warning", found, "Models are large: free some space.")


def look_at_database(settings: Any) -> Iterator[Finding]:
    """The database answers and has this version's tables; an SQLite file that is not there is not created."""
    if settings is None:
        return
    from modelworks.kernel.base.database import Database

    url = settings.effective_database_url
    file = Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None
    if file is not None and not file.exists():
        yield Finding("database", "ok", f"{file} does not exist yet; it will be made.")
        return
    db = Database(url)
    try:
        from modelworks.kernel.base.revision import current, head

        present, newest = current(db), head()
    except ModelworksError as error:
        yield Finding("database", "failure", error.message, error.hint)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        yield Finding("database", "failure", f"It does not answer: {reason}", "Check MODELWORKS_DATABASE_URL and its server.")
    else:
        if present is None:
            yield Finding("database", "ok", "reachable, still empty")
        elif present == newest:
            yield Finding("database", "ok", f"reachable, at migration {present}")
        else:
            yield Finding(
                "database", "note", f"at migration {present}, newest is {newest}: it is backed up and migrated at start."
            )
    finally:
        db.dispose()


def look_at_storage(settings: Any) -> Iterator[Finding]:
    """A small blob can be written, read and deleted."""
    if settings is None:
        return
    url = settings.effective_storage_url
    if "://" not in url and not Path(url).exists():
        yield Finding("storage", "ok", f"{url} does not exist yet; it will be made.")
        return
    from modelworks.kernel.storage import BlobStore

    try:
        store = BlobStore(url, settings.storage_options or None)
        blob = store.put(_PROBE + os.urandom(8))  # random, so that deleting it cannot take anybody else's blob
        try:
            store.read(blob.digest, max_bytes=1024)
        finally:
            store.delete(blob.digest)
    except ModelworksError as error:
        yield Finding("storage", "failure", error.message, error.hint)
    except Exception as error:
        yield Finding("storage", "failure", f"{url}: {error}", "Check MODELWORKS_STORAGE_URL and MODELWORKS_STORAGE_OPTIONS.")
    else:
        yield Finding("storage", "ok", f"{url} can be written and read")


def look_at_port(settings: Any) -> Iterator[Finding]:
    """The port is free, or used by our server, or by whom."""
    if settings is None or settings.port == 0:
        return
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            holder = _holder_of(settings.port)
            if _is_ours(settings.local_url):
                yield Finding("port", "ok", f"{where}: a Modelworks server answers there{holder}")
            else:
                hint = "Stop that program, or choose another port with MODELWORKS_PORT."
                yield Finding("port", "failure", f"{where} cannot be used: {error.strerror}{holder}.", hint)
        else:
            yield Finding("port", "ok", f"{settings.host}:{settings.port} is free")


def _holder_of(port: int) -> str:
    with suppress(Exception):  # seeing other users' processes may be forbidden
        import psutil

        for connection in psutil.net_connections("tcp"):
            address = connection.laddr
            if connection.status == psutil.CONN_LISTEN and address and address.port == port and connection.pid:
                return f" (process {connection.pid}, {psutil.Process(connection.pid).name()})"
    return ""


def _is_ours(url: str) -> bool:
    import httpx

    with suppress(httpx.HTTPError):
        return httpx.get(f"{url}/healthz", timeout=2.0, trust_env=False).status_code == 200
    return False


def look_at_extras(_settings: Any) -> Iterator[Finding]:
    """Which extras are installed, and with what."""
    wanted: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("modelworks") or []:
        match = _REQUIREMENT.match(requirement)
        if match and match[1].lower() != "modelworks" and match[2] != "dev":
            wanted.setdefault(match[2], []).append(match[1])
    for extra, names in sorted(wanted.items()):
        found, absent = [], []
        for name in names:
            try:
                found.append(f"{name} {importlib.metadata.version(name)}")
            except importlib.metadata.PackageNotFoundError:
                absent.append(name)
        if not absent:
            yield Finding(f"extra {extra}", "ok", ", ".join(found))
        else:
            detail = "not installed" if not found else f"incomplete: {', '.join(absent)} missing"
            yield Finding(f"extra {extra}", "note", detail, f'pip install "modelworks[{extra}]"')


def look_at_executors(settings: Any) -> Iterator[Finding]:
    """Where runs and replicas would be executed, and whether that can be reached."""
    if settings is None:
        return
    cores = settings.slots_cpu or os.cpu_count() or 1
    chosen = f"runs: {settings.executor}, replicas: {settings.serving_backend}"
    yield Finding("executor", "ok", f"{chosen}; {cores:g} cores for runs, {settings.slots_gpu:g} accelerators")
    wanted = settings.executor == "ray" or settings.serving_backend == "ray-serve"
    for name, url, path, needed in (
        ("ray jobs", settings.ray_address, "/api/version", settings.executor == "ray"),
        ("ray serve", settings.ray_serve_url, "/-/healthz", settings.serving_backend == "ray-serve"),
    ):
        variable = "MODELWORKS_RAY_ADDRESS" if name == "ray jobs" else "MODELWORKS_RAY_SERVE_URL"
        if url:
            yield _reach(name, url, path, needed=needed)
        elif wanted and needed:
            yield Finding(name, "failure", "no address is set", f"Set {variable}.")


def _reach(name: str, url: str, path: str, *, needed: bool) -> Finding:
    import httpx

    try:
        status = httpx.get(url.rstrip("/") + path, timeout=3.0, trust_env=False).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Finding(name, "failure" if needed else "warning", f"{url}: {error}", "Check the cluster and the address.")
    return Finding(name, "ok" if status == 200 else "warning", f"{url} answers with status {status}")


def look_at_sandbox(_settings: Any) -> Iterator[Finding]:
    """What isolates programs that a model wrote."""
    from modelworks.capabilities.text.sandbox import active_layers

    layers = active_layers()
    if layers is not None:
        yield Finding("sandbox", "ok", f"generated code is isolated by {', '.join(layers)}")
    else:
        hint = "It takes Linux with user namespaces, or with Landlock (6.2 or newer) and seccomp; a container may forbid both."
        yield Finding("sandbox", "note", "nothing here isolates generated code: it is not run.", hint)


def look_at_hooks(_settings: Any) -> Iterator[Finding]:
    """Files in site-packages that run code whenever any Python of this environment starts."""
    hooks = []
    for folder in {Path(path) for path in [*site.getsitepackages(), site.getusersitepackages()]}:
        for file in sorted(folder.glob("*.pth")) if folder.is_dir() else []:
            with suppress(OSError):
                lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
                if any(line.startswith(("import ", "import\t")) for line in lines):
                    hooks.append(file.name)
    if hooks:
        yield Finding(
            "start hooks",
            "note",
            f"{', '.join(hooks)} in {sys.prefix}",
            "They run at every start of Python: know them.",
        )
    else:
        yield Finding("start hooks", "ok", "none")


def look_at_clock(settings: Any) -> Iterator[Finding]:
    """The clock is plausible and agrees with that of the disk (a network disk may have its own)."""
    home = _home(settings)
    installed = Path(__file__).stat().st_mtime
    if time.time() < installed - 86_400:
        yield Finding(
            "clock",
            "failure",
            "It is before this program's installation.",
            "Set it: keys expire by it.",
        )
        return
    writable = home if home.is_dir() and os.access(home, os.W_OK) else None
    with tempfile.NamedTemporaryFile(dir=writable, prefix=".probe-") as file:
        skew = os.fstat(file.fileno()).st_mtime - time.time()
    if abs(skew) > 5:
        yield Finding("clock", "warning", f"The disk's clock differs by {skew:.0f} s.", "Synchronise both machines (NTP).")
    else:
        yield Finding("clock", "ok", time.strftime("%Y-%m-%dT%H:%M:%S%z"))


LOOKS: tuple[Callable[[Any], Iterator[Finding]], ...] = (
    look_at_home,
    look_at_disk,
    look_at_database,
    look_at_storage,
    look_at_port,
    look_at_extras,
    look_at_executors,
    look_at_sandbox,
    look_at_hooks,
    look_at_clock,
)


def add_to(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(doctor)
