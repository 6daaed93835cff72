"""Which capabilities are installed: found by entry point, ours and third parties' alike."""

from __future__ import annotations

import difflib
import importlib
import sys
import threading
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata, resources

import structlog
from pydantic import ValidationError

from modelworks.contract.capability import ENTRY_POINT_GROUP, Capability, ImportPath, Task
from modelworks.contract.errors import InvalidRequest, MissingExtra, NotFound
from modelworks.kernel.base.imports import importing
from modelworks.kernel.catalog.schemas import Preset

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Found:
    capabilities: dict[str, Capability] = field(default_factory=dict)
    #: Entry points that could not be loaded: name -> reason.
    broken: dict[str, str] = field(default_factory=dict)
    #: Package of a capability -> the distribution that brings it.
    distributions: dict[str, str] = field(default_factory=dict)


_lock = threading.Lock()
_found: _Found | None = None
#: Capabilities that were looked for by name before everything was.
_alone: dict[str, _Found] = {}


def capabilities() -> dict[str, Capability]:
    """Every capability by name. One that cannot be imported is left out, logged, and listed by `broken`."""
    return dict(_discover().capabilities)


def broken() -> dict[str, str]:
    """Entry points that could not be loaded, with the reason."""
    return dict(_discover().broken)


def refresh() -> None:
    """Forget what was found: the next call looks again (a capability was installed meanwhile)."""
    global _found
    importlib.invalidate_caches()
    with _lock:
        _found = None
        _alone.clear()


def find_task(capability: str | None, task: str) -> tuple[Capability, Task]:
    """The task and the capability that declares it.

    Args:
        capability: looked in alone where given, and no other one is imported for it: what a process of one run or one replica
            does. Otherwise every capability is looked in, and the first by name wins.

    Raises:
        NotFound: no such capability (code `capability_not_found`) or task (`task_not_found`); names the known ones.
    """
    if capability is not None and (single := _one(capability)) is not None and (found := single.task(task)) is not None:
        return single, found
    known = capabilities()
    if capability is not None and capability not in known:
        reason = broken().get(capability)
        raise NotFound(
            f"There is no capability {capability!r}." if reason is None else f"Capability {capability!r} is broken: {reason}.",
            hint=_known("capabilities", capability, sorted(known)),
            param="capability",
            code="capability_not_found",
        )
    candidates = [known[capability]] if capability is not None else [known[name] for name in sorted(known)]
    for candidate in candidates:
        if (found := candidate.task(task)) is not None:
            return candidate, found
    names = sorted({each.name for candidate in candidates for each in candidate.tasks})
    where = f"Capability {capability!r} has" if capability is not None else "There is"
    raise NotFound(f"{where} no task {task!r}.", hint=_known("tasks", task, names), param="task", code="task_not_found")


def presets(capability: Capability | str) -> list[Preset]:
    """The curated checkpoints of a capability, from `presets.toml` in its package; none where it has no such file.

    Raises:
        NotFound: no such capability.
        InvalidRequest: the file is not valid TOML or a preset lacks a field (code `invalid_preset`).
    """
    if isinstance(capability, str):
        known = capabilities()
        if capability not in known:
            raise NotFound(
                f"There is no capability {capability!r}.",
                hint=_known("capabilities", capability, sorted(known)),
                code="capability_not_found",
            )
        capability = known[capability]
    file = resources.files(capability.package).joinpath("presets.toml")
    if not file.is_file():
        return []
    where = f"presets.toml of capability {capability.name!r}"
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The {where} is not valid TOML: {error}.", code="invalid_preset") from error
    # Two spellings of the same: an array `[[preset]]` with names inside, or one table per name.
    rows = tables.get("preset", tables.get("presets"))
    if rows is None:
        rows = {name: table for name, table in tables.items() if isinstance(table, dict)}
    if isinstance(rows, dict):
        rows = [{"name": name, **table} for name, table in rows.items()]
    found = []
    for row in rows:
        try:
            found.append(Preset.model_validate({"capability": capability.name, **row}))
        except ValidationError as error:
            first = error.errors()[0]
            field_name = ".".join(str(part) for part in first["loc"])
            raise InvalidRequest(
                f"The {where}: preset {row.get('name', '?')!r}, field {field_name!r}: {first['msg']}.", code="invalid_preset"
            ) from error
    return found


def every_preset() -> list[Preset]:
    """The presets of all capabilities; a capability whose file is broken is logged and left out."""
    found = []
    for name, capability in sorted(capabilities().items()):
        try:
            found.extend(presets(capability))
        except InvalidRequest as error:
            log.warning("presets cannot be read", capability=name, reason=error.message)
    return found


def find_preset(name: str) -> Preset | None:
    """The preset of that name; `capability/name` picks one where several capabilities use the same name."""
    return next((each for each in every_preset() if name in (each.name, f"{each.capability}/{each.name}")), None)


def resolve_import(path: ImportPath) -> object:
    """Import the attribute that `package.module:attribute` names; heavy libraries come in with it.

    Raises:
        MissingExtra: a library that the module imports is not installed; the hint names the extra that brings it.
        NotFound: the module or the attribute does not exist (code `import_not_found`).
    """
    module_name, _, attribute = path.partition(":")
    try:
        with importing(module_name):
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name == missing or module_name.startswith(missing + "."):
            raise NotFound(
                f"The module {missing!r} of {path!r} does not exist.",
                hint="The capability's declaration names a module that its package does not have.",
                code="import_not_found",
            ) from error
        raise _missing_library(missing, module_name) from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise NotFound(
            f"The module {module_name!r} has no {attribute!r}.",
            hint="The capability's declaration names something that its module does not have.",
            code="import_not_found",
        ) from error


def _missing_library(library: str, module_name: str) -> MissingExtra:
    found = _discover()
    for capability in found.capabilities.values():
        if module_name != capability.package and not module_name.startswith(capability.package + "."):
            continue
        if capability.extra is None:
            break
        if found.distributions.get(capability.package, "modelworks") == "modelworks":
            return MissingExtra.of(library, capability.extra)
        distribution = found.distributions[capability.package]
        return MissingExtra(
            f"This needs the library {library!r}, which is not installed.",
            hint=f'Install it with: pip install "{distribution}[{capability.extra}]".',
        )
    return MissingExtra(
        f"{module_name} needs the library {library!r}, which is not installed.",
        hint=f"Install the Python package that brings {library!r}.",
    )


def _discover() -> _Found:
    global _found
    with _lock:
        if _found is None:
            _found = _look(metadata.entry_points(group=ENTRY_POINT_GROUP))
        return _found


def _one(name: str) -> Capability | None:
    """The capability of that name without the others; None where there is none that can be used."""
    with _lock:
        found = _found or _alone.get(name)
        if found is None:
            found = _alone[name] = _look([*metadata.entry_points(group=ENTRY_POINT_GROUP, name=name)])
        return found.capabilities.get(name)


def _look(points: Sequence[metadata.EntryPoint] | metadata.EntryPoints) -> _Found:
    found = _Found()
    # A distribution that lies on the path twice (an editable install beside a wheel) announces the same point twice.
    for point in sorted({(point.name, point.value): point for point in points}.values(), key=lambda point: point.name):
        try:
            loaded = point.load()
        except Exception as error:
            # Third-party code: whatever it raises, the other capabilities go on working.
            found.broken[point.name] = f"{type(error).__name__}: {error}"
            log.warning("capability cannot be loaded", capability=point.name, value=point.value, reason=str(error))
            continue
        reason = None
        if not isinstance(loaded, Capability):
            reason = f"{point.value} is a {type(loaded).__name__}, not a Capability"
        elif loaded.name != point.name:
            reason = f"the entry point is called {point.name!r} but declares {loaded.name!r}"
        elif loaded.name in found.capabilities:
            reason = f"{point.value} declares a name that is already taken"
        if reason is not None:
            found.broken[point.name] = reason
            log.warning("capability is refused", capability=point.name, value=point.value, reason=reason)
            continue
        found.capabilities[loaded.name] = loaded
        found.distributions[loaded.package] = point.dist.name if point.dist is not None else _top_package(loaded)
    return found


def _top_package(capability: Capability) -> str:
    package = capability.package.partition(".")[0]
    return package if package in sys.modules else "modelworks"


def _known(what: str, wanted: str, names: Sequence[str]) -> str:
    if not names:
        return f"No {what} are installed."
    near = difflib.get_close_matches(wanted, names, n=1)
    start = f"Did you mean {near[0]!r}? " if near else ""
    return f"{start}Known {what}: {', '.join(names)}."
