# shellcheck shell=bash
# Where an installation keeps its state: one directory, DATA.
#
#   DATA/.ucloud-data         marks it as ucloud's own; hack/down --purge removes no other directory
#   DATA/host-name            the name under which the agent registers this machine
#   DATA/pki/                 CA, etcd's CA and their certificates
#   DATA/*.kubeconfig         admin, controllers, agent
#   DATA/etcd/                the only state that is not made again by itself
#   DATA/agent/               console sockets and logs, radvd.conf
#   DATA/import/NAMESPACE/    files from which images may be imported
#   DATA/pool/                the quickstart's StoragePool: images and disks
#   DATA/run/NAME.pid         the process id of a program, then its start time and the boot in which it runs
#   DATA/run/NAME.undo        a change of the machine that hack/down takes back
#   DATA/log/NAME.log         what a program wrote to its standard error

# Where DATA is if no option says so.
# shellcheck disable=SC2034 # for the scripts with an option --data
default_data=${UCLOUD_DATA:-/var/lib/ucloud}

# choose_data PATH: sets DATA to the absolute form of PATH.
choose_data() {
    DATA=$(realpath --canonicalize-missing -- "$1")
    # It becomes a part of a StoragePool's path, which allows no more than this.
    [[ $DATA =~ ^(/[A-Za-z0-9_][A-Za-z0-9._-]*)+$ ]] ||
        die "cannot use $DATA: each part of the path must consist of letters, digits, '.', '_' and '-', and begin with none of '.' and '-'"
}

# A directory that holds other things is neither used nor removed.
refuse_foreign_data() {
    if [[ -d $DATA && ! -e $DATA/.ucloud-data && -n $(ls -A "$DATA") ]]; then
        die "$DATA holds other things than a ucloud (there is no .ucloud-data in it); name another directory with --data"
    fi
}

# Makes DATA, unless it is there. Guests' processes run as another user, who must be able to pass through.
ensure_data() {
    refuse_foreign_data
    mkdir -p "$DATA"
    echo "ucloud keeps its state here; hack/down --purge removes it" >"$DATA/.ucloud-data"
    mkdir -p "$DATA"/{run,log,agent,import/default}
    chmod 711 "$DATA"
    chmod 700 "$DATA"/{run,log,import}
    [[ -s $DATA/host-name ]] || uname -n | tr '[:upper:]_' '[:lower:]-' >"$DATA/host-name"
}

# Waits for the other hack/up or hack/down of this machine to end, and keeps others out until this one ends. The lock
# is on a directory that is always there, so that no file is left. Daemons must be started without file descriptor 9.
lock_machine() {
    exec 9</run
    flock --nonblock 9 && return
    echo "waiting for another hack/up or hack/down to end ..."
    flock --timeout 900 9 || die "another hack/up or hack/down has run for 15 minutes; end it first"
}

# The DATA of another ucloud that runs on this machine; fails where there is none. One in a network namespace of its own, as
# in a lab, is no hindrance.
other_installation() {
    local cmdline data
    for cmdline in /proc/[0-9]*/cmdline; do
        [[ ${cmdline%cmdline}ns/net -ef /proc/self/ns/net ]] || continue
        data=$(tr '\0' '\n' 2>/dev/null <"$cmdline" |
            sed -nE '1{/(^|\/)ucloud-(api|controllers|agent)$/!q}; s#^(/.*)/(pki|controllers\.kubeconfig|agent)$#\1#p' | head -n 1) || continue
        if [[ $data && $data != "$DATA" ]]; then
            echo "$data"
            return
        fi
    done
    return 1
}
