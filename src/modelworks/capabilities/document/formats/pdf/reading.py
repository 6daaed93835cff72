"""A PDF file, page by page through pdfium."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pypdfium2 as pdfium
import pypdfium2.raw as raw

from modelworks.capabilities.document import ocr
from modelworks.capabilities.document.blocks import Parsed, Refused, Source
from modelworks.capabilities.document.formats.pdf.characters import read_runs
from modelworks.capabilities.document.formats.pdf.columns import in_order
from modelworks.capabilities.document.formats.pdf.paragraphs import assemble
from modelworks.capabilities.document.formats.pdf.rules import drawn_lines, take_ruled
from modelworks.capabilities.document.formats.pdf.tables import items_of
from modelworks.capabilities.document.pages import PageRecord, Pages
from modelworks.capabilities.document.schemas import ParsingRequest
from modelworks.capabilities.document.signature import MEDIA_TYPES
from modelworks.contract.passages import Fault

#: A page with fewer characters than this, and a picture over this share of it, is a scan.
_FEW_CHARS, _SCANNED_AREA = 24, 0.3
_DOTS_PER_INCH, _MAX_SIDE = 200, 4_000
#: A page on which this share of the characters means nothing has a broken text layer.
_GARBLED = 0.25
_PRIVATE = re.compile("[\ue000-\uf8ff\ufffd\x00-\x08\x0e-\x1f\U000f0000-\U0010ffff]")


def read(source: Source, pages: Pages) -> Parsed:
    """All pages that were not read before, then the blocks over all of them.

    Raises:
        Refused: a password is wanted, the file is corrupt or has no page with text.
    """
    document = _open(source.path)
    try:
        total = len(document)
        last = min(total, source.request.max_pages)
        for number in range(1, last + 1):
            if number in pages.done:
                continue
            pages.begin(number, last)
            fault = pages.skipped.get(number)
            if fault is not None:
                pages.finish({"page": number, "items": [], "fault": fault.model_dump()})
            else:
                pages.finish(_page(document, number, source.request, is_plain=number in pages.plain))
        title = _title(document)
    finally:
        document.close()
    records = [pages.done[number] for number in range(1, last + 1)]
    faults = _grouped(records)
    if last < total:
        faults.append(
            Fault(
                code="truncated",
                message=f"Only the first {last} of {total} pages were read.",
                hint="Split the document, or raise max_pages.",
                page=last + 1,
            )
        )
    return Parsed(blocks=assemble(records), media_type=MEDIA_TYPES["pdf"], title=title, num_pages=total, faults=faults)


def _open(path: Path) -> Any:
    try:
        document = pdfium.PdfDocument(path)
    except pdfium.PdfiumError as error:
        code = raw.FPDF_GetLastError()
        if code == raw.FPDF_ERR_PASSWORD or "assword" in str(error):
            raise Refused("encrypted", "The document is protected by a password.", "Save it without the password.") from error
        if code == raw.FPDF_ERR_SECURITY or "ecurity" in str(error):
            raise Refused("encrypted", "The document is protected in a way that cannot be read.", "Save it without.") from error
        raise Refused(
            "corrupt", f"The document is damaged: {str(error).rstrip('.')}.", "Open it in a viewer, and print it to a new PDF."
        ) from error
    if len(document) == 0:
        document.close()
        raise Refused("corrupt", "The document has no page.", "Open it in a viewer, and print it to a new PDF.")
    return document


def _title(document: Any) -> str | None:
    try:
        title = str(document.get_metadata_value("Title")).strip()
    except (pdfium.PdfiumError, UnicodeDecodeError, ValueError):
        return None
    # Programs put a file's name there, or what the template was called.
    is_name = re.search(
        r"\.(docx?|xlsx?|pptx?|tex|dvi|pdf|indd|qxd)$|^(untitled|microsoft word|powerpoint|document\d*$)", title, re.I
    )
    is_number = len(title.split()) < 2 and any(letter.isdigit() for letter in title)
    return None if not title or is_name or is_number or _PRIVATE.search(title) else title[:300]


def _page(document: Any, number: int, request: ParsingRequest, *, is_plain: bool) -> PageRecord:
    try:
        page = document[number - 1]
    except pdfium.PdfiumError as error:
        return _failed(number, "corrupt_page", f"Page {number} cannot be opened ({error}).")
    try:
        textpage = page.get_textpage()
    except pdfium.PdfiumError as error:
        page.close()
        return _failed(number, "corrupt_page", f"The text of page {number} cannot be read ({error}).")
    try:
        width, height = page.get_size()
        if is_plain:
            return _plain(textpage, number, width, height)
        level, upright = drawn_lines(page)
        runs, aside = read_runs(page, textpage, [(line.at, line.start, line.end) for line in upright])
        said = "".join(run.text for run in runs)
        record: PageRecord = {"page": number, "size": [round(width, 1), round(height, 1)]}
        is_scan = len(said) + sum(map(len, aside)) < _FEW_CHARS and _is_scan(page, width, height)
        is_garbled = len(_PRIVATE.findall(said)) > _GARBLED * max(1, len(said))
        if (is_scan or is_garbled) and ocr.is_wanted(request):
            runs, width, height = ocr.read_image(_picture(page, width, height), width, height)
            size = [round(width, 1), round(height, 1)]
            return {"page": number, "size": size, "items": items_of(in_order(runs, width))}
        if is_garbled:
            return record | {"items": [], "fault": _garbled(number).model_dump()}
        if is_scan:
            record["fault"] = _scan(number).model_dump()
        runs, ruled = take_ruled(level, upright, runs)
        record["items"] = items_of(in_order(runs, width), ruled) + [{"aside": text} for text in aside]
        return record
    finally:
        textpage.close()
        page.close()


def _plain(textpage: Any, number: int, width: float, height: float) -> PageRecord:
    """The text as pdfium gives it: when the way over geometry took too long."""
    text = textpage.get_text_range()
    lines = [line.strip() for line in text.replace("\r", "").split("\n")]
    if not lines:
        return _failed(number, "timed_out", f"Page {number} took too long to be read.")
    items = [{"text": line, "box": [0, 0, width, height], "size": 10.0, "plain": True} for line in lines if line]
    fault = Fault(
        code="page_simplified",
        message=f"Page {number} took too long; its text was taken without columns and tables.",
        hint="Raise page_timeout_s to have it read in full.",
        page=number,
    )
    return {"page": number, "size": [width, height], "items": items, "fault": fault.model_dump()}


def _picture(page: Any, width: float, height: float) -> Any:
    """The page as dots, blue first."""
    import numpy as np

    scale = min(_DOTS_PER_INCH / 72, _MAX_SIDE / max(width, height, 1.0))
    bitmap = page.render(scale=scale, rev_byteorder=False)
    image = bitmap.to_numpy()
    image = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image[..., :3]
    return np.ascontiguousarray(image if image.shape[2] == 3 else np.repeat(image[..., :1], 3, axis=2))


def _is_scan(page: Any, width: float, height: float) -> bool:
    area = 0.0
    for item in page.get_objects(filter=(raw.FPDF_PAGEOBJ_IMAGE,), max_depth=3):
        left, bottom, right, top = item.get_bounds()
        area += max(0.0, right - left) * max(0.0, top - bottom)
        if area > _SCANNED_AREA * width * height:
            return True
    return False


def _failed(number: int, code: str, message: str) -> PageRecord:
    fault = Fault(code=code, message=message, hint="Open the document in a viewer, and print it to a new PDF.", page=number)
    return {"page": number, "items": [], "fault": fault.model_dump()}


def _scan(number: int) -> Fault:
    return Fault(
        code="ocr_missing",
        message=f"Page {number} is a picture of text.",
        hint='Install OCR with: pip install "modelworks[ocr]", or put in a document with text.',
        page=number,
    )


def _garbled(number: int) -> Fault:
    return Fault(
        code="garbled_text",
        message=f"The text layer of page {number} holds no characters that mean something.",
        hint="Print the document to a new PDF with its fonts embedded.",
        page=number,
    )


def _grouped(records: list[PageRecord]) -> list[Fault]:
    """One fault for neighbouring pages that all have the same: a book of scans has one, not a thousand."""
    found: list[Fault] = []
    first = previous = 0
    for record in records:
        if not record.get("fault"):
            continue
        fault = Fault.model_validate(record["fault"])
        number = int(record["page"])
        if found and found[-1].code == fault.code and previous == number - 1:
            held = found.pop()
            name = re.sub(rf"[Pp]ages? {first}(?:–\d+)?", f"pages {first}–{number}", held.message, count=1)
            fault = held.model_copy(update={"message": name[:1].upper() + name[1:]})
        else:
            first = number
        found.append(fault)
        previous = number
    return found
