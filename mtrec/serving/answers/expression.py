"""Expressions over named arrays, such as `in_stock and price < 20` and `click * purchase`.

Their grammar is a part of Python's, which `ast` reads and nothing runs: names, numbers, texts,
lists, `+ - * /`, and either comparisons with `and`, `or`, `not` and `in`, or calls of functions.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import reduce
from typing import Any

import numpy as np

from mtrec.data.columns import Bags
from mtrec.errors import UserError

Values = Mapping[str, Any]
_ARITHMETIC: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARED: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


class Expression:
    """An expression that has been read.

    Args:
        text: The expression.
        argument: What errors call it.
        functions: What it may call, by name; None for a condition.

    Attributes:
        names: The arrays that it is about.

    Raises:
        UserError: If it is not of this grammar.
    """

    def __init__(
        self, text: str, *, argument: str, functions: Mapping[str, Callable[..., Any]] | None
    ) -> None:
        self._text, self._argument, self._functions = text, argument, functions
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError) as error:
            raise self._error("must be an expression", "which cannot be read") from error
        called = {id(n.func) for n in ast.walk(self._tree) if isinstance(n, ast.Call)}
        self.names = {
            n.id for n in ast.walk(self._tree) if isinstance(n, ast.Name) and id(n) not in called
        }
        self._check()

    def require(self, known: Mapping[str, Any] | set[str], what: str) -> None:
        """Raises a `UserError` if it names what is not `known`."""
        for name in sorted(self.names - set(known)):
            near = get_close_matches(name, known, n=1)
            remedy = f" Did you mean {near[0]}?" if near else ""
            rule = f"must name {what} ({', '.join(sorted(known))})"
            raise self._error(rule, f"which names {name}", remedy)

    def condition(self, columns: Values) -> np.ndarray:
        """Where it holds, `[rows]`, given columns `[rows]`."""
        rows = len(next(iter(columns.values())))
        try:
            holds = _truth(self._value(self._tree, columns))
        except (TypeError, ValueError, ArithmeticError) as error:  # NumPy's and Python's
            raise self._error("must compare what can be compared", f"where {error}") from error
        return np.broadcast_to(holds, (rows,))

    def value(self, values: Values) -> Any:
        """Its value, given arrays or tensors that can be computed with."""
        return self._value(self._tree, values)

    def try_out(self, values: Values) -> None:
        """Raises a `UserError` where its value cannot be computed."""
        try:
            with np.errstate(all="ignore"):  # as tensors are divided
                self.value(values)
        except (TypeError, ValueError, ArithmeticError) as error:  # NumPy's and Python's
            flaw = str(error).replace("<lambda>()", "a function")
            raise self._error("must be what can be computed", f"where {flaw}") from error

    def _check(self) -> None:
        allowed: tuple[type, ...] = (ast.Name, ast.Constant, ast.BinOp, ast.UnaryOp, ast.USub)
        allowed += (ast.Load, *_ARITHMETIC)
        condition: tuple[type, ...] = (
            ast.BoolOp,
            ast.Compare,
            ast.And,
            ast.Or,
            ast.Not,
            ast.In,
            ast.NotIn,
        )
        condition += (ast.List, ast.Tuple, *_COMPARED)
        allowed += (ast.Call,) if self._functions is not None else condition
        for part in ast.walk(self._tree):
            constant = isinstance(part, ast.Constant) and not (
                isinstance(part.value, int | float)
                or (isinstance(part.value, str) and self._functions is None)
            )
            if not isinstance(part, allowed) or constant:
                raise self._error("must be of the grammar of expressions", "which is not")
            if isinstance(part, ast.Call) and (
                not isinstance(part.func, ast.Name)
                or part.func.id not in (self._functions or {})
                or part.keywords
            ):
                raise self._error(f"may call {', '.join(self._functions or {})}", "which does not")

    def _value(self, node: ast.expr, values: Values) -> Any:
        match node:
            case ast.Name():
                return values[node.id]
            case ast.Constant(value=int() as whole) if self._functions is not None:
                return float(whole)  # TensorFlow's functions take no whole numbers
            case ast.Constant():
                return node.value
            case ast.List() | ast.Tuple():
                return [self._value(each, values) for each in node.elts]
            case ast.UnaryOp(op=ast.Not()):
                return ~_truth(self._value(node.operand, values))
            case ast.UnaryOp():
                return -self._value(node.operand, values)
            case ast.BinOp():
                operands = (self._value(side, values) for side in (node.left, node.right))
                return _ARITHMETIC[type(node.op)](*operands)
            case ast.BoolOp():
                joined = operator.and_ if isinstance(node.op, ast.And) else operator.or_
                return reduce(joined, (_truth(self._value(v, values)) for v in node.values))
            case ast.Call():
                assert self._functions
                assert isinstance(node.func, ast.Name)
                found = self._functions[node.func.id]
                return found(*(self._value(each, values) for each in node.args))
            case ast.Compare():
                sides = [self._value(side, values) for side in (node.left, *node.comparators)]
                pairs = zip(node.ops, sides, sides[1:], strict=False)
                return reduce(operator.and_, (_compared(*pair) for pair in pairs))
        raise AssertionError(ast.dump(node))

    def _error(self, rule: str, flaw: str, remedy: str = "") -> UserError:
        return UserError(f"`{self._argument}` {rule}; got {self._text!r}, {flaw}.{remedy}")


def _compared(how: ast.cmpop, left: Any, right: Any) -> Any:
    if not isinstance(how, ast.In | ast.NotIn):
        return _COMPARED[type(how)](*_comparable(left, right))
    if isinstance(right, Bags):
        code = np.flatnonzero(np.asarray(right.labels) == left)
        owners = np.repeat(np.arange(len(right)), np.diff(right.offsets))
        found = np.isin(np.arange(len(right)), owners[np.isin(right.codes, code)])
    else:
        found = np.any([_plain(left) == each for each in right], axis=0)
    return ~found if isinstance(how, ast.NotIn) else found


def _comparable(left: Any, right: Any) -> tuple[Any, Any]:
    """Two sides as arrays; beside True or False, texts are read as such."""
    sides = _plain(left), _plain(right)
    if sorted("O" if side.dtype.kind == "U" else side.dtype.kind for side in sides) == ["O", "b"]:
        read = [np.char.lower(side.astype(str)) for side in sides]
        return read[0], read[1]
    return sides


def _plain(values: Any) -> Any:
    """A column as an array."""
    return np.asarray(values)


def _truth(values: Any) -> Any:
    """Where values are not 0, missing, empty or the text of false."""
    array = _plain(values)
    if isinstance(values, Bags):
        return np.diff(values.offsets) > 0
    if array.dtype.kind == "f":
        return np.isfinite(array) & (array != 0)
    if array.dtype.kind in "UO":
        return ~np.isin(np.char.lower(array.astype(str)), ["", "false"])
    return array.astype(bool)
