"""How licences compare, so that the most restrictive one of a family can be shown. Guidance, not legal advice."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: From free to closed. `unknown` is a licence that is stated but not known here: a person has to read it.
CLASSES = ("permissive", "attribution", "share-alike", "copyleft", "use-restricted", "non-commercial", "unknown")

#: First match wins, hence non-commercial forms before their families.
_PATTERNS: tuple[tuple[str, str], ...] = (
    ("non-commercial", r"(^|[-_ ])(nc|non-?commercial|research(-only)?|academic)($|[-_ ])"),
    ("permissive", r"^(cc0(-1\.0)?|unlicense|wtfpl|pddl|odc-pddl|mit(-0)?|isc|zlib|bsl-1\.0|ncsa|postgresql|0bsd)$"),
    ("permissive", r"^(apache([- ]?2\.0)?|bsd([- ]\d-clause.*)?|afl-3\.0|ms-pl|artistic-2\.0|public[- ]domain)$"),
    ("attribution", r"^(cc-by(-\d\.\d)?|odc-by|cdla-permissive-\d\.\d|etalab-2\.0|ogl.*)$"),
    ("share-alike", r"^(cc-by-sa(-\d\.\d)?|odbl|cdla-sharing-1\.0|gfdl|mpl-2\.0|epl-\d\.\d|eupl-1\.\d|lgpl.*|cc-by-nd.*)$"),
    ("copyleft", r"^(a?gpl.*|osl-3\.0|cc-by-sa-gpl)$"),
    (
        "use-restricted",
        r"^((bigscience|creativeml|big-?code)?-?.*openrail.*|bigscience-bloom-rail-1\.0|llama.*|gemma.*|deepseek.*)$",
    ),
    (
        "use-restricted",
        r"^(tongyi-qianwen.*|qwen.*|apple-a[ms]lr|h-research|open-?mdw.*|health.*|falcon.*|nvidia.*|stabilityai.*)$",
    ),
)


def restriction(licence: str) -> str:
    """The class of a licence id, one of `CLASSES`."""
    text = licence.strip().lower()
    for name, pattern in _PATTERNS:
        if re.search(pattern, text):
            return name
    return "unknown"


def most_restrictive(licences: Sequence[str]) -> tuple[str | None, str]:
    """The most restrictive of the licences and its class; `(None, "unknown")` where none is given."""
    if not licences:
        return None, "unknown"
    worst = max(licences, key=lambda licence: CLASSES.index(restriction(licence)))
    return worst, restriction(worst)
