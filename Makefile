# Needs Python 3.10 or newer, and nothing else: each target installs what it uses and skips what is there.

PYTHON ?= python3
VENV := .venv
# open_clip 2.24, the oldest line supported and the one on which the host's own WinCLIP is right.
VENV_OPENCLIP2 := .venv-openclip2

QUICKSTART ?= $(VENV)/bin/python -m anomalib_clipad.quickstart
# What runs a second time, on open_clip 2.24: all that touches CLIP. Heads are trained on what the towers give.
OPENCLIP2_TESTS ?= tests/unit/clip tests/unit/scoring tests/unit/models/test_lightning_model.py \
	tests/unit/benchmarks/test_baselines.py
COMPARE_ARGS ?=
BENCH_ARGS ?=
WORKERS ?= 2
# Of noxfile.py, all by default.
SESSIONS ?=
# A worker that dies fails the run: pytest-xdist would wait for ever for some of its tests.
PYTEST_ARGS ?= --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 --timeout 900 --durations 20 --durations-min 5
# One thread a worker: more of them only wait for each other.
ONE_THREAD := OMP_NUM_THREADS=1

UV := $(VENV)/bin/uv
READY := $(VENV)/.ready
READY_OPENCLIP2 := $(VENV_OPENCLIP2)/.ready
READY_REAL := $(VENV_OPENCLIP2)/.ready-real
# A change of these installs again.
PROJECT := pyproject.toml src/anomalib_clipad/_version.py

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help quickstart compare real paper bench bench-check docs test thorough matrix setup lint types pytest pytest-openclip2 format constraints clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 28

quickstart: $(READY) ## run SDP and SDP+ on synthetic products with the model that ships with the package
	$(QUICKSTART)

compare: $(READY) $(READY_OPENCLIP2) ## compare with WinCLIP's algorithm and PatchCore, offline; writes a page
	$(VENV_OPENCLIP2)/bin/anomalib-clipad compare --config configs/compare_synthetic.yaml $(COMPARE_ARGS)

real: $(READY_REAL) ## the same four on photographs of magnetic tiles, where they are, and of solar cells
	$(VENV_OPENCLIP2)/bin/anomalib-clipad compare --config configs/real_photographs.yaml $(COMPARE_ARGS)

paper: $(READY_OPENCLIP2) ## the paper's figures beside measured ones, on MVTec AD and VisA; downloads some GB, takes hours
	status=0; for dataset in mvtec visa; do \
		$(VENV_OPENCLIP2)/bin/anomalib-clipad compare --config configs/paper_$$dataset.yaml $(COMPARE_ARGS) || status=1; \
	done; exit $$status

bench: $(READY) $(READY_OPENCLIP2) ## measure speed and memory, and write docs/performance.md and the baseline; about an hour
	$(VENV)/bin/python -W ignore -m benchmarks.performance --series 3 --output docs/performance.md \
		--json benchmarks/performance/baseline.json $(BENCH_ARGS)

bench-check: $(READY) ## which figures got worse by a tenth since the last release, whose wheel is built from git; half an hour
	$(VENV)/bin/python -W ignore -m benchmarks.performance.check $(BENCH_ARGS)

docs: $(READY) ## build the documentation site, site/index.html; it opens without a server or network
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

test: lint types pytest-openclip2 pytest ## run every check: ruff, mypy, pytest on both open_clip lines

thorough: $(READY) ## what tests try in part, in full: every backbone, commands that are killed or have no room, benchmarks
	$(ONE_THREAD) $(VENV)/bin/python -m pytest $(PYTEST_ARGS) --dist worksteal --thorough \
		$(addprefix tests/integration/test_,contract.py faults.py other_backbones.py benchmarks.py)

matrix: $(READY) ## the quick tests on each Python that is here, and on the oldest versions admitted; some GB of disk each
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/nox $(if $(SESSIONS),--session $(SESSIONS))

setup: $(READY) $(READY_OPENCLIP2) ## make both environments

lint: $(READY) ## ruff
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

types: $(READY) ## mypy
	$(VENV)/bin/mypy

pytest: $(READY) ## all tests, on the newest open_clip
	$(ONE_THREAD) $(VENV)/bin/python -m pytest $(PYTEST_ARGS)

pytest-openclip2: $(READY_OPENCLIP2) ## the unit tests, on open_clip 2.24
	$(ONE_THREAD) $(VENV_OPENCLIP2)/bin/python -m pytest $(PYTEST_ARGS) $(OPENCLIP2_TESTS)

format: $(READY) ## ruff: fix and format
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

# uv is only a fast installer: it is pinned in the constraints file like everything else, and it links both
# environments to one copy of each package. Unlike pip it leaves bytecode to the first import, which in a container
# that does not write any (PYTHONDONTWRITEBYTECODE) would cost every command more than ten seconds.
$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Expected Python 3.10 or newer, but got " \
		+ sys.version.split()[0] + ". Name another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt uv

$(READY): $(PROJECT) constraints.txt | $(UV)
	$(UV) pip install --compile-bytecode --python $(VENV)/bin/python --constraint constraints.txt \
		--build-constraint constraints.txt --editable '.[dev]'
	@touch $@

$(READY_OPENCLIP2): $(PROJECT) constraints-openclip2.txt | $(UV)
	$(VENV)/bin/python -m venv --without-pip $(VENV_OPENCLIP2)
	$(UV) pip install --compile-bytecode --python $(VENV_OPENCLIP2)/bin/python \
		--constraint constraints-openclip2.txt --build-constraint constraints-openclip2.txt --editable '.[dev,compare]'
	@touch $@

# 91 MB of photographs that nothing else needs.
$(READY_REAL): $(READY_OPENCLIP2)
	$(UV) pip install --python $(VENV_OPENCLIP2)/bin/python --constraint constraints-openclip2.txt --editable '.[real]'
	@touch $@

# Writes the newest versions that agree, for every supported Python, on Linux and macOS. The second file differs
# from the first only in open_clip and what that needs: a compile keeps the versions already in its output file.
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.10 --no-header --no-annotate pyproject.toml

constraints: $(UV) ## pin the newest versions in the constraints files
	$(COMPILE) --extra dev --extra openvino --upgrade --output-file constraints.txt > /dev/null
	cp constraints.txt constraints-openclip2.txt
	echo 'open-clip-torch==2.24.0' | $(COMPILE) - --extra dev --extra openvino --extra compare \
		--extra real --output-file constraints-openclip2.txt > /dev/null

clean: ## remove the environments, caches and builds
	rm -rf $(VENV) $(VENV_OPENCLIP2) .nox build dist site .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
