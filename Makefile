# The only list of commands: people and CI run the same ones.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
AGENT := $(TARGET_DIR)/$(HOST)/agent/compy-agent
NEXTEST := cargo nextest run --workspace --all-features
# What tests said that this machine could not run.
SAY_SKIPPED = grep -oh 'SKIPPED: [^<]*' $(TARGET_DIR)/nextest/$(or $(PROFILE),default)/junit.xml | sort | uniq -c || echo "no test was skipped"

.PHONY: help build agent images demo demo-stop run fmt lint deny doc test-unit test bench recovery-report torture check

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

build: agent ## compyd, compyctl and the agent, optimised, in target/release
	cargo build --release -p compyd -p compyd-cli --bins
	install -m 0755 $(AGENT) $(TARGET_DIR)/release/compy-agent

agent: ## The static agent that is mounted into every workspace
	RUSTFLAGS="-C target-feature=+crt-static" \
	  cargo build -p compyd-agent --profile agent --target $(HOST)

images: agent ## The default image of workspaces, made once for the same inputs
	COMPY_AGENT=$(abspath $(AGENT)) images/build.sh

demo: build images ## The main job from end to end, with a scripted model
	tests/demo/run.sh start

demo-stop: ## Ends what `make demo` left running and deletes its data
	tests/demo/run.sh stop

run: build images ## A daemon in the foreground
	$(TARGET_DIR)/release/compyd

fmt: ## Formats the code
	cargo fmt --all

lint: ## Format and lints, without changing anything
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings

deny: ## Licences, sources and banned crates
	cargo deny --log-level error check bans licenses sources

doc: ## The crates' documentation
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --workspace --no-deps --document-private-items

test-unit: ## Tests that need no engine
	$(NEXTEST) --lib --bins

test: agent images ## Every test this machine can run (ONLY='test(/name/)': these only)
	cargo build --workspace --bins --tests --all-features
	COMPY_TEST_AGENT=$(abspath $(AGENT)) $(NEXTEST) --no-fail-fast -E "$(or $(ONLY),all())"
	@$(SAY_SKIPPED)

bench: build images ## Figures, beside what a user would otherwise do: target/bench/report.json (GROUPS="exec store": these only)
	cargo build --release -p compyd-tests --bin compy-bench
	$(TARGET_DIR)/release/compy-bench $(abspath $(TARGET_DIR)) $(GROUPS)

recovery-report: build images ## Real faults inside scripted sessions: what recovered, was escalated, went wrong
	cargo build --release -p compyd-tests --bin compy-recovery-report
	$(TARGET_DIR)/release/compy-recovery-report $(abspath $(TARGET_DIR))

torture: PROFILE := torture
torture: agent images ## Kill and soak tests at their full counts (DOCKER_HOST: on that engine; ONLY='test(/name/)': these only)
	cargo build --workspace --bins --tests --all-features
	COMPY_TEST_AGENT=$(abspath $(AGENT)) COMPY_TORTURE=1 \
	  $(NEXTEST) --profile torture --no-fail-fast -E "$(or $(ONLY),all())"
	@$(SAY_SKIPPED)

check: lint deny doc test ## What CI runs
