# shellcheck shell=bash
# The machines of a lab, the switch between them, and their cables.
#
# A machine is a set of namespaces (processes, network, mounts, host name) that live as long as its first process,
# hack/lib/lab-init. Nothing of it has a name outside: no file in /run/netns, no mount, no device. All machines are
# descendants of the switch's first process, so whatever ends that one (a kill, or the end of the process namespace in
# which hack/lab ran) ends the whole lab at once, and the kernel takes back what it had.
#
#   LAB/.ucloud-lab          marks it as a lab's; hack/lab down removes no other directory
#   LAB/run/MACHINE.pid      the first process of a machine, as in layout.sh
#   LAB/log/MACHINE.log      what it said
#   LAB/programs             the folder of ucloud's programs
#   LAB/import/NAMESPACE/    files from which images may be imported, the same on every host
#   LAB/pool/                where every host mounts its own LAB/HOST/pool: one path for a StoragePool, a disk for each host
#   LAB/upstream/            DATA of upstream: its bird's configuration and log
#   LAB/control/             DATA of the control plane, as in layout.sh: pki, kubeconfigs, etcd
#   LAB/HOST/                DATA of a host, as in layout.sh; and libvirt/, what it keeps of libvirt's folders
#   LAB/HOST/roles           what the host is for

# Room for VXLAN's headers around packets of 1530 bytes.
underlay_mtu=1600
# Where upstream is "the Internet": in RFC 3849's prefix for documentation.
internet_address=2001:db8::1

# choose_lab NAME FOLDER: sets LAB, DATA for the pid files of machines, and the lab's addresses. They are made from its
# path, so that this machine can be connected with several labs.
choose_lab() {
    [[ $1 =~ ^[a-z0-9][a-z0-9-]{0,31}$ ]] ||
        die "cannot use the name $1: at most 32 lower case letters, digits and '-', and no '-' at the beginning"
    choose_data "$2/$1"
    LAB=$DATA
    local sum
    read -r sum _ < <(printf %s "$LAB" | cksum)
    outside_device=$(printf 'uclab-%08x' "$sum")
    underlay=$(printf 'fd99:%x:%x:' $((sum >> 16)) $((sum & 0xffff)))
    uplink=$(printf 'fd98:%x:%x:' $((sum >> 16)) $((sum & 0xffff)))
    api_url="https://[$underlay:1]:6443"
}

# address MACHINE PREFIX: the address of a machine in the underlay or on the uplink.
address() {
    case $1 in
        control | upstream) echo "$2:1" ;;
        outside) echo "$2:ffff" ;;
        host*) echo "$2:1:${1#host}" ;;
        router*) echo "$2:2:${1#router}" ;;
    esac
}

# mac MACHINE NETWORK: the address of a machine's network card. It stays the same when the machine is switched off and on, as that of
# a real one does: its neighbours have noted it, and find out only after seconds that there is nobody any more.
mac() {
    local number=${1##*[a-z]} kind network
    case $1 in
        control) kind=0 ;;
        upstream) kind=1 ;;
        host*) kind=2 ;;
        router*) kind=3 ;;
    esac
    [[ $2 == underlay ]] && network=0 || network=1
    printf '02:75:%02x:%02x:%02x:%02x\n' $network $kind $((${number:-0} >> 8)) $((${number:-0} & 255))
}

lab_runs() {
    daemon_runs switch
}

# hosts: the names of all hosts, routers included, one a line.
hosts() {
    local roles
    for roles in "$LAB"/{host,router}*/roles; do
        [[ ! -f $roles ]] || basename "${roles%/roles}"
    done | sort --version-sort
}

# machines: the names of all machines but the switch, one a line.
machines() {
    printf '%s\n' control upstream
    hosts
}

is_machine() {
    [[ $'\n'$(machines)$'\n' == *$'\n'"$1"$'\n'* ]]
}

# on_switch COMMAND...: among the switch's devices, but with the files and processes of this machine.
on_switch() {
    local pid
    pid=$(daemon_pid switch) || die "the lab does not run; hack/lab up starts it"
    nsenter --net="/proc/$pid/ns/net" -- "$@"
}

# inside MACHINE COMMAND...: on a machine of the lab.
inside() {
    local pid machine=$1
    shift
    pid=$(daemon_pid "$machine") || die "$machine does not run; hack/lab start $machine starts it"
    nsenter --target "$pid" --mount --uts --net --pid -- "$@"
}

# begin MACHINE COMMAND...: its first process, by this command (which enters or makes namespaces).
begin() {
    local machine=$1
    shift
    rm -f "$LAB/run/$machine.pid"
    setsid "$@" unshare --mount --uts --net --pid --fork bash "$PWD/hack/lib/lab-init" "$LAB" "$machine" \
        >>"$LAB/log/$machine.log" 2>&1 </dev/null 9>&- &
    disown
    wait_until 20 daemon_runs "$machine" || {
        tail_log "$machine"
        die "$machine cannot be made; the cause is in $LAB/log/$machine.log (its end is above)"
    }
}

# The switch: one bridge for the underlay, one for what is beyond the routers. It takes no part in the traffic.
ensure_switch() {
    lab_runs && return
    begin switch
    on_switch ip -batch - <<END
link add underlay mtu $underlay_mtu type bridge mcast_snooping 0
link set underlay up
link add uplink type bridge mcast_snooping 0
link set uplink up
END
}

# This machine on the underlay, so that it reaches the API.
ensure_outside() {
    ip link show "$outside_device" >/dev/null 2>&1 && return
    on_switch ip link add outside mtu $underlay_mtu type veth \
        peer name "$outside_device" mtu $underlay_mtu netns $$
    on_switch ip link set outside master underlay up
    ip link set "$outside_device" addrgenmode none alias "ucloud:lab $LAB" up
    ip -6 address add "$(address outside "$underlay")/64" dev "$outside_device" nodad
}

remove_outside() {
    ip link delete "$outside_device" 2>/dev/null || true
}

# ensure_machine MACHINE: switched on and connected, without its programs.
ensure_machine() {
    if ! daemon_runs "$1"; then
        unplug_machine "$1"
        begin "$1" nsenter --target "$(daemon_pid switch)" --pid --
    fi
    case $1 in
        control | host*) plug "$1" underlay "$1" ;;
        router*)
            plug "$1" underlay "$1"
            plug "$1" uplink "$1-up"
            inside "$1" ip -6 route replace default via "$(address upstream "$uplink")" dev uplink
            ;;
        upstream)
            plug "$1" uplink "$1"
            inside "$1" ip -6 address replace "$internet_address/128" dev lo
            ;;
    esac
}

# plug MACHINE NETWORK PORT: a cable from the machine's interface NETWORK to a port of the switch's bridge of that name.
# One that is there is left as it is.
plug() {
    local mtu=1500 prefix=${!2}
    [[ $2 == uplink ]] || mtu=$underlay_mtu
    if ! on_switch ip link show "$3" >/dev/null 2>&1; then
        on_switch ip link add "$3" mtu $mtu type veth peer name "$2" mtu $mtu address "$(mac "$1" "$2")" netns "$(daemon_pid "$1")"
        on_switch ip link set "$3" master "$2" up
    fi
    inside "$1" ip -batch - <<END
link set $2 up
address replace $(address "$1" "$prefix")/64 dev $2 nodad
END
}

# unplug_machine MACHINE: takes its cables out of the switch. Where it has ended the kernel would do so too, but later.
unplug_machine() {
    lab_runs || return 0
    on_switch ip link delete "$1" 2>/dev/null || true
    on_switch ip link delete "$1-up" 2>/dev/null || true
}

# power_off MACHINE: as if its power were cut.
power_off() {
    local pid
    pid=$(daemon_pid "$1") || return 0
    kill -KILL "$pid"
    # Its first process is gone only after all others are.
    wait_until 30 daemon_gone "$1" || die "$1 (process $pid) cannot be killed; look at 'ps -o stat,wchan $pid'"
    rm -f "$LAB/run/$1.pid"
    unplug_machine "$1"
}

# boot MACHINE: starts the programs of a machine that is on, and waits until they are ready.
boot() {
    inside "$1" env "LAB=$LAB" bash "$PWD/hack/lib/lab-boot" "$1" "$(address "$1" "$underlay")" "$api_url" \
        "$(address "$1" "$uplink")" "$(address upstream "$uplink")" 9>&-
}

# is_cut MACHINE: whether its cable leads nowhere.
is_cut() {
    [[ -z $(on_switch ip -brief link show "$1" master underlay 2>/dev/null) ]]
}
