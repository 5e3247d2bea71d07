# `make run` and `make test` do all the set-up themselves, on a bare Debian too. See .ci/setup for what they install.
PYTHON := .venv/bin/python
# Guests and servers take the processors themselves; a file's tests share its servers.
PARALLEL := --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

.PHONY: run test lint bench screenshots packages packages-test clean

run: ## install what is missing and open Farboot on the demonstration
	@.ci/setup run
	@.venv/bin/farboot demo

test: ## install the test servers and run everything (on a throwaway machine)
	@.ci/setup test
	@$(MAKE) --no-print-directory lint
	$(PYTHON) -m pytest $(PARALLEL) $(PYTEST) || { echo "A shared machine stalls now and then: what failed gets one second chance."; \
		$(PYTHON) -m pytest --last-failed --last-failed-no-failures none; }

lint: ## style, types, import contracts
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	PYTHONPATH=. .venv/bin/lint-imports

bench: ## speed and memory, side by side with what a user would use instead
	@.ci/setup test
	@for bench in tests/bench/bench_*.py; do echo "== $$bench"; PYTHONPATH=. $(PYTHON) $$bench || exit 1; done

screenshots: ## the pictures of the README, taken from the real application
	@.ci/setup test
	PYTHONPATH=. $(PYTHON) screenshots/make.py

packages: ## only the Debian packages of `make run` (as root)
	@.ci/setup packages run

packages-test: ## only the Debian packages of `make test` (as root)
	@.ci/setup packages test

clean: ## remove what the above made in this folder
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
