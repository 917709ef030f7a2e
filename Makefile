# Two commands do everything: `make train` (the main job) and `make test`.
# Both set up .venv first; the second call starts at once.
#   make train ARGS="env=search objective.clip=0.1"     any Hydra override
PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
# Processes that the tests are spread over.
JOBS   ?= 2
# GPU machines get the CUDA build of vLLM, all others the CPU build (override: make EXTRA=cpu train).
EXTRA  ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready-$(EXTRA)
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: train test test-unit setup lint clean help

train: $(READY)
	@$(BIN)/rl-train $(ARGS)

test: $(READY) lint
	@$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

# What starts neither vLLM, Ray nor a command: two minutes.
test-unit: $(READY)
	@$(BIN)/python -m pytest -n $(JOBS) -m "unit and not gpu and not slow" $(ARGS)

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

setup: $(READY)

# torch first: without the "+cpu" pin pip would fetch several GB of CUDA packages on a machine that has no GPU.
# vLLM drags in torchvision, torchaudio and torchcodec; their default wheels do not match the CPU torch, and a broken
# torchvision takes transformers' imports down with it. Nothing here uses them: remove them when they do not import.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
	  { echo "error: $(PYTHON) must be Python 3.11 or 3.12; run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "setting up $(VENV) ($(EXTRA)); this takes 2 to 5 minutes once"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifeq ($(EXTRA),cpu)
	@$(BIN)/python -c 'import torch; assert torch.__version__.startswith("2.13.0")' 2>/dev/null || \
	  $(BIN)/pip install -qq --disable-pip-version-check "torch==2.13.0+cpu" 2>/dev/null || \
	  $(BIN)/pip install -qq --disable-pip-version-check "torch==2.13.0+cpu" --index-url $(TORCH_CPU_INDEX)
endif
	@$(BIN)/pip install --disable-pip-version-check --progress-bar off -qq -e ".[$(EXTRA),tasks,dev]"
	@$(BIN)/python -c 'import torchvision, torchaudio, torchcodec' >/dev/null 2>&1 || \
	  $(BIN)/pip uninstall -q -y torchvision torchaudio torchcodec
	@touch $@

clean:
	rm -rf runs cache build *.egg-info

help:
	@sed -n '1,4p' Makefile
