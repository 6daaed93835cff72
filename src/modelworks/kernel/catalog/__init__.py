"""Models and data sets with immutable versions, aliases, licences and lineage; capabilities found by entry point."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelworks.kernel.catalog.discovery import (
        capabilities,
        find_preset,
        find_task,
        presets,
        refresh,
        resolve_import,
    )
    from modelworks.kernel.catalog.manifest import digest_of, materialise
    from modelworks.kernel.catalog.references import Reference, parse
    from modelworks.kernel.catalog.schemas import Version
    from modelworks.kernel.catalog.service import CatalogService

__all__ = [
    "CatalogService",
    "Reference",
    "Version",
    "capabilities",
    "digest_of",
    "find_preset",
    "find_task",
    "materialise",
    "parse",
    "presets",
    "refresh",
    "resolve_import",
]

# Resolved on first use: the processes of runs and replicas find capabilities through here and need no database.
_MODULES = {
    "CatalogService": "service",
    "Reference": "references",
    "Version": "schemas",
    "digest_of": "manifest",
    "materialise": "manifest",
    "parse": "references",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'discovery')}"), name)
