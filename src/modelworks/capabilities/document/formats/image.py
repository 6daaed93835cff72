"""Pictures of text: scans and photographs, of several pages where the format has them."""

from __future__ import annotations

from modelworks.capabilities.document import ocr
from modelworks.capabilities.document.blocks import Parsed, Refused, Source
from modelworks.capabilities.document.formats.pdf.columns import in_order
from modelworks.capabilities.document.formats.pdf.paragraphs import assemble
from modelworks.capabilities.document.formats.pdf.tables import items_of
from modelworks.capabilities.document.pages import Pages
from modelworks.contract.passages import Fault

_MAX_PIXELS = 80_000_000
_MAX_SIDE = 3_000
_POINTS = 842.0


def read(source: Source, pages: Pages) -> Parsed:
    """All frames of a picture.

    Raises:
        Refused: OCR is not wanted or not installed; the picture is damaged or too large.
    """
    if not ocr.is_wanted(source.request):
        raise Refused(
            "ocr_missing",
            "The document is a picture of text.",
            'Install OCR with: pip install "modelworks[ocr]", or put in a document with text.',
        )
    from PIL import Image, ImageOps, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = _MAX_PIXELS
    faults: list[Fault] = []
    try:
        with Image.open(source.path) as picture:
            kind = Image.MIME.get(picture.format or "", "image/*")
            total = min(int(getattr(picture, "n_frames", 1)), source.request.max_pages)
            if picture.width * picture.height > _MAX_PIXELS:
                raise Refused("too_large", "The picture has too many dots.", "Scan it with 300 dots per inch.")
            for number in range(1, total + 1):
                if number in pages.done:
                    continue
                pages.begin(number, total)
                if number in pages.skipped or number in pages.plain:
                    fault = pages.skipped.get(number) or _slow(number)
                    pages.finish({"page": number, "items": [], "fault": fault.model_dump()})
                    continue
                picture.seek(number - 1)
                upright = ImageOps.exif_transpose(picture).convert("RGB")
                upright.thumbnail((_MAX_SIDE, _MAX_SIDE))
                pages.finish(_page(upright, number))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Refused("corrupt", f"The picture is damaged: {error}.", "Save it again as PNG.") from error
    records = [pages.done[number] for number in range(1, total + 1)]
    faults.extend(Fault.model_validate(record["fault"]) for record in records if record.get("fault"))
    return Parsed(blocks=assemble(records), media_type=kind, num_pages=total, faults=faults)


def _page(picture: object, number: int) -> dict[str, object]:
    import numpy as np

    image = np.ascontiguousarray(np.asarray(picture)[..., ::-1])
    high = _POINTS
    wide = high * image.shape[1] / image.shape[0]
    runs, wide, high = ocr.read_image(image, wide, high)
    return {"page": number, "size": [round(wide, 1), round(high, 1)], "items": items_of(in_order(runs, wide))}


def _slow(number: int) -> Fault:
    return Fault(
        code="timed_out",
        message=f"Page {number} took too long to be read.",
        hint="Raise page_timeout_s, or scan it with fewer dots.",
        page=number,
    )
