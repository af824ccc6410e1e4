#!/usr/bin/env bash
# Instructions in user space per GET /order/{id} of the finished server, all its features on: callgrind counts a short
# and a long run, and the difference is the requests. The figure is the same whatever else the machine does.
#   loadtest/instructions.sh [--at-most N] [--header 'NAME: VALUE'] [--tls CERT KEY] [BINARY [FLAG...]]
# A flag of the server is such as --cache-bytes-max 1GiB.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."
limit=
headers=()
scheme=http
listen=(--listen 127.0.0.1:0)
while true; do
    case ${1:-} in
        --at-most) limit=$2; shift 2 ;;
        --header) headers+=(--header "$2"); shift 2 ;;
        --tls) scheme=https; listen=(--listen tls:127.0.0.1:0 --tls-cert "$2" --tls-key "$3"); shift 3 ;;
        *) break ;;
    esac
done
binary=${1:-target/release/order-service}
flags=("${@:2}")
for needed in valgrind curl; do
    tests/servers.sh fetch "$needed" "$needed" || { echo "$needed is missing" >&2; exit 1; }
done
[ -x "$binary" ] || { echo "$binary is missing: cargo build --release" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

count() { # count REQUESTS: the instructions of a run with so many requests over 50 connections
    local server='' address
    trap '[ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true' EXIT
    valgrind --tool=callgrind --callgrind-out-file="$work/out" \
        "$binary" serve --data "$work/data" --sample 100 "${listen[@]}" --threads 1 \
        "${flags[@]}" >"$work/log" 2>&1 &
    server=$!
    for _ in $(seq 200); do
        address=$(sed -n 's/.*listen="\(tls:\)\?\([^"]*\)".*/\2/p' "$work/log")
        # The certificate was made a moment ago and is not what is measured.
        [ -n "$address" ] && curl -sfk "$scheme://$address/readyz" >/dev/null && break
        kill -0 "$server" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
        sleep 0.2
    done
    "$binary" load --url "$scheme://$address" "${headers[@]}" --connections 50 --count "$1" --timeout 60s --strict \
        >/dev/null 2>"$work/load" || { cat "$work/load" >&2; exit 1; }
    kill -TERM "$server"
    wait "$server"
    server=''
    awk '/^(summary|totals):/ { total = $2 } END { print total }' "$work/out"
}

few=$(count 1000)
many=$(count 11000)
each=$(((many - few) / 10000))
echo "$each instructions per request"
if [ -n "$limit" ] && [ "$each" -gt "$limit" ]; then
    echo "more than the $limit there may be" >&2
    exit 1
fi
