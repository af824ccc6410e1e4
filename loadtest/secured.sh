#!/usr/bin/env bash
# What keys, tokens and TLS cost a GET /order/{id}: instructions and CPU time of the server for each, HTTP/2 and
# handshakes too, and the slowest reads while certificates are read again once a second.
#   loadtest/secured.sh [BINARY [REQUESTS]]
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."
binary=${1:-target/release/order-service}
requests=${2:-300000}
tests/servers.sh fetch openssl openssl
tests/servers.sh fetch h2load nghttp2-client
[ -x "$binary" ] || { echo "$binary is missing: cargo build --release" >&2; exit 1; }
work=$(mktemp -d)
servers=()
trap '[ ${#servers[@]} = 0 ] || kill "${servers[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT

certificate() { # a certificate of a new key, as a replacement of the one before
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$work/key.new" -out "$work/cert.new" 2>/dev/null
    mv "$work/key.new" "$work/key.pem"
    mv "$work/cert.new" "$work/cert.pem"
}
base64url() { base64 -w0 | tr '+/' '-_' | tr -d '='; }

certificate
"$binary" keys new bench --scope orders:read >"$work/keys.toml" 2>"$work/key"
chmod 600 "$work/keys.toml"
key=$(sed -n 's/^key, shown this once: //p' "$work/key")
openssl genpkey -algorithm ed25519 -out "$work/issuer.pem"
public=$(openssl pkey -in "$work/issuer.pem" -pubout -outform DER | tail -c 32 | base64url)
echo "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"alg\":\"EdDSA\",\"use\":\"sig\",\"kid\":\"1\",\"x\":\"$public\"}]}" >"$work/jwks.json"
head=$(printf '{"alg":"EdDSA","typ":"JWT","kid":"1"}' | base64url)
claims=$(printf '{"iss":"bench","aud":"orders","sub":"bench","scope":"orders:read","exp":%s}' $(($(date +%s) + 86400)) | base64url)
printf '%s.%s' "$head" "$claims" >"$work/signed"
token=$head.$claims.$(openssl pkeyutl -sign -inkey "$work/issuer.pem" -rawin -in "$work/signed" | base64url)

callers=(--auth-keys "$work/keys.toml" --auth-jwks "$work/jwks.json" --auth-issuer bench --auth-audience orders)
tls=(--tls "$work/cert.pem" "$work/key.pem")
by_key=(--header "Authorization: Bearer $key")
by_token=(--header "Authorization: Bearer $token")

count() { printf '%-36s %s\n' "$1" "$(loadtest/instructions.sh "${@:2}")"; }
count "HTTP/1.1" "$binary"
count "HTTP/1.1, key" "${by_key[@]}" "$binary" "${callers[@]}"
count "HTTP/1.1, token" "${by_token[@]}" "$binary" "${callers[@]}"
count "HTTP/1.1, TLS 1.3" "${tls[@]}" "$binary"
count "HTTP/1.1, TLS 1.3, key" "${tls[@]}" "${by_key[@]}" "$binary" "${callers[@]}"
count "HTTP/1.1, TLS 1.3, token" "${tls[@]}" "${by_token[@]}" "$binary" "${callers[@]}"

start() { # start NAME FLAG...: sets server, plain and secure
    local listen
    "$binary" serve --data "$work/$1" --sample 1 --listen 127.0.0.1:0 --listen tls:127.0.0.1:0 \
        --tls-cert "$work/cert.pem" --tls-key "$work/key.pem" "${@:2}" >"$work/$1.log" 2>&1 &
    server=$!
    servers+=("$server")
    for _ in $(seq 200); do
        listen=$(sed -n 's/.*listen="\([^"]*\)".*/\1/p' "$work/$1.log")
        [ -n "$listen" ] && curl -sf "http://${listen%% *}/readyz" >/dev/null && break
        kill -0 "$server" 2>/dev/null || { cat "$work/$1.log" >&2; exit 1; }
        sleep 0.1
    done
    plain=${listen%% *}
    secure=${listen##* tls:}
}

ticks() { awk '{ print $14 + $15 }' "/proc/$server/stat"; } # none of the names before them has a blank
hertz=$(getconf CLK_TCK)

measure() { # measure NAME COUNT COMMAND...: what one of COUNT costs the server
    local name=$1 count=$2 before after
    before=$(ticks)
    "${@:3}" >"$work/out" 2>&1 || { cat "$work/out" >&2; exit 1; }
    if [ "$count" = made ]; then
        count=$(sed -n 's/^\([0-9]*\) connections in [0-9]* real seconds.*/\1/p' "$work/out")
        name="$name, $((count / 3)) a second"
    fi
    after=$(ticks)
    awk -v name="$name" -v spent=$((after - before)) -v hertz="$hertz" -v count="$count" \
        'BEGIN { printf "%-36s %8.2f us (%d)\n", name, spent / hertz / count * 1e6, count }'
}

load() { # load URL ARGUMENT...
    "$binary" load --id "$id" --connections 64 --warm-up 0s --count "$requests" --timeout 60s --strict --url "$@"
}

start known "${callers[@]}"
known=$server known_plain=$plain known_secure=$secure
start open
open=$server
id=$(curl -s "http://$plain/api/orders" | sed -n 's/.*"order_uid":"\([^"]*\)".*/\1/p')
for round in 1 2 3; do
    echo "round $round"
    server=$open
    measure "HTTP/1.1" "$requests" load "http://$plain"
    measure "HTTP/1.1, TLS 1.3" "$requests" load "https://$secure"
    measure "HTTP/2" "$requests" h2load -n "$requests" -c 8 -m 32 "http://$plain/order/$id"
    measure "HTTP/2, TLS 1.3" "$requests" h2load -n "$requests" -c 8 -m 32 "https://$secure/order/$id"
    measure "handshake, TLS 1.3" made openssl s_time -connect "$secure" -new -time 3
    server=$known
    measure "HTTP/1.1, key" "$requests" load "http://$known_plain" "${by_key[@]}"
    measure "HTTP/1.1, token" "$requests" load "http://$known_plain" "${by_token[@]}"
    measure "HTTP/1.1, TLS 1.3, key" "$requests" load "https://$known_secure" "${by_key[@]}"
    measure "HTTP/1.1, TLS 1.3, token" "$requests" load "https://$known_secure" "${by_token[@]}"
done

reads() { # reads NAME: the latencies of 2,000 reads a second over TLS
    local latencies
    latencies=$("$binary" load --id "$id" --url "https://$secure" --rate 2000 --duration 10s --strict 2>&1 |
        awk '$1 == "p50" || $1 == "p99.9" || $1 == "max" { printf "%s %.1f ms  ", $1, $2 / 1000 }')
    echo "$1: $latencies"
}
server=$open
for round in 1 2 3; do
    reads "round $round, reads over TLS"
    (while sleep 1; do certificate && kill -HUP "$server"; done) &
    renewing=$!
    servers+=("$renewing")
    reads "round $round, the same, certificates read again once a second"
    kill "$renewing"
    wait "$renewing" 2>/dev/null || true
done
echo "read again $(grep -c 'certificates read again' "$work/open.log") times"
