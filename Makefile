# The tasks of this repository. CI runs the same targets.
.DEFAULT_GOAL := help
.PHONY: help setup demo test faults test-rabbitmq4 bench bench-gate lint docs advisories audit fuzz up check-deploy check-publish

# Tests wait for brokers more than they compute.
export RUST_TEST_THREADS ?= $(shell expr 2 \* $$(nproc))

# The combinations of leveret's features that `make lint` checks, beside none and all. Each compiles most dependencies once
# more, so there are few: each feature is on in one without those that could hide its faults.
FEATURES := health health,worker clap,telemetry otel,tls cron,worker,tls

TYPOS := $(or $(CARGO_TARGET_DIR),target)/typos-1.52.0

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install the tools of the tests (RabbitMQ, PostgreSQL, promtool, amtool, clients in Python, Node and Go)
	@scripts/setup.sh

demo: ## Run all workers on real input: in memory, or on the RabbitMQ at AMQP_URL (ARGS="--keep-running")
	@cargo run --profile demo -p leveret-demo -- $(ARGS)

test: setup lint ## Run lints and all tests, on private RabbitMQ nodes (or on the broker at AMQP_URL)
	cargo test --workspace --all-features --no-fail-fast
	cargo test -p leveret -p lapin-guard --lib --test faults   # without TLS: amqps:// must be refused, because lapin would speak plaintext

faults: setup ## Run the whole fault suite: more than a million jobs, about half an hour (ARGS="network --seed 7"; make test runs its short form)
	cargo test --profile faults -p leveret-tests --test faults -- --full $(ARGS)

test-rabbitmq4: setup ## Run the broker, fault and doctor suites on RabbitMQ 4.0 and 4.3 (Debian's trixie and sid; requires root)
	set -e; for release in trixie sid; do \
	  root=$$(scripts/rabbitmq4.sh $$release); \
	  AMQP_URL= LEVERET_RABBITMQ_ROOT=$$root cargo test -p leveret-harness -p leveret-tests -p leveret-cli --no-fail-fast; \
	done

bench: setup ## Run the benchmarks, compared with consumers written by hand; about an hour (ARGS="drain publish --repetitions 3"; AMQP_URL selects the broker)
	cargo run --release -p leveret-bench -- $(ARGS)

bench-gate: setup ## Fail if a job costs more CPU time or instructions than its limit; requires no broker
	cargo run --release -p leveret-bench -- stub instructions

lint: $(TYPOS)/bin/typos ## Check formatting, vocabulary, clippy, combinations of features and rustdoc
	cargo fmt --all --check
	$(TYPOS)/bin/typos   # words, with .typos.toml; docs/vocabulary.rs checks phrases
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	set -e; for features in "" $(FEATURES); do \
	  cargo clippy -p leveret --no-default-features --features "$$features" -- -D warnings; \
	done
	cargo clippy -p leveret-sql --no-default-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps

$(TYPOS)/bin/typos:
	python3 -m venv $(TYPOS)
	$(TYPOS)/bin/pip install --quiet --disable-pip-version-check typos==$(lastword $(subst -, ,$(TYPOS)))

up: ## Start broker, database, workers, server, Prometheus and Grafana in containers (requires docker compose; no test runs it)
	deploy/secrets.sh
	docker compose --file deploy/compose.yaml --profile core --profile monitoring up --build --wait

check-deploy: setup ## Check deploy/: image, compose, Kubernetes, alerts and boards, without running them
	@deploy/check.sh

check-publish: ## Pack the crates as `cargo publish` would upload them, and build them from the packages
	cargo publish --workspace --dry-run

docs: ## Build the documentation of the framework's API (the book is docs/src, or `mdbook serve docs`)
	cargo doc --no-deps --all-features -p leveret

fuzz: ## Fuzz the frame filter and the decoders of headers and bodies, a minute each (cargo-fuzz; sanitizers require a nightly compiler or RUSTC_BOOTSTRAP)
	@command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
	RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir crates/lapin-guard/fuzz frames -- -max_total_time=60
	RUSTC_BOOTSTRAP=1 cargo fuzz run header -- -max_total_time=60
	RUSTC_BOOTSTRAP=1 cargo fuzz run body -- -max_total_time=60

advisories: ## Check dependencies for known vulnerabilities, from the RustSec database on github.com (builds cargo-deny the first time)
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny check advisories

audit: ## Check licences, bans and sources of all dependencies (builds cargo-deny the first time)
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny check bans licenses sources
