"""Windows' groups of CPUs."""

from __future__ import annotations

import os
import sys

import pytest

from shoal._platform import cpus
from shoal._platform.cpus import count_records, cpus_of_masks


def record(size: int) -> bytes:
    return (0).to_bytes(4, "little") + size.to_bytes(4, "little") + bytes(size - 8)


@pytest.mark.parametrize(
    ("records", "count"),
    [
        (b"", 0),
        (record(48), 1),
        (record(48) * 64, 64),
        (record(48) * 64 + record(64) * 32, 96),  # a core of several groups has a longer record
        (record(48) + bytes(8), 1),
        (bytes(100), 0),
    ],
)
def test_cores_are_counted_by_their_records(records: bytes, count: int) -> None:
    assert count_records(records) == count


@pytest.mark.parametrize(
    ("mine", "all_of_group", "expected"),
    [
        (0b1011, 0b1111, [0, 1, 3]),
        (0b1111, 0b1111, None),
        (2**64 - 1, 2**64 - 1, None),  # 64 of perhaps 128 CPUs: the rest is in another group
        (0, 0, None),  # the process has threads in several groups
        (2**63, 2**64 - 1, [63]),
    ],
)
def test_only_a_chosen_part_of_a_group_limits_a_process(
    mine: int, all_of_group: int, expected: list[int] | None
) -> None:
    assert cpus_of_masks(mine, all_of_group) == expected


@pytest.mark.skipif(sys.platform != "win32", reason="needs Windows' own functions")
def test_windows_tells_its_cores() -> None:
    assert 1 <= cpus.physical_cores() <= (os.cpu_count() or 1)
    mask = cpus.usable_cpus()
    assert mask is None or 1 <= len(mask) <= (os.cpu_count() or 1)
