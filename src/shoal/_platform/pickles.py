"""The pickler and the unpickler that the rest of shoal builds on: those in C, or ones that use their file as those do.

PyPy has none in C. Its code objects differ, too.
"""

from __future__ import annotations

import pickle
import sys
from types import CodeType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or pickle.Pickler is not vars(pickle)["_Pickler"]:
    from pickle import Pickler as Pickler
    from pickle import Unpickler as Unpickler
else:
    from shoal._platform.pickles_in_python import Pickler as Pickler
    from shoal._platform.pickles_in_python import Unpickler as Unpickler

#: Whether cloudpickle 3.1 rebuilds code objects wrongly: on PyPy, their type takes other arguments.
CODE_BY_FIELDS = sys.implementation.name == "pypy"
#: What ``replace`` of a code object accepts. Some Pythons lack the last two.
_CODE_FIELDS = (
    *("argcount", "posonlyargcount", "kwonlyargcount", "nlocals", "stacksize", "flags", "firstlineno", "filename"),
    *("code", "consts", "names", "varnames", "freevars", "cellvars", "name", "linetable", "qualname", "exceptiontable"),
)


def code_by_fields(code: CodeType) -> tuple[Any, tuple[dict[str, Any]]]:
    """Return a reduction of a code object that names its fields, because their order differs between Pythons."""
    fields = [f"co_{name}" for name in _CODE_FIELDS]
    return _rebuild_code, ({field: getattr(code, field) for field in fields if hasattr(code, field)},)


def _rebuild_code(fields: dict[str, Any]) -> CodeType:
    return _rebuild_code.__code__.replace(**fields)
