"""``wrap_non_picklable_objects``: a wrapper that any pickler can pickle, because it calls cloudpickle itself."""

from __future__ import annotations

from typing import Any

from shoal._pickling import dumps


class _ByValue:
    def __init__(self, obj: Any, keep_wrapper: bool) -> None:
        self._obj = obj
        self._keep_wrapper = keep_wrapper

    def __reduce__(self) -> Any:
        return _rebuild, (dumps(self._obj, out_of_band=2**63, pickler_of="cloudpickle")[0], self._keep_wrapper)

    def __getattr__(self, name: str) -> Any:
        if name in ("_obj", "_keep_wrapper"):  # they do not exist yet while the wrapper is being rebuilt
            raise AttributeError(name)
        return getattr(self._obj, name)


class _CallableByValue(_ByValue):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._obj(*args, **kwargs)


def _rebuild(data: bytes, keep_wrapper: bool) -> Any:
    import pickle

    obj = pickle.loads(data)
    return wrap_non_picklable_objects(obj) if keep_wrapper else obj


def wrap_non_picklable_objects(obj: Any, keep_wrapper: bool = True) -> Any:
    """Wrap an object so that any pickler can pickle it. The wrapper pickles the object by cloudpickle.

    Parameters
    ----------
    obj
        Any object that cloudpickle can pickle: a lambda, a function or a class of ``__main__``, an instance of such a
        class.
    keep_wrapper
        Whether unpickling returns a wrapper, which can be pickled again. If not, it returns the object itself.

    Returns
    -------
    A wrapper with the attributes of `obj`. It is callable if `obj` is. If `obj` is a class: a class whose instances are
    wrapped.
    """
    if isinstance(obj, type):
        return _wrapped_class(obj, keep_wrapper)
    return (_CallableByValue if callable(obj) else _ByValue)(obj, keep_wrapper)


def _wrapped_class(cls: type, keep_wrapper: bool) -> type:
    base = _CallableByValue if any("__call__" in vars(ancestor) for ancestor in cls.__mro__) else _ByValue

    class Wrapped(base):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(cls(*args, **kwargs), keep_wrapper)

    Wrapped.__name__ = Wrapped.__qualname__ = cls.__name__
    Wrapped.__doc__ = cls.__doc__
    return Wrapped
