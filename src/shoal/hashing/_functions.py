"""Writers for functions, methods, classes and modules.

::

    importable      its module and qualified name, as in a pickle
    anything else   by value: lambdas, local functions and classes, and everything in __main__, because a name in
                    __main__ means something else in the next script and does not exist in a worker process
        function    names, code, defaults, values of its closure, attributes; not the globals that it reads
        class       names, bases, attributes; an attribute that cannot be hashed counts only by its type
        code        bytecode, constants, names; no file and no line. So it changes with Python's minor version
"""

from __future__ import annotations

import functools
import pickle
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

from ._walk import Node, Walk, Writer, hashing_error

# Modules that have another name in other versions of Python or of shoal, or in processes that multiprocessing spawns.
_MODULE_NAMES = {
    "__mp_main__": "__main__",
    "pathlib._local": "pathlib",
    "shoal.memory.key._arguments": "shoal.memory._arguments",
    "shoal.memory.storage._filestore": "shoal.memory._filestore",
    "shoal.memory.storage._fsspecstore": "shoal.memory._fsspecstore",
}
# Attributes that Python adds to a class and that do not change its behaviour.
_IGNORED_ATTRIBUTES = frozenset(
    f"__{name}__"
    for name in (
        *("dict", "weakref", "module", "qualname", "doc", "abstractmethods", "firstlineno", "static_attributes"),
        *("annotate", "annotate_func", "annotations_cache", "slotnames"),
    )
) | {"_abc_impl"}
_HEAP_TYPE = 1 << 9
_CODE_PARTS = tuple(
    f"co_{part}"
    for part in (
        *("code", "consts", "names", "varnames", "freevars", "cellvars", "argcount", "posonlyargcount"),
        *("kwonlyargcount", "flags", "name", "exceptiontable"),
    )
    if hasattr(types.CodeType, f"co_{part}")
)


def is_found(obj: Any, module: Any, name: str) -> bool:
    """Return whether a loaded module has this object under this qualified name."""
    owner = sys.modules.get(module)
    first, *rest = name.split(".")
    found: Any = getattr(owner, "__dict__", {}).get(first)
    if found is None:
        with warnings.catch_warnings():  # the module may have a function __getattr__, which warns of what is deprecated
            warnings.simplefilter("ignore")
            found = getattr(owner, first, None)
    for part in rest:
        found = getattr(found, part, None)
    return found is obj or getattr(found, "__func__", None) is obj  # a class method is found bound to its class


def _module_of(obj: Any, name: str) -> str:
    module: str = getattr(obj, "__module__", None) or pickle.whichmodule(obj, name)  # type: ignore[attr-defined]
    return module


def write_by_name(walk: Walk, node: Node, obj: Any, name: str) -> None:
    """Write an object whose ``__reduce__`` returns a string: its name in its module.

    Raise HashingError if the module has another object, or none, under that name.
    """
    module = _module_of(obj, name)
    wrapped = getattr(obj, "__wrapped__", None)  # set by lru_cache, for example
    if module not in _MODULE_NAMES.values() and is_found(obj, module, name):
        walk.elements(node, [_MODULE_NAMES.get(module, module), name])
    elif wrapped is not None:
        walk.elements(node, [type(obj), module, name, wrapped])
    elif is_found(obj, module, name):
        walk.elements(node, [module, name])
    else:
        raise hashing_error(obj, f"it claims to be {module}.{name}, but that is another object or does not exist")


def _write_function(walk: Walk, node: Node, function: types.FunctionType) -> None:
    name = function.__qualname__
    module = _module_of(function, name)
    module_name = _MODULE_NAMES.get(module, module)
    if module_name != "__main__" and is_found(function, module, name):
        walk.elements(node, [module_name, name])
        return
    node.update(b"by value")
    cells = [cell_contents(cell) for cell in function.__closure__ or ()]
    walk.elements(
        node,
        [
            module_name,
            name,
            function.__code__,
            function.__defaults__,
            function.__kwdefaults__,
            function.__dict__ or None,
            cells,
        ],
    )


def cell_contents(cell: Any) -> list[Any]:
    """Return the value of a variable of a closure in a list, which is empty if the variable has no value yet."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


@functools.lru_cache(1024)
def _code_digest(code: types.CodeType, writer_of: Callable[[type], tuple[bytes, Writer]]) -> bytes:
    return Walk(writer_of).block([[getattr(code, part) for part in _CODE_PARTS]])


def _write_code(walk: Walk, node: Node, code: types.CodeType) -> None:
    node.update(_code_digest(code, walk.writer_of))


def write_class(walk: Walk, node: Node, cls: type) -> None:
    """Write a class: by name if an import finds it, else by value."""
    name = cls.__qualname__
    module_name = _MODULE_NAMES.get(cls.__module__, cls.__module__)
    if not cls.__flags__ & _HEAP_TYPE or (module_name != "__main__" and is_found(cls, cls.__module__, name)):
        walk.elements(node, [module_name, name])
        return
    node.update(b"by value")
    walk.elements(node, [module_name, name, cls.__bases__, type(cls)])
    for attribute in sorted(set(vars(cls)) - _IGNORED_ATTRIBUTES):
        value = vars(cls)[attribute]
        block = walk.block_or_none(value)
        node.update(walk.block([attribute, type(value)]) if block is None else walk.block([attribute]) + block)


def _write_method(walk: Walk, node: Node, method: types.MethodType) -> None:
    walk.elements(node, [method.__func__, method.__self__])


def _write_builtin(walk: Walk, node: Node, function: types.BuiltinFunctionType) -> None:
    owner = function.__self__
    if owner is None or isinstance(owner, types.ModuleType):
        walk.elements(node, [function.__module__ or getattr(owner, "__name__", None), function.__qualname__])
    else:
        node.update(b"of")
        walk.elements(node, [function.__name__, owner])


def _write_module(walk: Walk, node: Node, module: types.ModuleType) -> None:
    walk.elements(node, [_MODULE_NAMES.get(module.__name__, module.__name__)])


def _write_property(walk: Walk, node: Node, obj: property) -> None:
    walk.elements(node, [obj.fget, obj.fset, obj.fdel])


def _write_wrapped(walk: Walk, node: Node, obj: Any) -> None:
    walk.elements(node, [obj.__func__])


def _write_cached_property(walk: Walk, node: Node, obj: functools.cached_property[Any]) -> None:
    walk.elements(node, [obj.func])


WRITERS: dict[type, tuple[bytes, Writer]] = {
    types.FunctionType: (b"function\n", _write_function),
    types.CodeType: (b"code\n", _write_code),
    type: (b"class\n", write_class),
    types.MethodType: (b"method\n", _write_method),
    types.BuiltinFunctionType: (b"builtin\n", _write_builtin),
    types.ModuleType: (b"module\n", _write_module),
    property: (b"property\n", _write_property),
    staticmethod: (b"staticmethod\n", _write_wrapped),
    classmethod: (b"classmethod\n", _write_wrapped),
    functools.cached_property: (b"cached_property\n", _write_cached_property),
}
