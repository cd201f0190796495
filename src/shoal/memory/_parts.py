"""The parts of arguments as short texts by path, so that two calls can be compared long after they were made.

::

    {"params": {"model": SVC(C=1.0)}, "X": array}
        params                "dict of 1"
        params['model']       "<sklearn.svm.SVC>"
        params['model'].C     "1.0"
        X                     "float64 (100, 20) 9f3ab0c21d7e5a64"

A text names a value completely, or it ends in a digest. The digest of large data is one of samples: "~" precedes it.
The number of parts, their length and the work are bounded, and no code of the user runs.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterable
from enum import Enum
from itertools import islice
from json.encoder import encode_basestring_ascii as encoded
from typing import Any, NamedTuple

from xxhash import xxh3_64_hexdigest

from shoal.memory._texts import argument_texts, is_literal
from shoal.memory.key._identity import Identity

#: The largest number of parts of one call, the depth to which they are taken, and the length of their texts.
MOST_PARTS, _DEPTH, _LENGTH = 64, 6, 80
#: How many elements of a list or a dictionary are looked at.
_ELEMENTS = 30
#: Larger data are sampled: this many pieces of this many bytes.
_WHOLE, _PIECES, _PIECE = 16_384, 8, 1_024
_PLAIN = frozenset({type(None), bool, float, complex})
#: Modules whose objects have a fast repr that says everything.
_SPOKEN = frozenset({"datetime", "decimal", "fractions", "pathlib", "pathlib._local", "uuid", "zoneinfo"})
_FRAMES = frozenset({"pandas", "polars", "pyarrow"})


class Description(NamedTuple):
    """What metadata say of a call: the arguments as texts, and the JSON of what an explanation compares."""

    texts: dict[str, str]
    details: str


def describe(identity: Identity, args: tuple[Any, ...], kwargs: dict[str, Any], keep: bool) -> Description:
    """Describe a call; without its arguments if `keep` is false."""
    function = identity.described_as_json()
    if not keep:
        return Description({}, f'{{"function": {function}}}')
    words = identity.words(args, kwargs)
    texts = argument_texts(words)
    parts = parts_of(words)
    if identity.snapshot.adds:
        parts.update(parts_of(identity.variables(), whole=True))
    if not parts:
        return Description(texts, f'{{"function": {function}}}')
    listed = ", ".join([f"{encoded(path)}: {encoded(text)}" for path, text in parts.items()])
    return Description(texts, f'{{"function": {function}, "parts": {{{listed}}}}}')


def parts_of(values: dict[str, Any], whole: bool = False) -> dict[str, str]:
    """Return the texts of the parts of arguments, by path.

    Parameters
    ----------
    values
        The arguments by name.
    whole
        Whether to include arguments whose text, as metadata contain it, says everything.
    """
    parts: dict[str, str] = {}
    pending: list[tuple[str, Any, int]] = []
    _add(parts, pending, [(name, value) for name, value in values.items() if whole or not is_literal(value)], 0)
    for path, value, depth in pending:  # which grows meanwhile
        if len(parts) >= MOST_PARTS:
            break
        kind = type(value)
        inside: Iterable[tuple[str, Any]]
        if kind is list or kind is tuple:
            parts[path] = f"{kind.__name__} of {len(value)}"
            inside = [(f"{path}[{i}]", item) for i, item in enumerate(value[:_ELEMENTS])]
        elif kind is dict:
            parts[path] = f"dict of {len(value)}"
            inside = [(f"{path}[{key!r}]", item) for key, item in islice(value.items(), _ELEMENTS) if _is_short(key)]
        else:
            parts[path], attributes = _object(value)
            if not attributes:
                continue
            inside = [(f"{path}.{name}", item) for name, item in islice(attributes.items(), _ELEMENTS)]
        if depth < _DEPTH:
            _add(parts, pending, inside, depth + 1)
    return parts


def _add(
    parts: dict[str, str], pending: list[tuple[str, Any, int]], values: Iterable[tuple[str, Any]], depth: int
) -> None:
    """Add the texts of plain values to the parts, and other values to those that are looked at later."""
    for path, value in values:
        if len(parts) >= MOST_PARTS:
            return
        kind = type(value)
        if kind in _PLAIN:
            parts[path] = repr(value)
        elif kind is int:
            parts[path] = repr(value) if value.bit_length() < 200 else f"<int of {value.bit_length()} bits>"
        elif kind is str or kind is bytes or kind is bytearray:
            parts[path] = _text_of(value)
        else:
            pending.append((path, value, depth))


def flattened(texts: dict[str, str], parts: dict[str, str]) -> dict[str, str]:
    """Return all that is known of the arguments of a call, by path: from the texts and the parts of its metadata."""
    found = {}
    for name, text in texts.items():
        if name in parts:
            continue
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            found[name] = text
        else:
            found.update(parts_of({name: value}, whole=True) if type(value) in (list, tuple, dict) else {name: text})
    found.update(parts)
    return found


def is_complete(text: str) -> bool:
    """Return whether the text of a part stands for one value only."""
    kind, _, length = text.partition(" of ")
    if kind in ("list", "tuple", "dict") and length.isdigit():
        return int(length) <= _ELEMENTS
    return not (text.startswith(("<", "function ", "method ")) or "~" in text or text.endswith("..."))


def _is_short(key: Any) -> bool:
    kind = type(key)
    return kind in _PLAIN or (kind is str and len(key) < _LENGTH) or (kind is int and key.bit_length() < 200)


def _object(value: Any) -> tuple[str, dict[str, Any] | None]:
    """Return the text of an object, and the attributes that are parts of it."""
    kind = type(value)
    module = kind.__module__
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        return _array_text(numpy.asarray(value)), None
    if module in _SPOKEN:
        return _bounded(repr(value)), None
    if module.partition(".")[0] in _FRAMES:
        return _frame_text(value), None
    if isinstance(value, Enum):
        return f"{kind.__qualname__}.{value._name_}", None
    if callable(value) and hasattr(value, "__qualname__"):
        return _bounded(f"{kind.__name__} {getattr(value, '__module__', '')}.{value.__qualname__}"), None
    # Where a type has a way of its own to be pickled, asking for its dictionary may make one, and change its digest.
    inside = getattr(value, "__dict__", None) if _reduction_of(kind) == _reduction_of(object) else None
    text = f"<{kind.__qualname__}>" if module == "builtins" else f"<{module}.{kind.__qualname__}>"
    return text, inside if type(inside) is dict else None


def _array_text(array: Any) -> str:
    dtype, flags = array.dtype, array.flags
    described = f"{_name_of(dtype)} {array.shape}"
    if dtype.hasobject or not (flags.c_contiguous or flags.f_contiguous):
        return f"<{described}>"
    nbytes = array.nbytes
    if nbytes <= _WHOLE and flags.c_contiguous and dtype.isbuiltin and dtype.kind not in "mM":
        return f"{described} {xxh3_64_hexdigest(array)}"
    return f"{described} {_digest(array.ravel(order='K').view('u1').data) if nbytes else 'without data'}"


def _reduction_of(kind: Any) -> Any:
    return kind.__reduce_ex__, kind.__reduce__


@functools.lru_cache(64)
def _name_of(dtype: Any) -> str:
    return _bounded(str(dtype))


def _frame_text(frame: Any) -> str:
    columns, shape = getattr(frame, "columns", None), getattr(frame, "shape", None)
    described = f"{type(frame).__qualname__} {shape}"
    if columns is None:
        return f"<{described}>"
    names = ", ".join([str(name) if type(name) in (str, int) else "?" for name in columns[:_ELEMENTS]])
    return f"<{_bounded(f'{described} of {names}')}>"


def _text_of(value: str | bytes | bytearray) -> str:
    if len(value) <= _LENGTH // 2:
        return repr(value)
    if isinstance(value, str):
        whole = len(value) <= _WHOLE
        data = value if whole else f"{value[:_WHOLE]}{value[-_WHOLE:]}"
        digest = xxh3_64_hexdigest(data.encode("utf-8", "surrogatepass"))
        return f"{value[: _LENGTH // 4]!r}... of {len(value)} {digest if whole else '~' + digest}"
    return f"{type(value).__name__} of {len(value)} {_digest(memoryview(value))}"


def _digest(data: memoryview) -> str:
    """Return a digest of data, or of samples of large data with "~" in front."""
    if data.nbytes <= _WHOLE:
        return xxh3_64_hexdigest(data)
    step = (data.nbytes - _PIECE) // (_PIECES - 1)
    return "~" + xxh3_64_hexdigest(b"".join([data[i * step : i * step + _PIECE] for i in range(_PIECES)]))


def _bounded(text: str) -> str:
    if len(text) <= _LENGTH:
        return text
    return f"{text[: _LENGTH - 20]}... {xxh3_64_hexdigest(text.encode('utf-8', 'surrogatepass'))}"
