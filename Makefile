# Two commands: `make run` and `make test`. Each sets up .venv by itself.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
JOBS   ?= 2
BENCHMARKS := data_loading training_step training_profile projection sparse_layers \
  sparse_training compaction circulant squant quant_encode quant_aware verify_bounds \
  verify_reference verify_memory verify_soundness cost_model zo

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
	set -e; for name in $(BENCHMARKS); do \
	  $(BIN)/python -m benchmarks.$$name --json=runs/$$name.json; done
	$(BIN)/python -m benchmarks.report $(addprefix runs/,$(addsuffix .json,$(BENCHMARKS)))

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .jax_cache
