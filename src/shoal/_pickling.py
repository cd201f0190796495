"""Pickles that travel between processes: the C pickler, a hook for each object, and cloudpickle where pickle fails.

::

    dumps(obj, reduce) ──> the stream, and the large buffers that were left out of it (pickle protocol 5)
        each object that is not a plain builtin ──> reduce(obj): a reduction of shoal, or NotImplemented
                                                    └─> cloudpickle: functions and classes that no import finds
"""

from __future__ import annotations

import copyreg
import functools
import gc
import importlib
import io
import pickle
import sys
import types
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, ClassVar

from shoal._context import reduce_variable
from shoal._environment import variable
from shoal._platform.pickles import CODE_BY_FIELDS, code_by_fields
from shoal._tracebacks import in_a_line

Reduce = Callable[[Any], Any]

# For smaller buffers, a copy through the pipe costs less than a segment of shared memory.
OUT_OF_BAND_BYTES = 16 * 1024
#: A path to what cannot be pickled has at most so many steps. Objects that are nested too deep have no culprit.
MOST_STEPS = 50


class _Picklers:
    """The pickler classes, created on first use, because importing cloudpickle from a cold disk takes 30 ms."""

    made: ClassVar[dict[str, type[pickle.Pickler]]] = {}

    @classmethod
    def current(cls) -> type[pickle.Pickler]:
        """Return the pickler class of the module that ``LOKY_PICKLER`` names; by default that of cloudpickle."""
        name = variable("LOKY_PICKLER")
        return cls.named("cloudpickle" if name is None else name.strip() or "cloudpickle")

    @classmethod
    def named(cls, name: str) -> type[pickle.Pickler]:
        """Return the pickler class that is derived from the ``Pickler`` of the module `name`."""
        if name not in cls.made:
            cls.made[name] = cls._make(importlib.import_module(name).Pickler)
        return cls.made[name]

    @staticmethod
    def _make(base: type[pickle.Pickler]) -> type[pickle.Pickler]:
        inherited: Any = getattr(base, "reducer_override", lambda _pickler, _obj: NotImplemented)
        table: Any = getattr(base, "dispatch_table", None)  # of pickle.Pickler, it is the descriptor of an attribute
        cloud = base.__module__.partition(".")[0] == "cloudpickle"
        tables: list[Any] = table.maps if isinstance(table, ChainMap) else [copyreg.dispatch_table]

        class Pickler(base):  # type: ignore[misc, valid-type]
            reduce: Reduce
            by_value: Reduce
            # Functions by value may use context variables, which neither pickle nor cloudpickle can pickle.
            dispatch_table: ClassVar[Any] = ChainMap({ContextVar: reduce_variable}, *tables)

            def reducer_override(self, obj: Any) -> Any:
                reduced = self.reduce(obj)
                if reduced is not NotImplemented:
                    return reduced
                if cloud and type(obj) in _NAMED and _is_imported(obj):
                    return reduced
                reduced = inherited(self, obj)
                if reduced is NotImplemented:
                    return _code_with_file(self, obj) if type(obj) is types.CodeType else reduced
                if isinstance(obj, (types.FunctionType, type)):
                    instead = self.by_value(obj)
                    return reduced if instead is NotImplemented else instead
                return reduced

        return Pickler


#: The types of most objects that pickles name.
_NAMED = (types.FunctionType, type)


def _is_imported(obj: Any) -> bool:
    """Return whether a function or class is at the top of an imported module, so that cloudpickle sends its name.

    cloudpickle finds that out itself, in several times the time.
    """
    module = sys.modules.get(obj.__module__)
    if obj.__module__ == "__main__" or getattr(module, "__dict__", {}).get(obj.__qualname__) is not obj:
        return False
    return not sys.modules["cloudpickle"].list_registry_pickle_by_value()


def _code_with_file(pickler: Any, code: types.CodeType) -> Any:
    """Return the pickler's own reduction of a code object, but with the name of the file that the code came from.

    cloudpickle 3.1.2 and later replace that name, so that pickles do not depend on it. Then tracebacks and warnings of
    the function would show neither its file nor its source.
    """
    if CODE_BY_FIELDS:
        return code_by_fields(code)
    reduce_code = getattr(pickler, "dispatch_table", {}).get(types.CodeType)
    if reduce_code is None:
        return NotImplemented
    make, args = reduce_code(code)[:2]
    return make, tuple(code.co_filename if type(arg) is str and arg == "<dynamic-code>" else arg for arg in args)


def as_usual(_obj: Any) -> Any:
    """Return NotImplemented: a hook that leaves every object to the pickler."""
    return NotImplemented


def dumps(
    obj: Any,
    reduce: Reduce = as_usual,
    by_value: Reduce = as_usual,
    out_of_band: int = OUT_OF_BAND_BYTES,
    pickler_of: str | None = None,
) -> tuple[bytes, list[memoryview]]:
    """Pickle `obj`.

    Parameters
    ----------
    obj : object
        The object to pickle.
    reduce : callable
        Called with each object that is not a plain builtin. It returns a reduction, as ``__reduce__`` does, or
        ``NotImplemented`` to leave the object to the pickler.
    by_value : callable
        Called in the same way with each function or class that would be pickled by value, because no import finds it.
    out_of_band : int
        Contiguous buffers of at least this many bytes are left out of the stream and returned separately, uncopied.
    pickler_of : str, optional
        The module whose ``Pickler`` is used. By default the module that ``LOKY_PICKLER`` names, or else cloudpickle.

    Returns
    -------
    stream : bytes
    buffers : list of memoryview
        The buffers that :func:`loads` needs together with the stream, as flat views of bytes.

    Raises
    ------
    Exception
        Any exception that the pickler, or pickling code of an object, raises.
    """
    buffers: list[memoryview] = []

    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < out_of_band:
            return True
        buffers.append(view)
        return False

    file = io.BytesIO()
    made = _Picklers.current() if pickler_of is None else _Picklers.named(pickler_of)
    pickler: Any = made(file, protocol=5, buffer_callback=keep_in_band)
    pickler.reduce, pickler.by_value = reduce, by_value
    pickler.dump(obj)
    return file.getvalue(), buffers


loads = pickle.loads


class KeepingFile:
    """Wraps a function for a pickler that is not shoal's, so that the function's code keeps the name of its file.

    The function is pickled by shoal's pickler, inside the other stream. If that fails, the other pickler pickles it.
    """

    def __init__(self, function: Any) -> None:
        self.function = function

    def __reduce__(self) -> Any:
        try:
            return loads, (dumps(self.function, out_of_band=2**63)[0],)
        except Exception:
            return _itself, (self.function,)


def _itself(obj: Any) -> Any:
    return obj


class collecting_later:
    """A block in which the garbage collector of this process is disabled.

    For blocks that rebuild many objects or import modules: nothing in there is garbage yet, and looking for garbage
    takes a fifth of the time (an eighth when scikit-learn is imported).
    """

    def __enter__(self) -> None:
        self._was_enabled = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self._was_enabled:
            gc.enable()


def culprit(
    obj: Any, name: str, reduce: Reduce = as_usual, dump: Callable[[Any], Any] | None = None
) -> tuple[str, str]:
    """Find the innermost part of an object that `dump`, by default :func:`dumps` with `reduce`, cannot pickle.

    Returns
    -------
    path : str
        The path to the part, as a Python expression that begins with `name`: ``"args[0]['model'].callback"``. It ends
        after :data:`MOST_STEPS` steps.
    reason : str
        The pickler's error for that part. It is empty if the part can be pickled now.
    """
    dump = dump or functools.partial(dumps, reduce=reduce)
    reason, seen = _pickling_error(obj, dump), {id(obj)}
    for _ in range(MOST_STEPS):
        for child, step in _children(obj):
            if id(child) not in seen:
                seen.add(id(child))
                error = _pickling_error(child, dump)
                if error is not None:
                    obj, name, reason = child, name + step, error
                    break
        else:
            break
    return name, reason or ""


def _pickling_error(obj: Any, dump: Callable[[Any], Any]) -> str | None:
    """Return the error that `dump` raises for an object, as text; None if there is none."""
    try:
        dump(obj)
    except Exception as error:
        return in_a_line(error)
    return None


def _children(obj: Any) -> Iterator[tuple[Any, str]]:
    """Yield the parts of an object, each with its step of the path, such as ``"[0]"``."""
    if isinstance(obj, Mapping):
        for key, value in list(obj.items()):
            yield value, f"[{key!r:.60}]"
        for key in list(obj):
            yield key, f"'s key {key!r:.60}"
    elif isinstance(obj, (list, tuple)):
        for position, value in enumerate(obj):
            yield value, f"[{position}]"
    elif isinstance(obj, (set, frozenset)):
        for value in list(obj):
            yield value, f"'s element {value!r:.60}"
    elif _is_array_of_objects(obj):
        for index in sys.modules["numpy"].ndindex(obj.shape):
            yield obj[index], f"[{', '.join(map(str, index)) or '()'}]"
    attributes: tuple[str, ...] = ()
    if isinstance(obj, BaseException):
        attributes = ("args",)
    elif isinstance(obj, types.MethodType):
        attributes = ("__self__",)
    elif isinstance(obj, functools.partial):
        attributes = ("func", "args", "keywords")
    for attribute in attributes:
        yield getattr(obj, attribute), f".{attribute}"
    if isinstance(obj, types.FunctionType):
        for variable, cell in zip(obj.__code__.co_freevars, obj.__closure__ or (), strict=True):
            try:
                yield cell.cell_contents, f"'s variable {variable}"
            except ValueError:  # the cell is still empty
                continue
        for variable in obj.__code__.co_names:
            if variable in obj.__globals__:
                yield obj.__globals__[variable], f"'s global {variable}"
    state = _state(obj)
    if isinstance(state, Mapping):
        for attribute, value in list(state.items()):
            yield value, f".{attribute}"


def _is_array_of_objects(obj: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(obj, numpy.ndarray) and obj.dtype.kind == "O"


def _state(obj: Any) -> Any:
    """Return the attributes that the pickler would store of an instance, by name; None if there are none."""
    if isinstance(obj, (type, types.ModuleType)):
        return None
    try:
        reduced = obj.__reduce_ex__(4)
    except Exception:
        return getattr(obj, "__dict__", None)
    state = reduced[2] if isinstance(reduced, tuple) and len(reduced) > 2 else None
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):  # attributes in slots
        return {**(state[0] or {}), **state[1]}
    return state if isinstance(state, Mapping) else getattr(obj, "__dict__", None)
