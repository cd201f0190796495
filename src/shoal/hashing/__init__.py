"""``hash(obj)``: a digest of a value, the same for equal values in every process.

An object and the name of an algorithm come in; 32 or 40 hexadecimal digits go out. Open ``_walk.py`` first.

::

    hash(obj) ── "xxh3_128"     _walk       walks the object as a tree of nodes; the error for an unhashable object
              │                 _writers    finds the writer of a type; builtin types; register_hasher
              │                 _functions  functions, methods, classes and modules
              │                 _reduced    other objects: their pickle reduction, and attributes that it would lose
              │                 _arrays     numpy and torch
              │                 _tables     pandas, polars and xarray         _arrow   pyarrow
              │                 _bytes      large data into a node, by several threads; the memory of arrays
              └─ "md5", "sha1"  _joblib     the digests of joblib, bit for bit
"""

from __future__ import annotations

from typing import Any

from shoal._hints import hint

from ._walk import TooManyCycles, Walk, digest_of_row
from ._writers import register_hasher, writer_of

__all__ = ["hash", "register_hasher"]

HASH_NAMES = ("xxh3_128", "md5", "sha1")


def hash(obj: Any, hash_name: str = "xxh3_128", coerce_mmap: bool = False) -> str:
    """Return a digest of a value. Equal values have the same digest, in every process.

    Values that differ in type, dtype, shape or order have different digests: 1, 1.0, True, ``np.int64(1)``, "1" and
    b"1" all differ. Attributes that a subclass adds to a builtin or library type count, even where a pickle would lose
    them. The order of the items of a dict and of the elements of a set does not count; the order of the items of an
    ``OrderedDict`` counts.

    Parameters
    ----------
    obj : object
        Any object that can be pickled. Under "xxh3_128" also lambdas, functions and classes that no import finds,
        modules and memoryviews.
    hash_name : {"xxh3_128", "md5", "sha1"}, default "xxh3_128"
        "xxh3_128" hashes arrays and buffers as fast as memory can be read; it is not a cryptographic hash. "md5" and
        "sha1" give the digests of joblib 1.6, bit for bit.
    coerce_mmap : bool, default False
        Whether a ``numpy.memmap`` has the digest of a ``numpy.ndarray`` with the same values. Otherwise they differ.

    Returns
    -------
    str
        Hexadecimal digits: 32 for "xxh3_128" and "md5", 40 for "sha1".

    Raises
    ------
    ValueError
        If `hash_name` is none of these names.
    HashingError
        If `obj` or a part of it cannot be hashed. It is a ``PicklingError`` and a ``TypeError``.
    RecursionError
        If `obj` is nested too deeply.

    Notes
    -----
    Under "xxh3_128" it does not matter whether equal parts are one object or several; under "md5" and "sha1" it does.

    Digests are the same for all versions of Python and for all releases of one major version of numpy. Functions and
    classes that no import finds are an exception: their bytecode depends on the minor version of Python.

    Under "xxh3_128" the memory needed beside the object is bounded, except for a list of the keys of a dict or of the
    elements of a set.

    Thread-safe, as long as no other thread changes the object meanwhile.

    Examples
    --------
    >>> import shoal
    >>> shoal.hash({"x": 1, "y": [2, 3]}) == shoal.hash({"y": [2, 3], "x": 1})
    True
    """
    if hash_name == "xxh3_128":
        if type(obj) is tuple and (digest := digest_of_row(obj)):
            return digest
        try:
            return Walk(writer_of, coerce_mmap).hexdigest(obj)
        except TooManyCycles:
            return Walk(writer_of, coerce_mmap, numbered=True).hexdigest(obj)
    if hash_name not in HASH_NAMES:
        near = hint(hash_name, HASH_NAMES) or "."
        raise ValueError(f"Valid options for 'hash_name' are {HASH_NAMES}. Got hash_name={hash_name!r} instead{near}")
    from ._joblib import joblib_digest  # loads pickle's Python implementation, which most programs do not need

    return joblib_digest(obj, hash_name, coerce_mmap)
