# Meridian. `make help` lists what there is.
# The build folder may lie outside of the checkout, so that a clean clone finds what another has compiled.
MERIDIAN_BUILD ?= $(HOME)/.cache/meridian
export MERIDIAN_BUILD
export CARGO_TARGET_DIR := $(MERIDIAN_BUILD)/target
# RocksDB is compiled once, for all profiles: see infra/rocksdb.sh.
export ROCKSDB_LIB_DIR := $(MERIDIAN_BUILD)/rocksdb
export ROCKSDB_STATIC := 1

.DEFAULT_GOAL := help
.PHONY: help setup build demo test lint fmt sim sim-mutants chaos bench bench-full clean

help: ## Lists the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Installs what is missing and compiles RocksDB, once.
	@infra/setup.sh
	@infra/rocksdb.sh

build: setup ## Builds the binary; leaves a link to it at bin/meridian.
	cargo build --locked -p meridian-cli --bin meridian
	@mkdir -p bin && ln -sfn "$(CARGO_TARGET_DIR)/debug/meridian" bin/meridian

demo: build ## Three regions, a WAN, a region killed on the way, and the proof. EVENTS=file.ndjson [KEY=field] takes yours.
	@bin/meridian demo $(if $(EVENTS),--events "$(EVENTS)") $(if $(KEY),--key-field "$(KEY)")

test: setup ## Format, lints, layering, licences, all tests; counts what was skipped.
	@infra/test.sh

lint: setup ## Format, clippy, layering, licences.
	@infra/test.sh lint

fmt: ## Formats the code.
	cargo fmt --all

sim: setup ## Simulates the cores under SEEDS seeds (10000) from FROM (0); says what broke a law, and how to see it again.
	cargo run --locked -p meridian-sim -- run --seeds $(or $(SEEDS),10000) --from $(or $(FROM),0)

sim-mutants: setup ## Breaks the cores on purpose, one fault at a time, and shows which checker notices.
	cargo run --locked -p meridian-sim -- mutants --seeds $(or $(SEEDS),3000)

chaos: build ## Faults on real processes, all of them; goes on where it was interrupted.
	MERIDIAN_BIN="$(CARGO_TARGET_DIR)/debug/meridian" cargo run --locked -p meridian-chaos-live -- run --resume --state "$(MERIDIAN_BUILD)/chaos.jsonl"

bench: setup ## Measures beside JetStream and Kafka, some minutes; writes benches/RESULTS.md.
	cargo run --locked --release -p meridian-benches

bench-full: setup ## The same, every row and longer: hours; goes on where it was interrupted.
	cargo run --locked --release -p meridian-benches -- --full

clean: ## Removes what was built, but for RocksDB.
	rm -rf "$(CARGO_TARGET_DIR)" bin
