"""The declaration of capability `weather`."""

from __future__ import annotations

from modelworks.capabilities.weather.cyclone.schemas import (
    CycloneEvaluateParams,
    CycloneTrackInput,
    CycloneTrackOutput,
    CycloneTrainParams,
    TrackingInput,
    TrackingOutput,
)
from modelworks.capabilities.weather.downscaling.schemas import (
    DownscaleEvaluateParams,
    DownscaleInput,
    DownscaleOutput,
    DownscaleTrainParams,
)
from modelworks.capabilities.weather.schemas import EvaluateParams, ForecastInput, ForecastOutput, TrainParams
from modelworks.capabilities.weather.wave.schemas import (
    WaveEvaluateParams,
    WaveForecastInput,
    WaveForecastOutput,
    WaveTrainParams,
)
from modelworks.contract import Capability, Resources, Task

_PACKAGE = "modelworks.capabilities.weather"

#: Of leads 1, 2 and 3: the square error in spreads of the climate, all channels together, and the anomaly correlation.
_METRICS = ("nmse_1", "nmse_2", "nmse_3")
_OPTIONAL = ("acc_1", "acc_2", "acc_3")

capability = Capability(
    name="weather",
    summary="Weather: forecasts on grids, trained from grids of one's own, with honest skill.",
    package=_PACKAGE,
    extra="weather",
    page="page",
    tasks=(
        Task(
            name="weather-forecast",
            input=ForecastInput,
            output=ForecastOutput,
            predictor=f"{_PACKAGE}.serve:forecast",
            mode="job",
            importers={
                ".onnx": f"{_PACKAGE}.published.pangu_files:import_pangu",
                "backbone.safetensors": f"{_PACKAGE}.published.fourcastnet_files:import_fourcastnet",
                "-pretrained.safetensors": f"{_PACKAGE}.published.aurora_files:import_aurora",
                "aifs.json": f"{_PACKAGE}.published.aifs_files:import_aifs",
                "diffs_stddev_by_level.nc": f"{_PACKAGE}.published.graphcast_files:import_graphcast",
                "-finetuned.safetensors": f"{_PACKAGE}.published.aurora_files:import_aurora",
            },
            trainer=f"{_PACKAGE}.train:train",
            train_params=TrainParams,
            train_inputs=("train",),
            evaluator=f"{_PACKAGE}.evaluate:evaluate",
            evaluate_params=EvaluateParams,
            metrics=_METRICS,
            optional_metrics=_OPTIONAL,
            lower_is_better=_METRICS,
            resources=Resources(cpu=1.0, memory_bytes=2 << 30),
        ),
        Task(
            name="cyclone-track",
            input=CycloneTrackInput,
            output=CycloneTrackOutput,
            predictor=f"{_PACKAGE}.cyclone.serve:TrackForecaster",
            trainer=f"{_PACKAGE}.cyclone.train:train_tracks",
            train_params=CycloneTrainParams,
            train_inputs=("train",),
            evaluator=f"{_PACKAGE}.cyclone.evaluate:evaluate_tracks",
            evaluate_params=CycloneEvaluateParams,
            metrics=("track_error_km", "persistence_error_km", "cone_coverage"),
            optional_metrics=(
                "wind_error_kt",
                "wind_persistence_kt",
                "fixed_cone_coverage",
                "cone_km",
                *(f"{name}_{hours}h_km" for hours in (24, 48, 72) for name in ("track_error", "persistence_error")),
            ),
            lower_is_better=(
                "track_error_km",
                "persistence_error_km",
                "wind_error_kt",
                "wind_persistence_kt",
                *(f"{name}_{hours}h_km" for hours in (24, 48, 72) for name in ("track_error", "persistence_error")),
            ),
            resources=Resources(cpu=1.0, memory_bytes=512 << 20),
        ),
        Task(
            name="cyclone-tracking",
            input=TrackingInput,
            output=TrackingOutput,
            predictor=f"{_PACKAGE}.cyclone.tracking:track_cyclones",
            mode="job",
            resources=Resources(cpu=1.0, memory_bytes=2 << 30),
        ),
        Task(
            name="weather-downscaling",
            input=DownscaleInput,
            output=DownscaleOutput,
            predictor=f"{_PACKAGE}.downscaling.serve:downscale",
            mode="job",
            trainer=f"{_PACKAGE}.downscaling.train:train_downscaling",
            train_params=DownscaleTrainParams,
            train_inputs=("train",),
            evaluator=f"{_PACKAGE}.downscaling.evaluate:evaluate_downscaling",
            evaluate_params=DownscaleEvaluateParams,
            metrics=("nmse", "nmse_climate"),
            optional_metrics=("nmse_corrected", "nmse_bicubic", "nmse_bilinear"),
            lower_is_better=("nmse", "nmse_climate", "nmse_corrected", "nmse_bicubic", "nmse_bilinear"),
            resources=Resources(cpu=1.0, memory_bytes=2 << 30),
        ),
        Task(
            name="wave-forecast",
            input=WaveForecastInput,
            output=WaveForecastOutput,
            predictor=f"{_PACKAGE}.wave.serve:WaveForecaster",
            trainer=f"{_PACKAGE}.wave.train:train_waves",
            train_params=WaveTrainParams,
            train_inputs=("train",),
            evaluator=f"{_PACKAGE}.wave.evaluate:evaluate_waves",
            evaluate_params=WaveEvaluateParams,
            metrics=("wave_error_m", "persistence_error_m", "damped_error_m", "interval_coverage"),
            lower_is_better=("wave_error_m", "persistence_error_m", "damped_error_m"),
            resources=Resources(cpu=1.0, memory_bytes=512 << 20),
        ),
    ),
)
