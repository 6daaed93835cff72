"""The declaration of capability `weather`."""

from __future__ import annotations

from modelworks.capabilities.weather.schemas import ForecastInput, ForecastOutput
from modelworks.contract import Capability, Resources, Task

_PACKAGE = "modelworks.capabilities.weather"

capability = Capability(
    name="weather",
    summary="Weather: forecasts on grids, trained from grids of one's own, with honest skill.",
    package=_PACKAGE,
    extra="weather",
    tasks=(
        Task(
            name="weather-forecast",
            input=ForecastInput,
            output=ForecastOutput,
            predictor=f"{_PACKAGE}.serve:forecast",
            mode="job",
            resources=Resources(cpu=1.0, memory_bytes=2 << 30),
        ),
    ),
)
