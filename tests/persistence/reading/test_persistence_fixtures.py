"""Files that earlier releases of shoal have written, and files of joblib: all load, for ever."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import joblib
import pytest

from _persistence_zoo import portrait
from fixtures.write_dumps import values
from shoal import dump, load

# joblib leaves its LZ4 files open, which say so when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

FOLDER = Path(__file__).parents[2] / "fixtures" / "dumps"
FILES = sorted(path.name for path in FOLDER.glob("*.pkl"))
SUMS = json.loads((FOLDER / "sha256.json").read_text())
VALUES = {name: (value, options) for name, value, options in values()}

JOBLIBS = Path(joblib.__file__).parent / "test" / "data"


def test_no_fixture_is_missing_or_was_changed() -> None:
    assert {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() for name in FILES} == SUMS


def known(file: str) -> Any:
    """Return what a file holds."""
    value, options = VALUES[file.removesuffix(".pkl").split("-", 3)[3]]
    early = options.get("protocol", 5) < 2  # NumPy's own pickles are of this machine's byte order
    return pickle.loads(pickle.dumps(value, 1)) if early else value


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("mmap_mode", [None, "r", "c"])
@pytest.mark.parametrize("verify", [None, True])
@pytest.mark.filterwarnings("ignore:mmap_mode:UserWarning", "ignore::shoal.VersionWarning")
def test_fixtures_load(file: str, mmap_mode: Any, verify: Any) -> None:
    value = load(FOLDER / file, mmap_mode, ensure_native_byte_order=False, verify=verify)
    assert portrait(value, mapped=True) == portrait(known(file), mapped=True, stored=True)


@pytest.mark.parametrize("file", [file for file in FILES if "zstd" not in file])
def test_joblib_loads_the_fixtures_too(file: str) -> None:
    if "numpy2" in file and not hasattr(pytest.importorskip("numpy"), "_core"):
        pytest.skip("this NumPy does not know what the file names")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert portrait(joblib.load(FOLDER / file)) == portrait(load(FOLDER / file))


def test_there_is_a_fixture_for_each_kind_of_file() -> None:
    assert {file.removesuffix(".pkl").split("-", 3)[3] for file in FILES} >= set(VALUES)


# joblib's own samples: versions 0.8 to 0.11, of Python 2.7 to 3.6


def loaded(loader: Any, path: Path, **options: Any) -> Any:
    """Return what a loader returns or raises, and what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = portrait(loader(path, **options), mapped="mmap_mode" in options)
            # joblib under NumPy 2 takes matrices for arrays
            value = repr(value).replace("numpy.matrix", "numpy.ndarray")
        except Exception as error:
            value = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
    # Arrays of earlier files are not aligned: joblib says so once for each.
    return value, {warning.category for warning in caught}


@pytest.mark.parametrize("mmap_mode", [None, "r"])
@pytest.mark.parametrize(
    "name",
    sorted(name for name in os.listdir(JOBLIBS) if name.startswith("joblib_") and "npy" not in name),
)
def test_samples_of_joblib(tmp_path: Path, name: str, mmap_mode: Any) -> None:
    options = {"mmap_mode": mmap_mode} if mmap_mode else {}
    theirs = loaded(joblib.load, JOBLIBS / name, **options)
    ours = loaded(load, JOBLIBS / name, **options)
    assert ours == theirs
    if isinstance(theirs[0], str) and not mmap_mode:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = load(JOBLIBS / name)
        dump(value, tmp_path / "x")
        assert loaded(load, tmp_path / "x")[0] == theirs[0]


def test_samples_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The companions of a file lie beside it, wherever that is."""
    for path in JOBLIBS.glob("joblib_0.9.2_pickle_py35_np19.pkl*"):
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    name = "joblib_0.9.2_pickle_py35_np19.pkl"
    assert loaded(load, Path(name)) == loaded(joblib.load, JOBLIBS / name)
