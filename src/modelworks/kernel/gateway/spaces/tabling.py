"""What is told of a computed answer: a sentence in the language of the question, the query, and the rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from modelworks.contract.passages import Passage, Place
from modelworks.kernel.dataspace.answers import ComputedNote, ComputedTable
from modelworks.kernel.gateway.spaces.search import Found
from modelworks.kernel.gateway.spaces.tables import TableAnswer
from modelworks.kernel.gateway.spaces.wording import Language

#: Rows that the text shows; `grounding` has all of them.
_SHOWN_ROWS: Final = 20
_CELL_CHARS: Final = 60
_LARGE: Final = 1e8
_AGGREGATES: Final = {"average of": "的平均值", "sum of": "的总和", "highest": "的最大值", "lowest": "的最小值"}


def sentence(found: TableAnswer, language: Language) -> str:
    """What was computed, of what, and under which conditions; and who wrote the query, where rules did not."""
    told_so = _sentence(found, language)
    if found.by == "rules":
        return told_so
    if language == "zh":
        return f"{told_so}查询由语言模型“{found.by}”生成，请核对。"
    return f"{told_so} The query was written by the language model “{found.by}”: check it."


def _sentence(found: TableAnswer, language: Language) -> str:
    name, values = found.base, [cell for row in found.rows for cell in row]
    if language == "zh":
        where = f"（条件：{'；'.join(found.conditions)}）" if found.conditions else ""
        of = f"表“{name}”{where}"
        if found.kind == "count":
            noun = "的行数" if found.columns[0] == "number of rows" else f"中不同的{_last(found.columns[0])}的个数"
            return f"{of}{noun}为 {told(values[0])}（计算得出）。"
        if found.kind == "aggregate":
            return f"{of}：{'，'.join(_zh_figures(found))}（计算得出）。"
        if found.kind == "share":
            of = f"表“{name}”"
            part = found.columns[0].removeprefix("share where ")
            return f"{of}中{part}的占 {told(values[0])}%（{values[2]} 行中的 {values[1]} 行，计算得出）。"
        if len(found.rows) == 1:
            pairs = "，".join(
                f"{_zh(head)} {_with_unit(found, head, cell)}" for head, cell in zip(found.columns, values, strict=True)
            )
            return f"{of}：{pairs}（计算得出）。"
        return f"{of}：{_number(found)} 行结果（计算得出）。"
    where = f" where {' and '.join(found.conditions)}" if found.conditions else ""
    if found.kind == "count":
        noun = "rows" if found.columns[0] == "number of rows" else found.columns[0].removeprefix("number of ")
        return f"Computed from the table “{name}”: the number of {noun}{where} is {told(values[0])}."
    if found.kind == "aggregate":
        pairs = " and the ".join(
            f"{head}{where} is {_with_unit(found, head, cell)}" for head, cell in zip(found.columns, values, strict=True)
        )
        return f"Computed from the table “{name}”: the {pairs}."
    if found.kind == "share":
        return (
            f"Computed from the table “{name}”: the {found.columns[0]} is {told(values[0])}% ({values[1]} of {values[2]} rows)."
        )
    if len(found.rows) == 1:
        pairs = ", ".join(f"{head} {_with_unit(found, head, cell)}" for head, cell in zip(found.columns, values, strict=True))
        return f"Computed from the table “{name}”{where}: {pairs}."
    return f"Computed from the table “{name}”{where}: {_number(found)} rows."


def shown(found: TableAnswer) -> dict[str, Any]:
    """The query and the rows for a page: `sql`, `columns`, `rows` of texts, `is_cut`, and `evidence`, the end of the text."""
    return {
        "sql": found.sql,
        "columns": [_plain(head) for head in found.columns],
        "rows": [[told(cell) for cell in row] for row in found.rows[:_SHOWN_ROWS]],
        "is_cut": found.is_cut or len(found.rows) > _SHOWN_ROWS,
        "evidence": evidence(found),
    }


def evidence(found: TableAnswer) -> str:
    """The query and the rows, each fenced: nothing in a cell can end its fence."""
    rows = [[told(cell) for cell in row] for row in found.rows[:_SHOWN_ROWS]]
    heads = [_plain(head) for head in found.columns]
    widths = [max(len(cell) for cell in column) for column in zip(heads, *rows, strict=True)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (heads, *rows)]
    if len(found.rows) > _SHOWN_ROWS or found.is_cut:
        lines.append("…")
    shown = "\n".join(lines)
    return f"{_fenced('sql', found.sql)}\n\n{_fenced('text', shown)}"


def noted(found: TableAnswer) -> ComputedNote:
    """What is kept of it for `why`: the query, the tables as they are now, and the rows that the text shows."""
    return ComputedNote(
        found.sql,
        found.by,
        tuple(
            ComputedTable(each["name"], each["place"], each["num_rows"], document.id, document.digest, document.version)
            for each, document in zip(found.tables, found.documents, strict=True)
        ),
        tuple((name, found.units.get(name)) for name in found.columns),
        tuple(tuple(row) for row in found.rows[:_SHOWN_ROWS]),
        found.is_cut or len(found.rows) > _SHOWN_ROWS,
    )


def cited(found: TableAnswer) -> Sequence[Found]:
    """The tables as passages that can be cited, that of the answer first: name, place, and of it the columns told."""
    shown = ", ".join(dict.fromkeys(each for each in found.columns))
    told: list[Found] = []
    for table, document in zip(found.tables, found.documents, strict=True):
        name, is_base = table["name"], table["name"] == found.base
        passage = Passage(
            id=f"{document.id}:table:{name}"[:128],
            document_id=document.id,
            ordinal=0,
            kind="table",
            text=f"{name}: {shown} ({table['num_rows']} rows)" if is_base else f"{name} ({table['num_rows']} rows)",
            place=Place(cells=table["place"], headings=(name,)),
        )
        told.insert(0 if is_base else len(told), Found(passage, 1.0, document))
    return told


def told(value: Any) -> str:
    """A cell, on one line."""
    if value is None:
        return "—"
    if isinstance(value, float):
        # Of a mean nobody wants every figure, of a large sum each one that a number keeps.
        return f"{value:.15g}" if abs(value) >= _LARGE else f"{value:.10g}"
    return _plain(str(value))


def _plain(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _CELL_CHARS else line[: _CELL_CHARS - 1] + "…"


def _fenced(kind: str, text: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{kind}\n{text}\n{fence}"


def _with_unit(found: TableAnswer, head: str, cell: Any) -> str:
    unit = found.units.get(head)
    if unit is None or cell is None:
        return told(cell)
    return f"{unit}{told(cell)}" if unit in "$¥€£" else f"{told(cell)}{'' if unit == '%' else ' '}{unit}"


def _number(found: TableAnswer) -> str:
    return f"{len(found.rows)}+" if found.is_cut else str(len(found.rows))


def _zh_figures(found: TableAnswer) -> Sequence[str]:
    return [f"{_zh(head)}为 {_with_unit(found, head, cell)}" for head, cell in zip(found.columns, found.rows[0], strict=True)]


def _zh(head: str) -> str:
    for prefix, ending in _AGGREGATES.items():
        if head.startswith(f"{prefix} "):
            return head.removeprefix(f"{prefix} ") + ending
    return "行数" if head == "number of rows" else head


def _last(head: str) -> str:
    return head.removeprefix("number of different ")
