"""Tell the parts of an answer apart while it arrives: thoughts, text, and calls with their arguments in pieces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modelworks.capabilities.text.form.dialect import THINK, THINK_END
from modelworks.capabilities.text.form.plan import Plan
from modelworks.capabilities.text.incremental import overlap


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an answer. A call is its name, whole, and then its arguments, in pieces of one JSON object."""

    kind: Literal["thought", "text", "name", "arguments"]
    text: str
    #: Which of the answer's calls.
    call: int = 0


class PartReader:
    """Reads one answer; what is given out is the same however the text is cut into pieces.

    White space between the parts belongs to none of them.
    """

    def __init__(self, plan: Plan) -> None:
        self._dialect = plan.dialect
        self._parallel = plan.parallel
        self._rest = ""
        self._parts: list[Part] = []
        self._read = {"open": self._thoughts, "possible": self._beginning, "none": self._text}[plan.thinking]
        self._is_fresh = True
        self._next_call = 0
        self._json = _ObjectScanner()
        self.num_calls = 0

    @property
    def thinking(self) -> bool | None:
        """Whether what comes next belongs to the thoughts; None where that is not decided."""
        return None if self._read == self._beginning else self._read == self._thoughts

    def push(self, text: str) -> list[Part]:
        """The parts that have become certain."""
        if self._read == self._text and self._dialect is None:
            return [Part("text", text)] if text else []
        self._rest += text
        while self._rest and self._read(False):
            pass
        return self._taken()

    def finish(self) -> list[Part]:
        """What was held back, once nothing more comes. The beginning of a call that was cut before its name is none."""
        while self._rest and self._read(True):
            pass
        return self._taken()

    def _taken(self) -> list[Part]:
        found, self._parts = self._parts, []
        return found

    # Each of these reads something off the rest and returns whether to go on.

    def _beginning(self, last: bool) -> bool:
        shown = self._rest.lstrip()
        if shown.startswith(THINK):
            self._rest = shown[len(THINK) :]
            self._read = self._thoughts
            return True
        if THINK.startswith(shown) and not last:
            return False
        self._read = self._text
        return True

    def _thoughts(self, last: bool) -> bool:
        if self._is_fresh:
            self._rest = self._rest.lstrip()
            self._is_fresh = not self._rest
        shown, found, after = self._rest.partition(THINK_END)
        if found:
            self._give("thought", shown.rstrip())
            self._rest, self._read, self._is_fresh = after, self._gap, True
            return True
        self._hold_back("thought", THINK_END, last)
        return False

    def _gap(self, last: bool) -> bool:
        self._rest = self._rest.lstrip()
        if self._rest:
            self._read = self._text
        return bool(self._rest)

    def _text(self, last: bool) -> bool:
        dialect = self._dialect
        if dialect is None:
            self._give("text", self._rest)
            self._rest = ""
            return False
        if not dialect.opens:
            is_call = self._rest.startswith(dialect.before_name[0])
            self._dialect, self._read = (dialect, self._lead) if is_call else (None, self._text)
            return True
        shown, found, after = self._rest.partition(dialect.opens)
        if found:
            self._give("text", shown.rstrip())
            self._rest, self._read = after, self._lead
            return True
        self._hold_back("text", dialect.opens, last)
        return False

    def _lead(self, last: bool) -> bool:
        return self._dialect is not None and self._skip(self._dialect.lead) and self._to(self._before_name)

    def _before_name(self, last: bool) -> bool:
        return self._dialect is not None and self._skip(self._dialect.before_name) and self._to(self._name)

    def _name(self, last: bool) -> bool:
        name, found, after = self._rest.partition(self._dialect.before_arguments if self._dialect else "")
        if not found:
            return False
        self._next_call, self.num_calls = self.num_calls, self.num_calls + 1
        self._give("name", name)
        self._rest, self._json = after, _ObjectScanner()
        return self._to(self._arguments)

    def _arguments(self, last: bool) -> bool:
        end = self._json.end_in(self._rest)
        self._give("arguments", self._rest[:end])
        self._rest = self._rest[end:]
        return self._json.is_over and self._to(self._after)

    def _after(self, last: bool) -> bool:
        return self._dialect is not None and self._skip(self._dialect.after) and self._to(self._more)

    def _more(self, last: bool) -> bool:
        between = self._dialect.between if self._dialect else None
        return bool(between) and self._parallel and self._skip(between or "") and self._to(self._before_name)

    def _skip(self, expected: str) -> bool:
        """Take a text that must be there off the rest; False while it is not there whole."""
        if not self._rest.startswith(expected):
            return False
        self._rest = self._rest[len(expected) :]
        return True

    def _to(self, read: object) -> bool:
        self._read = read  # type: ignore[assignment]
        return True

    def _hold_back(self, kind: Literal["thought", "text"], marker: str, last: bool) -> None:
        """Give out all but what may be the beginning of a marker, or white space before one."""
        if last:
            shown = self._rest.rstrip() if kind == "thought" else self._rest
        else:
            shown = self._rest[: len(self._rest) - overlap(self._rest, marker)].rstrip()
        self._give(kind, shown)
        self._rest = self._rest[len(shown) :]

    def _give(self, kind: Literal["thought", "text", "name", "arguments"], text: str) -> None:
        if text:
            self._parts.append(Part(kind, text, self._next_call))


class _ObjectScanner:
    """Finds where a JSON object ends, in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self.is_over = False

    def end_in(self, text: str) -> int:
        """How many characters of the next piece belong to the object."""
        for position, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = character == "\\"
                self._in_string = character != '"'
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.is_over = True
                    return position + 1
        return len(text)
