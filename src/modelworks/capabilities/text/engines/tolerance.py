"""How far an engine's numbers may be from those that were trained, for every precision, stated here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelworks.contract.errors import IntegrityFailed


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What one precision costs at most."""

    #: Largest accepted difference of a logit from the trained graph's, for logits whose spread (standard deviation) is 1 or
    #: less; a larger spread allows as many times more.
    logits: float
    #: Largest accepted relative error of a matrix, |W - Q(W)| / |W| in Frobenius norms; 0 where matrices are not rounded.
    matrix: float


#: Measured on models of 0.1 to 600 million weights: f32 4e-5, bf16 0.29, int8 0.5; int4, up to 10 million, 0.31. Matrices of
#: normally distributed weights lose 0.006 in int8 and 0.09 in int4.
TOLERANCES: Mapping[str, Tolerance] = {
    "f32": Tolerance(logits=0.01, matrix=0.0),
    "bf16": Tolerance(logits=1.0, matrix=0.0),
    "int8": Tolerance(logits=1.0, matrix=0.02),
    "int4": Tolerance(logits=2.0, matrix=0.2),
}
#: Largest accepted difference of a logit between an engine and the very numbers that it was given to read, whatever they are:
#: nothing is left but the order of sums.
READ_TOLERANCE = 0.01


def allowed_difference(tolerance: float, spread: float) -> float:
    """The largest accepted difference of logits with that spread."""
    return tolerance * max(1.0, spread)


def check_matrix(
    name: str, exact: npt.NDArray[np.float32], stored: npt.NDArray[np.float32], precision: str, where: str
) -> None:
    """Hold a quantised matrix against the one that was trained.

    Raises:
        IntegrityFailed: its relative error is larger than the precision explains.
    """
    norm = float(np.linalg.norm(exact))
    error = float(np.linalg.norm(exact - stored)) / (norm or 1.0)
    allowed = TOLERANCES[precision].matrix
    if not error <= allowed:
        raise IntegrityFailed(
            f"Quantising {where} to {precision} broke the matrix {name!r}: its relative error is {error:.3g}, "
            f"where {allowed:.3g} is allowed.",
            hint="Use a higher precision; where it repeats with int8, the quantiser is at fault.",
            code="quantisation_broken",
        )
