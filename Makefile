# One command a task. Each installs what it needs: Debian packages by apt, Python packages in .venv, Node packages by npm ci.
# Needs beforehand: a Rust toolchain by rustup (rust-toolchain.toml names it), Python 3.11 or newer, Node 20 or newer, root for
# everything that makes network namespaces (test, scenarios, demo, bench-*).

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON := $(CURDIR)/.venv/bin/python
FUNCTIONS := failover watch configure
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
export CDK_DISABLE_CLI_TELEMETRY := true

help: ## What there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

# --- what the others need ----------------------------------------------------------------------------------------

# Before anything is built: what makes network namespaces needs root, and whoever lacks it should not wait to hear so.
root:
	@[ "$$(id -u)" = 0 ] || { echo "this makes network namespaces and needs root: sudo -E env \"PATH=$$PATH\" make $(MAKECMDGOALS)"; exit 1; }

setup: .apt-done .venv/.done cdk/node_modules/.done ## Install what is missing (apt, venv, npm ci)

.apt-done: tests/apt-packages.txt
	@missing=$$(for package in $$(grep -vE '^(#|$$)' $<); do dpkg-query -W -f='$${Status}' "$$package" 2>/dev/null | grep -q 'install ok installed' || echo "$$package"; done); \
	if [ -n "$$missing" ]; then \
		echo "setup: Debian packages:" $$missing; \
		$(SUDO) apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
	@touch $@

# `python3 -m venv` is a Debian package of its own: apt first, and no new venv when only apt's list has changed.
.venv/.done: tests/requirements.txt | .apt-done
	@echo "setup: Python packages into .venv (boto3, moto, pytest)"
	@python3 -m venv .venv
	@.venv/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

cdk/node_modules/.done: cdk/package-lock.json
	@echo "setup: Node packages into cdk/node_modules (the CDK)"
	@cd cdk && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

build: .apt-done ## Build the daemon and the functions, and pack the functions into dist/*.zip
	@cargo build --release --workspace --bins
	@$(MAKE) --no-print-directory $(FUNCTIONS:%=dist/%.zip)

# Lambda runs the file `bootstrap` at the zip's root. Symbols are of no use there and double its size.
dist/%.zip: target/release/%
	@mkdir -p dist/$*
	@strip -o dist/$*/bootstrap $<
	@rm -f $@ && cd dist/$* && zip -q -9 -X ../$*.zip bootstrap

# --- what people run ---------------------------------------------------------------------------------------------

demo: export DEMO_BEGAN := $(shell date +%s)
demo: root setup build ## A cluster that fails over on this machine, with a client watching (KEEP=1 leaves it up)
	@cd tests && $(PYTHON) -m demo

# Stories mostly wait, models only think: beside each other, the thinking at idle priority, where it takes no time from anyone;
# what it has to say comes when it is done.
test: root setup build test-rust ## Everything that must hold
	@$(MAKE) --no-print-directory -j2 test-thinking test-stories
	@echo "make test: all of it holds"

test-thinking: setup
	@mkdir -p target
	@ended=0; chrt --idle 0 $(MAKE) --no-print-directory -j1 models sim test-cdk >target/thinking.log 2>&1 || ended=$$?; \
	cat target/thinking.log; exit $$ended

test-stories: root setup build
	@$(MAKE) --no-print-directory -j1 test-localcloud test-volume scenarios

test-rust: setup build ## Unit, property and contract tests
	@cargo test --release --workspace --quiet

test-cdk: cdk/node_modules/.done ## The deployment's assertions and snapshot
	@cd cdk && npm run --silent check

test-localcloud: root setup ## The local cloud against what AWS documents
	@cd tests && $(PYTHON) -m pytest -q -n 2 --dist loadfile localcloud harness

test-volume: root setup build ## The volume's NBD server, judged by the clients of libnbd, QEMU, nbdkit and fio
	@cd tests && $(PYTHON) -m pytest -q -n 4 --dist worksteal volume

# Kept apart: a hypervisor is not everybody's. --no-remove: apt would rather replace another QEMU's tools than say that they do
# not go together. What stands in the way is told, and taken from the same release as the tools that are there.
.apt-guest-done: tests/guest/apt-packages.txt .apt-done
	@missing=$$(for package in $$(grep -vE '^(#|$$)' $<); do dpkg-query -W -f='$${Status}' "$$package" 2>/dev/null | grep -q 'install ok installed' || echo "$$package"; done); \
	if [ -n "$$missing" ]; then \
		echo "guest-test: Debian packages:" $$missing; \
		$(SUDO) apt-get update -qq; \
		DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-remove --no-install-recommends $$missing >/dev/null || { \
			echo "guest-test: apt does not install them beside QEMU's tools that are there ($$(dpkg-query -W -f='$${Package} $${Version}' qemu-utils)): name the release that those are from among apt's sources (Debian: bookworm-backports), and: apt-get install -t RELEASE qemu-system-x86"; exit 1; }; \
	fi
	@touch $@

# Apart from the ordinary build, which is without it.
volume-ublk: .apt-done
	@cargo build --release --quiet -p volume --features ublk --bin leasehold-volume --target-dir target/ublk

guest-test: setup .apt-guest-done volume-ublk ## The volume as a block device of a real kernel, by nbd and ublk: QEMU guests with Debian's 6.12, some minutes (by software where there is no KVM)
	@cargo test --release --quiet -p volume --features ublk --lib --target-dir target/ublk frontends
	@cd tests && $(PYTHON) -m pytest -q guest

# Four clouds side by side: a story waits most of its time. Those with a database make the disk busy, and stand alone: whoever
# watches a story beside them misses too much of it.
DATABASE := scenarios/test_volume_postgres.py scenarios/test_volume_disks.py
# A story that fails while the machine held its own clients up (they measure that) is told again, twice at most; no other.
AGAIN := --reruns 2 --only-rerun HeldUp
scenarios: root setup build ## Stories end to end: real stack, real processes, real packets
	@cd tests && $(PYTHON) -m pytest -q -n 4 --dist loadfile $(AGAIN) scenarios $(DATABASE:%=--ignore %)
	@cd tests && $(PYTHON) -m pytest -q $(AGAIN) $(DATABASE)

chaos: root setup build ## A database through KILLS kills and more (default 200, about 50 minutes), drawn by SEED: nothing acknowledged is lost
	@cd tests && $(PYTHON) -m chaos

# The protocol alone needs neither AWS nor Python: cargo builds these in a minute.
models: ## The protocol's models searched to the end, and each rule's mutant found (TRACES=1 tells how each falls, MUTANT=name one)
	@cargo run --release --quiet -p models -- $(if $(TRACES),--traces) $(if $(MUTANT),--mutant $(MUTANT))

SEEDS ?= 4000
SEED ?= 1
sim: ## The shipping machines and functions in simulated clusters, SEEDS of them from SEED on (SEEDS=1 shows its trace)
	@cargo run --release --quiet -p sim -- --seeds $(SEEDS) --seed $(SEED) $(if $(filter 1,$(SEEDS)),--trace)

SIM_LONG_SEEDS ?= 380000
sim-long: ## A simulated year and more: SIM_LONG_SEEDS seeds
	@cargo run --release --quiet -p sim -- --seeds $(SIM_LONG_SEEDS) --seed 1000000

sim-planted: ## Known mistakes planted into the sources, one at a time: the simulator finds each
	@python3 tests/sim/plant.py

VOLUME_SEEDS ?= 0-2000
sim-volume: ## The replication core alone under torn, lost and late writes, beyond what make test runs: VOLUME_SEEDS=from-to
	@SEEDS=$(VOLUME_SEEDS) cargo test --release --quiet -p volume --lib sweep -- --ignored --nocapture

mutants: ## Each guard of the protocol changed by cargo-mutants (installed where it is missing): a test falls
	@command -v cargo-mutants >/dev/null || cargo install cargo-mutants --version 27.1.0 --locked --quiet
	@cargo mutants --colors never

bench-failover: root setup build ## Kill the active RUNS times (default 30) and show the distribution
	@cd tests && $(PYTHON) -m bench.failover

bench-functions: root setup build ## Cold starts, decisions with 20 route tables, zip sizes, SAMPLES times (default 25)
	@cd tests && $(PYTHON) -m bench.functions

bench-idle: root setup build ## CPU, memory and DynamoDB requests of two idle nodes over SECONDS (default 60)
	@cd tests && $(PYTHON) -m bench.idle

bench-volume: root setup build ## The volume's NBD server beside nbdkit and qemu-nbd, ROUNDS times (default 5)
	@cd tests && $(PYTHON) -m bench.volume

bench-mirror: root setup build ## Replicated writes beside qemu-storage-daemon's mirror, and through a delay line, ROUNDS times (default 5)
	@cd tests && $(PYTHON) -m bench.mirror

bench-resync: root setup build ## A resync beside a plain copy, and what it does to writes meanwhile, ROUNDS times (default 5)
	@cd tests && $(PYTHON) -m bench.resync

bench-guest: setup .apt-guest-done volume-ublk ## Replicated devices in a QEMU guest beside md-raid1 over nbd and DRBD, ROUNDS times (default 3, some 8 minutes)
	@cd tests && $(PYTHON) -m bench.guests

bench-volume-core: ## What a replicated 4 KiB write costs the pure machines, nanoseconds on either side
	@cargo test --release --quiet -p volume --lib pace -- --ignored --nocapture

lint: ## Formatting and lints; changes nothing
	@cargo fmt --all --check
	@cargo clippy --release --workspace --all-targets --quiet -- -D warnings
	@cargo clippy --release -p volume --features ublk --all-targets --target-dir target/ublk --quiet -- -D warnings

licences: ## Licences, banned crates and sources of what ships (installs cargo-deny, some minutes, where it is missing)
	@command -v cargo-deny >/dev/null || cargo install cargo-deny --version 0.20.2 --locked --quiet
	@cargo deny --log-level error check licenses bans sources

fix: ## Let the formatter and the lints change what they can
	@cargo fmt --all
	@cargo clippy --release --workspace --all-targets --fix --allow-dirty

clean: ## Remove what was built; namespaces and processes of dead runs too
	@[ ! -x $(PYTHON) ] || (cd tests && $(PYTHON) -m localcloud.plane.sweep)
	@cargo clean
	@rm -rf dist .venv .apt-done .apt-guest-done cdk/node_modules cdk/cdk.out

.PHONY: help root setup build demo test test-thinking test-stories test-rust test-cdk test-localcloud scenarios chaos guest-test volume-ublk models sim sim-long sim-planted sim-volume mutants bench-failover bench-functions bench-idle test-volume bench-volume bench-mirror bench-resync bench-guest bench-volume-core lint licences fix clean
