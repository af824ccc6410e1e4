# shellcheck shell=bash
# The servers that are compared: what each needs, how each is started on a data set. Sourced by compare.sh.
# shellcheck disable=SC2154 # it shares its variables

declare -A pid_of port_of

free_port() {
    local port
    while :; do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000)) # below the ports that outgoing connections use
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo $port
            return
        fi
    done
}

launch() { # launch SERVER COMMAND...: on the servers' core
    local server=$1
    shift
    "${on_server_core[@]}" "$@" >"$work/$server.log" 2>&1 </dev/null &
    pid_of[$server]=$!
}

# All of these are told where the orders are: $set/orders.ndjson, list.json, list.json.gz.

start_floor() {
    launch floor "$floor_binary" --listen "127.0.0.1:$1" --orders "$set/orders.ndjson" --list-gzip "$set/list.json.gz"
}
start_go() { # start_go MODE PORT
    GOMAXPROCS=1 launch "go-$1" "$go_binary" -mode "$1" -orders "$set/orders.ndjson" -listen "127.0.0.1:$2"
}
start_go-marshal() { start_go marshal "$1"; }
start_go-bytes() { start_go bytes "$1"; }
start_order-service() {
    launch order-service "$binary" serve --data "$set/data" --sample "$count" --listen "127.0.0.1:$1" --threads 1 \
        --log-level warn
}

start_nginx() {
    local root=$set/www user='' memory=''
    mkdir -p "$root/order" "$root/api" "$set/temp"
    awk -v dir="$root/order/" '{ id = $0; sub(/.*"order_uid":"/, "", id); sub(/".*/, "", id)
        printf "%s", $0 >(dir id); close(dir id) }' "$set/orders.ndjson"
    cp "$set/list.json" "$root/api/orders"
    cp "$set/list.json.gz" "$root/api/orders.gz"
    # Its workers would otherwise run as someone who may not read the checkout.
    if [ "$(id -u)" = 0 ]; then user='user root;'; fi
    # Its configuration has no way to write these three literally.
    if ! grep -q "[\$\\\\']" "$set/order.json"; then
        memory="location = /memory { return 200 '$(cat "$set/order.json")'; }"
    fi
    cat >"$set/nginx.conf" <<CONFIG
$user
daemon off;
worker_processes 1;
worker_rlimit_nofile 8192;
pid $set/temp/pid;
error_log stderr warn;
events { worker_connections 8192; }
http {
    access_log off;
    server_tokens off;
    sendfile on;
    tcp_nopush on;
    default_type application/json;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    open_file_cache max=4096 inactive=600s;
    open_file_cache_valid 600s;
    gzip_static on;
    client_body_temp_path $set/temp/body;
    proxy_temp_path $set/temp/proxy;
    fastcgi_temp_path $set/temp/fastcgi;
    uwsgi_temp_path $set/temp/uwsgi;
    scgi_temp_path $set/temp/scgi;
    server {
        listen 127.0.0.1:$1 backlog=4096;
        root $root;
        add_header Cache-Control no-cache;
        $memory
    }
}
CONFIG
    launch nginx nginx -p "$set/temp" -c "$set/nginx.conf" -e stderr
}

start_redis() {
    launch redis redis-server --save '' --appendonly no --bind 127.0.0.1 --port "$1" --dir "$set" --maxclients 4096
}

# redis-benchmark picks at random among names that end in twelve digits: every order has such a name as well.
fill_redis() {
    {
        awk '{ id = $0; sub(/.*"order_uid":"/, "", id); sub(/".*/, "", id); bytes = length($0)
            printf "*3\r\n$3\r\nSET\r\n$%d\r\norder:%s\r\n$%d\r\n%s\r\n", length(id) + 6, id, bytes, $0
            printf "*3\r\n$3\r\nSET\r\n$18\r\norder:%012d\r\n$%d\r\n%s\r\n", NR - 1, bytes, $0 }' "$set/orders.ndjson"
        # shellcheck disable=SC2016 # lengths of the protocol, no variables
        printf '*3\r\n$3\r\nSET\r\n$6\r\norders\r\n$%d\r\n' "$(stat -c %s "$set/list.json")"
        cat "$set/list.json"
        printf '\r\n'
    } | LC_ALL=C redis-cli -p "${port_of[redis]}" --pipe >/dev/null
}

is_ready() { # is_ready SERVER
    local url=http://127.0.0.1:${port_of[$1]}
    case $1 in
        redis) redis-cli -p "${port_of[redis]}" ping 2>/dev/null | grep -q PONG ;;
        order-service) curl -sf -o /dev/null "$url/readyz" ;;
        *) curl -sf -o /dev/null "$url/order/$id" ;;
    esac
}

start() { # start SERVER
    port_of[$1]=$(free_port)
    "start_$1" "${port_of[$1]}"
    local deadline=$((SECONDS + 20))
    until is_ready "$1"; do
        if ! kill -0 "${pid_of[$1]}" 2>/dev/null || [ $SECONDS -gt $deadline ]; then
            say "$1 did not come up:"
            tail -5 "$work/$1.log" >&2
            stop "$1"
            return 1
        fi
        sleep 0.05
    done
}

stop() { # stop SERVER
    local pid=${pid_of[$1]:-} left=100
    [ -n "$pid" ] || return 0
    kill -TERM "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null && [ $left -gt 0 ]; do
        sleep 0.05
        left=$((left - 1))
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    unset "pid_of[$1]"
}

stop_all() {
    local server
    for server in "${!pid_of[@]}"; do stop "$server"; done
}

# Starts all that are there on a service's own sample orders, so that every server has the same bytes.
start_all() { # start_all ORDERS
    local server
    count=$1
    set=$work/$count
    mkdir -p "$set"
    start order-service || { say "the service itself did not start: nothing to compare"; exit 1; }
    until "$binary" export --data "$set/data" >"$set/orders.ndjson" 2>/dev/null &&
        [ "$(wc -l <"$set/orders.ndjson")" = "$count" ]; do
        sleep 0.1
    done
    { printf '['; paste -sd, "$set/orders.ndjson" | tr -d '\n'; printf ']'; } >"$set/list.json"
    gzip -9 -n -k -f "$set/list.json"
    grep -F "\"order_uid\":\"$id\"" "$set/orders.ndjson" | tr -d '\n' >"$set/order.json"
    awk '{ sub(/.*"order_uid":"/, ""); sub(/".*/, ""); print "/order/" $0 }' "$set/orders.ndjson" >"$set/paths"
    running=(order-service)
    for server in "${wanted[@]}"; do
        if [ "$server" != order-service ] && start "$server"; then running+=("$server"); fi
    done
    if [ -n "${pid_of[redis]:-}" ]; then fill_redis; fi
}

# Microseconds of CPU that a server has used, its workers' included.
cpu_us() { # cpu_us SERVER
    local pid files=()
    for pid in "${pid_of[${1%-memory}]}" $(pgrep -P "${pid_of[${1%-memory}]}"); do files+=("/proc/$pid/stat"); done
    # The name, in parentheses, may hold spaces; what follows it is counted from there.
    awk -v tick="$tick_us" '{ sub(/^.*\) /, ""); used += $12 + $13 } END { printf "%d\n", used * tick }' "${files[@]}"
}
