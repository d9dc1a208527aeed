# Everything lives in .venv; each target first installs what it needs there.
# `make help` lists the targets. Another Python: make book PYTHON=python3.12
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Byte code is written when a module is first imported, not for all of them here.
INSTALL := $(PIP) install --quiet --no-compile --prefer-binary -c constraints.txt
PAGE := _build/html/index.html

.DEFAULT_GOAL := help
.PHONY: help book test quick notebooks portable results lab lock clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is older than 3.11; name another: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Two sets: the small one builds the book (no torch), the full one runs it.
$(VENV)/book.stamp: requirements-book.txt constraints.txt | $(BIN)/python
	$(INSTALL) -r requirements-book.txt
	@touch $@

$(VENV)/full.stamp: requirements-dev.txt requirements.txt requirements-book.txt \
                    requirements-frameworks.txt constraints.txt pyproject.toml | $(BIN)/python
	$(INSTALL) -r requirements-dev.txt
	@touch $@ $(VENV)/book.stamp

# From nothing each time: on top of an earlier build Sphinx saves a few seconds, but
# leaves old titles in the sidebars and pages of modules that are gone, and forgets the
# warnings it gave before.
book: $(VENV)/book.stamp  ## build the book (installs no torch)
	@rm -rf _build/html _build/.doctrees chapters/appendices/api
	$(BIN)/jupyter-book build -q -n -W --keep-going .
	@echo; echo "Open $(PAGE)"

test: $(VENV)/full.stamp  ## run every check: lint, library, notebooks, book
	@.ci/checks $(BIN)

quick: $(VENV)/full.stamp  ## lint, types and the quick tests: about a minute
	@.ci/checks $(BIN) lint types quick

notebooks: $(VENV)/full.stamp  ## run all notebooks again and store their output
	OMP_NUM_THREADS=1 $(BIN)/python -m reptile_book.notebooks $(NB)

portable: $(VENV)/full.stamp  ## check the notebooks on the oldest instruction set
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 .ci/checks $(BIN) notebooks

results: $(VENV)/full.stamp  ## run a row of the tables again: make results ROW=glyphs-5way
	$(BIN)/python -m reptile_book reproduce $(ROW) --seeds $(or $(SEEDS),0) \
	  --budget $(or $(BUDGET),full)

.PHONY: bench
bench: $(VENV)/full.stamp  ## measure speed and memory: about 15 minutes
	$(BIN)/python -u -m benchmarks

# On a machine with a GPU and perhaps nothing else: with what is there, in .venv or, where
# there is none, in the system's Python. OUT and MINUTES may be given.
ANY := $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
.PHONY: gpu gpu-data
gpu:  ## measure all that needs a GPU: 8 minutes, installs nothing
	$(ANY) -u -m benchmarks.gpu --out $(or $(OUT),runs/gpu) --minutes $(or $(MINUTES),8)

gpu-data:  ## pack Omniglot for make gpu into .gpu-data (3 MB)
	REPTILE_CACHE=.gpu-data $(ANY) -c "from reptile_lib import load; load('omniglot')"
	@test -s .gpu-data/omniglot.npz

.PHONY: data
data: $(VENV)/full.stamp  ## download every data set and check it: about 500 MB
	$(BIN)/python -m reptile_lib data get

lab: $(VENV)/full.stamp  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab

lock: requirements-dev.txt  ## make constraints.txt again (needs uv)
	uv pip compile --universal --python-version 3.11 --no-annotate --no-emit-index-url \
	  --no-emit-find-links --no-emit-package reptile-book --upgrade \
	  --custom-compile-command "make lock" requirements-dev.txt -o constraints.txt

clean:  ## remove what was built; keeps .venv
	rm -rf _build chapters/appendices/api .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
