"""Documents made in the tests: small ones of each form, written by hand."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import openpyxl

from modelworks.capabilities.document.blocks import Block, Parsed, Source
from modelworks.capabilities.document.formats import reader
from modelworks.capabilities.document.pages import Pages
from modelworks.capabilities.document.parsing import parse_documents
from modelworks.capabilities.document.passages import make_passages
from modelworks.capabilities.document.schemas import ParsingOutput, ParsingRequest
from modelworks.capabilities.document.signature import detect
from modelworks.contract.passages import DOCUMENTS_FILE, PASSAGES_FOLDER, Document, ParsedDocument, Passage
from modelworks.testing.fake_run import FakeRun, Saved

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def write_documents(folder: Path, files: Mapping[str, bytes | str], **fields: Any) -> Path:
    """A data set of documents; their ids are their names with everything but letters and digits made `-`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (name, content) in enumerate(files.items()):
        data = content.encode() if isinstance(content, str) else content
        path = folder / "files" / str(number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        document = Document(
            id="".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name),
            path=f"files/{number}",
            name=name,
            digest=f"sha256:{hashlib.sha256(data).hexdigest()}",
            num_bytes=len(data),
            **fields,
        )
        lines.append(document.model_dump_json())
    (folder / DOCUMENTS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def parse(root: Path, files: Mapping[str, bytes | str], **request: Any) -> tuple[ParsingOutput, Saved]:
    """Run the job on some files, one process at a time."""
    run = FakeRun(root / "run", datasets={"documents": write_documents(root / "documents", files)})
    output = parse_documents(run, ParsingRequest(num_processes=1, **request))
    return output, run.saved[0]


def results(saved: Saved) -> dict[str, ParsedDocument]:
    """What became of each document, by its name."""
    lines = (saved.path / DOCUMENTS_FILE).read_text(encoding="utf-8").splitlines()
    return {parsed.name: parsed for parsed in map(ParsedDocument.model_validate_json, lines)}


def passages(saved: Saved, document_id: str) -> list[Passage]:
    """The passages of one document."""
    lines = (saved.path / PASSAGES_FOLDER / f"{document_id}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Passage.model_validate_json(line) for line in lines]


def read(folder: Path, name: str, content: bytes | str, **request: Any) -> tuple[Parsed, list[Block]]:
    """What the reader of a file's format gives, in this process."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "file"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    source = Source(path, name, ParsingRequest(**request))
    parsed = reader(detect(source))(source, Pages())
    return parsed, list(parsed.blocks)


def passages_of(blocks: Sequence[Block], **request: Any) -> list[Passage]:
    """The passages that blocks make."""
    return [passage for section in make_passages("d", blocks, ParsingRequest(**request)) for passage in section]


def zipped(path: Path, parts: Mapping[str, bytes | str]) -> bytes:
    """A zip file with these parts."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path.read_bytes()


def docx(path: Path, body: str, **parts: bytes | str) -> bytes:
    """A Word document with that XML in its body, with styles `heading1`, `code` …; list 1 has bullets, list 2 numbers."""
    styles = (
        f"<w:styles {W}>"
        '<w:style w:type="paragraph" w:styleId="heading1"><w:name w:val="heading 1"/></w:style>'
        '<w:style w:type="paragraph" w:styleId="heading2"><w:name w:val="heading 2"/></w:style>'
        '<w:style w:type="paragraph" w:styleId="own"><w:name w:val="Own"/><w:basedOn w:val="heading2"/></w:style>'
        '<w:style w:type="paragraph" w:styleId="code"><w:name w:val="Source Code"/></w:style></w:styles>'
    )
    numbering = (
        f"<w:numbering {W}>"
        + "".join(
            f'<w:abstractNum w:abstractNumId="{number}"><w:lvl w:ilvl="0"><w:numFmt w:val="{form}"/></w:lvl></w:abstractNum>'
            f'<w:num w:numId="{number}"><w:abstractNumId w:val="{number}"/></w:num>'
            for number, form in ((1, "bullet"), (2, "decimal"))
        )
        + "</w:numbering>"
    )
    return zipped(
        path,
        {
            "[Content_Types].xml": "<Types/>",
            "word/document.xml": f"<w:document {W}><w:body>{body}</w:body></w:document>",
            "word/styles.xml": styles,
            "word/numbering.xml": numbering,
            **{name.replace("__", "/"): content for name, content in parts.items()},
        },
    )


def paragraph(text: str, properties: str = "") -> str:
    """The XML of a paragraph."""
    return f"<w:p><w:pPr>{properties}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>"


def pdf(pages: Sequence[str], *, info: str = "", extra: str = "", fonts: str = "") -> bytes:
    """A PDF of A4 pages with these content streams; /F1 is Helvetica, /F2 bold, and `fonts` may hold others.

    The stream of page n, from 0, is object 3 + 2 n.
    """
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    kids = []
    for content in pages:
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources << /Font << "
            "/F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >> "
            "/F2 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica-Bold /Encoding /WinAnsiEncoding >> "
            f"{fonts} >> >> {extra} /Contents {len(objects)} 0 R >>"
        )
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    objects.append(f"<< {info} >>")
    out = b"%PDF-1.4\n"
    places = []
    for number, text in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{text}\nendobj\n".encode("latin-1")
    start = len(out)
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}".encode()
    return (
        out + f"trailer << /Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R >>\nstartxref\n{start}\n%%EOF".encode()
    )


def line(x: float, y: float, text: str, *, size: float = 10, font: str = "F1") -> str:
    """A line of text for a content stream; y from the top of the page."""
    escaped = text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
    return f"BT /{font} {size} Tf {x} {842 - y} Td ({escaped}) Tj ET\n"


def lines(x: float, y: float, texts: Sequence[str], *, size: float = 10, step: float = 12) -> str:
    """Lines one under the other."""
    return "".join(line(x, y + number * step, text, size=size) for number, text in enumerate(texts))


def as_json(rows: Sequence[object]) -> str:
    """One line of JSON each."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def xlsx(path: Path, sheets: Mapping[str, Sequence[Sequence[Any]]]) -> bytes:
    """A workbook with these rows."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(list(row))
    book.save(path)
    return path.read_bytes()


def pptx(path: Path, slides: Sequence[str]) -> bytes:
    """A presentation whose slides hold these shapes."""
    space = 'xmlns:a="a" xmlns:p="p" xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
    numbers = range(1, len(slides) + 1)
    ids = "".join(f'<p:sldId r:id="r{n}"/>' for n in numbers)
    relations = "".join(f'<Relationship Id="r{n}" Type="t/slide" Target="slides/s{n}.xml"/>' for n in numbers)
    parts = {
        "[Content_Types].xml": "<Types/>",
        "ppt/presentation.xml": f'<p:p {space}><p:sldIdLst>{ids}</p:sldIdLst><p:sldSz cx="1000" cy="500"/></p:p>',
        "ppt/_rels/presentation.xml.rels": f"<Relationships>{relations}</Relationships>",
    }
    for number, shapes in enumerate(slides, 1):
        parts[f"ppt/slides/s{number}.xml"] = f"<p:sld {space}><p:cSld><p:spTree>{shapes}</p:spTree></p:cSld></p:sld>"
    return zipped(path, parts)
