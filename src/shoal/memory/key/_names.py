"""The names by which a code object reaches other objects, and a digest of a function without its comments.

::

    helpers.scale(x) * FACTOR     ("global", "helpers", ("scale",)), ("global", "FACTOR", ())
    from lib import tool          ("import", "lib", ("tool",))
"""

from __future__ import annotations

import ast
import dis
import functools
import textwrap
import types
from typing import Any, NamedTuple

from xxhash import xxh3_128_hexdigest

from shoal.memory.key._source import fingerprint, source_of

_LOADS = {"LOAD_GLOBAL": "global", "LOAD_NAME": "global"}
_CELLS = frozenset({"LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_CLOSURE", "LOAD_FROM_DICT_OR_DEREF"})
_ATTRIBUTES = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
#: Instructions that Python puts between the others, and that change nothing.
_SILENT = frozenset({"CACHE", "EXTENDED_ARG", "NOP", "PUSH_NULL", "PRECALL", "RESUME"})


class Name(NamedTuple):
    """A name that code reads, and the attributes that it reads of it at once."""

    #: "global", "cell", "import"; or "stored", for a global that the code assigns.
    kind: str
    root: str
    attributes: tuple[str, ...]
    #: The number of dots of a relative import.
    level: int = 0


@functools.lru_cache(4096)
def names_in(code: types.CodeType) -> tuple[Name, ...]:
    """Return the names that code reads, those of the functions and classes inside it too, in a fixed order."""
    found: dict[Name, None] = {}
    free = set(code.co_freevars)
    chain: tuple[str, str] | None = None
    attributes: list[str] = []
    constants: list[Any] = []
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        if name in _SILENT:
            continue
        if chain is not None:
            if name in _ATTRIBUTES:
                attributes.append(instruction.argval)
                continue
            found[Name(*chain, tuple(attributes))] = None
            chain, attributes = None, []
        if name in _LOADS:
            chain = _LOADS[name], instruction.argval
        elif name in _CELLS and instruction.argval in free:
            chain = "cell", instruction.argval
        elif name == "STORE_GLOBAL":
            found[Name("stored", instruction.argval, ())] = None
        elif name == "IMPORT_NAME":
            level, wanted = constants[-2:] if len(constants) > 1 else (0, None)
            for each in wanted or ("",):
                inner = (each,) if each and each != "*" else ()
                found[Name("import", instruction.argval, inner, level if isinstance(level, int) else 0)] = None
        constants = [*constants[-1:], instruction.argval] if name in ("LOAD_CONST", "LOAD_SMALL_INT") else []
    if chain is not None:
        found[Name(*chain, tuple(attributes))] = None
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            for inside in names_in(constant):
                # A variable of this function that an inner one reads is no variable from outside.
                if inside.kind != "cell" or inside.root in free:
                    found[inside] = None
    return tuple(found)


def digest_of_function(function: types.FunctionType) -> str:
    """Return a digest of what a function does: of its syntax tree without comments and docstrings, or of its code."""
    code, source = function.__code__, source_of(function)
    return _digest_of(code, source.text if source.line != -1 else "")


@functools.lru_cache(4096)
def _digest_of(code: types.CodeType, text: str) -> str:
    tree = "" if code.co_name == "<lambda>" else dump_of(text)  # two lambdas in one line have the same text
    return xxh3_128_hexdigest((tree or fingerprint(code)).encode("utf-8", "surrogatepass"))


def dump_of(text: str) -> str:
    """Return the syntax tree of a text as a string, without comments and docstrings; "" if it is no Python."""
    try:
        return repr(_plain(ast.parse(textwrap.dedent(text)))) if text else ""
    except (SyntaxError, ValueError, RecursionError):
        return ""


def _plain(node: Any) -> Any:
    """Return a tree of tuples. Fields without a value are left out, because versions of Python add some."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return node
    fields = []
    for name in node._fields:
        value = getattr(node, name, None)
        if name == "body" and isinstance(node, (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            value = _without_docstring(value)
        if value is not None and value != [] and not (name == "kind" and isinstance(node, ast.Constant)):
            fields.append((name, _plain(value)))
    return (type(node).__name__, *fields)


def _without_docstring(body: Any) -> Any:
    first = body[0] if body else None
    says = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    return body[1:] if says else body
