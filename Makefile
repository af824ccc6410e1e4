# The targets fingers know. Everything here calls cargo or a script that can be called by itself.
URL ?= http://127.0.0.1:8080
COUNT ?= 10000
BIN := target/release/order-service

.DEFAULT_GOAL := help
.PHONY: help build run test lint mutants publisher migrate stress-wrk stress-vegeta compare docker-up docker-down clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## The binary, optimized: target/release/order-service
	cargo build --release

run: build ## Serve on 127.0.0.1:8080 with 10,000 sample orders
	$(BIN) serve --sample 10000

test: ## All tests, against real servers; fetches PostgreSQL, Kafka, NATS, Redis, PgBouncer and Chromium where they are missing
	tests/run.sh

lint: ## Format and lints, as CI has them
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

MUTATED ?= src/cache/*.rs src/ingest/*.rs src/read/*.rs src/store/rules.rs
MUTANTS := target/mutants

mutants: ## Changes to MUTATED that no quick test notices, listed in target/mutants/mutants.out/missed.txt (hours)
	command -v cargo-mutants || cargo install cargo-mutants --locked
	mkdir -p $(MUTANTS)
	cargo mutants $(foreach file,$(MUTATED),--file '$(file)') --output $(MUTANTS) --jobs 1 \
		--cargo-arg=--config=profile.dev.package.order-service.opt-level=0 --timeout 300 --build-timeout 900 --no-shuffle --no-default-features --features embedded \
		-- --lib --test all -- cache:: ingest:: read:: store:: order:: model:: races::

publisher: build ## Send sample orders to a running service (COUNT=10000 URL=http://127.0.0.1:8080)
	$(BIN) publish --http $(URL) --count $(COUNT)

migrate: build ## Bring the store's schema up to date
	$(BIN) migrate up

stress-wrk: ## wrk against a running service, in the cases the older services were measured in
	loadtest/wrk.sh $(URL)

stress-vegeta: ## vegeta against a running service
	loadtest/vegeta.sh $(URL)

compare: build ## The service beside a floor, nginx, Redis and Go, in turns: loadtest/results/report.md
	loadtest/compare.sh

docker-up: ## The service with PostgreSQL, Kafka, Prometheus and Grafana, in containers
	docker compose up --build --detach

docker-down: ## And away again; the data stays in its volumes
	docker compose down

clean: ## Everything that was built, never data
	cargo clean
	rm -rf tests/browser/node_modules loadtest/results/raw
