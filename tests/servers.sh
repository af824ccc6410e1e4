#!/usr/bin/env bash
# Real servers for tests, without Docker: named instances on free ports of 127.0.0.1, each with a state directory of its
# own, which live on after this script has ended. A kind of server is one function that answers five questions.
set -euo pipefail

usage() {
    cat >&2 <<'EOF'
usage: tests/servers.sh COMMAND
  install KIND|all              fetch what is missing, and say so: postgres, kafka, nats, stan, redis
  fetch COMMAND PACKAGE...      install Debian packages unless COMMAND is there, without starting their services
  start KIND NAME [NODES]       start an instance, or what is down of it; prints its address (kafka takes 1 or more NODES;
                                of two of postgres the second is a hot standby)
  stop KIND NAME                stop it in order; its data and ports stay
  kill KIND NAME [NODE]         SIGKILL, children too; its data and ports stay
  restart KIND NAME [NODE]      start what is down again, on the same ports and data; prints its address
  pause|resume KIND NAME [NODE] SIGSTOP, SIGCONT, children too
  remove KIND NAME              kill it and forget its data and ports
  secured NAME                  the addresses of a Kafka over TLS, without and with a login; it has them where it was started
                                with KAFKA_TLS, a directory with its keystore.pem and the ca.pem of clients
  logins NAME                   the address of a Kafka that asks users who they are: "user" by the password "secret"
  acls NAME ARGUMENT...         what this user may do there, as kafka-acls.sh takes it; nothing at first
  stop-all                      remove every instance
  status                        what runs
State is kept under $ORDER_TEST_SERVERS, or target/servers. POSTGRES_FSYNC=off is for tests: PostgreSQL then outlives its
own death, not that of the machine.
EOF
    exit 2
}

fail() {
    printf 'servers: %s\n' "$*" >&2
    exit 1
}

here=$(cd "$(dirname "$0")" && pwd)
libs=$here/../target/servers/kafka-libs
stan_bin=$here/../target/servers/stan-bin
mkdir -p "${ORDER_TEST_SERVERS:-$here/../target/servers}"
root=$(cd "${ORDER_TEST_SERVERS:-$here/../target/servers}" && pwd -P)
kinds=(postgres kafka nats stan redis)
ready_seconds_max=180
stop_seconds_max=60

# ---- The kinds. Each answers:
#   install               fetch what is missing
#   create DIR NODES      make DIR/1 to DIR/NODES with all that `command` needs
#   command NODE_DIR      set `command` to the server's command line, which must name NODE_DIR's files
#   is_ready NODE_DIR     succeed once it truly answers
#   address DIR           what clients are given
#   signal                the signal that stops it in order

postgres() {
    local question=$1 dir=${2:-} node
    case $question in
    install)
        { postgres_bin && command -v psql; } >/dev/null && return
        apt_install postgresql
        postgres_bin >/dev/null || fail "postgresql was installed, but there is no initdb"
        ;;
    create)
        [[ $3 = [12] ]] || fail "postgres has one node, or two with a standby"
        local home=$dir/1 bin
        bin=$(postgres_bin) || fail "no PostgreSQL here; tests/servers.sh install postgres fetches it"
        mkdir "$home"
        chown "$(postgres_user)" "$home"
        # The server's user may have no way into the checkout, and the path of a socket has 107 bytes at most.
        if [ ${#home} -gt 80 ] || ! as_postgres test -w "$home" 2>/dev/null; then
            home=$(mktemp -d /tmp/order-postgres.XXXXXX)
            chown "$(postgres_user)" "$home"
        fi
        echo "$home" >"$dir/1/home"
        as_postgres "$bin/initdb" -D "$home/data" -U postgres -E UTF8 --locale=C.UTF-8 -A trust --no-sync >"$dir/1/log"
        {
            echo "listen_addresses = '127.0.0.1'"
            echo "port = $(free_port)"
            echo "unix_socket_directories = '$home'"
            echo "fsync = ${POSTGRES_FSYNC:-on}"
            echo "max_connections = 200"
            echo "shared_buffers = 256MB"
            echo "max_wal_size = 2GB"
            # pglz costs more than it saves, and lz4 is not in every build.
            echo "wal_compression = off"
        } >"$dir/1/settings"
        sed -n 's/^port = //p' "$dir/1/settings" >"$dir/1/port"
        cat "$dir/1/settings" >>"$home/data/postgresql.conf"
        printf '%s all all 127.0.0.1/32 trust\n' host >"$home/data/pg_hba.conf"
        printf 'local all all trust\nhost replication all 127.0.0.1/32 trust\n' >>"$home/data/pg_hba.conf"
        if [ "$3" = 2 ]; then
            # Nothing has run on it yet, so a copy is a base backup.
            mkdir "$dir/2"
            echo "$home/standby" >"$dir/2/home"
            free_port >"$dir/2/port"
            as_postgres mkdir "$home/standby"
            as_postgres cp -a "$home/data" "$home/standby/data"
            as_postgres touch "$home/standby/data/standby.signal"
            {
                echo "port = $(cat "$dir/2/port")"
                echo "unix_socket_directories = '$home/standby'"
                echo "primary_conninfo = 'host=127.0.0.1 port=$(cat "$dir/1/port") user=postgres'"
            } >>"$home/standby/data/postgresql.conf"
        fi
        ;;
    command)
        # A killed server that no one has waited for yet still counts as running for the next one.
        local home
        home=$(cat "$dir/home")
        if [ "$(state_of "$(head -1 "$home/data/postmaster.pid" 2>/dev/null)")" = Z ]; then
            rm -f "$home/data/postmaster.pid" "$home"/.s.PGSQL.*
        fi
        command=("$(postgres_bin)/postgres" -D "$home/data")
        if [ "$(id -u)" = 0 ]; then command=("${drop_root[@]}" "${command[@]}"); fi
        ;;
    is_ready) [ "$(psql -XAtq -c 'select 1' "$(postgres_url "$dir")" 2>/dev/null)" = 1 ] ;;
    address) for node in "$dir"/[1-9]; do postgres_url "$node"; done | paste -sd' ' ;;
    signal) echo INT ;;
    esac
}

postgres_url() { echo "postgres://postgres@127.0.0.1:$(cat "$1/port")/postgres"; } # postgres_url NODE_DIR
drop_root=(setpriv --reuid=postgres --regid=postgres --init-groups)
postgres_user() { if [ "$(id -u)" = 0 ]; then echo postgres; else id -un; fi; }
# The server refuses to run as root.
as_postgres() { (cd / && if [ "$(id -u)" = 0 ]; then "${drop_root[@]}" "$@"; else "$@"; fi); }
postgres_bin() { # Debian keeps the server's programs off the PATH.
    local initdb
    initdb=$(command -v initdb || printf '%s\n' /usr/lib/postgresql/*/bin/initdb | sort -V | tail -1)
    [ -x "$initdb" ] && dirname "$initdb"
}

kafka() {
    local question=$1 dir=${2:-} nodes=${3:-1} node
    case $question in
    install)
        cmp -s "$here/kafka/pom.xml" "$libs/pom.xml" && command -v java >/dev/null && return
        command -v java >/dev/null || apt_install default-jre-headless
        command -v mvn >/dev/null || apt_install maven
        echo "servers: fetching Kafka's jars (tests/kafka/pom.xml) through Maven" >&2
        rm -rf "$libs" && mkdir -p "$libs"
        mvn -q -B -Dstyle.color=never -f "$here/kafka/pom.xml" dependency:copy-dependencies -DoutputDirectory="$libs" >&2
        cp "$here/kafka/pom.xml" "$libs/pom.xml"
        ;;
    create)
        [ -f "$libs/pom.xml" ] || fail "no Kafka here; tests/servers.sh install kafka fetches it"
        [[ $nodes =~ ^[1-9]$ ]] || fail "$nodes is no number of nodes from 1 to 9"
        local voters='' copies=$((nodes < 3 ? nodes : 3)) cluster
        for ((node = 1; node <= nodes; node++)); do
            mkdir "$dir/$node"
            free_port >"$dir/$node/port"
            free_port >"$dir/$node/controller-port"
            free_port >"$dir/$node/logins-port"
            [ -z "${KAFKA_TLS:-}" ] || { free_port >"$dir/$node/tls-port" && free_port >"$dir/$node/tls-logins-port"; }
            voters+=${voters:+,}$node@127.0.0.1:$(cat "$dir/$node/controller-port")
        done
        # 16 bytes in base64 for URLs; the leading letter keeps it from looking like a flag.
        cluster=A$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | head -c 21)
        for ((node = 1; node <= nodes; node++)); do
            kafka_settings "$dir/$node" "$node" "$voters" "$copies" >"$dir/$node/server.properties"
            kafka_java "$dir/$node" 256m kafka.tools.StorageTool format -t "$cluster" -c "$dir/$node/server.properties" \
                --add-scram 'SCRAM-SHA-512=[name=user,password=secret]'
            "${command[@]}" >"$dir/$node/log" 2>&1 || fail "storage was not formatted: $(tail -5 "$dir/$node/log")"
        done
        ;;
    command)
        local heap=512m
        if [ -d "$dir/../2" ]; then heap=384m; fi
        kafka_java "$dir" $heap kafka.Kafka "$dir/server.properties"
        ;;
    # The line is written once the controllers have let the broker in, so metadata have leaders from then on.
    is_ready) grep -q 'Kafka Server started' "$dir/log" && is_open "$(cat "$dir/port")" ;;
    address) for node in "$dir"/[1-9]; do echo "127.0.0.1:$(cat "$node/port")"; done | paste -sd, ;;
    signal) echo TERM ;;
    esac
}

kafka_java() { # kafka_java NODE_DIR HEAP MAIN ARGUMENT...
    local heap=$2
    shift 2
    command=(java "-Xmx$heap" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData
        "-Dlog4j2.configurationFile=$here/kafka/log4j2.properties" -cp "$libs/*" "$@")
}

kafka_settings() { # kafka_settings NODE_DIR NODE VOTERS COPIES
    local own controller logins session=2000
    # Nothing kills the one that all tests share, and a busy machine may hold it up for longer than that.
    case $1 in */kafka-main/*) session=18000 ;; esac
    own=127.0.0.1:$(cat "$1/port")
    logins=127.0.0.1:$(cat "$1/logins-port")
    controller=127.0.0.1:$(cat "$1/controller-port")
    cat <<EOF
process.roles=broker,controller
node.id=$2
controller.quorum.voters=$3
listeners=PLAINTEXT://$own,SASL_PLAINTEXT://$logins,CONTROLLER://$controller
advertised.listeners=PLAINTEXT://$own,SASL_PLAINTEXT://$logins
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_user="secret";
# Who does not log in may do everything.
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
log.dirs=$1/data
auto.create.topics.enable=false
default.replication.factor=$4
min.insync.replicas=$((($4 + 1) / 2))
offsets.topic.num.partitions=4
offsets.topic.replication.factor=$4
transaction.state.log.replication.factor=$4
transaction.state.log.min.isr=$((($4 + 1) / 2))
share.coordinator.state.topic.replication.factor=$4
group.initial.rebalance.delay.ms=0
# Tests of members that went silent need not wait for the usual six seconds.
group.min.session.timeout.ms=1000
# A broker that was killed is let in again after its session: 2.7 s until it is back instead of 13.4 s.
broker.session.timeout.ms=$session
broker.heartbeat.interval.ms=500
# Messages of tests may have any time, and are not too old to be kept.
log.retention.ms=-1
EOF
    [ ! -f "$1/tls-port" ] || kafka_tls_settings "$1" "$own" "$logins" "$controller"
}

kafka_tls_settings() { # kafka_tls_settings NODE_DIR OWN LOGINS CONTROLLER: these take the place of the ones before
    local tls=SSL://localhost:$(cat "$1/tls-port") tls_logins=SASL_SSL://localhost:$(cat "$1/tls-logins-port")
    local jaas=org.apache.kafka.common.security of=listener.name.sasl_ssl
    cat <<EOF
listeners=PLAINTEXT://$2,SASL_PLAINTEXT://$3,CONTROLLER://$4,$tls,$tls_logins
advertised.listeners=PLAINTEXT://$2,SASL_PLAINTEXT://$3,$tls,$tls_logins
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL
ssl.keystore.type=PEM
ssl.keystore.location=$KAFKA_TLS/keystore.pem
ssl.truststore.type=PEM
ssl.truststore.location=$KAFKA_TLS/ca.pem
listener.name.ssl.ssl.client.auth=required
ssl.principal.mapping.rules=RULE:^.*CN=([a-z]+).*\$/\$1/
$of.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512,OAUTHBEARER
$of.plain.sasl.jaas.config=$jaas.plain.PlainLoginModule required user_user="secret";
$of.scram-sha-512.sasl.jaas.config=$jaas.scram.ScramLoginModule required;
$of.oauthbearer.sasl.jaas.config=$jaas.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="user";
super.users=User:ANONYMOUS;User:user;User:orders
EOF
}

redis() {
    local question=$1 dir=${2:-}
    case $question in
    install) command -v redis-server >/dev/null || apt_install redis-server ;;
    create)
        [ "$3" = 1 ] || fail "redis has one node"
        command -v redis-server >/dev/null || fail "no Redis here; tests/servers.sh install redis fetches it"
        mkdir "$dir/1"
        free_port >"$dir/1/port"
        ;;
    command)
        # Without its title, it shows its arguments, among them the directory that it is told from others by.
        command=(redis-server --save '' --appendonly no --bind 127.0.0.1 --port "$(cat "$dir/port")" --dir "$dir/"
            --set-proc-title no)
        ;;
    is_ready) redis-cli -p "$(cat "$dir/port")" ping 2>/dev/null | grep -q PONG ;;
    address) echo "127.0.0.1:$(cat "$dir/1/port")" ;;
    signal) echo TERM ;;
    esac
}

nats() {
    local question=$1 dir=${2:-}
    case $question in
    install) command -v nats-server >/dev/null || apt_install nats-server ;;
    create)
        [ "$3" = 1 ] || fail "nats has one node"
        command -v nats-server >/dev/null || fail "no NATS here; tests/servers.sh install nats fetches it"
        mkdir "$dir/1"
        free_port >"$dir/1/port"
        ;;
    command) command=(nats-server -js -sd "$dir/data" -a 127.0.0.1 -p "$(cat "$dir/port")") ;;
    is_ready) grep -q 'Server is ready' "$dir/log" && is_open "$(cat "$dir/port")" ;;
    address) echo "nats://127.0.0.1:$(cat "$dir/1/port")" ;;
    signal) echo TERM ;;
    esac
}

# NATS Streaming with a NATS server of its own. Its clients are given that, and the address where it says how it stands.
stan() {
    local question=$1 dir=${2:-}
    case $question in
    install)
        [ -x "$stan_bin/nats-streaming-server" ] && return
        command -v go >/dev/null || fail "no Go here, which builds NATS Streaming from its module"
        echo "servers: building nats-streaming-server $stan_version from its Go module" >&2
        mkdir -p "$stan_bin"
        GOBIN=$(cd "$stan_bin" && pwd -P) GOFLAGS='' go install "github.com/nats-io/nats-streaming-server@$stan_version" >&2
        ;;
    create)
        [ "$3" = 1 ] || fail "stan has one node"
        [ -x "$stan_bin/nats-streaming-server" ] || fail "no NATS Streaming here; tests/servers.sh install stan builds it"
        mkdir "$dir/1"
        free_port >"$dir/1/port"
        free_port >"$dir/1/monitor-port"
        # Channels whose names begin so keep few messages, for tests of what is deleted unread.
        echo 'streaming { store_limits { channels { "limited.>" { max_msgs: 50 } } } }' >"$dir/1/settings"
        ;;
    command)
        # Tests kill servers and never the machine.
        command=("$stan_bin/nats-streaming-server" -c "$dir/settings" -a 127.0.0.1 -p "$(cat "$dir/port")"
            -m "$(cat "$dir/monitor-port")" -cid test-cluster -store file -dir "$dir/data" -file_sync=false -mc 0)
        ;;
    is_ready) grep -q 'Streaming Server is ready' "$dir/log" && is_open "$(cat "$dir/port")" ;;
    address) echo "nats://127.0.0.1:$(cat "$dir/1/port") 127.0.0.1:$(cat "$dir/1/monitor-port")" ;;
    signal) echo TERM ;;
    esac
}
stan_version=v0.25.6

# ---- What they share.

apt_install() {
    local deny=/usr/sbin/policy-rc.d
    sudo=() # not local: the trap below needs it
    command -v apt-get >/dev/null || fail "$* is missing, and there is no apt-get to fetch it"
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || fail "$* is missing, and it takes root to fetch it"
        sudo=(sudo)
    fi
    echo "servers: fetching $* through apt-get" >&2
    exec 8>"$root/.apt.lock"
    flock 8 # apt-get does not wait for another one
    # A package that starts its server would take the default port.
    if [ ! -e $deny ]; then
        trap '"${sudo[@]}" rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee $deny >/dev/null
        "${sudo[@]}" chmod +x $deny
    fi
    "${sudo[@]}" apt-get update -qq >&2
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Below the ports that outgoing connections use, so that it is still free after a kill; `mkdir` keeps two callers apart.
free_port() {
    local port
    mkdir -p "$root/ports"
    while :; do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        if ! is_open $port && mkdir "$root/ports/$port" 2>/dev/null; then
            echo $port
            return
        fi
    done
}

# The process of a node, if it is alive and still the one that was started.
pid_of() {
    local pid
    pid=$(cat "$1/pid" 2>/dev/null) || return 1
    tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -e "$1/" -e "$(cat "$1/home" 2>/dev/null || echo "$1")/" ||
        return 1
    echo "$pid"
}

# Processes are read from /proc: `ps` and `pgrep` are missing on small machines.
stat_of() { # stat_of PID: sets `stat` to the fields from the state on; the name before them may contain anything
    IFS= read -r stat 2>/dev/null <"/proc/$1/stat" && stat=${stat##*) }
}

state_of() { # its letter (R, S, T, Z, ...); nothing when there is no such process
    local stat
    if stat_of "${1:-none}"; then echo "${stat%% *}"; fi
}

tree() { # a process and all below it
    local entry stat state parent children=() found=("$1") next=0
    for entry in /proc/[0-9]*; do
        stat_of "${entry#/proc/}" || continue
        state=${stat%% *} parent=${stat#* }
        if [ "$state" != Z ]; then children[${parent%% *}]+=" ${entry#/proc/}"; fi
    done
    while [ $next -lt ${#found[@]} ]; do
        # shellcheck disable=SC2206 # numbers
        found+=(${children[found[next]]:-})
        next=$((next + 1))
    done
    printf '%s\n' "${found[@]}"
}

signal_tree() { # signal_tree SIGNAL NODE_DIR
    local pid pids
    pid=$(pid_of "$2") || return 0
    # Held still, it starts no child that would be missed.
    if [ "$1" != CONT ]; then kill -STOP "$pid"; fi
    mapfile -t pids < <(tree "$pid")
    kill -"$1" "${pids[@]}" 2>/dev/null || true
    if [ "$1" = KILL ]; then await_end "${pids[@]}" || fail "process $pid did not end"; fi
}

await_end() {
    local deadline=$((SECONDS + stop_seconds_max)) pid
    for pid in "$@"; do
        # A process that has ended and is not yet waited for is gone as far as its ports and files go.
        while [[ $(state_of "$pid") == [!Z] ]]; do
            if [ $SECONDS -gt $deadline ]; then return 1; fi
            sleep 0.05
        done
    done
}

launch() { # launch KIND NODE_DIR: starts the process unless it is there
    local kind=$1 node=$2 command
    pid_of "$node" >/dev/null && return
    # Logs of earlier lives are kept, but do not say whether this one is ready.
    if [ -f "$node/log" ]; then cat "$node/log" >>"$node/log.before"; fi
    "$kind" command "$node"
    # A session of its own: it outlives the script, its terminal and its caller.
    (cd / && exec setsid "${command[@]}" </dev/null >"$node/log" 2>&1 9>&-) &
    echo $! >"$node/pid"
}

await_ready() { # await_ready KIND NODE_DIR
    local deadline=$((SECONDS + ready_seconds_max))
    until "$1" is_ready "$2"; do
        if ! kill -0 "$(cat "$2/pid")" 2>/dev/null || [ $SECONDS -gt $deadline ]; then
            tail -20 "$2/log" >&2
            fail "$2 did not come up"
        fi
        sleep 0.1
    done
}

bring_up() { # bring_up NODE_DIR...
    local node
    for node in "$@"; do launch "$kind" "$node"; done
    for node in "$@"; do await_ready "$kind" "$node"; done
    "$kind" address "$dir"
}

stop() {
    local node pid
    for node in "$dir"/[1-9]; do
        pid=$(pid_of "$node") || continue
        signal_tree CONT "$node"
        kill -"$("$kind" signal)" "$pid"
    done
    for node in "$dir"/[1-9]; do
        pid=$(pid_of "$node") || continue
        await_end "$pid" || signal_tree KILL "$node"
    done
}

remove() { # remove DIR
    local node home port
    for node in "$1"/[1-9]; do
        signal_tree KILL "$node"
        for port in "$node"/*port; do
            if [ -s "$port" ]; then rm -rf "${root:?}/ports/$(cat "$port")"; fi
        done
        home=$(cat "$node/home" 2>/dev/null || true)
        if [[ $home == /tmp/order-postgres.* ]]; then rm -rf "$home"; fi
    done
    rm -rf "$1"
}

instances() { find "$root" -mindepth 1 -maxdepth 1 -type d -name '*-*' ! -name kafka-libs ! -name stan-bin | sort; }

status() {
    local dir node pid state
    for dir in $(instances); do
        for node in "$dir"/[1-9]; do
            state=down
            if pid=$(pid_of "$node"); then
                state="up, process $pid"
                if [ "$(state_of "$pid")" = T ]; then state="paused, process $pid"; fi
            fi
            echo "$(basename "$dir") $(basename "$node"): 127.0.0.1:$(cat "$node/port"), $state"
        done
    done
}

# ---- The commands.

shopt -s nullglob
command=${1:-}
shift || usage
case $command in
install)
    case ${1:-} in
    all) wanted=("${kinds[@]}") ;;
    *) wanted=("${1:-}") ;;
    esac
    for kind in "${wanted[@]}"; do
        [[ " ${kinds[*]} " == *" $kind "* ]] || usage
        "$kind" install
    done
    exit
    ;;
fetch)
    [ $# -ge 2 ] || usage
    type -P "$1" >/dev/null || apt_install "${@:2}" # a file: functions of this script do not count
    exit
    ;;
stop-all)
    for dir in $(instances); do remove "$dir"; done
    rm -rf "$root/ports" "$root"/.*.lock
    exit
    ;;
status)
    status
    exit
    ;;
secured)
    dir=$root/kafka-${1:-}
    echo "localhost:$(cat "$dir/1/tls-port") localhost:$(cat "$dir/1/tls-logins-port")"
    exit
    ;;
logins)
    for node in "$root/kafka-${1:-}"/[1-9]; do echo "127.0.0.1:$(cat "$node/logins-port")"; done | paste -sd,
    exit
    ;;
acls)
    [ $# -ge 2 ] || usage
    dir=$root/kafka-$1
    kafka_java "$dir" 128m org.apache.kafka.tools.AclCommand --bootstrap-server "$(kafka address "$dir")" "${@:2}"
    exec "${command[@]}"
    ;;
start | stop | kill | restart | pause | resume | remove) ;;
*) usage ;;
esac

kind=${1:-} name=${2:-} which=${3:-}
[[ " ${kinds[*]} " == *" $kind "* && $name =~ ^[a-z0-9_]+$ && $which =~ ^[0-9]*$ ]] || usage
dir=$root/$kind-$name
# One command at a time for an instance; others wait.
exec 9>"$root/.$kind-$name.lock"
flock 9
if [ "$command" = start ]; then
    if [ ! -e "$dir/complete" ]; then
        remove "$dir"
        mkdir "$dir"
        "$kind" create "$dir" "${which:-1}"
        touch "$dir/complete"
    fi
    bring_up "$dir"/[1-9]
    exit
fi
[ -e "$dir/complete" ] || fail "there is no $kind $name"
nodes=("$dir"/[1-9])
if [ -n "$which" ]; then
    [ -d "$dir/$which" ] || fail "$kind $name has no node $which"
    nodes=("$dir/$which")
fi
case $command in
stop) stop ;;
restart) bring_up "${nodes[@]}" ;;
kill) for node in "${nodes[@]}"; do signal_tree KILL "$node"; done ;;
pause) for node in "${nodes[@]}"; do signal_tree STOP "$node"; done ;;
resume) for node in "${nodes[@]}"; do signal_tree CONT "$node"; done ;;
remove) remove "$dir" ;;
esac
