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
    for id in b563feb7b2b84b6test b563feb7b2b84b6test1 b563feb7b2b84b6test2; do printf 'GET %s/order/%s\n' "$url" "$id"; done
    printf 'GET %s/orders/b563feb7b2b84b6test3\nGET %s/api/orders?limit=20\nGET %s/api/stats\n' "$url" "$url" "$url"
} >"$targets"

for rate in 100 500 1000 2000; do
    printf '\n== %s per second for %s s\n' "$rate" "$seconds"
    vegeta attack -targets="$targets" -rate="$rate" -duration="${seconds}s" | tee "$results/vegeta-$rate.bin" | vegeta report
done
printf '\n== 1000 per second for a minute\n'
vegeta attack -targets="$targets" -rate=1000 -duration=60s | tee "$results/vegeta-minute.bin" | vegeta report
vegeta plot <"$results/vegeta-minute.bin" >"$results/vegeta-minute.html"
echo "plot: $results/vegeta-minute.html"
