"""Arrays of pyarrow in files that are not trusted: flat ones load, and none reads memory that is not its own."""

from __future__ import annotations

import datetime
import io
import pickle
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import shoal
from _trust_opcodes import named, text
from shoal import UntrustedFile

pa = pytest.importorskip("pyarrow")

DAY = datetime.date(2020, 1, 1)
VALUES: dict[str, list[Any]] = {
    **{f"{kind}{bits}": [1, None, 3] for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{kind: [1.5, None] for kind in ("float", "double")},
    **{kind: ["a", None, "ß" * 20] for kind in ("string", "large_string", "string_view")},
    **{kind: [b"a", None, b"b" * 20] for kind in ("binary", "large_binary", "binary_view")},
    **{kind: [DAY, None] for kind in ("date32", "date64")},
    **{kind: [1, None] for kind in ("time32[s]", "time64[us]", "duration[ms]")},
    "bool": [True, None, False],
    "null": [None, None],
}


def array_of(kind: str) -> Any:
    try:
        return pa.array(VALUES[kind], pa.lib.type_for_alias(kind))
    except ValueError:
        pytest.skip(f"pyarrow {pa.__version__} does not know {kind}")


class Described:
    """Pickled as an array of pyarrow of these parts."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> Any:
        return pa.lib._restore_array, (self.parts,)


def load(value: Any) -> Any:
    return shoal.load(io.BytesIO(pickle.dumps(value, 5)), trusted="pandas")


@pytest.mark.parametrize("kind", VALUES)
def test_flat_arrays_load(kind: str) -> None:
    array = array_of(kind)
    for part in (array, array.slice(1), array.slice(1, 1), array.slice(0, 0)):
        file = io.BytesIO()
        shoal.dump(part, file)
        loaded = shoal.load(io.BytesIO(file.getvalue()), trusted="pandas")
        assert loaded.type == part.type
        assert loaded.equals(part)


@pytest.mark.parametrize("value", [[[1], None], [{"a": 1}, None]])
def test_others_are_not_in_a_preset(value: Any) -> None:
    array = pa.array(value)
    with pytest.raises(UntrustedFile, match=r"pyarrow\.lib\.(list_|struct)"):
        load(array)
    file = io.BytesIO(pickle.dumps(array, 5))
    assert shoal.load(file, trusted=["pyarrow.lib.*"]).equals(array)


BITS, OFFSETS, TEXT = (pa.py_buffer(data) for data in (b"\x07", struct.pack("<4i", 0, 1, 2, 3), b"abc"))


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ((4, 0, 0, [None, OFFSETS, TEXT], [], None), "large enough"),
        ((3, 0, 1, [None, OFFSETS, TEXT], [], None), "large enough"),
        ((9, 0, 0, [BITS, OFFSETS, TEXT], [], None), "too small"),
        ((2**62, 0, 0, [None, OFFSETS, TEXT], [], None), "too small"),
        ((1, 0, 2**62, [None, OFFSETS, TEXT], [], None), "too small"),
        ((-1, 0, 0, [None, OFFSETS, TEXT], [], None), "numbers that no array has"),
        ((3, 0, -1, [None, OFFSETS, TEXT], [], None), "numbers that no array has"),
        ((3, 4, 0, [None, OFFSETS, TEXT], [], None), "numbers that no array has"),
        ((3.0, 0, 0, [None, OFFSETS, TEXT], [], None), "no numbers"),
        ((3, 0, 0, [None, OFFSETS], [], None), "another number of buffers"),
        ((3, 0, 0, [None, OFFSETS, TEXT, TEXT], [], None), "another number of buffers"),
        ((3, 0, 0, [None, None, TEXT], [], None), "something else than buffers"),
        ((3, 0, 0, [None, OFFSETS, None], [], None), "something else than buffers"),
        ((3, 0, 0, [None, OFFSETS, b"abc"], [], None), "something else than buffers"),
        ((3, 0, 0, [b"\x07", OFFSETS, TEXT], [], None), "something else than buffers"),
        ((3, 0, 0, [], [], None), "another number of buffers"),
        ((3, 0, 0, [None, OFFSETS, TEXT], []), "not seven parts"),
        ((3, 0, 0, (None, OFFSETS, TEXT), [], None), "other parts"),
        ((3, 0, 0, [None, OFFSETS, TEXT], [(pa.string(), 0, 0, 0, [], [], None)], None), "other parts"),
        ((3, 0, 0, [None, OFFSETS, TEXT], [], (pa.string(), 0, 0, 0, [], [], None)), "other parts"),
        ((3, 0, 0, [None, OFFSETS, pa.py_buffer(b"ab")], [], None), "offset"),
        ((3, 0, 0, [None, pa.py_buffer(struct.pack("<4i", 0, 2, 1, 3)), TEXT], [], None), "offset"),
        ((3, 0, 0, [None, pa.py_buffer(struct.pack("<4i", -9, 1, 2, 3)), TEXT], [], None), "offset"),
        ((3, 0, 0, [None, OFFSETS, pa.py_buffer(b"\xff\xfe\xfd")], [], None), "UTF8"),
    ],
)
def test_descriptions_that_pyarrow_would_believe(parts: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(UntrustedFile, match=f"(?i)an array of pyarrow: .*{reason}"):
        load(Described(pa.string(), *parts))


def test_the_first_part_is_a_type() -> None:
    with pytest.raises(UntrustedFile, match="an array of pyarrow: no type"):
        load(Described("string", 3, 0, 0, [None, OFFSETS, TEXT], [], None))


def test_a_buffer_cannot_be_changed_after_the_check() -> None:
    """The file has the array rebuilt, and then sets an item of the bytearray that its offsets are in."""
    offsets = struct.pack("<2i", 0, 1)
    buffer = named("pyarrow.lib", "py_buffer")
    kind = named("pyarrow.lib", "type_for_alias") + text("string") + b"\x85R"
    parts = b"(" + kind + b"K\x01K\x00K\x00](N" + buffer + b"h\x00\x85R" + buffer + b"C\x01a\x85Re]Nt"
    array = named("pyarrow.lib", "_restore_array") + parts + b"\x85R"
    data = b"\x80\x05\x96" + struct.pack("<Q", len(offsets)) + offsets + b"q\x00" + array
    changed = data + b"h\x00K\x07K\x7fs0."
    for opcodes in (data + b".", changed):
        loaded = shoal.load(io.BytesIO(opcodes), trusted="pandas")
        assert loaded.to_pylist() == ["a"]


def test_a_view_of_a_buffer_that_is_too_small_is_refused() -> None:
    """pyarrow raises ArrowIndexError, which is no ValueError."""
    views = b"\x14\0\0\0bbbb" + bytes(8)
    with pytest.raises(UntrustedFile, match="references range"):
        load(Described(array_of("binary_view").type, 1, 0, 0, [None, pa.py_buffer(views), pa.py_buffer(b"")], [], None))


@given(st.data())
def test_what_loads_can_be_read(data: st.DataObject) -> None:
    """Numbers and bytes of a description are changed at random."""
    array = array_of(data.draw(st.sampled_from(sorted(VALUES))))
    kind, *numbers, buffers, children, dictionary = array.__reduce__()[1][0]
    near = st.integers(-2, 40) | st.sampled_from([2**31 - 1, 2**31, 2**62, 2**63 - 1])
    numbers = [data.draw(st.just(number) | near) for number in numbers]
    changed: list[Any] = []
    for buffer in buffers:
        old = b"" if buffer is None else buffer.to_pybytes()
        cut = st.integers(0, len(old)).map(lambda end, old=old: old[:end])
        new = data.draw(st.just(old) | st.binary(max_size=40) | cut)
        changed.append(None if buffer is None and new == old else pa.py_buffer(new))
    try:
        loaded = load(Described(kind, *numbers, changed, children, dictionary))
    except UntrustedFile:
        return
    assert len(loaded) == numbers[0]
    if len(loaded) < 100:  # of nulls, there may be any number
        loaded.to_string(window=100)
