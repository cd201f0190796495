"""Notebooks: cells that run in a real kernel, and what arrives in them. Most tests share one kernel.

::

    Notebook.run(source) ── nbclient ──> kernel (ipykernel) ──> workers
    Cell <── outputs of the cell ────────────┘
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

for _name in ("ipykernel", "ipywidgets"):  # they are imported in the kernel only
    if find_spec(_name) is None:
        pytest.skip(f"{_name} is not installed", allow_module_level=True)
nbclient = pytest.importorskip("nbclient")
manager = pytest.importorskip("jupyter_client.manager")
nbformat = pytest.importorskip("nbformat.v4")

#: The seconds that a cell may take. Calls that are to be interrupted would take far longer.
CELL_SECONDS, CALL_SECONDS = 60, 600
_COLOURS = re.compile(r"\x1b\[[\d;]*m")
PROCESSES = ["loky", "multiprocessing"]


class Cell:
    """A cell that has run."""

    def __init__(self, cell: Any) -> None:
        self._cell = cell

    def text(self, stream: str) -> str:
        """What has arrived on a stream of the cell so far."""
        outputs = [output for output in self._cell.outputs if output.output_type == "stream"]
        return "".join(output.text for output in outputs if output.name == stream)

    def lines(self, stream: str = "stdout") -> list[str]:
        return sorted(self.text(stream).splitlines())

    @property
    def result(self) -> Any:
        """The value of the last expression, as text."""
        assert self.error is None, self.traceback
        return next((out.data["text/plain"] for out in self._cell.outputs if out.output_type == "execute_result"), None)

    @property
    def page(self) -> str:
        """The value of the last expression, as a notebook shows it."""
        return "".join(
            out.data.get("text/html", "") for out in self._cell.outputs if out.output_type == "execute_result"
        )

    @property
    def error(self) -> str | None:
        return next((out.ename for out in self._cell.outputs if out.output_type == "error"), None)

    @property
    def traceback(self) -> str:
        lines = [line for out in self._cell.outputs if out.output_type == "error" for line in out.traceback]
        return _COLOURS.sub("", "\n".join(lines))

    @property
    def displayed(self) -> list[dict[str, Any]]:
        return [out.data for out in self._cell.outputs if out.output_type == "display_data"]


class Notebook:
    """A notebook whose cells run in a kernel."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._notebook = nbformat.new_notebook()
        # No port is open: the kernel has its sockets in the folder.
        self._kernel = manager.AsyncKernelManager(kernel_name="python3", transport="ipc", ip=str(folder / "kernel"))
        self.client = nbclient.NotebookClient(
            self._notebook, km=self._kernel, timeout=CELL_SECONDS, allow_errors=True, store_widget_state=True
        )
        self._running = self.client.async_setup_kernel(cleanup_kc=True)

    def __enter__(self) -> Notebook:
        self._loop.run_until_complete(self._running.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._running.__aexit__(None, None, None))
        self._loop.close()

    def run(self, source: str, interrupt_when: Callable[[], bool] | None = None) -> Cell:
        """Run a cell to its end. `interrupt_when` tells when to interrupt the kernel, as a user does."""
        cell = nbformat.new_code_cell(source)
        self._notebook.cells.append(cell)
        self._loop.run_until_complete(self._run(cell, interrupt_when))
        return Cell(cell)

    async def _run(self, cell: Any, interrupt_when: Callable[[], bool] | None) -> None:
        number = len(self._notebook.cells) - 1
        running = asyncio.ensure_future(self.client.async_execute_cell(cell, number))
        if interrupt_when is not None:
            while not (interrupt_when() or running.done()):
                await asyncio.sleep(0.01)
            await self._kernel.interrupt_kernel()
        await running


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    with pytest.MonkeyPatch.context() as patch:
        # Not the settings and kernels of the user who runs the tests.
        for name in ("IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
        with Notebook(tmp_path_factory.mktemp("ipc")) as notebook:
            yield notebook


@pytest.fixture
def notebook(kernel: Notebook, tmp_path: Path) -> Notebook:
    """The kernel, with the usual imports and an empty `folder`."""
    started = kernel.run(
        "%reset -f\n"
        "import logging, os, pathlib, sys, time, warnings\n"
        "import shoal\n"
        "from shoal import Parallel, delayed\n"
        f"folder = pathlib.Path({str(tmp_path)!r})"
    )
    assert started.error is None, started.traceback
    return kernel


SAY = r"""
def say(word):
    sys.stdout.write(f"printed {word}\n")  # in one write, since threads share the stream
    sys.stderr.write(f"complained {word}\n")
    logging.getLogger("calls").warning("logged %s", word)
    warnings.warn(f"warned {word}")
    return word
"""


def said(cell: Cell, word: str) -> None:
    """Assert that a cell shows what the calls of this word have said, and nothing else of them."""
    assert cell.result == repr([word, word])
    assert cell.lines() == [f"printed {word}"] * 2
    errors = cell.text("stderr")
    assert (errors.count(f"complained {word}\n"), errors.count(f"logged {word}\n")) == (2, 2)
    assert errors.count(f"UserWarning: warned {word}\n") == 1
    assert set(re.findall(r"(?:complained|logged|warned) (\w+)\n", errors)) == {word}


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_what_calls_say_lands_in_the_cell_that_ran(notebook: Notebook, backend: str, n_jobs: int) -> None:
    notebook.run(SAY)
    cells = {
        word: notebook.run(f"Parallel({n_jobs}, {backend!r})(delayed(say)({word!r}) for _ in range(2))")
        for word in ("first", "second")
    }
    for word, cell in cells.items():
        said(cell, word)


def test_what_calls_of_an_event_loop_say_lands_in_the_cell_that_ran(notebook: Notebook) -> None:
    notebook.run(SAY)
    calls = "Parallel(2, 'loky', return_as={!r}).acall(delayed(say)({!r}) for _ in range(2))"
    first = notebook.run(f"await {calls.format('list', 'first')}")
    second = notebook.run(f"[result async for result in {calls.format('generator', 'second')}]")
    said(first, "first")
    said(second, "second")


def test_what_calls_of_an_executor_say_lands_in_the_cell_that_submits_them(notebook: Notebook) -> None:
    notebook.run(f"{SAY}\nexecutor = shoal.executor(2, backend='loky')")
    cells = {word: notebook.run(f"list(executor.map(say, [{word!r}] * 2))") for word in ("first", "second")}
    notebook.run("executor.shutdown()")
    for word, cell in cells.items():
        said(cell, word)


def test_what_calls_say_obeys_the_settings_of_the_notebook(notebook: Notebook) -> None:
    notebook.run(SAY)
    cell = notebook.run(
        "logging.getLogger('calls').setLevel('ERROR')\n"
        "with warnings.catch_warnings():\n"
        "    warnings.simplefilter('ignore')\n"
        "    Parallel(2, 'loky')([delayed(say)('x')])\n"
        "logging.getLogger('calls').setLevel('NOTSET')"
    )
    assert cell.result is None
    assert (cell.text("stdout"), cell.text("stderr")) == ("printed x\n", "complained x\n")


# ---- Progress.


@pytest.mark.parametrize("progress", [True, "rich"])
@pytest.mark.parametrize("return_as", ["list", "generator"])
@pytest.mark.parametrize(("backend", "n_jobs"), [("loky", 2), ("threading", 2), ("loky", 1)])
def test_a_bar_is_drawn(notebook: Notebook, backend: str, n_jobs: int, return_as: str, progress: bool | str) -> None:
    calls = "delayed(abs)(-number) for number in range(3)"
    cell = notebook.run(f"list(Parallel({n_jobs}, {backend!r}, {return_as!r}, progress={progress!r})({calls}))")
    assert cell.result == "[0, 1, 2]"
    assert (cell.text("stdout"), cell.text("stderr")) == ("", "")
    (shown,) = cell.displayed
    view = shown["application/vnd.jupyter.widget-view+json"]["model_id"]
    parts = [model.removeprefix("IPY_MODEL_") for model in notebook.client.widget_state[view]["children"]]
    _, bar, text = (notebook.client.widget_state[part] for part in parts)
    assert (bar["value"], bar["max"], bar["bar_style"]) == (3, 3, "success")
    assert text["value"].split()[0] == "3/3"  # split() knows the figure spaces of tqdm


def test_without_ipywidgets_there_are_lines(notebook: Notebook) -> None:
    cell = notebook.run(
        "import unittest.mock\n"
        "gone = {name: None for name in sys.modules if name.split('.')[0] == 'ipywidgets'}\n"
        "kept = {name: sys.modules[name] for name in sys.modules if name.split('.')[0] == 'tqdm'}\n"
        "with unittest.mock.patch.dict(sys.modules, gone), warnings.catch_warnings():\n"
        "    warnings.simplefilter('error')\n"
        "    for name in kept: del sys.modules[name]\n"
        "    results = Parallel(2, 'loky', progress=True)(delayed(abs)(number) for number in range(3))\n"
        "results"
    )
    assert cell.result == "[0, 1, 2]"
    assert cell.displayed == []
    assert re.fullmatch(r"Parallel\(n_jobs=2\): 3/3 calls, \d+ s\n", cell.text("stderr"))


# ---- Interrupts.


@pytest.mark.parametrize("where", ["loky", "multiprocessing", "threading", "generator", "acall"])
def test_an_interrupt_ends_the_cell_and_the_next_one_runs(notebook: Notebook, tmp_path: Path, where: str) -> None:
    backend = where if where in [*PROCESSES, "threading"] else "loky"
    parallel = f"Parallel(2, {backend!r}, return_as={'generator' if where == 'generator' else 'list'!r})"
    cell = notebook.run(
        "def linger(index):\n"
        "    (folder / str(index)).touch()\n"
        f"    time.sleep({CALL_SECONDS})\n"
        "calls = [delayed(linger)(index) for index in range(4)]\n"
        + (f"await {parallel}.acall(calls)" if where == "acall" else f"list({parallel}(calls))"),
        interrupt_when=lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists(),
    )
    assert cell.error in ("KeyboardInterrupt", "CancelledError")
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1"}
    cell = notebook.run(f"list({parallel}(delayed(abs)(-number) for number in range(3)))")
    assert cell.result == "[0, 1, 2]"


# ---- Code that changes.


@pytest.mark.parametrize("backend", [*PROCESSES, "threading"])
def test_what_a_cell_defines_again_is_the_new_one_in_the_workers(notebook: Notebook, backend: str) -> None:
    run = f"Parallel(2, {backend!r})(delayed(f)(Thing()) for _ in range(2))"
    for version in ("one", "two"):
        notebook.run(f"class Thing:\n    made = {version!r}")
        notebook.run(f"def helper():\n    return {version!r}")
        notebook.run(f"def f(thing):\n    return {version!r}, helper(), thing.made, constant\nconstant = {version!r}")
        assert notebook.run(run).result == repr([(version,) * 4] * 2)
    notebook.run("def helper():\n    return 'three'")  # the function that calls it is the old one
    assert notebook.run(run).result == repr([("two", "three", "two", "two")] * 2)


@pytest.mark.parametrize("backend", [*PROCESSES, "threading"])
@pytest.mark.parametrize("way", ["autoreload", "reload"])
def test_an_edited_module_is_the_new_one_in_the_workers(
    notebook: Notebook, tmp_path: Path, way: str, backend: str
) -> None:
    unique = re.sub(r"\W", "_", tmp_path.name)  # the kernel has the modules of earlier tests
    main, helper = f"edited_main_{unique}", f"edited_helper_{unique}"

    def write(version: str) -> None:
        (tmp_path / f"{helper}.py").write_text(f"def word():\n    return {version!r}\n")
        source = f"import {helper}\nclass Thing:\n    def word(self):\n        return {version!r}\n"
        (tmp_path / f"{main}.py").write_text(
            f"{source}def f(thing):\n    return {version!r}, {helper}.word(), thing.word()\n"
        )

    def result(expected: str) -> None:
        for f, thing in ((f"{main}.f", f"{main}.Thing()"), ("f", "thing")):
            cell = notebook.run(f"Parallel(2, {backend!r})(delayed({f})({thing}) for _ in range(2))")
            assert cell.result == repr([(expected,) * 3] * 2)

    write("one")
    start = "%load_ext autoreload\n%autoreload 2" if way == "autoreload" else ""
    imports = f"import {helper}, {main}\nfrom {main} import f\nthing = {main}.Thing()"
    assert notebook.run(f"import importlib\n{start}\nsys.path.insert(0, str(folder))\n{imports}").error is None
    result("one")
    for version in ("three", "four", "fives"):  # of one and of several lengths
        write(version)
        if way == "reload":
            names = f"for name in ({helper!r}, {main!r}): importlib.reload(sys.modules[name])"
            assert notebook.run(f"importlib.invalidate_caches()\n{names}\n{imports}").error is None
        result(version)
    assert notebook.run("%autoreload 0" if way == "autoreload" else "").error is None
    assert notebook.run("sys.path.remove(str(folder))").error is None


# ---- Tracebacks.


@pytest.mark.parametrize("backend", [*PROCESSES, "threading"])
def test_tracebacks_show_the_lines_of_the_worker(notebook: Notebook, backend: str) -> None:
    notebook.run("def divide(number):\n    below = number - 1\n    return number / below")
    cell = notebook.run(f"Parallel(2, {backend!r})(delayed(divide)(number) for number in range(1, 3))")
    assert cell.error == "ZeroDivisionError"
    assert "return number / below" in cell.traceback
    assert f"Parallel(2, {backend!r})(delayed(divide)(number) for number in range(1, 3))" in cell.traceback
    if backend != "threading":
        assert 'in call 0, divide(...):\n"""\nTraceback (most recent call last):\n' in cell.traceback


def test_the_exception_can_be_looked_at_in_the_next_cell(notebook: Notebook) -> None:
    notebook.run("Parallel(2, 'loky')([delayed(abs)(1), delayed(divmod)(1, 0)])")
    assert notebook.run("sys.last_value.call.index, type(sys.last_value).__name__").result == "(1, 'ZeroDivisionError')"


# ---- Reports.


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_a_report_is_shown_as_its_page(notebook: Notebook, backend: str) -> None:
    cell = notebook.run(
        f"with shoal.report() as report:\n    Parallel(2, {backend!r})(delayed(pow)(i, 2) for i in range(5))\nreport"
    )
    assert cell.result == "<shoal.Report of 1 run>"
    assert cell.page.startswith("<iframe")
    assert "pow" in cell.page
