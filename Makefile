# One word per chore, the same by hand and in CI.
#   PYTHON=python3.13 make test       chooses the interpreter; each has an environment of its own under .venv/
#   make test ARGS='-k schedule -x'   hands arguments to pytest
#   make test-all PYTHON_FT=PATH      names the free-threaded interpreter, if it is not python3.13t on PATH

PYTHON ?= python3
PYTHON_FT ?= python3.13t
ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Extras that have no wheels for some Pythons (free-threaded 3.13), which no marker can tell.
EXTRAS_OF_test := dask ray test-frames test-notebook
EXTRAS_OF_docs := dask ray
EXTRAS_OF_bench := dask ray

VENV := .venv/$(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3] + sys.abiflags)')
RUN := $(VENV)/bin/python

.PHONY: help demo test test-fast test-all test-joblib test-sklearn test-downstream test-objects test-narrow test-windows test-musl test-executors types dist suite suite-thorough suite-optimized bench scale fuzz soak pictures docs docs-check check lint clean

help:
	@echo "make demo | test | test-fast | test-all | test-joblib | test-sklearn | test-downstream | test-objects | test-narrow | test-windows | test-musl | test-executors | types | dist | bench | scale | fuzz | soak | pictures | docs | docs-check | lint | clean"

demo: $(VENV)/.has-demo
	@$(RUN) -m compileall -q src
	$(RUN) examples/digits.py

test: check suite

# Without the tests that are marked as thorough, which take as long as the others: tests/conftest.py says which these are.
suite: $(VENV)/.has-test
	$(RUN) -m pytest -n 2 -m "not thorough" $(ARGS)

suite-thorough: $(VENV)/.has-test
	$(RUN) -m pytest -n 2 $(ARGS)

# The tests that are not marked as slow either; tests/conftest.py lists those that are.
test-fast: $(VENV)/.has-test
	$(RUN) -m pytest -n 2 -m "not slow and not thorough" $(ARGS)

# Tests and workers under `python -O`. pytest checks the assertions of test modules and helpers all the same, since it
# rewrites them; its warning is about those of other modules. Programs with assertions of their own run without -O.
# Without test_ray.py: under -O, a local ray cluster dies within a minute, and the process that started it with it.
suite-optimized: $(VENV)/.has-test
	PYTHONOPTIMIZE=1 $(RUN) -m pytest -n 2 -W "ignore:assertions not in test modules:pytest.PytestConfigWarning" \
	    tests/parallel tests/backends tests/persistence --ignore=tests/backends/test_ray.py $(ARGS)

# joblib's own tests, from its wheel, with shoal in its place; what may fail is in tests/compat/expected.txt.
test-joblib: $(VENV)/.has-test
	$(RUN) tests/compat/joblib_suite.py $(ARGS)

# scikit-learn's own tests, from its wheel, with joblib and with shoal, part by part; what pytest says goes to a file.
test-sklearn: $(VENV)/.has-test
	@mkdir -p build
	$(RUN) tests/compat/sklearn_suite.py $(ARGS) 2>build/sklearn-suite.log

# Other projects, from their wheels, with shoal in joblib's place. They are heavy, and so in an environment of their own.
DOWNSTREAM := build/downstream/$(notdir $(VENV))
test-downstream: $(DOWNSTREAM)/.made
	$(DOWNSTREAM)/bin/python -m pytest tests/compat/real_packages.py $(ARGS)

$(DOWNSTREAM)/.made: tests/compat/real_packages.txt $(VENV)/.made
	@echo "installing what real_packages.txt names into $(DOWNSTREAM)"
	@$(RUN) -m venv --clear --without-pip $(DOWNSTREAM)
	@$(RUN) -m pip --python $(DOWNSTREAM)/bin/python install --quiet -r $< --editable .
	@touch $@

# A Memory in an object store: moto's server on loopback, which fails on purpose. In an environment of its own too.
OBJECTS := build/objects/$(notdir $(VENV))
test-objects: $(OBJECTS)/.made
	$(OBJECTS)/bin/python -m pytest tests/memory/storage/test_object_store.py $(ARGS)

$(OBJECTS)/.made: pyproject.toml $(VENV)/.made
	@echo "installing shoal[test-objects] into $(OBJECTS)"
	@$(RUN) -m venv --clear --without-pip $(OBJECTS)
	@$(RUN) -m pip --python $(OBJECTS)/bin/python install --quiet --only-binary=:all: --editable '.[test-objects]'
	@touch $@

# backend=executor on executors of other libraries: loky, MPI, submitit on a fake SLURM; dask-jobqueue there; and dask
# clusters that adapt, or lose their scheduler.
test-executors: $(VENV)/.has-test $(VENV)/.has-test-executors
	$(RUN) -m pytest tests/backends/real_executors.py tests/backends/real_clusters.py $(ARGS)

# On a Linux that lacks what macOS and Windows lack: scripts/narrow says what. ARGS=tests/memory chooses tests.
test-narrow: $(VENV)/.has-test
	$(RUN) -m scripts.narrow $(ARGS)

# On a Windows Python under Wine, which scripts/windows.sh makes once under ~/.cache. ARGS=tests/memory chooses tests.
test-windows:
	scripts/windows.sh $(ARGS)

# On a Python for musl, Alpine's C library, which scripts/musl.sh builds once under ~/.cache. ARGS=tests/memory chooses tests.
test-musl:
	scripts/musl.sh $(ARGS)

check: $(VENV)/.has-test
	$(RUN) -m ruff check .
	$(RUN) -m mypy

# For the other systems too: mypy leaves out what stands under the sys.platform of another one.
lint: check
	$(RUN) -m mypy --platform win32
	$(RUN) -m mypy --platform darwin

# What users' programs in tests/typed get for types, as mypy and pyright see it; and that no public name lacks a type.
types: $(VENV)/.has-types
	$(RUN) -m mypy --strict --config-file= tests/typed/programs
	$(RUN) -m pyright --pythonpath $(RUN) --project tests/typed
	PYTHONPATH=src $(RUN) -m pyright --pythonpath $(RUN) --verifytypes shoal --ignoreexternal

# The sdist and the wheel in dist/, built and checked as a user gets them; then the repository and its workflows.
# The wheel is installed in a new environment of each Python that is found; ARGS=PYTHON chooses one, ARGS=--release is for releases.
dist: $(VENV)/.has-dist
	@mkdir -p build
	$(RUN) -m scripts.dist $(ARGS)
	$(VENV)/bin/zizmor --offline --quiet .github/workflows
	$(VENV)/bin/sp-repo-review . >build/repo-review.txt || { cat build/repo-review.txt; exit 1; }

bench: $(VENV)/.has-bench
	@$(RUN) -m compileall -q src benchmarks
	$(RUN) -m benchmarks $(ARGS)

# One to ten thousand workers, simulated: the caller's time, memory, and efficiency beside other rules; docs/scale.md.
scale: $(VENV)/.has-bench
	$(RUN) -m benchmarks.scale $(ARGS)

# A hundred thousand random pickle programs against load and inspect: no code runs, nothing crashes or hangs.
fuzz: $(VENV)/.has-test
	$(RUN) -m scripts.pickle_fuzz $(ARGS)

# Everything at random for half an hour: no wrong result, nothing hangs, nothing rises. ARGS="--rows deaths" instead: long rows.
soak: $(VENV)/.has-test
	$(RUN) -m scripts.soak $(ARGS)

# The pages of reports in a headless Chromium, and commands in a terminal: pictures in build/pictures. Needs Debian's
# packages chromium and tmux. ARGS=--docs writes those of docs/pictures too.
pictures: $(VENV)/.has-test
	$(RUN) -m scripts.pictures $(ARGS)

# The documentation, in build/docs/html. Its pages need no network, and neither does building them.
docs: $(VENV)/.has-docs
	$(RUN) -m sphinx --fail-on-warning --keep-going --quiet -d build/docs/doctrees docs build/docs/html
	@echo "the site is in build/docs/html/index.html"

# The files of the site, and its pages in a headless Chromium: links, headings, texts of pictures, contrast, console.
docs-check: docs
	$(RUN) -m scripts.docs_check $(ARGS)

# All tests on all Pythons that are found, with workers as they are started by default; then one, with each portable way of starting;
# then one under `python -O`; then a Memory in an object store; then executors of other libraries; then the documentation.
# An interpreter counts as found if it runs: pyenv puts names on PATH whose versions are not selected.
test-all: lint types
	@passed=; failed=; missing=; \
	for version in 3.10 3.11 3.12 3.13 3.13t; do \
	    case $$version in *t) named=$(PYTHON_FT);; *) named=;; esac; \
	    found=; \
	    for python in $$named python$$version "$$HOME"/.pyenv/versions/$$version*/bin/python$$version \
	            "$$HOME"/.cache/python$$version/bin/python$$version; do \
	        is=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2] + sys.abiflags)' 2>/dev/null) || continue; \
	        if [ "$$is" = "$$version" ]; then found=$$python; break; fi; \
	    done; \
	    if [ -z "$$found" ]; then missing="$$missing $$version"; continue; fi; \
	    echo "== $$version: $$found"; \
	    if $(MAKE) --no-print-directory suite-thorough PYTHON="$$found"; then passed="$$passed $$version"; \
	    else failed="$$failed $$version"; fi; \
	done; \
	for method in loky spawn; do \
	    echo "== SHOAL_START_METHOD=$$method: $(PYTHON)"; \
	    if SHOAL_START_METHOD=$$method $(MAKE) --no-print-directory suite-thorough; then passed="$$passed $$method"; \
	    else failed="$$failed $$method"; fi; \
	done; \
	echo "== python -O: $(PYTHON)"; \
	if $(MAKE) --no-print-directory suite-optimized; then passed="$$passed -O"; else failed="$$failed -O"; fi; \
	echo "== an object store: $(PYTHON)"; \
	if $(MAKE) --no-print-directory test-objects; then passed="$$passed objects"; else failed="$$failed objects"; fi; \
	echo "== executors: $(PYTHON)"; \
	if $(MAKE) --no-print-directory test-executors; then passed="$$passed executors"; else failed="$$failed executors"; fi; \
	echo "== the documentation: $(PYTHON)"; \
	if $(MAKE) --no-print-directory docs; then passed="$$passed docs"; else failed="$$failed docs"; fi; \
	echo "passed:$${passed:- none}; failed:$${failed:- none}; not found:$${missing:- none}"; \
	[ -z "$$failed" ] && [ -n "$$passed" ]

clean:
	rm -rf examples/digits.cache docs/gallery docs/reference/generated .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -prune -exec rm -rf {} +

# Wheels of an older release before the sources of a newer one: some projects have left Python 3.10 or 3.13t behind.
$(VENV)/.has-%: pyproject.toml $(VENV)/.made
	@echo "installing shoal[$*] into $(VENV)"
	@$(RUN) -m pip install --quiet --only-binary=:all: --editable '.[$*]'
	@$(RUN) -m pip install --quiet --only-binary=:all: --editable '.[deflate]' 2>/dev/null || \
	    echo "no wheels of isal and zlib-ng for $(PYTHON): zlib will do its work"
	@for extra in $(EXTRAS_OF_$*); do \
	    $(RUN) -m pip install --quiet --only-binary=:all: --editable ".[$$extra]" 2>/dev/null || \
	        echo "no wheels for the extra $$extra on $(PYTHON): its tests are skipped"; \
	done
	@touch $@

# Debian's bare python3 has venv but not ensurepip; its pip can put a pip into an environment that has none.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "shoal needs Python 3.10 or later, and $(PYTHON) is not that; try PYTHON=python3.12 make ..." >&2; exit 1; }
	@if $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null; then $(PYTHON) -m venv --clear $(VENV); \
	elif $(PYTHON) -c 'import venv, pip' 2>/dev/null; then \
	    $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	    $(PYTHON) -m pip --python $(RUN) install --quiet pip; \
	else \
	    echo "$(PYTHON) can make no virtual environment: it lacks venv or ensurepip." >&2; \
	    echo "On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; \
	fi
	@touch $@
