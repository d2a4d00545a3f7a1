# Uses uv if it is on the PATH, otherwise (or with UV=) venv and pip.
PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null)
BIN := .venv/bin
READY := .venv/ready
# uv trusts the certificates of the system, as pip does.
export UV_SYSTEM_CERTS ?= true

.PHONY: demo test test-fast test-latest test-lowest check format bench

demo: $(READY) ## render the template with the default answers into build/ and serve it at http://127.0.0.1:8000
	$(BIN)/cookiecutter . --no-input --overwrite-if-exists --output-dir build
	$(MAKE) -C build/example-service run

test: $(READY) ## run all tests: render each pair of answers and run the tests; ARGS="-k name" selects some
	$(BIN)/python -m pytest -n logical --maxprocesses 4 $(ARGS)

test-fast: $(READY) ## run the fast tests (80 seconds on two cores): render, static checks, one suite on SQLite and PostgreSQL
	$(BIN)/python -m pytest -n logical --maxprocesses 4 -m "not full" $(ARGS)

test-latest: $(READY) ## run the fast tests with the newest versions of all dependencies
	UV_RESOLUTION=highest UV_REFRESH=1 $(MAKE) test-fast

test-lowest: $(READY) ## run the fast tests with the lowest versions that the service accepts
	UV_RESOLUTION=lowest-direct $(MAKE) test-fast

check: $(READY) ## check format, lint, types and import directions of the template and of the unrendered service
	$(BIN)/python -m pytest -m "not full" tests/test_checks.py

format: $(READY) ## format the code of the template and of the service, and apply the linter's fixes
	$(BIN)/ruff check --fix --exit-zero . '{{cookiecutter.project_slug}}'
	$(BIN)/ruff format . '{{cookiecutter.project_slug}}'

bench: $(READY) ## compare the service with alternatives; ARGS=bulk runs another mode of benchmarks/
	$(BIN)/python -m benchmarks $(ARGS)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("$(PYTHON) is \
	Python %d.%d: name one that is 3.11 or newer, as in PYTHON=python3.13" % sys.version_info[:2])'
	@echo "Installing into .venv: this takes a minute or two."
	@if [ -n "$(UV)" ]; then \
		$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv && \
		$(UV) pip install --quiet --python .venv --group dev; \
	else \
		$(PYTHON) -m venv .venv && \
		$(BIN)/python -m pip install --quiet --upgrade pip && \
		$(BIN)/python -m pip install --quiet --group dev; \
	fi
	@touch $(READY)
