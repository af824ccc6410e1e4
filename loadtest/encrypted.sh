#!/usr/bin/env bash
# CPU time of the server per GET /order/{id}: plain, over TLS 1.3, over HTTP/2 without and with TLS, and per handshake.
#   loadtest/encrypted.sh [BINARY [REQUESTS]]
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."
binary=${1:-target/release/order-service}
requests=${2:-300000}
tests/servers.sh fetch openssl openssl
tests/servers.sh fetch h2load nghttp2-client
[ -x "$binary" ] || { echo "$binary is missing: cargo build --release" >&2; exit 1; }
work=$(mktemp -d)
server=''
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
"$binary" serve --data "$work/data" --sample 1 --listen 127.0.0.1:0 --listen tls:127.0.0.1:0 \
    --tls-cert "$work/cert.pem" --tls-key "$work/key.pem" >"$work/log" 2>&1 &
server=$!
for _ in $(seq 200); do
    listen=$(sed -n 's/.*listen="\([^"]*\)".*/\1/p' "$work/log")
    [ -n "$listen" ] && curl -sf "http://${listen%% *}/readyz" >/dev/null && break
    kill -0 "$server" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.1
done
plain=${listen%% *}
secure=${listen##* tls:}
id=$(curl -s "http://$plain/api/orders" | sed -n 's/.*"order_uid":"\([^"]*\)".*/\1/p')

ticks() { awk '{ print $14 + $15 }' "/proc/$server/stat"; } # none of the names before them has a blank
hertz=$(getconf CLK_TCK)

measure() { # measure NAME COUNT COMMAND...: what one of COUNT costs the server
    local name=$1 count=$2 before after
    before=$(ticks)
    "${@:3}" >"$work/out" 2>&1 || { cat "$work/out" >&2; exit 1; }
    if [ "$count" = made ]; then count=$(sed -n 's/^\([0-9]*\) connections in [0-9]* real seconds.*/\1/p' "$work/out"); fi
    after=$(ticks)
    awk -v name="$name" -v spent=$((after - before)) -v hertz="$hertz" -v count="$count" \
        'BEGIN { printf "%-36s %8.2f us (%d)\n", name, spent / hertz / count * 1e6, count }'
}

load() { "$binary" load --id "$id" --connections 64 --warm-up 0s --count "$requests" --timeout 60s --url "$1"; }
for round in 1 2 3; do
    echo "round $round"
    measure "HTTP/1.1" "$requests" load "http://$plain"
    measure "HTTP/1.1, TLS 1.3" "$requests" load "https://$secure"
    measure "HTTP/2" "$requests" h2load -n "$requests" -c 8 -m 32 "http://$plain/order/$id"
    measure "HTTP/2, TLS 1.3" "$requests" h2load -n "$requests" -c 8 -m 32 "https://$secure/order/$id"
    measure "handshake, TLS 1.3" made openssl s_time -connect "$secure" -new -time 3
done
