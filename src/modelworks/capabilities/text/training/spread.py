"""One training over several processes: each computes its rows of every batch, and together they take the step that one would.

Two strategies. `ddp` (Li et al. 2020): every process holds all weights, and gradients are added up. `fsdp` (FSDP2, torch's
`fully_shard`; after Rajbhandari et al. 2020): each holds a part of every weight, its gradient and its optimiser state; a layer
is put together while it is computed. In both, the gradient is that of the sum over all rows divided by their whole weight, so
that a process more changes the rounding and nothing else.

Alone, all of this is the identity: the bytes of a training in one process do not depend on this file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from modelworks.capabilities.text.schemas import Strategy
from modelworks.contract.run import World

T = TypeVar("T")


class Spread:
    """How a model is spread over the processes of a run.

    Args:
        world: the processes; torch's process group is set up where there are several. None: this one alone, in main memory.
        strategy: see above; without meaning for one process.
    """

    def __init__(self, world: World | None = None, strategy: Strategy = "ddp") -> None:
        self.world = world or World()
        self._is_sharded = self.world.size > 1 and strategy == "fsdp"
        #: Where batches are computed. A run that asked for no accelerator sees none.
        self.device = torch.device("cpu")
        if world is not None and torch.cuda.is_available():
            self.device = torch.device("cuda", torch.cuda.current_device())
        self._computed: Any = None

    @property
    def gradient_scale(self) -> int:
        """What a loss is multiplied by before its gradients are taken: both strategies average over processes, not add up."""
        return self.world.size

    def portion(self, items: Sequence[T]) -> Sequence[T]:
        """Those items of a batch that this process computes; maybe none."""
        return items if self.world.size == 1 else items[self.world.rank :: self.world.size]

    def over(self, model: Any) -> Any:
        """Spread a model, the same in all processes; returns what is called in its place.

        Sharding changes the model itself, so the optimiser is made afterwards.
        """
        model.to(self.device)
        if self.world.size == 1:
            self._computed = model
        elif self._is_sharded:
            self._computed = _shard(model, self.device, self.world.size)
        else:
            self._computed = torch.nn.parallel.DistributedDataParallel(model, forward_sync_buffers=False)
        return self._computed

    def adding_up(self, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Around each batch of a step: gradients travel once, with the last one.

        Sharded gradients travel every time instead: what they would wait in is what sharding saves.
        """
        if self.world.size == 1 or self._is_sharded or is_last:
            return contextlib.nullcontext()
        waiting: contextlib.AbstractContextManager[None] = self._computed.no_sync()
        return waiting

    def sums(self, *values: float) -> list[float]:
        """Each value added up over all processes, the same everywhere."""
        if self.world.size == 1:
            return list(values)
        # In f64, and in main memory: these are a few numbers.
        totals = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(totals)
        return [float(total) for total in totals]

    def gathered(self, portions: Sequence[T]) -> list[T]:
        """What the processes made of their portions, in the order of the whole."""
        if self.world.size == 1:
            return list(portions)
        found: list[Any] = [None] * self.world.size
        dist.all_gather_object(found, list(portions))
        return [found[place % self.world.size][place // self.world.size] for place in range(sum(map(len, found)))]

    def whole(self, value: torch.Tensor) -> torch.Tensor:
        """A weight, or what the optimiser keeps of it, in one piece and in main memory. All processes take part."""
        value = value.detach()
        return (value.full_tensor() if hasattr(value, "full_tensor") else value).cpu().contiguous()

    def like(self, value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        """The part of a whole `value` that is this process's, laid out as the parameter is that it belongs to."""
        value = value.to(self.device)
        if value.shape != parameter.shape or not hasattr(parameter, "device_mesh"):
            return value
        from torch.distributed.tensor import distribute_tensor

        # Every process has read the same file, so nothing needs to travel.
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)

    def rest(self) -> None:
        """Take apart again what a forward pass without a backward one has left in one piece."""
        if self._is_sharded:
            for part in self._computed.modules():
                if hasattr(part, "reshard"):
                    part.reshard()

    def finished(self, model: Any, again: Callable[[], Any]) -> Any | None:
        """The trained model in one piece and in main memory, for the first process to save; None in the others.

        Args:
            model: what was given to `over`.
            again: makes the model as it was before training; used where only parts of it are left.
        """
        if not self._is_sharded:
            return model.to("cpu") if self.world.is_first else None
        self.rest()
        return self.copied(model, again)

    def copied(self, model: Any, again: Callable[[], Any]) -> Any | None:
        """`finished`, always as a copy: training can go on with the model afterwards. All processes take part."""
        trained = {name: self.whole(each) for name, each in model.named_parameters() if each.requires_grad}
        if not self.world.is_first:
            return None
        whole = again()
        parameters = dict(whole.named_parameters())
        with torch.no_grad():
            for name, value in trained.items():
                parameters[name].copy_(value)
        return whole


def _shard(model: Any, device: torch.device, num_processes: int) -> Any:
    """Shard a model in place: its decoder layers one by one, and what is left with the whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (num_processes,), mesh_dim_names=("data",))
    # transformers names the modules that must stay in one piece: exactly the layers.
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = set(getattr(base, "_no_split_modules", None) or ())
    for layer in [each for each in model.modules() if type(each).__name__ in names]:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model
