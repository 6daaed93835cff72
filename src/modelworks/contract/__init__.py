"""Floor 0: nouns, protocols, errors and media types. Depends on pydantic only; everything else depends on it."""

from modelworks.contract.capability import ENTRY_POINT_GROUP, Capability, ImportPath, Mode, Resources, ServerCommand, Task
from modelworks.contract.errors import ModelworksError
from modelworks.contract.run import Level, LocalDataset, LocalModel, Run, Verb, World

__all__ = [
    "ENTRY_POINT_GROUP",
    "Capability",
    "ImportPath",
    "Level",
    "LocalDataset",
    "LocalModel",
    "Mode",
    "ModelworksError",
    "Resources",
    "Run",
    "ServerCommand",
    "Task",
    "Verb",
    "World",
]
