"""What is said of arguments that cannot be used, and of callables that return what cannot be."""

from __future__ import annotations

import fractions
import math
import multiprocessing
from typing import Any

import numpy
import pytest

from shoal import Parallel, backends, delayed, executor, parallel_backend, parallel_config
from shoal.backends._processes import LokyBackend
from shoal.backends._threads import ThreadingBackend

BACKENDS = ["loky", "threading", "multiprocessing"]


def fails(value: Any) -> None:
    raise LookupError(value)


# ---- callables that return what cannot be used


@pytest.mark.parametrize(
    "size", [0, -3, 0.2, 2.7, math.inf, -math.inf, 10**30, fractions.Fraction(1, 3), numpy.int8(2)]
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_has_one_call_at_least_whatever_number_a_callable_returns(backend: str, size: Any) -> None:
    parallel = Parallel(n_jobs=2, backend=backend, batch_size=lambda _pace: size)
    assert parallel(delayed(abs)(-number) for number in range(5)) == [0, 1, 2, 3, 4]


def test_a_batch_size_that_falls_below_one_does_not_end_the_run_early() -> None:
    def falling(pace: Any) -> int:
        return int(1e-9 / max(pace.seconds_per_call, 1e-8)) if pace.calls else 4

    parallel = Parallel(n_jobs=2, batch_size=falling)
    assert parallel(delayed(abs)(-number) for number in range(50)) == list(range(50))


@pytest.mark.parametrize("size", [None, "3", [], True, numpy.bool_(True), 3j, numpy.complex64(2)], ids=repr)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_callable_that_returns_no_batch_size_is_named(backend: str, size: Any) -> None:
    def asked(_pace: Any) -> Any:
        return size

    with pytest.raises(TypeError, match=r"batch_size=<function .*asked.* must return a number, but it returned"):
        Parallel(n_jobs=2, backend=backend, batch_size=asked)([delayed(abs)(1)])
    assert Parallel(n_jobs=2, backend=backend)([delayed(abs)(-1)]) == [1]


def test_a_batch_size_that_is_nan_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="returned nan"):
        Parallel(n_jobs=2, batch_size=lambda _pace: math.nan)([delayed(abs)(1)])


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize(
    ("wait", "kind"), [(None, TypeError), ("1", TypeError), (math.nan, ValueError), (math.inf, ValueError)]
)
def test_a_callable_that_returns_no_seconds_is_named_and_the_failure_is_shown(
    n_jobs: int, wait: Any, kind: type[Exception]
) -> None:
    parallel = Parallel(n_jobs=n_jobs, backend="threading", retries=1, retry_wait=lambda _attempt: wait)
    with pytest.raises(kind, match="retry_wait=<function") as caught:
        parallel([delayed(fails)(1)])
    assert isinstance(caught.value.__context__, LookupError)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_less_than_no_seconds_to_wait_means_at_once(n_jobs: int) -> None:
    parallel = Parallel(n_jobs=n_jobs, backend="threading", retries=1, retry_wait=lambda _attempt: -1.5)
    with pytest.raises(LookupError):
        parallel([delayed(fails)(1)])


# ---- values


@pytest.mark.parametrize(
    ("name", "value", "kind", "said"),
    [
        ("verbose", "x", TypeError, "verbose must be a number"),
        ("verbose", [], TypeError, "verbose must be a number"),
        ("temp_folder", 5, TypeError, "temp_folder must be the path of a folder"),
        ("max_nbytes", "many", ValueError, "max_nbytes='many' is not a size"),
        ("max_nbytes", -1, ValueError, "max_nbytes=-1 is not a size"),
        ("max_nbytes", [], ValueError, r"max_nbytes=\[\] is not a size"),
        ("mmap_mode", "w", ValueError, "mmap_mode must be one of"),
        ("prefer", [], ValueError, r"prefer=\[\] is not a valid"),
        ("require", "speed", ValueError, "require='speed' is not a valid"),
        ("progress", "x", TypeError, "progress must be True, False, 'rich' or a callable"),
        ("retries", 1.5, ValueError, "retries must be a number of attempts"),
        ("retry_on", "x", TypeError, "retry_on must name types"),
        ("retry_wait", "x", ValueError, "retry_wait must be seconds"),
        ("on_error", "x", ValueError, "on_error must be"),
        ("task_timeout", "5", ValueError, "task_timeout must be a positive number of seconds"),
        ("max_pending", 0, ValueError, "max_pending must be a positive number of results"),
        ("max_tasks_per_worker", "5", ValueError, "max_tasks_per_worker must be a positive number of calls"),
        ("max_worker_memory", "x", ValueError, "max_worker_memory='x' is not a size"),
        ("n_jobs", "a", ValueError, "n_jobs could not be converted to int: 'a'"),
        ("n_jobs", {}, TypeError, "n_jobs could not be converted to int: {}"),
    ],
)
def test_a_value_is_refused_where_it_is_written(name: str, value: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        Parallel(**{name: value})
    with pytest.raises(kind, match=said):
        parallel_config(**{name: value})
    assert Parallel()._plan.settings == Parallel(n_jobs=1)._plan.settings  # it has left nothing behind


@pytest.mark.parametrize(
    ("pre_dispatch", "kind"),
    [
        (None, TypeError),
        ([1], TypeError),
        (math.inf, TypeError),
        (math.nan, TypeError),
        (0, ValueError),
        (0.5, ValueError),
    ],
)
def test_what_no_pre_dispatch_can_be_is_named(pre_dispatch: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="pre_dispatch must "):
        Parallel(n_jobs=2, pre_dispatch=pre_dispatch)([delayed(abs)(-1)])
    assert Parallel(n_jobs=1, pre_dispatch=pre_dispatch)([delayed(abs)(-1)]) == [1]  # where nothing is dispatched


@pytest.mark.parametrize("n_jobs", ["[2]", "[]", [2], []])
def test_a_list_without_calls_is_no_number_of_workers(n_jobs: Any) -> None:
    kind = ValueError if isinstance(n_jobs, str) else TypeError
    with pytest.raises(kind, match="n_jobs could not be converted to int"):
        Parallel(n_jobs)


@pytest.mark.parametrize("timeout", ["5", -1, -0.5, math.nan, True, []])
def test_a_timeout_is_a_number_of_seconds(timeout: Any) -> None:
    with pytest.raises(ValueError, match="timeout must be a number of seconds, 0 or more, or None, got"):
        Parallel(n_jobs=2, timeout=timeout)


@pytest.mark.parametrize("timeout", [math.inf, 1e300, 10**30, 60, numpy.float32(60), fractions.Fraction(121, 2)])
@pytest.mark.parametrize("return_as", ["list", "generator"])
def test_a_timeout_may_be_as_long_as_one_likes(timeout: Any, return_as: str) -> None:
    parallel = Parallel(n_jobs=2, backend="threading", timeout=timeout, return_as=return_as)
    assert list(parallel([delayed(abs)(-1)])) == [1]


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"initializer": 5}, TypeError, "initializer must be a callable"),
        ({"initargs": 5}, TypeError, "initargs must be a tuple"),
        ({"idle_worker_timeout": "x"}, ValueError, "idle_worker_timeout must be a positive number of seconds"),
        ({"backend": "multiprocessing", "maxtasksperchild": "x"}, ValueError, "maxtasksperchild must be a positive"),
        (
            {"backend": "multiprocessing", "context": "spawn"},
            TypeError,
            "a context of multiprocessing, True or None, got",
        ),
    ],
)
def test_options_of_backends_have_values_that_they_can_use(options: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        Parallel(**{"n_jobs": 2, "backend": "loky", **options})
    with pytest.raises(kind, match=said):
        parallel_config(**{"backend": "loky", **options})


def test_the_threads_within_a_worker_are_a_number() -> None:
    with pytest.raises(ValueError, match="inner_max_num_threads must be a positive number of threads, or None, got"):
        parallel_config("loky", inner_max_num_threads="x")


# ---- names


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing", "sequential"])
def test_a_misspelt_setting_is_not_taken_for_an_option_of_the_backend(backend: str) -> None:
    said = rf"unexpected keyword argument 'retires': neither it nor the backend '{backend}' takes it; .* 'retries'\?"
    with pytest.raises(TypeError, match=rf"parallel_config\(\) got an {said}"):
        parallel_config(backend=backend, retires=3)
    with pytest.raises(TypeError, match=rf"parallel_backend\(\) got an {said}"):
        parallel_backend(backend, retires=3)
    with pytest.raises(TypeError, match=rf"Parallel\(\) got an {said}"):
        Parallel(backend=backend, retires=3)
    with parallel_config(backend=backend), pytest.raises(TypeError, match=rf"Parallel\(\) got an {said}"):
        Parallel(retires=3)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("max_tasks_per_child", 1, r"'max_tasks_per_worker'\?$"),
        ("maxtasksperchild", 1, r"'max_tasks_per_worker'\? The backend 'multiprocessing' takes it\.$"),
        ("depth", 1, "neither it nor the backend 'loky' takes it$"),
        ("context", multiprocessing.get_context("spawn"), r"did you mean backend=multiprocessing.get_context\(...\)\?"),
        ("max_workers", 2, r"did you mean 'n_jobs'\?"),
        ("inner_max_num_threads", 2, r"did you mean parallel_config\(backend=..., inner_max_num_threads=...\)"),
    ],
)
def test_an_option_that_the_default_backend_would_ignore_is_an_error(name: str, value: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        Parallel(n_jobs=2, prefer="processes", **{name: value})


def test_threads_have_no_initializer() -> None:
    said = r"'threading' takes it\. The backends 'loky' and 'multiprocessing' take it\.$"
    with parallel_config("threading"), pytest.raises(TypeError, match=said):
        Parallel(n_jobs=2, initializer=print)


def test_an_option_of_another_backend_is_not_taken_for_a_misspelt_one() -> None:
    with pytest.raises(TypeError, match=r"'multiprocessing' takes it\. The backend 'loky' takes it\.$"):
        Parallel(n_jobs=2, backend="multiprocessing", idle_worker_timeout=3)


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        (
            "maxtasksperchild",
            ValueError,
            r"Name one: parallel_config\(backend='multiprocessing', maxtasksperchild=...\)",
        ),
        ("initializer", ValueError, r"Name one: parallel_config\(backend='loky', initializer=...\)"),
        ("initialiser", TypeError, r"'initialiser'; did you mean 'initializer'\?"),
    ],
)
def test_an_option_in_a_context_without_a_backend(name: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        parallel_config(**{name: 1})


@pytest.mark.parametrize(
    ("name", "said"),
    [("max_worker", "'max_workers'"), ("workers", "'n_jobs'"), ("max_tasks_per_child", "'max_tasks_per_worker'")],
)
def test_what_an_executor_takes_is_nearest_to_what_it_does_not_take(name: str, said: str) -> None:
    with pytest.raises(TypeError, match=rf"executor\(\) got an .* did you mean {said}\?"):
        executor(**{name: 2})


@pytest.mark.parametrize(("name", "near"), [("lokey", "loky"), ("Loky", "loky"), ("threads", "threading")])
def test_a_misspelt_backend_is_answered_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=rf"Invalid backend: {name}, expected one of .*; did you mean '{near}'\?"):
        Parallel(n_jobs=2, backend=name)


def nested() -> list[int]:
    """Make a run that was written for a program, where the backend is loky."""
    results: list[int] = Parallel(n_jobs=2, initializer=int, idle_worker_timeout=9)([delayed(abs)(-1)])
    return results


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_a_nested_run_on_another_backend_may_have_the_options_of_loky(backend: str) -> None:
    assert Parallel(n_jobs=2, backend=backend)([delayed(nested)()] * 2) == [[1], [1]]


@pytest.mark.parametrize("name", ["seed", "memory", "batch_size", "timeout", "return_as", "pre_dispatch", "total"])
@pytest.mark.parametrize("backend", [{}, {"backend": "loky"}], ids=["", "loky"])
def test_what_belongs_to_one_parallel_is_no_setting_of_a_context(name: str, backend: Any) -> None:
    with pytest.raises(TypeError, match=rf"{name!r}: it is no setting of a context, .* there: Parallel\({name}=...\)"):
        parallel_config(**{**backend, name: 2})


def test_a_backend_may_take_what_is_no_setting_of_a_context(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cluster(ThreadingBackend):
        options = None

    monkeypatch.setattr(backends, "_factories", {**backends._factories, "cluster": Cluster})
    with parallel_config("cluster", timeout=3, whatever=1, n_jobs=2):
        parallel = Parallel(another=1)
        assert parallel._backend.given_options == {"timeout": 3, "whatever": 1}
        assert parallel([delayed(abs)(-1)]) == [1]


def test_options_of_an_instance_are_looked_at() -> None:
    with pytest.raises(TypeError, match=r"'retires'.*'loky' takes it; did you mean 'retries'\?"):
        Parallel(n_jobs=2, backend=LokyBackend(retires=1))


def test_a_misspelt_setting_of_a_context_is_answered_with_the_nearest() -> None:
    with pytest.raises(TypeError, match=r"parallel_config\(\) got an .* 'n_job'; did you mean 'n_jobs'\?"):
        parallel_config(n_job=2)
    assert Parallel().n_jobs == 1


# ---- calls that are none


async def coroutine_function() -> None:
    """Do nothing."""


def items(size: int) -> dict[str, Any]:
    return {
        "a generator": (delayed(abs)(number) for number in range(size)),
        "a list": [delayed(abs)(number) for number in range(size)],
        "a tuple of calls": tuple(delayed(abs)(number) for number in range(size)),
        "a function": abs,
        "one part": (abs,),
        "two parts": (abs, (1,)),
        "a string": "f" * size,
        "a dictionary": dict.fromkeys("abcdef"[:size]),
        "None": None,
        "delayed": delayed(abs),
        "no arguments": (abs, 5, {}),
        "no keywords": (abs, (5,), "x"),
        "a number": 5,
        "functions": [abs] * size,
    }


#: A call has three parts; items of other lengths, and of that one, take different ways.
_OF_ANY_SIZE = ("a generator", "a list", "a tuple of calls", "a string", "a dictionary", "functions")
CASES = [(what, size) for what in items(1) for size in ((2, 3, 4) if what in _OF_ANY_SIZE else (3,))]


@pytest.mark.slow
@pytest.mark.parametrize(("what", "size"), CASES)
@pytest.mark.parametrize(("backend", "n_jobs"), [("threading", 1), ("threading", 2), ("loky", 2)])
@pytest.mark.parametrize("options", [{}, {"retries": 1}, {"seed": 1}], ids=["", "retries", "seed"])
def test_an_item_that_is_no_call_is_named(backend: str, n_jobs: int, what: str, size: int, options: Any) -> None:
    given = [delayed(fine)(1), items(size)[what]]
    with pytest.raises(TypeError, match=r"item 1 of the input is no delayed call but .*Parallel\(\.\.\.\)\(delayed\("):
        Parallel(n_jobs=n_jobs, backend=backend, **options)(given)


@pytest.mark.parametrize(
    ("backend", "n_jobs"), [("threading", 1), ("threading", 2), ("loky", 2), ("multiprocessing", 2)]
)
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4])
def test_a_generator_of_calls_within_a_list(backend: str, n_jobs: int, size: int) -> None:
    with pytest.raises(TypeError, match="leave out the brackets around them"):
        Parallel(n_jobs=n_jobs, backend=backend)([items(size)["a generator"]])


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_coroutine_is_no_call(n_jobs: int) -> None:
    coroutine = coroutine_function()
    with pytest.raises(TypeError, match="It is what an async function returns"):
        Parallel(n_jobs=n_jobs, backend="threading")([coroutine])
    coroutine.close()


@pytest.mark.parametrize(("backend", "n_jobs"), [("threading", 1), ("threading", 2), ("loky", 2)])
def test_calls_may_be_made_by_hand(backend: str, n_jobs: int) -> None:
    made = [(pow, [2, 3], {}), [pow, (2, 4), {}]]
    assert Parallel(n_jobs=n_jobs, backend=backend)(made) == [8, 16]


def fine(x: int, rng: Any = None) -> int:
    return x


@pytest.mark.parametrize("given", [None, 5, abs], ids=str)
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_what_is_no_input(n_jobs: int, given: Any) -> None:
    with pytest.raises(TypeError, match=r"Parallel was given .*, not calls. Write Parallel\(...\)"):
        Parallel(n_jobs=n_jobs)(given)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_one_call_is_no_input(n_jobs: int) -> None:
    with pytest.raises(TypeError, match=r"Parallel was given one call, not an iterable of calls: write \[delayed"):
        Parallel(n_jobs=n_jobs)(delayed(abs)(1))


@pytest.mark.parametrize(
    "arguments",
    [
        lambda: ((delayed(abs)(number) for number in range(3)),),
        lambda: ([delayed(abs)(1)],),
        lambda: (delayed(abs)(1),),
        lambda: (2, (delayed(abs)(number) for number in range(3))),
        lambda: (2, [delayed(abs)(1)]),
    ],
)
def test_calls_that_are_given_to_the_constructor(arguments: Any) -> None:
    with pytest.raises(TypeError, match=r"Parallel\(\) itself takes no calls, but (n_jobs|backend) is .*Make it first"):
        Parallel(*arguments())
