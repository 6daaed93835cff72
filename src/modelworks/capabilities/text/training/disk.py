"""A disk that is full while weights are written: said as such, with what is needed."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from modelworks.contract.errors import StorageFull

#: No space, no quota, and a file that grows past what its process may write.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_CODE = re.compile(r"os error (\d+)")


@contextmanager
def enough_room(folder: Path, what: str, num_bytes: int, hint: str) -> Iterator[None]:
    """Around what writes about `num_bytes` below `folder`; what a full disk left half written there is removed.

    Raises:
        StorageFull: the disk is full; the library that writes tensors says so with an error of its own.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if _errno(error) not in _FULL:
            raise
        shutil.rmtree(folder, ignore_errors=True)
        free = shutil.disk_usage(folder.parent).free
        raise StorageFull(
            f"The disk is full while writing {what}: it needs about {_size(num_bytes)}, and {_size(free)} are free where "
            "the run works.",
            hint=hint,
        ) from error


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """What they take on a disk."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _errno(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    found = _CODE.search(str(error))
    return None if found is None else int(found[1])


def _size(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 20):,.1f} MiB" if num_bytes < 1 << 30 else f"{num_bytes / (1 << 30):,.1f} GiB"
