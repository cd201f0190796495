"""Arrays of pyarrow in a file that is not trusted: pyarrow rebuilds them, and then checks them.

::

    py_buffer(data)                                  a copy: what else is in the file cannot change it after the check
    _restore_array((type, length, ..., buffers)) ──> the parts are checked ──> pyarrow ──> Array.validate(full=True)

By itself, pyarrow believes the lengths and offsets in a file, so an array could read memory that is not its own. If an
array has other parts than its type needs, pyarrow ends the process.

Arrays that have other arrays in them, such as lists, are not checked, because pyarrow's own check of these can end the
process too. No preset covers the functions that make their types.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal.errors import UntrustedFile
from shoal.persistence.trust._dtypes import need


def _py_buffer(name: str, data: Any) -> Any:
    import pyarrow

    return pyarrow.py_buffer(bytes(memoryview(data)))


def _restore_array(name: str, parts: Any) -> Any:
    try:
        return _restored(parts)
    except (TypeError, ValueError, IndexError) as error:  # as pyarrow's ArrowInvalid and ArrowIndexError are
        raise UntrustedFile(name, (), (f"an array of pyarrow: {error}",)) from None


def _restored(parts: Any) -> Any:
    import pyarrow

    need(type(parts) is tuple and len(parts) == 7, "not seven parts")
    kind, length, null_count, offset, buffers, children, dictionary = parts
    need(isinstance(kind, pyarrow.DataType), "no type")
    if kind.num_fields or isinstance(kind, (pyarrow.DictionaryType, pyarrow.BaseExtensionType)):
        return pyarrow.lib._restore_array(parts)
    need({int}.issuperset(map(type, (length, null_count, offset))), "no numbers")
    need(length >= 0 and offset >= 0 and -1 <= null_count <= length, "numbers that no array has")
    if length == 0:
        return pyarrow.nulls(0, kind)
    need(type(buffers) is list and not children and dictionary is None, "other parts")
    more = len(buffers) - kind.num_buffers
    need(more == 0 or (more > 0 and str(kind).endswith("_view")), "another number of buffers")
    # The first one tells which values are missing; it may be missing itself.
    first = 1 if buffers and buffers[0] is None else 0
    need(all(isinstance(buffer, pyarrow.Buffer) for buffer in buffers[first:]), "something else than buffers")
    if len(buffers) > 1:
        need(offset + length <= 8 * buffers[1].size, "a buffer that is too small")
    array = pyarrow.lib._restore_array(parts)
    array.validate(full=True)
    return array


#: What takes the place of functions of pyarrow, by their dotted names. The first argument is the name of the file.
GUARDED: dict[str, Callable[[str, Any], Any]] = {
    "pyarrow.lib.py_buffer": _py_buffer,
    "pyarrow.lib._restore_array": _restore_array,
}
