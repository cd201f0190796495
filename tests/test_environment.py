"""Environment variables that each run reads."""

from __future__ import annotations

import os

import pytest

from shoal._environment import variable


def test_variables_are_those_of_os_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    assert variable("SHOAL_TEST_VARIABLE") is None
    assert variable("SHOAL_TEST_VARIABLE", "x") == "x"
    for value in ("", "0", "a b", "ä\udcff"):
        monkeypatch.setenv("SHOAL_TEST_VARIABLE", value)
        assert variable("SHOAL_TEST_VARIABLE", "x") == value
        assert variable("SHOAL_TEST_VARIABLE") == os.environ["SHOAL_TEST_VARIABLE"] == value
    monkeypatch.delenv("SHOAL_TEST_VARIABLE")
    assert variable("SHOAL_TEST_VARIABLE") is None


def test_variables_where_os_environ_is_a_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"SHOAL_TEST_VARIABLE": "x"})
    assert (variable("SHOAL_TEST_VARIABLE"), variable("SHOAL_TEST_OTHER")) == ("x", None)
