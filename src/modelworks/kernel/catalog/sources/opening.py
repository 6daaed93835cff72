"""From a URI or a preset's name to the source behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import cast

from modelworks.contract.errors import InvalidRequest, NotFound
from modelworks.kernel.catalog import discovery
from modelworks.kernel.catalog.sources.source import Source, SourcePolicy

#: Scheme -> class; its module is imported only when such a source is opened.
_SOURCES: Mapping[str, str] = {
    "file": "modelworks.kernel.catalog.sources.folder:FolderSource",
    "https": "modelworks.kernel.catalog.sources.web:WebSource",
    "http": "modelworks.kernel.catalog.sources.web:WebSource",
    "s3": "modelworks.kernel.catalog.sources.s3:S3Source",
    "package": "modelworks.kernel.catalog.sources.package:PackageSource",
    "hf": "modelworks.kernel.catalog.sources.hf:HuggingFaceSource",
    "ms": "modelworks.kernel.catalog.sources.ms:ModelScopeSource",
}


def open_source(uri: str, *, kind: str, revision: str | None, policy: SourcePolicy) -> Source:
    """The source that a URI names. Nothing is fetched yet.

    Args:
        uri: `file:///folder`, `https://…`, `s3://bucket/prefix`, `hf://org/name[@revision][/path]`, `ms://org/name…`,
            `package://name`, `preset:name`, or the plain name of a preset.
        kind: model or dataset: what is looked for at a hub, and which files are left out.
        revision: overrides the one in the URI or the preset.

    Raises:
        InvalidRequest: not a source (code `invalid_source`). NotFound: no such preset.
        PermissionDenied: the policy forbids it.
    """
    uri = uri.strip()
    scheme, separator, _ = uri.partition("://")
    if not separator:
        preset = discovery.find_preset(uri.removeprefix("preset:"))
        if preset is None:
            raise _no_preset(uri)
        if preset.source is None:
            raise InvalidRequest(
                f"The preset {preset.name!r} is trained here and has nothing to pull.",
                hint=f"Give it to a training run of capability {preset.capability!r}.",
                param="source",
                code="invalid_source",
            )
        return open_source(preset.source, kind=kind, revision=revision or preset.revision, policy=policy)
    path = _SOURCES.get(scheme.lower())
    if path is None:
        raise InvalidRequest(
            f"{uri[:200]!r} is not a source: {scheme!r} is not known.",
            hint=f"Known: {', '.join(f'{each}://' for each in _SOURCES)}, or the name of a preset.",
            param="source",
            code="invalid_source",
        )
    module, _, name = path.partition(":")
    make = cast(Callable[..., Source], getattr(import_module(module), name))
    return make(uri, kind=kind, revision=revision, policy=policy)


def _no_preset(uri: str) -> NotFound:
    names = sorted(preset.name for preset in discovery.every_preset() if preset.source)
    known = f" Presets: {', '.join(names)}." if names else ""
    return NotFound(
        f"There is no preset {uri.removeprefix('preset:')!r}.",
        hint=f"Give a URI (file://, https://, s3://, hf://, ms://, package://) or the name of a preset.{known}",
        param="source",
        code="preset_not_found",
    )
