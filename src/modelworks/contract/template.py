"""Texts with places for values: `{{item.question}}`, `{{ sample.output_json.steps[0] }}`. Paths only; nothing is executed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelworks.contract.errors import InvalidData, InvalidRequest

#: What a template may speak of: the data's record, and what a model made of it.
NAMESPACES = ("item", "sample")

_PLACE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_PATH = re.compile(r"\s*(\w+)((?:\.[\w-]+|\[\d+\])*)\s*")
_STEP = re.compile(r"\.([\w-]+)|\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Variable:
    """`namespace.a.b[0]`; a number stands for a place in a list, or for a field of that name."""

    namespace: str
    path: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join((self.namespace, *self.path))

    def value(self, values: Mapping[str, Any]) -> Any:
        """What stands there.

        Raises:
            InvalidData: nothing does (code `missing_variable`); the message names the step that leads nowhere.
        """
        found: Any = values.get(self.namespace)
        for number, step in enumerate(self.path):
            if isinstance(found, Mapping) and step in found:
                found = found[step]
            elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
                found = found[int(step)]
            else:
                raise self._missing(number, found)
        return found

    def _missing(self, number: int, found: Any) -> InvalidData:
        place = ".".join((self.namespace, *self.path[:number]))
        if isinstance(found, Mapping):
            known = ", ".join(sorted(map(str, found))[:12]) or "nothing"
            why = f"{place} has no field {self.path[number]!r}; it has {known}"
        elif isinstance(found, list):
            why = f"{place} is a list of {len(found)} and has no place {self.path[number]!r}"
        else:
            why = f"{place} is no object that could have a field {self.path[number]!r}"
        return InvalidData(f"{{{{{self}}}}}: {why}.", hint="Correct the name, or add the field.", code="missing_variable")


@dataclass(frozen=True, slots=True)
class Template:
    """A text in which every second piece is a variable."""

    pieces: tuple[str | Variable, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """The template that a text is.

        Raises:
            InvalidRequest: something between braces is no path (code `invalid_template`).
        """
        parts = _PLACE.split(text)
        return cls(tuple(_variable(part) if number % 2 else part for number, part in enumerate(parts)))

    @property
    def variables(self) -> tuple[Variable, ...]:
        """What it asks for, in order."""
        return tuple(piece for piece in self.pieces if isinstance(piece, Variable))

    def fill(self, **values: Any) -> str:
        """The text with its values: strings as they are, null as nothing, all else as JSON.

        Args:
            values: by namespace.

        Raises:
            InvalidData: a value is missing; see `Variable.value`.
        """
        return "".join(piece if isinstance(piece, str) else as_text(piece.value(values)) for piece in self.pieces)


def as_text(value: Any) -> str:
    """A value as it stands in a text."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _variable(text: str) -> Variable:
    match = _PATH.fullmatch(text)
    if match is None or match[1] not in NAMESPACES:
        raise InvalidRequest(
            f"{{{{{text[:60]}}}}} is no variable.",
            hint="Write {{item.field}} or {{sample.output_text}}, with dots and [numbers] for what lies deeper.",
            code="invalid_template",
        )
    return Variable(match[1], tuple(name or index for name, index in _STEP.findall(match[2])))
