# Every target does its own set-up. `make demo` and `make test` are all a newcomer needs.
VENV := .venv
PYTHON ?= python3
PYTEST := $(VENV)/bin/python -m pytest
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
READY := $(VENV)/.ready

.PHONY: venv demo test check lint bench fuzz test-cluster system-deps crds lock

venv: $(READY)

$(READY): requirements-dev.txt pyproject.toml
	@echo "setting up $(VENV): once, about a minute"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --require-hashes -r requirements-dev.txt
# setuptools warns that the packages of an editable installation may hide others of their names; they are the only ones.
	@PYTHONWARNINGS="ignore:Editable installation" $(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)  ## push an image and watch it get warm on three nodes, all on this machine
	@$(VENV)/bin/warmhook demo $(ARGS)

lint: $(READY)  ## style, types, import contracts
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache

check: lint  ## lint, unit and property tests
	$(PYTEST)

test: lint  ## everything this machine can run in minutes
	$(PYTEST) -m "not alone and not nightly and not cluster" --hypothesis-profile=thorough --durations=15
	$(PYTEST) -n 0 -m "alone and not nightly"

fuzz: export WARMHOOK_FUZZ_SEED := $(or $(WARMHOOK_FUZZ_SEED),$(shell od -An -N4 -tu4 /dev/urandom | tr -d " "))
fuzz: $(READY)  ## nightly: the long runs of the generated tests, with seeds of their own
	$(PYTEST) -m "(nightly or hypothesis) and not e2e" --hypothesis-profile=nightly
	$(PYTEST) -n 0 -m "nightly and e2e"
	$(VENV)/bin/python -m tests.fuzz

bench: $(READY)  ## measure; prints bars and spreads, and writes build/bench.json
	$(VENV)/bin/python -m tests.bench

test-cluster: $(READY)  ## contract and end-to-end tests on the cluster of WARMHOOK_TEST_KUBECONFIG
	@test -n "$(WARMHOOK_TEST_KUBECONFIG)" || { echo "set WARMHOOK_TEST_KUBECONFIG to a kubeconfig whose cluster may be written to"; exit 2; }
	$(PYTEST) -n 0 -m "cluster"

crds: $(READY)  ## write knative/base/crds and docs/api.md from the models
	$(VENV)/bin/warmhook crds --output-dir knative/base/crds --reference docs/api.md

system-deps:  ## what the tests with real programs need, on Debian 12
	$(if $(filter 0,$(shell id -u)),,sudo) apt-get update -qq
	$(if $(filter 0,$(shell id -u)),,sudo) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
		containerd docker-registry skopeo umoci chromium prometheus python3-venv
# Debian has no Helm.
	@command -v helm >/dev/null || { command -v go >/dev/null && GOBIN=/usr/local/bin go install helm.sh/helm/v3/cmd/helm@v3.22.0; } \
		|| echo "install helm 3 to test the chart"

lock: $(READY)  ## pin all dependencies with hashes and without naming an index; takes minutes
	$(VENV)/bin/pip-compile $(LOCK_FLAGS) --output-file requirements.txt pyproject.toml
	$(VENV)/bin/pip-compile $(LOCK_FLAGS) --extra dev --constraint requirements.txt --output-file requirements-dev.txt pyproject.toml
	$(VENV)/bin/pip-compile $(LOCK_FLAGS) --only-build-deps --build-deps-for wheel --constraint requirements-dev.txt --output-file requirements-build.txt pyproject.toml

LOCK_FLAGS := --quiet --no-header --generate-hashes --allow-unsafe --strip-extras \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-annotate
