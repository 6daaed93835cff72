"""Reference manuals of Python as text: the sources of its documentation, and the documentation inside of programs."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator

_UNDERLINE = re.compile(r"^([=\-~^\"'#*+.:`])\1{2,}\s*$")
_DIRECTIVE = re.compile(r"^(\s*)\.\. (?:py:)?(\w+)::\s*(.*)$")
#: Directives that describe something with a name, and such as show text.
_NAMED = frozenset(
    {"attribute", "class", "data", "decorator", "exception", "function", "method", "classmethod", "staticmethod"}
)
_NAMED_OTHERS = frozenset(
    {"decorator", "cfunction", "cmdoption", "describe", "envvar", "opcode", "option", "pdbcommand", "token"}
)
_TEXTUAL = frozenset({"note", "warning", "tip", "seealso", "versionadded", "versionchanged", "deprecated", "rubric", "topic"})
_ROLES = re.compile(r":[\w:+-]+:`~?!?([^`<]*?)(?:\s*<[^`>]*>)?`")
_LINKS = re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{1,2}")
_PLAIN = re.compile(r"``([^`]*)``|\|([^|\n]+)\||\*\*([^*\n]+)\*\*|(?<!\*)\*([^*\n]+)\*(?!\*)")


def rst_text(text: str) -> str:
    """Text of reStructuredText (docutils) as Python's documentation uses it; headings and described names get `#`.

    Levels follow from the order in which underlines appear. Comments, indices and targets are left out.
    """
    levels: dict[str, int] = {}
    found: list[str] = []
    lines = text.split("\n")
    #: Indent of the block that is left out, and of that of a described name.
    skipped: int | None = None
    for place, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if skipped is not None:
            if not line.strip() or indent > skipped:
                continue
            skipped = None
        following = lines[place + 1] if place + 1 < len(lines) else ""
        if line.strip() and not indent and _UNDERLINE.match(following) and len(following.strip()) >= len(line.strip()) / 2:
            level = levels.setdefault(following[0], min(5, len(levels) + 1))
            found += ["", f"{'#' * level} {_unmarked(line)}", ""]
        elif _UNDERLINE.match(line):
            continue
        elif (directive := _DIRECTIVE.match(line)) is not None:
            _, name, argument = directive.groups()
            if name in _NAMED or name in _NAMED_OTHERS:
                found += ["", f"###### {_unmarked(argument)}", ""]
            elif name in _TEXTUAL:
                found += ["", _unmarked(argument)]
            else:
                skipped = indent
        elif re.match(r"^\s*\.\.( |$)", line):
            skipped = indent
        elif not re.match(r"^\s*:[\w ]+:", line):
            found.append(_unmarked(line.strip()))
    return "\n".join(found)


def _unmarked(line: str) -> str:
    line = _LINKS.sub(r"\1", _ROLES.sub(r"\1", line))
    line = _PLAIN.sub(lambda match: next(each for each in match.groups() if each is not None), line)
    return re.sub(r"\\(.)", r"\1", line.removesuffix("::") + (":" if line.endswith("::") else ""))


def docstrings_text(source: str) -> str:
    """What a Python program says about itself: a section for each documented module, class and function, with its signature.

    Raises:
        SyntaxError: it is no Python of this version.
    """
    return "\n\n".join(_documented(ast.parse(source), "", 1))


def _documented(node: ast.AST, prefix: str, level: int) -> Iterator[str]:
    for child in ast.iter_child_nodes(node) if level > 1 or not isinstance(node, ast.Module) else [node]:
        if isinstance(child, ast.Module):
            yield from filter(None, [ast.get_docstring(child)])
            yield from _documented(child, "", 2)
        elif isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{prefix}{child.name}"
            said = ast.get_docstring(child)
            if said:
                signature = "" if isinstance(child, ast.ClassDef) else f"({ast.unparse(child.args)})"
                yield f"{'#' * min(6, level)} {name}{signature}\n\n{inspect.cleandoc(said)}"
            if isinstance(child, ast.ClassDef):
                yield from _documented(child, f"{name}.", level + 1)
