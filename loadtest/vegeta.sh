#!/usr/bin/env bash
# vegeta against a running service: mixed reads at rising rates, then a minute at 1,000 per second with its plot.
#   loadtest/vegeta.sh [URL] [SECONDS per rate]
set -euo pipefail
url=${1:-http://127.0.0.1:8080}
seconds=${2:-10}
case $url in
    http://127.* | http://localhost* | http://\[::1\]*) ;;
    *) echo "$url is not this machine" >&2; exit 2 ;;
esac
if ! command -v vegeta >/dev/null; then
    echo "vegeta is missing, and Debian has no package of it: get it from its releases, then run this again." >&2
    echo "Without it, 'order-service load --rate 1000' asks at a fixed rate as well." >&2
    exit 1
fi
curl -sf "$url/readyz" >/dev/null || { echo "$url is not ready" >&2; exit 1; }
results=$(cd "$(dirname "$0")" && pwd)/results/raw/vegeta
mkdir -p "$results"
targets=$results/targets.txt
{
    for id in b563feb7b2b84b6test{,1,2,3,4,5}; do printf 'GET %s/order/%s\n' "$url" "$id"; done
    printf 'GET %s/orders/b563feb7b2b84b6test3\nGET %s/api/orders?limit=20\nGET %s/api/stats\n' "$url" "$url" "$url"
} >"$targets"

while read -r _ target; do
    curl -sf "$target" >/dev/null || { echo "$target is not answered with 200; start with --sample 10" >&2; exit 1; }
done <"$targets"

attack() { # attack NAME RATE DURATION
    printf '\n== %s per second for %s\n' "$2" "$3"
    vegeta attack -targets="$targets" -rate="$2" -duration="$3" | tee "$results/vegeta-$1.bin" | vegeta report
    # vegeta itself calls any answer a success.
    if vegeta report -type=json <"$results/vegeta-$1.bin" | grep -q '"status_codes":{[^}]*"\([013-9]\|2[1-9]\|20[1-9]\)[0-9]*"'; then
        echo "not every answer was 200" >&2
        exit 1
    fi
}

for rate in 100 500 1000 2000; do attack "$rate" "$rate" "${seconds}s"; done
attack minute 1000 60s
vegeta plot <"$results/vegeta-minute.bin" >"$results/vegeta-minute.html"
echo "plot: $results/vegeta-minute.html"
