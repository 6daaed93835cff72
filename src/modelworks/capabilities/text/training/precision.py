"""In which numbers a training computes, and whether by compiled code.

In bf16 the weights stay in f32, where small steps are not lost; what is computed is a copy of them in bf16, made anew after
every step (Micikevicius et al. 2018, without their scaling: bf16 has the range of f32). Nothing is converted within a pass,
which is what makes autocast slower than f32 on CPUs.
"""

from __future__ import annotations

import copy
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from modelworks.capabilities.text.schemas import PrecisionParams
from modelworks.contract.errors import InvalidRequest

_F = TypeVar("_F", bound=Callable[..., Any])
log = logging.getLogger(__name__)


class Precision:
    """How one model is computed while it is trained. By default it is the identity: f32, as written.

    Args:
        params: what the user chose; None: f32, as written.
        workdir: where compiled code is kept, private to the run.
        num_processes: processes that share the run.

    Raises:
        InvalidRequest: there is no compiler, or several processes are to compute in bf16.
    """

    def __init__(self, params: PrecisionParams | None = None, workdir: Path | None = None, num_processes: int = 1) -> None:
        self._is_low = params is not None and params.precision == "bf16"
        self._is_compiled = params is not None and params.compiled
        self._pairs: list[tuple[torch.nn.Parameter, torch.nn.Parameter]] = []
        if self._is_low and num_processes > 1:
            raise InvalidRequest(
                "Several workers train in f32.", hint="Leave workers at 1, or precision at f32.", param="params.precision"
            )
        if self._is_low and not _multiplies_bf16():
            log.warning("This processor does not multiply bf16 by itself: precision=f32 is many times as fast here.")
        if self._is_compiled and workdir is not None:
            if not _has_compiler():
                raise InvalidRequest(
                    "compiled needs a C++ compiler, and this machine has none.",
                    hint="Install g++ or clang++ (or name one in CXX), or leave compiled off.",
                    param="params.compiled",
                )
            # Not the shared folder that torch takes by default: what lies there is run.
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(workdir / "compiled")
            # In this process, which has as many cores as it was given.
            import torch._inductor.config as inductor

            inductor.compile_threads = 1

    def of(self, model: Any) -> Any:
        """What is computed in the model's place."""
        low = model
        if self._is_low:
            low = copy.deepcopy(model)
            # Weights alone: frequencies of rotary positions, a buffer, would be other frequencies in bf16.
            for parameter in low.parameters():
                parameter.data = parameter.data.to(torch.bfloat16)
            self._pairs = [
                (whole, rounded)
                for whole, rounded in zip(model.parameters(), low.parameters(), strict=True)
                if whole.requires_grad
            ]
        return low

    def fast(self, objective: _F) -> _F:
        """The objective as training computes it. Model and loss are compiled as one: half of the gain is in the loss."""
        return torch.compile(objective) if self._is_compiled else objective

    def gather(self) -> None:
        """Add what a backward pass left in the copy to the gradients of the weights, in f32."""
        for whole, rounded in self._pairs:
            if rounded.grad is None:
                continue
            if whole.grad is None:
                whole.grad = rounded.grad.float()
            else:
                whole.grad += rounded.grad
            rounded.grad = None

    def follow(self) -> None:
        """Round the weights into the copy again, after they changed."""
        with torch.no_grad():
            for whole, rounded in self._pairs:
                rounded.copy_(whole)


def _multiplies_bf16() -> bool:
    """Whether bf16 is fast here: oneDNN's kernels for it want AVX-512 or AMX; elsewhere torch multiplies number by number."""
    return torch.cuda.is_available() or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _has_compiler() -> bool:
    """Whether torch finds something that compiles C++."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++") if name)
