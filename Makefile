# Each target makes the environment it needs; `make demo` is the place to begin.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One ONNX Runtime wheel, never both: the GPU's where a GPU answers.
BACKEND := $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
OTHER := $(if $(filter gpu,$(BACKEND)),onnxruntime,onnxruntime-gpu)
# What the tests need; real engines are built without a GPU.
TESTED := export,$(BACKEND),tensorrt-rtx,look,otel,dev
# Test files at a time; each process keeps to one thread.
JOBS ?= 2
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

# The signatures of the real TensorRT; made where gcc and binutils are.
STUBS := build/stubs/tensorrt/__init__.pyi

.PHONY: demo test test-slow parity stubs lint format bench protos clean

demo: $(VENV)/.installed-demo-$(BACKEND)
	$(BIN)/twinport demo

test: $(VENV)/.installed-test-$(BACKEND)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-slow: $(VENV)/.installed-test-$(BACKEND)
	$(BIN)/python -m pytest -m slow

stubs: $(STUBS)

lint: $(VENV)/.installed-lint-$(BACKEND) $(STUBS)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-lint-$(BACKEND)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Every backend beside PyTorch in float64, on all test images; lists what cannot run here.
parity: $(VENV)/.installed-test-$(BACKEND)
	$(BIN)/python benchmarks/parity_matrix.py

bench: $(VENV)/.installed-test-$(BACKEND)
	$(BIN)/python benchmarks/tolerance.py --check
	$(BIN)/python benchmarks/tolerance_lower.py --check
	$(BIN)/python benchmarks/moe_forms.py --check
	$(BIN)/python benchmarks/placement.py
	$(BIN)/python benchmarks/path.py
	$(BIN)/python benchmarks/export.py --check
	$(BIN)/python benchmarks/layers.py
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/serving_profile.py

protos: $(VENV)/.installed-test-$(BACKEND)
	$(BIN)/python -m protos.generate

$(STUBS): tests/stubs/tensorrt_stubs.py tests/stubs/clean_stubs.py | $(VENV)/.installed-lint-$(BACKEND)
	$(BIN)/python $< build/stubs

clean:
	rm -rf $(VENV) build dist *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# What comes first into the environment: the other wheel would overwrite this one's files.
$(VENV)/.backend-$(BACKEND): | $(BIN)/python
	$(BIN)/pip uninstall --quiet --yes --disable-pip-version-check $(OTHER)
	rm -f $(VENV)/.backend-* $(VENV)/.installed-*
	touch $@

$(VENV)/.installed-demo-$(BACKEND): pyproject.toml | $(VENV)/.backend-$(BACKEND)
	$(PIP) --editable '.[export,$(BACKEND)]'
	touch $@

$(VENV)/.installed-test-$(BACKEND): pyproject.toml | $(VENV)/.backend-$(BACKEND)
	$(PIP) --editable '.[$(TESTED)]'
	touch $@

$(VENV)/.installed-lint-$(BACKEND): pyproject.toml | $(VENV)/.backend-$(BACKEND)
	$(PIP) --editable '.[$(TESTED),lint]'
	touch $@
