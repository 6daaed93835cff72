"""`package://name`: weights that an installed Python distribution carries. Nothing is fetched over a network.

A distribution announces them by an entry point of the group `modelworks.models`: its name is the model's, its value the package
in which a folder of that name lies. The package is found, not run.
"""

from __future__ import annotations

from importlib import metadata, util
from pathlib import Path

from modelworks.contract.errors import InvalidRequest, NotFound
from modelworks.kernel.catalog.checkpoint import FolderFile
from modelworks.kernel.catalog.references import check_name
from modelworks.kernel.catalog.schemas import SourceInfo
from modelworks.kernel.catalog.sources.folder import FolderSource
from modelworks.kernel.catalog.sources.source import SourcePolicy

MODELS_GROUP = "modelworks.models"


class PackageSource(FolderSource):
    """A model's folder inside an installed distribution; its revision is the distribution's version.

    Raises:
        InvalidRequest: not the name of a model (code `invalid_source`).
        NotFound: no installed distribution carries it (code `package_not_installed`), or another version of it is installed.
    """

    def __init__(self, uri: str, *, kind: str, revision: str | None, policy: SourcePolicy) -> None:
        name = uri.partition("://")[2].strip("/")
        try:
            check_name(name)
        except InvalidRequest as error:
            raise InvalidRequest(
                f"{uri[:200]!r} does not name a model.", hint="Write package://name.", param="source", code="invalid_source"
            ) from error
        self._uri = uri
        self._kind = kind
        # Whoever installed the package vouches for it: `pull_roots` is about what users name.
        self._policy = policy
        self._path, self._version = _carried(name)
        if revision is not None and revision != self._version:
            raise NotFound(
                f"Version {self._version} of the package with {name!r} is installed, not {revision}.",
                hint="Install the other one, or leave the revision out.",
                param="revision",
            )

    def _look(self) -> tuple[SourceInfo, dict[str, FolderFile]]:
        info, places = super()._look()
        return info.model_copy(update={"revision": self._version}), places


def _carried(name: str) -> tuple[Path, str]:
    """The folder of a model in the distribution that carries it, and that distribution's version."""
    points = {point.name: point for point in metadata.entry_points(group=MODELS_GROUP)}
    point = points.get(name)
    if point is None:
        known = f" Installed: {', '.join(sorted(points))}." if points else ""
        raise NotFound(
            f"No installed package carries the weights of {name!r}.",
            hint="Install the wheel that does, or train the model by its recipe: modelworks train --recipe FILE." + known,
            param="source",
            code="package_not_installed",
        )
    spec = util.find_spec(point.value)
    folders = [Path(place) / name for place in (spec.submodule_search_locations or ())] if spec is not None else []
    folder = next((each for each in folders if each.is_dir()), None)
    if folder is None:
        raise NotFound(
            f"The package {point.value!r} announces the weights of {name!r} and does not hold them.",
            hint="Install it again.",
            param="source",
            code="package_not_installed",
        )
    return folder.resolve(), point.dist.version if point.dist is not None else "0"
