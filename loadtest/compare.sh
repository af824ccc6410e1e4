#!/usr/bin/env bash
# The service beside other servers that answer the same bytes: a floor of ours, nginx, Redis, Go with and without
# encoding per request. Servers share one core, the load has another, and all take turns within every round.
#   loadtest/compare.sh [--binary PATH] [--seconds S per measurement] [--rounds N] [--quick]
# Writes loadtest/results/report.md with its plots; what it is made from stays in loadtest/results/raw/compare, where a
# quick run leaves its report too. Servers and load are on 127.0.0.1, and all end with the script.
set -euo pipefail
export LC_ALL=C # bytes, and points in numbers
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.."
command_line="loadtest/compare.sh"
binary=target/release/order-service seconds=2 rounds=3 quick=no

say() { printf 'compare: %s\n' "$*" >&2; }
usage() {
    sed -n '2,6s/^# //p' "$here/compare.sh" >&2
    exit 2
}
while [ $# -gt 0 ]; do
    case $1 in
        --binary) binary=${2:?}; command_line+=" --binary $(basename "$2")"; shift 2 ;;
        --seconds) seconds=${2:?}; command_line+=" $1 $2"; shift 2 ;;
        --rounds) rounds=${2:?}; command_line+=" $1 $2"; shift 2 ;;
        --quick) quick=yes; command_line+=" $1"; shift ;;
        *) usage ;;
    esac
done
[[ $seconds =~ ^[1-9][0-9]*$ && $rounds =~ ^[1-9][0-9]*$ ]] || usage
[ -x "$binary" ] || { say "$binary is missing: cargo build --release"; exit 1; }
command -v curl >/dev/null || { say "curl is missing"; exit 1; }

id=b563feb7b2b84b6test # the first sample order
pipelined=16
tick_us=$((1000000 / $(getconf CLK_TCK)))
binary=$(realpath "$binary")
raw=$here/results/raw/compare
out=$here/results
work=$here/../target/loadtest/run
rm -rf "$work" "$raw"
mkdir -p "$work" "$raw"
work=$(realpath "$work")

cases=(order random pipelined connections-1 connections-8 connections-256 connections-1000 page-20)
list_cases=(list-1000 list-1000-gzip)
small_lists=(20 40)
writes=(0 10000 50000)
open_seconds=$((2 * seconds))
seconds_max=$((14 * 60)) # then no measurement is begun any more
if [ $quick = yes ]; then
    out=$raw # too short to be kept
    seconds=1 rounds=1 open_seconds=2 small_lists=(20) writes=(0 50000)
    cases=(order random pipelined connections-1000 page-20)
    seconds_max=$((2 * 60))
fi

# shellcheck source-path=SCRIPTDIR source=compare/servers.sh
. "$here/compare/servers.sh"
# shellcheck source-path=SCRIPTDIR source=compare/measure.sh
. "$here/compare/measure.sh"

background=()
clean_up() {
    trap - EXIT INT TERM
    if [ ${#background[@]} -gt 0 ]; then kill "${background[@]}" 2>/dev/null || true; fi
    stop_all
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

note() { printf '%s\t%s\n' "$1" "$2" >>"$raw/meta.tsv"; }
missing() {
    say "missing: $*"
    note missing "$*"
}
fetched() { # fetched COMMAND PACKAGE: whether it is there, or can be had
    command -v "$1" >/dev/null || tests/servers.sh fetch "$@" >"$work/fetch.log" 2>&1 || true
    hash -r
    command -v "$1" >/dev/null
}

# ---- What is there.

on_server_core=() on_load_core=()
if [ "$(nproc)" -ge 2 ] && command -v taskset >/dev/null; then
    on_server_core=(taskset -c 0) on_load_core=(taskset -c 1)
    note pinned 'servers to core 0, load to core 1'
else
    missing "a second core, or taskset: servers and load share what there is"
    note pinned no
fi
# Requests at a fixed rate are to be sent on time, whatever else the machine does.
on_time=()
if [ "$(nproc)" -ge 2 ] && chrt --fifo 1 true 2>/dev/null; then on_time=(chrt --fifo 1); fi
ulimit -Sn "$(ulimit -Hn)" # a thousand connections on either side

wanted=() has_wrk=no open_load=load
cargo_flags=(build --release --locked --quiet --manifest-path "$here/floor/Cargo.toml" --target-dir target/loadtest/floor)
floor_binary=$PWD/target/loadtest/floor/release/floor
paced_binary=$PWD/target/loadtest/floor/release/paced
go_binary=$PWD/target/loadtest/gohttp
say "building what the service is compared with"
if command -v cargo >/dev/null && cargo "${cargo_flags[@]}" 2>"$work/cargo.log"; then
    wanted+=(floor)
    open_load=paced
    note version "floor	loadtest/floor, $(rustc --version | cut -d' ' -f1,2)"
else
    missing "the floor: $(tail -1 "$work/cargo.log" 2>/dev/null || echo no cargo)"
fi
if fetched nginx nginx-light; then
    wanted+=(nginx)
    what="a worker, files with sendfile and open_file_cache; one order also from memory (nginx-memory)"
    note version "nginx	$(nginx -v 2>&1 | sed 's/.*: //'), $what"
else
    missing nginx
fi
if fetched redis-server redis-server && fetched redis-benchmark redis-tools; then
    wanted+=(redis)
    what="asked by redis-benchmark: RESP, not HTTP"
    note version "redis	Redis $(redis-server --version | sed 's/.*v=\([^ ]*\).*/\1/'), $what"
else
    missing Redis
fi
if command -v go >/dev/null && (cd "$here/gohttp" && go build -o "$go_binary" .) 2>"$work/go.log"; then
    wanted+=(go-marshal go-bytes)
    note version "go-marshal	$(go env GOVERSION), net/http, a mutex, json.Marshal for every answer"
    note version "go-bytes	$(go env GOVERSION), net/http, a mutex, ready bytes"
else
    missing "Go, 1.22 or newer"
fi
wanted+=(order-service)
note version "order-service	$("$binary" --version), --threads 1"
if fetched wrk wrk; then
    has_wrk=yes
    note version "wrk	$({ wrk -v 2>&1 || true; } | sed -n '1s/ Copyright.*//p'), one thread"
else
    missing "wrk: only what a fixed rate shows is measured"
fi
note date "$(date -u +%Y-%m-%d)"
note command "$command_line"
note commit "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)$(
    git diff --quiet HEAD 2>/dev/null || echo ', with changes'
)"
note cpu "$(awk -F ': *' '/^model name/ { print $2; exit }' /proc/cpuinfo)"
note cores "$(nproc)"
note memory "$(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)"
note kernel "$(uname -sr)"
note virtual "$(if grep -q '^flags.* hypervisor' /proc/cpuinfo; then echo yes; else echo no; fi)"
note seconds "$seconds"
note open_seconds "$open_seconds"
note rounds "$rounds"
note open_load "$open_load"
note on_time "$(if [ ${#on_time[@]} -gt 0 ]; then echo yes; else echo no; fi)"
note pipelined $pipelined
columns=(round case server connections requests duration_us failed cpu_us p50_us p99_us p999_us max_us)
(IFS=$'\t' && echo "${columns[*]}") >"$raw/runs.tsv"
printf 'case\tserver\tright\tcoding\tbytes\n' >"$raw/checks.tsv"
printf 'kind\tserver\tround\trate\tcpu_us\tload\n' >"$raw/open.tsv"
printf 'writes\tround\tread_rate\twritten\tduration_us\tcpu_us\n' >"$raw/tail.tsv"

SECONDS=0 # building is not the run
is_late=no
in_time() {
    [ $SECONDS -lt $seconds_max ] && return
    if [ $is_late = no ]; then missing "time: the run was cut after $((SECONDS / 60)) minutes"; fi
    is_late=yes
    return 1
}

# ---- The measurements.

# Every server, from another one on in each round: a virtual machine may pay later for what it did for the one before.
turns() { # turns ROUND
    local first=$((($1 - 1) * 2 % ${#running[@]}))
    echo "${running[@]:first}" "${running[@]:0:first}"
}

compete() { # compete CASE...: every server in turn, in every round
    local round case server
    [ $has_wrk = yes ] || return 0
    for case in "$@"; do
        for server in "${running[@]}" nginx-memory; do
            if [ -n "${pid_of[${server%-memory}]:-}" ] && applies "$case" "$server" && [[ $case != connections-* ]]; then
                check "$case" "$server"
            fi
        done
    done
    for round in $(seq "$rounds"); do
        for case in "$@"; do
            say "round $round, $case"
            for server in $(turns "$round") nginx-memory; do
                if [ -z "${pid_of[${server%-memory}]:-}" ] || ! applies "$case" "$server"; then continue; fi
                if [ -n "${wrong[$case/$server]:-}${wrong[order/$server]:-}" ]; then continue; fi
                in_time || return 0
                measure "$case" "$server" "$round"
            done
        done
    done
}

reached() { # reached SERVER: median of its requests per second for one order
    awk -F '\t' -v server="$1" '$2 == "order" && $3 == server && $6 > 0 { print $5 / $6 * 1e6 }' "$raw/runs.tsv" | sort -n |
        awk '{ all[NR] = $1 } END { if (NR) printf "%d\n", all[int((NR + 1) / 2)]; else print 0 }'
}

# `load` is a whole HTTP client and gets through less than the servers do; `paced` asks for the rates it cannot.
find_load_max() {
    local server=order-service
    if [ -n "${pid_of[floor]:-}" ]; then server=floor; fi
    timeout 20 "${on_load_core[@]}" "$binary" load --url "http://127.0.0.1:${port_of[$server]}" --id "$id" --connections 64 \
        --duration 1s --warm-up 500ms --json "$work/max.json" >/dev/null 2>&1 || true
    load_max=$(sed -n 's/.*"rate_answered_per_second": *\([0-9]*\).*/\1/p' "$work/max.json" 2>/dev/null || true)
    load_max=$((${load_max:-10000} * 6 / 10))
    note load_max "$load_max"
}

at_most() { if [ "$1" -lt "$2" ]; then echo "$1"; else echo "$2"; fi; }
sendable() { if [ $open_load = load ]; then at_most "$1" "$load_max"; else echo "$1"; fi; }

compete_open() {
    local round kind server rate common=$load_max
    for server in "${running[@]}"; do
        rate=$(($(reached "$server") / 2))
        if [ "$server" != redis ] && [ $rate -gt 0 ]; then common=$(at_most $rate "$common"); fi
    done
    common=$((common > 2000 ? common / 1000 * 1000 : common))
    note common_rate $common
    for round in $(seq "$rounds"); do
        for kind in common half; do
            say "round $round, fixed rates: $kind"
            for server in $(turns "$round"); do
                if [ "$server" = redis ] || [ -n "${wrong[order/$server]:-}" ]; then continue; fi
                in_time || return 0
                rate=$(sendable $(($(reached "$server") / 2)))
                if [ $kind = common ]; then
                    measure_open common "$server" "$round" $common load
                elif [ "$rate" -gt 0 ]; then
                    measure_open half "$server" "$round" "$rate" $open_load
                fi
            done
        done
    done
}

# Reads while orders are written into the same process, over one HTTP request that streams lines.
compete_with_writes() {
    local round rate read_rate lines bytes before after cpu from writer
    read_rate=$(($(reached order-service) / 2))
    read_rate=$(sendable $((read_rate > 0 ? read_rate : 5000)))
    lines=$((${writes[-1]} * (open_seconds + 3)))
    say "making $lines new orders"
    awk -v lines="$lines" '{ line[NR] = substr($0, index($0, ",")) }
        END { for (i = 0; i < lines; i++) printf "{\"order_uid\":\"written%09d\"%s\n", i, line[i % NR + 1] }' \
        "$set/orders.ndjson" >"$work/new.ndjson"
    bytes=$(($(stat -c %s "$work/new.ndjson") / lines))
    local in_the_gaps=(nice -n 19)
    if [ ${#on_time[@]} -gt 0 ]; then in_the_gaps=(); fi # reads go first anyway
    for round in $(seq "$rounds"); do
        for rate in "${writes[@]}"; do
            in_time || return 0
            say "round $round, reads while $rate orders/s are written"
            set=$work/tail count=1000
            rm -rf "$set"
            mkdir -p "$set"
            start order-service || return 0
            if [ "$rate" -gt 0 ]; then
                # Only with what the reads leave of their core: they must be sent on time.
                "${on_load_core[@]}" "${in_the_gaps[@]}" curl -s -m $((open_seconds + 20)) \
                    --limit-rate $((rate * bytes)) -T "$work/new.ndjson" -X POST -H 'Content-Type: application/x-ndjson' -o "$work/results" \
                    "http://127.0.0.1:${port_of[order-service]}/orders" &
                writer=$!
                background=("$writer")
                sleep 0.5
            fi
            before=$(written) cpu=$(cpu_us order-service) from=$(date +%s%N)
            measure_open "writes-$rate" order-service "$round" "$read_rate" $open_load
            after=$(written)
            printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$rate" "$round" "$read_rate" $((after - before)) \
                $((($(date +%s%N) - from) / 1000)) $(($(cpu_us order-service) - cpu)) >>"$raw/tail.tsv"
            if [ "$rate" -gt 0 ]; then
                kill "$writer" 2>/dev/null || true
                wait "$writer" 2>/dev/null || true
                background=()
            fi
            stop order-service
        done
    done
}

running=()
start_all 1000
find_load_max
compete "${cases[@]}" "${list_cases[@]}"
compete_open
stop_all
orders_of_1000=$work/1000
for size in "${small_lists[@]}"; do
    if [ $is_late = yes ] || [ $has_wrk = no ]; then break; fi
    start_all "$size"
    compete "list-$size" "list-$size-gzip"
    stop_all
done
set=$orders_of_1000
compete_with_writes
stop_all
note took "$SECONDS"

# ---- The report, which takes the place of an earlier one.

if command -v python3 >/dev/null; then
    PYTHONDONTWRITEBYTECODE=1 python3 "$here/report.py" "$raw" "$out"
    say "written: $out/report.md"
else
    say "python3 is missing: no report and no plots, only a table"
    {
        printf 'case server median-requests/s median-CPU-us/request\n'
        awk -F '\t' 'NR > 1 && $5 > 0 && $6 > 0 { printf "%s\t%s\t%d\t%.3f\n", $2, $3, $5 / $6 * 1e6, $8 / $5 }' "$raw/runs.tsv" |
            sort -t "$(printf '\t')" -k1,1 -k2,2 -k3,3n |
            # Of each case and server the middle line: where the rate is the median, the CPU is nearly always.
            awk -F '\t' 'function out() { if (n) { m = int((n + 1) / 2); print key, rate[m], cpu[m] } }
                { if ($1 " " $2 != key) { out(); key = $1 " " $2; n = 0 } rate[++n] = $3; cpu[n] = $4 } END { out() }'
    } | { column -t 2>/dev/null || cat; } | tee "$out/table.txt"
    say "written: $out/table.txt; the raw results are in $raw"
fi
