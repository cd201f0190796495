"""The rule for which entries a limit removes, `excess` of store.py: its properties."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shoal.memory.store import Entry, Key, Limits, excess

ENTRIES = st.lists(st.tuples(st.integers(0, 100), st.floats(0, 100)), max_size=20).map(
    lambda pairs: sorted(
        (Entry(Key("f", str(n)), nbytes, used) for n, (nbytes, used) in enumerate(pairs)), key=lambda entry: entry.used
    )
)
LIMIT = st.none() | st.integers(0, 500)


@given(ENTRIES, LIMIT, LIMIT, st.none() | st.floats(0, 100))
def test_the_remaining_entries_are_within_limits(
    entries: list[Entry], nbytes: int | None, items: int | None, age: float | None
) -> None:
    def keeps(left: list[Entry]) -> bool:
        return (
            (nbytes is None or sum(entry.nbytes for entry in left) <= nbytes)
            and (items is None or len(left) <= items)
            and (age is None or all(entry.used >= 100.0 - age for entry in left))
        )

    size = sum(entry.nbytes for entry in entries)
    gone = list(excess(iter(entries), size, len(entries), Limits(nbytes, items, age), 100.0))
    assert gone == entries[: len(gone)], "least recently used first"
    assert keeps(entries[len(gone) :])
    assert not gone or not keeps(entries[len(gone) - 1 :]), "no more than needed"
