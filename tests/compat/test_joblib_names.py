"""Every public name and parameter of joblib's wheel is in shoal.compat.joblib, except those listed with a reason."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

MODULES_LEFT_OUT: dict[str, str] = {}
LEFT_OUT = {
    "_dask.is_weakrefable": "only that module uses it",
    "_memmapping_reducer.TemporaryResourcesManager.register_folder_finalizer": "folders remove themselves",
    "_utils.limit": "only that module uses the decorator",
    "backports.access_denied_errors": "it exists on Windows only",
    "func_inspect.full_argspec_fields": "shoal uses the signatures of inspect",
    "func_inspect.full_argspec_type": "shoal uses the signatures of inspect",
    "parallel.BatchCompletionCallBack.get_result": "the run waits for results, not the batches",
    "parallel.BatchCompletionCallBack.get_status": "the run waits for results, not the batches",
    "parallel.Parallel.dispatch_next": "the run sends the batches",
    "parallel.Parallel.dispatch_one_batch": "the run sends the batches",
    "parallel.method": "a loop variable of the module",
}


def wheel() -> Path:
    return Path(str(importlib.metadata.distribution("joblib").locate_file("joblib")))


def modules() -> list[str]:
    return sorted(path.stem for path in wheel().glob("*.py") if path.stem != "__init__")


def public(tree: ast.Module | ast.ClassDef) -> Iterator[tuple[str, ast.AST]]:
    """Yield the public names that a module or a class defines, with the nodes that define them."""
    for node in tree.body:
        for inner in node.body + node.orelse if isinstance(node, ast.If) else [node]:
            if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                names = [inner.name]
            elif isinstance(inner, ast.Assign):
                names = [target.id for target in inner.targets if isinstance(target, ast.Name)]
            else:
                continue
            yield from ((name, inner) for name in names if not name.startswith("_"))


def parameters(node: ast.AST) -> set[str]:
    if isinstance(node, ast.ClassDef):
        return next((parameters(item) for name, item in _all(node) if name == "__init__"), set())
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return set()
    given = node.args
    return {argument.arg for argument in [*given.posonlyargs, *given.args, *given.kwonlyargs]} - {"self", "cls"}


def _all(node: ast.ClassDef) -> Iterator[tuple[str, ast.AST]]:
    for item in node.body:
        if isinstance(item, ast.FunctionDef):
            yield item.name, item


def missing_of(name: str, node: ast.AST, owner: Any) -> Iterator[str]:
    """Yield the missing names and parameters of `owner`, for a name that joblib defines."""
    if not hasattr(owner, name.rpartition(".")[2]):
        yield name
        return
    ours = getattr(owner, name.rpartition(".")[2])
    if callable(ours) and parameters(node):
        signature = inspect.signature(ours)
        kinds = {parameter.kind for parameter in signature.parameters.values()}
        missing = parameters(node) - set(signature.parameters)
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            yield from sorted(f"{name}({parameter}=)" for parameter in missing)
    if isinstance(node, ast.ClassDef):
        for attribute, item in public(node):
            yield from missing_of(f"{name}.{attribute}", item, ours)


@pytest.mark.parametrize("module", modules())
def test_no_name_is_missing(module: str) -> None:
    if module in MODULES_LEFT_OUT:
        pytest.skip(MODULES_LEFT_OUT[module])
    ours = importlib.import_module(f"shoal.compat.joblib.{module}")
    tree = ast.parse((wheel() / f"{module}.py").read_text())
    found = {f"{module}.{name}" for item, node in public(tree) for name in missing_of(item, node, ours)}
    left_out = {name for name in LEFT_OUT if name.partition(".")[0] == module}
    assert sorted(found - left_out) == []
    assert sorted(left_out - found) == [], "these names exist now"


def test_the_public_names_of_the_package() -> None:
    ours = importlib.import_module("shoal.compat.joblib")
    tree = ast.parse((wheel() / "__init__.py").read_text())
    (theirs,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    ]
    assert sorted(ours.__all__) == sorted(theirs)
    assert all(hasattr(ours, name) for name in theirs)
    assert ours.__version__ == importlib.metadata.version("joblib")
