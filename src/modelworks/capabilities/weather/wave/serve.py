"""Answer wave forecasts: the last records of a buoy in, heights with intervals out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from modelworks.capabilities.weather.wave.adaptive import REPLAYED_H, last_levels
from modelworks.capabilities.weather.wave.features import HISTORY_H, after, rows
from modelworks.capabilities.weather.wave.model import WaveModel
from modelworks.capabilities.weather.wave.records import COLUMNS, gridded
from modelworks.capabilities.weather.wave.schemas import SeaState, WaveForecastInput, WaveForecastOutput, WavePoint, WaveRecord
from modelworks.capabilities.weather.wave.spectrum import sea_state
from modelworks.contract.errors import InvalidRequest
from modelworks.contract.run import LocalModel


class WaveForecaster:
    """Forecasts significant wave heights from one model; may be asked from several threads.

    Raises:
        InvalidRequest: no model is given. InvalidData: it is no wave model, or damaged.
    """

    def __init__(self, model: LocalModel | None, options: object = None) -> None:
        if model is None:
            raise InvalidRequest("This task needs a wave model.", hint="Name one in the deployment.", param="model")
        self._model = WaveModel.load(model.path)

    def predict(self, request: WaveForecastInput) -> WaveForecastOutput:
        """Forecast from the last record with a height; the records before it also set how wide the intervals are.

        Raises:
            InvalidRequest: no record has a height. InvalidData: a spectrum has no energy.
        """
        found = [(_utc(record.time), record, _state(record)) for record in request.records]
        last = max((time for time, _, state in found if state is not None), default=None)
        if last is None:
            raise InvalidRequest(
                "No record has hs_m or a spectrum.", hint="Give the last records of the buoy.", param="records"
            )
        recent = [each for each in found if last - timedelta(hours=REPLAYED_H + HISTORY_H) <= each[0] <= last]
        values = np.array([_row(record, state) for _, record, state in recent])
        series = gridded([time for time, _, _ in recent], values, self._model.card.step_s)
        # The last record is on the grid's last place: the grid is counted from the first one.
        rows_nf = rows(series)
        rows_nf[-1, 0] = values[max(range(len(recent)), key=lambda index: recent[index][0]), 0]
        # Forecasts of the hours before are made again: how they held tells how wide this one's interval must be.
        known = np.flatnonzero(np.isfinite(rows_nf[:, 0]))
        replayed = known[known >= len(rows_nf) - 1 - round(REPLAYED_H * 3600 / series.step_s)]
        points = []
        for lead in self._model.card.leads:
            heights, sizes = self._model.forecast(rows_nf[replayed], lead)
            delay = max(1, round(lead.lead_h * 3600 / series.step_s))
            scores_n = np.full(len(rows_nf), np.nan)
            scores_n[replayed] = (after(series.hs, delay)[replayed] - heights) / sizes
            levels = last_levels(scores_n, lead.quantiles, delay, series.step_s, request.coverage)
            low, high = (float(each[0]) for each in self._model.ends(heights[-1:], sizes[-1:], lead, levels))
            height = float(heights[-1])
            points.append(
                WavePoint(
                    lead_h=lead.lead_h,
                    time=last + timedelta(hours=lead.lead_h),
                    hs_m=round(height, 3),
                    low_m=round(low, 3),
                    high_m=round(high, 3),
                )
            )
        now = next(state for time, _, state in found if time == last and state is not None)
        return WaveForecastOutput(start=last, now=now, coverage=request.coverage, points=points)


def _state(record: WaveRecord) -> SeaState | None:
    if record.spectrum is not None:
        hs, tp, te = sea_state(record.spectrum.frequencies_hz, record.spectrum.density_m2_per_hz)
        return SeaState(hs_m=round(hs, 4), tp_s=round(tp, 3), te_s=round(te, 3))
    return None if record.hs_m is None else SeaState(hs_m=record.hs_m, tp_s=record.tp_s)


def _row(record: WaveRecord, state: SeaState | None) -> list[float]:
    known = {**record.model_dump(include=set(COLUMNS)), **({} if state is None else {"hs_m": state.hs_m, "tp_s": state.tp_s})}
    return [float("nan") if known[column] is None else float(known[column]) for column in COLUMNS]


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
