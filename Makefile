# One target for each need; CI runs the same ones.
.DEFAULT_GOAL := help
.PHONY: help setup demo test faults test-rabbitmq4 bench bench-gate lint docs advisories audit fuzz up check-deploy check-publish

# Tests wait for brokers more than they compute.
export RUST_TEST_THREADS ?= $(shell expr 2 \* $$(nproc))

# Where `make lint` checks words: with typos and .typos.toml, phrases with docs/vocabulary.rs.
VOCABULARY := benches crates/cli crates/simulate docs/book.rs docs/dependencies.rs docs/lib.rs docs/logs.rs docs/workspace.rs fuzz scripts tests/harness tests/src

TYPOS := $(or $(CARGO_TARGET_DIR),target)/typos-1.52.0

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install what the tests need (RabbitMQ, PostgreSQL, promtool, amtool, clients in Python, Node and Go)
	@scripts/setup.sh

demo: ## Run all workers on real input: in memory, or on the RabbitMQ of AMQP_URL (ARGS="--keep-running")
	@cargo run --release -p leveret-demo -- $(ARGS)

test: setup lint ## Lints and every test, on private RabbitMQ nodes (or on the broker of AMQP_URL)
	cargo test --workspace --all-features --no-fail-fast
	cargo test -p leveret --lib   # without TLS: amqps:// must be refused

faults: setup ## The whole fault suite: more than a million jobs, about half an hour (ARGS="network --seed 7"; make test has its short form)
	cargo test --release -p leveret-tests --test faults -- --full $(ARGS)

test-rabbitmq4: setup ## The broker, fault and doctor suites on RabbitMQ 4.0 and 4.3 (Debian's trixie and sid; needs root)
	set -e; for release in trixie sid; do \
	  root=$$(scripts/rabbitmq4.sh $$release); \
	  AMQP_URL= LEVERET_RABBITMQ_ROOT=$$root cargo test -p leveret-harness -p leveret-tests -p leveret-cli --no-fail-fast; \
	done

bench: setup ## How fast, next to consumers written by hand; about an hour (ARGS="drain publish --repetitions 3"; AMQP_URL: on that broker)
	cargo run --release -p leveret-bench -- $(ARGS)

bench-gate: setup ## Fails if a job costs more CPU time or instructions than it should; needs no broker
	cargo run --release -p leveret-bench -- stub instructions

lint: $(TYPOS)/bin/typos ## Formatting, clippy, rustdoc and vocabulary without a warning
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps
	$(TYPOS)/bin/typos $(VOCABULARY)

$(TYPOS)/bin/typos:
	python3 -m venv $(TYPOS)
	$(TYPOS)/bin/pip install --quiet --disable-pip-version-check typos==$(lastword $(subst -, ,$(TYPOS)))

up: ## All of it in containers: broker, database, workers, server, Prometheus, Grafana (needs docker compose)
	deploy/secrets.sh
	docker compose --file deploy/compose.yaml --profile core --profile monitoring up --build --wait

check-deploy: setup ## Check deploy/: image, compose, Kubernetes, alerts and boards, without running them
	@deploy/check.sh

check-publish: ## What `cargo publish` would upload, packed and built from the packages alone
	cargo publish --workspace --dry-run

docs: ## Build the documentation of the framework's API (the book is docs/src, or `mdbook serve docs`)
	cargo doc --no-deps --all-features -p leveret

fuzz: ## Fuzz the header and body decoders for a minute each (cargo-fuzz; sanitizers want a nightly compiler or RUSTC_BOOTSTRAP)
	@command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
	RUSTC_BOOTSTRAP=1 cargo fuzz run header -- -max_total_time=60
	RUSTC_BOOTSTRAP=1 cargo fuzz run body -- -max_total_time=60

advisories: ## Known vulnerabilities in dependencies, from the RustSec database on github.com (builds cargo-deny the first time)
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny check advisories

audit: ## Licences, bans and sources of all dependencies (builds cargo-deny the first time)
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny check bans licenses sources
