"""The process in which documents are parsed: `python -m modelworks.capabilities.document.worker MEMORY_BYTES`.

Jobs come in on standard input, one line of JSON each; what becomes of them goes out on standard output. Nothing that a document
does here reaches further: memory is limited, a crash or a loop ends this process alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from modelworks.capabilities.document.blocks import NOTES, Block, Parsed, Refused, Source
from modelworks.capabilities.document.cleaning.copies import num_copies
from modelworks.capabilities.document.formats import fingerprint, reader
from modelworks.capabilities.document.language import language
from modelworks.capabilities.document.pages import Pages
from modelworks.capabilities.document.passages import make_passages, with_languages
from modelworks.capabilities.document.schemas import ParsingRequest
from modelworks.contract.passages import Document, Fault, ParsedDocument, Passage

_DEATH_SIGNAL = 1
_NICENESS = 10
_MAX_FAULTS = 200
_MAX_DEPTH = 3000
_SAMPLE_CHARS = 20_000


@dataclass(frozen=True, slots=True)
class ParsingJob:
    """One document to parse, as it goes over the pipe."""

    document: Document
    request: ParsingRequest
    #: Of the file; where its passages go; where pages that are read are kept.
    path: Path
    into: Path
    partial: Path
    plain: frozenset[int] = frozenset()
    skipped: tuple[Fault, ...] = ()

    def to_line(self) -> str:
        """As one line of JSON."""
        fields = {
            "document": self.document.model_dump(mode="json"),
            "request": self.request.model_dump(mode="json"),
            "path": str(self.path),
            "into": str(self.into),
            "partial": str(self.partial),
            "plain": sorted(self.plain),
            "skipped": [fault.model_dump() for fault in self.skipped],
        }
        return json.dumps(fields) + "\n"

    @classmethod
    def from_line(cls, line: str) -> ParsingJob:
        """The job of a line that `to_line` wrote."""
        fields = json.loads(line)
        return cls(
            document=Document.model_validate(fields["document"]),
            request=ParsingRequest.model_validate(fields["request"]),
            path=Path(fields["path"]),
            into=Path(fields["into"]),
            partial=Path(fields["partial"]),
            plain=frozenset(fields["plain"]),
            skipped=tuple(Fault.model_validate(each) for each in fields["skipped"]),
        )


def parse(job: ParsingJob, tell: Callable[[dict[str, Any]], None]) -> ParsedDocument:
    """Read one document, write its passages, and say what became of it.

    Args:
        tell: is told of every page before it is read, and when the pages are done.
    """
    from modelworks.capabilities.document.signature import detect

    document = job.document
    source = Source(job.path, document.name, job.request, document.media_type)
    form, found = "unknown", None
    passages: list[Passage] = []
    try:
        form = detect(source)
        skipped = {fault.page: fault for fault in job.skipped if fault.page is not None}
        pages = Pages(
            job.partial,
            plain=job.plain,
            skipped=skipped,
            tell=lambda number, total: tell({"page": number, "of": total}),
        )
        found = reader(form)(source, pages)
        tell({"pages": "done"})
        passages = _passages(document.id, found, job.request)
        faults = found.faults
        if not passages and all(fault.code in NOTES for fault in faults):
            faults.append(Fault(code="no_text", message="The document holds no text.", hint="Put in one that does."))
    except Refused as refused:
        faults = [*(found.faults if found is not None else []), refused.fault]
        passages = []
    except (MemoryError, RecursionError) as error:
        passages, faults = [], [_exhausted(error)]
    except ModuleNotFoundError as error:
        passages, faults = [], [_lacking(error)]
    except Exception as error:
        traceback.print_exc()
        passages, faults = [], [_bug(error)]
    of_document = document.language or language(_sample(passages))
    passages = with_languages(passages, of_document)
    with job.into.open("w", encoding="utf-8") as file:
        file.writelines(f"{passage.model_dump_json(exclude_defaults=True)}\n" for passage in passages)
    serious = [fault for fault in faults if fault.code not in NOTES]
    return ParsedDocument(
        id=document.id,
        name=document.name,
        digest=document.digest,
        parser=fingerprint(form, job.request),
        state="parsed" if not serious else "partial" if passages else "failed",
        title=(found.title if found is not None else None) or _title(passages),
        media_type=found.media_type if found is not None else document.media_type,
        language=of_document,
        licence=document.licence,
        num_pages=found.num_pages if found is not None else None,
        num_passages=len(passages),
        num_chars=sum(len(passage.text) for passage in passages),
        num_copies=num_copies(passages),
        faults=faults[:_MAX_FAULTS],
    )


def _passages(document_id: str, found: Parsed, request: ParsingRequest) -> list[Passage]:
    left = request.max_document_chars
    passages = []
    for made in make_passages(document_id, _limited(found, left), request):
        passages.extend(made)
    return passages


def _limited(found: Parsed, left: int) -> Iterator[Block]:
    """The blocks up to the limit of characters; what is behind it is not even made."""
    from modelworks.capabilities.document.signature import truncated

    total = left
    blocks: Iterable[Block] = found.blocks
    for block in blocks:
        left -= len(block.text) if block.table is None else sum(len(cell) for row in block.table.rows for cell in row)
        if left < 0:
            if all(fault.code != "truncated" for fault in found.faults):
                found.faults.append(truncated(total))
            return
        yield block


def _sample(passages: list[Passage]) -> str:
    parts, size = [], 0
    for passage in passages:
        if passage.kind != "code":
            parts.append(passage.text)
            size += len(passage.text)
        if size > _SAMPLE_CHARS:
            break
    return "\n".join(parts)


def _title(passages: list[Passage]) -> str | None:
    return next((passage.place.headings[0] for passage in passages if passage.place.headings), None)


def _exhausted(error: BaseException) -> Fault:
    if isinstance(error, RecursionError):
        return Fault(code="too_deep", message="The document is nested too deeply.", hint="Save it in a simpler form.")
    return Fault(
        code="out_of_memory",
        message="The document needs more memory than a parsing process may use.",
        hint="Split it, or raise worker_memory_bytes.",
    )


def _lacking(error: ModuleNotFoundError) -> Fault:
    return Fault(
        code="missing_extra",
        message=f"This needs the library {error.name!r}, which is not installed.",
        hint='Install it with: pip install "modelworks[documents]".',
    )


def _bug(error: BaseException) -> Fault:
    return Fault(
        code="parser_failed",
        message=f"The parser failed on this document: {type(error).__name__}: {str(error)[:300]}",
        hint="Save it in another form. The traceback is in the log of the run.",
    )


def _confine(memory_bytes: int) -> None:
    """Little right of way, little memory, no core files, and no life after the parent's."""
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    for kind, limit in ((resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(OSError, ValueError):
            hard = resource.getrlimit(kind)[1]
            resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")


def main(argv: list[str]) -> int:
    """Entry of the process: parses until standard input ends."""
    parent = os.getppid()
    _confine(int(argv[0]))
    if os.getppid() != parent:
        return 0
    # What libraries print goes to the log; the pipe is ours alone.
    pipe: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    sys.setrecursionlimit(_MAX_DEPTH)
    # Cancelling a run signals its whole group; the parent says when this process is to end.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def tell(message: dict[str, Any]) -> None:
        pipe.write(json.dumps(message) + "\n")

    tell({"ready": os.getpid()})
    for line in sys.stdin:
        try:
            parsed = parse(ParsingJob.from_line(line), tell)
        except MemoryError:
            return 3
        is_last = any(fault.code == "out_of_memory" for fault in parsed.faults)
        tell({"result": parsed.model_dump(mode="json"), "last": is_last})
        if is_last:
            return 0  # what is left of its memory may be in pieces
    return 0


if __name__ == "__main__":
    exit_code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(exit_code)
