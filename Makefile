# The targets fingers know. Everything here calls cargo or a script that can be called by itself.
URL ?= http://127.0.0.1:8080
COUNT ?= 10000
BIN := target/release/order-service

.DEFAULT_GOAL := help
.PHONY: help build run test lint mutants publisher migrate stress-wrk stress-vegeta compare docker-up docker-down clean \
	go-build go-test go-lint go-run run-api run-worker run-publisher migrate-create migrate-up migrate-down migrate-status \
	stress-quick stress-medium stress-heavy stress-test legacy-up legacy-down

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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
		--cargo-arg=--config=profile.dev.package.order-service.opt-level=0 --timeout 300 --build-timeout 900 --no-shuffle --no-default-features \
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

# The names of the older services' documents. Each does here what it says.

go-build: build ## As `make build`
go-test: test ## As `make test`
go-lint: lint ## As `make lint`
go-run: run ## As `make run`

run-api: build ## Serve, with the settings of the environment and of .env
	$(BIN) serve

run-worker: build ## Process what is posted to `make run-api`; both need KAFKA_BROKERS and POSTGRES_DSN
	$(BIN) worker

run-publisher: publisher ## As `make publisher`

migrate-create: ## Two empty files for the next step of PostgreSQL's schema (NAME=add_something)
	@[ -n "$(NAME)" ] || { echo "say what it is about: make migrate-create NAME=add_something" >&2; exit 2; }
	@last=$$(ls migrations/postgres | sed -n 's/^\(0[0-9]*\)_.*\.up\.sql$$/\1/p' | sort | tail -1); \
	next=$$(printf '%04d' $$(expr $$last + 1)); \
	for way in up down; do file=migrations/postgres/$${next}_$(NAME).$$way.sql; : >"$$file"; echo "$$file"; done; \
	echo "list it in MIGRATIONS of src/store/postgres/schema.rs"

migrate-up: migrate ## As `make migrate`

migrate-down: build ## Take the newest step of the store's schema back; says what would be lost (YES=1 does it)
	$(BIN) migrate down $(if $(YES),--yes)

migrate-status: build ## Which steps of the schema are applied
	$(BIN) migrate status

STRESS = $(BIN) load --url $(URL) --strict --id b563feb7b2b84b6test --id b563feb7b2b84b6test1 --id b563feb7b2b84b6test2 \
	--id b563feb7b2b84b6test3 --id b563feb7b2b84b6test4 --id b563feb7b2b84b6test5

stress-quick: build ## 100 reads a second for 10 s against a running service; fails unless every answer is 200
	$(STRESS) --rate 100 --duration 10s

stress-medium: build ## 1,000 reads a second for 30 s
	$(STRESS) --rate 1000 --duration 30s

stress-heavy: build ## 5,000 reads a second for a minute
	$(STRESS) --rate 5000 --duration 60s --connections 200

stress-test: stress-quick stress-medium ## Both, one after the other

legacy-up: ## The service on :8081 with its database order_db on :5433 and Kafka UI on :8080, in containers
	docker compose --profile legacy up --build --detach order_app order_db legacy_kafka_ui

legacy-down: ## And away again; the data stays in its volumes
	docker compose --profile legacy rm --stop --force order_app order_db legacy_kafka_ui

clean: ## Everything that was built, never data
	cargo clean
	rm -rf tests/browser/node_modules loadtest/results/raw
