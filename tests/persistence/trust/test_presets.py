"""Presets of ``load(trusted=)``: they hold what objects of each library need, and nothing that does more than data."""

from __future__ import annotations

import importlib
import io
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from _children import run_program
from _trust_opcodes import PROTO4, named, refused, text
from shoal import UntrustedFile
from shoal.persistence.trust._presets import PRESETS

ROOT = Path(__file__).parents[3]
MODULES = {"numpy": "numpy", "scipy": "scipy", "scikit-learn": "sklearn", "pandas": "pandas"}
X = np.abs(np.random.RandomState(1).normal(size=(20, 4))) + 0.1

presets = pytest.mark.parametrize("preset", PRESETS)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script that makes the presets."""
    monkeypatch.syspath_prepend(str(ROOT))
    return pytest.importorskip("scripts.trust_presets")


@pytest.fixture(autouse=True)
def _lenient() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def outcome(model: Any) -> str | None:
    """The digest of what a model predicts, or what it makes of data."""
    np.random.seed(0)  # a few predict at random
    for method in ("predict", "transform"):
        try:
            return shoal.hash(getattr(model, method)(X))
        except Exception:  # it has no such method, or needs other data
            continue
    return None


#: The first and the last release from which the names were collected. Others may name more.
COLLECTED = {
    "numpy": ((1, 26), (2, 5)),
    "scipy": ((1, 14), (1, 18)),
    "scikit-learn": ((1, 6), (1, 9)),
    "pandas": ((2, 1), (3, 1)),
}
NEEDED = {"scikit-learn": ("scikit-learn", "scipy")}


@presets
def test_objects_of_each_library_load_and_do_the_same(script: Any, preset: str) -> None:
    pytest.importorskip(MODULES[preset])
    for library in NEEDED.get(preset, (preset,)):
        first, last = COLLECTED[library]
        if not first <= tuple(map(int, version(library).split(".")[:2])) <= last:
            pytest.skip(f"the names of {library} {version(library)} were not collected")
    refused_names, outcomes = set(), 0
    for value in script.OBJECTS[preset]():
        file = io.BytesIO()
        shoal.dump(value, file)
        file.seek(0)
        try:
            loaded = shoal.load(file, trusted=preset)
        except UntrustedFile as error:
            refused_names |= {name for name in error.imports if script.reason_against(name, preset) is None}
            continue
        assert type(loaded) is type(value)
        expected = outcome(value)
        outcomes += expected is not None
        assert outcome(loaded) == expected, value
    assert sorted(refused_names) == [], "run python -m scripts.trust_presets --write, and look at what is new"
    assert outcomes > 150 or preset != "scikit-learn"


@presets
@pytest.mark.parametrize("seed", [1, 2])
def test_no_file_does_more_than_data(preset: str, seed: int) -> None:
    pytest.importorskip(MODULES[preset])
    program = Path(__file__).with_name("_presets_fuzz.py")
    done = run_program([sys.executable, str(program), preset, str(seed), "1500"], 110)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@presets
def test_a_preset_names_nothing_that_a_pattern_would_not_cover(preset: str) -> None:
    """No module of tests, and nothing outside of the libraries."""
    packages = {"numpy", "scipy", "sklearn", "_loss", "pandas", "pyarrow"}
    for name in PRESETS[preset] - {"functools.partial"}:  # of one function only, see test_partial_functions
        parts = name.split(".")
        assert parts[0] in packages
        assert not {"tests", "_testing", "testing", "conftest"}.intersection(parts)


@pytest.mark.parametrize(
    ("module", "name"),
    [("sklearn.datasets", "clear_data_home"), ("os", "system"), ("sklearn.externals", "joblib"), ("numpy", "load")],
)
def test_other_names_are_refused(module: str, name: str) -> None:
    refused(PROTO4 + named(module, name) + text("x") + b"\x85R.", f"{module}.{name}", trusted="scikit-learn")


def test_a_preset_covers_calls_as_a_pattern_does() -> None:
    """A class of a preset is not called with arguments, as one that is named exactly would be."""
    pytest.importorskip("sklearn")
    name = "sklearn.linear_model._base.LinearRegression"
    data = PROTO4 + named(*name.rsplit(".", 1)) + b")R."
    refused(data, name, trusted="scikit-learn")
    assert shoal.load(io.BytesIO(data), trusted=[name]).fit_intercept is True


def test_presets_and_names_together() -> None:
    random = np.random.RandomState(3)
    file = io.BytesIO()
    shoal.dump({"random": random, "path": shoal.Memory}, file)
    for trusted in (["numpy"], "numpy"):
        with pytest.raises(UntrustedFile) as caught:
            shoal.load(io.BytesIO(file.getvalue()), trusted=trusted)
        assert caught.value.imports == ("shoal.memory._memory.Memory",)
    loaded = shoal.load(io.BytesIO(file.getvalue()), trusted=["numpy", "shoal.memory._memory.Memory"])
    assert loaded["random"].rand() == random.rand()


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(TypeError, match=r"presets \['numpy', .*did you mean 'scikit-learn'"):
        shoal.load(io.BytesIO(b""), trusted="scikit_learn")


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("*", r"Pass a list such as trusted=\['package.Class', 'package.\*'\]"),
        ("sklearn", "did you mean 'scikit-learn'"),
        ("package", r"Pass trusted=\['package.\*'\]"),
        ("package.Class", r"Pass trusted=\['package.Class'\]"),
    ],
)
def test_strings_that_are_not_valid_get_advice_that_works(given: str, advice: str) -> None:
    with pytest.raises(TypeError, match=advice) as caught:
        shoal.load(io.BytesIO(b""), trusted=given)
    assert f"Pass trusted=[{given!r}]" not in str(caught.value) or "." in given
    if given != "package.Class":
        with pytest.raises(ValueError, match=advice):
            shoal.load(io.BytesIO(b""), trusted=["numpy", given])


def test_pandas_gets_no_text_that_it_would_parse(tmp_path: Path) -> None:
    """Of the name of a time zone, it makes the path of a file."""
    pytest.importorskip("pandas")
    zone = "dateutil/" + str(tmp_path / "x")
    kind, make = named("pandas", "Index"), named("pandas.core.indexes.base", "_new_Index")
    importlib.import_module("pandas")
    for key, value in (("dtype", text(f"datetime64[ns, {zone}]")), ("tz", text(zone)), ("data", text("x"))):
        data = PROTO4 + make + kind + b"}(" + text(key) + value + b"u\x86R."
        refused(data, "pandas.core.indexes.base._new_Index", trusted=["pandas.*"])
        refused(data, "pandas.core.indexes.base._new_Index", trusted="pandas")
