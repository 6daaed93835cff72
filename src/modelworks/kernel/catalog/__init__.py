"""Models and data sets with immutable versions, aliases, licences and lineage; capabilities found by entry point."""

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
