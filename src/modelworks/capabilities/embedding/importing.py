"""Recognise what sentence-transformers wrote among fetched files. Light: the server calls it while it pulls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def import_encoder(folder: Path, into: Path) -> Mapping[str, Any] | None:
    """The task of an encoder with a pooling module; see `contract.predictor.Importer`. The files are kept as they are.

    What is no such folder, a cross-encoder or a damaged list is nobody's business here: None.
    """
    try:
        modules = json.loads((folder / "modules.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    kinds = [str(each.get("type", "")) for each in modules if isinstance(each, dict)] if isinstance(modules, list) else []
    return {"task": "feature-extraction"} if any("Pooling" in kind for kind in kinds) else None
