"""Build an index of passages: words in blocks, vectors from a deployed encoder, every step resumable."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np

from modelworks.capabilities.retrieval.data import read_documents, read_passages
from modelworks.capabilities.retrieval.encoding import Encoding, digests_of, join
from modelworks.capabilities.retrieval.layout import (
    VECTORS_FILE,
    IndexCard,
    Passages,
    PassageWriter,
    counted_text,
    digest_of,
    encoded_text,
    seal,
)
from modelworks.capabilities.retrieval.schemas import BuildParams
from modelworks.capabilities.retrieval.vectors import VectorIndex, unlikeness
from modelworks.capabilities.retrieval.weighing import WEIGHING_VERSION, Trust, taken_over, trust
from modelworks.capabilities.retrieval.words import WordIndex, merge, write_block
from modelworks.contract.errors import Cancelled, InvalidData, Unavailable
from modelworks.contract.passages import IndexFacts, Passage
from modelworks.contract.run import Run


def build_index(run: Run, params: BuildParams) -> None:
    """Build an index of the data set of role "passages", and save it as a model of this task.

    Optional inputs: the deployment of role "encoder", which gives the passages vectors; and the model of role "previous", an
    earlier index, whose vectors are taken over where text and version of the encoder are the same (one that cannot be read is
    left alone).

    Raises:
        InvalidData: a line of the data has a fault, or the encoder's vectors are of no use.
        Cancelled: the user stopped the run; a checkpoint was stored first. Unavailable: the encoder stayed away; likewise.
        Conflict: other versions of the encoder kept answering.
    """
    _Build(run, params).run()


class _Build:
    def __init__(self, run: Run, params: BuildParams) -> None:
        self._run = run
        self._params = params
        #: What a checkpoint is: blocks of words, and parts of vectors.
        self._kept = run.workdir / "kept"
        if run.resume_from is not None:
            shutil.copytree(run.resume_from, self._kept)
        self._kept.mkdir(exist_ok=True)
        self._folder = run.workdir / "index"
        #: Name and title of the document of each row.
        self._named: list[tuple[str, str | None]] = []
        self._last_checkpoint = time.monotonic()

    def run(self) -> None:
        passages = self._store()
        count = len(passages)
        blocks = -(-count // self._params.block_passages)
        with_vectors = self._run.has_input("encoder")
        total = count * (2 if with_vectors else 1)
        words = [self._words(passages, block, total) for block in range(blocks)]
        merge(words, self._folder)
        digests = [digest_of(text) for block in range(blocks) for text in self._texts(passages, *self._rows(block, count))]
        digests_nb = digests_of(digests)
        np.save(self._folder / "digests.npy", digests_nb)
        facts = IndexFacts(num_documents=len(passages.documents), num_passages=count)
        card = IndexCard(facts=facts)
        metrics = {"num_documents": float(facts.num_documents), "num_passages": float(count)}
        if with_vectors:
            encoder = self._run.deployment("encoder")

            def on_part(done: int) -> None:
                self._step(blocks + -(-done // self._params.block_passages), count + done, total)

            encoding = Encoding(encoder, self._params, self._kept / "vectors", digests_nb, on_part)
            earlier = self._run.model("previous").path if self._run.has_input("previous") else None
            file = self._folder / VECTORS_FILE
            try:
                parts = encoding.run(lambda first, last: self._texts(passages, first, last), earlier)
                join(parts, file, count, encoding.dimensions)
                vectors = VectorIndex(file, count, encoding.dimensions)
                card.unlike = unlikeness(vectors.rows)
                known = None if earlier is None else taken_over(earlier, encoding.version_id, count)
                found = known or self._trust(passages, vectors, card.unlike, encoding)
            except (Cancelled, Unavailable):
                # What the encoder has done is what costs most.
                self._run.checkpoint(self._kept)
                raise
            facts.encoder, facts.encoder_version = encoder.name, encoding.version_id
            facts.dimensions = encoding.dimensions
            card.dense_weight, card.dense_weight_unspaced = found.spaced, found.unspaced
            card.weighing = WEIGHING_VERSION
            metrics |= {
                "num_taken_over": float(encoding.num_taken_over),
                "num_encoded": float(encoding.num_computed),
                "dense_weight": found.spaced,
                "dense_weight_unspaced": found.unspaced,
            }
        self._run.progress(total, total, "passages")
        seal(self._folder, card)
        self._run.save(
            self._folder,
            kind="model",
            metadata={
                "task": "passage-retrieval",
                "level": self._params.level or "L2",
                "name": self._params.name,
                "licence": self._run.dataset("passages").licence,
                "metrics": metrics,
                "index": facts.model_dump(),
            },
        )

    def _store(self) -> Passages:
        """Copy all passages into the index, checked; a document without any is part of it too."""
        source = self._run.dataset("passages").path
        writer = PassageWriter(self._folder)
        for document in read_documents(source):
            added = writer.add(document.id, read_passages(source, document))
            if document.num_passages > added:
                raise InvalidData(
                    f"The document {document.id!r} has {document.num_passages} passages by documents.jsonl; {added} are there."
                )
            self._named += [(document.name, document.title)] * added
            self._run.raise_if_cancelled()
        writer.close()
        return Passages(self._folder)

    def _trust(self, passages: Passages, vectors: VectorIndex, unlike: float, encoding: Encoding) -> Trust:
        headings = self._params.headings

        def texts(row: int, passage: Passage) -> tuple[str, str]:
            name, title = self._named[row]
            return encoded_text(passage, title, headings), counted_text(passage, name, title, headings)

        words = WordIndex(self._folder, len(passages))
        return trust(passages, words, vectors, unlike, texts, encoding.vectors)

    def _texts(self, passages: Passages, first: int, last: int) -> list[str]:
        """What is encoded of some rows."""
        headings = self._params.headings
        return [encoded_text(passages.at(row), self._named[row][1], headings) for row in range(first, last)]

    def _counted(self, passages: Passages, first: int, last: int) -> list[str]:
        """What is counted of them."""
        headings = self._params.headings
        return [counted_text(passages.at(row), *self._named[row], headings) for row in range(first, last)]

    def _rows(self, block: int, count: int) -> tuple[int, int]:
        first = block * self._params.block_passages
        return first, min(count, first + self._params.block_passages)

    def _words(self, passages: Passages, block: int, total: int) -> Path:
        folder = self._kept / f"words-{block:05}"
        first, last = self._rows(block, len(passages))
        if folder.is_dir():
            return folder
        write_block(folder, self._counted(passages, first, last))
        self._step(block + 1, last, total)
        return folder

    def _step(self, step: int, done: int, total: int) -> None:
        """Tell how far the run is; a checkpoint now and then, and before the run ends because somebody wants it to."""
        self._run.log(step, passages=float(done))
        self._run.progress(done, total, "passages")
        is_due = time.monotonic() - self._last_checkpoint >= self._params.checkpoint_s
        try:
            self._run.raise_if_cancelled()
        except Cancelled:
            self._run.checkpoint(self._kept)
            raise
        if is_due:
            self._run.checkpoint(self._kept)
            self._last_checkpoint = time.monotonic()
