"""Pickles that travel between processes, and the error for objects that cannot be pickled."""

from __future__ import annotations

import functools
import pickle
import sys
import threading
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy
import pytest

from shoal import CallPicklingError, Parallel, delayed
from shoal._pickling import OUT_OF_BAND_BYTES, culprit, dumps, loads

LOCK = threading.Lock()


class Model:
    """An object with arbitrary attributes."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def fit(self, *_: Any) -> str:
        return "fitted"


class Slotted:
    __slots__ = ("lock", "name")

    def __init__(self) -> None:
        self.name, self.lock = "slotted", LOCK


@dataclass
class Record:
    name: str
    values: list[Any]


class Stateful:
    def __getstate__(self) -> dict[str, Any]:
        return {"kept": [LOCK]}


class Stubborn:
    def __reduce__(self) -> Any:
        raise RuntimeError("never")


def uses_variable() -> Any:
    lock = LOCK

    def inner() -> Any:
        return lock

    return inner


def uses_nested_functions() -> Any:
    innermost = uses_variable()

    def outer() -> Any:
        return innermost()

    return outer


def uses_global() -> Any:
    def inner() -> Any:
        return LOCK

    return inner


def endless() -> list[Any]:
    items: list[Any] = [1]
    items += [items, {"items": items, "lock": LOCK}]
    return items


CULPRITS = [
    (LOCK, "x"),
    ([1, [2, LOCK]], "x[1][1]"),
    ((1, (LOCK,)), "x[1][0]"),
    ({"model": {"locks": [LOCK]}}, "x['model']['locks'][0]"),
    ({(1, 2): LOCK}, "x[(1, 2)]"),
    ({LOCK: 1}, f"x's key {LOCK!r}"),
    ({1, LOCK}, f"x's element {LOCK!r}"),
    (frozenset([LOCK]), f"x's element {LOCK!r}"),
    (Model(name="m", callback=Model(lock=LOCK)), "x.callback.lock"),
    (Slotted(), "x.lock"),
    (Record("r", [LOCK]), "x.values[0]"),
    (Stateful(), "x.kept[0]"),
    (Stubborn(), "x"),
    ([Stubborn()], "x[0]"),
    (uses_variable(), "x's variable lock"),
    (uses_nested_functions(), "x's variable innermost's variable lock"),
    (uses_global(), "x's global LOCK"),
    ({"f": [uses_variable()]}, "x['f'][0]'s variable lock"),
    (Model(lock=LOCK).fit, "x.__self__.lock"),
    (functools.partial(max, LOCK), "x.args[0]"),
    (functools.partial(max, key={"a": LOCK}), "x.keywords['key']['a']"),
    (functools.partial(uses_variable(), 1), "x.func's variable lock"),
    (ValueError("bad", LOCK), "x.args[1]"),
    (endless(), "x[2]['lock']"),
]


@pytest.mark.parametrize(("obj", "path"), CULPRITS, ids=[path.partition(" <")[0] for _, path in CULPRITS])
def test_culprit_returns_the_path_to_the_part_that_cannot_be_pickled(obj: Any, path: str) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011 each kind says something else
        dumps(obj)
    found, reason = culprit(obj, "x")
    assert found == path
    assert "never" in reason if "Stubborn" in repr(obj) else "cannot pickle" in reason


def test_culprit_finds_an_attribute_of_an_exception() -> None:
    error = ValueError("bad")
    error.lock = LOCK  # type: ignore[attr-defined]
    assert culprit(error, "exception")[0] == "exception.lock"


def test_culprit_of_an_object_that_is_nested_too_deep() -> None:
    obj: list[Any] = []
    for _ in range(10_000):
        obj = [obj]
    path, reason = culprit(obj, "x")
    assert path == "x" + "[0]" * 50
    assert "recursion" in reason


def test_culprit_of_an_object_that_can_be_pickled_now() -> None:
    assert culprit([1], "x") == ("x", "")


def ignore(_argument: Any = None, key: Any = None) -> None:
    pass


def give_lock() -> Any:
    return [1, LOCK]


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_the_error_of_a_run_names_the_call_and_the_path(backend: str) -> None:
    run = Parallel(n_jobs=2, backend=backend)
    cases = [
        (delayed(ignore)({"model": Model(callback=LOCK)}), "call 2, test_pickling.ignore", "args[0]['model'].callback"),
        (delayed(ignore)(key=[LOCK]), "call 2, test_pickling.ignore", "kwargs['key'][0]"),
        (delayed(uses_variable())(), "call 2, ", "the function's variable lock"),
        (delayed(Model(lock=LOCK).fit)(), "call 2, test_pickling.Model.fit", "the function.__self__.lock"),
        (delayed(give_lock)(), "the result of call 2, test_pickling.give_lock", "result[1]"),
    ]
    for call, what, path in cases:
        with pytest.raises(CallPicklingError) as caught:
            run([delayed(abs)(1), delayed(abs)(2), call])
        assert caught.value.what.startswith(what)
        assert caught.value.path == path
        assert f"{path} cannot be pickled" in str(caught.value)
        assert "backend='threading'" in str(caught.value)
        assert run([delayed(abs)(-1), delayed(abs)(-2)]) == [1, 2]


def test_the_error_is_a_pickling_error_and_can_be_pickled() -> None:
    error = CallPicklingError("call 3, f(...),", "args[0]", "no way")
    assert isinstance(error, pickle.PicklingError)
    assert isinstance(error, TypeError)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert again.path == "args[0]"


def test_large_buffers_are_left_out() -> None:
    large = numpy.arange(OUT_OF_BAND_BYTES // 8)
    fortran = numpy.asfortranarray(large.reshape(4, -1))
    small = large[:-1].copy()
    stream, buffers = dumps({"large": large, "fortran": fortran, "small": small})
    assert [view.nbytes for view in buffers] == [large.nbytes, large.nbytes]
    assert all((view.ndim, view.format) == (1, "B") for view in buffers)
    assert numpy.shares_memory(numpy.frombuffer(buffers[0], large.dtype), large)
    assert small.nbytes < len(stream) < large.nbytes + 1000
    again = loads(stream, buffers=buffers)
    assert all(numpy.array_equal(again[name], value) for name, value in [("large", large), ("small", small)])
    assert again["fortran"].flags.f_contiguous
    assert numpy.array_equal(again["fortran"], fortran)


def test_the_limit_for_large_buffers_is_an_argument() -> None:
    array = numpy.arange(1000)
    assert dumps(array)[1] == []
    assert len(dumps(array, out_of_band=1000)[1]) == 1
    stream, buffers = dumps(numpy.arange(10**5), out_of_band=2**63)
    assert buffers == []
    assert numpy.array_equal(loads(stream), numpy.arange(10**5))


def test_buffers_that_are_not_contiguous_stay_in_the_stream() -> None:
    array = numpy.arange(10**5)[::2]
    stream, buffers = dumps(array)
    assert numpy.array_equal(loads(stream, buffers=buffers), array)
    assert all(view.contiguous for view in buffers)


def test_the_hook_is_called_for_every_object_that_is_not_a_plain_builtin() -> None:
    seen: list[Any] = []

    def reduce(obj: Any) -> Any:
        seen.append(obj)
        return (Model, ()) if isinstance(obj, Model) else NotImplemented

    model = Model(lock=LOCK)
    again = loads(dumps([1, "a", {"model": model, "t": (None, 2.5)}], reduce)[0])
    assert vars(again[2]["model"]) == {}
    assert model in seen
    assert not any(isinstance(obj, (int, str, list, dict, tuple)) for obj in seen)


def test_the_hook_for_functions_that_are_pickled_by_value() -> None:
    seen: list[Any] = []

    def by_value(obj: Any) -> Any:
        seen.append(obj)
        return (int, ("42",)) if obj is local else NotImplemented

    def local() -> None:
        pass

    def other() -> int:
        return 3

    again = loads(dumps([local, ignore, len, Model, other], by_value=by_value)[0])
    assert again[:4] == [42, ignore, len, Model]
    assert again[4]() == 3
    assert local in seen
    assert other in seen
    assert not {ignore, len, Model} & {obj for obj in seen if callable(obj)}


class Pickler(pickle.Pickler):
    """The pickler of ``LOKY_PICKLER=test_pickling``: it marks objects of the class Model."""

    def reducer_override(self, obj: Any) -> Any:
        return (mark, (vars(obj),)) if type(obj) is Model else NotImplemented


def test_what_an_import_finds_is_pickled_by_name_and_all_else_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    by_name, kind = ignore, Model
    for obj in (by_name, kind, Model.__init__):
        assert loads(dumps(obj)[0]) is obj
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        assert loads(dumps(by_name)[0]) is not by_name
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    monkeypatch.setattr(module, "ignore", give_lock)  # the name now means another function
    monkeypatch.delattr(module, "Model")
    assert loads(dumps(by_name)[0]) is not by_name
    assert loads(dumps(kind)[0]).__qualname__ == "Model"


def mark(attributes: dict[str, Any]) -> Model:
    return Model(**attributes, marked=True)


def test_loky_pickler_chooses_another_pickler(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loads(dumps(lambda: 3)[0])() == 3
    monkeypatch.setenv("LOKY_PICKLER", "pickle")
    with pytest.raises((AttributeError, pickle.PicklingError)):
        dumps(lambda: 3)
    assert loads(dumps([1, ignore])[0]) == [1, ignore]
    monkeypatch.setenv("LOKY_PICKLER", "test_pickling")
    assert loads(dumps(Model(name="m"))[0]).marked
    monkeypatch.setenv("LOKY_PICKLER", "")
    assert loads(dumps(lambda: 3)[0])() == 3
