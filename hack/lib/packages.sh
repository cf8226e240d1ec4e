# shellcheck shell=bash
# Debian's packages: what is needed to build, run and test, and how what is missing gets installed.

# shellcheck disable=SC2034 # not every script needs all of them
build_packages=(gcc libc6-dev make pkg-config libvirt-dev protobuf-compiler libprotobuf-dev
    librbd-dev librados-dev libclang-14-dev)
qemu_packages=(qemu-system-x86 qemu-utils qemu-block-extra)
# shellcheck disable=SC2034
run_packages=(
    curl jq iproute2 iputils-ping kmod # what the scripts themselves use
    etcd-server etcd-client
    libvirt-daemon libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients
    "${qemu_packages[@]}"
    bubblewrap # images are opened in a sandbox
    nftables
    radvd
    tzdata # the time zones of snapshot schedules
)
# shellcheck disable=SC2034
lab_packages=(bird2)
# shellcheck disable=SC2034
guest_packages=(busybox-static cpio e2fsprogs fdisk mtools syslinux syslinux-common)
# shellcheck disable=SC2034
test_packages=(ceph-common ceph-mon ceph-osd ndisc6 procps python3-venv shellcheck xz-utils zstd)
# shellcheck disable=SC2034
bench_packages=(iperf3 tcpdump jq procps)

# ensure_packages PACKAGE...: installs what is missing of these. Asks dpkg alone, and so is quick, when all is there.
ensure_packages() {
    local missing version before=()
    [[ -r /etc/debian_version ]] || die "this machine is not Debian; install what docs/operator-guide.md lists by hand"
    mapfile -t missing < <(missing_packages "$@")
    if ((${#missing[@]} == 0)); then
        ok "all installed"
        return
    fi
    ((EUID == 0)) || die "must be run as root to install ${missing[*]%#qemu}"
    say "installing ${missing[*]%#qemu}"
    apt_get update
    version=$(apt-cache policy qemu-system-x86 | sed -n 's/^ *Candidate: //p')
    missing=("${missing[@]/%#qemu/=$version}")
    mapfile -t before < <(installed_packages bird2 etcd-server radvd)
    without_starting_services apt_get install --no-install-recommends --allow-downgrades "${missing[@]}"
    disable_new_services "${before[@]}"
    ok "installed ${#missing[@]} packages"
}

# Those of the packages that are missing, one a line. Of QEMU all or none, with a mark: their versions must be equal,
# and one that is there already may be a newer backport.
missing_packages() {
    local installed package qemu=equal
    installed=" $(installed_packages "$@" | tr '\n' ' ')"
    for package in "$@"; do
        case $installed in
            *" $package "*) ;;
            *) [[ $package == qemu-* ]] && qemu=missing || echo "$package" ;;
        esac
    done
    if [[ $qemu == missing || $(qemu_versions | wc -l) -gt 1 ]]; then
        printf '%s#qemu\n' "${qemu_packages[@]}"
    fi
}

qemu_versions() {
    { dpkg-query --show --showformat '${db:Status-Abbrev}${Version}\n' "${qemu_packages[@]}" 2>/dev/null || true; } |
        sed -n '/^ii/p' | sort --unique
}

installed_packages() {
    # dpkg-query fails where it does not know one of them, which is no failure here.
    { dpkg-query --show --showformat '${db:Status-Abbrev}${Package}\n' "$@" 2>/dev/null || true; } | sed -n 's/^ii *//p'
}

# apt-get without questions, patient with whoever else holds dpkg's lock; silent unless it fails.
apt_get() {
    local log
    log=$(mktemp)
    if ! DEBIAN_FRONTEND=noninteractive apt-get -qq --yes -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" >"$log" 2>&1 9>&-; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        die "apt-get $1 has failed; the cause is above"
    fi
    rm -f "$log"
}

# Debian starts what it installs. We start our own etcd, radvd and bird, with our own data and configuration.
without_starting_services() {
    local policy=/usr/sbin/policy-rc.d
    if [[ -e $policy ]]; then
        "$@"
        return
    fi
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    # shellcheck disable=SC2064 # the path as it is now
    trap "rm -f $policy" EXIT
    "$@"
    rm -f "$policy"
    trap - EXIT
}

# disable_new_services PACKAGE...: of bird, etcd and radvd, those that were installed just now (and are not in the
# list) are not started at boot either: they would take our ports.
disable_new_services() {
    [[ -d /run/systemd/system ]] || return 0
    [[ " $* " == *" bird2 "* ]] || systemctl disable --quiet bird.service
    [[ " $* " == *" etcd-server "* ]] || systemctl disable --quiet etcd.service
    [[ " $* " == *" radvd "* ]] || systemctl disable --quiet radvd.service
}
