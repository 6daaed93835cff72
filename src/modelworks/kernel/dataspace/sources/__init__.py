"""Where documents come from by themselves, one file per kind of source behind one protocol."""

from __future__ import annotations

from modelworks.kernel.dataspace.sources.forms import SOURCE_FORM, SourceForm, local_uri, place_of, secret_of, uploaded
from modelworks.kernel.dataspace.sources.opening import check_rights, open_source
from modelworks.kernel.dataspace.sources.source import Item, Source, Surroundings

__all__ = [
    "SOURCE_FORM",
    "Item",
    "Source",
    "SourceForm",
    "Surroundings",
    "check_rights",
    "local_uri",
    "open_source",
    "place_of",
    "secret_of",
    "uploaded",
]
