# shellcheck shell=bash
# Programs in the background, each with a pid file and a log in DATA (see layout.sh).

# A process is told from a later one with the same id by its start time (clock ticks since boot) and the boot.
process_identity() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return
    stat=${stat##*) }
    # shellcheck disable=SC2086 # split into fields: state is the third of all, start time the 22nd
    set -- $stat
    [[ $1 != Z ]] || return
    echo "${20} $(</proc/sys/kernel/random/boot_id)"
}

# daemon_pid NAME: the process id of a program that we started and that still runs; fails where there is none.
daemon_pid() {
    local file=$DATA/run/$1.pid pid identity
    [[ -f $file ]] || return
    { read -r pid && read -r identity; } <"$file" || return
    [[ $identity && $(process_identity "$pid") == "$identity" ]] || return
    echo "$pid"
}

daemon_runs() {
    daemon_pid "$1" >/dev/null
}

# start_daemon NAME COMMAND...: in a session of its own, without our lock, appending to its log.
start_daemon() {
    local name=$1 log=$DATA/log/$1.log pid
    shift
    if [[ -f $log && $(stat -c %s "$log") -gt 10000000 ]]; then
        mv "$log" "$log.1"
    fi
    setsid "$@" >>"$log" 2>&1 </dev/null 9>&- &
    pid=$!
    disown
    # Until setsid has become the program, there is nothing that could be mistaken: id and start time stay.
    printf '%s\n%s\n' "$pid" "$(process_identity "$pid")" >"$DATA/run/$name.pid.new"
    mv "$DATA/run/$name.pid.new" "$DATA/run/$name.pid"
}

# await_daemon NAME SECONDS COMMAND...: until COMMAND succeeds; ends everything with the log's tail when the program
# dies or the time is over.
await_daemon() {
    local name=$1 seconds=$2 deadline
    shift 2
    deadline=$((SECONDS + seconds))
    until "$@" >/dev/null 2>&1; do
        if ! daemon_runs "$name"; then
            tail_log "$name"
            die "$name has ended; the cause is in $DATA/log/$name.log (its end is above)"
        fi
        if ((SECONDS >= deadline)); then
            tail_log "$name"
            die "$name is not ready after $seconds s; its log is $DATA/log/$name.log (its end is above)"
        fi
        sleep 0.1
    done
}

tail_log() {
    printf '\n--- the end of %s\n' "$DATA/log/$1.log" >&2
    tail -n 20 "$DATA/log/$1.log" >&2 || true
}

# stop_daemon NAME SECONDS: asks it to end, and forces it when the time is over. Fine where it does not run.
stop_daemon() {
    local pid
    if pid=$(daemon_pid "$1"); then
        kill -TERM "$pid" 2>/dev/null || true
        if ! wait_until "$2" daemon_gone "$1"; then
            say "$1 did not end within $2 s and is killed"
            kill -KILL "$pid" 2>/dev/null || true
            wait_until 10 daemon_gone "$1" || die "$1 (process $pid) cannot be killed; look at 'ps -o stat,wchan $pid'"
        fi
    fi
    rm -f "$DATA/run/$1.pid"
}

daemon_gone() {
    ! daemon_runs "$1"
}
