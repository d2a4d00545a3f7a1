# With uv on the PATH it is used, without it (or with UV=) Python's own venv and pip.
PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null)
BIN := .venv/bin
READY := .venv/ready
# As pip does: trust whom the machine trusts.
export UV_SYSTEM_CERTS ?= true

.PHONY: demo test test-fast test-latest test-lowest check format bench

demo: $(READY) ## render the template with its defaults into build/ and serve it at http://127.0.0.1:8000
	$(BIN)/cookiecutter . --no-input --overwrite-if-exists --output-dir build
	$(MAKE) -C build/example-service run

test: $(READY) ## render the template in every way, and run what it renders; ARGS="-k name" for some of it
	$(BIN)/python -m pytest -n 2 $(ARGS)

test-fast: $(READY) ## two minutes of it: render, check what is static, one suite on SQLite and PostgreSQL
	$(BIN)/python -m pytest -m "not full" $(ARGS)

test-latest: $(READY) ## the same with the newest versions of what the service needs, whatever is cached
	UV_RESOLUTION=highest UV_REFRESH=1 $(MAKE) test-fast

test-lowest: $(READY) ## the same with the lowest versions that the service accepts
	UV_RESOLUTION=lowest-direct $(MAKE) test-fast

check: $(READY) ## format, lint, types and arrows, of the template and of the service inside, as it stands
	$(BIN)/shellcheck .ci/*
	$(BIN)/zizmor --offline --strict-collection .
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_unrendered.py -k "not pytest"

format: $(READY) ## format the code, also the service's, and mend what the linter can mend
	$(BIN)/ruff check --fix --exit-zero . '{{cookiecutter.project_slug}}'
	$(BIN)/ruff format . '{{cookiecutter.project_slug}}'

bench: $(READY) ## measure the service beside others; ARGS=bulk for another mode of benchmarks/
	$(BIN)/python -m benchmarks $(ARGS)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("$(PYTHON) is \
	Python %d.%d: name one that is 3.11 or newer, as in PYTHON=python3.13" % sys.version_info[:2])'
	@if [ -n "$(UV)" ]; then \
		$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv && \
		$(UV) pip install --quiet --python .venv --group dev; \
	else \
		$(PYTHON) -m venv .venv && \
		$(BIN)/python -m pip install --quiet --upgrade pip && \
		$(BIN)/python -m pip install --quiet --group dev; \
	fi
	@touch $(READY)
