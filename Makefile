# Sets up .venv with the pinned packages and khabar itself, then runs what is asked.
# Needs Python 3.11 or later and a package index; override with `make PYTHON=python3.12 …`.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
TYPES  := build/types/khabar

PYTEST_ARGS ?=
BENCH_ARGS  ?= --only baselines

.PHONY: demo test lowest lint format bench clean setup
.DELETE_ON_ERROR:

setup: $(READY)

# A changed pin, pyproject.toml or version (in khabar/__init__.py) installs again; nothing else does.
$(READY): requirements.txt pyproject.toml khabar/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "khabar needs Python 3.11 or later; $(PYTHON) is `$(PYTHON) --version 2>&1`. Try make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY)
	@$(BIN)/khabar score --format text examples/article.txt

test: $(READY)
	$(BIN)/pytest $(PYTEST_ARGS)

# The quick tests, with the lowest versions that pyproject.toml allows.
lowest: $(READY)
	.ci/lowest $(PYTEST_ARGS)

# mypy wants packages under their installed names: khabar/models and so on.
lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@rm -rf build/types && mkdir -p $(TYPES)
	@ln -s $(CURDIR)/khabar/*.py $(CURDIR)/khabar/py.typed $(TYPES)/
	@ln -s $(CURDIR)/models $(CURDIR)/inference $(CURDIR)/training $(TYPES)/
	$(BIN)/mypy $(TYPES) benchmarks

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python benchmarks/quality.py $(BENCH_ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
