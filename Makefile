# Everything a newcomer runs. `make demo` and `make test` set up what they need, as root on Debian.

PYTHON   ?= python3
VENV     := .venv
BIN      := $(VENV)/bin
CI_SECONDS ?= 2400
PY       := $(BIN)/python

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup deps lint format demo demo-down test test-unit test-dataplane test-ways test-random test-kernels \
        test-kernels-arm64 test-kernels-newer \
        test-operator test-e2e cli test-environments test-environments-ci \
        test-kind record-environments \
        bench-nat64 bench-dns64 bench-operator bench-rfc9693 bench-topology bench-keep bench-docs lock \
        cluster-up cluster-down cluster-status cluster-shell cluster-images clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: deps $(VENV)/.stamp bpf ## Install what is missing and build the eBPF program

deps:
	@scripts/apt-install scripts/apt.txt tests/cluster/apt.txt

$(VENV)/.stamp: pyproject.toml requirements.lock | deps
	@echo "setting up $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11: set PYTHON=..."; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

include dataplane/bpf/bpf.mk
$(BPF_OBJECT): | deps

lint: setup ## Lint and type-check everything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	clang-format --dry-run --Werror dataplane/bpf/*.[ch]
	@! git grep -nE '^(<{7}|>{7}) ' || { echo "a merge was left half done"; exit 1; }

format: setup ## Format Python and C
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	clang-format -i dataplane/bpf/*.[ch]

demo: setup ## From nothing to an IPv6-only pod that fetches from an IPv4-only name
	@$(PY) -m scripts.demo

demo-down: $(VENV)/.stamp ## Remove everything that `make demo` started
	@$(PY) -m tests.cluster down

test: lint ## All tests, unit to end-to-end
	@scripts/side-by-side "$(MAKE) --no-print-directory test-e2e test-operator" \
		"$(MAKE) --no-print-directory test-unit test-dataplane"

test-unit: setup ## Tests that run anywhere
	$(BIN)/pytest tests/unit tests/dns64 -n auto

test-dataplane: setup ## The translator: the real program, in network namespaces
	$(BIN)/pytest tests/dataplane

test-ways: setup ## The ways out of 400 random nodes, and of their pods, compared
	NAT64_RANDOM_EXAMPLES=1 NAT64_RANDOM_NODES=400 $(BIN)/pytest tests/dataplane/test_ways_property.py

test-random: setup ## All property tests, with examples that no run has tried
	NAT64_RANDOM_EXAMPLES=1 $(BIN)/pytest $$(grep -rlE "import .*given" tests --include='test_*.py' \
		--exclude-dir=kernels)

test-kernels: setup ## The translator on Debian 12's own kernel, in an emulator
	@scripts/apt-install tests/kernels/apt.txt
	$(PY) -m tests.kernels

test-kernels-newer: setup ## Two nodes in miniature on the newer kernel of Debian 12's backports
	@scripts/apt-install tests/kernels/apt.txt
	$(PY) -m tests.kernels --release bookworm-backports

test-kernels-arm64: setup ## The same in short, on Debian's arm64
	@scripts/apt-install tests/kernels/apt.txt tests/kernels/arm64-apt.txt
	$(PY) -m tests.kernels --architecture arm64

test-operator: setup ## The operator, against a real kube-apiserver and etcd
	$(BIN)/pytest tests/operator -n 2 --dist loadfile

test-e2e: setup ## The product on the real two-node cluster
	$(BIN)/pytest tests/e2e

test-environments: setup ## The product on other clusters; ENVIRONMENT=name for one
	@scripts/apt-install tests/environments/apt.txt
	$(PY) -m tests.environments $(ENVIRONMENT)

test-kind: setup ## The product on the real kind, with kind-config.yaml
	@scripts/apt-install tests/environments/apt.txt
	$(PY) -m tests.environments kind

# What is not done by then is ended. What the time doesn't allow, or would have to be built first, is
# left out and said. Only a test that fails twice, on two clusters, is a failure. kind goes first: the
# longer one fits then or never.
test-environments-ci: setup ## kind and Cilium within CI_SECONDS (40 minutes), where the cache has them
	@scripts/apt-install tests/environments/apt.txt || \
		{ echo "environments: left out: Debian packages are not to be had"; exit 0; }; \
	timeout --preserve-status --kill-after=60 $$(($(CI_SECONDS) + 60)) \
		$(PY) -m tests.environments --within $(CI_SECONDS) kind cilium; \
		found=$$?; test $$found -ne 137 || { echo "environments: left out: killed"; exit 0; }; exit $$found

record-environments: setup ## The same, written to docs/results/environments and docs/cni.md
	@scripts/apt-install tests/environments/apt.txt
	$(PY) -m tests.environments --record $(ENVIRONMENT); found=$$?; \
		$(PY) -m scripts.environments && exit $$found

cli: $(VENV)/.stamp ## kubectl nat64 as one file, and its krew manifest: build/cli
	@$(PY) -m scripts.cli_zipapp

bench-nat64: setup ## The translator beside its peers: build/bench/nat64.json
	@scripts/apt-install tests/bench/apt.txt
	$(PY) -m tests.bench.nat64

bench-dns64: setup ## The sidecar beside CoreDNS and Unbound: build/bench/dns64.json
	@scripts/apt-install tests/bench/dns64-apt.txt
	$(PY) -m tests.bench.dns64

bench-rfc9693: setup ## Ours, NAT44 and Tayga by RFC 9693: build/bench/rfc9693.json
	@scripts/apt-install tests/bench/apt.txt
	$(PY) -m tests.bench.rfc9693

bench-topology: setup ## Through gateway nodes, their failover, their probes: build/bench/topology.json
	@scripts/apt-install tests/bench/apt.txt
	$(PY) -m tests.bench.topology
	$(PY) -m tests.bench.failover
	$(PY) -m tests.bench.probes

bench-keep: setup ## Keep this machine's results and write them into the docs: make bench-keep NAME=amd-epyc
	$(PY) -m tests.bench.publish --keep "$(NAME)"

bench-docs: setup ## Write plots and tables in the docs from docs/results
	$(PY) -m tests.bench.publish

bench-operator: setup ## The operator at scale: build/bench/operator.json
	$(PY) -m tests.bench.operator

cluster-up: setup ## Start the real two-node cluster
	@$(PY) -m tests.cluster up

cluster-down: $(VENV)/.stamp ## Stop it, and remove every trace
	@$(PY) -m tests.cluster down

cluster-status: $(VENV)/.stamp ## Say what runs
	@$(PY) -m tests.cluster status

cluster-shell: $(VENV)/.stamp ## A shell on a node: make cluster-shell NODE=node1
	@$(PY) -m tests.cluster shell $(or $(NODE),node1)

cluster-images: setup ## Build both images and import them into the cluster
	@$(PY) -m tests.cluster images

lock: $(VENV)/.stamp ## Pin versions and hashes of what pip installs; UPGRADE=1 for the newest
	$(BIN)/pip install -q --disable-pip-version-check uv
	$(PY) -m scripts.lock $(if $(UPGRADE),--upgrade)

clean: ## Remove what builds made in the tree
	rm -rf build dist $(BPF_OBJECT) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
