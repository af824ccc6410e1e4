# shellcheck shell=bash
# One measurement: what is asked for, whether the answer is right, how fast and at what price. Sourced by compare.sh.
# shellcheck disable=SC2034,SC2154 # it shares its variables

declare -A wrong redis_rate

connections_of() { case $1 in connections-*) echo "${1#connections-}" ;; *) echo 64 ;; esac; }

path_of() { # path_of CASE SERVER
    case $1 in
        page-*) echo "/api/orders?limit=${1#page-}" ;;
        list-*) echo /api/orders ;;
        *) if [ "$2" = nginx-memory ]; then echo /memory; else echo "/order/$id"; fi ;;
    esac
}

applies() { # applies CASE SERVER
    case $1/$2 in
        # A directory of files has no pages; Redis has neither pages nor codings.
        page-*/nginx | page-*/redis | *-gzip/redis) return 1 ;;
        order/nginx-memory) [ "$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:${port_of[nginx]}/memory")" = 200 ] ;;
        */nginx-memory) return 1 ;;
    esac
}

expected_of() { # expected_of CASE: the file with the right answer
    case $1 in
        page-*)
            { printf '['; head -n "${1#page-}" "$set/orders.ndjson" | paste -sd, | tr -d '\n'; printf ']'; } >"$work/page"
            echo "$work/page"
            ;;
        list-*) echo "$set/list.json" ;;
        *) echo "$set/order.json" ;;
    esac
}

# Whether the answer is right, byte for byte. A wrong one is not measured.
check() { # check CASE SERVER
    local case=$1 server=$2 port=${port_of[${2%-memory}]} url bytes coding=identity right=yes expected
    url=http://127.0.0.1:$port$(path_of "$case" "$server")
    expected=$(expected_of "$case")
    if [ "$server" = redis ]; then
        local key=order:$id
        if [[ $case == list-* ]]; then key=orders; fi
        redis-cli -p "$port" GET "$key" | head -c -1 >"$work/body"
    elif [[ $case == *-gzip ]]; then
        # Anyone who compresses when first asked may answer plainly meanwhile, and have a smaller form a second later.
        for pause in 1.5 0.5 0; do
            curl -s -m 10 -H 'Accept-Encoding: gzip' -D "$work/head" -o "$work/body" "$url" || true
            coding=identity
            if grep -qi '^content-encoding: *gzip' "$work/head"; then coding=gzip; fi
            sleep $pause
        done
    else
        curl -s -m 10 -o "$work/body" "$url" || true
    fi
    bytes=$(stat -c %s "$work/body")
    if [ $coding = gzip ]; then
        gzip -dc <"$work/body" >"$work/plain" 2>/dev/null || true
        mv "$work/plain" "$work/body"
    fi
    cmp -s "$work/body" "$expected" || right=no
    case $case/$server in
        random/redis) ;;
        random/*)
            sed "s|.*|url = \"http://127.0.0.1:$port&\"|" "$set/paths" >"$work/urls"
            curl -s -m 20 -K "$work/urls" | cmp -s - <(tr -d '\n' <"$set/orders.ndjson") || right=no
            ;;
        pipelined/redis) ;;
        pipelined/*) [ "$(pipelined_answers "$port")" = "$pipelined" ] || right=no ;;
    esac
    printf '%s\t%s\t%s\t%s\t%s\n' "$case" "$server" $right $coding "$bytes" >>"$raw/checks.tsv"
    if [ $right = no ]; then
        wrong[$case/$server]=yes
        say "WRONG ANSWER: $server, case $case: not measured"
    fi
}

pipelined_answers() { # pipelined_answers PORT: right answers to so many requests sent at once
    local one close
    printf -v one 'GET /order/%s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n' "$id"
    printf -v close 'GET /order/%s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' "$id"
    {
        for _ in $(seq 2 "$pipelined"); do printf %s "$one" >&3; done
        printf %s "$close" >&3
        timeout 5 cat <&3
    } 3<>"/dev/tcp/127.0.0.1/$1" 2>/dev/null | { grep -oF -f "$set/order.json" || true; } | wc -l
}

# Closed loop: each connection asks again once it is answered. One line in runs.tsv.
measure() { # measure CASE SERVER ROUND
    local case=$1 server=$2 round=$3 connections before after out
    connections=$(connections_of "$case")
    out=$raw/$case.$server.$round.txt
    before=$(cpu_us "$server")
    if [ "$server" = redis ]; then
        redis_load "$case" "$connections" "$out"
    else
        http_load "$case" "$server" "$connections" "$out"
    fi
    after=$(cpu_us "$server")
    # requests, microseconds, failed requests, p50, p99, p99.9, worst
    awk -v OFS='\t' -v head="$round	$case	$server	$connections" -v cpu=$((after - before)) \
        '$1 == "RESULT" { print head, $2, $3, $4, cpu, $5, $6, $7, $8; found = 1 } END { exit !found }' "$out" \
        >>"$raw/runs.tsv" || say "no result: $server, case $case; its output is in $out"
}

http_load() { # http_load CASE SERVER CONNECTIONS OUT
    local mode=(plain) header=()
    case $1 in
        pipelined) mode=(pipelined "$pipelined") ;;
        random) mode=(random "$set/paths") ;;
        *-gzip) header=(-H 'Accept-Encoding: gzip') ;;
    esac
    timeout $((seconds + 20)) "${on_load_core[@]}" wrk -t1 -c"$3" -d"${seconds}s" "${header[@]}" -s "$here/compare/wrk.lua" \
        "http://127.0.0.1:${port_of[${2%-memory}]}$(path_of "$1" "$2")" -- "${mode[@]}" >"$4" 2>&1 || true
}

# redis-benchmark knows counts and no times: a short run says how many requests fill the time.
redis_load() { # redis_load CASE CONNECTIONS OUT
    local key=order:$id flags=(-c "$2") few=$((10 * $2 + 2000))
    case $1 in
        random) key=order:__rand_int__ flags+=(-r "$count") ;;
        pipelined) flags+=(-P "$pipelined") few=50000 ;;
        list-*) key=orders few=200 ;;
    esac
    local benchmark=("${on_load_core[@]}" redis-benchmark -p "${port_of[redis]}" --csv "${flags[@]}")
    if [ -z "${redis_rate[$1]:-}" ]; then
        redis_rate[$1]=$(timeout 20 "${benchmark[@]}" -n $few GET "$key" 2>/dev/null |
            awk -F '"' 'END { printf "%d", $4 }')
        before=$(cpu_us redis) # of measure: the short run does not count
    fi
    local requests=$((${redis_rate[$1]:-0} * seconds))
    [ $requests -gt "$2" ] || requests=$((2 * $2))
    timeout $((seconds * 5 + 20)) "${benchmark[@]}" -n $requests GET "$key" >"$work/benchmark" 2>&1 || true
    cp "$work/benchmark" "$3"
    awk -F '"' -v requests=$requests '
        $2 ~ /^GET/ {
            printf "RESULT %d %d 0 %d %d -1 %d\n", requests, requests / $4 * 1e6, $10 * 1e3, $14 * 1e3, $16 * 1e3
        }' \
        "$work/benchmark" >>"$3"
}

# Open loop at a fixed rate, whatever the answers take. One JSON file and one line in open.tsv.
measure_open() { # measure_open KIND SERVER ROUND RATE LOAD: `paced`, or `load` of the service
    local address=127.0.0.1:${port_of[$2]} file=$raw/$1.$2.$3.json before after
    local command=("$binary" load --url "http://$address" --id "$id" --rate "$4" --connections 64
        --duration "${open_seconds}s" --warm-up 500ms --json "$file")
    if [ "$5" = paced ]; then
        command=("$paced_binary" --address "$address" --path "/order/$id" --rate "$4" --connections 64
            --seconds "$open_seconds" --warm-up-ms 500)
    else
        file=$work/load.out
    fi
    before=$(cpu_us "$2")
    timeout $((open_seconds + 20)) "${on_load_core[@]}" "${on_time[@]}" "${command[@]}" >"$file" 2>"$work/load.err" ||
        say "open loop: $2 at $4/s: $(tail -1 "$work/load.err")"
    after=$(cpu_us "$2")
    printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" $((after - before)) "$5" >>"$raw/open.tsv"
}

# What the service has written so far, as it says itself.
written() {
    curl -s "http://127.0.0.1:${port_of[order-service]}/metrics" |
        awk '/^orders_processed_total\{/ && /success|created/ { sum += $2 } END { printf "%d\n", sum }'
}
