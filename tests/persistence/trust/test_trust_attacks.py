"""What patterns do not cover, what code that is trusted cannot change, and what small files cannot take."""

from __future__ import annotations

import collections
import enum
import gzip
import io
import pickle
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, ClassVar

import joblib
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

import shoal
from _capabilities import needs_limits
from _selection import examples
from _trust_opcodes import PROTO4, dtype, framed, named, refused, text
from shoal.errors import CorruptFile, DamagedFile, FileLimitError, UntrustedFile
from shoal.persistence._format import MAGIC, TAIL
from shoal.persistence.trust._opcodes import memo_uses

RECONSTRUCT = named("numpy._core.multiarray", "_reconstruct") + named("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"


# ---- Patterns.


class Point:
    """A class that anybody would trust."""


class Emptied:
    """A class whose state is emptied while it is taken: real ones take items from it."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        state["taken"].clear()


class Called:
    made: ClassVar[list[Any]] = []

    def __new__(cls, *args: Any) -> Called:
        cls.made.append(args)
        return super().__new__(cls)

    def __call__(self, value: Any) -> Any:
        self.made.append(value)
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        self.made.append((key, value))

    def append(self, value: Any) -> None:
        self.made.append(value)


class Kind(enum.Enum):
    A, B = 1, 2


class Pair(collections.namedtuple("Pair", "a b")):
    __slots__ = ()


class Mapping(dict[str, int]):
    pass


class Items(list[int]):
    pass


def function(*args: Any) -> Any:
    Called.made.append(args)


HERE = f"{__name__}.*"


@pytest.mark.parametrize(
    "opcodes",
    [
        named(__name__, "function"),
        named(__name__, "function") + b"K\x01\x85R",
        named(__name__, "Called") + b"K\x01\x85R",
        named(__name__, "Called") + b")R",  # __init__ runs without arguments, too
        named(__name__, "Called") + b"K\x01\x85\x81",
        named(__name__, "Called") + b"K\x01\x85}\x92",
        named("copyreg", "__newobj__") + named(__name__, "Called") + b"K\x01\x86R",
        named(__name__, "Called") + b")\x81K\x01\x85R",
        named(__name__, "Called") + b")\x81K\x01K\x02s",
        named(__name__, "Called") + b")\x81K\x01a",
        named(__name__, "Called") + b")\x81(K\x01K\x02e",
        named(__name__, "Called.append"),
        b"(K\x01i" + f"{__name__}\nCalled\n".encode(),
        b"(" + named(__name__, "Called") + b"K\x01o",
    ],
)
def test_a_pattern_covers_no_calls(opcodes: bytes) -> None:
    Called.made.clear()
    with pytest.raises(UntrustedFile) as caught:
        shoal.load(io.BytesIO(PROTO4 + opcodes + b"."), trusted=[HERE])
    assert len(caught.value.imports) == 1
    assert not Called.made
    name = caught.value.imports[0]
    try:
        shoal.load(io.BytesIO(PROTO4 + opcodes + b"."), trusted=[name])  # it is named
    except (TypeError, AttributeError):
        pass


def test_a_time_zone() -> None:
    import zoneinfo

    try:
        zone = zoneinfo.ZoneInfo("Europe/Berlin")
    except zoneinfo.ZoneInfoNotFoundError:
        pytest.skip("no database of time zones")
    data = pickle.dumps(zone)
    assert shoal.load(io.BytesIO(data), trusted=["zoneinfo.*"]) == zone
    refused(data, "zoneinfo.ZoneInfo", "zoneinfo.ZoneInfo._unpickle")


def test_a_pattern_covers_classes_and_their_state() -> None:
    point = Point()
    vars(point)["x"] = [1, Kind.B, Pair(1, 2), Mapping(a=1), Items([3])]
    for protocol in (0, 2, 4, 5):
        loaded = shoal.load(io.BytesIO(pickle.dumps([point, Point, Kind], protocol)), trusted=[HERE])
        assert vars(loaded[0]) == vars(point)
        assert type(vars(loaded[0])["x"][2]) is Pair
        assert loaded[1:] == [Point, Kind]


@pytest.mark.parametrize("part", ["tests", "_testing", "testing", "conftest", "__main__"])
def test_a_pattern_covers_no_tests(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "tested_pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / f"{part}.py").write_text("raise SystemExit('imported')\nclass C: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        refused(PROTO4 + named(f"tested_pkg.{part}", "C") + b")\x81.", f"tested_pkg.{part}.C", trusted=["tested_pkg.*"])
    finally:
        sys.modules.pop("tested_pkg", None)


def test_a_class_of_tests_that_is_known_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Point, "__module__", f"{__name__}.tests.inner")
    refused(PROTO4 + named(__name__, "Point") + b")\x81.", f"{__name__}.Point", trusted=[HERE])


ATTACKS: dict[str, tuple[str, str, bytes, list[str]]] = {
    "code in a test's helper": (
        "sklearn.utils._testing",
        "assert_run_python_script_without_output",
        text("x") + b"\x85R",
        ["sklearn.*"],
    ),
    "a folder removed": ("sklearn.datasets", "clear_data_home", text("/nonexistent") + b"\x85R", ["sklearn.*"]),
    "another pickle": ("pandas", "read_pickle", text("/nonexistent") + b"\x85R", ["pandas.*"]),
    "a store of pandas": ("pandas", "HDFStore", text("/nonexistent") + b"\x85R", ["pandas.*"]),
    "a sheet": ("pandas", "ExcelFile", text("/nonexistent") + b"\x85R", ["pandas.*"]),
    "a file written": ("pyarrow.lib", "OSFile", text("/nonexistent/x") + text("w") + b"\x86R", ["pyarrow.*"]),
    "a file written by __cinit__": (
        "pyarrow.lib",
        "OSFile",
        text("/nonexistent/x") + text("w") + b"\x86\x81",
        ["pyarrow.*"],
    ),
    "a file mapped by an index": (
        "pandas.core.indexes.base",
        "_new_Index",
        named("numpy", "memmap") + b"}" + text("filename") + text("/nonexistent") + b"s\x86R",
        ["pandas.*"],
    ),
    "a file mapped by a generator": (
        "numpy.random._pickle",
        "__randomstate_ctor",
        text("/nonexistent") + named("numpy", "memmap") + b"\x86R",
        ["numpy.*"],
    ),
    "a class called by a generator": (
        "numpy.random._pickle",
        "__bit_generator_ctor",
        named("builtins", "dict") + b"\x85R",
        ["numpy.*"],
    ),
    "a string run": ("numpy.testing", "runstring", text("1/0") + b"}\x86R", ["numpy.*"]),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_callables_that_recommended_patterns_cover(attack: str) -> None:
    module, name, opcodes, trusted = ATTACKS[attack]
    pytest.importorskip(module.partition(".")[0])
    refused(PROTO4 + named(module, name) + opcodes + b".", f"{module}.{name}", trusted=trusted)


def test_estimators_load_by_patterns() -> None:
    """One of each way in which scikit-learn's estimators are rebuilt."""
    pytest.importorskip("sklearn")
    from sklearn import ensemble, feature_selection, linear_model, mixture, neighbors, preprocessing

    x = np.abs(np.random.RandomState(0).rand(40, 4))
    y = (x[:, 0] > 0.5).astype(int)
    for estimator in (
        ensemble.RandomForestClassifier(2),
        ensemble.HistGradientBoostingClassifier(max_iter=2),
        ensemble.GradientBoostingClassifier(n_estimators=2, random_state=np.random.RandomState(1)),
        linear_model.SGDClassifier(),
        linear_model.TweedieRegressor(),
        neighbors.KNeighborsClassifier(algorithm="kd_tree"),
        neighbors.KNeighborsClassifier(algorithm="ball_tree"),
        feature_selection.SelectKBest(k=2),
        mixture.GaussianMixture(2),
        preprocessing.SplineTransformer(),
    ):
        estimator.fit(x, y)
        for library in (shoal, joblib):
            file = io.BytesIO()
            library.dump(estimator, file)
            patterns = ["sklearn.*", "numpy.random.*", "scipy.*", "_loss.*"]
            loaded = shoal.load(io.BytesIO(file.getvalue()), trusted=patterns)
            assert type(loaded) is type(estimator)
            assert vars(loaded).keys() == vars(estimator).keys()


# ---- What code that is trusted may change.


def wrapped(shape: int) -> bytes:
    """The state of joblib's wrapper of an array, as opcodes."""
    state = b"}q\x06(" + text("subclass") + named("numpy", "ndarray") + text("shape") + b"K%c\x85" % shape
    state += text("order") + text("C") + text("dtype") + dtype("u1") + text("allow_mmap") + b"\x89u"
    return state


WRAPPER = b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81"


@pytest.mark.parametrize("shape", [b"K\x00\x85", b"K\x01\x85", b"K\x7f\x85"])
def test_a_wrapper_whose_state_is_an_instances_dict(shape: bytes, tmp_path: Path) -> None:
    """The dry run would skip an array whose bytes would be opcodes in the second pass."""
    made = tmp_path / "made"
    hidden = named("numpy", "memmap") + text(made) + text("w+") + b"\x86R"
    hidden += b"N" * (255 - len(hidden)) if len(hidden) < 255 else b""
    data = PROTO4 + named("numpy", "memmap") + b"0"  # so that the second pass may import it
    data += named(__name__, "Point") + b")\x81q\x01" + wrapped(255) + b"0"
    data += b"h\x01N}" + text("__dict__") + b"h\x06s\x86b0"  # its __dict__ is that state now
    data += b"h\x01}" + text("shape") + shape + b"sb0"  # which is changed, but not in a dry run
    data += WRAPPER + b"h\x06b" + hidden + b"."
    with pytest.raises(DamagedFile, match="which trusted code has changed"):
        shoal.load(io.BytesIO(data), trusted=[f"{__name__}.Point"])
    assert not made.exists()


def test_a_wrapper_that_never_takes_its_array(tmp_path: Path) -> None:
    """A wrapper whose class's method is hidden by an attribute: its bytes, and the padding before them, come next."""
    made = tmp_path / "made"
    hidden = named("numpy", "memmap") + text(made) + text("w+") + b"\x86R"
    setter = named(f"{__name__}", "Hider") + b")\x81}" + text("wrapper") + b"h\x05sb0"
    data = (
        PROTO4
        + named("numpy", "memmap")
        + b"0"
        + WRAPPER
        + b"q\x050"
        + setter
        + b"h\x05"
        + wrapped(len(hidden))
        + b"b"
        + hidden
        + b"."
    )
    with pytest.raises(CorruptFile):
        shoal.load(io.BytesIO(data), trusted=[f"{__name__}.Hider"])
    assert not made.exists()


class Hider:
    def __setstate__(self, state: dict[str, Any]) -> None:
        state["wrapper"].__setstate__ = lambda state: None


FIELDS = b"}" + text("a") + dtype("i4") + b"K\x00\x86sq\x08"
OF_FIELDS = (
    named("numpy", "dtype")
    + text("V4")
    + b"\x89\x88\x87R(K\x03"
    + text("|")
    + b"N"
    + text("a")
    + b"\x85h\x08K\x04K\x01K\x10tb"
)
OBJECTS = b"](K\x01K\x02K\x03eq\x08"
OF_OBJECTS = RECONSTRUCT + b"(K\x01K\x03\x85" + dtype("O8") + b"\x89h\x08tb"


@pytest.mark.parametrize(("inner", "holder"), [(FIELDS, OF_FIELDS), (OBJECTS, OF_OBJECTS)])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("way", ["state", "in a list", "in a list, later", "overwritten", "by place", "by DUP"])
def test_objects_that_numpy_gets_are_used_nowhere_else(inner: bytes, holder: bytes, before: bool, way: str) -> None:
    emptied = named(__name__, "Emptied") + b")\x81"
    aside = b""
    if way == "in a list, later":  # it is put into what the instance has already
        aside = named(__name__, "Point") + b")\x81q\x09}" + text("l") + b"]q\x0asb0h\x0ah\x08a0"
        emptied = named(__name__, "Emptied") + b")\x81}" + text("taken") + b"h\x08sb0"
    elif way == "in a list":
        aside = named(__name__, "Point") + b")\x81}" + text("l") + b"]h\x08asb0"
        emptied = b""
    elif way == "overwritten":
        aside = named(__name__, "Point") + b")\x81}q\x09" + text("l") + b"h\x08sb0h\x09" + text("l") + b"Ns0"
        emptied = b""
    elif way == "by place":  # another object takes its place in the memo
        aside = named(__name__, "Point") + b")\x81}" + text("l") + b"h\x08sb0"
        holder, emptied = holder + b"Nq\x080", b""
    elif way == "by DUP":
        inner = inner.replace(b"q\x08", b"2q\x08") + b"0"
        emptied += b"}" + text("taken") + b"h\x08sb0"
    else:
        emptied += b"}" + text("taken") + b"h\x08sb0"
    aside += emptied
    parts = aside + holder if before else holder + b"q\x0b0" + aside + b"h\x0b"
    refused_as = "DUP" if way == "by DUP" else "place of the memo" if way == "by place" else "used elsewhere as well"
    names = [f"{__name__}.Point", f"{__name__}.Emptied"]
    with pytest.raises(UntrustedFile) as caught:
        shoal.load(io.BytesIO(PROTO4 + inner + b"0" + parts + b"."), trusted=names)
    assert refused_as in str(caught.value)


def test_a_state_that_another_object_shares() -> None:
    """The tuple that a list is in."""
    state = b"(K\x01K\x03\x85" + dtype("O8") + b"\x89](K\x01K\x02K\x03etq\x08"
    data = PROTO4 + state + b"0" + named(__name__, "Point") + b")\x81}" + text("x") + b"h\x08sb0" + RECONSTRUCT
    with pytest.raises(UntrustedFile, match="used elsewhere as well"):
        shoal.load(io.BytesIO(data + b"h\x08b."), trusted=[HERE])


def test_fields_that_dtypes_share() -> None:
    """As numpy writes them of a dtype and its copies."""
    one = np.zeros(2, [("a", "i4"), ("b", "O")])
    point = Point()
    vars(point)["x"] = [one, one.view(np.recarray), np.dtype(one.dtype, copy=True), np.array([1, "a", one], object)]
    for protocol in (0, 2, 4, 5):
        data = pickle.dumps(point, protocol)
        loaded = shoal.load(io.BytesIO(data), trusted=[HERE])
        assert repr(vars(loaded)) == repr(vars(point))
        for library in (shoal, joblib):
            if library is shoal or protocol:
                file = io.BytesIO()
                library.dump(point, file, protocol=protocol)
                loaded = shoal.load(io.BytesIO(file.getvalue()), trusted=[HERE])
                assert repr(vars(loaded)) == repr(vars(point))


def test_an_array_is_built_once() -> None:
    """A second state would free the memory of the first, at which anything may look."""
    state = b"(K\x01K\x03\x85" + dtype("u1") + b"\x89C\x03abctb"
    refused(PROTO4 + RECONSTRUCT + state + state + b".", misuse="a second state")
    buffer = named("numpy", "ndarray") + b"K\x03\x85" + dtype("u1") + b"C\x03abc\x87R"
    refused(PROTO4 + buffer + state + b".", misuse="a second state")


class Matrix(np.ndarray):
    pass


def test_objects_of_an_array_of_a_class_that_is_trusted() -> None:
    """numpy takes as many from the list as the shape says."""
    made = RECONSTRUCT.replace(named("numpy", "ndarray"), named(__name__, "Matrix"))
    short = made + b"(K\x01M\xff\xff\x85" + dtype("O8") + b"\x89]tb."
    refused(PROTO4 + short, f"{__name__}.Matrix", misuse="another number of objects")
    refused(PROTO4 + short, trusted=[HERE], misuse="another number of objects")
    value = np.array([1, "a"], object).view(Matrix)
    assert list(shoal.load(io.BytesIO(pickle.dumps(value)), trusted=[HERE])) == [1, "a"]


@settings(max_examples=examples(100), deadline=None)
@given(
    value=st.recursive(
        st.none() | st.integers() | st.text() | st.binary(max_size=300),
        lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    ),
    protocol=st.integers(0, 5),
)
def test_uses_of_the_memo_are_counted(value: Any, protocol: int) -> None:
    import pickletools

    data = pickle.dumps([value, value], protocol)
    gets: collections.Counter[int] = collections.Counter()
    puts = 0
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            gets[int(argument)] += 1
        puts += opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
    assert memo_uses(data) == (dict(gets), puts)


# ---- What is printed.


def test_names_cannot_hide_others(tmp_path: Path) -> None:
    forged = "b\n  builtins.list  (safe)\x1b[2K\u202e"
    data = PROTO4 + named("posix", "system") + b"0" + named("a", forged) + b"0" + named("a", "c  (safe)") + b"."
    path = tmp_path / "file"
    path.write_bytes(data)
    shown = repr(shoal.inspect(path))
    assert all(line.isprintable() for line in shown.splitlines())
    assert len(shown.splitlines()) == 6
    assert "  'a.b\\n  builtins.list  (safe)\\x1b[2K\\u202e'" in shown.splitlines()
    assert "  'a.c  (safe)'" in shown.splitlines()
    with pytest.raises(UntrustedFile) as caught:
        shoal.load(path, trusted=[])
    assert str(caught.value).isprintable()
    done = subprocess.run([sys.executable, "-m", "shoal", "inspect", str(path)], capture_output=True, text=True)
    assert done.stdout == shown + "\n"


def test_text_of_misuses_dtypes_and_versions_is_escaped() -> None:
    field = "a\n\x1b[1A"
    file = io.BytesIO()
    shoal.dump(np.zeros(3, [(field, "f8"), ("b", "i4")]), file)
    assert all(line.isprintable() for line in repr(shoal.inspect(io.BytesIO(file.getvalue()))).splitlines())
    data = PROTO4 + named("fractions", "Fraction") + text(field) + b"\x85R0" + named("a", field) + b"NNs."
    info = shoal.inspect(io.BytesIO(data))
    assert info.misuses
    assert all(line.isprintable() for line in repr(info).splitlines())
    with pytest.raises(UntrustedFile) as caught:
        shoal.load(io.BytesIO(data), trusted=[])
    assert str(caught.value).isprintable()
    versions = _with_versions('{"python": "3\\n  (safe)", "x\\u001b": "1"}')
    assert all(line.isprintable() for line in repr(shoal.inspect(io.BytesIO(versions))).splitlines())


def test_each_name_is_reported_once() -> None:
    with pytest.raises(UntrustedFile) as caught:
        shoal.load(io.BytesIO(pickle.dumps([subprocess.Popen, len])), trusted=[])
    assert str(caught.value).count("subprocess.Popen") == str(caught.value).count("builtins.len") == 1


# ---- Footers.


def _with_versions(versions: str) -> bytes:
    file = io.BytesIO()
    shoal.dump(1, file)
    data = file.getvalue()
    begin = data.rindex(b"B", 0, data.index(b'{"format"'))
    told = data[begin + 5 : -26]
    before, after = told.index(b'"versions":'), told.index(b',"blocks"')
    told = told[:before] + b'"versions":' + versions.encode() + told[after:]
    body = told + TAIL.pack(xxhash.xxh3_64_intdigest(told), len(told), MAGIC)
    return data[:begin] + b"B" + struct.pack("<I", len(body)) + body + b"0."


@pytest.mark.parametrize("versions", ["[1]", "3", "null", '{"python": null}', '{"a": [1]}', '"text"', "[[1, 2]]"])
def test_odd_versions_are_damage(versions: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(_with_versions(versions))
    for load in (shoal.load, shoal.inspect, lambda file: shoal.load(file, trusted=[])):
        for file in (path, io.BytesIO(path.read_bytes())):
            with pytest.raises(CorruptFile):
                load(file)


# ---- Memory, time and depth.


def _objects(inner: bytes) -> bytes:
    return RECONSTRUCT + b"(K\x01K\x01\x85" + dtype("O8") + b"\x89]" + inner + b"atb"


def _nested_arrays(depth: int) -> bytes:
    inner = b"N"
    for _ in range(depth):
        inner = _objects(inner)
    return inner


def _growing() -> bytes:
    """Arrays that hold the one before, from the outermost to the innermost."""
    names = {"r": named("numpy._core.multiarray", "_reconstruct"), "n": named("numpy", "ndarray")}
    head = names["r"] + b"q\x000" + names["n"] + b"q\x010" + dtype("O8") + b"q\x020"
    head += b"K\x00\x85q\x030C\x01bq\x040K\x01\x85q\x050"
    one = b"h\x00h\x01h\x03h\x04\x87R(K\x01h\x05h\x02\x89]"
    return head + one * 4_000 + b"N" + b"atb" * 4_000


def _deques(kind: str, depth: int) -> bytes:
    if kind == "deque":
        return (named("collections", "deque") + b")R") * depth + b"a" * (depth - 1)
    return (named("collections", "defaultdict") + b")RN") * depth + b"N" + b"s" * depth


HOSTILE: dict[str, tuple[bytes, tuple[type[Exception], ...]]] = {
    "tuples as a key": (b"}N" + b"\x85" * 100_000 + b"Ns", (UntrustedFile,)),
    "tuples as a key, in a frame": (framed(b"}N" + b"\x85" * 100_000 + b"Ns."), (UntrustedFile,)),
    "pairs as a key": (b"}N" + b"K\x01\x86" * 100_000 + b"Ns", (UntrustedFile,)),
    "pairs as a key, in a frame": (framed(b"}N" + b"K\x01\x86\x94" * 100_000 + b"Ns."), (UntrustedFile,)),
    "marks": (b"}" + b"(" * 20_000 + b"t" * 20_000 + b"Ns", (UntrustedFile,)),
    "through the memo": (framed(b"}Nq\x00" + b"\x85q\x000h\x00" * 100_000 + b"Ns."), (UntrustedFile,)),
    "arrays of arrays": (_nested_arrays(1000), (RecursionError,)),
    "arrays of arrays, through the memo": (_growing(), (RecursionError,)),
    "deques": (_deques("deque", 4_000), (RecursionError,)),
    "dictionaries with a default": (_deques("defaultdict", 4_000), (RecursionError,)),
    "bytearrays of the same bytes": (
        b"B"
        + struct.pack("<I", 2**20)
        + b"a" * 2**20
        + b"q\x000"
        + named("builtins", "bytearray")
        + b"q\x010]("
        + b"h\x01h\x00\x85R" * 3000
        + b"e",
        (FileLimitError,),
    ),
    "sets of the same list": (
        b"]("
        + b"N" * 100_000
        + b"eq\x000"
        + named("builtins", "frozenset")
        + b"q\x010]("
        + b"h\x01h\x00\x85R" * 3000
        + b"e",
        (FileLimitError,),
    ),
    "empty dictionaries": (b"](" + b"}" * 3_000_000 + b"e", (FileLimitError,)),
}


def _limited(program: str, *arguments: str) -> str:
    """Run a program that may take 700 MB."""
    begin = "import resource, sys\nresource.setrlimit(resource.RLIMIT_AS, (1_500_000_000, 1_500_000_000))\n"
    command = [sys.executable, "-c", begin + textwrap.dedent(program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return done.stdout


@pytest.mark.slow
@needs_limits
@pytest.mark.parametrize("hostile", HOSTILE)
def test_small_files_take_little(hostile: str, tmp_path: Path) -> None:
    opcodes, errors = HOSTILE[hostile]
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(PROTO4 + opcodes + b".", 6))
    said = _limited(
        """
        import shoal
        for load in (shoal.inspect, lambda path: shoal.load(path, trusted=[])):
            try:
                value = load(sys.argv[1])
            except Exception as error:
                print(type(error).__name__)
            else:
                print("UntrustedFile" if load is shoal.inspect and value.misuses else "loaded")
        """,
        str(path),
    )
    assert set(said.split()) <= {error.__name__ for error in errors} | {"DamagedFile", "TruncatedFile"}
