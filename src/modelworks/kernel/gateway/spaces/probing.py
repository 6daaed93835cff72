"""What is looked for before and after a document is forgotten: its very sentences, in the index and in every stored file.

Only sentences that no other document has are looked for: what others say, too, is rightly found again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, cast

import structlog

from modelworks.contract.errors import ModelNotFound, ModelworksError, NotFound, Unavailable
from modelworks.contract.media import File
from modelworks.contract.passages import PASSAGES_FOLDER, Passage, SearchInput, SearchOutput
from modelworks.kernel.gateway.exchange import Call, exchange, refusal
from modelworks.kernel.gateway.spaces.wording import sentences
from modelworks.kernel.serving import ReplicaPool, Route
from modelworks.kernel.storage import BlobStore

log = structlog.get_logger(__name__)

#: Sentences that are looked for: so many, each so long in characters.
_MOST_SENTENCES, _LEAST_CHARS, _MOST_CHARS = 12, 16, 300
#: Of a document's sentences, so many at most are held against the other documents.
_MOST_CANDIDATES: Final = 400
_ASK_TIMEOUT_S: Final = 30.0
_PIECE_BYTES: Final = 1 << 20


class IndexProbe:
    """Asks an index itself, past everything that a space lets through; for threads beside the server's event loop."""

    def __init__(self, pool: ReplicaPool) -> None:
        self._pool = pool
        self._loop: asyncio.AbstractEventLoop | None = None

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Say in which loop the pool lives: the server runs from now on."""
        self._loop = loop

    def __call__(self, project_id: str, deployment: str, queries: Sequence[str]) -> SearchOutput | None:
        """What the index of that deployment has for the queries; None where there is none.

        Raises:
            Unavailable: it does not answer now, or the server stops.
        """
        loop = self._loop
        if loop is None or loop.is_closed():
            raise Unavailable("The server stops.", retry_after_s=5)
        asking = asyncio.run_coroutine_threadsafe(self._ask(project_id, deployment, queries), loop)
        try:
            return asking.result(_ASK_TIMEOUT_S)
        except ModelNotFound:
            return None
        except TimeoutError as error:
            asking.cancel()
            raise Unavailable("The index does not answer.", code="space_unavailable", retry_after_s=5) from error

    async def _ask(self, project_id: str, deployment: str, queries: Sequence[str]) -> SearchOutput:
        body = SearchInput(queries=[*queries], limit=50).model_dump_json().encode()

        def prepare(_route: Route) -> Call:
            return Call("/invoke", body)

        async with exchange(self._pool, project_id, deployment, prepare, None) as (_, response):
            if response.status != 200:
                raise await refusal(response)
            return SearchOutput.model_validate_json(await response.read())


#: Project, deployment, queries: what the index itself has; None where there is no index.
AskIndex = Callable[[str, str, Sequence[str]], SearchOutput | None]


def texts_of(blobs: BlobStore, files: Iterable[File], document_id: str) -> list[str]:
    """The passages of a document in a data set of passages; none where it has none."""
    wanted = f"{PASSAGES_FOLDER}/{document_id}.jsonl"
    found: list[str] = []
    for file in files:
        if file.path != wanted:
            continue
        with suppress(NotFound):
            lines = b"".join(blobs.iter(file.digest)).splitlines()
            found += [Passage.model_validate_json(line).text for line in lines if line.strip()]
    return found


def own_sentences(blobs: BlobStore, texts: Sequence[str], others: Sequence[File]) -> list[str]:
    """Sentences of a document's passages that no other file has, spread over the document."""
    found = dict.fromkeys(
        span.text
        for text in texts
        for span in sentences(text)
        if _LEAST_CHARS <= len(span.text) <= _MOST_CHARS and "\n" not in span.text
    )
    candidates = _spread([*found], _MOST_CANDIDATES)
    shared = {sentence for _, held in holding(blobs, others, candidates) for sentence in held}
    return _spread([each for each in candidates if each not in shared], _MOST_SENTENCES)


def holding(blobs: BlobStore, files: Iterable[File], wanted: Sequence[str]) -> list[tuple[File, list[str]]]:
    """The files in which one of the sentences stands, word for word, with those that do; each content is read once."""
    forms = {sentence: tuple(form.encode() for form in spellings(sentence)) for sentence in wanted}
    known: dict[str, list[str]] = {}
    found = []
    for file in files:
        if not forms:
            break
        if file.digest not in known:
            known[file.digest] = _held(blobs, file.digest, forms)
        if known[file.digest]:
            found.append((file, known[file.digest]))
    return found


def search_for(ask: AskIndex, project_id: str, deployment: str, wanted: Sequence[str], document_id: str) -> dict[str, Any]:
    """How many passages of a document its index finds by the document's own sentences."""
    found: set[str] = set()
    asked = 0
    for start in range(0, len(wanted), 8):
        output = ask(project_id, deployment, wanted[start : start + 8])
        if output is None:
            return {"asked": asked, "found": len(found), "index": False}
        asked += len(output.hits)
        found |= {hit.passage.id for hits in output.hits for hit in hits if hit.passage.document_id == document_id}
    return {"asked": asked, "found": len(found), "index": True}


def tried(ask: AskIndex | None, project_id: str, deployment: str, wanted: Sequence[str], document_id: str) -> dict[str, Any]:
    """`search_for`, or why it was not possible, where that must not hold anything up."""
    if ask is None or not wanted:
        return {"asked": 0, "found": 0, "index": False}
    try:
        return search_for(ask, project_id, deployment, wanted, document_id)
    except ModelworksError as error:
        log.info("an index could not be asked", deployment=deployment, reason=error.message)
        return {"asked": 0, "found": 0, "index": False, "reason": error.message}


def without_document(data: bytes, document_id: str) -> tuple[bytes, int]:
    """The lines of a set of samples that do not name a document, and how many did."""
    lines = data.splitlines(keepends=True)
    kept = [line for line in lines if not names(line, document_id)]
    return b"".join(kept), len(lines) - len(kept)


def names(line: bytes, document_id: str) -> bool:
    """Whether a sample was made of a document, or showed a passage of it."""
    if document_id.encode() not in line:
        return False
    try:
        origin: Mapping[str, Any] = json.loads(line).get("origin") or {}
    except (ValueError, AttributeError):
        return True  # nobody knows: it goes
    shown = [str(each).partition(":")[0] for each in (*origin.get("shown", ()), origin.get("passage_id") or "")]
    return document_id in (origin.get("document_id"), *origin.get("documents", ()), *shown)


def spellings(sentence: str) -> tuple[str, ...]:
    """How a sentence stands in texts and in JSON."""
    return tuple(dict.fromkeys((sentence, json.dumps(sentence, ensure_ascii=False)[1:-1], json.dumps(sentence)[1:-1])))


def _held(blobs: BlobStore, digest: str, forms: Mapping[str, tuple[bytes, ...]]) -> list[str]:
    longest = max(len(form) for each in forms.values() for form in each)
    missing, found, rest = dict(forms), [], b""
    try:
        for chunk in blobs.iter(digest, _PIECE_BYTES):
            piece = rest + chunk
            for sentence in [each for each, spelled in missing.items() if any(form in piece for form in spelled)]:
                found.append(sentence)
                del missing[sentence]
            if not missing:
                break
            rest = piece[-(longest - 1) :] if longest > 1 else b""
    except NotFound:
        return []
    return found


def _spread(found: list[str], number: int) -> list[str]:
    if len(found) <= number:
        return found
    return [found[at * len(found) // number] for at in range(number)]


def files_of(rows: Iterable[Any]) -> list[File]:
    """The files of versions' rows."""
    return [File.model_validate(cast(dict[str, Any], file)) for row in rows for file in row.files]
