"""What files name: nothing beyond what joblib's files name for the same object, so that strict unpicklers take them."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import joblib
import joblib.numpy_pickle
import numpy as np
import pytest

from shoal import dump, inspect, load

ARRAYS: dict[str, Any] = {
    "small": np.arange(3.0),
    "many": [np.arange(3.0) + n for n in range(40)],
    "large": np.zeros(20_000),
    "the same": [np.ones(9)] * 3,
    "fortran": np.asfortranarray(np.ones((200, 200))),
    "other bytes": np.arange(5, dtype=">i4"),
    "times": np.array(["2020-01-01"], "M8[D]"),
    "spans": np.arange(9, dtype="m8[s]"),
    "records": np.zeros(3, [("a", "i4"), ("b", "f8")]),
    "gaps": np.zeros(3, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "void": np.zeros(3, "V4"),
    "text": np.array(["a", "bc"]),
    "none": [np.zeros(0), np.zeros((2, 0)), np.zeros((), "M8[s]")],
    "strided": np.arange(20.0)[::2],
    "long": np.ones(3, np.longdouble),
    "objects": np.array([1, "a", None], object),
    "scalars": [np.float64(1), np.int32(3), np.str_("a"), np.datetime64("2020-01-01")],
}


def names(write: Any, value: Any, **options: Any) -> set[str]:
    file = io.BytesIO()
    write(value, file, **options)
    file.seek(0)
    return set(inspect(file).imports)


@pytest.mark.parametrize("compress", [0, "zlib"])
@pytest.mark.parametrize("kind", ARRAYS)
def test_files_name_no_more_than_those_of_joblib(kind: str, compress: Any) -> None:
    ours = names(dump, ARRAYS[kind], compress=compress)
    assert ours <= names(joblib.dump, ARRAYS[kind], compress=compress)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", [kind for kind in ARRAYS if kind != "objects"])
def test_early_protocols_name_nothing_outside_of_numpy(kind: str, protocol: int) -> None:
    for compress in (0, "zlib"):
        more = names(dump, ARRAYS[kind], protocol=protocol, compress=compress) - names(
            joblib.dump, ARRAYS[kind], protocol=protocol, compress=compress
        )
        assert all(name.startswith("numpy.") for name in more)


STRICT = """
class Strict(NumpyUnpickler):
    def find_class(self, module, name):
        if module.partition(".")[0] not in ("numpy", "joblib"):
            raise AssertionError(f"{module}.{name}")
        return super().find_class(module, name)
"""


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("kind", ARRAYS)
def test_an_unpickler_that_admits_only_numpy_and_joblib(kind: str, protocol: int) -> None:
    found: dict[str, Any] = vars(joblib.numpy_pickle).copy()
    exec(STRICT, found)
    file = io.BytesIO()
    dump(ARRAYS[kind], file, protocol=protocol)
    file.seek(0)
    np.testing.assert_equal(found["Strict"]("", file, ensure_native_byte_order=True).load(), ARRAYS[kind])


def test_a_restricted_unpickler_under_the_name_joblib() -> None:
    program = f"""import io, shoal, numpy
shoal.install_as_joblib()
from joblib.numpy_pickle import NumpyUnpickler
{STRICT}
file = io.BytesIO()
shoal.dump([numpy.arange(9), [numpy.ones(20000), numpy.ones(3, "m8[s]")]], file)
file.seek(0)
small, (large, spans) = Strict("", file, ensure_native_byte_order=True).load()
print(Strict.__mro__[1].__init__.__globals__["__file__"], small.sum(), large.sum(), spans.sum().astype(int))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    file, *sums = done.stdout.split()
    assert ("shoal" in file, sums) == (True, ["36", "20000.0", "3"])


@pytest.mark.parametrize("compress", [0, "zlib"])
def test_arrays_of_all_kinds_come_back_as_they_were(compress: Any) -> None:
    file = io.BytesIO()
    dump(ARRAYS, file, compress=compress)
    file.seek(0)
    loaded = load(file, trusted=[])
    np.testing.assert_equal(loaded, ARRAYS)
    for kind in ("times", "spans", "records", "gaps", "void"):
        assert loaded[kind].dtype == ARRAYS[kind].dtype
        assert loaded[kind].flags.writeable


def test_a_lost_array_is_an_error_without_assertions() -> None:
    """`python -O` removes assertions, so the two guards against a lost array must not be any."""
    program = """if True:
        import io, pickle, re, numpy, shoal
        from shoal.persistence._dump import write
        from shoal.persistence.writing import _splice
        _splice._CALL = re.compile(rb"(never)")
        assert False, "assertions are removed"
        for value in ([numpy.ones(9)], [numpy.ones(9), "x" * 99]):
            try:
                write(value, io.BytesIO(), None)
            except pickle.PicklingError as error:
                print(error)
            try:
                shoal.dump(value, io.BytesIO())
            except shoal.DumpPicklingError as error:
                print(error)
    """
    done = subprocess.run([sys.executable, "-O", "-c", program], capture_output=True, text=True, check=True)
    missing, culprit, not_called, culprit_again = done.stdout.splitlines()
    assert missing.startswith("1 arrays are missing in the output of pickle")
    assert not_called.startswith("the token of an array is not called in the output of pickle")
    assert "1 arrays are missing" in culprit
    assert "1 arrays are missing" in culprit_again
