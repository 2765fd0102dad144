"""Values of Python source that is followed without being run, and operators and methods on them."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final


class Unknown:
    """Value that can't be told from the source."""

    def __repr__(self) -> str:
        return "unknown"


UNKNOWN: Final = Unknown()


@dataclass(eq=False, slots=True, kw_only=True)
class Opaque:
    """Object of a class, or result of a call, outside the source that is followed.

    Attributes:
        made_by: Name of the class, function, method or module attribute.
        owner: Object whose method or attribute that is; None for others.
        args: Positional arguments.
        values: Attributes: keyword arguments, and what was set later.
        defaults: Attributes of the class, if its source is followed.
        touched: Attributes that were read and are none of those, whose own attributes may have been set.
        is_read: It is one of another's touched attributes, so that it may be anything, None too.
    """

    made_by: str
    owner: Opaque | None = None
    args: tuple[Any, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    touched: dict[str, Opaque] = field(default_factory=dict)
    is_read: bool = False

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, as set, else one that is changed itself, else the class's, else the default."""
        if name in self.values:
            return self.values[name]
        if name in self.touched and self.touched[name].is_changed:
            return self.touched[name]
        return self.defaults.get(name, default)

    @property
    def is_changed(self) -> bool:
        """Whether an attribute was set, of it or of one of its attributes."""
        return bool(self.values) or any(each.is_changed for each in self.touched.values())

    def chain(self) -> Iterator[Opaque]:
        """Yield the object and those that it was made from."""
        node: Opaque | None = self
        while node is not None:
            yield node
            node = node.owner


@dataclass(eq=False, slots=True, kw_only=True)
class SourceClass:
    """Class of followed source.

    Attributes:
        node: Its source.
        module: Its module.
    """

    node: ast.ClassDef
    module: Any


@dataclass(eq=False, slots=True, kw_only=True)
class Method:
    """Method of a text, list or mapping.

    Attributes:
        owner: The value.
        name: Name of the method.
    """

    owner: Any
    name: str


Evaluate = Callable[[ast.expr], Any]

_PLAIN_TYPES: Mapping[str, type] = MappingProxyType(
    {"str": str, "int": int, "float": float, "bool": bool, "list": list, "tuple": tuple, "dict": dict, "set": set}
)
BUILTINS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {**_PLAIN_TYPES, "len": len, "max": max, "min": min, "range": range, "sum": sum, "abs": abs, "sorted": sorted}
)
"""Functions that are called with known values."""
_METHODS: Mapping[type, frozenset[str]] = MappingProxyType(
    {
        str: frozenset(
            {"format", "join", "lower", "upper", "replace", "startswith", "endswith", "split", "strip", "removesuffix"}
        ),
        dict: frozenset({"get", "items", "keys", "values", "update", "copy", "pop", "setdefault"}),
        list: frozenset({"append", "extend", "copy", "index", "count"}),
    }
)
_OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = MappingProxyType(
    {
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.Div: operator.truediv,
        ast.FloorDiv: operator.floordiv,
        ast.Mod: operator.mod,
        ast.Pow: operator.pow,
        ast.BitOr: operator.or_,
    }
)
_SIGNS: Mapping[type[ast.unaryop], Callable[[Any], Any]] = MappingProxyType(
    {ast.Not: operator.not_, ast.USub: operator.neg, ast.UAdd: operator.pos}
)
_MAX_VALUES: Final = 20_000
_MAX_LENGTH: Final = 100_000
_MAX_BITS: Final = 512
_MAX_LEVELS: Final = 100
"""Sizes of a value that is followed: those of recipes are far smaller, and operators and copies take time with them."""
_WIDTH: Final = re.compile(r"[{%][^}a-zA-Z]*(?:\d{3}|\*|\{)")
"""Width in a format that may make a text of any length."""
_AS_IT_IS: Final = -1
"""Conversion of a value in a joined text that has neither ``!r`` nor ``!s`` nor ``!a``."""
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = MappingProxyType(
    {
        ast.Eq: operator.eq,
        ast.NotEq: operator.ne,
        ast.Lt: operator.lt,
        ast.LtE: operator.le,
        ast.Gt: operator.gt,
        ast.GtE: operator.ge,
        ast.Is: operator.is_,
        ast.IsNot: operator.is_not,
        ast.In: lambda item, items: item in items,
        ast.NotIn: lambda item, items: item not in items,
    }
)


def weight(value: Any) -> int:
    """Return the number of values in a value, each counted as often as it is reached, but the arguments of a call once.

    Raises:
        ValueError: If there are too many, they lie too deep, or a text or number is too long.
    """
    number = 0
    stack = [(value, 0)]
    seen: set[int] = set()
    while stack:
        each, depth = stack.pop()
        number += 1
        inner: Iterable[Any] = ()
        if isinstance(each, (str, bytes)):
            _check_length(len(each))
        elif isinstance(each, int):
            if each.bit_length() > _MAX_BITS:
                raise ValueError(f"a number of more than {_MAX_BITS} bits")
        elif isinstance(each, (list, tuple)):
            inner = each
        elif isinstance(each, dict):
            inner = each.values()
        elif isinstance(each, Opaque):
            inner = (*each.values.values(), *each.touched.values())
            if id(each) not in seen:  # a call may have been given the very object that holds its result
                seen.add(id(each))
                inner = (*inner, *(arg for maker in each.chain() for arg in maker.args))
        for item in inner:
            stack.append((item, depth + 1))
        if number + len(stack) > _MAX_VALUES or depth > _MAX_LEVELS:
            raise ValueError(f"more than {_MAX_VALUES:,} values, or {_MAX_LEVELS} levels of them")
    return number


def check_items(values: Iterable[Any]) -> None:
    """Check the lengths of the ranges that a call or a loop goes through.

    Raises:
        ValueError: If one is too long.
    """
    for each in values:
        if isinstance(each, range) and (each.stop - each.start) // each.step > _MAX_VALUES:
            raise ValueError(f"a range of more than {_MAX_VALUES:,} numbers")


def _check_length(length: int) -> None:
    if length > _MAX_LENGTH:
        raise ValueError(f"a text or list longer than {_MAX_LENGTH:,}")


def is_known(value: Any) -> bool:
    """Whether a value is one of Python's own."""
    return not isinstance(value, (Unknown, Opaque))


def attribute_of(owner: Any, name: str) -> Any:
    """Return an attribute; one of an opaque object that was never set is opaque too."""
    if isinstance(owner, Opaque):
        if name in owner.values or name in owner.defaults:
            return owner.get(name)
        return owner.touched.setdefault(name, Opaque(made_by=name, owner=owner, is_read=True))
    if isinstance(owner, SourceClass):
        return Opaque(made_by=name, owner=Opaque(made_by=owner.node.name))
    for kind, methods in _METHODS.items():
        if isinstance(owner, kind) and name in methods:
            return Method(owner=owner, name=name)
    return UNKNOWN


def call_method(method: Method, *, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the value of a method's call; unknown for a text with unknown parts."""
    if isinstance(method.owner, str) and not all(map(is_known, (*args, *kwargs.values()))):
        return UNKNOWN
    if method.name == "format" and _WIDTH.search(method.owner):
        return UNKNOWN
    if isinstance(method.owner, str) and method.name in ("join", "replace"):
        longest = max((len(each) for each in args if isinstance(each, (str, list, tuple, dict))), default=0)
        _check_length((len(method.owner) + 1) * (longest + 1))
    return getattr(method.owner, method.name)(*args, **kwargs)


def call_on_attributes(name: str, args: tuple[Any, ...]) -> Any:
    """Return the value of getattr, hasattr, setattr or isinstance."""
    owner, *others = args
    if name == "isinstance":
        return _is_instance(owner, others[0])
    key = others[0]
    if not isinstance(owner, Opaque) or not isinstance(key, str):
        return UNKNOWN
    if name == "setattr":
        owner.values[key] = others[1]
        return None
    is_set = key in owner.values or key in owner.defaults
    if name == "hasattr":
        return True if is_set else UNKNOWN
    default = others[1] if len(others) > 1 else UNKNOWN
    return owner.get(key, default)


def _is_instance(value: Any, kind: Any) -> Any:
    if isinstance(kind, type) and not isinstance(value, Unknown):
        return isinstance(value, kind)
    if isinstance(kind, SourceClass) and isinstance(value, Opaque) and value.made_by == kind.node.name:
        return True
    return UNKNOWN


def copied(value: Any) -> Any:
    """Return a deep copy."""
    if isinstance(value, Opaque):
        values = {name: copied(each) for name, each in value.values.items()}
        return Opaque(
            made_by=value.made_by,
            owner=value.owner,
            args=value.args,
            values=values,
            defaults=value.defaults,
            touched={name: copied(each) for name, each in value.touched.items()},
            is_read=value.is_read,
        )
    if isinstance(value, dict):
        return {key: copied(each) for key, each in value.items()}
    if isinstance(value, list):
        return [copied(each) for each in value]
    return value


def evaluate_operation(node: ast.expr, evaluate: Evaluate) -> Any:
    """Return the value of an expression of other expressions; unknown for a kind that is not followed.

    Args:
        node: The expression.
        evaluate: Returns the value of an inner one.
    """
    evaluator = _EVALUATORS.get(type(node))
    return UNKNOWN if evaluator is None else evaluator(node, evaluate)


def _constant(node: ast.Constant, _evaluate: Evaluate) -> Any:
    return node.value


def _sequence(node: ast.List | ast.Tuple | ast.Set, evaluate: Evaluate) -> Any:
    items: list[Any] = []
    for each in node.elts:
        if isinstance(each, ast.Starred):
            value = evaluate(each.value)
            if not isinstance(value, (list, tuple, range)):
                return UNKNOWN
            check_items([value])
            items += value
        else:
            items.append(evaluate(each))
    return tuple(items) if isinstance(node, ast.Tuple) else items


def _mapping(node: ast.Dict, evaluate: Evaluate) -> dict[Any, Any]:
    items: dict[Any, Any] = {}
    for key, each in zip(node.keys, node.values, strict=True):
        value = evaluate(each)
        if key is None:
            items |= value if isinstance(value, dict) else {}
        else:
            name = evaluate(key)
            if is_known(name) and not isinstance(name, (list, dict)):
                items[name] = value
    return items


def _bool_operation(node: ast.BoolOp, evaluate: Evaluate) -> Any:
    value: Any = UNKNOWN
    for each in node.values:
        value = evaluate(each)
        if not is_known(value):
            is_object = isinstance(value, Opaque) and not value.is_read and isinstance(node.op, ast.Or)  # it is true
            return value if is_object else UNKNOWN
        if bool(value) == isinstance(node.op, ast.Or):
            return value
    return value


def _conditional(node: ast.IfExp, evaluate: Evaluate) -> Any:
    test = evaluate(node.test)
    if not is_known(test):
        return UNKNOWN
    return evaluate(node.body if test else node.orelse)


def _joined_text(node: ast.JoinedStr, evaluate: Evaluate) -> Any:
    text = ""
    for each in node.values:
        if isinstance(each, ast.FormattedValue) and (each.format_spec is not None or each.conversion != _AS_IT_IS):
            return UNKNOWN
        value = evaluate(each.value if isinstance(each, ast.FormattedValue) else each)
        if not is_known(value):
            return UNKNOWN
        text += str(value)
    return text


def _binary(node: ast.BinOp, evaluate: Evaluate) -> Any:
    left = evaluate(node.left)
    right = evaluate(node.right)
    function = _OPERATORS.get(type(node.op))
    if function is None or not is_known(left) or not is_known(right):
        return UNKNOWN
    _check_operands(node.op, left, right)
    return function(left, right)


def _check_operands(kind: ast.operator, left: Any, right: Any) -> None:
    """Check that a result has a size that can be followed, before it is made.

    Raises:
        ValueError: If it may have another.
    """
    if isinstance(kind, ast.Mult):
        for items, number in ((left, right), (right, left)):
            if isinstance(items, (str, bytes, list, tuple)) and isinstance(number, int):
                _check_length(len(items) * number)
    elif isinstance(kind, ast.Pow) and isinstance(left, int) and isinstance(right, int):
        if left.bit_length() * abs(right) > _MAX_BITS:
            raise ValueError(f"a number of more than {_MAX_BITS} bits")
    elif isinstance(kind, ast.Mod) and isinstance(left, (str, bytes)) and _WIDTH.search(str(left)):
        raise ValueError("a format whose width can't be followed")


def _unary(node: ast.UnaryOp, evaluate: Evaluate) -> Any:
    value = evaluate(node.operand)
    function = _SIGNS.get(type(node.op))
    if function is None or not is_known(value):
        return UNKNOWN
    return function(value)


def _subscript(node: ast.Subscript, evaluate: Evaluate) -> Any:
    owner = evaluate(node.value)
    key = evaluate(node.slice)
    if isinstance(owner, (dict, list, tuple, str)) and is_known(key):
        return owner[key]
    return UNKNOWN


def _comparison(node: ast.Compare, evaluate: Evaluate) -> Any:
    left = evaluate(node.left)
    for compare, each in zip(node.ops, node.comparators, strict=True):
        right = evaluate(each)
        is_identity = isinstance(compare, (ast.Is, ast.IsNot))
        for side in (left, right):
            if isinstance(side, Unknown) or (isinstance(side, Opaque) and (side.is_read or not is_identity)):
                return UNKNOWN
        if not _COMPARISONS[type(compare)](left, right):
            return False
        left = right
    return True


_EVALUATORS: Mapping[type[ast.expr], Callable[[Any, Evaluate], Any]] = MappingProxyType(
    {
        ast.Constant: _constant,
        ast.List: _sequence,
        ast.Tuple: _sequence,
        ast.Set: _sequence,
        ast.Dict: _mapping,
        ast.BoolOp: _bool_operation,
        ast.IfExp: _conditional,
        ast.JoinedStr: _joined_text,
        ast.BinOp: _binary,
        ast.UnaryOp: _unary,
        ast.Subscript: _subscript,
        ast.Compare: _comparison,
    }
)
