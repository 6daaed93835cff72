"""The data set of a recipe: documents of all sources without copies, a held-out part by document, and a manifest of it all."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelworks.contract.errors import NotFound
from modelworks.recipe.extraction import Page, pages
from modelworks.recipe.places import Places
from modelworks.recipe.recipe import Recipe, TextSource

MANIFEST = "manifest.json"
#: A document of which more than this part stood in earlier documents is a copy of them.
_MOST_REPEATED = 0.5
#: Shorter paragraphs recur without being copied.
_PARAGRAPH_CHARS = 40
#: Of a source with more files than these, a small part is not looked for in all of them.
_MANY_FILES = 50
#: Part of a Chinese text's letters that are Chinese characters.
_FEWEST_CHINESE = 0.15


@dataclass(slots=True)
class Counted:
    """What one source gave."""

    documents: int = 0
    bytes: int = 0
    held_out_documents: int = 0
    held_out_bytes: int = 0
    copies: int = 0
    too_short: int = 0
    other_language: int = 0
    missing: bool = False
    digest: Any = field(default_factory=hashlib.sha256)


def build(
    recipe: Recipe,
    places: Places,
    target: Path,
    *,
    scale: float = 1.0,
    available: bool = False,
    on_source: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Write `train/`, `held-out/LANGUAGE/data.jsonl` and `manifest.json` into `target`, and return the manifest.

    `train/` holds `data.jsonl` with records `{"text", "source", "document", "language"}`, and Python files as they are. Copies
    are found by the digest of the text without its spaces, near copies by the paragraphs that earlier documents had. Which
    documents are held out follows from a hash of the text.

    Args:
        scale: the part of each source that is taken, above 0 and at most 1.
        available: leave out sources that are not on this machine, and say so in the manifest.

    Raises:
        NotFound: a source is not on this machine; with `available`: none of them is.
        InvalidData: a file is not of the form that the recipe says.
    """
    seen: set[bytes] = set()
    counts = {source.name: Counted() for source in recipe.source}
    folder = target / "train"
    folder.mkdir(parents=True)
    held_out: dict[str, Any] = {}
    with (folder / "data.jsonl").open("w", encoding="utf-8") as training:
        try:
            for source in recipe.source:
                on_source(source.name)
                try:
                    listed = places.files(source)
                except NotFound:
                    if not available:
                        raise
                    counts[source.name].missing = True
                    continue
                for page in _chosen(source, listed, scale, counts[source.name]):
                    counted = counts[source.name]
                    if _is_copy(page.text, seen):
                        counted.copies += 1
                        continue
                    if not _is_in(source.language, page.text):
                        counted.other_language += 1
                        continue
                    record = {"text": page.text, "source": source.name, "document": page.name, "language": source.language}
                    line = json.dumps(record, ensure_ascii=False) + "\n"
                    num_bytes = len(page.text.encode())
                    counted.digest.update(hashlib.sha256(page.text.encode()).digest())
                    if _position(page.text, f"held-out {recipe.text.seed}") < recipe.text.held_out:
                        if source.language not in held_out:
                            (target / "held-out" / source.language).mkdir(parents=True)
                            place = target / "held-out" / source.language / "data.jsonl"
                            held_out[source.language] = place.open("w", encoding="utf-8")
                        held_out[source.language].write(line)
                        counted.held_out_documents += 1
                        counted.held_out_bytes += num_bytes
                    else:
                        if source.language == "py":
                            # A file of its own: by its name it is known as code.
                            place = folder / source.name / page.name
                            place.parent.mkdir(parents=True, exist_ok=True)
                            place.write_text(page.text + "\n", "utf-8")
                        else:
                            training.write(line)
                        counted.documents += 1
                        counted.bytes += num_bytes
        finally:
            for file in held_out.values():
                file.close()
    if all(counted.missing for counted in counts.values()):
        raise NotFound("None of the recipe's sources is on this machine.", hint="Install a package that it names.")
    manifest = _manifest(recipe, counts, scale)
    (target / MANIFEST).write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", "utf-8")
    return manifest


def _manifest(recipe: Recipe, counts: dict[str, Counted], scale: float) -> dict[str, Any]:
    total = sum(counted.bytes for counted in counts.values()) or 1
    languages: dict[str, int] = {}
    rows = []
    for source in recipe.source:
        counted = counts[source.name]
        languages[source.language] = languages.get(source.language, 0) + counted.bytes
        rows.append(
            {
                "name": source.name,
                "missing": counted.missing,
                "licence": source.licence,
                "origin": source.origin,
                "language": source.language,
                "documents": counted.documents,
                "bytes": counted.bytes,
                "share": round(counted.bytes / total, 4),
                "held_out_documents": counted.held_out_documents,
                "held_out_bytes": counted.held_out_bytes,
                "copies": counted.copies,
                "too_short": counted.too_short,
                "other_language": counted.other_language,
                "digest": "sha256:" + counted.digest.hexdigest(),
            }
        )
    return {"recipe": recipe.name, "recipe_digest": recipe.digest, "scale": scale, "bytes": languages, "sources": rows}


def _chosen(source: TextSource, listed: list[tuple[str, Path]], scale: float, counted: Counted) -> Iterator[Page]:
    """The documents of a source up to its limit, chosen by hash, in the order of their names."""
    everything = []
    for name, place in listed:
        # Of a large source a small part is read file by file, not read whole and thrown away.
        if scale < 1 and len(listed) > _MANY_FILES and _position(name, "file") > 4 * scale:
            continue
        for page in pages(place, name, source.form, source.template):
            if len(page.text) < source.min_chars:
                counted.too_short += 1
            else:
                everything.append(page)
    sizes = {page.name: len(page.text.encode()) for page in everything}
    limit = min(sum(sizes.values()), source.limit_bytes or sum(sizes.values())) * scale
    order = sorted(everything, key=lambda page: _position(page.text, "choice"))
    taken: set[str] = set()
    used = 0
    for page in order:
        if used >= limit:
            break
        used += sizes[page.name]
        taken.add(page.name)
    return (page for page in everything if page.name in taken)


def _is_copy(text: str, seen: set[bytes]) -> bool:
    """Whether the text, or most of it, was there before; what is new of it is remembered."""
    whole = _digest(re.sub(r"\s+", "", text))
    if whole in seen:
        return True
    paragraphs = [part for part in re.split(r"\n\s*\n", text) if len(part) >= _PARAGRAPH_CHARS]
    digests = {_digest(re.sub(r"\s+", "", part)): len(part) for part in paragraphs}
    repeated = sum(length for digest, length in digests.items() if digest in seen)
    seen.update(digests, (whole,))
    return repeated > _MOST_REPEATED * max(1, len(text))


def _is_in(language: str, text: str) -> bool:
    """Whether a text is in the language: of Chinese ones that a manual has not translated yet, the English is elsewhere."""
    if language != "zh":
        return True
    letters = sum(char.isalpha() for char in text)
    return sum("\u4e00" <= char <= "\u9fff" for char in text) > _FEWEST_CHINESE * max(1, letters)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()


def _position(text: str, what: str) -> float:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, person=what.encode()[:16]).digest()
    return int.from_bytes(digest, "big") / 2**64
