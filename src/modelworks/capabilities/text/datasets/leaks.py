"""Whether training data give away what a model is to be measured on: said before anything is trained."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from modelworks.capabilities.text.datasets.cleaning import content_of_tests, said, usable
from modelworks.capabilities.text.datasets.params import CleanParams

#: Samples of either side that are looked at while somebody waits for the answer.
MAX_SAMPLES = 5000


def leak_note(train: Path, test: Path, role: str) -> str | None:
    """A sentence about training samples that hold most of what a sample of the other data set says; None where none does.

    The rule is that of `data clean`: 70 % of the other sample's, or of its question's, pieces of eight words or characters.

    Raises:
        InvalidData: the other data set holds no usable sample.
    """
    params = CleanParams()
    content = content_of_tests(test, params, MAX_SAMPLES)
    num_looked_at = num_leaking = 0
    first = ""
    for sample in islice(usable(train), MAX_SAMPLES):
        num_looked_at += 1
        found = content.find(said(sample))
        if found is not None:
            num_leaking += 1
            first = first or f"{sample.source}:{sample.line} gives away {found[0]} of {role}"
    if not num_leaking:
        return None
    return (
        f"{num_leaking:,} of {num_looked_at:,} training samples give away samples of the data set {role!r} ({first}), "
        "so what is measured there says little: take them out with `modelworks data clean TRAIN --test DATA`."
    )
