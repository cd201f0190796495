"""Batch sizes from what calls have cost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.parallel.running._policies import (
    BATCH_BYTES,
    BATCH_SECONDS,
    CALLER_SECONDS,
    COLD_SECONDS,
    LEAP,
    LEAST_BATCH_SECONDS,
    STEP,
    Pace,
    auto_batch_size,
)

costs = st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 1e5), st.integers(0, 2**40)), min_size=1, max_size=9)


def pace(*batches: tuple[int, float, int]) -> Pace:
    made = Pace()
    for batch in batches:
        made.add(*batch)
    return made


@pytest.mark.parametrize(
    ("batches", "size"),
    [
        ([(1, COLD_SECONDS, 0)], LEAP),  # no work to speak of: a leap
        ([(1, 0.0, 0)], LEAP),
        ([(1, BATCH_SECONDS / 20, 0)], STEP),  # work that can be felt: a step
        ([(1, BATCH_SECONDS / 4, 0)], 4),
        ([(1, BATCH_SECONDS, 0)], 1),
        ([(1, 3600.0, 0)], 1),
        ([(1, 1e-6, 0), (16, 16e-6, 0)], 16 * LEAP),
        ([(1024, BATCH_SECONDS / 2 + COLD_SECONDS, 0)], 2048),
        ([(1000, 10 * BATCH_SECONDS, 0)], 100),  # they have become slower
        ([(10, 1e-5, BATCH_BYTES)], 10),  # heavy arguments or results
        ([(1, 1e-6, 2 * BATCH_BYTES)], 1),
    ],
)
def test_sizes(batches: list[tuple[int, float, int]], size: int) -> None:
    assert auto_batch_size(pace(*batches)) == size


@given(costs)
def test_a_size_is_a_number_within_its_limits(batches: list[tuple[int, float, int]]) -> None:
    measured = pace(*batches)
    size = auto_batch_size(measured)
    assert type(size) is int
    assert 1 <= size <= LEAP * max(calls for calls, _, _ in batches)
    if size > 1:
        assert size * measured.seconds_per_call <= BATCH_SECONDS * 1.001
        assert size * measured.nbytes / measured.calls <= BATCH_BYTES * 1.001


@given(costs, st.integers(0, 10**7), st.integers(1, 100))
def test_a_share_is_half_of_an_even_one_or_too_short_to_cut(
    batches: list[tuple[int, float, int]], left: int, slots: int
) -> None:
    measured = pace(*batches)
    share = measured.share(left, slots)
    assert type(share) is int
    assert share >= max(left / (2 * slots), 1)
    if share > max(-(-left // (2 * slots)), 1):
        assert share * measured.seconds_per_call <= max(LEAST_BATCH_SECONDS, slots * CALLER_SECONDS) * 1.001


@pytest.mark.parametrize(
    ("seconds_per_call", "left", "slots", "share"),
    [
        (0.1, 100, 2, 25),  # half of an even share
        (0.1, 4, 2, 1),
        (0.1, 1, 2, 1),
        (0.1, 0, 2, 1),
        (3.6e-6, 1000, 2, 555),  # four milliseconds in all are not cut further
        (1e-6, 100_000, 2, 25_000),
        (1e-3, 6, 2, 2),
        (0.0, 1000, 2, 20_000),  # no work to speak of
    ],
)
def test_shares(seconds_per_call: float, left: int, slots: int, share: int) -> None:
    assert pace((1, seconds_per_call + COLD_SECONDS, 0)).share(left, slots) == share


def test_newer_batches_weigh_more() -> None:
    slow_then_fast: Any = pace((10, 10.0, 0), (10, 1.0, 0))
    fast_then_slow = pace((10, 1.0, 0), (10, 10.0, 0))
    assert 0.1 < slow_then_fast.seconds_per_call < 0.55 < fast_then_slow.seconds_per_call < 1
    assert pace().seconds_per_call == 0
