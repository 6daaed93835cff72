"""Documents made passages: how true the text is, whether tables are kept, and pages per CPU-second, beside pypdf and docling.

    python benchmarks/parsing.py [--docling-python PATH] [--docling-parse-python PATH] [--only NAME]
    python benchmarks/parsing.py --office --docling-python PATH

Reads `../shared/data/04-docqa` (or MODELWORKS_SHARED): the office files and PDFs that have reference Markdown, and PDFs without
one (quarterly reports, accident reports, Chinese and English papers) for speed. The references are docling's own accepted
output, which is kind to docling and unkind to what drops page furniture on purpose.

  words   F1 of the words (a Chinese character is one), whatever their order
  order   2 × the longest matching stretches over both lengths, so text in the wrong order costs
  rows    share of the reference's table rows that are found as one row with the same cells, in the same order

docling needs an environment of its own and its weights in it: give its interpreter with --docling-python. Its own reader of
PDFs, docling-parse, needs no weights: it gives lines of text as they stand on the page, no layout and no tables (give an
environment that has it with --docling-parse-python). What is not given is left out, and nothing is said about it. CPU time is
that of reading alone, in one process; the last line is the whole job with its processes, from files to the saved data set.

Its readers of office files need no weights either: --office measures those formats alone, both programs beside each other in
rounds, each after it has read one file of the format, so that imports do not count. For it an environment with
`docling-slim[format-docx,format-pptx,format-xlsx,format-html,format-opendocument,convert-core,models-local]` will do.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path

from modelworks.capabilities.document.blocks import Block, Refused, Source
from modelworks.capabilities.document.formats import reader
from modelworks.capabilities.document.pages import Pages
from modelworks.capabilities.document.parsing import parse_documents
from modelworks.capabilities.document.passages import make_passages, render
from modelworks.capabilities.document.schemas import ParsingRequest
from modelworks.capabilities.document.signature import detect
from modelworks.contract.passages import DOCUMENTS_FILE, Document
from modelworks.testing.fake_run import FakeRun

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("MODELWORKS_SHARED", REPOSITORY.parent / "shared")) / "data" / "04-docqa"
FOLDERS = ("docx", "html", "odf", "pdf", "pptx", "xlsx")
SPEED = {"10-Q": "sec-10q/docs/*.pdf", "accidents": "ntsb/*.pdf", "zh and en": "pdf-zh-en/*.pdf"}
_ROUNDS = 3
WORD = re.compile(r"[\u3005-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+")
DOCLING = """
import json, sys, time
from docling.document_converter import DocumentConverter
converter = DocumentConverter()
known = set()
for path in json.load(sys.stdin):
    for _ in range(1 if path.rpartition(".")[2] in known else 2):
        start = time.process_time()
        try:
            text = converter.convert(path).document.export_to_markdown()
        except Exception as error:
            print(path, error, file=sys.stderr)
            text = ""
    known.add(path.rpartition(".")[2])
    print(json.dumps({"path": path, "cpu_s": time.process_time() - start, "text": text}), flush=True)
"""
DOCLING_PARSE = """
import json, sys, time
from docling_core.types.doc.page import TextCellUnit
from docling_parse.pdf_parser import DoclingPdfParser
parser = DoclingPdfParser()
for path in json.load(sys.stdin):
    start = time.process_time()
    pages = []
    try:
        for _, page in parser.load(path).iterate_pages():
            pages.append("\\n".join(cell.text for cell in page.iterate_cells(TextCellUnit.LINE)))
    except Exception as error:
        print(error, file=sys.stderr)
    print(json.dumps({"path": path, "cpu_s": time.process_time() - start, "text": "\\n\\n".join(pages)}), flush=True)
"""


@dataclass
class Reading:
    """What one program made of one file."""

    text: str
    cpu_s: float
    num_pages: int = 0


@dataclass
class Score:
    """Means over files."""

    words: list[float] = field(default_factory=list)
    order: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    found: int = 0

    def add(self, reading: Reading, reference: str) -> None:
        ours, theirs = WORD.findall(plain(reading.text).lower()), WORD.findall(plain(reference).lower())
        if theirs:
            shared = sum((Counter(ours) & Counter(theirs)).values())
            self.words.append(2 * shared / (len(ours) + len(theirs)))
            self.order.append(SequenceMatcher(None, ours, theirs, autojunk=False).ratio())
        wanted = Counter(rows_of(reference))
        self.rows.append(sum(wanted.values()))
        self.found += sum((wanted & Counter(rows_of(reading.text))).values())

    def __str__(self) -> str:
        rows = f"{self.found / sum(self.rows):6.1%}" if sum(self.rows) else "     –"
        return f"{mean(self.words):7.3f} {mean(self.order):7.3f} {rows} of {sum(self.rows):4d}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--docling-python", metavar="PATH", help="interpreter of an environment that has docling and its weights"
    )
    parser.add_argument("--docling-parse-python", metavar="PATH", help="interpreter of an environment that has docling-parse")
    parser.add_argument("--only", metavar="NAME", help="files whose path holds this")
    parser.add_argument("--each", action="store_true", help="a line for each file")
    parser.add_argument("--office", action="store_true", help="the office files alone, and how fast each program reads them")
    args = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"There is no folder {DATA}. Give the shared data with MODELWORKS_SHARED.")
    wanted = args.only or ""
    references = {path: path.with_name(name) for path in files() if (name := reference(path)) and wanted in str(path)}
    if args.office:
        office({path: text for path, text in references.items() if path.suffix != ".pdf"}, args.docling_python, each=args.each)
        return
    every = [*references, *speed_files(wanted)]
    peers = {
        "docling": run_peer(args.docling_python, DOCLING, every),
        "docling-parse": run_peer(args.docling_parse_python, DOCLING_PARSE, [path for path in every if path.suffix == ".pdf"]),
    }
    fidelity(references, peers, each=args.each)
    print()
    speed(wanted, peers)
    whole_job([path for path in references if path.suffix != ".pdf"] + speed_files(wanted))


def files() -> list[Path]:
    found = (path for folder in FOLDERS for path in sorted((DATA / "office-docs" / folder).iterdir()))
    return [path for path in found if path.suffix != ".md"]


def reference(path: Path) -> str | None:
    """The name of the file with the reference text."""
    names = (f"{path.name}.md", f"{path.stem}.md")
    return next((name for name in names if path.with_name(name).is_file()), None)


def speed_files(wanted: str) -> list[Path]:
    return [path for pattern in SPEED.values() for path in sorted(DATA.glob(pattern)) if wanted in str(path)]


def ours(path: Path) -> Reading:
    """All passages with the headings that are new before each: what a reader of the passages sees."""
    # Without OCR, which the peers here do not have either.
    source = Source(path, path.name, ParsingRequest(ocr="never"))
    start = time.process_time()
    try:
        parsed = reader(detect(source))(source, Pages())
        blocks: list[Block] = list(parsed.blocks)
        passages = [each for section in make_passages("d", blocks, source.request) for each in section]
    except Refused as refused:
        return Reading(f"({refused.fault.code})", time.process_time() - start)
    cpu_s = time.process_time() - start
    # Tables as they were before they were parted: a header that is repeated is not read twice.
    parts = [render(block.table.rows, block.table.num_header) if block.table else block.text for block in blocks]
    assert bool(passages) == any(part.strip() for part in parts), path
    return Reading("\n\n".join(parts), cpu_s, parsed.num_pages or 0)


def pypdf(path: Path) -> Reading:
    import pypdf as library

    logging.disable()

    start = time.process_time()
    pages = library.PdfReader(path).pages
    text = "\n\n".join(page.extract_text() for page in pages)
    return Reading(text, time.process_time() - start, len(pages))


def run_peer(python: str | None, program: str, paths: list[Path]) -> dict[Path, Reading]:
    """What another program made of files, in a process of its own environment."""
    if python is None:
        return {}
    given = json.dumps([str(path) for path in paths])
    done = subprocess.run([python, "-c", program], input=given, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {Path(row["path"]): Reading(row["text"], row["cpu_s"]) for row in rows}


def fidelity(references: dict[Path, Path], peers: dict[str, dict[Path, Reading]], *, each: bool) -> None:
    print(f"{'':22} {'files':>5} {'words':>7} {'order':>7} {'rows':>6}")
    groups = {
        folder: [path for path in references if path.parent.name == folder and path.suffix != ".pdf"] for folder in FOLDERS
    }
    groups["pdf"] = [path for path in references if path.suffix == ".pdf"]
    for folder, paths in groups.items():
        programs: dict[str, Callable[[Path], Reading]] = {"modelworks": ours}
        if folder == "pdf":
            programs["pypdf"] = pypdf
        programs |= {name: found.__getitem__ for name, found in peers.items() if paths and found.keys() >= set(paths)}
        for name, read in programs.items():
            score = Score()
            for path in paths:
                score.add(read(path), references[path].read_text(encoding="utf-8"))
                if each:
                    print(f"    {path.name[:40]:40} {name:10} {score.words[-1:]} {score.order[-1:]} rows {score.rows[-1]}")
            if paths:
                print(f"{folder:8} {name:13} {len(paths):5} {score}")


def speed(wanted: str, peers: dict[str, dict[Path, Reading]]) -> None:
    print(f"{'text-layer PDFs':20} {'pages':>5}  pages per CPU-second")
    total: dict[str, list[float]] = {}
    for name, pattern in SPEED.items():
        paths = [path for path in sorted(DATA.glob(pattern)) if wanted in str(path)]
        # The lines beside each other are about the same pages: scans have no text to be read fast.
        readings = {path: ours(path) for path in paths}
        texts = [path for path in paths if len(readings[path].text) > 200 * readings[path].num_pages]
        num_pages = sum(readings[path].num_pages for path in texts)
        if not texts:
            continue
        said = []
        others = {program: found.get for program, found in peers.items()}
        for program, read in {"modelworks": readings.__getitem__, "pypdf": pypdf, **others}.items():
            found = [reading for path in texts if (reading := read(path)) is not None]
            if not found:
                continue
            cpu_s = sum(reading.cpu_s for reading in found)
            said.append(f"{program} {num_pages / cpu_s:.1f}")
            sums = total.setdefault(program, [0.0, 0.0])
            sums[0] += num_pages
            sums[1] += cpu_s
            if program == "pypdf":
                shared = [agreement(readings[path].text, reading.text) for path, reading in zip(texts, found, strict=True)]
                said.append(f"(of its words, {mean(shared):.1%} are in ours)")
        print(f"{name:20} {num_pages:5}  {'  '.join(said)}")
    rates = {program: pages / cpu_s for program, (pages, cpu_s) in total.items() if cpu_s}
    print(
        f"{'all':20} {int(total.get('modelworks', [0])[0]):5}  "
        + "  ".join(f"{name} {rate:.1f}" for name, rate in rates.items())
    )
    for peer in ("pypdf", *peers):
        if peer in rates:
            print(f"speed over {peer}: {rates['modelworks'] / rates[peer]:.1f} ×")
        else:
            print(f"{peer} was not run: give --{peer}-python")


def office(references: dict[Path, Path], python: str | None, *, each: bool) -> None:
    """Fidelity, and files per CPU-second: medians over interleaved rounds."""
    if python is None:
        raise SystemExit("Give the interpreter of an environment that has docling with --docling-python.")
    paths = list(references)
    for path in {path.suffix: path for path in paths}.values():
        ours(path)
    rounds = [({path: ours(path) for path in paths}, run_peer(python, DOCLING, paths)) for _ in range(_ROUNDS)]
    fidelity(references, {"docling": rounds[0][1]}, each=each)
    print(f"\n{'files per CPU-second':22} files  modelworks  docling  ours over it (median and range of {_ROUNDS} rounds)")
    for folder in (*FOLDERS, "all"):
        chosen = [path for path in paths if folder in ("all", path.parent.name)]
        if not chosen:
            continue
        spent = [[sum(found[path].cpu_s for path in chosen) for found in both] for both in rounds]
        rates = [len(chosen) / statistics.median(seconds) for seconds in zip(*spent, strict=True)]
        ratios = sorted(theirs / mine for mine, theirs in spent)
        told = f"{statistics.median(ratios):6.1f} × ({ratios[0]:.1f}–{ratios[-1]:.1f})"
        print(f"{folder:22} {len(chosen):5}  {rates[0]:10.1f}  {rates[1]:7.1f}  {told}")


def whole_job(paths: list[Path]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "documents").mkdir()
        lines = []
        for number, path in enumerate(paths):
            (root / "documents" / str(number)).write_bytes(path.read_bytes())
            document = Document(
                id=str(number), path=str(number), name=path.name, digest=str(number), num_bytes=path.stat().st_size
            )
            lines.append(document.model_dump_json())
        (root / "documents" / DOCUMENTS_FILE).write_text("\n".join(lines))
        before = cpu_seconds()
        start = time.monotonic()
        run = FakeRun(root / "run", datasets={"documents": root / "documents"})
        output = parse_documents(run, ParsingRequest(ocr="never"))
        took, cpu_s = time.monotonic() - start, cpu_seconds() - before
    print(
        f"whole job: {output.num_documents} documents, {output.num_pages} pages, {output.num_passages} passages "
        f"in {took:.1f} s and {cpu_s:.1f} CPU-s; "
        f"parsed {output.num_parsed}, in part {output.num_partial}, failed {output.num_failed}; faults {output.faults}"
    )


def cpu_seconds() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def agreement(text: str, peer: str) -> float:
    words, theirs = Counter(WORD.findall(text.lower())), Counter(WORD.findall(peer.lower()))
    return sum((words & theirs).values()) / max(1, sum(theirs.values()))


def plain(text: str) -> str:
    """Without what Markdown and docling add: marks, comments, targets of links and pictures."""
    text = re.sub(r"<!--.*?-->", " ", text, flags=re.DOTALL)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", " ", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"</?[a-z]+>", "", text)
    return re.sub(r"&(?:amp|lt|gt);", " ", text)


def rows_of(text: str) -> list[tuple[str, ...]]:
    """The rows of all tables of Markdown, as the words of their cells that hold any."""
    rows = []
    for line in text.splitlines():
        if not line.startswith("|") or re.fullmatch(r"[|\s:-]+", line):
            continue
        cells = [" ".join(WORD.findall(plain(cell).lower())) for cell in line.replace("\\|", " ").strip("|").split("|")]
        kept = [cell for cell in cells if cell]
        # A cell that spans several is said several times by some and once by others.
        rows.append(tuple(cell for number, cell in enumerate(kept) if not number or kept[number - 1] != cell))
    return [row for row in rows if row]


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


if __name__ == "__main__":
    sys.exit(main())
