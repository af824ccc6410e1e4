#!/usr/bin/env bash
# All tests. Fetches what they need and says so; what cannot be had is skipped aloud, or fails where CI is set.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }

missing() {
    if [ -n "${CI:-}" ]; then
        echo "MISSING: $1" >&2
        exit 1
    fi
    printf '\n!! SKIPPED: %s (%s is missing)\n' "$2" "$1" >&2
}

fetch() { tests/servers.sh fetch "$@"; } # fetch COMMAND PACKAGE...: installs Debian packages unless the command is there

# What is not fetched here is named before anything is started.
for needed in cargo cc c++; do
    command -v "$needed" >/dev/null || { echo "MISSING: $needed; CONTRIBUTING.md says what must be there" >&2; exit 1; }
done

trap 'tests/servers.sh stop-all' EXIT

# Tests kill servers and never the machine, and a disk that is busy with other things would hold them up for seconds.
export POSTGRES_FSYNC=off

say "real servers"
if tests/servers.sh install postgres; then
    ORDER_TEST_POSTGRES=$(tests/servers.sh start postgres main)
    export ORDER_TEST_POSTGRES
    echo "PostgreSQL: $ORDER_TEST_POSTGRES"
else
    missing PostgreSQL "the tests against PostgreSQL"
fi
if tests/servers.sh install kafka; then
    ORDER_TEST_KAFKA=$(tests/servers.sh start kafka main)
    export ORDER_TEST_KAFKA
    echo "Kafka: $ORDER_TEST_KAFKA"
else
    missing Kafka "the tests against Kafka"
fi
if tests/servers.sh install nats; then
    ORDER_TEST_NATS=$(tests/servers.sh start nats main)
    export ORDER_TEST_NATS
    echo "NATS: $ORDER_TEST_NATS"
else
    missing NATS "the tests against NATS"
fi
if tests/servers.sh install stan; then
    ORDER_TEST_STAN=$(tests/servers.sh start stan main)
    export ORDER_TEST_STAN
    echo "NATS Streaming: $ORDER_TEST_STAN"
elif command -v go >/dev/null; then
    missing "NATS Streaming (Go builds it)" "the tests against NATS Streaming"
else
    # There is no package of it: where there is no Go it is done without, in CI too.
    export ORDER_TEST_STAN=none
    printf '\n!! SKIPPED: the tests against NATS Streaming (Go, which builds its server, is missing)\n' >&2
fi
if tests/servers.sh install redis; then
    ORDER_TEST_REDIS=$(tests/servers.sh start redis main)
    export ORDER_TEST_REDIS
    echo "Redis: $ORDER_TEST_REDIS"
else
    missing Redis "the tests against Redis"
fi

say "containers, alerts"
if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
elif fetch docker-compose docker-compose; then
    compose=(docker-compose)
fi
if [ -n "${compose:-}" ]; then
    "${compose[@]}" -f docker-compose.yml config -q
    "${compose[@]}" -f docker-compose.yml --profile cluster --profile nats --profile redis --profile legacy config -q
    echo "docker-compose.yml is good"
else
    missing docker-compose "the check of docker-compose.yml"
fi
# Without it the test of the dashboard's queries is skipped too.
if fetch promtool prometheus; then
    promtool check config deploy/prometheus/prometheus.yml
    promtool test rules deploy/prometheus/alerts.test.yml
else
    missing promtool "the check of Prometheus's settings and alerts"
fi

# Its place is not on every user's path.
PATH=$PATH:/usr/sbin
fetch pgbouncer pgbouncer || missing PgBouncer "the tests behind a pooler"
fetch curl curl || missing curl "the tests by a client that everyone has"
fetch openssl openssl || missing openssl "the tests of what a listener offers"
fetch strace strace || echo "strace is missing: the profile of system calls is not held against a run" >&2

# They wait for servers, and for each other, more than they work.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((5 * $(nproc)))}
say "unit, contract, fault and crash tests"
cargo test
if [ -n "${ORDER_TEST_POSTGRES:-}" ]; then
    say "the contract again, on PostgreSQL"
    ORDER_TEST_STORE=postgres cargo test --test all http::
fi

say "the page in a browser"
if ! command -v npm >/dev/null || ! command -v node >/dev/null; then
    missing "node with npm" "the browser tests"
elif ! fetch chromium chromium fonts-liberation; then
    missing chromium "the browser tests"
else
    cargo test --no-run # the binary of the tests above, built with the same features
    (
        cd tests/browser
        npm ci --silent --no-audit --no-fund
        CHROMIUM=${CHROMIUM:-$(command -v chromium)} \
            SCREENSHOTS=${SCREENSHOTS:-$PWD/../../target/screenshots} \
            ORDER_SERVICE_BIN=${ORDER_SERVICE_BIN:-$PWD/../../target/debug/order-service} npm test
    )
    say "screenshots are in target/screenshots"
fi
