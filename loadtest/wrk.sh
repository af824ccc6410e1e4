#!/usr/bin/env bash
# wrk against a running service, in the cases the older services were measured in.
#   loadtest/wrk.sh [URL] [SECONDS per case]
set -euo pipefail
url=${1:-http://127.0.0.1:8080}
seconds=${2:-10}
case $url in
    http://127.* | http://localhost* | http://\[::1\]*) ;;
    *) echo "$url is not this machine" >&2; exit 2 ;;
esac
servers=$(dirname "$0")/../tests/servers.sh
command -v wrk >/dev/null || "$servers" fetch wrk wrk || { echo "wrk is missing, and was not to be had" >&2; exit 1; }
curl -sf "$url/readyz" >/dev/null || { echo "$url is not ready" >&2; exit 1; }
ulimit -Sn "$(ulimit -Hn)" # a thousand connections

run() { # run THREADS CONNECTIONS PATH
    printf '\n== wrk -t%s -c%s -d%ss %s\n' "$1" "$2" "$seconds" "$3"
    local report
    # wrk itself calls any answer a success.
    curl -sf "$url$3" >/dev/null || { echo "$url$3 is not answered with 200; start with --sample 10" >&2; exit 1; }
    report=$(wrk -t"$1" -c"$2" -d"${seconds}s" --latency "$url$3")
    printf '%s\n' "$report"
    if grep -q 'Non-2xx or 3xx responses' <<<"$report"; then
        echo "not every answer was 200" >&2
        exit 1
    fi
}

run 2 10 /api/orders
run 4 100 /api/orders
run 12 400 /api/orders
run 12 1000 /api/orders
for n in '' 1 2 3 4 5; do run 8 200 "/order/b563feb7b2b84b6test$n"; done
