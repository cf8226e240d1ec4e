# shellcheck shell=bash
# etcd and ucloud's own programs: built, given certificates, started where they do not run, and waited for. hack/up runs
# all of them on one machine; hack/lab runs each on a machine of the lab.
#
# Each function works for the installation in DATA (see layout.sh), with the programs in `bin`.

etcd_url='https://[::1]:2379'
etcd_peer_url='https://[::1]:2380'
controllers_metrics='[::1]:9101'
agent_metrics='[::1]:9102'
agent_streams='[::]:9402'

# build PROFILE: all programs, into the folder `bin`.
build() {
    PATH=$PATH:$HOME/.cargo/bin
    command -v cargo >/dev/null || die "cargo is not installed; install Rust as https://rustup.rs says and run this again"
    case $1 in
        dev) bin=target/debug ;;
        release) bin=target/release ;;
    esac
    # On a terminal cargo shows its progress; elsewhere it only says what went wrong.
    local quiet=()
    [[ -t 2 ]] || quiet=(--quiet)
    cargo build "${quiet[@]}" --locked --profile "$1" --bins -p ucloud-api -p ucloud-controllers -p ucloud-agent -p ucloudctl 9>&- ||
        die "the build has failed; the compiler's messages are above"
}

# ensure_certificates URL: the authorities, and what the programs of the control plane need to be reached at URL.
ensure_certificates() {
    "$bin/ucloud-api" pki init --dir "$DATA/pki" --kubeconfig-dir "$DATA" --server "$1" | sed '/^nothing to do/d'
}

# ensure_agent_certificate HOST ROLES URL KUBECONFIG: what the agent of a host with these roles needs.
ensure_agent_certificate() {
    "$bin/ucloud-api" pki agent --dir "$DATA/pki" --host "$1" --roles "$2" --server "$3" --out "$4" | sed '/^nothing to do/d'
}

# refuse_taken_port PORT PROGRAM: where another program listens, ours cannot.
refuse_taken_port() {
    local user
    user=$(ss -Hltnp "sport = :$1" | sed -nE 's/.*users:\(\("([^"]+)",pid=([0-9]+).*/\1 (process \2)/p' | head -n 1)
    [[ -z $user ]] || die "port $1, which $2 needs, is in use by $user; stop that first"
}

# stop_replaced PROGRAM: stops it where another program than the present one runs, as after a new build.
stop_replaced() {
    local pid
    if pid=$(daemon_pid "$1") && [[ $(readlink "/proc/$pid/exe") != "$(realpath "$bin/$1")" ]]; then
        say "$1 was built anew and is started again"
        stop_daemon "$1" 30
    fi
}

# etcd_health: asks etcd how it is, as the API server would reach it.
etcd_health() {
    ETCDCTL_API=3 etcdctl --endpoints "$etcd_url" --cacert "$DATA/pki/etcd/ca.crt" \
        --cert "$DATA/pki/etcd/client.crt" --key "$DATA/pki/etcd/client.key" endpoint health
}

ensure_etcd() {
    if ! daemon_runs etcd; then
        refuse_taken_port 2379 etcd
        start_daemon etcd /usr/bin/etcd --name ucloud --data-dir "$DATA/etcd" \
            --listen-client-urls "$etcd_url" --advertise-client-urls "$etcd_url" \
            --listen-peer-urls "$etcd_peer_url" --initial-advertise-peer-urls "$etcd_peer_url" \
            --initial-cluster "ucloud=$etcd_peer_url" \
            --client-cert-auth --trusted-ca-file "$DATA/pki/etcd/ca.crt" \
            --cert-file "$DATA/pki/etcd/server.crt" --key-file "$DATA/pki/etcd/server.key" \
            --peer-client-cert-auth --peer-trusted-ca-file "$DATA/pki/etcd/ca.crt" \
            --peer-cert-file "$DATA/pki/etcd/server.crt" --peer-key-file "$DATA/pki/etcd/server.key" \
            --quota-backend-bytes $((4 << 30)) --auto-compaction-mode periodic --auto-compaction-retention 1h \
            --logger zap --log-outputs stderr
    fi
    await_daemon etcd 60 etcd_health
}

# answers URL: whether it answers with success.
answers() {
    curl --silent --fail --noproxy '*' --max-time 5 --cacert "$DATA/pki/ca.crt" "$1"
}

# ensure_api ADDRESS: listening at this address, on port 6443.
ensure_api() {
    stop_replaced ucloud-api
    if ! daemon_runs ucloud-api; then
        refuse_taken_port 6443 ucloud-api
        start_daemon ucloud-api "$bin/ucloud-api" serve --listen "[$1]:6443" --pki-dir "$DATA/pki" \
            --etcd "$etcd_url" --etcd-ca "$DATA/pki/etcd/ca.crt" \
            --etcd-cert "$DATA/pki/etcd/client.crt" --etcd-key "$DATA/pki/etcd/client.key"
    fi
    await_daemon ucloud-api 60 answers "https://[$1]:6443/readyz"
}

ensure_controllers() {
    stop_replaced ucloud-controllers
    if ! daemon_runs ucloud-controllers; then
        refuse_taken_port "${controllers_metrics##*:}" ucloud-controllers
        start_daemon ucloud-controllers "$bin/ucloud-controllers" --kubeconfig "$DATA/controllers.kubeconfig" \
            --metrics "$controllers_metrics"
    fi
    await_daemon ucloud-controllers 60 answers "http://$controllers_metrics/readyz"
}

# agent_ready HOST KUBECONFIG: whether the host is Ready, by an agent that lives. The Host alone may still be so from one
# that has ended.
agent_ready() {
    answers "http://$agent_metrics/healthz" &&
        KUBECONFIG=$2 "$bin/ucloudctl" wait --for=condition=Ready "host/$1" --timeout 1s
}

# ensure_agent HOST ROLES UNDERLAY IMPORT_DIR ASKING [OPTION...]: waits until the host is Ready, asking with the kubeconfig
# ASKING. The agent gets the options too.
ensure_agent() {
    stop_replaced ucloud-agent
    if ! daemon_runs ucloud-agent; then
        refuse_taken_port "${agent_metrics##*:}" ucloud-agent
        refuse_taken_port "${agent_streams##*:}" ucloud-agent
        start_daemon ucloud-agent "$bin/ucloud-agent" --kubeconfig "$DATA/agent.kubeconfig" \
            --data "$DATA/agent" --import-dir "$4" --host-name "$1" --roles "$2" \
            --underlay "$3" --metrics "$agent_metrics" --streams "$agent_streams" "${@:6}"
    fi
    await_daemon ucloud-agent 120 agent_ready "$1" "$5"
}

# ensure_bird TEMPLATE LINE...: bird with one of the configurations in manifests/bird, in which each LINE takes the place of
# the one that begins as it does, up to the value.
ensure_bird() {
    local line name template=manifests/bird/$1 configuration=$DATA/bird.conf
    shift
    if ! daemon_runs bird; then
        cp "$template" "$configuration"
        for line in "$@"; do
            name=${line% *}
            grep --quiet "^$name " "$configuration" || die "no line of $template begins with '$name'"
            sed -i "s|^$name .*|$line|" "$configuration"
        done
        /usr/sbin/bird -p -c "$configuration" || die "bird refuses $configuration; the cause is above"
        # Where birdc looks for it.
        mkdir -p /run/bird
        start_daemon bird /usr/sbin/bird -f -c "$configuration" -s /run/bird/bird.ctl -P /run/bird/bird.pid
    fi
    await_daemon bird 20 /usr/sbin/birdc show status
}

# ensure_guest_image IMAGE: the small test guest, in this file.
ensure_guest_image() {
    [[ -f $1 ]] || hack/guest-image "$1" 9>&- || die "the guest image cannot be built; the cause is above"
}

# manifest_with_pool FILE PATH: the manifest, with its StoragePool at this path.
manifest_with_pool() {
    sed "s|^\( *path: \)/var/lib/ucloud/pool\$|\1$2|" "$1"
}
