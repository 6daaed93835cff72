"""Blocks made passages: by headings and paragraphs, never through a sentence or a row where that can be avoided."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from modelworks.capabilities.document.blocks import Block, Box, Table
from modelworks.capabilities.document.language import language, pieces, weight
from modelworks.capabilities.document.schemas import ParsingRequest
from modelworks.contract.passages import Passage, Place

#: A table that is not longer than so many passages stays whole.
_WHOLE_TABLE = 2.0
#: What introduces a table on a page stands with it where it is no longer than this share of a passage.
_LEAD = 0.35
#: Small sections of pages share a passage that is at most so many times as long as others.
_TOGETHER = 1.25
#: A passage this full is closed rather than that a paragraph is torn apart to fill it.
_FULL = 0.35
_MAX_HEADING_CHARS = 300
_FEW_LETTERS = 40
_BLANKS = re.compile(r"[ \t\u00a0\u3000]+")
#: Surrogates that belong to nothing, and what no text file should hold.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufeff\ufffe\uffff]")


def make_passages(document_id: str, blocks: Iterable[Block], request: ParsingRequest) -> Iterator[list[Passage]]:
    """The passages of a document, section by section (one heading each, but see `_packed`), with all fields but the language.

    Args:
        blocks: in reading order.
    """
    ordinal = 0
    drafted = ((section, list(_drafts(section, request))) for section in _sections(blocks))
    for headings, drafts in _packed(drafted, request):
        made = []
        for number, draft in enumerate(drafts):
            place = Place(page=draft.page, box=draft.box, cells=draft.cells, lines=draft.lines, headings=headings)
            made.append(
                Passage(
                    id=f"{document_id}:{ordinal + number}",
                    document_id=document_id,
                    ordinal=ordinal + number,
                    kind=draft.kind,
                    text=draft.text,
                    place=place,
                    section=(ordinal, ordinal + len(drafts) - 1),
                )
            )
        ordinal += len(made)
        if made:
            yield made


def with_languages(passages: list[Passage], of_document: str | None) -> list[Passage]:
    """The same with their language; a short one has that of its document."""
    return [
        each.model_copy(
            update={"language": of_document if len(each.text) < _FEW_LETTERS else language(each.text) or of_document}
        )
        for each in passages
    ]


def clean(text: str) -> str:
    """Without characters that print nothing, and with one blank where there are many; lines stay."""
    lines = (_BLANKS.sub(" ", line).strip() for line in _UNPRINTABLE.sub("", text).replace("\r", "\n").split("\n"))
    return "\n".join(line for line in lines if line)


def clean_code(text: str) -> str:
    """Code keeps its blanks: only what prints nothing goes."""
    return _UNPRINTABLE.sub("", text.replace("\r\n", "\n").expandtabs(4)).strip("\n").rstrip()


def render(rows: Iterable[list[str]], num_header: int) -> str:
    """Rows as a table of Markdown; a bar inside a cell is escaped."""
    lines = []
    for number, row in enumerate(rows):
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |")
        if number == num_header - 1:
            lines.append("|" + " - |" * len(row))
    return "\n".join(lines)


def column_name(number: int) -> str:
    """A, B … Z, AA … of a column from 1."""
    name = ""
    while number > 0:
        number, rest = divmod(number - 1, 26)
        name = chr(65 + rest) + name
    return name


@dataclass(slots=True)
class _Section:
    headings: list[str]
    #: The block of its own heading; None: what stands before the first one.
    own: Block | None
    blocks: list[Block] = field(default_factory=list)
    has_children: bool = False


def _sections(blocks: Iterable[Block]) -> Iterator[_Section]:
    path: list[tuple[int, str]] = []
    section = _Section([], None)
    for block in blocks:
        if block.kind != "heading":
            section.blocks.append(block)
            continue
        text = clean(block.text).replace("\n", " ")[:_MAX_HEADING_CHARS]
        if not text:
            # A slide without a title: what follows belongs to nothing before it.
            yield section
            path = [(level, title) for level, title in path if level < block.level]
            section = _Section([title for _, title in path], None)
            continue
        section.has_children = section.own is not None and block.level > section.own.level
        yield section
        while path and path[-1][0] >= block.level:
            path.pop()
        path.append((block.level, text))
        section = _Section([title for _, title in path], block)
    yield section


@dataclass(slots=True)
class _Draft:
    kind: str
    text: str
    page: int | None = None
    box: Box | None = None
    lines: tuple[int, int] | None = None
    cells: str | None = None

    def take(self, text: str, block: Block, gap: str) -> None:
        self.text = f"{self.text}{gap}{text}" if self.text else text
        if self.page is None:
            self.page, self.box = block.page, block.box
        elif block.page == self.page and self.box is not None and block.box is not None:
            self.box = union(self.box, block.box)
        if block.lines is not None:
            first, last = self.lines or block.lines
            self.lines = (min(first, block.lines[0]), max(last, block.lines[1]))


def _packed(
    sections: Iterable[tuple[_Section, list[_Draft]]], request: ParsingRequest
) -> Iterator[tuple[tuple[str, ...], list[_Draft]]]:
    """The drafts of each section under its headings; on pages (PDF) small neighbours as one.

    What is a heading on a page, its type says, and that is a guess: heads of tables are bold, and many a section is a line.
    Alone such a piece is found by chance and says little. So small sections that follow one another share a passage, in which
    their headings are lines; a heading under which nothing stands goes with what follows it, and so does what introduces a
    table. The passage stands under the headings that its sections share.
    """
    limit, ratio = float(request.passage_chars), request.chinese_ratio
    held: list[tuple[_Section, list[_Draft]]] = []
    size = 0.0
    for section, drafts in sections:
        if not drafts:
            continue
        if any(draft.box is None or draft.kind == "code" for draft in drafts):
            yield from _flushed(held)
            held = []
            yield tuple(section.headings), drafts
            continue
        drafts = _led(drafts, limit, ratio)
        own = sum(weight(draft.text, ratio) for draft in drafts)
        if held and size + own > _TOGETHER * limit:
            # A heading alone waits for what it stands above, however long that is.
            if all(_is_bare(*each) for each in held):
                drafts[0].text = "\n".join([*(each[0].headings[-1] for each in held), drafts[0].text])
            else:
                yield from _flushed(held)
            held = []
        size = own + (size if held else 0.0)
        held.append((section, drafts))
    yield from _flushed(held)


def _is_bare(section: _Section, drafts: list[_Draft]) -> bool:
    """Whether nothing stands under a heading but the heading itself."""
    return bool(section.headings) and [draft.text for draft in drafts] == [section.headings[-1]]


def _led(drafts: list[_Draft], limit: float, ratio: float) -> list[_Draft]:
    """With what introduces a table as its first lines."""
    found: list[_Draft] = []
    for draft in drafts:
        before = found[-1] if found else None
        whole = draft.kind == "table" and weight(draft.text, ratio) <= _WHOLE_TABLE * limit
        if whole and before is not None and before.kind in ("text", "caption") and weight(before.text, ratio) <= _LEAD * limit:
            found[-1] = _one([before, draft], "table")
        else:
            found.append(draft)
    return found


def _flushed(held: list[tuple[_Section, list[_Draft]]]) -> Iterator[tuple[tuple[str, ...], list[_Draft]]]:
    """What is held as one passage, or a section alone as it is."""
    if not held:
        return
    shared = list(held[0][0].headings)
    for section, _ in held[1:]:
        same = 0
        while same < min(len(shared), len(section.headings)) and shared[same] == section.headings[same]:
            same += 1
        del shared[same:]
    if len(held) == 1:
        yield tuple(shared), held[0][1]
        return
    parts: list[_Draft] = []
    for section, drafts in held:
        title = "" if _is_bare(section, drafts) else "\n".join(section.headings[len(shared) :][-1:])
        first, *more = drafts
        parts += [replace(first, text=f"{title}\n{first.text}" if title else first.text), *more]
    sizes = {kind: sum(len(part.text) for part in parts if part.kind == kind) for kind in {part.kind for part in parts}}
    kind = max(sorted(sizes), key=lambda each: sizes[each]) if "table" in sizes or len(sizes) == 1 else "text"
    yield tuple(shared), [_one(parts, kind)]


def _one(parts: list[_Draft], kind: str) -> _Draft:
    """Drafts of pages as one, which begins where the first does."""
    first = parts[0]
    box = first.box
    for part in parts[1:]:
        if box is not None and part.box is not None and part.page == first.page:
            box = union(box, part.box)
    return replace(first, kind=kind, text="\n".join(part.text for part in parts), box=box)


def union(one: Box, other: Box) -> Box:
    """The smallest box around both."""
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])


def _drafts(section: _Section, request: ParsingRequest) -> Iterator[_Draft]:
    limit, ratio = float(request.passage_chars), request.chinese_ratio
    held: _Draft | None = None
    caption: Block | None = None
    empty = True
    for block in section.blocks:
        if block.kind in ("table", "code", "caption") and held is not None:
            yield held
            held = None
        if caption is not None and block.kind != "table":
            yield _draft("caption", clean(caption.text), caption)
            caption = None
        if block.kind == "caption" and clean(block.text):
            caption, empty = block, False
        elif block.kind == "table" and block.table is not None:
            for draft in _table(block, block.table, caption, limit, ratio):
                empty = False
                yield draft
            caption = None
        elif block.kind == "code":
            for draft in _code(block, limit, ratio):
                empty = False
                yield draft
        elif text := clean(block.text):
            empty = False
            kind = "list" if block.kind == "list" else "text"
            if kind == "list":
                text = "  " * block.level + text
            for part in (text,) if weight(text, ratio) <= limit else pieces(text, limit, ratio):
                if held is not None and weight(held.text, ratio) + weight(part, ratio) > limit:
                    if weight(held.text, ratio) < _FULL * limit and kind == "text" and part is text:
                        # Too little to stand alone: what fits of the next paragraph goes along.
                        room = limit - weight(held.text, ratio)
                        first = next(pieces(part, room, ratio), "")
                        if first and part.startswith(first) and len(first) < len(part):
                            held.take(first, block, "\n")
                            part = part[len(first) :].lstrip()
                    yield held
                    held = None
                if held is None:
                    held = _Draft(kind, "")
                elif held.kind != kind:
                    held.kind = "text"
                held.take(part, block, "\n")
    if held is not None:
        yield held
    if caption is not None:
        yield _draft("caption", clean(caption.text), caption)
    if empty and section.own is not None and not section.has_children:
        # A heading under which nothing stands is still something that the document says.
        yield _draft("text", section.headings[-1], section.own)


def _draft(kind: str, text: str, block: Block) -> _Draft:
    return _Draft(kind, text, block.page, block.box, block.lines)


def _code(block: Block, limit: float, ratio: float) -> Iterator[_Draft]:
    lines = clean_code(block.text).split("\n")
    first = block.lines[0] if block.lines else None
    start = 0
    while start < len(lines):
        end, size, blank = start, 0.0, None
        while end < len(lines) and (end == start or size + len(lines[end]) + 1 <= limit):
            size += weight(lines[end], ratio) + 1
            if not lines[end].strip() and size > _FULL * limit:
                blank = end + 1
            end += 1
        if end < len(lines) and blank is not None:
            end = blank
        text = "\n".join(lines[start:end]).strip("\n")
        if text.strip():
            for part in (text,) if weight(text, ratio) <= 2 * limit else pieces(text, limit, ratio):
                draft = _draft("code", part, block)
                if first is not None:
                    draft.lines = (first + start, first + end - 1)
                yield draft
        start = end


def _table(block: Block, table: Table, caption: Block | None, limit: float, ratio: float) -> Iterator[_Draft]:
    rows = [[clean(cell) for cell in row] for row in table.rows]
    kept = [number for number, row in enumerate(rows) if any(row)]
    if not kept:
        return
    num_header = min(table.num_header, len(kept) - 1) if len(kept) > 1 else 0
    head = [rows[number] for number in kept[:num_header]]
    title = f"{clean(caption.text)}\n" if caption is not None else ""
    whole = title + render([rows[number] for number in kept], max(1, num_header))
    if weight(whole, ratio) <= _WHOLE_TABLE * limit:
        yield _placed(_draft("table", whole, block), table, kept[0], kept[-1], rows)
        return
    room = max(limit - weight(render(head, num_header), ratio), 0.3 * limit)
    group: list[int] = []
    size = 0.0
    for number in kept[num_header:]:
        length = weight(" | ".join(rows[number]), ratio) + 4
        if group and size + length > room:
            yield from _row_group(block, table, title, head, group, rows, limit, ratio)
            group, size = [], 0.0
        group.append(number)
        size += length
    if group:
        yield from _row_group(block, table, title, head, group, rows, limit, ratio)


def _row_group(
    block: Block,
    table: Table,
    title: str,
    head: list[list[str]],
    group: list[int],
    rows: list[list[str]],
    limit: float,
    ratio: float,
) -> Iterator[_Draft]:
    text = title + render([*head, *(rows[number] for number in group)], max(1, len(head)))
    parts: Iterable[str] = (text,)
    if weight(text, ratio) > 2 * _WHOLE_TABLE * limit:
        # One row alone is as long as a page: its cells one under the other, each with the name of its column.
        names = head[-1] if head else []
        cells = [
            f"{names[column]}: {cell}" if column < len(names) and names[column] else cell
            for number in group
            for column, cell in enumerate(rows[number])
            if cell
        ]
        parts = pieces("\n".join(cells), limit, ratio)
    for part in parts:
        yield _placed(_draft("table", part, block), table, group[0], group[-1], rows)


def _placed(draft: _Draft, table: Table, first: int, last: int, rows: list[list[str]]) -> _Draft:
    if table.marks is None:
        return draft
    start, end = table.marks[first][0], table.marks[last][1]
    if table.sheet is None:
        draft.lines = (start, end)
    else:
        width = max(len(row) for row in rows[first : last + 1])
        right = column_name(table.first_column + width - 1)
        draft.cells = f"{table.sheet}!{column_name(table.first_column)}{start}:{right}{end}"
    return draft
