"""``seed=``: each call has a random generator of its own, the same wherever it runs."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import numpy
import pytest
from numpy.random import SeedSequence, default_rng

from _capabilities import KILL
from shoal import Parallel, delayed, parallel_config, shared

N = 30
#: What a run of `draw` gives with seed 7.
EXPECTED = [(i, default_rng(child).random()) for i, child in enumerate(SeedSequence(7).spawn(N))]


def draw(x: int, rng: Any = None) -> tuple[int, float]:
    return x, rng.random()


def calls() -> Any:
    return (delayed(draw)(i) for i in range(N))


@pytest.mark.parametrize("batch_size", ["auto", 1, 7])
@pytest.mark.parametrize(
    ("n_jobs", "backend"), [(1, "loky"), (2, "loky"), (3, "loky"), (2, "threading"), (2, "multiprocessing")]
)
def test_the_same_wherever_calls_run(n_jobs: int, backend: str, batch_size: Any) -> None:
    run = Parallel(n_jobs=n_jobs, backend=backend, batch_size=batch_size, seed=7)
    assert run(calls()) == EXPECTED
    assert run(list(calls())) == EXPECTED


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
@pytest.mark.parametrize(("n_jobs", "backend"), [(1, "loky"), (2, "loky"), (2, "threading")])
def test_generators(return_as: str, n_jobs: int, backend: str) -> None:
    results = list(Parallel(n_jobs=n_jobs, backend=backend, return_as=return_as, seed=7)(calls()))
    assert (results if return_as == "generator" else sorted(results)) == EXPECTED


@pytest.mark.parametrize(
    ("n_jobs", "backend", "how"),
    [
        *((n_jobs, backend, "raise") for n_jobs, backend in [(1, "loky"), (2, "threading")]),
        *((2, backend, how) for backend in ("loky", "multiprocessing") for how in ("raise", "die")),
    ],
)
def test_an_attempt_after_another_sees_the_same_numbers(tmp_path: Path, n_jobs: int, backend: str, how: str) -> None:
    def fickle(x: int, *, rng: Any) -> tuple[int, float]:
        drawn = rng.random()
        mark = tmp_path / str(x)
        if x % 10 == 3 and not mark.exists():
            mark.touch()
            if how == "die":
                os.kill(os.getpid(), KILL)
            raise LookupError(x)
        return x, drawn

    run = Parallel(n_jobs=n_jobs, backend=backend, retries=1, seed=7)
    assert run(delayed(fickle)(i) for i in range(N)) == EXPECTED


class Sampler:
    def draw(self, x: int, rng: Any) -> tuple[int, float]:
        return draw(x, rng)

    def __call__(self, x: int, **options: Any) -> tuple[int, float]:
        return draw(x, **options)


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize(
    "function", [Sampler().draw, Sampler(), functools.partial(draw)], ids=["method", "object", "partial"]
)
def test_kinds_of_functions(function: Any, n_jobs: int) -> None:
    run = Parallel(n_jobs=n_jobs, seed=7)
    mixed = (delayed(function if i % 2 else draw)(i) for i in range(N))
    assert run(mixed) == EXPECTED
    assert Parallel(n_jobs=n_jobs, seed=7)(delayed(draw)(shared(i)) for i in range(N)) == EXPECTED


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_call_keeps_an_rng_of_its_own(n_jobs: int) -> None:
    own = [
        delayed(draw)(0, default_rng(1)),
        delayed(draw)(0, rng=default_rng(1)),
        delayed(functools.partial(draw, rng=default_rng(1)))(0),
        delayed(draw)(3),
    ]
    kept = (0, default_rng(1).random())
    assert Parallel(n_jobs=n_jobs, seed=7)(own) == [kept, kept, kept, EXPECTED[3]]


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_the_callers_calls_stay_as_they_are(n_jobs: int) -> None:
    given = list(calls())
    Parallel(n_jobs=n_jobs, seed=7)(given)
    assert given == list(calls())


@pytest.mark.parametrize(
    "seed",
    [0, numpy.int64(5), [1, 2, 3], (1, numpy.uint32(2)), SeedSequence(4), SeedSequence(4).spawn(3)[2], SeedSequence()],
    ids=lambda seed: type(seed).__name__,
)
def test_seeds(seed: Any) -> None:
    same = (
        SeedSequence(seed.entropy, spawn_key=seed.spawn_key) if isinstance(seed, SeedSequence) else SeedSequence(seed)
    )
    expected = [(i, default_rng(child).random()) for i, child in enumerate(same.spawn(4))]
    for n_jobs in (1, 2, 2):
        assert Parallel(n_jobs=n_jobs, seed=seed)(delayed(draw)(i) for i in range(4)) == expected


def test_a_seed_sequence_goes_on_after_the_children_that_it_has() -> None:
    seed, same = SeedSequence(4, pool_size=8), SeedSequence(4, pool_size=8)
    seed.spawn(3)
    expected = [(i, default_rng(child).random()) for i, child in enumerate(same.spawn(7)[3:])]
    assert Parallel(n_jobs=2, seed=seed)(delayed(draw)(i) for i in range(4)) == expected
    assert seed.n_children_spawned == 3


@pytest.mark.parametrize(
    "bad", [1.5, "seven", b"7", True, [1, "2"], [True], default_rng(1), {1: 2}], ids=lambda bad: type(bad).__name__
)
def test_what_is_no_seed(bad: Any) -> None:
    with pytest.raises(TypeError, match=r"seed must be an integer, a sequence of integers or a numpy"):
        Parallel(n_jobs=2, seed=bad)


def test_seeds_are_not_negative_and_belong_to_a_run() -> None:
    for bad in (-1, [1, -1]):
        with pytest.raises(ValueError, match="seed must not be negative, got: -1"):
            Parallel(n_jobs=2, seed=bad)
    with pytest.raises(TypeError, match=r"'seed': it is no setting of a context.* Give it there: Parallel\(seed=...\)"):
        parallel_config(seed=1)


def touch(path: Path) -> None:
    path.touch()


def only_by_place(x: Any, rng: Any = None, /) -> None:
    x.touch()


@pytest.mark.parametrize("function", [touch, only_by_place, len, iter], ids=lambda function: function.__name__)
@pytest.mark.parametrize(("n_jobs", "backend"), [(1, "loky"), (2, "loky"), (2, "threading"), (2, "multiprocessing")])
def test_a_function_that_takes_no_rng(tmp_path: Path, n_jobs: int, backend: str, function: Any) -> None:
    run = Parallel(n_jobs=n_jobs, backend=backend, seed=7)
    with pytest.raises(
        TypeError, match=r"random generator as its argument 'rng', but .*, the function of call 0, takes"
    ):
        run(delayed(function)(tmp_path / str(i)) for i in range(9))
    assert not list(tmp_path.iterdir())
    assert run(calls()) == EXPECTED


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_what_is_no_call_is_told_as_ever(n_jobs: int) -> None:
    with pytest.raises(TypeError, match="item 2 of the input is no delayed call but 5"):
        Parallel(n_jobs=n_jobs, seed=7, batch_size=1)([*list(calls())[:2], 5])
    with pytest.raises(TypeError, match="item 0 of the input is no delayed call but 5"):
        Parallel(n_jobs=n_jobs, seed=7, retries=1)([5])


def test_without_a_seed_nothing_is_added() -> None:
    def none(**options: Any) -> Any:
        return options

    assert Parallel(n_jobs=2)(delayed(none)() for _ in range(3)) == [{}] * 3
