"""The samples of an evaluation: kept one by one, saved as a report, summed up as metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from modelworks.contract.errors import InvalidData
from modelworks.contract.evaluation import SAMPLES_FILE, SampleResult
from modelworks.contract.run import Run


class SampleReport:
    """Collects what each sample contributes."""

    def __init__(self) -> None:
        self._samples: list[SampleResult] = []
        self._places: dict[str, int] = {}
        self._noted: dict[str, float] = {}

    def note(self, **metrics: float) -> None:
        """Add metrics of the whole set that are no mean over its samples."""
        self._noted |= metrics

    def add(
        self,
        sample: str,
        *,
        nats: float,
        num_tokens: int,
        num_bytes: int,
        scores: Mapping[str, float] | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Note one sample; one without a predicted token is left out.

        Args:
            nats: summed negative log-likelihood of its `num_tokens` tokens, which stand for `num_bytes` bytes of text.
            scores: further metrics with weight 1.
        """
        if num_tokens == 0:
            return
        num_bytes = max(1, num_bytes)
        values = {
            "loss": (nats / num_tokens, float(num_tokens)),
            "bits_per_byte": (nats / math.log(2) / num_bytes, float(num_bytes)),
        }
        values |= {name: (float(value), 1.0) for name, value in (scores or {}).items()}
        self._keep(SampleResult(sample=sample, values=values, detail=dict(detail or {})))

    def add_scores(self, sample: str, scores: Mapping[str, float], detail: Mapping[str, Any]) -> None:
        """Add metrics with weight 1 to a sample that was noted, or note one that has nothing else."""
        values = {name: (float(value), 1.0) for name, value in scores.items()}
        place = self._places.get(sample)
        if place is None:
            self._keep(SampleResult(sample=sample, values=values, detail=dict(detail)))
            return
        known = self._samples[place]
        self._samples[place] = known.model_copy(update={"values": known.values | values, "detail": {**known.detail, **detail}})

    def _keep(self, sample: SampleResult) -> None:
        self._places[sample.sample] = len(self._samples)
        self._samples.append(sample)

    @property
    def samples(self) -> Sequence[SampleResult]:
        """What was added, in order."""
        return self._samples

    def metrics(self) -> dict[str, float]:
        """Each metric over all samples, what was noted, and the perplexity where a loss was measured.

        Raises:
            InvalidData: no sample has a token that can be predicted, or a score.
        """
        sums: dict[str, list[float]] = {}
        for sample in self._samples:
            for name, (value, weight) in sample.values.items():
                total = sums.setdefault(name, [0.0, 0.0])
                total[0] += value * weight
                total[1] += weight
        if not sums:
            raise InvalidData("The data set has no token that can be predicted.", hint="Give it longer samples.")
        found = {name: total / weight for name, (total, weight) in sums.items()}
        if "loss" not in found:
            return found | self._noted
        # Beyond this the exponential is no finite number, and says nothing more anyway.
        return {**found, **self._noted, "perplexity": math.exp(min(found["loss"], 700.0))}

    def save(self, run: Run) -> None:
        """Save the samples, so that this model can be compared with others on the same data."""
        file = run.workdir / SAMPLES_FILE
        with file.open("w", encoding="utf-8") as lines:
            for sample in self._samples:
                lines.write(sample.model_dump_json() + "\n")
        run.save(file, kind="report")
