"""Calls, made by ``delayed``, and arguments marked by ``shared``."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import functools
import gc
import inspect
import pickle
import threading
import types
import weakref
from collections.abc import Iterator
from typing import Any

import numpy
import pytest

from shoal import Parallel, delayed, executor, shared


def area(width: int, height: int = 1) -> int:
    """Return the area of a rectangle."""
    return width * height


area.unit = "m2"  # type: ignore[attr-defined]


class Scale:
    """Multiplies by a number."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, number: int) -> int:
        return self.factor * number

    def apply(self, number: int) -> int:
        """Multiply."""
        return self.factor * number


def test_a_call_is_a_tuple() -> None:
    assert delayed(area)(2, height=3) == (area, (2,), {"height": 3})
    assert delayed(area)() == (area, (), {})
    call = delayed(area)(2)
    assert type(call) is tuple
    assert call[0] is area


def test_any_keyword_can_be_given() -> None:
    keywords = {"self": 1, "function": 2, "args": 3, "cls": 4}
    assert delayed(dict)(**keywords) == (dict, (), keywords)
    assert Parallel(n_jobs=1)([delayed(dict)(**keywords)]) == [keywords]


def test_it_answers_for_the_function() -> None:
    made: Any = delayed(area)
    assert made.__wrapped__ is area
    assert made.__name__ == "area"
    assert made.__qualname__ == "area"
    assert made.__doc__ == "Return the area of a rectangle."
    assert made.__annotations__ == area.__annotations__
    assert made.unit == "m2"
    assert inspect.unwrap(made) is area
    assert inspect.signature(made) == inspect.signature(area)
    assert callable(made)


@pytest.mark.parametrize(
    ("function", "name", "doc"),
    [
        (len, "len", len.__doc__),
        (Scale, "Scale", "Multiplies by a number."),
        (Scale(3).apply, "apply", "Multiply."),
        (str.upper, "upper", str.upper.__doc__),
        (lambda: None, "<lambda>", None),
    ],
)
def test_it_answers_for_any_callable(function: Any, name: str, doc: str | None) -> None:
    made: Any = delayed(function)
    assert (made.__name__, made.__doc__) == (name, doc)


@pytest.mark.parametrize("function", [functools.partial(area, 2), Scale(3)])
def test_what_the_callable_does_not_have_is_missing(function: Any) -> None:
    made: Any = delayed(function)
    assert made.__doc__ == function.__doc__
    assert not hasattr(made, "__name__")
    with pytest.raises(AttributeError, match="colour"):
        _ = made.colour
    assert Parallel(n_jobs=1)([made(3)]) == [function(3)]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_it_can_be_pickled(protocol: int) -> None:
    for function in (area, len, Scale):
        again = pickle.loads(pickle.dumps(delayed(function), protocol))
        assert again(2) == (function, (2,), {})
        assert again.__wrapped__ is function


def test_functions_may_take_turns() -> None:
    first, second = delayed(area), delayed(len)
    calls = [first(1), second("a"), delayed(area)(2), delayed(len)("b")]
    assert calls == [(area, (1,), {}), (len, ("a",), {}), (area, (2,), {}), (len, ("b",), {})]


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_nothing_of_a_run_stays(n_jobs: int) -> None:
    function = Scale(3)
    reference = weakref.ref(function)
    assert Parallel(n_jobs=n_jobs, backend="threading")(delayed(function)(n) for n in range(3)) == [0, 3, 6]
    del function
    gc.collect()
    assert reference() is None


def test_shared_says_what_it_marks() -> None:
    assert repr(shared([1, 2])) == "shared([1, 2])"


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("backend", ["threading", "loky", "multiprocessing"])
def test_shared_arguments_arrive_bare(backend: str, n_jobs: int) -> None:
    table = shared({"width": 2, "height": 3})
    run = Parallel(n_jobs=n_jobs, backend=backend)
    assert run([delayed(dict.get)(table, "width"), delayed(sorted)(table)]) == [2, ["height", "width"]]
    assert run([delayed(area)(shared(4), height=shared(5))] * 3) == [20] * 3


@pytest.mark.parametrize(
    ("item", "shown"), [(7, "7 (int)"), (area, "<function area"), (None, "None (NoneType)"), ((area, (1,)), "(tuple)")]
)
@pytest.mark.parametrize(
    ("backend", "n_jobs"),
    [("sequential", 1), ("threading", 2), ("loky", 2), ("multiprocessing", 2)],
)
def test_what_is_no_call_is_told_so(backend: str, n_jobs: int, item: Any, shown: str) -> None:
    def items() -> Iterator[Any]:
        yield delayed(area)(1)
        yield delayed(area)(2)
        yield item

    run = Parallel(n_jobs=n_jobs, backend=backend)
    for _ in range(2):
        with pytest.raises(TypeError, match="item 2 of the input is no delayed call but ") as caught:
            run(items())
        assert shown in str(caught.value)
        assert "Parallel(...)(delayed(function)(argument) for argument in arguments)" in str(caught.value)
        assert run([delayed(area)(3)]) == [3]


def test_what_is_no_call_is_told_so_where_somebody_listens() -> None:
    with pytest.raises(TypeError, match="item 0 of the input"):
        Parallel(n_jobs=1, verbose=1)([area(1)])
    with pytest.raises(TypeError, match="item 0 of the input"):
        list(Parallel(n_jobs=1, return_as="generator")([area(1)]))


class Model:
    """Has attributes, and is pickled as any object is."""

    def __init__(self, table: Any) -> None:
        self.table, self.size = table, 2

    def look_up(self, key: str) -> Any:
        return self.table[key]


Pair = collections.namedtuple("Pair", ["left", "right"])


@dataclasses.dataclass(frozen=True)
class Frozen:
    table: Any


@dataclasses.dataclass
class Slotted:
    __slots__ = ("table",)
    table: Any


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenSlotted:
    table: Any


class Rows(list[Any]):
    """A list of one's own."""


class Columns(dict[str, Any]):
    """A dictionary of one's own."""


class LookUp:
    """An object that is called, and holds what it needs for that."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __call__(self, key: str) -> Any:
        return self.table[key]


def reached(path: str, *args: Any, **kwargs: Any) -> Any:
    """Follow a path of keys and attributes to what should be the table."""
    found: Any = args or kwargs
    for step in path.split("."):
        found = getattr(found, step) if not step.isdigit() and hasattr(found, step) else found[_key(step)]
    return found


def _key(step: str) -> Any:
    return int(step) if step.lstrip("-").isdigit() else step


def holders(marked: Any) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    return {
        "0.0": (([marked, 1],), {}),
        "0.left": ((Pair(marked, 2),), {}),
        "0.0.0.1": (([[(0, marked)]],), {}),
        "0.a.b": (({"a": {"b": marked}},), {}),
        "0.table": ((Model(marked),), {}),
        "0.0.table.table": (([Model(Frozen(marked))],), {}),
        "0.keywords.x": ((functools.partial(reached, x=marked),), {}),
        "named.0": ((), {"named": [marked]}),
        "0.x": ((collections.OrderedDict(x=marked),), {}),
        "0.y": ((collections.defaultdict(list, y=marked),), {}),
        "0.-1": ((collections.deque([1, marked]),), {}),
        "0.data.0": ((collections.UserList([marked]),), {}),
        "0.table.0": ((types.SimpleNamespace(table=[marked]),), {}),
        "0.0.table": (([Slotted(marked)],), {}),
        "0.1.table": (([1, FrozenSlotted(marked)],), {}),
        "0.1": ((Rows([1, marked]),), {}),
        "0.a": ((Columns(a=marked),), {}),
        "0.2": ((numpy.array([1, [2], marked], dtype=object),), {}),
    }


@pytest.mark.parametrize("path", list(holders(0)))
@pytest.mark.parametrize(
    ("backend", "n_jobs"), [("loky", 1), ("threading", 1), ("threading", 2), ("loky", 2), ("multiprocessing", 2)]
)
@pytest.mark.parametrize("options", [{}, {"retries": 1}], ids=["", "retries"])
def test_what_is_shared_inside_of_an_argument_arrives_bare(backend: str, n_jobs: int, path: str, options: Any) -> None:
    args, kwargs = holders(shared({"a": 1}))[path]
    run = Parallel(n_jobs=n_jobs, backend=backend, **options)
    assert run([delayed(reached)(path, *args, **kwargs)] * 3) == [{"a": 1}] * 3


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_what_is_shared_inside_of_an_argument_arrives_bare_in_executors_and_acall(backend: str) -> None:
    table = shared({"a": 1})
    with executor(1, backend=backend) as workers:
        assert workers.submit(len, [table]).result() == 1
        assert workers.submit(reached, "0.0", [table]).result() == {"a": 1}

    async def awaited() -> Any:
        return await Parallel(n_jobs=2, backend=backend).acall([delayed(reached)("0.0", [table])])

    assert asyncio.run(awaited()) == [{"a": 1}]


@pytest.mark.parametrize(("backend", "n_jobs"), [("threading", 1), ("threading", 2), ("loky", 2)])
def test_a_method_of_an_object_that_holds_something_shared(backend: str, n_jobs: int) -> None:
    model = Model(shared({"a": 1}))
    assert Parallel(n_jobs=n_jobs, backend=backend)([delayed(model.look_up)("a")] * 2) == [1, 1]
    assert Parallel(n_jobs=n_jobs, backend=backend)([delayed(functools.partial(model.look_up, "a"))()] * 2) == [1, 1]


@pytest.mark.parametrize(("backend", "n_jobs"), [("threading", 1), ("threading", 2), ("loky", 2)])
def test_an_object_that_is_called_and_holds_something_shared(backend: str, n_jobs: int) -> None:
    called = LookUp(shared({"a": 1}))
    assert Parallel(n_jobs=n_jobs, backend=backend)([delayed(called)("a")] * 2) == [1, 1]


class Loud:
    """Says by itself how it is pickled, which is dear."""

    def __getstate__(self) -> Any:
        raise AssertionError("nobody asked")


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_threads_pickle_nothing_to_find_what_is_shared(n_jobs: int) -> None:
    held = [Loud(), threading.Lock(), (number for number in range(3)), numpy.zeros(3), shared(1)]
    ((got),) = Parallel(n_jobs=n_jobs, backend="threading")([delayed(list)(held)])
    assert got[4] == 1
    assert all(new is old for new, old in zip(got[:4], held[:4], strict=True))


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_what_leads_to_something_shared_is_copied_and_nothing_else(n_jobs: int) -> None:
    value, mine, other = {"a": 1}, [1, 2], Model(3)
    marked = shared(value)
    given = [marked, mine]
    run = Parallel(n_jobs=n_jobs, backend="threading")
    ((got, plain, obj),) = run([delayed(lambda *args: args)(given, mine, other)])
    assert got[0] is value
    assert got[1] is mine
    assert plain is mine
    assert obj is other
    assert given == [marked, mine]
    assert got is not given


def test_arguments_that_hold_themselves_are_looked_through_once() -> None:
    loop: list[Any] = [shared(1)]
    loop.append(loop)
    ((got,),) = Parallel(n_jobs=1)([delayed(lambda *args: args)(loop)])
    assert got[0] == 1
    deep: Any = []
    for _ in range(10_000):
        deep = [deep]
    assert Parallel(n_jobs=1)([delayed(len)(deep)]) == [1]


def test_one_list_that_is_given_twice_stays_one() -> None:
    both = [shared(1)]
    ((first, second, (third,)),) = Parallel(n_jobs=1)([delayed(lambda *args: args)(both, both, [both])])
    assert first is second
    assert second is third
    assert first == [1]


def test_a_marker_is_pickled_as_what_it_marks() -> None:
    assert pickle.loads(pickle.dumps([shared(5)])) == [5]
