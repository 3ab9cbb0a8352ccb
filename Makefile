# Two commands: `make run` and `make test`. Each sets up .venv by itself.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
JOBS   ?= 2
BENCHMARKS := training_step projection sparse_layers sparse_training compaction squant \
  quant_encode quant_aware verify_bounds verify_reference verify_memory \
  verify_soundness

.PHONY: run test check lint format bench clean

run: $(VENV)/.run
	$(BIN)/python launch.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n $(JOBS) --dist=loadfile --no-loadscope-reorder tests

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Lathe needs Python 3.11 or newer; name one with PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --upgrade pip
	@touch $@

$(VENV)/.run: requirements.txt pyproject.toml $(VENV)/.venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e .
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-dev.txt
	@touch $@

$(VENV)/.bench: requirements-bench.txt $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-bench.txt
	@touch $@

bench: $(VENV)/.bench
	mkdir -p runs
	$(BIN)/python -m benchmarks.training_step --json=runs/training_step.json
	$(BIN)/python -m benchmarks.projection --json=runs/projection.json
	$(BIN)/python -m benchmarks.sparse_layers --json=runs/sparse_layers.json
	$(BIN)/python -m benchmarks.sparse_training --json=runs/sparse_training.json
	$(BIN)/python -m benchmarks.compaction --json=runs/compaction.json
	$(BIN)/python -m benchmarks.squant --json=runs/squant.json
	$(BIN)/python -m benchmarks.quant_encode --json=runs/quant_encode.json
	$(BIN)/python -m benchmarks.quant_aware --json=runs/quant_aware.json
	$(BIN)/python -m benchmarks.verify_bounds --json=runs/verify_bounds.json
	$(BIN)/python -m benchmarks.verify_reference --json=runs/verify_reference.json
	$(BIN)/python -m benchmarks.verify_memory --json=runs/verify_memory.json
	$(BIN)/python -m benchmarks.verify_soundness --json=runs/verify_soundness.json
	$(BIN)/python -m benchmarks.report $(addprefix runs/,$(addsuffix .json,$(BENCHMARKS)))

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .jax_cache
