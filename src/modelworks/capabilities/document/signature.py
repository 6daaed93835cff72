"""What bytes are, whatever a file's name says; the name only tells apart what text alone does not."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path

from modelworks.capabilities.document.archive import SafeArchive
from modelworks.capabilities.document.blocks import Refused, Source
from modelworks.contract.passages import TABLE_ROWS, Fault

#: What a file is called on the wire, by the name of its format here.
MEDIA_TYPES = {
    "pdf": "application/pdf",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "odt": "application/vnd.oasis.opendocument.text",
    "odp": "application/vnd.oasis.opendocument.presentation",
    "ods": "application/vnd.oasis.opendocument.spreadsheet",
    "epub": "application/epub+zip",
    "html": "text/html",
    "markdown": "text/markdown",
    "csv": "text/csv",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "table": TABLE_ROWS,
    "eml": "message/rfc822",
    "mbox": "application/mbox",
    "code": "text/x-source",
    "text": "text/plain",
    "image": "image/*",
}

_IMAGES = {b"\x89PNG\r\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"II*\x00": "tiff", b"MM\x00*": "tiff", b"BM": "bmp"}
_OTHERS = {
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"\x1f\x8b": "packed data (gzip)",
    b"BZh": "packed data (bzip2)",
    b"\xfd7zXZ": "packed data (xz)",
    b"7z\xbc\xaf": "an archive (7z)",
    b"Rar!": "an archive (rar)",
    b"ID3": "sound",
    b"OggS": "sound",
    b"fLaC": "sound",
    b"{\\rtf": "rich text (RTF)",
    b"%!PS": "PostScript",
    b"SQLite format 3": "an SQLite database",
    b"PAR1": "a Parquet table",
}
_HINTS = {
    "an archive": "Unpack it and put in what it holds.",
    "packed": "Unpack it and put in what it holds.",
    "sound": "Put in its transcript.",
    "rich": "Save it as .docx or PDF.",
    "PostScript": "Save it as PDF.",
    "an SQLite": "Put it in as a source of the kind SQL.",
}
_HEADERS = re.compile(
    r"^(?:From|To|Cc|Subject|Date|Received|MIME-Version|Message-ID|Content-Type|Return-Path|Delivered-To|Reply-To):[ \t]",
    re.MULTILINE | re.IGNORECASE,
)
_HTML = re.compile(
    r"\A\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)
_TAGS = re.compile(r"<(?:p|div|h[1-6]|table|ul|ol|span|a|br|title)\b[^>]*>", re.IGNORECASE)

_MARKDOWN = frozenset({".md", ".markdown", ".mdown", ".mkd", ".mdx", ".qmd", ".rmd"})
_DELIMITED = frozenset({".csv", ".tsv", ".tab", ".psv"})
CODE = {
    ".py": "python", ".pyi": "python", ".js": "javascript", ".mjs": "javascript", ".ts": "typescript", ".tsx": "typescript",
    ".jsx": "javascript", ".java": "java", ".kt": "kotlin", ".c": "c", ".h": "c", ".cc": "c++", ".cpp": "c++", ".hpp": "c++",
    ".cs": "c#", ".go": "go", ".rs": "rust", ".rb": "ruby", ".php": "php", ".swift": "swift", ".scala": "scala", ".r": "r",
    ".sh": "shell", ".bash": "shell", ".ps1": "powershell", ".sql": "sql", ".lua": "lua", ".pl": "perl", ".css": "css",
    ".scss": "css", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".ini": "ini", ".cfg": "ini", ".xml": "xml",
    ".proto": "proto",
    ".dockerfile": "docker", ".mk": "make", ".tf": "terraform", ".vue": "vue", ".ipynb": "json", ".svg": "xml", ".xsd": "xml",
}  # fmt: skip

#: Of a text, this much is decoded at the most; a character has up to four bytes.
_BYTES_PER_CHAR = 4
_SNIFF_BYTES = 8192
_COMMON_HAN = range(0xB0, 0xD8)


def detect(source: Source) -> str:
    """The name of the format (a key of `MEDIA_TYPES`).

    Raises:
        Refused: the file is empty, too large, encrypted, or of a form that nothing here reads.
    """
    size = source.path.stat().st_size
    if size == 0:
        raise Refused("empty_file", "The file is empty.", "Put it in again, if it should hold something.")
    if source.media_type == TABLE_ROWS:
        # Only its first line is read.
        return "table"
    if size > source.request.max_document_bytes:
        raise Refused(
            "too_large",
            f"The file has {size} bytes, which is more than {source.request.max_document_bytes}.",
            "Split it, or raise max_document_bytes.",
        )
    with source.path.open("rb") as file:
        head = file.read(_SNIFF_BYTES)
    if b"%PDF-" in head[:1024]:
        return "pdf"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zipped(source)
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        _refuse_ole(source.path)
    if any(head.startswith(magic) for magic in _IMAGES) and not (head.startswith(b"BM") and _is_text(head)):
        return "image"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image"
    for magic, what in _OTHERS.items():
        if head.startswith(magic) and not (magic == b"MZ" and _is_text(head)):
            hint = next((hint for start, hint in _HINTS.items() if what.startswith(start)), "Put in a document.")
            raise Refused("unsupported_format", f"The file is {what}, not a document.", hint)
    if head[:4] == b"RIFF" or head[4:8] == b"ftyp":
        raise Refused("unsupported_format", "The file is sound or film, not a document.", "Put in its transcript.")
    if not _is_text(head):
        raise Refused("unsupported_format", "The file is no text, and none of the known forms of documents.", "Save it as PDF.")
    return _text(source, head)


def read_text(source: Source, parsed_faults: list[Fault], data: bytes | None = None) -> str:
    """The text of a file, or of bytes, in whatever encoding it is; adds what is to be said about that to the faults."""
    limit = source.request.max_document_chars * _BYTES_PER_CHAR
    if data is None:
        with source.path.open("rb") as file:
            # Asked for no more than there is: what is asked for is taken from memory at once.
            data = file.read(min(limit, source.path.stat().st_size) + 1)
    if len(data) > limit:
        data = data[:limit]
        parsed_faults.append(truncated(source.request.max_document_chars))
    text, guess = decode(data)
    if guess is not None:
        parsed_faults.append(
            Fault(
                code="decoded_by_guess",
                message=f"The text is no UTF-8; it was read as {guess}.",
                hint="Save it as UTF-8 if characters look wrong.",
            )
        )
    return text


def truncated(max_chars: int) -> Fault:
    """What is said of a document of which the end was left out."""
    return Fault(
        code="truncated",
        message=f"Only about the first {max_chars} characters were read.",
        hint="Split the document, or raise max_document_chars.",
    )


def decode(data: bytes) -> tuple[str, str | None]:
    """The text, and the encoding where it had to be guessed."""
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if data.startswith(mark):
            return data.decode(name, "replace"), None
    try:
        return data.decode("utf-8"), None
    except UnicodeDecodeError as error:
        # A text that was cut, or has one bad byte, is UTF-8 all the same.
        if error.start > len(data) - 4 or error.start > 0.98 * len(data) > 2000:
            return data.decode("utf-8", "replace"), None
    half = data[:_SNIFF_BYTES]
    if half.count(0) > 0.3 * len(half):
        name = "utf-16-le" if half[1::2].count(0) > half[::2].count(0) else "utf-16-be"
        return data.decode(name, "replace"), name
    if _is_gb(data[: 1 << 18]):
        return data.decode("gb18030", "replace"), "gb18030"
    from charset_normalizer import from_bytes

    best = from_bytes(data[: 1 << 18]).best()
    name = best.encoding if best is not None else "cp1252"
    return data.decode(name, "replace"), name


def _is_gb(data: bytes) -> bool:
    """Whether most pairs of high bytes are characters of the first level of GB 2312, as in any Chinese text."""
    pairs: list[bytes] = re.findall(rb"[\x81-\xfe][\x40-\xfe]", data)
    if not pairs:
        return False
    common = sum((pair[0] in _COMMON_HAN and pair[1] >= 0xA1) or pair[0] in (0xA1, 0xA3) for pair in pairs)
    try:
        data[: len(data) - 4].decode("gb18030")
    except UnicodeDecodeError as error:
        if error.start < len(data) - 12:
            return False
    return common > 0.7 * len(pairs)


def _is_text(head: bytes) -> bool:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        return True
    if 0 in head:
        # UTF-16 without a mark: every other byte of Latin text is 0.
        even, odd = head[::2].count(0), head[1::2].count(0)
        return min(even, odd) == 0 and max(even, odd) > 0.3 * len(head)
    control = sum(byte < 9 or 13 < byte < 27 or byte == 127 for byte in head)
    return control <= 0.02 * len(head)


def _zipped(source: Source) -> str:
    with SafeArchive(source) as archive:
        names = archive.names
        kind = archive.read("mimetype", 200).decode("ascii", "replace").strip() if "mimetype" in names else ""
        if kind == "application/epub+zip" or ("META-INF/container.xml" in names and not kind):
            return "epub"
        if kind.startswith("application/vnd.oasis.opendocument."):
            found = {"text": "odt", "presentation": "odp", "spreadsheet": "ods"}.get(
                kind.rsplit(".", 1)[-1].removesuffix("-template")
            )
            if found is not None:
                return found
        if "[Content_Types].xml" in names:
            for folder, form in (("word/", "docx"), ("ppt/", "pptx"), ("xl/", "xlsx")):
                if any(name.startswith(folder) for name in names):
                    if form == "xlsx" and "xl/workbook.bin" in names:
                        raise Refused("unsupported_format", "The file is a binary workbook (.xlsb).", "Save it as .xlsx.")
                    return form
    raise Refused("unsupported_format", "The file is an archive, not a document.", "Unpack it and put in what it holds.")


def _refuse_ole(path: Path) -> None:
    data = path.read_bytes()[: 64 << 20]
    if "EncryptedPackage".encode("utf-16-le") in data:
        raise Refused("encrypted", "The file is protected by a password.", "Save it without the password.")
    kinds = {"WordDocument": ".docx", "Workbook": ".xlsx", "PowerPoint Document": ".pptx"}
    form = next((to for name, to in kinds.items() if name.encode("utf-16-le") in data), ".docx, .xlsx or .pptx")
    raise Refused("unsupported_format", "The file has the binary form of Office before 2007.", f"Save it as {form}.")


def _text(source: Source, head: bytes) -> str:
    text = decode(head)[0]
    suffix, kind = source.suffix, (source.media_type or "").partition(";")[0].strip().lower()
    stripped = text.lstrip("\ufeff \t\r\n")
    if _HTML.match(text) or (suffix in (".html", ".htm", ".xhtml") and "<" in text):
        return "html"
    if stripped.startswith("From ") and _HEADERS.search(stripped.partition("\n")[2][:2000]):
        return "mbox"
    first = re.split(r"\r?\n\r?\n", stripped, maxsplit=1)[0]
    if len(_HEADERS.findall(first)) >= 2 and _HEADERS.match(first):
        return "eml"
    if suffix == ".mbox":
        return "mbox"
    if suffix == ".ipynb" or (stripped[:1] in "{[" and suffix not in CODE and suffix not in _MARKDOWN):
        found = _json(source, suffix)
        if found is not None:
            return found
    if suffix in _DELIMITED or kind in ("text/csv", "text/tab-separated-values"):
        return "csv"
    if suffix in _MARKDOWN or kind == "text/markdown":
        return "markdown"
    if suffix in CODE or source.name.rsplit("/", 1)[-1] in ("Makefile", "Dockerfile"):
        return "code"
    if kind == "text/html" or len(_TAGS.findall(text)) > 8:
        return "html"
    return "text"


def _json(source: Source, suffix: str) -> str | None:
    with source.path.open("rb") as file:
        data = file.read(min(source.request.max_document_chars * _BYTES_PER_CHAR, source.path.stat().st_size))
    text = decode(data)[0]
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        lines = [line for line in text.splitlines() if line.strip()][:20]
        try:
            if lines and all(isinstance(json.loads(line), dict | list) for line in lines[:-1] or lines):
                return "jsonl"
        except (ValueError, RecursionError):
            return None
        return None
    return "jsonl" if suffix in (".jsonl", ".ndjson") else "json"
