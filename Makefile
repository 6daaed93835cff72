# What one does with this project, each from a machine that has Python 3.11 or newer and make.
#
#   make setup   the environment in .venv
#   make demo    from nothing to a model trained here and documents: asked, learned, changed, forgotten   (DOCS=folder, KEEP=1, STEPS=n)
#   make up      start the platform
#   make test    the tests that this machine can run               (PYTEST_ARGS="-k name"; THOROUGH=1: the longest journeys too)
#   make check   style, types, directions of imports, installed versions, their licences and vulnerabilities
#   make docs    write the generated pages of docs/reference
#   make bench   the benchmarks, beside their peers
#   make starter-smoke   the starter models' recipes at 1 %, with what this machine has
#   make starter-weights   install the weights in starter/weights: `modelworks pull starter-embed` needs no network then

.POSIX:
SHELL = /bin/sh

PYTHON = python3
VENV = .venv
BIN = $(VENV)/bin
# EXTRAS=dev,cluster adds Ray; the environment's value is taken.
EXTRAS ?= dev
STAMP = $(VENV)/.ready-$(EXTRAS)
PYTEST_WORKERS ?= 3
PYTEST_ARGS ?=
# Anything: the longest journeys, of which quicker tests show the parts, are run too.
THOROUGH ?=
# The version of the wheels that carry the weights.
WEIGHTS = 0.1.0

.PHONY: setup demo up test check docs bench starter-smoke starter-weights constraints clean

setup: $(STAMP)

# torch first: with the constraint in force nothing that follows can replace it by another build.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@

demo: setup
	$(BIN)/python demo/run.py

up: setup
	$(BIN)/modelworks serve

# Many processes are started, all of the same code: it is compiled once, whatever the shell says elsewhere.
test: setup
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadgroup --max-worker-restart 0 $(if $(THOROUGH),,-m "not thorough") $(PYTEST_ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pip check
	$(BIN)/python .ci/supply.py

docs: setup
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/reference/generate_cli.py

bench: setup
	$(BIN)/python benchmarks/gateway.py
	$(BIN)/python benchmarks/engine.py

starter-smoke: setup
	$(BIN)/python -m pytest tests/journeys/test_recipe.py

starter-weights: setup
	rm -f dist/modelworks_starter_*.whl
	$(BIN)/python starter/distribution.py starter/weights/*/ --version $(WEIGHTS) --out dist
	$(BIN)/python -m pip install --no-index --no-deps --force-reinstall dist/modelworks_starter_*.whl

# After a change of dependencies: take what is installed now as the pinned set.
constraints:
	{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/^torch==\([0-9.]*\).*/torch==\1/' | grep -v ' @ '; } > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) .demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
