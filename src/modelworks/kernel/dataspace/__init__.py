"""Data spaces: documents that people put in or sources bring, their rights, and what became of each."""

from modelworks.kernel.dataspace.publications import Published
from modelworks.kernel.dataspace.schemas import Build, Scope, Source, Space, SpaceDocument, SpaceSettings
from modelworks.kernel.dataspace.service import DataspaceService
from modelworks.kernel.dataspace.sourcing import SourceService
from modelworks.kernel.dataspace.syncing import SourceSteps

__all__ = [
    "Build",
    "DataspaceService",
    "Published",
    "Scope",
    "Source",
    "SourceService",
    "SourceSteps",
    "Space",
    "SpaceDocument",
    "SpaceSettings",
]
