"""The dry run's stand-in for numpy's dtypes. It tells how many bytes an array has."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from shoal.persistence.trust._limits import PER_OPCODE, Misuse

_DTYPE = re.compile(r"[biufcSUVOMm]\d+")
_SURROGATE = re.compile("[\ud800-\udfff]")
#: Dtypes are nested at most this deep.
_DEPTH = 50
#: Arrays have no more dimensions.
_DIMENSIONS = 64
#: A field counts as this many bytes in the budget, because comparing it takes some microseconds.
_PER_FIELD = 2000
#: All names of the class of records.
RECORDS = ("numpy.record", "numpy.rec.record", "numpy.core.records.record", "numpy._core.records.record")


class SurveyedArray(NamedTuple):
    """An array in a file.

    Attributes
    ----------
    dtype
        Its dtype, as a text for people.
    shape
        Its shape.
    nbytes
        The number of its bytes; for an array of objects, the number of bytes of the references in memory.
    position
        The offset of its first byte from the beginning of the dump, before compression. None for an array within the
        pickle.
    """

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    position: int | None


class Dtype:
    """A stand-in for a dtype. It makes a real dtype, and compares what numpy would write of that.

    The state of a dtype in a file may claim anything: offsets beyond its end, or bytes that are said to be objects. A
    state is accepted only if it is exactly what numpy writes of the dtype that it describes.
    """

    def __init__(self, kind: Any, align: Any = False, copy: Any = False) -> None:
        import numpy as np

        # Without a copy, it could be a dtype that all of numpy shares.
        need(type(align) in (bool, int) and type(copy) in (bool, int) and (align, copy) == (0, 1), "other flags")
        self._record = getattr(kind, "name", None) in RECORDS
        known = self._record or (type(kind) is str and _DTYPE.fullmatch(kind))
        need(known, repr(kind) if type(kind) is str else "no name of a dtype")
        self._kind = np.record if self._record else kind
        self._known: Any = np.dtype(self._kind)
        self._final = False
        self._text: str | None = None
        self._depth = 0
        self._weight = 0  # of its state and of the states of the dtypes in it, each as often as it occurs
        #: The notes of the dry run. They record that nothing else in the file may use the fields.
        self.notes: Any = None

    @property
    def real(self) -> Any:
        """The dtype. It must not change any more once something was made of it."""
        self._final = True
        return self._known

    def described(self, shape: Any, position: int | None = None) -> SurveyedArray:
        """Return the description of an array of this dtype."""
        real = self.real
        nbytes = math.prod(shape_of(shape)) * real.itemsize
        if self._text is None:
            self._text = readable(real)
        return SurveyedArray(self._text, shape, nbytes, position)

    def check_objects(self, objects: Any, shape: Any) -> None:
        """Raise ValueError unless an array of this dtype and of this shape may be given these objects."""
        need(type(objects) is list and len(objects) == math.prod(shape_of(shape)), "another number of objects")

    def __setstate__(self, state: Any) -> None:
        if self._final:
            raise Misuse("a dtype is changed after it was used")
        try:
            need(type(state) is tuple, "no tuple")
            self._count(state)
            real = self._of(*state)
            _, written, as_state = real.__reduce__()
            if written != (self._kind, False, True) or not _same(_real(state), as_state):
                raise ValueError(f"another one of {self._kind}")
        except (TypeError, ValueError, AttributeError, KeyError, IndexError, OverflowError, SyntaxError) as error:
            raise Misuse(f"a dtype is given a state that numpy does not write ({error})") from None
        self._known, self._final = real, True

    def _count(self, state: tuple[Any, ...]) -> None:
        """Charge what a state holds, unfolded, as numpy and :func:`_real` go through it, which hash and compare it.

        Refuse dtypes of dtypes of dtypes and so on, over which numpy recurs in C.
        """
        fields = state[4] if len(state) > 4 and type(state[4]) is dict else {}
        parts = [*fields.values()]
        inner = [part[0] for part in [*parts, state[2]] if type(part) is tuple and part and isinstance(part[0], Dtype)]
        self._depth = 1 + max((dtype._depth for dtype in inner), default=0)
        need(self._depth <= _DEPTH, f"dtypes in {_DEPTH} others")
        need(not any(isinstance(dtype, TextDtype) for dtype in inner), "a StringDType in another dtype")
        if self.notes is None:
            return
        charge = self.notes.budget.charge
        waiting: list[Any] = [state]
        while waiting:
            part = waiting.pop()
            kind = type(part)
            if isinstance(part, Dtype):
                weight = part._weight
            elif kind in (str, bytes):
                weight = len(part)
            elif kind in (tuple, list, dict, set, frozenset):
                weight = (_PER_FIELD if part is fields else PER_OPCODE) * len(part)
                waiting += part
                if kind is dict:
                    waiting += part.values()
            else:
                continue
            self._weight += weight
            charge(weight)
        if parts:
            self.notes.built.append((state, fields))

    def _of(
        self,
        version: Any,
        order: Any,
        base: Any,
        names: Any,
        fields: Any,
        size: Any,
        align: Any,
        flags: Any,
        *more: Any,
    ) -> Any:
        import numpy as np

        need(type(order) is str and len(order) == 1 and order in "<>=|", "byte order")
        meta = more[0] if more else None
        real: Any
        if base is not None:
            real = np.dtype((base[0].real, shape_of(base[1])))
        elif names is not None:
            described = [fields[name] for name in names]
            need(type(names) is tuple and type(size) is int and type(flags) is int, "fields")
            wanted: Any = {
                "names": list(names),
                "formats": [field[0].real for field in described],
                "offsets": [field[1] for field in described],
                "itemsize": size,
            }
            if any(len(field) > 2 for field in described):
                wanted["titles"] = [field[2] if len(field) > 2 else None for field in described]
            real = np.dtype(wanted, align=flags & 0x80 != 0)
            if self._record:
                real = np.dtype((np.record, real))
        else:
            text = self._kind
            if type(text) is str and text[:1] in "Mm" and isinstance(meta, tuple):
                (unit, number, _, events), meta = meta[1], meta[0]
                need(re.fullmatch(rb"[A-Za-z]+", unit) and type(number) is int and number > 0, "unit")
                if unit != b"generic":
                    text = f"{text}[{number}{unit.decode()}]" + (f"//{events}" if events not in (None, 1) else "")
            real = np.dtype(text).newbyteorder(order)
        if meta:
            need(type(meta) is dict, "metadata")
            real = np.dtype(real, metadata=meta)
        return real


class TextDtype(Dtype):
    """A stand-in for numpy's ``StringDType``, which has no state. Pickle writes its arrays as lists of texts.

    numpy would make a text of anything else by ``str()``, which may be code of a trusted class. So a list may hold only
    texts and the missing value.
    """

    def __init__(self, coerce: Any, *missing: Any) -> None:
        import numpy as np

        need(hasattr(np.dtypes, "StringDType"), f"numpy {np.__version__} has no StringDType")
        need(type(coerce) in (bool, int) and len(missing) <= 1, "other flags")
        named: list[Any] = [value for value in missing if getattr(value, "qualname", None) == "NA"]
        need(all(type(value) in (str, float, type(None)) for value in missing if value not in named), "a missing value")
        real = np.dtypes.StringDType
        self._known = real(coerce=coerce, na_object=missing[0]) if missing else real(coerce=coerce)
        self._missing = missing
        self._final = True
        self._depth = self._weight = 0
        self._text = f"StringDType(na_object={named[0].name})" if named else None
        self.notes = None

    def check_objects(self, objects: Any, shape: Any) -> None:
        """Do as for other dtypes, and charge the texts: numpy copies each, also where the list repeats one."""
        super().check_objects(objects, shape)
        missing = self._missing[0] if self._missing else ""
        texts = [text for text in objects if type(text) is str]
        self.notes.budget.charge(sum([len(text) if text.isascii() else 4 * len(text) for text in texts]))
        need(not any(_SURROGATE.search(text) for text in texts), "a surrogate, which UTF-8 does not have")
        others = [value for value in objects if type(value) is not str]
        need(all(value is missing or type(value) is type(missing) is float for value in others), "not only texts")


def readable(dtype: Any) -> str:
    """Return a text for people that describes a dtype of numpy."""
    try:
        return str(dtype.descr if dtype.names else dtype)
    except ValueError:  # a list of fields cannot say that these overlap, or are not in the order of their offsets
        return str(dtype)


def _real(value: Any) -> Any:
    """Return a value with all stand-ins replaced by real dtypes."""
    if isinstance(value, Dtype):
        return value.real
    if type(value) is tuple:
        return tuple(map(_real, value))
    if type(value) is dict:
        return {key: _real(item) for key, item in value.items()}
    return value


def _same(given: Any, written: Any) -> bool:
    """Tell whether a state is what this or another release of numpy writes.

    Before numpy 2, flags have a sign. If fields are selected from an aligned dtype, numpy writes 1 as their alignment.
    """
    return bool(
        given[0] in (3, 4)
        and given[1:6] == written[1:6]
        and (given[6] == written[6] or (given[6] == 1 and given[3] is not None))
        and given[7] - written[7] in (0, 256, -256)
        and _meta(given) == _meta(written)
    )


def _meta(state: Any) -> Any:
    more = state[8] if len(state) > 8 else None
    return (more[0] or None, more[1]) if isinstance(more, tuple) else more or None


def need(right: Any, what: str) -> None:
    """Raise ValueError(what) unless `right` is true."""
    if not right:
        raise ValueError(what)


def shape_of(shape: Any) -> tuple[int, ...]:
    """Return `shape` if it is a tuple of at most 64 integers that are not negative; else raise ValueError."""
    need(
        type(shape) is tuple and len(shape) <= _DIMENSIONS and all(type(size) is int and size >= 0 for size in shape),
        "shape",
    )
    return shape  # type: ignore[no-any-return]
