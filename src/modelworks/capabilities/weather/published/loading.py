"""Which published model a version of the catalog is, told by its files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from modelworks.capabilities.weather.model.forecaster import Stepper
from modelworks.capabilities.weather.published import (
    aifs_files,
    aurora_files,
    fourcastnet_files,
    graphcast_files,
    pangu_files,
)
from modelworks.contract.errors import InvalidRequest
from modelworks.contract.run import LocalModel


class Published(Stepper, Protocol):
    """A stepper that says itself which states it takes."""

    @property
    def channels(self) -> Sequence[str]:
        """What it takes and gives, in its order."""
        ...

    @property
    def latitude_h(self) -> NDArray[np.float64]:
        """Its rows, from north to south."""
        ...

    @property
    def longitude_w(self) -> NDArray[np.float64]:
        """Its columns, from 0 eastwards."""
        ...

    def begin(self, start: np.datetime64) -> None:
        """Tell the time of the state that the forecast begins from."""
        ...


def published(
    model: LocalModel, step_hours: float | None, threads: int | None, watch: Callable[[], None]
) -> tuple[Published, str] | None:
    """The published model that a version holds, and a sentence about it; None where it is one of our own.

    Args:
        watch: called now and then while a model computes in another process; what it raises ends that.

    Raises:
        InvalidRequest: the version states no licence, so that nobody can tell who may use it; no step of these hours.
        InvalidData, UnsafeArtifact, MissingExtra: its files are not what was published; a library is not installed.
    """
    found: Published
    if pangu_files.files_of(model.path):
        from modelworks.capabilities.weather.published.pangu import Pangu

        name = _licensed(model, pangu_files.NAME, pangu_files.LICENCE)
        found = Pangu(model.path, None, step_hours, threads)
    elif fourcastnet_files.is_fourcastnet(model.path):
        from modelworks.capabilities.weather.published.fourcastnet import FourCastNet

        name = _licensed(model, fourcastnet_files.NAME, fourcastnet_files.LICENCE)
        found = FourCastNet(model.path)
    elif (weights := aurora_files.found(model.path)) is not None:
        from modelworks.capabilities.weather.published.external import External, aurora

        name = _licensed(model, aurora_files.NAME, aurora_files.LICENCE)
        found = External(aurora(model.path, *weights), watch)
    elif aifs_files.is_aifs(model.path):
        from modelworks.capabilities.weather.published.external import External, aifs

        name = _licensed(model, aifs_files.NAME, aifs_files.LICENCE)
        found = External(aifs(model.path), watch)
    elif (checkpoint := graphcast_files.found(model.path)) is not None:
        from modelworks.capabilities.weather.published.external import External, graphcast

        name = _licensed(model, graphcast_files.NAME, graphcast_files.LICENCE)
        found = External(graphcast(checkpoint), watch)
    else:
        return None
    if step_hours not in (None, found.step_hours):
        raise InvalidRequest(
            f"{name} has steps of {found.step_hours:g} hours.", hint="Leave step_hours out.", param="step_hours"
        )
    return found, f"{name}, step of {found.step_hours:g} hours, licence {model.licence}"


def _licensed(model: LocalModel, name: str, licence: str) -> str:
    if model.licence is None:
        raise InvalidRequest(
            f"{model.ref} holds {name}, but states no licence; its weights are published under {licence}.",
            hint="Pull it again from its folder (`modelworks pull file://…`), which states the licence.",
            code="licence_unstated",
            param="model",
        )
    return name
