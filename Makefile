# Two commands are the manual: `make check` and `make test`. Each makes what it needs, from a bare checkout and Python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CHECKERS := $(VENV)/.installed-checkers
CONSUMERS := .consumers
LOCK := uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 pyproject.toml

unexport PYTHONDONTWRITEBYTECODE  # where it is set, every process of every test would compile all it imports anew

.DEFAULT_GOAL := help
.NOTPARALLEL:  # packages come before the environment that is made with them
.PHONY: help demo demo-loop demo-slm packages test test-quick test-slow test-fresh test-oracle test-consumers check format bench bench-delivery bench-node bench-drift bench-floods tables generate lock clean

help:  ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP)  ## a fleet of six nodes, real data, every claim checked; writes demo-report.json
	$(BIN)/python -m deploy.demo

demo-loop: $(STAMP)  ## drift closes the loop: found, retrained, canary, gate, all; writes demo-loop-report.json; 4 minutes
	$(BIN)/python -W ignore -m deploy.demo.loop

demo-slm: $(STAMP)  ## a small language model over a road that breaks, replaced under load; writes demo-slm-report.json
	$(BIN)/python -m deploy.demo_slm

test: packages $(STAMP)  ## all tests, against real brokers on loopback, in four processes: most of them wait; installs what they call
	$(BIN)/pytest -n 4 --dist worksteal

QUICK := tests/schemas tests/hub/core tests/node/core tests/test_house.py

test-quick: $(STAMP)  ## what is pure, the wire and the rules of the house, without brokers, long draws and trained models; under a minute
	$(BIN)/pytest -n 2 --dist worksteal -m 'not slow and not heavy' $(QUICK)

test-slow: packages $(STAMP)  ## what takes long by nature, and is no part of `make test`: pages followed to the letter, long waits, the second broker
	$(BIN)/pytest -m slow

SEEDS ?= 0-9999
.PHONY: soak-sim
soak-sim: $(STAMP)  ## a whole fleet in one process, mistreated as each seed says; SEEDS=a-b for others; writes bench/results.json
	$(BIN)/python -m tests.simulation.whole_fleet $(SEEDS) --shrink --write

.PHONY: test-api
test-api: $(STAMP)  ## schemathesis over every operation of a hub's API, by a seed; writes bench/results.json; minutes
	$(BIN)/python -m tests.hub.web.fuzz --write

.PHONY: test-corpus
test-corpus: $(STAMP)  ## the onnx package's backend tests, published, proved and asked over HTTP; writes bench/results.json; 10 minutes
	$(BIN)/python -m tests.corpus --write

.PHONY: test-attacks test-conformance
test-attacks: packages $(STAMP)  ## TUF's and Uptane's attacks and ours, on real processes and both brokers; writes bench/results.json; minutes
	$(BIN)/python -m tests.attacks --write

test-conformance: $(STAMP)  ## tuf-conformance's own suite against a node's client; TUF_CONFORMANCE=its checkout, which no registry has
	@test -d "$(TUF_CONFORMANCE)" || { echo "TUF_CONFORMANCE is no folder: give a checkout of theupdateframework/tuf-conformance" >&2; exit 1; }
	cd "$(TUF_CONFORMANCE)" && PYTHONPATH=. $(CURDIR)/$(BIN)/python -m pytest -q tuf_conformance --entrypoint $(CURDIR)/tests/attacks/conformance-client

EVERY ?=
.PHONY: test-faults
test-faults: packages $(STAMP)  ## break disks, clocks and roads under node and hub; EVERY=1: at each change; writes bench/results.json; an hour
	FAULTS_EVERY=$(EVERY) $(BIN)/python -m tests.faults --write

test-fresh: $(STAMP)  ## `make demo` and `make test` in a bare Debian 12 made by debootstrap; needs root; writes bench/results.json; 20 minutes
	.ci/packages debootstrap git
	$(BIN)/python -m bench fresh

CUTS ?= 20
SEED ?= 1
.PHONY: test-vm
test-vm: $(STAMP)  ## the units under a real systemd, and CUTS=20 power cuts, in an emulated machine; as root; writes bench/results.json; 1 to 2 hours
	.ci/packages debootstrap mkfs.ext4:e2fsprogs qemu-system-x86_64:qemu-system-x86
	$(BIN)/python -W ignore -m tests.vm --cuts $(CUTS) --seed $(SEED) --write

.PHONY: test-postgres
test-postgres: $(STAMP)  ## suites of store, service, blueprints, API and console on a real PostgreSQL, which is mistreated; writes bench/results.json; 30 minutes
	.ci/packages postgres:postgresql
	FLEETCAST_TEST_DATABASE=postgresql $(BIN)/pytest -n 2 --dist worksteal tests/hub/database tests/hub/service tests/hub/alerts \
	  tests/hub/web tests/hub/library tests/hub/cli/test_deploy.py tests/hub/cli/test_drift.py tests/hub/cli/test_nodes.py tests/hub/cli/test_node_settings.py
	FLEETCAST_TEST_DATABASE=postgresql $(BIN)/pytest -m slow tests/hub/cli/test_blueprint.py
	$(BIN)/pytest -m postgres tests/hub
	$(BIN)/python -m bench.shared_ingest --write

packages:  ## install the system packages that the tests call, as root or by sudo; nothing where all are there
	@.ci/packages

test-oracle: $(STAMP)  ## the noise against OpenDP's, which is 265 MB and in no lock; installs it beside
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --upgrade --target .oracle -r requirements/oracle.txt
	PYTHONPATH=.oracle $(BIN)/pytest tests/node/core/telemetry/test_privacy.py -k opendp

test-consumers: $(STAMP) $(CONSUMERS)/.installed  ## what other people's programs read, Node-RED among them; installs it beside, 96 MB, by npm
	$(BIN)/pytest tests/consumers

.PHONY: test-monitoring
test-monitoring: $(STAMP)  ## board, alert rules and traces against a real hub and node, with promtool of Debian's package prometheus
	@.ci/packages promtool:prometheus
	$(BIN)/pytest tests/monitoring

.PHONY: test-brokers test-cluster
test-brokers: packages $(STAMP)  ## a rollout within AWS IoT's limits, and ask each broker installed what it does for us; writes bench/results.json; 4 minutes
	$(BIN)/pytest -m slow tests/e2e/test_aws_limits.py
	$(BIN)/python -m tests.broker.asked --write

test-cluster: packages $(STAMP)  ## a rollout and 200 nodes on three rmqttd, one of which is killed; 5 minutes, and hours once to build them
	.ci/packages protoc:protobuf-compiler
	$(BIN)/python -m tests.cluster.build
	$(BIN)/pytest -m cluster tests/cluster
	$(BIN)/python -m tests.cluster --write

.PHONY: test-tutorial
test-tutorial: $(STAMP)  ## follow README, docs/tutorial.md and the drills to the letter, as a newcomer does; minutes
	$(BIN)/pytest -m slow tests/docs

$(CONSUMERS)/.installed: deploy/consumers/package.json deploy/consumers/package-lock.json
	@command -v npm >/dev/null || { echo "Node-RED is installed by npm, which is missing. On Debian: apt-get install npm" >&2; exit 1; }
	mkdir -p $(CONSUMERS)
	cp deploy/consumers/package.json deploy/consumers/package-lock.json $(CONSUMERS)
	cd $(CONSUMERS) && npm ci --silent --ignore-scripts --no-audit --no-fund
	@touch $@

check: $(CHECKERS)  ## format, lint, types, import rules, sentences, freshness of generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.check_sentences
	$(BIN)/python -m tools.generate_schemas --check
	$(BIN)/python -m tools.generate_docs --check
	$(BIN)/python -m tools.sbom --check
	$(BIN)/python -m bench.tables --check

format: $(CHECKERS)  ## rewrite the code as `check` wants it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## measure the quick figures beside their peers; writes bench/results.json
	$(BIN)/python -m bench

bench-delivery: $(STAMP)  ## measure delivery beside zstd, xdelta3, bsdiff, casync and zchunk from Debian, and bad links; 20 minutes
	$(BIN)/python -m bench all-of-delivery

bench-node: $(STAMP)  ## measure serving: swaps under load, the agent's overhead, throughput beside mlserver, memory; 5 minutes
	$(BIN)/python -m bench all-of-node

.PHONY: bench-hub
bench-hub: $(STAMP)  ## measure what a year of 10,000 nodes costs a hub, on a seeded database of 5 GB in TMPDIR; 10 minutes
	$(BIN)/python -m bench all-of-hub

bench-drift: $(STAMP)  ## measure drift beside Evidently, alibi-detect, whylogs and OpenDP, installed into .bench/; 10 minutes
	$(BIN)/python -m bench drift

bench-floods: $(STAMP)  ## flood a hub by one enrolled node, over mosquitto and the embedded broker: its answers and memory; needs mosquitto; 6 minutes
	$(BIN)/python -m bench floods

.PHONY: bench-roles
bench-roles: $(STAMP)  ## run a hub in several processes on a real PostgreSQL and mosquitto, and kill and stop them; writes bench/results.json; 3 minutes
	.ci/packages postgres:postgresql mosquitto
	$(BIN)/python -m bench.roles --write

.PHONY: bench-simulate
bench-simulate: $(STAMP)  ## measure `fleetcast simulate` on a fleet of 100,000 nodes; writes bench/results.json; 2 minutes
	$(BIN)/python -m bench simulate

.PHONY: bench-console test-console screenshots
bench-console: $(STAMP)  ## measure console and API at 10,000 nodes; writes bench/results.json; 2 minutes
	$(BIN)/python -m bench console

AXE := .axe/node_modules/axe-core/axe.min.js
test-console: $(STAMP) $(AXE)  ## the console in Debian's chromium, with axe-core by npm; writes bench/results.json; 3 minutes
	@.ci/packages chromium
	AXE=$(CURDIR)/$(AXE) $(BIN)/python -m tests.hub.web.console.browser --write

screenshots: $(STAMP)  ## take the pictures of the console for README and docs/console.md, in Debian's chromium; 2 minutes
	@.ci/packages chromium
	$(BIN)/python -W ignore -m tests.hub.web.console.screenshots

$(AXE):
	@command -v npm >/dev/null || { echo "axe-core is installed by npm, which is missing. On Debian: apt-get install npm" >&2; exit 1; }
	mkdir -p .axe
	cd .axe && npm install --silent --no-audit --no-fund --ignore-scripts axe-core@4.14.1

.PHONY: bench-quickstart test-quickstart
bench-quickstart: $(STAMP)  ## time `fleetcast quickstart` from an installed wheel to an answer; writes bench/results.json; 2 minutes
	$(BIN)/python -m bench quickstart

test-quickstart: packages $(STAMP)  ## `fleetcast quickstart` ended and killed at many moments, and real commands by Ctrl-C; 15 minutes
	$(BIN)/pytest -m slow tests/hub/cli/test_quickstart.py tests/fleetcast/test_interrupted_commands.py

tables: $(STAMP)  ## write the figures of bench/results.json into README.md and docs/; every bench does so at its end
	$(BIN)/python -m bench.tables

generate: $(STAMP)  ## write what is generated: access lists, AsyncAPI, JSON Schemas, docs/protocol.md, settings.md, commands.md, map of folders
	$(BIN)/python -m tools.generate_schemas
	$(BIN)/python -m tools.generate_docs

lock: $(STAMP)  ## compile requirements/*.txt anew from pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/$(LOCK) --extra node --output-file requirements/node.txt
	$(BIN)/$(LOCK) --extra hub --extra web --output-file requirements/hub.txt
	$(BIN)/$(LOCK) --extra node --extra hub --extra web --extra test --extra check --output-file requirements/dev.txt
	$(BIN)/$(LOCK) --extra node --extra hub --extra web --extra test --constraint requirements/dev.txt --output-file requirements/test.txt
	$(BIN)/$(LOCK) --extra hub --extra postgres --constraint requirements/hub.txt --output-file requirements/postgres.txt
	$(BIN)/$(LOCK) --extra hub --extra objects --constraint requirements/hub.txt --output-file requirements/objects.txt
	$(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
	  requirements/peers.in --output-file requirements/peers.txt
	$(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --python-version 3.11 \
	  requirements/fuzz.in --output-file requirements/fuzz.txt
	$(BIN)/python -m tools.sbom

.PHONY: sbom wheel fuzz
sbom: $(STAMP)  ## write deploy/sbom: what a node and a hub are made of, by their locks, in CycloneDX; the wheel carries both
	$(BIN)/python -m tools.sbom

wheel: $(STAMP)  ## build the wheel and the sdist of this commit into dist/, the same bytes wherever they are built, with SHA256SUMS
	rm -rf dist build
	$(BIN)/python -c 'from setuptools import build_meta; build_meta.build_sdist("dist"); build_meta.build_wheel("dist")' >/dev/null
	cd dist && sha256sum * > SHA256SUMS && cat SHA256SUMS

SECONDS ?= 60
FUZZ ?=
fuzz: $(STAMP)  ## fuzz every decoder of what strangers send, SECONDS each, 25 minutes; FUZZ names some; writes bench/results.json
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes --no-deps --upgrade --target .fuzz \
	  -r requirements/fuzz.txt || echo "atheris cannot be had here: inputs are changed at random" >&2
	$(BIN)/python -m tests.fuzz $(FUZZ) --seconds $(SECONDS) --keep --write

clean:  ## remove the virtual environment and everything that was built or measured
	rm -rf $(VENV) build dist *.egg-info .fresh .demo .demo-loop .demo-slm .bench .fuzz .oracle .consumers demo-report.json demo-loop-report.json demo-slm-report.json .pytest_cache .mypy_cache
	rm -rf .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp carries the dates of what it was made from; a half-made environment has none and is made again.
$(STAMP): requirements/test.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "fleetcast needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "'$(PYTHON)' cannot make virtual environments. On Debian: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/pip || rm -rf $(VENV)
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --require-hashes -r requirements/test.txt
	@$(BIN)/python -m compileall -q -j 0 -x '/tests?/' $(VENV)/lib >/dev/null || true  # on all cores, and without the tests of others
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# What only `check` and `format` call comes on top.
$(CHECKERS): $(STAMP) requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@
