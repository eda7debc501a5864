# Every target sets up .venv by itself, from the pinned versions in constraints.txt.

.DEFAULT_GOAL := help
.PHONY: help demo test slow check docs benchmark reliability fuzz gpu wheel torture

VENV := .venv
BIN := $(VENV)/bin
# The first Python that is new enough. Another one: make demo PYTHON=/path/to/python
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

# Installing compiles nothing to bytecode (half of its time); what runs is compiled when first used, and kept.
INSTALL := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-compile -c constraints.txt
export PYTHONDONTWRITEBYTECODE :=

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.installed ## train two small models on MNIST, evaluate and compare them: minutes
	@$(BIN)/flowvae demo

test: $(VENV)/.installed-development ## the fast tests and the examples in docstrings
	@$(BIN)/python -m pytest -m "not slow" -n 2

slow: $(VENV)/.installed-development ## the slow tests: a browser, several processes, all graphs and peers
	@$(INSTALL) -e '.[data,dev,oracles,onnx,explore,browser,benchmark]'
	@$(BIN)/python -m pytest -m slow
	@$(BIN)/python -m pytest tests/test_benchmarks.py

check: $(VENV)/.installed-development ## style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo

docs: $(VENV)/.installed-docs ## build the site in site/, warnings are errors; run the notebooks
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@$(BIN)/python -m pytest -p no:cacheprovider --nbmake examples

benchmark: $(VENV)/.installed-benchmark ## measure against peers and the machine; PARTS="planar coupling" for some
	@$(BIN)/python -m benchmarks $(PARTS)

reliability: $(VENV)/.installed-reliability ## try what is promised, for hours; PARTS="coverage" for some
	@$(BIN)/python -m campaigns $(PARTS)

fuzz: $(VENV)/.installed-development ## try 100,000 damaged files, hostile words and requests; continues if interrupted
	@$(BIN)/python -m campaigns fuzz

torture: $(VENV)/.installed-development ## kill runs of every system at every kind of moment, and resume them
	@$(BIN)/python -m campaigns kills

gpu: $(VENV)/.installed-development ## try what is promised of a GPU, on the one that is here, if any
	@$(BIN)/python -m campaigns gpu

wheel: $(VENV)/.installed ## build dist/flowvae-*.whl
	@$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls -l dist/*.whl

# Installed anew whenever what is to be installed changes.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(virtual_environment)
	@echo "Installing flowvae and its pinned dependencies in $(VENV): a minute or more, PyTorch is large"
	@$(INSTALL) -e .
	@touch $@

# The development set contains the other: one installation does for both.
$(VENV)/.installed-development: pyproject.toml constraints.txt
	@$(virtual_environment)
	@echo "Installing flowvae, its pinned dependencies and the tools of its tests in $(VENV): a minute or more"
	@$(INSTALL) -e '.[data,dev,oracles,onnx]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-reliability: $(VENV)/.installed-development
	@$(INSTALL) -e '.[mutation]'
	@touch $(VENV)/.installed $(VENV)/.installed-development $@

$(VENV)/.installed-docs: pyproject.toml constraints.txt
	@$(virtual_environment)
	@echo "Installing flowvae and what builds its documentation in $(VENV): a minute or more"
	@$(INSTALL) -e '.[docs]' pytest
	@touch $(VENV)/.installed $@

$(VENV)/.installed-benchmark: pyproject.toml constraints.txt
	@$(virtual_environment)
	@echo "Installing flowvae and the libraries that it is measured against in $(VENV): a minute or more"
	@$(INSTALL) -e '.[benchmark]'
	@touch $(VENV)/.installed $@

# A .venv without a working pip is one whose making was interrupted, or whose Python has gone.
define virtual_environment
$(BIN)/python -m pip --version >/dev/null 2>&1 || { python="$(PYTHON)"; \
	$${python:-false} -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "flowvae needs Python 3.11 or newer: install it, or name it: make PYTHON=/path/to/python" >&2; exit 1; }; \
	echo "Making $(VENV) with $$($$python --version)"; $$python -m venv --clear $(VENV); }
endef
