"""Vectors of passages from a deployed encoder: those of an earlier index are taken over, and what is done is not lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modelworks.capabilities.retrieval.layout import DIGEST_BYTES, VECTORS_FILE, open_card
from modelworks.capabilities.retrieval.schemas import BuildParams
from modelworks.capabilities.retrieval.vectors import quantised, unit
from modelworks.capabilities.retrieval.words import open_array
from modelworks.contract.deployment import Deployment
from modelworks.contract.errors import Conflict, IntegrityFailed, InvalidData

#: What the encoder is asked first, to know which version answers and how long its vectors are.
_PROBE = "passage"
#: How often a build begins again because another version of the encoder answers.
_MAX_CHANGES = 3
_STATE_FILE = "encoder.json"


class Encoding:
    """The vectors of all passages in parts, each a file in `folder`, which a checkpoint holds.

    Args:
        folder: empty, or what an earlier attempt left in a checkpoint.
        on_part: told how many passages have their vectors after each part that this attempt made.
    """

    def __init__(
        self,
        encoder: Deployment,
        params: BuildParams,
        folder: Path,
        digests_nb: NDArray[np.uint8],
        on_part: Callable[[int], None],
    ) -> None:
        self._encoder = encoder
        self._params = params
        self._folder = folder
        self._digests = digests_nb
        self._on_part = on_part
        self.version_id: str | None = None
        self.dimensions = 0
        #: Vectors that were taken over from the earlier index, and those that were computed.
        self.num_taken_over = 0
        self.num_computed = 0

    def run(self, texts: Callable[[int, int], Sequence[str]], previous: Path | None) -> list[Path]:
        """Make every part; returns their files in order.

        Args:
            texts: of the passages from one row to another.
            previous: folder of an index whose vectors are taken over where text and version of the encoder are the same.

        Raises:
            Conflict: other versions of the encoder kept answering. InvalidData: its vectors are of no use.
            Unavailable, Cancelled: from the encoder; what is done lies in the folder.
        """
        for _ in range(_MAX_CHANGES):
            if self._run_once(texts, previous):
                return [self._part(first) for first in self._firsts()]
        raise self._changing()

    def vectors(self, texts: Sequence[str], kind: Literal["query", "document"]) -> NDArray[np.float32]:
        """Vectors of length 1 of other texts, by the version that made the parts. Raises Conflict where another answers."""
        found = []
        for first in range(0, len(texts), self._params.batch_size):
            answer = self._encoder.embed(texts[first : first + self._params.batch_size], kind=kind)
            if answer.version_id != self.version_id:
                raise self._changing()
            found += answer.vectors
        return unit(found)

    def _changing(self) -> Conflict:
        return Conflict(
            f"The deployment {self._encoder.name!r} is answered by one version after another.",
            hint="Wait until it stays with one version, and resume the run.",
        )

    def _run_once(self, texts: Callable[[int, int], Sequence[str]], previous: Path | None) -> bool:
        """False where the version changed in the middle: vectors of two encoders do not compare."""
        self._begin()
        known = {} if previous is None or self.version_id is None else self._known(previous)
        for first in self._firsts():
            if self._part(first).is_file():
                continue
            last = min(len(self._digests), first + self._params.block_passages)
            block_nd = np.zeros((last - first, self.dimensions), np.int8)
            missing = []
            for place in range(last - first):
                found = known.get(self._digests[first + place].tobytes())
                if found is None:
                    missing.append(place)
                else:
                    block_nd[place] = found
            if missing:
                here = texts(first, last)
                for places, vectors in self._asked([(place, here[place]) for place in missing]):
                    if vectors is None:
                        return False
                    block_nd[places] = vectors
            self.num_taken_over += last - first - len(missing)
            self.num_computed += len(missing)
            # Under its name only when it is whole.
            np.save(self._folder / "part.npy", block_nd)
            (self._folder / "part.npy").rename(self._part(first))
            self._on_part(last)
        return True

    def _begin(self) -> None:
        """Ask which version answers; what another one made is removed."""
        probe = self._encoder.embed([_PROBE])
        if len(probe.vectors) != 1 or not probe.vectors[0]:
            raise InvalidData(f"The deployment {self._encoder.name!r} gives no vectors.", hint="Name an encoder.")
        self.version_id, self.dimensions = probe.version_id, len(probe.vectors[0])
        self.num_taken_over = self.num_computed = 0
        state = {"version_id": self.version_id, "dimensions": self.dimensions, "deployment": self._encoder.name}
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / _STATE_FILE
        if file.is_file() and json.loads(file.read_text("utf-8")) == state:
            return
        for part in self._folder.glob("vectors-*.npy"):
            part.unlink()
        file.write_text(json.dumps(state), "utf-8")

    def _known(self, previous: Path) -> dict[bytes, NDArray[np.int8]]:
        try:
            card = open_card(previous, with_digests=True)
        except (InvalidData, IntegrityFailed):
            # Made by other rules, or damaged: everything is computed again.
            return {}
        if card.facts.encoder_version != self.version_id or card.facts.dimensions != self.dimensions:
            return {}
        digests = open_array(previous / "digests.npy", np.uint8, 2)
        vectors = open_array(previous / VECTORS_FILE, np.int8, 2)
        return {digest.tobytes(): vector for digest, vector in zip(digests, vectors, strict=True)}

    def _asked(self, wanted: Sequence[tuple[int, str]]) -> Iterator[tuple[list[int], NDArray[np.int8] | None]]:
        """Places with their vectors, several requests at a time; None where another version answered."""
        # Texts of like length together: an encoder fills a batch up to its longest.
        ordered = sorted(wanted, key=lambda each: (len(each[1]), each[0]))
        batches = [ordered[each : each + self._params.batch_size] for each in range(0, len(ordered), self._params.batch_size)]

        def ask(batch: Sequence[tuple[int, str]]) -> NDArray[np.int8] | None:
            answer = self._encoder.embed([text for _, text in batch])
            if answer.version_id != self.version_id:
                return None
            vectors = np.asarray(answer.vectors, np.float32)
            if vectors.shape != (len(batch), self.dimensions) or not np.isfinite(vectors).all():
                raise InvalidData(
                    f"The deployment {self._encoder.name!r} gave vectors of another form than before, or no finite numbers.",
                    hint="See whether the model is whole: `modelworks embed` shows its vectors.",
                )
            return quantised(vectors)

        with ThreadPoolExecutor(self._params.concurrency) as threads:
            asked = [threads.submit(ask, batch) for batch in batches]
            try:
                for batch, answer in zip(batches, asked, strict=True):
                    yield [place for place, _ in batch], answer.result()
            finally:
                for answer in asked:
                    answer.cancel()

    def _firsts(self) -> range:
        return range(0, len(self._digests), self._params.block_passages)

    def _part(self, first: int) -> Path:
        return self._folder / f"vectors-{first // self._params.block_passages:05}.npy"


def join(parts: Sequence[Path], into: Path, num_passages: int, dimensions: int) -> None:
    """One file of all parts."""
    if not num_passages:
        np.save(into, np.zeros((0, dimensions), np.int8))
        return
    whole = np.lib.format.open_memmap(into, "w+", np.int8, (num_passages, dimensions))
    first = 0
    for part in parts:
        here = np.load(part, allow_pickle=False)
        whole[first : first + len(here)] = here
        first += len(here)
    whole.flush()


def digests_of(digests: Sequence[bytes]) -> NDArray[np.uint8]:
    """Digests as rows of bytes."""
    return np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), DIGEST_BYTES).copy()
