"""``depends="auto"``: what a function reaches in the user's own project.

::

    code ── names ──> objects of its globals, closure and imports
                        ├─ functions, methods, classes of the project ──> a digest of each, and what it reaches in turn
                        ├─ constants ──────────────────────────────────> their values
                        ├─ installed packages ─────────────────────────> their versions
                        └─ other objects ──────────────────────────────> do not count; depends_on() names them

Nothing is called. Modules of the project that a function imports when it runs are imported.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
import types
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, is_dataclass
from enum import Enum, EnumMeta
from typing import Any, NamedTuple

from shoal._tracebacks import warn
from shoal.errors import CacheWarning
from shoal.hashing import hash
from shoal.hashing._functions import cell_contents
from shoal.memory.key._constants import PLAIN, code_in, counted, is_fixed, pretends
from shoal.memory.key._depends import identity_of, named
from shoal.memory.key._names import Name, digest_of_function, dump_of, names_in
from shoal.memory.key._project import is_own_code, is_own_module, version_of_package
from shoal.memory.key._source import source_of_module

#: The largest number of objects that are looked at for one function.
MOST_REACHED = 2_000
_DIGITS = 16
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType)
_TABLES = (tuple, list, dict, set, frozenset)
#: Types of objects that have the name under which they were defined.
_NAMED = (types.FunctionType, types.BuiltinFunctionType, type)
_MISSING: Any = object()


class Reached(NamedTuple):
    """Something that a cached function reaches.

    Attributes
    ----------
    name : str
        Its dotted name. If several objects share it, as all lambdas of a module do, the names of all but the first
        also say where they were found: ``"helpers.<lambda> (helpers.double)"``.
    kind : str
        "function", "class", "module", "constant", "package"; or "not counted".
    text : str
        A digest of its code; the value of a constant, or a digest of it; the version of a package; or why it does not
        count. If a name stands for a function that is defined under another name, this is a constant, and its value
        is the name of that function.
    """

    name: str
    kind: str
    text: str


class Reach:
    """What one function reaches, at the time when it was looked at. It does not change, so it is thread-safe."""

    def __init__(self, roots: Iterable[Any]) -> None:
        walk = _Walk()
        walk.start(roots)
        self.reached: tuple[Reached, ...] = tuple(sorted(walk.reached.values()))
        self.digest: str = hash([tuple(item) for item in self.reached if item.kind != "not counted"])
        #: Constants that may change in place, by name: their values count at each call.
        self.live: dict[str, Any] = dict(sorted(walk.live.items()))
        self._bindings, self._codes = walk.bindings, walk.codes

    def is_stale(self) -> bool:
        """Return whether a name stands for another object now, or a function has other code."""
        for names, name, found in self._bindings:
            if names.get(name, _MISSING) is not found:
                return True
        return any(function.__code__ is not code for function, code in self._codes)

    def values(self) -> list[Any]:
        """Return the present values of the constants that may change in place."""
        return [counted(value) for value in self.live.values()]


class _Walk:
    """Follows the names of functions, from one object to the next."""

    def __init__(self) -> None:
        self.reached: dict[str, Reached] = {}
        self.live: dict[str, Any] = {}
        self.bindings: list[tuple[dict[str, Any], str, Any]] = []
        self.codes: list[tuple[types.FunctionType, types.CodeType]] = []
        self._pending: deque[tuple[str, Any]] = deque()
        self._stored: set[tuple[int, str]] = set()
        self._homes: dict[str, tuple[int, str]] = {}  # the namespaces of constants
        self._seen: dict[int, Any] = {}  # the objects too, so that no other one gets their ids
        self._labels: dict[int, str] = {}  # the names of functions and classes, each of which has its own
        # Where a function was found under another name, the function, and what already counts of its own name.
        self._aliases: dict[str, tuple[Any, str | None]] = {}

    def start(self, roots: Iterable[Any]) -> None:
        """Follow the names of some functions, which do not count themselves, and of the classes around them."""
        for root in roots:
            self._seen[id(root)] = root
            if isinstance(root, (types.FunctionType, type)):
                self._label("inside", root)
            if isinstance(root, types.FunctionType):
                self._follow(root)
                outer = root.__qualname__.rpartition(".")[0]
                if outer and "<locals>" not in outer:
                    self._resolve(Name("global", outer.partition(".")[0], tuple(outer.split(".")[1:])), root)
            elif isinstance(root, type):
                self._add_class("", root)
        self._look_at_all()
        self._note_aliases()
        self._leave_out_stored()

    def _note_aliases(self) -> None:
        """Note which functions stand behind names that are not their own, because an edit may exchange two of them."""
        times = Counter(id(value) for value, _ in self._aliases.values())
        for where, (value, known) in self._aliases.items():
            label = self._labels.get(id(value)) or counted(value)
            is_only_there = "<" in value.__qualname__ and times[id(value)] == 1  # its label distinguishes it
            if label != known and not is_only_there:
                self._note(where, "constant", label)

    def _leave_out_stored(self) -> None:
        """Leave out globals that the project assigns while it runs: they are no constants."""
        self.bindings = [item for item in self.bindings if (id(item[0]), item[1]) not in self._stored]
        for name, home in self._homes.items():
            if home in self._stored and name in self.reached and self.reached[name].kind == "constant":
                self.reached[name] = Reached(name, "not counted", "a function assigns it")
                self.live.pop(name, None)

    def _look_at_all(self) -> None:
        while self._pending:
            if len(self._seen) > MOST_REACHED:
                warn(
                    f'depends="auto" has looked at {MOST_REACHED:,} objects that a cached function reaches, and at no '
                    "more: changes of the others are not noticed. Name what counts, with depends=[...]",
                    CacheWarning,
                )
                return
            self._look_at(*self._pending.popleft())

    def _add(self, name: str, value: Any) -> None:
        """Look at an object later, unless that was done. Constants count under each name that stands for them."""
        if id(value) not in self._seen or issubclass(type(value), (*PLAIN, tuple, frozenset, Enum)):
            self._seen[id(value)] = value
            self._pending.append((name, value))

    def _note(self, name: str, kind: str, text: str) -> None:
        """Note something. If something else has the name already, as a function and a constant may, change the name."""
        while self.reached.setdefault(name, Reached(name, kind, text))[1:] != (kind, text):
            name += "'"

    def _label(self, where: str, value: Any) -> str:
        """Return the name of a function or class. If another one has it, add where this one was found."""
        label = self._labels.get(id(value))
        if label is None:
            label = f"{value.__module__}.{value.__qualname__}"
            taken = set(self._labels.values())
            if label in taken:
                label = f"{label} ({where})"
            while label in taken:
                label += "'"
            self._labels[id(value)] = label
        return label

    def _look_at(self, name: str, value: Any) -> None:
        identity = identity_of(value)
        if pretends(value):
            self._note(name, "not counted", "an object that stands for another one")
        elif identity is not None:  # a cached function
            if identity.version is not None:
                self._note(name, "constant", f"version {identity.version!r:.60}")
            else:
                self._add(name, identity.func)
            for dependency in named(identity.depends):
                self._add(f"{name} depends", dependency)
        elif isinstance(value, types.FunctionType):
            self._look_at_function(name, value)
        elif isinstance(value, (types.MethodType, staticmethod, classmethod)):
            self._add(name, value.__func__)
            if isinstance(value, types.MethodType):
                self._add(name, value.__self__ if isinstance(value.__self__, type) else type(value.__self__))
        elif isinstance(value, (property, functools.cached_property, functools.partial, functools.partialmethod)):
            for part in ("fget", "fset", "fdel", "func", "args", "keywords"):
                inner = getattr(value, part, None)
                if inner:
                    self._add(f"{name}.{part}", inner)
        elif isinstance(value, types.ModuleType):
            self._look_at_module(value)
        elif isinstance(value, type):
            self._add_class(name, value)
        elif callable(inspect.getattr_static(value, "__wrapped__", None)):  # which runs no code of the object
            self._add(name, inspect.getattr_static(value, "__wrapped__"))
        else:
            self._look_at_value(name, value)

    def _look_at_function(self, where: str, function: types.FunctionType) -> None:
        if not is_own_code(function):
            self._note_package(function.__module__)
            wrapped = getattr(function, "__wrapped__", None)  # a decorator of an installed package
            inside = [wrapped, *(item for cell in function.__closure__ or () for item in cell_contents(cell))]
            for value in inside:
                if isinstance(value, (types.FunctionType, types.MethodType, type)):
                    self._add(where, value)
            return
        defaults = counted((function.__defaults__, function.__kwdefaults__))
        text = hash([digest_of_function(function), defaults])[:_DIGITS]
        self._note(self._label(where, function), "function", text)
        self._follow(function)

    def _follow(self, function: types.FunctionType) -> None:
        """Look at everything that a function names, and at the functions among its defaults."""
        self.codes.append((function, function.__code__))
        self._add_code_in(f"{self._label('', function)}()", (function.__defaults__, function.__kwdefaults__))
        for name in names_in(function.__code__):
            self._resolve(name, function)

    def _resolve(self, name: Name, function: types.FunctionType) -> None:
        if name.kind == "import":
            self._import(name, function)
            return
        if name.kind == "stored":
            self._stored.add((id(function.__globals__), name.root))
            return
        if name.kind == "cell":
            try:
                cell = (function.__closure__ or ())[function.__code__.co_freevars.index(name.root)]
            except (ValueError, IndexError):
                return
            content = cell_contents(cell)
            if not content or name.root == "__class__":
                return
            where, value = f"{self._label('', function)}.{name.root}", content[0]
        else:
            value = function.__globals__.get(name.root, _MISSING)
            self.bindings.append((function.__globals__, name.root, value))
            where = f"{function.__globals__.get('__name__')}.{name.root}"
            self._homes[where] = id(function.__globals__), name.root
            if value is _MISSING:  # a builtin, or a name that is not there yet
                return
        self._descend(where, value, name.attributes)

    def _descend(self, where: str, value: Any, attributes: tuple[str, ...]) -> None:
        """Look at an object; if it is a module of the project, at the one that the attributes lead to."""
        while attributes and isinstance(value, types.ModuleType) and is_own_module(value.__name__):
            inner = vars(value).get(attributes[0], _MISSING)
            self.bindings.append((vars(value), attributes[0], inner))
            if inner is _MISSING:
                break
            self._homes[f"{value.__name__}.{attributes[0]}"] = id(vars(value)), attributes[0]
            where, value, attributes = f"{value.__name__}.{attributes[0]}", inner, attributes[1:]
        if not pretends(value) and isinstance(value, _NAMED) and not _is_own_name(where, value):
            self._aliases[where] = value, None
        self._add(where, value)

    def _import(self, name: Name, function: types.FunctionType) -> None:
        """Look at what a function imports when it runs."""
        package = function.__globals__.get("__package__") or ""
        try:
            full = importlib.util.resolve_name("." * name.level + name.root, package) if name.level else name.root
            top = full.partition(".")[0]
            if full not in sys.modules and top not in sys.stdlib_module_names and not self._is_installed(top):
                importlib.import_module(full)
            module = sys.modules.get(full)
            if module is not None and is_own_module(full):
                _import_inside(module, name.attributes)
        except Exception as error:  # the module may raise anything
            self._note(name.root, "not counted", f"it cannot be imported: {type(error).__name__}")
            return
        if module is None or not is_own_module(full):
            self._note_package(full)
            return
        self._descend(full, module, name.attributes)

    @staticmethod
    def _is_installed(top: str) -> bool:
        spec = importlib.util.find_spec(top)
        return spec is None or "-packages" in str(spec.origin)

    def _look_at_module(self, module: types.ModuleType) -> None:
        """Count a whole module, of which a function does not say which part it uses."""
        if not is_own_module(module.__name__):
            self._note_package(module.__name__)
            return
        source = source_of_module(module)
        text = source.decode("utf-8", "replace") if isinstance(source, bytes) else repr(source)
        self._note(module.__name__, "module", hash(dump_of(text) or text)[:_DIGITS])

    def _add_class(self, where: str, kind: type) -> None:
        if not is_own_module(kind.__module__) and not any(map(is_own_code, _functions_of(kind))):
            self._note_package(kind.__module__)
            return
        name = self._label(where, kind)
        constants: list[Any] = []
        for attribute, value in sorted(vars(kind).items()):
            if attribute.startswith("_abc_") or type(value).__name__ == "_tuplegetter":
                continue
            if attribute.startswith("__") and not callable(getattr(value, "__func__", value)):
                continue
            self.bindings.append((vars(kind), attribute, value))  # type: ignore[arg-type]
            made = isinstance(kind, EnumMeta) or attribute == "_field_defaults"  # by Python, which does not change it
            if isinstance(value, (*PLAIN, Enum)) or type(value) in (_TABLES if made else (tuple, frozenset)):
                constants.append((attribute, counted(value)))
                self._add_code_in(f"{name}.{attribute}", value)
            elif not isinstance(value, _DESCRIPTORS) and (
                not isinstance(value, types.FunctionType) or is_own_code(value)
            ):
                self._add(f"{name}.{attribute}", value)
        for field in vars(kind).get("__dataclass_fields__", {}).values():
            factory = getattr(field, "default_factory", MISSING)
            if factory is not MISSING:
                constants.append((field.name, "factory", counted(factory)))
                self._add(f"{name}.{field.name}", factory)
        fields = list(vars(kind).get("__annotations__", ()))
        bases = [f"{base.__module__}.{base.__qualname__}" for base in kind.__bases__]
        self._note(name, "class", hash([constants, fields, bases])[:_DIGITS])
        for base in (*kind.__bases__, type(kind)):
            self._add(name, base)

    def _look_at_value(self, name: str, value: Any) -> None:
        if isinstance(value, types.BuiltinFunctionType):
            self._note_package(value.__module__)
            return
        if isinstance(value, PLAIN):
            text = repr(value)
            self._note(name, "constant", text if len(text) <= 60 else hash(value)[:_DIGITS])
            return
        found = counted(value)
        self._add_code_in(name, value)
        if found is None:
            self._note(name, "not counted", f"an object of {type(value).__module__}.{type(value).__qualname__}")
            self._add(name, type(value))
        elif is_fixed(value):
            self._note(name, "constant", hash(found)[:_DIGITS])
        else:
            while name in self.live and self.live[name] is not value:
                name += "'"
            self.live[name] = value
            self._note(name, "constant", "counted at each call")
            if is_dataclass(value):
                self._add(name, type(value))

    def _add_code_in(self, name: str, value: Any) -> None:
        """Look at the functions and classes in a constant."""
        for place, inside in code_in(value):
            if isinstance(inside, types.FunctionType):
                self._aliases[name + place] = inside, counted(inside)
            self._add(name + place, inside)

    def _note_package(self, module: str | None) -> None:
        package = (module or "").partition(".")[0]
        version = version_of_package(package) if package else None
        if version is not None:
            self._note(package, "package", version)


def _import_inside(module: Any, attributes: tuple[str, ...]) -> None:
    """Import the modules of a package that attributes stand for, as ``import a.b`` and ``from a import b`` do."""
    for attribute in attributes:
        full = f"{module.__name__}.{attribute}"
        if attribute not in vars(module) and hasattr(module, "__path__") and importlib.util.find_spec(full):
            importlib.import_module(full)
        module = vars(module).get(attribute)
        if not isinstance(module, types.ModuleType):
            return


def _is_own_name(where: str, value: Any) -> bool:
    """Return whether a function or class was found under the name under which it was defined."""
    return "<" not in value.__qualname__ and where.rpartition(".")[2] == value.__name__


def _functions_of(kind: type) -> Iterator[types.FunctionType]:
    for value in vars(kind).values():
        inner = getattr(value, "__func__", value)
        if isinstance(inner, types.FunctionType):
            yield inner
