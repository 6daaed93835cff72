"""Formulas over scores: parsed into a tree of arithmetic, and nothing else is in the language."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

from modelworks.contract.errors import InvalidRequest

_OPERATORS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,
}
_FUNCTIONS: Mapping[str, tuple[Callable[..., float], int, int]] = {
    # name: function, least and most arguments
    "min": (min, 1, 32),
    "max": (max, 1, 32),
    "abs": (abs, 1, 1),
    "floor": (math.floor, 1, 1),
    "ceil": (math.ceil, 1, 1),
    "exp": (math.exp, 1, 1),
    "sqrt": (math.sqrt, 1, 1),
    "log": (math.log, 1, 2),
}
_MAX_DEPTH = 50


class Formula:
    """`+ - * / ^`, brackets, numbers, names of graders, and min, max, abs, floor, ceil, exp, sqrt, log.

    Args:
        text: the formula.
        names: what it may speak of.
        param: the field, for messages.

    Raises:
        InvalidRequest: it is something else (code `invalid_formula`), or speaks of an unknown grader.
    """

    def __init__(self, text: str, names: Collection[str], param: str) -> None:
        self._names = names
        self._param = param
        try:
            # "^" is the power of the wire form; Python's "^" would bind more loosely than "+".
            self._tree = ast.parse(text.strip().replace("^", "**"), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else "it is nested too deeply"
            raise self._wrong(f"{text[:80]!r} is no formula: {reason}") from error
        self._check(self._tree, 0)

    def __call__(self, scores: Mapping[str, float]) -> float:
        """The formula's value.

        Raises:
            ArithmeticError, ValueError: it has none, as with a division by zero.
        """
        return float(self._value(self._tree, scores))

    def _wrong(self, what: str) -> InvalidRequest:
        return InvalidRequest(
            f"{self._param}: {what}.",
            hint=f"Use + - * / ^, brackets, numbers, {', '.join(_FUNCTIONS)} and the graders {', '.join(sorted(self._names))}.",
            param=self._param,
            code="invalid_formula",
        )

    def _check(self, node: ast.expr, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise self._wrong("it is nested too deeply")
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            inner = [node.left, node.right]
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            inner = [node.operand]
        elif isinstance(node, ast.Constant) and _is_number(node.value):
            return
        elif isinstance(node, ast.Name):
            if node.id not in self._names:
                raise self._wrong(f"there is no grader {node.id!r}")
            return
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
            _, least, most = _FUNCTIONS[node.func.id]
            if node.keywords or not least <= len(node.args) <= most:
                raise self._wrong(f"{node.func.id} takes {least}{'' if least == most else f' to {most}'} values")
            inner = node.args
        else:
            raise self._wrong(f"{ast.unparse(node)[:60]!r} is no arithmetic")
        for each in inner:
            self._check(each, depth + 1)

    def _value(self, node: Any, scores: Mapping[str, float]) -> float:
        if isinstance(node, ast.BinOp):
            return _OPERATORS[type(node.op)](self._value(node.left, scores), self._value(node.right, scores))
        if isinstance(node, ast.UnaryOp):
            value = self._value(node.operand, scores)
            return -value if isinstance(node.op, ast.USub) else value
        if isinstance(node, ast.Constant):
            return float(cast(float, node.value))
        if isinstance(node, ast.Name):
            return scores[node.id]
        return float(_FUNCTIONS[node.func.id][0](*(self._value(each, scores) for each in node.args)))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300
