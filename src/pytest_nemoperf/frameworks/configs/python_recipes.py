"""Recipe functions in Python, followed without being run: assignments of literals, helpers, conditions on them.

A recipe of Megatron-Bridge is a function that makes an object and sets attributes of it. Its packages can't be
imported where there is no GPU, so its source is walked: functions of the same tree are followed, everything else is an
opaque object that remembers its making and its attributes, and what depends on such a thing is unknown.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from pytest_nemoperf.errors import RecipeError, did_you_mean
from pytest_nemoperf.frameworks.configs.python_syntax import assigned_targets, defined_names, parsed, top_statements
from pytest_nemoperf.frameworks.configs.python_values import (
    BUILTINS,
    UNKNOWN,
    Method,
    Opaque,
    SourceClass,
    Unknown,
    attribute_of,
    call_method,
    call_on_attributes,
    check_items,
    copied,
    evaluate_operation,
    is_known,
    weight,
)
from pytest_nemoperf.frameworks.configs.yaml_file import read_text

_MAX_STATEMENTS: Final = 50_000
_MAX_WORK: Final = 2_000_000
"""Values that operators and calls are given in all: half a second's, and a hundred times what a recipe needs."""
_MAX_DEPTH: Final = 60
_ON_ATTRIBUTES: Final = frozenset({"getattr", "hasattr", "setattr", "isinstance"})


@dataclass(eq=False, slots=True, kw_only=True)
class _Module:
    """Source file: its statements at the top by the name that they define."""

    name: str
    path: Path
    definitions: dict[str, ast.stmt]
    found: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False, slots=True, kw_only=True)
class _Function:
    node: ast.FunctionDef
    module: _Module


@dataclass(eq=False, slots=True, kw_only=True)
class _Scope:
    """Names of a function's call."""

    module: _Module
    names: dict[str, Any] = field(default_factory=dict)


class _Return(Exception):  # noqa: N818 (no error: the end of a function)
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


class _MayReturn(Exception):  # noqa: N818 (neither)
    """A function may have ended: nothing is known of the code after it."""


class SourceTree:
    """Packages of a source folder, walked from one function.

    Args:
        root: Folder whose packages are followed, such as ``src``.
        by_name: Functions that return what the function of their module returns that their first argument names.
    """

    def __init__(self, root: Path, *, by_name: Collection[str] = ()) -> None:
        self._root = root
        self._by_name = by_name
        self._modules: dict[Path, _Module] = {}
        self._statements = 0
        self._work = 0
        self._depth = 0

    def call(self, path: Path, *, function: str) -> Any:
        """Return the result of a function without required arguments.

        Args:
            path: File of the function, or of an import of it.
            function: Its name.

        Raises:
            RecipeError: If there is none of that name, or it can't be followed.
        """
        module = self._load(path, name=self._name_of(path))
        with _following(f"{path}: {function}"):
            found = self._lookup(module, function)
        if not isinstance(found, _Function):
            known = self.functions(path)
            hint = did_you_mean(function, known) if known else "it defines none; name another file"
            raise RecipeError(f"{path} has no function {function!r}: {hint}")
        with _following(f"{path}: {function}"):
            result = self._call_function(found, args=(), kwargs={})
            weight(result)
            return result

    def call_named(self, module: str, name: str) -> Any:
        """Return the result of a function of a module; unknown if there is none.

        Raises:
            RecipeError: If it can't be followed.
        """
        found = self._find_module(module)
        if found is None:
            return UNKNOWN
        with _following(f"{module}.{name}"):
            result = self._called(self._lookup(found, name), args=(), kwargs={})
            weight(result)
            return result

    def functions(self, path: Path) -> list[str]:
        """Return the names of the functions that a file defines."""
        module = self._load(path, name=self._name_of(path))
        return [name for name, node in module.definitions.items() if isinstance(node, ast.FunctionDef)]

    def _name_of(self, path: Path) -> str:
        try:
            parts = path.resolve().relative_to(self._root.resolve()).with_suffix("").parts
        except ValueError:
            return path.stem
        return ".".join(parts).removesuffix(".__init__")

    def _load(self, path: Path, *, name: str) -> _Module:
        if path not in self._modules:
            try:
                tree = parsed(read_text(path))
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two of deep nesting
                if isinstance(error, RecipeError):
                    raise
                raise RecipeError(f"{path} can't be read as Python: {type(error).__name__}: {error}") from None
            definitions: dict[str, ast.stmt] = {}
            for node in top_statements(tree.body):
                for defined in defined_names(node):
                    definitions[defined] = node
            self._modules[path] = _Module(name=name, path=path, definitions=definitions)
        return self._modules[path]

    def _find_module(self, name: str) -> _Module | None:
        place = self._root.joinpath(*name.split("."))
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            with suppress(OSError):  # of a name that no file can have
                if path.is_file():
                    return self._load(path, name=name)
        return None

    def _lookup(self, module: _Module, name: str) -> Any:
        """Return the value of a name at the top of a module."""
        if name not in module.found:
            module.found[name] = UNKNOWN  # a cycle of imports finds nothing
            module.found[name] = self._defined(module, name)
        return module.found[name]

    def _defined(self, module: _Module, name: str) -> Any:
        value: Any = UNKNOWN
        match module.definitions.get(name):
            case ast.FunctionDef() as node:
                value = _Function(node=node, module=module)
            case ast.ClassDef() as node:
                value = SourceClass(node=node, module=module)
            case ast.ImportFrom() as node:
                value = self._imported(module, node, name)
            case ast.Assign(value=ast.expr() as source) | ast.AnnAssign(value=ast.expr() as source):
                value = self._evaluate(source, _Scope(module=module))
            case ast.Import():
                value = Opaque(made_by=name)
            case None:
                value = BUILTINS.get(name, Opaque(made_by=name))
            case _:
                pass
        return value

    def _imported(self, module: _Module, node: ast.ImportFrom, name: str) -> Any:
        original = name
        for alias in node.names:
            if (alias.asname or alias.name) == name:
                original = alias.name
        source = node.module or ""
        if node.level:
            package = module.name.split(".")
            if module.path.name != "__init__.py":
                package = package[:-1]
            kept = package[: len(package) - (node.level - 1)]
            source = ".".join([*kept, source] if source else kept)
        target = self._find_module(source)
        if target is not None and original in target.definitions:
            return self._lookup(target, original)
        return Opaque(made_by=original)

    def _call_function(self, function: _Function, *, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if self._depth >= _MAX_DEPTH:
            return UNKNOWN
        scope = self._bound(function, args=args, kwargs=kwargs)
        self._depth += 1
        try:
            self._run(function.node.body, scope)
        except _Return as end:
            return end.value
        except _MayReturn:
            return UNKNOWN
        finally:
            self._depth -= 1
        return None

    def _bound(self, function: _Function, *, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Scope:
        """Return the names of a call; arguments that are not given and have no default are unknown."""
        spec = function.node.args
        positional = [each.arg for each in (*spec.posonlyargs, *spec.args)]
        names: dict[str, Any] = dict.fromkeys([*positional, *(each.arg for each in spec.kwonlyargs)], UNKNOWN)
        defaults: list[tuple[str, ast.expr]] = []
        if spec.defaults:
            defaults += zip(positional[-len(spec.defaults) :], spec.defaults, strict=True)
        for each, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True):
            if default is not None:
                defaults.append((each.arg, default))
        for name, default in defaults:
            names[name] = self._evaluate(default, _Scope(module=function.module))
        names.update(zip(positional, args, strict=False))
        extra = {key: value for key, value in kwargs.items() if key not in names}
        names.update({key: value for key, value in kwargs.items() if key in names})
        if spec.vararg is not None:
            names[spec.vararg.arg] = args[len(positional) :]
        if spec.kwarg is not None:
            names[spec.kwarg.arg] = extra
        return _Scope(module=function.module, names=names)

    def _run(self, body: list[ast.stmt], scope: _Scope) -> None:
        for at, node in enumerate(body):
            self._count_statement(scope.module)
            try:
                self._step(node, scope)
            except _MayReturn:
                self._forget(body[at + 1 :], scope)
                raise

    def _count_statement(self, module: _Module) -> None:
        self._statements += 1
        if self._statements > _MAX_STATEMENTS:
            raise RecipeError(f"{module.path} does more than {_MAX_STATEMENTS:,} statements; it is not followed")

    def _weigh(self, value: Any, scope: _Scope) -> Any:
        """Return a value that an operator or a call takes, counted into the work.

        Raises:
            RecipeError: If there was too much of it.
            ValueError: If the value alone is too large.
        """
        self._work += weight(value)
        if self._work > _MAX_WORK:
            raise RecipeError(f"{scope.module.path} works on more than {_MAX_WORK:,} values; it is not followed")
        return value

    def _operand(self, node: ast.expr, scope: _Scope) -> Any:
        return self._weigh(self._evaluate(node, scope), scope)

    def _step(self, node: ast.stmt, scope: _Scope) -> None:
        match node:  # what is not named here changes nothing
            case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
                self._assignment(node, scope)
            case ast.Return():
                raise _Return(None if node.value is None else self._evaluate(node.value, scope))
            case ast.Expr():
                self._evaluate(node.value, scope)
            case ast.If() | ast.For() | ast.With() | ast.Try() | ast.While() | ast.Match():
                self._block(node, scope)
            case ast.FunctionDef():
                scope.names[node.name] = _Function(node=node, module=scope.module)
            case ast.ImportFrom():
                for name in defined_names(node):
                    scope.names[name] = self._imported(scope.module, node, name)
            case ast.Delete():
                self._forget([node], scope)
            case ast.Raise():
                raise ValueError(f"line {node.lineno}: {ast.unparse(node)}")
            case _:
                pass

    def _block(self, node: ast.stmt, scope: _Scope) -> None:
        """Run a statement that holds others; those of a loop or a choice that is not followed are forgotten."""
        match node:
            case ast.If():
                self._branch(node, scope)
            case ast.For():
                self._loop(node, scope)
            case ast.With():
                for target in assigned_targets(node):
                    self._assign(target, UNKNOWN, scope)
                self._run(node.body, scope)
            case ast.Try():
                self._run([*node.body, *node.orelse, *node.finalbody], scope)
            case _:
                self._forget([node], scope)

    def _assignment(self, node: ast.Assign | ast.AnnAssign | ast.AugAssign, scope: _Scope) -> None:
        if isinstance(node, ast.AugAssign):
            before = self._evaluate(ast.parse(ast.unparse(node.target), mode="eval").body, scope)
            joined = ast.BinOp(left=ast.Name(id="before"), op=node.op, right=ast.Name(id="by"))
            known = {"before": before, "by": self._evaluate(node.value, scope)}
            self._assign(node.target, self._evaluate(joined, _Scope(module=scope.module, names=known)), scope)
        elif node.value is not None:
            value = self._evaluate(node.value, scope)
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                self._assign(target, value, scope)

    def _branch(self, node: ast.If, scope: _Scope) -> None:
        test = self._evaluate(node.test, scope)
        if is_known(test):
            self._run(node.body if test else node.orelse, scope)
        else:
            self._forget([*node.body, *node.orelse], scope)

    def _loop(self, node: ast.For, scope: _Scope) -> None:
        items = self._evaluate(node.iter, scope)
        if not is_known(items) or any(isinstance(each, (ast.Break, ast.Continue)) for each in ast.walk(node)):
            self._forget([node], scope)
            return
        check_items([items])
        for item in list(items):
            self._assign(node.target, item, scope)
            self._run(node.body, scope)
        self._run(node.orelse, scope)

    def _forget(self, body: list[ast.stmt], scope: _Scope) -> None:
        """Set everything that a body assigns to unknown, since it may or may not run."""
        may_return = False
        for node in body:
            self._count_statement(scope.module)
            for each in ast.walk(node):
                for target in assigned_targets(each):
                    self._assign(target, UNKNOWN, scope)
                if isinstance(each, ast.Call):
                    self._forget_call(each, scope)
                elif isinstance(each, ast.Return):
                    may_return = True
        if may_return:
            raise _MayReturn

    def _forget_call(self, node: ast.Call, scope: _Scope) -> None:
        """Set everything that setattr or a function of the tree assigns to unknown, in the objects that it is given."""
        function = self._evaluate(node.func, scope)
        if isinstance(function, Opaque) and function.owner is None and function.made_by == "setattr":
            args, _ = self._arguments(node, scope)
            call_on_attributes(function.made_by, (*args[:-1], UNKNOWN))
            return
        if not isinstance(function, _Function) or self._depth >= _MAX_DEPTH:
            return
        args, kwargs = self._arguments(node, scope)
        inner = self._bound(function, args=args, kwargs=kwargs)
        self._depth += 1
        with suppress(_MayReturn):
            self._forget(function.node.body, inner)
        self._depth -= 1

    def _assign(self, target: ast.expr, value: Any, scope: _Scope) -> None:
        match target:
            case ast.Name():
                scope.names[target.id] = value
            case ast.Attribute():
                owner = self._evaluate(target.value, scope)
                if isinstance(owner, Opaque):
                    owner.values[target.attr] = value
            case ast.Subscript():
                owner = self._evaluate(target.value, scope)
                key = self._evaluate(target.slice, scope)
                if isinstance(owner, (dict, list)) and is_known(key):
                    owner[key] = value
            case ast.Tuple() | ast.List():
                is_matching = isinstance(value, (tuple, list)) and len(value) == len(target.elts)
                for at, each in enumerate(target.elts):
                    self._assign(each, value[at] if is_matching else UNKNOWN, scope)
            case _:
                pass

    def _evaluate(self, node: ast.expr, scope: _Scope) -> Any:
        match node:
            case ast.Name():
                if node.id in scope.names:
                    return scope.names[node.id]
                return self._lookup(scope.module, node.id)
            case ast.Attribute():
                return attribute_of(self._evaluate(node.value, scope), node.attr)
            case ast.Call():
                return self._call(node, scope)
            case ast.NamedExpr():
                value = self._evaluate(node.value, scope)
                self._assign(node.target, value, scope)
                return value
            case _:
                return evaluate_operation(node, partial(self._operand, scope=scope))

    def _call(self, node: ast.Call, scope: _Scope) -> Any:
        args, kwargs = self._arguments(node, scope)
        function = self._evaluate(node.func, scope)
        if isinstance(function, Method):
            self._weigh(function.owner, scope)
        return self._called(function, args=args, kwargs=kwargs)

    def _arguments(self, node: ast.Call, scope: _Scope) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a call, those by position and those by name."""
        args: list[Any] = []
        for each in node.args:
            if isinstance(each, ast.Starred):
                value = self._operand(each.value, scope)
                check_items([value])
                args += value if isinstance(value, (list, tuple, range)) else [UNKNOWN]
            else:
                args.append(self._operand(each, scope))
        kwargs: dict[str, Any] = {}
        for keyword in node.keywords:
            value = self._operand(keyword.value, scope)
            if keyword.arg is not None:
                kwargs[keyword.arg] = value
            elif isinstance(value, dict):
                kwargs |= value
        return tuple(args), kwargs

    def _called(self, function: Any, *, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value: Any = UNKNOWN
        match function:
            case _Function() if function.node.name in self._by_name:
                value = self._call_by_name(function, *args, **kwargs)
            case _Function():
                value = self._call_function(function, args=args, kwargs=kwargs)
            case SourceClass():
                defaults = self._class_attributes(function)
                value = Opaque(made_by=function.node.name, args=args, values=dict(kwargs), defaults=defaults)
            case Method():
                value = call_method(function, args=args, kwargs=kwargs)
            case Opaque():
                value = _call_opaque(function, args=args, kwargs=kwargs)
            case Callable() if not isinstance(function, Unknown):
                if all(map(is_known, (*args, *kwargs.values()))):
                    if function is not range:
                        check_items(args)
                    with suppress(TypeError):  # of a list with unknown items
                        value = function(*args, **kwargs)
            case _:
                pass
        return value

    def _call_by_name(self, function: _Function, name: Any = UNKNOWN, **_: Any) -> Any:
        if not isinstance(name, str):
            return name
        return self._called(self._lookup(function.module, name.replace("-", "_")), args=(), kwargs={})

    def _class_attributes(self, cls: SourceClass) -> dict[str, Any]:
        """Return the attributes that a class and its bases in the tree define."""
        attributes: dict[str, Any] = {}
        if self._depth >= _MAX_DEPTH:
            return attributes
        self._count_statement(cls.module)
        self._depth += 1
        scope = _Scope(module=cls.module)
        for base in reversed(cls.node.bases):
            found = self._evaluate(base, scope)
            if isinstance(found, SourceClass):
                attributes |= self._class_attributes(found)
        for node in cls.node.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                value = self._evaluate(node.value, scope)
                attributes[node.target.id] = UNKNOWN if isinstance(value, Opaque) else value
        self._depth -= 1
        return attributes


@contextmanager
def _following(subject: str) -> Iterator[None]:
    """Turn the exceptions of followed source into an error with its name."""
    try:
        yield
    except (RecursionError, MemoryError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(f"{subject} can't be followed: {type(error).__name__}: {error}") from None


def _call_opaque(function: Opaque, *, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if function.owner is None and function.made_by in _ON_ATTRIBUTES and args:
        return call_on_attributes(function.made_by, args)
    if function.made_by in ("deepcopy", "copy") and len(args) == 1:
        return copied(args[0])
    if function.owner is None and function.made_by == "cast" and len(args) == len(("type", "value")):
        return args[1]
    return Opaque(made_by=function.made_by, owner=function.owner, args=args, values=dict(kwargs))
