"""The names by which a code object reaches other objects, and a digest of a function without its comments.

::

    helpers.scale(x) * FACTOR               ("global", "helpers", ("scale",)), ("global", "FACTOR", ())
    from lib import tool                    ("import", "lib", ("tool",))
    import helpers; helpers.scale(x)        ("import", "helpers", ("scale",))
"""

from __future__ import annotations

import ast
import dis
import functools
import textwrap
import types
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from xxhash import xxh3_128_hexdigest

from shoal.memory.key._source import fingerprint, source_of

_LOADS = {"LOAD_GLOBAL": "global", "LOAD_NAME": "global"}
_CELLS = frozenset({"LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_CLOSURE", "LOAD_FROM_DICT_OR_DEREF"})
_ATTRIBUTES = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_STORES = frozenset({"STORE_DEREF", "STORE_NAME", "STORE_GLOBAL"})
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

    @property
    def dotted(self) -> str:
        """The name and its attributes."""
        return ".".join((self.root, *self.attributes)).strip(".")


class _Imports:
    """The imports in a code object, and the local variables that stand for what is imported."""

    def __init__(self) -> None:
        self.statements: list[Name] = []
        self.variables: dict[str, list[Name]] = {}
        self._module = Name("import", "", ())
        self._is_from = False
        self._value: Name | None = None

    def begin(self, root: str, level: int, wanted: Any) -> None:
        """Note an import statement. `wanted` are the names that ``from root import ...`` takes."""
        self._module, self._is_from = Name("import", root, (), level), bool(wanted)
        # `import a.b` sets the variable a.
        self._value = None if wanted else Name("import", root.partition(".")[0], ())
        taken = [self._module._replace(attributes=(each,)) for each in wanted or () if each != "*"]
        self.statements += taken or [self._module]

    def take(self, attribute: str) -> None:
        """Note that an attribute is taken: by ``from a import b``, or by ``import a.b as c``."""
        self._value = self._module._replace(attributes=(attribute,)) if self._is_from else self._module

    def store(self, variable: str) -> None:
        """Note that a variable is set."""
        if self._value is not None:
            self.variables.setdefault(variable, []).append(self._value)
            self._value = None

    def unused(self, found: Iterable[Name]) -> Iterator[Name]:
        """Yield the imports of which no name was found: all that they import counts."""
        used = [(name.level, f"{name.dotted}.") for name in found if name.kind == "import"]
        for name in self.statements:
            if not any(level == name.level and dotted.startswith(f"{name.dotted}.") for level, dotted in used):
                yield name


@functools.lru_cache(4096)
def names_in(code: types.CodeType) -> tuple[Name, ...]:
    """Return the names that code reads, those of the functions and classes inside it too, in a fixed order."""
    found: dict[Name, None] = {}
    imports = _Imports()
    chain: list[Name] = []
    attributes: list[str] = []
    constants: list[Any] = []
    for instruction in dis.get_instructions(code):
        name, value = instruction.opname, instruction.argval
        if name in _SILENT:
            continue
        if chain and name in _ATTRIBUTES:
            attributes.append(value)
            continue
        found.update(dict.fromkeys(_longer(chain, attributes)))
        chain, attributes = [], []
        if name.startswith(("LOAD_FAST", "STORE_FAST")):
            # Since Python 3.13, one instruction may store or load two variables.
            variables = value if isinstance(value, tuple) else (value,)
            if name.startswith("STORE_FAST"):
                imports.store(variables[0])
                variables = variables[1:]
            if "LOAD_FAST" in name:
                # A variable that inner functions read is loaded so only to pass it to them.
                loaded = [imports.variables.get(each, ()) for each in variables if each not in code.co_cellvars]
                found.update(dict.fromkeys(each for names in loaded[:-1] for each in names))
                chain = list(loaded[-1]) if loaded else []
        elif value in imports.variables and name in ("LOAD_NAME", "LOAD_DEREF"):
            chain = list(imports.variables[value])
        elif name in _LOADS:
            chain = [Name(_LOADS[name], value, ())]
        elif name in _CELLS and value in code.co_freevars:
            chain = [Name("cell", value, ())]
        elif name in _STORES:
            imports.store(value)
            if name == "STORE_GLOBAL":
                found[Name("stored", value, ())] = None
        elif name == "IMPORT_NAME":
            level, wanted = constants[-2:] if len(constants) > 1 else (0, None)
            imports.begin(value, level if isinstance(level, int) else 0, wanted)
        elif name == "IMPORT_FROM":
            imports.take(value)
        constants = [*constants[-1:], value] if name in ("LOAD_CONST", "LOAD_SMALL_INT") else []
    found.update(dict.fromkeys(_longer(chain, attributes)))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            for inside in names_in(constant):
                if inside.kind != "cell" or inside.root in code.co_freevars:
                    found[inside] = None
                else:  # a variable of this function that an inner one reads: no name from outside, unless imported
                    imported = imports.variables.get(inside.root, ())
                    found.update(dict.fromkeys(_longer(imported, inside.attributes)))
    found.update(dict.fromkeys(list(imports.unused(found))))
    return tuple(found)


def _longer(names: Iterable[Name], attributes: Iterable[str]) -> list[Name]:
    """Return names with more attributes."""
    return [name._replace(attributes=(*name.attributes, *attributes)) for name in names]


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
