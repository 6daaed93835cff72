"""Text out of pictures: PP-OCR through RapidOCR and OpenVINO, where the extra `ocr` is installed. Nothing is fetched."""

from __future__ import annotations

import functools
import importlib.util
import resource
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from modelworks.capabilities.document.formats.pdf.characters import Run
from modelworks.capabilities.document.schemas import ParsingRequest

#: What the engine maps beside what a document needs.
_MORE_MEMORY = 4 << 30
_MODELS = {"Det": "PP-OCR*_det_*.onnx", "Cls": "*_cls_*.onnx", "Rec": "PP-OCR*_rec_*.onnx"}
_LEAST_SCORE = 0.5
_TALL, _FEW_LINES = 1.5, 3


@functools.cache
def engine_name() -> str | None:
    """What would read pictures, with its version; None: nothing is installed."""
    try:
        if importlib.util.find_spec("openvino") is None:
            return None
        return f"rapidocr {version('rapidocr')}"
    except PackageNotFoundError:
        return None


def is_wanted(request: ParsingRequest) -> bool:
    """Whether pictures are to be read, and can be."""
    return request.ocr == "auto" and engine_name() is not None


def read_image(image: Any, width: float, height: float) -> tuple[list[Run], float, float]:
    """The lines of text in a picture, as runs on a page of that size, and the size of the page as it is read.

    A picture that was laid on its side is turned upright first.

    Args:
        image: numpy array of [rows, columns, 3] bytes, blue first.
        width, height: of the page, in points.
    """
    import numpy as np

    lines = _lines(image)
    tall = [box for box, _, _ in lines if box[3] - box[1] > _TALL * (box[2] - box[0])]
    if len(lines) >= _FEW_LINES and len(tall) > 0.5 * len(lines):
        turned = [np.ascontiguousarray(np.rot90(image, number)) for number in (1, 3)]
        found = [_lines(each) for each in turned]
        best = max((0, 1), key=lambda number: sum(len(text) * score**4 for _, text, score in found[number]))
        image, lines = turned[best], found[best]
        width, height = height, width
    across, down = width / image.shape[1], height / image.shape[0]
    # Boxes of lines differ by some dots: rows that are told apart by them would be in disorder.
    size = median([box[3] - box[1] for box, _, _ in lines]) * down if lines else 0.0
    runs = []
    for (x0, y0, x1, y1), text, _ in lines:
        own = (y1 - y0) * down
        runs.append(Run(text, x0 * across, y0 * down, x1 * across, y1 * down, size if 0.7 * size < own < 1.4 * size else own))
    return runs, width, height


def _lines(image: Any) -> list[tuple[tuple[float, float, float, float], str, float]]:
    found = _engine()(image)
    if found.txts is None:
        return []
    lines = []
    for box, text, score in zip(found.boxes, found.txts, found.scores, strict=True):
        if score >= _LEAST_SCORE and text.strip():
            xs, ys = [float(point[0]) for point in box], [float(point[1]) for point in box]
            lines.append(((min(xs), min(ys), max(xs), max(ys)), str(text).strip(), float(score)))
    return lines


@functools.cache
def _engine() -> Callable[..., Any]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        more = soft + _MORE_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (more if hard == resource.RLIM_INFINITY else min(more, hard), hard))
    import rapidocr

    folder = Path(rapidocr.__file__).parent / "models"
    params: dict[str, Any] = {"Global.log_level": "critical", "EngineConfig.openvino.inference_num_threads": 1}
    for part, pattern in _MODELS.items():
        params[f"{part}.engine_type"] = rapidocr.EngineType.OPENVINO
        # A path is given for each model: without one the library would look for it in the network.
        params[f"{part}.model_path"] = str(next(iter(sorted(folder.glob(pattern)))))
    engine: Callable[..., Any] = rapidocr.RapidOCR(params=params)
    return engine
