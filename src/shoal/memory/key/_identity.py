"""The identity of a function, and the key of a call.

::

    tag   digest of everything that a result depends on besides the arguments: the path; the source, or version= instead
          of it; the sources of depends=; the names of the parameters
    key   digest of (tag, arguments, values of the function's closure, values that depends= holds)

So two functions of the same name, or two versions of one function, never load each other's results, even if another
process writes to the folder. Under ``hash_name="md5"`` the key is joblib's: a digest of the arguments alone. There all
results of a function are removed when its source changes.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from shoal.errors import HashingError
from shoal.hashing import hash
from shoal.hashing._functions import cell_contents, is_found
from shoal.hashing._walk import digest_of_row
from shoal.memory.key._arguments import (
    Bind,
    dict_binder,
    own_signature_of,
    parameters_of,
    row_binder,
    signature_of,
    without_defaults,
    wrong_arguments,
)
from shoal.memory.key._depends import Watch, cells_of, checked_depends, dotted_name, held_by, is_auto, named, version_of
from shoal.memory.key._reach import Reach, Reached
from shoal.memory.key._source import Source, path_of, remember_source, source_of, subject_of, wrapped_by
from shoal.memory.store import Key

HASH_NAMES = ("xxh3_128", "md5")
#: How many digits of a digest, and how many dependencies by name, an explanation compares.
_DIGITS, _MOST_NAMED = 16, 50


class Uncacheable(Exception):
    """The results of a function cannot be cached, and the arguments of the call are not the reason."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a function when it was examined. It is examined again when its code or defaults are replaced."""

    code: Any
    defaults: Any
    keyword_defaults: Any
    #: The digest of everything that results depend on besides the arguments.
    tag: str
    #: Whether results under joblib's key may be used, because that key covers everything that they depend on.
    may_use_joblib_key: bool
    #: Binds a call to a row of values.
    bind: Bind
    #: Importable functions inside a decorator. A hash of the closure covers only their names, so their code and
    #: defaults are added to the row.
    wrapped: list[types.FunctionType]
    #: The cells of the closure whose values count, by name.
    cells: dict[str, Any]
    #: What the function reaches in the user's project, with ``depends="auto"``.
    reach: Reach | None = None
    #: The items of ``depends=`` that hold values which count at each call.
    holding: tuple[Any, ...] = ()
    #: Notices when a dependency is replaced; None if there are none.
    watch: Watch | None = None
    #: Whether other values than arguments are added to a row: of the object, the closure, or the fields above.
    adds: bool = False


_NOT_EXAMINED = Snapshot(object(), None, None, "", False, lambda *args, **kwargs: (), [], {})


class Identity:
    """The identity of a function: it distinguishes the function and its calls from all others. Thread-safe.

    Parameters
    ----------
    func
        A function, or another callable.
    ignore
        The names of the parameters that do not count.
    hash_name
        "xxh3_128" or "md5".
    coerce_mmap
        Whether a mapped array counts as an ordinary array of the same values.
    version
        A value that replaces the source, unless it is None.
    depends
        Functions, classes and modules whose sources count.

    Raises
    ------
    TypeError
        If `func` is not callable, or if `depends` is not a list of functions, classes and modules.
    ValueError
        If `ignore` contains a name that is not a parameter.
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
        self.func: Callable[..., Any] = func
        self.hash_name: str = hash_name
        self.version: Any = version
        self.depends: tuple[Any, ...] = checked_depends(depends)
        self.ignore: list[str] = [] if ignore is None else ignore
        self.coerces = coerce_mmap
        self._subject = subject = subject_of(func)
        self.function: Any = subject.function
        self.path: str = path_of(self.function)
        self.signature = signature_of(subject)
        self._parameters = parameters_of(self.signature, self.ignore, func)
        self._bind_words = dict_binder(self.signature, self._parameters)
        self._is_plain = isinstance(self.function, types.FunctionType)
        self.snapshot: Snapshot = _NOT_EXAMINED
        self._described = ("", "")
        for dependency in named(self.depends):
            version_of(dependency)  # raises an error when the function is decorated, and not at its first call
        self._watch = Watch(self.depends)

    def __reduce__(self) -> Any:
        # The binders cannot be pickled, and the process that unpickles may be unable to read the source.
        func = self.func
        module, name = getattr(func, "__module__", None), getattr(func, "__qualname__", "")
        found = (module, name) if module != "__main__" and _decorated(module, name) is func else None
        given = None if found else func, self.ignore, self.hash_name, self.coerces, self.version, self.depends
        return _unpickled, (found, given, self.path, self.source, _digest_of_code(self.function))

    @property
    def source(self) -> Source:
        """The function's source."""
        return source_of(self.function)

    @property
    def shared_with_joblib(self) -> bool:
        """Whether joblib's key covers everything that the result depends on."""
        return not (self.version is not None or self.depends or self._subject.state)

    def examine(self) -> None:
        """Take a new snapshot of the function."""
        function = self.function
        if self.snapshot is not _NOT_EXAMINED and self._is_plain:
            self.signature = inspect.signature(function)
            self._bind_words = dict_binder(self.signature, self._parameters)
        code, defaults = getattr(function, "__code__", None), getattr(function, "__defaults__", None)
        keyword_defaults = function.__kwdefaults__ if self._is_plain else None
        is_lambda = getattr(code, "co_name", "") == "<lambda>"  # also of one that has got another name
        wrapped = list(wrapped_by(function))
        self.depends = self._watch.current()
        reach = Reach([function, *wrapped]) if any(map(is_auto, self.depends)) else None
        self._watch = Watch(self.depends, reach)
        signature, parameters, live = self._signature_of_keys(keyword_defaults)
        tag = hash(
            [
                self.path,
                None if self.version is not None else self.source.text.rstrip(),
                self.version,
                [name for name, _ in parameters],
                [version_of(dependency) for dependency in named(self.depends)],
                code if is_lambda else None,  # two lambdas in one line have the same source
                [(code, source_of(inner).text.rstrip()) for inner in wrapped],
                *([] if reach is None else [reach.digest]),
            ]
        )
        counting = cells_of(function)
        holding = tuple(dependency for dependency in named(self.depends) if held_by(dependency) is not None)
        plain = isinstance(function, types.FunctionType) and not is_lambda
        importable = [inner for inner in wrapped if _is_importable(inner)]
        self.snapshot = Snapshot(
            code,
            defaults,
            keyword_defaults,
            tag,
            plain and self.hash_name != "md5" and self.shared_with_joblib and not counting,
            row_binder(signature, parameters, tag, live),
            importable,
            counting,
            reach,
            holding,
            self._watch if self.depends else None,
            bool(self._subject.state or counting or importable or reach is not None or holding),
        )

    def _signature_of_keys(
        self, keyword_defaults: dict[str, Any] | None
    ) -> tuple[inspect.Signature | None, list[tuple[str, str]], dict[str, Any] | None]:
        """Return the signature and parameters that calls are bound by, and defaults that the function may change."""
        signature, parameters = self.signature, self._parameters
        own = own_signature_of(self._subject)
        if signature is None or own is None:
            return signature, parameters, None
        if set(self.ignore) <= {label for label, _ in parameters_of(own, (), self.function)}:
            return own, parameters_of(own, self.ignore, self.function), keyword_defaults
        # `ignore` contains names of the function inside a decorator. The decorator may pass on other defaults than its.
        return without_defaults(signature), parameters, None

    def described(self) -> dict[str, Any]:
        """Return what results depend on besides the arguments, as digests by name, for explanations."""
        inner = [source_of(function).text.rstrip() for function in wrapped_by(self.function)]
        return {
            "tag": self.snapshot.tag,
            "source": None if self.version is not None else hash([self.source.text.rstrip(), *inner])[:_DIGITS],
            "version": None if self.version is None else f"{self.version!r:.100}",
            "depends": {item.name: item.text for item in self._counted()},
        }

    def _counted(self) -> list[Reached]:
        """Return the dependencies that count; one digest of them if they are many, because metadata are short."""
        reach = self.snapshot.reach
        found = [item for item in self.dependencies() if item.kind != "not counted"]
        return found if len(found) <= _MOST_NAMED or reach is None else [Reached("auto", "", reach.digest[:_DIGITS])]

    def dependencies(self) -> list[Reached]:
        """Return what results depend on besides the function itself."""
        if self.is_stale():
            self.examine()
        found = [Reached(dotted_name(item), "named", hash(version_of(item))[:_DIGITS]) for item in named(self.depends)]
        return [*found, *(() if self.snapshot.reach is None else self.snapshot.reach.reached)]

    def described_as_json(self) -> str:
        """Return :meth:`described` as JSON. It is made once for each state of the function."""
        tag, text = self._described
        if tag != self.snapshot.tag:
            tag, text = self._described = self.snapshot.tag, json.dumps(self.described())
        return text

    def variables(self) -> dict[str, Any]:
        """Return the values of the closure, constants that may change in place, and values that ``depends=`` holds."""
        snapshot = self.snapshot
        contents = {f"closure {name}": cell_contents(cell) for name, cell in snapshot.cells.items()}
        constants = {} if snapshot.reach is None else snapshot.reach.live
        live = {f"global {name}": value for name, value in constants.items()}
        held = {f"depends {dotted_name(item)}": held_by(item) for item in snapshot.holding}
        return {**{name: content[0] for name, content in contents.items() if content}, **live, **held}

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Key:
        """Return the key of a call.

        Raises
        ------
        ArgumentError
            If the arguments do not fit the function.
        HashingError
            If an argument cannot be hashed.
        Uncacheable
            If a value of the closure cannot be hashed.
        """
        if self.is_stale():
            self.examine()
        if self.hash_name == "md5":
            return self.joblib_key(args, kwargs)
        snapshot, subject = self.snapshot, self._subject
        if subject.args or subject.kwargs:
            args, kwargs = (*subject.args, *args), {**subject.kwargs, **kwargs}
        try:
            row = snapshot.bind(*args, **kwargs)
        except TypeError:
            row = (snapshot.tag, self._unbound(args, kwargs))
        if snapshot.adds:
            row = self._with_state(row)
        try:
            return Key(self.path, (digest_of_row(row) or hash(row, "xxh3_128", self.coerces)) + "x")
        except HashingError:
            self._check_closure()
            raise

    def _with_state(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return a row of arguments with the other values that count and may change."""
        snapshot, subject = self.snapshot, self._subject
        if subject.state or snapshot.cells:
            row = (*row, *subject.state, [cell_contents(cell) for cell in snapshot.cells.values()])
        if snapshot.wrapped:
            row = (*row, [(inner.__code__, inner.__defaults__, inner.__kwdefaults__) for inner in snapshot.wrapped])
        if snapshot.reach is not None and snapshot.reach.live:
            row = (*row, snapshot.reach.values())
        if snapshot.holding:
            row = (*row, [held_by(dependency) for dependency in snapshot.holding])
        return row

    def held(self) -> tuple[Any, ...] | None:
        """Return the present state of the function with the values that its keys contain, or None if there are none."""
        if self.is_stale():
            self.examine()
        snapshot, subject = self.snapshot, self._subject
        if not (snapshot.adds or subject.args or subject.kwargs):
            return None
        return self._with_state((snapshot.tag, subject.args, subject.kwargs))

    def is_stale(self) -> bool:
        """Return whether the function must be examined, for the first time or because it has other code or defaults."""
        snapshot, function = self.snapshot, self.function
        if self._is_plain:
            return (
                function.__code__ is not snapshot.code
                or function.__defaults__ is not snapshot.defaults
                or function.__kwdefaults__ is not snapshot.keyword_defaults
                or (snapshot.watch is not None and snapshot.watch.is_stale())
            )
        if snapshot is _NOT_EXAMINED or (snapshot.watch is not None and snapshot.watch.is_stale()):
            return True
        return snapshot.code is not None and (
            function.__code__ is not snapshot.code or getattr(function, "__defaults__", None) is not snapshot.defaults
        )

    def joblib_key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Key:
        """Return joblib's key of a call; if that would cover too little, another key, which joblib never makes."""
        words = self.words(args, kwargs)
        value: Any = words
        if not self.shared_with_joblib:
            reach = self.snapshot.reach
            live = () if reach is None or not reach.live else (reach.values(),)
            held = [held_by(dependency) for dependency in self.snapshot.holding]
            value = (self.snapshot.tag, words, self._subject.state, *live, *held)
        return Key(self.path, hash(value, "md5", self.coerces))

    def words(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments that count, by name."""
        subject = self._subject
        args, kwargs = (*subject.args, *args), {**subject.kwargs, **kwargs}
        try:
            words: dict[str, Any] = self._bind_words(*args, **kwargs)
        except TypeError:
            words = self._unbound(args, kwargs)
        return words

    def _unbound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return arguments that do not fit the signature, if a decorator may accept them all the same."""
        if self.signature is not None and not hasattr(self.function, "__wrapped__"):
            raise wrong_arguments(self.function, self.signature, args, kwargs) from None
        return {"*": list(args), "**": kwargs}

    def _check_closure(self) -> None:
        """Raise Uncacheable if a value that counts besides the arguments cannot be hashed."""
        snapshot, but = self.snapshot, "but it cannot be hashed"
        values: list[tuple[Any, str]] = [
            (self._subject.state, f"{self.func!r:.80} is an object, so its state counts as an argument, {but}")
        ]
        for name, cell in snapshot.cells.items():
            what = f"its variable {name!r}, of the function around it, counts as an argument, {but}"
            values.append((cell_contents(cell), what))
        for item in snapshot.holding:
            values.append((held_by(item), f"what {dotted_name(item)} in depends= holds counts as an argument, {but}"))
        for value, what in values:
            try:
                hash(value)
            except HashingError as error:
                raise Uncacheable(f"{what}: {error}") from error


def _is_importable(function: Any) -> bool:
    return isinstance(function, types.FunctionType) and is_found(
        function, getattr(function, "__module__", None), function.__qualname__
    )


def _decorated(module: Any, name: str) -> Any:
    """Return the function inside the cached function that a module has under a name, or None."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return getattr(found, "func", None)


def _digest_of_code(function: Any) -> str | None:
    code = getattr(function, "__code__", None)
    return hash(code) if isinstance(code, types.CodeType) else None


def _unpickled(
    found: tuple[str, str] | None, given: tuple[Any, ...], path: str, source: Source, code: str | None = None
) -> Identity:
    if found is not None:
        importlib.import_module(found[0])
        given = (_decorated(*found), *given[1:])
    identity = Identity(*given)
    identity.path = path
    # The module that was imported here may be another version of the function, after an edit.
    if found is None or code == _digest_of_code(identity.function):
        remember_source(identity.function, source)
    return identity
