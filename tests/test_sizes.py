from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal._sizes import format_size, parse_size

FACTORS = {"K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


@given(
    st.integers(0, 10**6) | st.floats(0, 1e6, allow_nan=False),
    st.sampled_from(["", " ", "  "]),
    st.sampled_from(list(FACTORS)),
    st.sampled_from(["", "B", "iB", "b", "ib"]),
    st.booleans(),
)
def test_a_size_is_a_number_and_a_unit(number: float, space: str, unit: str, ending: str, lower: bool) -> None:
    expected = int(number * FACTORS[unit])
    assert parse_size(f"{number}{space}{unit.lower() if lower else unit}{ending}") == expected


@given(st.integers(0, 2**50))
def test_plain_numbers_are_bytes(number: int) -> None:
    assert parse_size(number) == number
    assert parse_size(float(number)) == number
    assert parse_size(str(number)) == number
    assert parse_size(f"{number} B") == number


@pytest.mark.parametrize(
    ("size", "in_bytes"),
    [
        ("1M", 2**20),
        ("1.5G", 3 * 2**29),
        ("100K", 102_400),
        (" 2 g ", 2**31),
        ("1e3K", 1_024_000),
        (".5K", 512),
        ("0K", 0),
        (2**70 + 1, 2**70 + 1),
        (1.9, 1),
        (np.int64(5), 5),
        (np.float32(5.5), 5),
    ],
)
def test_examples_of_sizes(size: Any, in_bytes: int) -> None:
    parsed = parse_size(size)
    assert parsed == in_bytes
    assert type(parsed) is int


@pytest.mark.parametrize(
    "size",
    [
        *(
            "",
            " ",
            "K",
            "MB",
            "big",
            "1X",
            "1MM",
            "1KM",
            "1I",
            "1i",
            "M1",
            "1 0K",
            "1,5M",
            "0x10",
            "-1M",
            "-1",
        ),
        *("inf", "nan", "infK", "1e999"),
        *(-1, -0.5, math.inf, math.nan, None, b"1M", [1], 1j),
    ],
)
def test_other_values_raise_a_value_error(size: Any) -> None:
    with pytest.raises(ValueError, match="500M") as caught:
        parse_size(size)
    assert repr(size) in str(caught.value)


@given(st.integers(0, 2**50))
def test_parse_size_reads_what_format_size_writes(nbytes: int) -> None:
    assert parse_size(format_size(nbytes)) == pytest.approx(nbytes, rel=0.05)


@pytest.mark.parametrize(
    ("nbytes", "text"), [(0, "0"), (1023, "1023"), (1536, "1.5K"), (2 * 2**30, "2G"), (5000 * 2**40, "5000T")]
)
def test_format_size_is_short(nbytes: int, text: str) -> None:
    assert format_size(nbytes) == text
