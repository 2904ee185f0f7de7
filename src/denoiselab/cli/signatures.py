"""The limits in a part's signature, read from its source: nothing of it runs, so that torch stays out.

A `_target_` is followed through the imports of its packages to the class or function. A constructor that takes keywords
as a whole has the parameters of the class's bases, or of the TypedDict that it unpacks.
"""

import ast
import collections.abc
import typing
from collections.abc import Sequence
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any, NamedTuple

from denoiselab import limits

_MODULES = {module.__name__: module for module in (typing, collections.abc, limits)}  # what limits are made of
_BUILTINS = {kind.__name__: kind for kind in (*limits.PLAIN, list, tuple)}
_PLAIN = (ast.Name, ast.Attribute, ast.Subscript, ast.Tuple, ast.Constant, ast.BitOr, ast.USub, ast.Load, ast.keyword)


class Source(NamedTuple):
    """A module: the statements that define its names, and the full names of those that it imports."""

    name: str
    defined: dict[str, ast.stmt]
    imported: dict[str, str]


@cache
def limit_of(target: str, parameter: str) -> Any:
    """The type hint of a parameter that has a limit; None for one without, or whose source is not found."""
    try:
        annotation = _parameters(target).get(parameter)
        hint = annotation and _hint(*annotation)
    except RecursionError:  # names that stand for each other
        return None
    return hint if limits.limited(hint) else None


@cache
def _source(module: str) -> Source | None:
    root, *inner = module.split(".")
    try:
        spec = find_spec(root)  # of a module at the top, which runs nothing
        for i in range(len(inner)):
            folders = spec and spec.submodule_search_locations
            spec = PathFinder.find_spec(".".join([root, *inner[: i + 1]]), folders) if folders else None
        if spec is None or spec.origin is None:
            return None
        package = module if spec.submodule_search_locations else module.rpartition(".")[0]
        return _read(module, package, ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body)
    except (ImportError, OSError, SyntaxError, ValueError):  # reported by whatever imports it
        return None


def _read(module: str, package: str, body: Sequence[ast.stmt]) -> Source:
    source, left = Source(module, {}, {}), list(body)
    while left:
        match statement := left.pop(0):
            case ast.If() | ast.Try():  # such as `if TYPE_CHECKING`
                left += [*statement.body, *statement.orelse]
            case ast.ImportFrom(names=names):
                home = resolve_name("." * statement.level + (statement.module or ""), package)
                source.imported.update({name.asname or name.name: f"{home}.{name.name}" for name in names})
            case ast.Import(names=names):
                for imported in names:
                    known = imported.name if imported.asname else imported.name.partition(".")[0]
                    source.imported[imported.asname or known] = known
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                source.defined[name] = statement
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                source.defined[name] = statement
    return source


def _find(name: str) -> tuple[Source, ast.stmt] | None:
    """The definition of "package.module.Name", wherever that is imported from."""
    for i in range(name.count("."), 0, -1):
        first, *rest = name.split(".")[i:]
        source = _source(name.rsplit(".", len(rest) + 1)[0])
        if source is not None:
            elsewhere = ".".join([source.imported.get(first, name), *rest])
            if first in source.imported and elsewhere != name:
                return _find(elsewhere)
            return (source, source.defined[first]) if first in source.defined and not rest else None
    return None


def _full(node: ast.expr, source: Source) -> str:
    """The full name of what a name in a module stands for."""
    first, dot, rest = ast.unparse(node).partition(".")
    return source.imported.get(first, f"{source.name}.{first}") + dot + rest


@cache
def _parameters(target: str) -> dict[str, tuple[ast.expr | None, Source]]:
    """The annotation of each, and where it stands."""
    match _find(target):
        case source, ast.Assign(value=ast.Name() | ast.Attribute() as other):
            return _parameters(_full(other, source))
        case source, ast.FunctionDef() as function:
            return _arguments(function, source)
        case source, ast.ClassDef(body=body, bases=bases):
            for made in body:
                if isinstance(made, ast.FunctionDef) and made.name == "__init__":
                    own, bases = _arguments(made, source), bases if made.args.kwarg else []
                    break
            else:
                fields = [field for field in body if isinstance(field, ast.AnnAssign)]
                own = {ast.unparse(field.target): (field.annotation, source) for field in fields}
            named = [base.value if isinstance(base, ast.Subscript) else base for base in bases]  # Sampler[State]
            inherited = [_parameters(_full(base, source)) for base in reversed(named)]
            return {name: hint for known in (*inherited, own) for name, hint in known.items()}
    return {}


def _arguments(function: ast.FunctionDef, source: Source) -> dict[str, tuple[ast.expr | None, Source]]:
    args = function.args
    known = {arg.arg: (arg.annotation, source) for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs)}
    if args.kwarg and isinstance(args.kwarg.annotation, ast.Subscript):  # Unpack[...]
        return _parameters(_full(args.kwarg.annotation.slice, source)) | known
    return known


class _Unknown(type):
    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls


class Other(metaclass=_Unknown):
    """A type that no limit is made of."""

    def __class_getitem__(cls, _: Any) -> type:
        return cls


class _Names(dict[str, Any]):
    """What names stand for in the annotations of a module."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __missing__(self, name: str) -> Any:
        if name in _BUILTINS:
            return _BUILTINS[name]
        full = self.source.imported.get(name, f"{self.source.name}.{name}")
        home, _, last = full.rpartition(".")
        if full in _MODULES or home in _MODULES:
            return _MODULES.get(full) or getattr(_MODULES[home], last, Other)
        match _find(full):
            case source, ast.Assign(value=value) | ast.AnnAssign(value=value):
                return _hint(value, source)
        return Other


def _hint(node: ast.expr | None, source: Source) -> Any:
    """The type hint that an annotation means; Other where that is not made of names, literals and Limit(...) alone."""
    for part in ast.walk(node) if node else ():
        match part:
            case ast.Call(func=called) if ast.unparse(called).rpartition(".")[2] == "Limit":
                continue
            case ast.BinOp(op=ast.BitOr()) | ast.UnaryOp(op=ast.USub()):
                continue
        if not isinstance(part, _PLAIN):
            return Other
    try:
        hint = eval(ast.unparse(node) if node else "None", {"__builtins__": {}}, _Names(source))
        return _hint(ast.parse(hint, mode="eval").body, source) if isinstance(hint, str) else hint
    except (SyntaxError, TypeError, ValueError):
        return Other
