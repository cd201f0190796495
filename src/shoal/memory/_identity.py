"""Which function, and which call: from a function and arguments to the key of a result.

::

    tag   what a result depends on beside the arguments: the source (or version=, and then not the source), the sources
          of what depends= names, the names of the parameters
    key   hash of (tag, arguments, values that the function's closure holds)

So results of two functions that go by one name, or of two versions of one, are never taken for each other, whoever
else writes into the folder. Under ``hash_name="md5"`` it is joblib's key, of the arguments alone; what keeps such
results apart is that all are removed when the source changes.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from shoal.errors import HashingError
from shoal.hashing import hash
from shoal.hashing._functions import is_found
from shoal.memory._arguments import (
    Bind,
    dict_binder,
    own_signature_of,
    parameters_of,
    row_binder,
    signature_of,
    without_defaults,
    wrong_arguments,
)
from shoal.memory._source import Source, path_of, remember_source, source_of, source_of_module, subject_of
from shoal.memory.store import Key

HASH_NAMES = ("xxh3_128", "md5")


class Uncacheable(Exception):
    """A function's results cannot be kept, for a reason that is no fault of the call."""


class Identity:
    """What tells a function and its calls from all others.

    Parameters
    ----------
    func
        The function, or another callable.
    ignore
        Parameters that do not count.
    hash_name
        "xxh3_128" or "md5".
    coerce_mmap
        Whether a mapped array counts as the array of the same values.
    version
        What the results depend on in place of the source, unless it is None.
    depends
        Functions, classes and modules whose sources count.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        ignore: Any,
        hash_name: str,
        coerce_mmap: bool,
        version: Any = None,
        depends: Iterable[Any] = (),
    ) -> None:
        self.func, self.hash_name, self.version, self.depends = func, hash_name, version, tuple(depends)
        self.ignore = [] if ignore is None else ignore
        self._coerce = coerce_mmap
        self._subject = subject = subject_of(func)
        self.function, self._args, self._kwargs = subject.function, subject.args, subject.kwargs
        self._state = subject.state
        self.path = path_of(self.function)
        self.signature = signature_of(subject)
        self._parameters = parameters_of(self.signature, self.ignore, func)
        self._words = dict_binder(self.signature, self._parameters)
        self._plain = isinstance(self.function, types.FunctionType)
        self._source: Source | None = None
        self.tag = ""
        self.may_be_joblibs = False
        self._prepared = False
        self._code: Any = None
        self._defaults: Any = None
        self._keyword_defaults: Any = None
        self._named: list[types.FunctionType] = []
        self._cells: list[Any] = []
        self._bind: Bind = self._words
        for dependency in self.depends:
            _text_of(dependency)  # a mistake is to be told where the function is decorated

    def __reduce__(self) -> Any:
        # Binders are functions that no import finds; and nobody may be able to read the source where this is unpickled.
        func = self.func
        module, name = getattr(func, "__module__", None), getattr(func, "__qualname__", "")
        place = (module, name) if module != "__main__" and _decorated(module, name) is func else None
        given = None if place else func, self.ignore, self.hash_name, self._coerce, self.version, self.depends
        return _restored, (place, given, self.path, self.source, _digest_of_code(self.function))

    @property
    def source(self) -> Source:
        """The function's source."""
        return source_of(self.function)

    @property
    def shared_with_joblib(self) -> bool:
        """Whether joblib's key says all that the result depends on."""
        return not (self.version is not None or self.depends or self._state)

    def prepare(self) -> None:
        """Look at the function, again if it has got other code or defaults."""
        function = self.function
        if self._prepared and self._plain:
            self.signature = inspect.signature(function)
            self._words = dict_binder(self.signature, self._parameters)
        code, self._defaults = getattr(function, "__code__", None), getattr(function, "__defaults__", None)
        self._keyword_defaults = function.__kwdefaults__ if self._plain else None
        is_lambda = getattr(function, "__name__", "") == "<lambda>"
        wrapped = list(_wrapped_by(function))
        signature, parameters, live = self._signature_of_keys()
        parts = [
            self.path,
            None if self.version is not None else self.source.text.rstrip(),
            self.version,
            [name for name, _ in parameters],
            [_text_of(dependency) for dependency in self.depends],
            code if is_lambda else None,  # two may stand in one line
            [(code, source_of(inner).text.rstrip()) for inner in wrapped],
        ]
        self.tag = hash(parts)
        self._bind = row_binder(signature, parameters, self.tag, live)
        # Those that a closure has by their name alone.
        self._named = [inner for inner in wrapped if _goes_by_name(inner)]
        # Of the class that super() stands in, no more counts than of any other callee.
        names = code.co_freevars if isinstance(code, types.CodeType) else ()
        cells = zip(names, getattr(function, "__closure__", None) or (), strict=False)
        self._cells = [cell for name, cell in cells if name != "__class__"]
        plain = isinstance(function, types.FunctionType) and not is_lambda
        self.may_be_joblibs = plain and self.hash_name != "md5" and self.shared_with_joblib and not self._cells
        self._code, self._prepared = code, True

    def _signature_of_keys(self) -> tuple[inspect.Signature | None, list[tuple[str, str]], dict[str, Any] | None]:
        """Return what calls are bound by for their keys: signature, parameters, and defaults that may be changed."""
        signature, parameters = self.signature, self._parameters
        own = own_signature_of(self._subject)
        if signature is None or own is None:
            return signature, parameters, None
        if set(self.ignore) <= {label for label, _ in parameters_of(own, (), self.function)}:
            return own, parameters_of(own, self.ignore, self.function), self._keyword_defaults
        # Names that only the function inside has: its defaults may not be those that the decorator passes on.
        return without_defaults(signature), parameters, None

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Key:
        """Return the key of a call.

        Raises
        ------
        ArgumentError
            If the function does not take these arguments.
        HashingError
            If one of them cannot be hashed.
        Uncacheable
            If the closure holds what cannot be hashed.
        """
        if self.is_stale():
            self.prepare()
        if self.hash_name == "md5":
            return self.joblib_key(args, kwargs)
        if self._args or self._kwargs:
            args, kwargs = (*self._args, *args), {**self._kwargs, **kwargs}
        try:
            row = self._bind(*args, **kwargs)
        except TypeError:
            row = (self.tag, self._unbound(args, kwargs))
        if self._state or self._cells:
            row = (*row, *self._state, [_contents_of(cell) for cell in self._cells])
        if self._named:
            row = (*row, [(inner.__code__, inner.__defaults__, inner.__kwdefaults__) for inner in self._named])
        try:
            return Key(self.path, hash(row, "xxh3_128", self._coerce) + "x")
        except HashingError:
            self._blame_closure()
            raise

    def is_stale(self) -> bool:
        """Tell whether the function is to be looked at."""
        if not self._prepared:
            return True
        function, code = self.function, self._code
        if self._plain:
            return (
                function.__code__ is not code
                or function.__defaults__ is not self._defaults
                or function.__kwdefaults__ is not self._keyword_defaults
            )
        return code is not None and (
            function.__code__ is not code or getattr(function, "__defaults__", None) is not self._defaults
        )

    def joblib_key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Key:
        """Return the key that joblib gives a call; under it are no results of functions of which it says too little."""
        words = self.words(args, kwargs)
        value: Any = words if self.shared_with_joblib else (self.tag, words, self._state)
        return Key(self.path, hash(value, "md5", self._coerce))

    def words(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments that count, by name."""
        args, kwargs = (*self._args, *args), {**self._kwargs, **kwargs}
        try:
            words: dict[str, Any] = self._words(*args, **kwargs)
        except TypeError:
            words = self._unbound(args, kwargs)
        return words

    def _unbound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return arguments that the signature does not allow: a decorator may take others than it shows."""
        if self.signature is not None and not hasattr(self.function, "__wrapped__"):
            raise wrong_arguments(self.function, self.signature, args, kwargs) from None
        return {"*": list(args), "**": kwargs}

    def _blame_closure(self) -> None:
        try:
            hash(self._state)
        except HashingError as error:
            raise Uncacheable(f"{self.func!r:.80} counts, which is no function: {error}") from error
        for name, cell in zip(self._code.co_freevars if self._cells else (), self._cells, strict=False):
            try:
                hash(_contents_of(cell))
            except HashingError as error:
                raise Uncacheable(f"its variable {name!r}, of the function around it, counts: {error}") from error


def _wrapped_by(function: Any) -> Iterator[Any]:
    """Yield the functions that a decorator says it has wrapped: their sources count with its own."""
    for _ in range(100):  # should one have wrapped itself
        function = getattr(function, "__wrapped__", None)
        if function is None:
            return
        yield function


def _goes_by_name(function: Any) -> bool:
    return isinstance(function, types.FunctionType) and is_found(
        function, getattr(function, "__module__", None), function.__qualname__
    )


def _contents_of(cell: Any) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # not filled yet
        return []


def _text_of(dependency: Any) -> Any:
    """Return what changes when a function, class or module does."""
    identity = getattr(dependency, "_identity", None)
    if isinstance(identity, Identity):  # a cached function, with what it depends on
        if identity.is_stale():
            identity.prepare()
        return identity.tag
    if isinstance(dependency, types.ModuleType):
        return source_of_module(dependency)
    if callable(dependency):
        return source_of(subject_of(dependency).function).text.rstrip()
    raise TypeError(f"depends={dependency!r:.80}: name functions, classes or modules, whose source counts")


def _decorated(module: Any, name: str) -> Any:
    """Return the function behind what a module has under a name, where that is a cached function."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return getattr(found, "func", None)


def _digest_of_code(function: Any) -> str | None:
    code = getattr(function, "__code__", None)
    return hash(code) if isinstance(code, types.CodeType) else None


def _restored(
    place: tuple[str, str] | None, given: tuple[Any, ...], path: str, source: Source, code: str | None = None
) -> Identity:
    if place is not None:
        importlib.import_module(place[0])
        given = (_decorated(*place), *given[1:])
    identity = Identity(*given)
    identity.path = path
    # What is imported here may be another version of it, after an edit.
    if place is None or code == _digest_of_code(identity.function):
        remember_source(identity.function, source)
    return identity
