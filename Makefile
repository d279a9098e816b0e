# `make repro` and `make test` are all that a user needs; the rest is for those who change medloop.
PROFILE ?=
SET ?=
SHELL := /bin/bash
BIN := .venv/bin
LOCK ?= $(or $(patsubst .venv/installed-%,%,$(firstword $(wildcard .venv/installed-*))),default)
READY := .venv/installed-$(LOCK)
PYTHONS := python3.13 python3.12 python3.11 python3
UV_COMPILE := $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --upgrade -q \
	--excludes requirements/excluded.txt

# SET holds KEY=VALUE words, quoted as in a shell; nothing in it is run.
SETTINGS := words=$$(xargs -r printf '%s\n' <<<"$$SET") && { settings=(); [ -z "$$words" ] || mapfile -t settings <<<"$$words"; } &&
export SET PROFILE

.PHONY: setup repro experiment test lint bench lock clean
.DEFAULT_GOAL := repro

setup: $(READY)  ## the environment alone

repro: $(READY)  ## run the loop: make repro [PROFILE=breastmnist] [SET="train.epochs=3 base.seed=1"]
	@$(SETTINGS) $(BIN)/medloop repro $${PROFILE:+--profile "$$PROFILE"} "$${settings[@]/#/--set=}"

experiment: $(READY)  ## a DVC experiment: make experiment SET="train.epochs=3"; without a git identity, under a stand-in
	@export PATH="$(CURDIR)/$(BIN):$$PATH"; \
	if ! git config user.email >/dev/null; then export GIT_AUTHOR_NAME=medloop GIT_AUTHOR_EMAIL=medloop@localhost \
	GIT_COMMITTER_NAME=medloop GIT_COMMITTER_EMAIL=medloop@localhost; fi; \
	$(SETTINGS) medloop params "$${settings[@]/#/--set=}" >/dev/null && dvc exp run "$${settings[@]/#/--set-param=}"

test: $(READY) lint  ## lint, types, tests
	@$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder --durations 40 --durations-min 10

lint: $(READY)
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check . && $(BIN)/mypy

bench: $(READY)  ## speed and memory as ratios against named rivals, each measured in one run
	@for bench in tests/benchmarks/bench_*.py; do echo "== $$bench"; $(BIN)/python $$bench || exit 1; done

lock: $(READY)  ## resolve every version again
	$(UV_COMPILE) --extra train --extra cpu --extra pipelines --extra trainer --extra stack --extra report --group dev -o requirements/default.lock
	$(UV_COMPILE) --extra train --extra gpu --extra pipelines --extra trainer --extra report --group dev -o requirements/gpu.lock
	$(UV_COMPILE) --extra step -o requirements/light.lock
	$(UV_COMPILE) --extra step --extra trainer --extra train --extra gpu --extra report -o requirements/train.lock
	$(UV_COMPILE) --extra step --extra trainer --extra train --extra cpu --extra report -o requirements/train-cpu.lock
	$(UV_COMPILE) --extra stack -o requirements/stack.lock
	$(UV_COMPILE:pyproject.toml=) --group serve -o requirements/serve.lock
	$(UV_COMPILE:pyproject.toml=) --group bootstrap -o requirements/bootstrap.lock

clean:  ## remove outputs and caches; the environment, the registry and the keys stay
	rm -rf artifacts .dvc/cache .dvc/tmp .medloop/private/cache .medloop/private/dvc dvc.lock .pytest_cache .mypy_cache .ruff_cache

# The lock is installed by uv, which pip installs from a lock of its own: LOCK=gpu for a machine with a GPU.
$(READY): requirements/$(LOCK).lock requirements/bootstrap.lock pyproject.toml
	@python=$$(for name in $(PYTHONS); do command -v $$name >/dev/null && $$name -c \
	'import sys, platform, venv, ensurepip; sys.exit(not ((3, 11) <= sys.version_info < (3, 14) and platform.system() == "Linux" and platform.machine() == "x86_64"))' \
	2>/dev/null && echo $$name && break; done); \
	if [ -z "$$python" ]; then \
	  echo "medloop needs Python 3.11, 3.12 or 3.13 with the venv module on x86-64 Linux; found $$(python3 --version 2>/dev/null || echo no python3) on $$(uname -sm)." >&2; exit 2; fi; \
	echo "setting up .venv from requirements/$(LOCK).lock with $$python"; \
	rm -rf .venv && $$python -m venv .venv && \
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.lock && \
	export UV_INDEX_URL="$${UV_INDEX_URL:-$$PIP_INDEX_URL}" && { [ -n "$$UV_INDEX_URL" ] || unset UV_INDEX_URL; } && \
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements/$(LOCK).lock && \
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable . && \
	touch $@
