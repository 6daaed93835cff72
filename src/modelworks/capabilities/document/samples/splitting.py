"""Which documents are held out, and which shard the others belong to: whole ones, and the same whenever samples are made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

_WHOLE = 1 << 64


def held_out(document_ids: Iterable[str], share: float, seed: int) -> frozenset[str]:
    """About `share` of the documents, by their ids alone: a document does not change sides when others come or go.

    Where chance would leave one side empty, one document is moved there; nothing is held out of a single document.
    """
    placed = sorted((_place(document_id, seed), document_id) for document_id in set(document_ids))
    if len(placed) < 2:
        return frozenset()
    out = [document_id for place, document_id in placed if place < share]
    out = out[: len(placed) - 1] or [placed[0][1]]
    return frozenset(out)


def shard_of(document_id: str, num_shards: int) -> int:
    """The shard of a document, from 0, by its id alone (Bourtoule et al. 2021, "Machine Unlearning")."""
    digest = hashlib.sha256(f"shard:{document_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % num_shards


def _place(document_id: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}:{document_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / _WHOLE
