# Two commands to know: `make run` starts a gateway with example origins, `make test` runs every test.
# Everything lives in .venv; nothing is installed outside it but the Debian packages the tests' real servers come from.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := $(shell find kairos -name '*.pyx' -o -name '*.pxd')
PACKAGES := nginx-light:nginx haproxy:haproxy wrk:wrk faketime:faketime nodejs:node npm:npm redis-server:redis-server \
  postgresql:pg_ctlcluster
APT := export DEBIAN_FRONTEND=noninteractive; apt-get update -qq && apt-get install -y -qq --no-install-recommends >/dev/null
PROVIDER := tests/oidc_provider/node_modules
JOBS ?= 2
WORKERS ?= 2
MINUTES ?= 1
# Some images set it. Each of the hundreds of gateways that tests start would compile all of kairos.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run test quicktest chaos bench bench-micro lint asan build debian lock clean help

help:  ## show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: build  ## start the gateway on port 5900 with two example origins behind it
	@exec $(BIN)/python examples/run.py

test: build debian $(PROVIDER)/.installed  ## every test, those against real servers included
	$(BIN)/python -m pytest tests -n $(WORKERS) --dist loadfile

quicktest: build  ## tests that start no process
	$(BIN)/python -m pytest tests/config tests/speedups tests/telemetry -n $(WORKERS) -q

chaos: build debian  ## the gateway while processes die, disks fill, clocks jump; longer with MINUTES=5
	KAIROS_CHAOS=$(MINUTES) $(BIN)/python -m pytest tests/chaos -n $(WORKERS) --dist loadfile

bench: build debian  ## CPU per request beside nginx and HAProxy, in turn
	$(BIN)/python -m bench

bench-micro: build  ## the compiled leaves, judged by the saved baseline
	$(BIN)/python -m bench.micro compare

lint: build  ## ruff, cython-lint, mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH=$(CURDIR)/$(BIN):$$PATH cython-lint kairos
	$(BIN)/mypy

asan: $(STAMP)  ## unit tests on an ASan and UBSan build of the extensions
	sh tools/asan.sh

build: $(VENV)/.built  ## compile the extensions in place

$(VENV)/.built: $(STAMP) setup.py $(SOURCES)
	KAIROS_JOBS=$(JOBS) $(BIN)/python setup.py -q build_ext --inplace --parallel $(JOBS)
	@touch $@

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11: name a newer one with make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, os, sys, sysconfig as s; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))' 2>/dev/null \
	  && command -v cc >/dev/null || { if [ "$$(id -u)" = 0 ]; then $(APT) python3-dev python3-venv gcc; \
	  else echo "missing: install with: sudo apt-get install python3-dev python3-venv gcc" >&2; exit 1; fi; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	KAIROS_EXT=none $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

debian:  ## the real servers that tests and benchmarks use
	@missing=""; for pair in $(PACKAGES); do command -v $${pair#*:} >/dev/null || missing="$$missing $${pair%%:*}"; done; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ]; then $(APT) $$missing; \
	  else echo "missing:$$missing - install with: sudo apt-get install$$missing" >&2; exit 1; fi; fi

$(PROVIDER)/.installed: tests/oidc_provider/package.json tests/oidc_provider/package-lock.json | debian
	cd tests/oidc_provider && npm ci --silent
	@touch $@

lock:  ## renew requirements.lock (versions and hashes, no addresses)
	$(BIN)/python -m pip install -q uv
	$(BIN)/uv pip compile pyproject.toml --extra dev --generate-hashes --no-header --no-emit-index-url --universal \
	  --python-version 3.11 -q -o requirements.lock

clean:  ## remove what was built
	rm -rf build .asan $(VENV)/.built kairos.egg-info kairos_gateway.egg-info
	find kairos -name '*.so' -delete -o -name '*.c' -delete -o -name '*.html' -delete
