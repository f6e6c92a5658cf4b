# Each target makes the environment it needs; `make demo` is the place to begin.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One ONNX Runtime wheel, never both: the GPU's where a GPU answers.
BACKEND := $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo test test-slow lint format bench protos clean

demo: $(VENV)/.installed-demo
	$(BIN)/twinport demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.installed-test
	$(BIN)/python benchmarks/tolerance.py --check
	$(BIN)/python benchmarks/path.py

protos: $(VENV)/.installed-test
	$(BIN)/python -m protos.generate

clean:
	rm -rf $(VENV) build dist *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[export,$(BACKEND)]'
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[export,$(BACKEND),dev]'
	touch $@

$(VENV)/.installed-lint: pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[export,$(BACKEND),dev,lint]'
	touch $@
