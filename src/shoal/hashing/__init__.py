"""hash(obj): what tells a value from all others, in 32 hexadecimal digits.

::

    hash(obj) ── "xxh3_128"     _walk: a tree of nodes      _writers: what is written of each type, register_hasher
              │                 _functions  _numpy  _pandas  _arrow  _torch: types of a family
              └─ "md5", "sha1"  _joblib: the digests of joblib, bit for bit
                                _attributes: those that pickles leave out
                                _arrays: the bytes of an array       _refusal: the error for what cannot be hashed
"""

from __future__ import annotations

from typing import Any

from ._walk import Tangled, Walk
from ._writers import register_hasher, writer_of

__all__ = ["hash", "register_hasher"]

HASH_NAMES = ("xxh3_128", "md5", "sha1")


def hash(obj: Any, hash_name: str = "xxh3_128", coerce_mmap: bool = False) -> str:
    """Return a digest of a value: the same for equal values, in every process.

    Values that differ in type, dtype, shape or order have different digests: 1, 1.0, True, ``np.int64(1)``, "1" and
    b"1" do. Attributes count that a subclass adds to a builtin or library type, also where a pickle loses them. The
    order of a dict's items and of a set's elements is left aside; that of an ``OrderedDict``'s items counts.

    Parameters
    ----------
    obj
        Anything that can be pickled, and under "xxh3_128" also lambdas, functions and classes that no import finds,
        modules and memoryviews.
    hash_name
        "xxh3_128" runs over arrays and buffers as fast as memory is read; it is no cryptographic hash. "md5" and
        "sha1" give the digests of joblib 1.6, bit for bit.
    coerce_mmap
        Whether a ``numpy.memmap`` hashes as the ``numpy.ndarray`` of the same values. Otherwise they differ.

    Returns
    -------
    Hexadecimal digits: 32 for "xxh3_128" and "md5", 40 for "sha1".

    Raises
    ------
    ValueError
        If there is no such `hash_name`.
    HashingError
        If `obj` or a part of it cannot be hashed; it is a ``PicklingError`` and a ``TypeError``.
    RecursionError
        If `obj` is nested too deeply.

    Notes
    -----
    Under "xxh3_128" it does not matter whether parts that are equal are one object or several; under joblib's names it
    does. Digests hold for every version of Python and one major version of numpy, except for functions and classes
    that no import finds, whose bytecode depends on Python's minor version.

    Memory beside the object is bounded under "xxh3_128", but for a list of the keys of a dict or the elements of a set.

    Safe to call from several threads, as long as nobody changes the object meanwhile.

    Examples
    --------
    >>> import shoal
    >>> shoal.hash({"x": 1, "y": [2, 3]}) == shoal.hash({"y": [2, 3], "x": 1})
    True
    """
    if hash_name == "xxh3_128":
        try:
            return Walk(writer_of, coerce_mmap).hexdigest(obj)
        except Tangled:
            return Walk(writer_of, coerce_mmap, numbered=True).hexdigest(obj)
    if hash_name not in HASH_NAMES:
        raise ValueError(f"Valid options for 'hash_name' are {HASH_NAMES}. Got hash_name={hash_name!r} instead.")
    from ._joblib import joblib_digest

    return joblib_digest(obj, hash_name, coerce_mmap)
