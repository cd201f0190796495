"""hash() under xxh3_128: equal values have equal digests in every process, different values have different ones."""

from __future__ import annotations

import copy
import copyreg
import functools
import itertools
import json
import pickle
import sys
import threading
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import _hashing_zoo
import shoal
from shoal.hashing import _walk, _writers

FIXTURES = Path(__file__).parents[1] / "fixtures"
NUMPY = f"numpy {np.__version__.split('.')[0]}"

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text()
    | st.binary()
    | st.text(min_size=1, max_size=3).map(lambda text: text * 1000)
)
KEYS = st.integers() | st.text() | st.binary() | st.tuples(st.integers(), st.text()) | st.booleans() | st.floats()
VALUES = st.recursive(
    SCALARS,
    lambda values: (
        st.lists(values)
        | st.lists(values).map(tuple)
        | st.dictionaries(KEYS, values)
        | st.sets(KEYS)
        | st.frozensets(KEYS)
    ),
    max_leaves=30,
)


def exact(value: Any) -> Any:
    """Return a key that differs where hash() must: in type, bits and order, except the order of dicts and sets."""
    kind = type(value)
    if kind in (list, tuple):
        return kind, tuple(map(exact, value))
    if kind is dict:
        return kind, frozenset((exact(key), exact(item)) for key, item in value.items())
    if kind in (set, frozenset):
        return kind, frozenset(map(exact, value))
    return kind, pickle.dumps(value) if kind in (float, complex) else value


def copied(value: Any) -> Any:
    """Return a deep copy without shared parts, whose dicts and sets were filled in reverse order."""
    kind = type(value)
    if kind in (list, tuple):
        return kind(map(copied, value))
    if kind is dict:
        return {copied(key): copied(item) for key, item in reversed(value.items())}
    if kind in (set, frozenset):
        return kind(map(copied, reversed(list(value))))
    return pickle.loads(pickle.dumps(value))


@given(VALUES)
def test_equal_values_have_equal_digests(value: Any) -> None:
    assert shoal.hash(value) == shoal.hash(copied(value))


@given(VALUES, VALUES)
def test_values_that_differ_have_other_digests(one: Any, other: Any) -> None:
    assert (shoal.hash(one) == shoal.hash(other)) == (exact(one) == exact(other))


@given(VALUES)
def test_shared_parts_hash_like_equal_copies(value: Any) -> None:
    assert shoal.hash([value, (value, {"a": value})]) == shoal.hash([value, (copied(value), {"a": copied(value)})])


@given(st.lists(VALUES, min_size=2))
def test_order_counts_in_lists(values: list[Any]) -> None:
    assert (shoal.hash(values) == shoal.hash(values[::-1])) == (exact(values) == exact(values[::-1]))


def everything() -> dict[str, Any]:
    return {**_hashing_zoo.zoo(), **{f"apart {name}": value for name, value in _hashing_zoo.told_apart().items()}}


@given(st.lists(SCALARS).map(tuple))
def test_a_row_of_scalars_has_the_digest_of_a_walk(row: tuple[Any, ...]) -> None:
    short = all(len(value) <= _walk.LONG_TEXT for value in row if isinstance(value, (str, bytes)))
    walked = _walk.Walk(_writers.writer_of).hexdigest(row)
    assert _walk.digest_of_row(row) == (walked if short else None)
    assert shoal.hash(row) == walked


def test_other_tuples_are_walked() -> None:
    for row in ((1, [2]), (1, np.int64(2)), tuple(range(_walk.BLOCK + 1))):
        assert _walk.digest_of_row(row) is None
    row = tuple(range(_walk.BLOCK))
    assert _walk.digest_of_row(row) == _walk.Walk(_writers.writer_of).hexdigest(row)


def test_attributes_that_pickles_leave_out_count() -> None:
    values = _hashing_zoo.told_apart()
    assert len({shoal.hash(value) for value in values.values()}) == len(values)


def test_every_value_of_the_zoo_has_its_own_digest() -> None:
    digests: dict[str, str] = {}
    for name, value in _hashing_zoo.zoo().items():
        same = digests.setdefault(shoal.hash(value), name)
        assert same == name
    for one in (1, 1.0, True, np.int64(1), "1", b"1"):
        digests[shoal.hash(one)] = repr(one)
    assert len({shoal.hash(one) for one in (1, 1.0, True, np.int64(1), "1", b"1")}) == 6


def test_a_zoo_built_again_has_the_same_digests() -> None:
    one, other = everything(), everything()
    assert [name for name in one if shoal.hash(one[name]) != shoal.hash(other[name])] == []


def test_digests_are_those_of_the_fixture() -> None:
    """Users store digests: if one changes, every cache is lost. Never rewrite the fixture to make this test pass."""
    frozen = json.loads((FIXTURES / "hashes-xxh3_128.json").read_text())
    computed = {name: shoal.hash(value) for name, value in everything().items()}
    expected = {**frozen["any numpy"], **frozen[NUMPY]}
    assert computed == expected


def test_digests_do_not_depend_on_the_process(fresh_python: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import _hashing_zoo, shoal
        for name, value in [*_hashing_zoo.zoo().items(), *_hashing_zoo.told_apart().items()]:
            print(shoal.hash(value), name)
        """
    printed = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        printed.append(fresh_python(source))
    assert printed[0] == printed[1]
    assert printed[0].splitlines() == [
        f"{shoal.hash(value)} {name.removeprefix('apart ')}" for name, value in everything().items()
    ]


def test_reducers_that_libraries_register_for_exceptions_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ValueError("x", 1)
    digest = shoal.hash(error)
    monkeypatch.setitem(copyreg.dispatch_table, ValueError, lambda error: (ValueError, (), {"traceback": id(error)}))  # type: ignore[arg-type]
    assert shoal.hash(error) == digest


def test_a_subnormal_difference_counts() -> None:
    assert len({shoal.hash(x) for x in (0.0, -0.0, 5e-324)}) == 3
    assert shoal.hash(float("nan")) == shoal.hash(float("nan"))
    assert shoal.hash([float("nan")]) == shoal.hash([float("nan")])


def test_dict_keys_that_differ_only_in_identity() -> None:
    one, other = float("nan"), float("nan")
    assert shoal.hash({one: 1, other: 2}) == shoal.hash({other: 2, one: 1}) == shoal.hash({one: 2, other: 1})
    assert shoal.hash({one: 1, other: 2}) != shoal.hash({one: 1, other: 1})


# -- what refers to itself ------------------------------------------------------------------------------------------


class Thing:
    pass


def circle(length: int) -> Thing:
    first = last = Thing()
    for _ in range(length - 1):
        last.next = Thing()  # type: ignore[attr-defined]
        last = last.next  # type: ignore[attr-defined]
    last.next = first  # type: ignore[attr-defined]
    return first


def test_objects_that_contain_themselves_have_a_digest() -> None:
    def knot() -> list[Any]:
        value: list[Any] = [1]
        value += [value, {"a": value}, (value,)]
        return value

    assert shoal.hash(knot()) == shoal.hash(knot()) == shoal.hash(copy.deepcopy(knot()))
    assert shoal.hash(circle(3)) == shoal.hash(circle(3))
    assert shoal.hash(circle(3)) != shoal.hash(circle(4))
    pair = circle(2)
    assert shoal.hash([pair, pair.next]) == shoal.hash([circle(2), circle(2)])  # type: ignore[attr-defined]


def crowd(size: int) -> list[Thing]:
    everyone = [Thing() for _ in range(size)]
    for number, one in enumerate(everyone):
        one.number, one.known = number, list(everyone)  # type: ignore[attr-defined]
    return everyone


def test_a_graph_whose_objects_all_refer_to_each_other() -> None:
    assert shoal.hash(crowd(30)) == shoal.hash(crowd(30))
    other = crowd(30)
    other[20].number = 21  # type: ignore[attr-defined]
    assert shoal.hash(crowd(30)) != shoal.hash(other)
    for one in other:
        one.known = set(other)  # type: ignore[attr-defined]
    with pytest.raises(shoal.HashingError, match="element of a set"):
        shoal.hash(other)


def test_nested_sharing_is_hashed_in_linear_time() -> None:
    value: Any = [[1], [2]]
    for _ in range(100):
        value = [value, value]
    assert len(shoal.hash(value)) == 32


@pytest.mark.parametrize("hash_name", ["xxh3_128", "md5"])
def test_nesting_that_is_too_deep_raises_a_recursion_error(hash_name: str) -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(RecursionError):
        shoal.hash(value, hash_name)
    while value:  # a list of lists this deep is taken apart by hand
        value = value[0]


def test_emptying_the_memo_changes_no_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    value = [{"a": [i, {}]} for i in range(50)] * 2
    whole = shoal.hash(value)
    monkeypatch.setattr(_walk, "MEMO", 3)
    assert shoal.hash(value) == whole


# -- arrays -----------------------------------------------------------------------------------------------------------


@given(st.data())
def test_value_dtype_shape_and_order_of_arrays_count(data: Any) -> None:
    dtypes = ["i1", "i8", ">i4", "f8", "c16", "M8[s]", "U3", "?", "O", "g"]
    shape = data.draw(st.lists(st.integers(0, 4), max_size=3))
    array = np.arange(int(np.prod(shape))).reshape(shape).astype(data.draw(st.sampled_from(dtypes)))
    digest = shoal.hash(array)
    assert digest == shoal.hash(array.copy())
    assert digest == shoal.hash(np.broadcast_to(array, array.shape).copy())
    for other in (array[None], array.astype("c8"), array.view(_hashing_kind)):
        assert digest != shoal.hash(other)
    fortran = array.copy(order="F")
    assert (digest == shoal.hash(fortran)) == fortran.flags.c_contiguous
    if array.size > 1:
        assert digest != shoal.hash(array[::-1].copy()) or len(array) == 1 or array.dtype == bool
    assert len({digest, shoal.hash(array.tolist())}) == 2


class _hashing_kind(np.ndarray):
    pass


def test_an_array_hashed_in_pieces_has_the_same_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    from shoal.hashing import _bytes

    array = np.arange(3 * 5 * 7 * 11).reshape(3, 5, 7, 11)
    for axes in itertools.permutations(range(4)):
        view = array.transpose(axes)[:, ::2, ::-1]
        expected = np.ascontiguousarray(view).tobytes()
        for size in (1, 100, 1000, 10**6):
            monkeypatch.setattr(_bytes, "PIECE_BYTES", size)
            assert b"".join(piece.tobytes() for piece in _bytes.pieces_of(view)) == expected


def test_memmaps_hash_like_arrays_with_coerce_mmap(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "x", dtype="f8", mode="w+", shape=(4, 5))
    mapped[:] = 1
    array = np.ones((4, 5))
    assert shoal.hash(mapped) != shoal.hash(array)
    assert shoal.hash([mapped], coerce_mmap=True) == shoal.hash([array], coerce_mmap=True) == shoal.hash([array])
    other = np.memmap(tmp_path / "y", dtype="f8", mode="w+", shape=(4, 5))
    other[:] = 1
    assert shoal.hash(mapped) == shoal.hash(other)
    del mapped, other


def test_masks_and_fill_values_count_and_hashing_does_not_set_them() -> None:
    masked = np.ma.array([1, 2, 3], mask=[False, True, False])
    digest = shoal.hash(masked)
    assert masked._fill_value is None
    masked.fill_value  # noqa: B018
    assert shoal.hash(masked) == digest
    assert shoal.hash(np.ma.array([1, 2, 3], mask=[False, False, True])) != digest
    assert shoal.hash(np.ma.array([1, 2, 3], mask=[False, True, False], fill_value=7)) != digest


def test_bytes_between_fields_do_not_count() -> None:
    dtype = np.dtype([("a", "i1"), ("b", "f8"), ("c", [("d", "i1"), ("e", "i4")])], align=True)
    zeros, ones = np.zeros(3, dtype), np.frombuffer(bytearray(b"\xff" * 3 * dtype.itemsize), dtype)
    for name in ("a", "b"):
        ones[name] = 0
    for name in ("d", "e"):
        ones["c"][name] = 0
    assert zeros.tobytes() != ones.tobytes()
    assert shoal.hash(zeros) == shoal.hash(ones)


def test_attributes_of_array_subclasses_count() -> None:
    one, other = np.ones(3).view(_hashing_kind), np.ones(3).view(_hashing_kind)
    one.unit, other.unit = "m", "km"  # type: ignore[attr-defined]
    assert shoal.hash(one) != shoal.hash(other)


def test_attributes_that_the_pickle_contains_are_written_once() -> None:
    """An object's own pickling code decides what counts: a cache that it leaves out does not."""

    class Base:
        def __init__(self) -> None:
            self.cache: list[int] = []

        def __reduce__(self) -> Any:
            return type(self), ()

    class Derived(Base):
        __slots__ = ("more",)

    one, other = Derived(), Derived()
    other.cache.append(1)
    other.more = threading.Lock()
    assert shoal.hash(one) == shoal.hash(other)
    error = ValueError("x")
    digest = shoal.hash(error)
    vars(error)  # which makes a __dict__
    assert shoal.hash(ValueError("x")) == digest


def test_memory_stays_bounded() -> None:
    import tracemalloc

    values = [bytearray(8_000_000), b"x" * 8_000_000, "é" * 4_000_000]
    values += [np.ones((1000, 1000)), np.ones((2000, 1000))[::2]]
    shoal.hash(values)
    tracemalloc.start()
    try:
        shoal.hash(values)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_buffers() -> None:
    assert shoal.hash(memoryview(b"abc")) == shoal.hash(memoryview(bytearray(b"abc"))) != shoal.hash(b"abc")
    assert shoal.hash(memoryview(b"abcd")[::2]) == shoal.hash(memoryview(b"ac"))


def test_no_warning_is_caused_by_looking_for_a_class() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy warns of this array itself
        array = np.char.array(["a", "b"])
    assert shoal.hash(array) == shoal.hash(array.copy()) != shoal.hash(np.array(["a", "b"]))


def test_a_module_may_warn_when_it_is_asked_for_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy 2.5 does so for its class chararray."""
    module = types.ModuleType("deprecating")
    monkeypatch.setitem(sys.modules, "deprecating", module)
    classes = [type("Old", (), {"__module__": "deprecating", "x": x}) for x in range(2)]
    found = []

    def asked(name: str) -> type:
        warnings.warn(f"{name} is deprecated", DeprecationWarning, stacklevel=2)
        return found[-1]

    module.__dict__["__getattr__"] = asked
    digests = set()
    for cls in classes:
        found.append(cls)
        digests.add(shoal.hash(cls))
    assert len(digests) == 1  # found, so the content does not count
    assert shoal.hash(classes[0]) not in digests


# -- functions and classes ------------------------------------------------------------------------------------------


def made(source: str, **names: Any) -> Any:
    space: dict[str, Any] = {"__name__": "__main__", **names}
    exec(source, space)
    return space["it"]


def test_functions_that_no_import_finds_are_hashed_by_their_code() -> None:
    def adder(n: int) -> Any:
        return lambda x: x + n

    assert shoal.hash(adder(1)) == shoal.hash(adder(1)) != shoal.hash(adder(2))
    source = "def it(x, y=1):\n    return [x + i for i in range(y)]"
    it = shoal.hash(made(source))
    assert it == shoal.hash(made("\n\n" + source))
    assert it != shoal.hash(made(source.replace("y=1", "y=2")))
    assert it != shoal.hash(made(source.replace("x + i", "x - i")))
    assert it != shoal.hash(made(source.replace("it(", "other(") + "\nit = other"))
    recursive = made("def f():\n    def g():\n        return g\n    return g\nit = f()")
    assert len(shoal.hash(recursive)) == 32
    cached = made("import functools\n@functools.lru_cache\ndef it(): pass")
    assert shoal.hash(cached) == shoal.hash(made("import functools\n@functools.lru_cache\ndef it(): pass"))
    assert shoal.hash(functools.partial(adder(1), 1)) != shoal.hash(functools.partial(adder(2), 1))


def test_classes_that_no_import_finds_are_hashed_by_their_attributes() -> None:
    source = """
import abc, dataclasses, enum, functools, threading
class Base(abc.ABC):
    lock = threading.Lock()
    @property
    def p(self): return 1
    @functools.cached_property
    def q(self): return super().__init__()
    @staticmethod
    def s(): pass
@dataclasses.dataclass
class Data(Base):
    x: "int" = 3
class Kind(enum.Enum):
    A = 1
it = [Data, Data(), Kind, Kind.A]
"""
    digest = shoal.hash(made(source))
    assert digest == shoal.hash(made(source))
    it = made(source)
    pickle_would_add = it[1].__reduce_ex__(2)
    assert pickle_would_add
    assert digest == shoal.hash(it)
    assert digest != shoal.hash(made(source.replace("return 1", "return 2")))
    assert digest != shoal.hash(made(source.replace("= 3", "= 4")))


def test_functions_of_main_have_the_same_digest_in_workers(fresh_python: Any) -> None:
    printed = fresh_python(
        """
        import shoal
        class C:
            def m(self): return 1
        def f(x, n=[1]): return x
        def hashed(thing): return shoal.hash(thing)
        if __name__ == "__main__":
            things = [f, C, C(), C().m, lambda: 2]
            there = shoal.Parallel(n_jobs=2)(shoal.delayed(hashed)(thing) for thing in things)
            print(there == [shoal.hash(thing) for thing in things])
        """
    )
    assert printed == "True\n"


def test_modules_are_hashed_by_their_name() -> None:
    assert shoal.hash(sys) == shoal.hash(sys) != shoal.hash(pickle)


# -- what stands for others, and what cannot be hashed --------------------------------------------------------------


class Noisy:
    def __init__(self, value: Any) -> None:
        self.value, self.noise = value, object()


class Noisier(Noisy):
    pass


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_writers, "_REGISTERED", {})
    _writers._found.clear()
    yield
    _writers._found.clear()


@pytest.mark.usefixtures("registry")
def test_register_hasher() -> None:
    assert shoal.hash(Noisy(1)) == shoal.hash(Noisy(1))
    shoal.register_hasher(Noisy, lambda noisy: noisy.value)
    assert shoal.hash(Noisy([1])) == shoal.hash(Noisy([1])) != shoal.hash(Noisy([2]))
    assert shoal.hash(Noisy([1])) != shoal.hash(Noisier([1])) == shoal.hash(Noisier([1]))
    shoal.register_hasher(Noisier, lambda noisy: 0)
    assert shoal.hash(Noisier(1)) == shoal.hash(Noisier(2))

    def parts(noisy: Noisy) -> Iterator[Any]:
        yield from noisy.value

    shoal.register_hasher(Noisy, parts)
    assert shoal.hash(Noisy([[1], [2]])) == shoal.hash(Noisy(([1], [2]))) != shoal.hash(Noisy([[2], [1]]))
    shoal.register_hasher(types.GeneratorType, lambda _: None)
    assert shoal.hash(i for i in ()) == shoal.hash(i for i in (1,))


def test_register_hasher_rejects_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="must be a class, not 'Noisy'"):
        shoal.register_hasher("Noisy", len)  # type: ignore[arg-type, type-var]
    with pytest.raises(TypeError, match="cannot change how list is hashed"):
        shoal.register_hasher(list, len)
    with pytest.raises(TypeError, match="must be a function, not 1"):
        shoal.register_hasher(Noisy, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("hash_name", ["xxh3_128", "md5", "sha1"])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: {"a": {"b": x}}, lambda x: {x}])
def test_an_object_that_cannot_be_hashed_raises_an_error_that_names_it(hash_name: str, wrap: Any) -> None:
    with pytest.raises(shoal.HashingError, match=r"lock.* cannot be hashed: .*register_hasher") as refused:
        shoal.hash(wrap(threading.Lock()), hash_name)
    assert isinstance(refused.value, (pickle.PicklingError, TypeError))
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)


def test_an_object_without_repr_and_pickle_is_named_by_its_type() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

        def __reduce_ex__(self, _: Any) -> Any:
            return 3

    with pytest.raises(shoal.HashingError, match=r"Broken instance .* cannot be hashed: its __reduce_ex__"):
        shoal.hash(Broken())


def test_an_unknown_hash_name_raises_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"Valid options for 'hash_name' are .*Got hash_name='foo'"):
        shoal.hash(1, "foo")


def test_hashing_imports_numpy_only_for_arrays(fresh_python: Any) -> None:
    printed = fresh_python(
        """
        import sys, shoal
        shoal.hash({"a": [1, {2}, print]}), shoal.hash({"a": {1}}, "md5")
        print({"numpy", "joblib", "pandas"} & set(sys.modules))
        """
    )
    assert printed == "set()\n"
