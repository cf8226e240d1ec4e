# shellcheck shell=bash
# What an installation needs of the machine beyond its own programs: /dev/kvm, libvirt and an underlay network; and how
# each is taken back. Only what we changed is taken back: a file DATA/run/NAME.undo records it.

libvirt_answers() {
    timeout 60 virsh --quiet --connect qemu:///system uri >/dev/null 2>&1
}

# With /dev/kvm accessible to root alone, as it is where no udev runs, libvirt probes QEMU anew on every call, which
# makes each start of a VM take a minute. Debian's own udev rule sets root:kvm 0660.
ensure_kvm_permissions() {
    [[ -c /dev/kvm ]] || return 0
    [[ $(stat -c %G:%a /dev/kvm) == kvm:660 ]] && return
    stat -c 'chown %U:%G /dev/kvm && chmod %a /dev/kvm' /dev/kvm >"$DATA/run/kvm.undo"
    chgrp kvm /dev/kvm
    chmod 660 /dev/kvm
}

# Starts libvirt where none answers: its service where there is systemd, else the programs themselves.
ensure_libvirt() {
    ensure_kvm_permissions
    libvirt_answers && return
    if [[ -d /run/systemd/system ]]; then
        systemctl start virtlogd.service libvirtd.service ||
            die "libvirtd cannot be started; see 'journalctl -u libvirtd'"
        echo "systemctl stop libvirtd.service 'libvirtd*.socket' virtlogd.service 'virtlogd*.socket'" >"$DATA/run/libvirt.undo"
        wait_until 60 libvirt_answers || die "libvirtd does not answer; see 'journalctl -u libvirtd'"
        return
    fi
    mkdir -p /run/libvirt /var/log/libvirt
    daemon_runs virtlogd || start_daemon virtlogd /usr/sbin/virtlogd
    daemon_runs libvirtd || start_daemon libvirtd /usr/sbin/libvirtd
    await_daemon libvirtd 60 libvirt_answers
}

# Stops libvirt where ensure_libvirt started it.
stop_libvirt() {
    stop_daemon libvirtd 30
    stop_daemon virtlogd 30
    undo libvirt
    undo kvm
}

# our_domains [--all]: the names of our domains that are active, or of all.
our_domains() {
    virsh --quiet --connect qemu:///system list --name "$@" | grep '^ucloud-' || true
}

# Whether there is a trace of a domain of ours, running or defined, that only libvirt can remove.
domain_traces() {
    compgen -G '/etc/libvirt/qemu/ucloud-*.xml' >/dev/null || compgen -G '/run/libvirt/qemu/ucloud-*.xml' >/dev/null
}

# stop_domains SECONDS: shuts all our VMs down, and switches off those that still run when the time is over.
stop_domains() {
    local domain
    while read -r domain; do
        virsh --quiet --connect qemu:///system shutdown "$domain" >/dev/null 2>&1 || true
    done < <(our_domains)
    wait_until "$1" no_domain_active || say "not all VMs shut down within $1 s; the others are switched off"
    while read -r domain; do
        virsh --quiet --connect qemu:///system destroy "$domain" >/dev/null 2>&1 || true
    done < <(our_domains)
    wait_until 20 no_domain_active || die "libvirt cannot stop $(our_domains | tr '\n' ' ')(see 'virsh list')"
}

no_domain_active() {
    [[ -z $(our_domains) ]]
}

# Removes what libvirt knows of ours: domains, and the keys of Ceph, which a libvirtd that runs on would keep.
undefine_domains() {
    local domain secret
    while read -r domain; do
        virsh --quiet --connect qemu:///system undefine --nvram "$domain" >/dev/null
    done < <(our_domains --all)
    while read -r secret; do
        virsh --quiet --connect qemu:///system secret-undefine "$secret" >/dev/null
    done < <(virsh --quiet --connect qemu:///system secret-list | awk '$2 == "ceph" && $3 == "ucloud" { print $1 }')
    rm -f /var/log/libvirt/qemu/ucloud-*.log*
}

# With one machine there is no network between hosts. VXLANs need a device all the same; this pair of devices leads
# nowhere, so that no packet of a guest leaves the machine.
ensure_underlay() {
    if ! ip link show ucul0 >/dev/null 2>&1; then
        ip link add ucul0 type veth peer name ucul1
    fi
    ip link set ucul0 mtu 1600 alias ucloud:underlay multicast on
    ip link set ucul1 mtu 1600 alias ucloud:underlay multicast on
    echo 1 >/proc/sys/net/ipv6/conf/ucul1/disable_ipv6
    ip link set ucul0 up
    ip link set ucul1 up
    ip -6 addr replace fd99::1/64 dev ucul0 nodad
}

# Removes every network device of ours: bridges, VXLANs, taps and the underlay.
remove_devices() {
    local device
    while read -r device; do
        # Where one of a pair is removed, so is the other.
        ip link delete "$device" 2>/dev/null || ! ip link show "$device" >/dev/null 2>&1 ||
            die "cannot remove the network device $device; try 'ip link delete $device'"
    done < <(our_devices)
}

# Ours are those of our names, unless an alias says that they are somebody else's. (One that was made just before the
# agent was killed has none yet.)
our_devices() {
    local device alias
    for device in /sys/class/net/uc*; do
        device=${device##*/}
        [[ $device =~ ^(uc(br|vx|tp)-[0-9a-f]+|ucul[01])$ ]] || continue
        alias=$(cat "/sys/class/net/$device/ifalias" 2>/dev/null) || continue
        if [[ -z $alias || $alias == ucloud:* ]]; then
            echo "$device"
        fi
    done
}

# undo NAME: takes back what DATA/run/NAME.undo records.
undo() {
    local file=$DATA/run/$1.undo
    [[ -f $file ]] || return 0
    bash "$file" || say "cannot undo: $(<"$file")"
    rm -f "$file"
}
