"""Plain text out of the forms in which documentation is kept: HTML, manual pages, help, JSON lines, archives and more."""

from __future__ import annotations

import gzip
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import IO, Literal, cast
from xml.etree import ElementTree

from modelworks.contract.errors import InvalidData
from modelworks.recipe.reference import docstrings_text, rst_text

Form = Literal["text", "html", "man", "mallard", "rst", "docstrings", "jsonl", "lines", "zip"]

#: The largest document that is read into memory.
MAX_PAGE_BYTES = 512 << 20
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = frozenset(
    {
        "p",
        "div",
        "section",
        "article",
        "tr",
        "table",
        "ul",
        "ol",
        "dl",
        "dt",
        "dd",
        "blockquote",
        "body",
        "main",
    }
)
_VOID = frozenset(
    {
        "area",
        "base",
        "br",
        "col",
        "embed",
        "hr",
        "img",
        "input",
        "link",
        "meta",
        "source",
        "track",
        "wbr",
    }
)
_SKIPPED_TAGS = frozenset(
    {
        "script",
        "style",
        "nav",
        "header",
        "footer",
        "aside",
        "head",
        "form",
        "button",
        "noscript",
        "svg",
    }
)
#: What documentation generators put around a page.
_SKIPPED_CLASSES = frozenset(
    {
        "navheader",
        "navfooter",
        "sphinxsidebar",
        "related",
        "footer",
        "toc",
        "contents-treeview",
        "index",
        "docnav",
        "headerlink",
    }
)


@dataclass(frozen=True, slots=True)
class Page:
    """One document: where it came from inside its source, and its text."""

    name: str
    text: str


def pages(file: Path, name: str, form: Form, template: str | None = None) -> Iterator[Page]:
    """The documents of one file; most forms hold one.

    Args:
        name: what the file is called inside its source.
        template: for `jsonl`: the text with `{field}` for each field of the record; `{text}` where it is not given.

    Raises:
        InvalidData: the file is not of that form.
    """
    if form == "zip":
        yield from archive_pages(file, name)
        return
    text = _unpacked(file)
    try:
        if form == "jsonl":
            for number, line in enumerate(text.splitlines(), start=1):
                if line.strip():
                    record = {key: _lines(value) for key, value in json.loads(line).items()}
                    yield Page(f"{name}:{number}", (template or "{text}").format_map(record).strip())
            return
        if form == "lines":
            for number, line in enumerate(text.splitlines(), start=1):
                if line.strip():
                    yield Page(f"{name}:{number}", line.strip())
            return
        made = _READERS.get(form, str)(text)
    except (ValueError, KeyError, AttributeError, SyntaxError, ElementTree.ParseError) as error:
        raise InvalidData(
            f"{file} cannot be read as {form}: {type(error).__name__} {error}.", hint="Correct the source's form."
        ) from error
    yield Page(name, tidy(made))


def _lines(value: object) -> object:
    """A list, and lists in it, as lines."""
    return "\n".join(str(_lines(each)) for each in value) if isinstance(value, list) else value


def tidy(text: str) -> str:
    """Without spaces at line ends and without more than one empty line in a row."""
    lines = "\n".join(line.rstrip() for line in text.replace("\r\n", "\n").replace("\u00a0", " ").split("\n"))
    return re.sub(r"\n{3,}", "\n\n", lines).strip()


def html_text(text: str) -> str:
    """The content of a page: headings with `#`, list items with `-`, preformatted text as it is; navigation left out."""
    parser = _Html()
    parser.feed(text)
    parser.close()
    return "".join(parser.pieces)


class _Html(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._skipped: list[str] = []
        self._preformatted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _VOID:
            if tag == "br" and not self._skipped:
                self.pieces.append("\n")
            return
        classes = set((dict(attrs).get("class") or "").split())
        if self._skipped or tag in _SKIPPED_TAGS or classes & _SKIPPED_CLASSES:
            self._skipped.append(tag)
            return
        if tag in _HEADINGS:
            self.pieces.append("\n\n" + "#" * _HEADINGS[tag] + " ")
        elif tag == "li":
            self.pieces.append("\n- ")
        elif tag == "pre":
            self._preformatted += 1
            self.pieces.append("\n\n")
        elif tag in ("td", "th"):
            self.pieces.append(" ")
        elif tag in _BLOCKS:
            self.pieces.append("\n\n" if tag == "p" and not self._ends_with_mark() else "\n" if tag != "p" else "")

    def handle_endtag(self, tag: str) -> None:
        if self._skipped:
            # An end without its beginning, or a beginning without its end, closes nothing further out.
            if tag in self._skipped:
                while self._skipped.pop() != tag:
                    pass
            return
        if tag == "pre":
            self._preformatted = max(0, self._preformatted - 1)
            self.pieces.append("\n\n")
        elif tag in _HEADINGS:
            self.pieces.append("\n\n")
        elif tag in _BLOCKS and not self._ends_with_mark():
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if self._skipped:
            return
        if self._preformatted:
            self.pieces.append(data)
            return
        data = re.sub(r"\s+", " ", data)
        if data == " " and (not self.pieces or self.pieces[-1].endswith(("\n", " "))):
            return
        if self.pieces and self.pieces[-1].endswith(("\n", " ")):
            data = data.lstrip()
        self.pieces.append(data)

    def _ends_with_mark(self) -> bool:
        return bool(self.pieces) and (self.pieces[-1] == "\n- " or self.pieces[-1].startswith("\n\n#"))


_ESCAPES = {
    r"\-": "-", r"\(bu": "•", r"\(en": "–", r"\(em": "—", r"\(aq": "'", r"\(dq": '"', r"\(lq": "“", r"\(rq": "”",
    r"\(co": "©", r"\(ha": "^", r"\(ti": "~", r"\(rs": "\\", r"\e": "\\", r"\&": "", r"\/": "", r"\,": "", r"\|": "",
    r"\^": "", r"\:": "", r"\%": "", r"\~": " ", r"\0": " ", r"\ ": " ", r"\'": "'", r"\`": "`", r"\.": ".",
}  # fmt: skip
_ESCAPE = re.compile("|".join(re.escape(each) for each in sorted(_ESCAPES, key=len, reverse=True)))
_QUOTED = re.compile(r'"((?:[^"]|"")*)"?|(\S+)')


def man_text(text: str) -> str:
    """A manual page (roff with the man or mdoc macros) as text: sections with `#`, options on lines of their own.

    A reader of the few macros that manual pages use, not a typesetter: what it does not know is left out.
    """
    if text.startswith(".so "):
        return ""  # another name of a page that is read by itself
    lines: list[str] = []
    # Lines of their own that follow: two after .TP, the tag and the beginning of its text.
    fresh = 0
    preformatted = False
    for raw in text.split("\n"):
        line = re.sub(r"\\\".*$", "", raw)
        if line.startswith(("'\\\"", "'")) and not line[1:2].isalpha():
            continue
        if not line.startswith("."):
            if preformatted:
                lines.append(_inline(line.rstrip()))
                continue
            if lines and lines[-1] and not fresh and line.strip() and not lines[-1].startswith("#"):
                lines[-1] += ("" if _wide(lines[-1][-1]) and _wide(line.lstrip()[0]) else " ") + _inline(line.strip())
            else:
                lines.append(_inline(line.strip()))
            fresh = max(0, fresh - 1)
            continue
        macro, _, rest = line[1:].strip().partition(" ")
        words = [(quoted or plain).replace('""', '"') for quoted, plain in _QUOTED.findall(rest)]
        said = _inline(" ".join(words))
        if macro in ("SH", "Sh", "SS", "Ss"):
            lines += ["", ("# " if macro in ("SH", "Sh") else "## ") + said, ""]
        elif macro in ("TP", "IP", "PP", "P", "LP", "HP", "Pp", "sp"):
            lines += ["", _inline(words[0])] if macro == "IP" and words else [""]
            fresh = 2 if macro == "TP" else 1 if macro == "IP" and words else 0
        elif macro in ("B", "I", "SM", "SB", "Nm", "Ar", "Fl", "Cm", "Pa", "Nd", "It", "Xr"):
            said = ("-" if macro == "Fl" else "– " if macro == "Nd" else "") + said
            _continue(lines, said, fresh=bool(fresh) or macro == "It")
            fresh = max(0, fresh - 1)
        elif macro in ("BR", "RB", "BI", "IB", "RI", "IR"):
            # Alternating faces stand without spaces between them.
            _continue(lines, _inline("".join(words)), fresh=bool(fresh))
            fresh = max(0, fresh - 1)
        elif macro in ("nf", "fi", "EX", "EE"):
            preformatted = macro in ("nf", "EX")
            lines.append("")
        elif macro == "br":
            fresh = max(1, fresh)
        elif macro == "TH" and words:
            lines.append(f"{words[0]}({words[1]})" if len(words) > 1 else words[0])
    return "\n".join(lines)


def _continue(lines: list[str], said: str, *, fresh: bool) -> None:
    if not said:
        return
    if fresh or not lines or not lines[-1] or lines[-1].startswith("#"):
        lines.append(said)
    else:
        lines[-1] += " " + said


def _wide(char: str) -> bool:
    return char >= "\u2e80"


def _inline(text: str) -> str:
    text = re.sub(r"\\f(?:\[[^\]]*\]|\(..|.)", "", text)
    text = re.sub(r"\\s[+-]?\d", "", text)
    text = re.sub(r"\\\*?\[([^\]]*)\]", "", text)
    return _ESCAPE.sub(lambda match: _ESCAPES[match[0]], text)


def mallard_text(text: str) -> str:
    """A page of Mallard help: title, description and paragraphs, without its credits."""
    root = ElementTree.fromstring(text)  # noqa: S314 - files of an installed package, and expat expands no external entity
    pieces: list[str] = []

    def walk(node: ElementTree.Element, depth: int) -> None:
        kind = node.tag.rpartition("}")[2]
        if kind in ("info", "credit", "links", "media", "comment"):
            return
        said = re.sub(r"\s+", " ", "".join(node.itertext())).strip() if kind in ("title", "p", "item", "cite") else ""
        # Source files are wrapped; Chinese has no spaces at line ends.
        said = re.sub(r"(?<=[\u3000-\u9fff，。；：]) (?=[\u3000-\u9fff])", "", said)
        if kind == "title":
            pieces.append(f"\n{'#' * min(6, depth)} {said}\n")
        elif kind == "p" and said:
            pieces.append(said + "\n")
        else:
            for child in node:
                walk(child, depth + (kind in ("page", "section")))

    walk(root, 0)
    return "\n".join(pieces)


_READERS = {"html": html_text, "man": man_text, "mallard": mallard_text, "rst": rst_text, "docstrings": docstrings_text}


def _unpacked(file: Path) -> str:
    try:
        with _opened(file) as stream:
            return _text(stream, str(file))
    except (UnicodeDecodeError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise InvalidData(f"{file} is not UTF-8 text: {error}.", hint="Leave it out with `exclude`.") from error


def archive_pages(file: Path, name: str) -> Iterator[Page]:
    """The Markdown files of a ZIP archive, one document each."""
    with zipfile.ZipFile(file) as archive:
        for member in sorted(archive.namelist()):
            if member.endswith((".md", ".mdx", ".txt")):
                with archive.open(member) as stream:
                    yield Page(f"{name}/{member}", tidy(_text(stream, f"{file}/{member}")))


def _opened(file: Path) -> IO[bytes]:
    if file.suffix == ".gz":
        return cast(IO[bytes], gzip.open(file, "rb"))
    return cast(IO[bytes], lzma.open(file, "rb")) if file.suffix == ".xz" else file.open("rb")


def _text(stream: IO[bytes], place: str) -> str:
    """All of it, however small it was packed; raises InvalidData where that is too much."""
    raw = stream.read(MAX_PAGE_BYTES + 1)
    if len(raw) > MAX_PAGE_BYTES:
        raise InvalidData(f"{place} has more than {MAX_PAGE_BYTES >> 20} MiB.", hint="Leave it out with `exclude`.")
    return raw.decode("utf-8")
