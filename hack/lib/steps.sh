# shellcheck shell=bash
# What the scripts in hack/ tell the person who runs them: short steps, each with the time it took, and errors that
# say what to do next.

# shellcheck disable=SC2034 # for the scripts that show the whole time
steps_began=$EPOCHREALTIME

# The seconds since $1 (as EPOCHREALTIME gives it), with one digit behind the point.
seconds_since() {
    local micros=$((${EPOCHREALTIME/[.,]/} - ${1/[.,]/}))
    printf '%d.%d' $((micros / 1000000)) $((micros / 100000 % 10))
}

# step TITLE: what follows belongs to this step. Ends the one before.
step() {
    step_began=$EPOCHREALTIME
    step_title=$1
    [[ -t 1 ]] && printf '%-16s ...\r' "$1"
    return 0
}

# ok TEXT: the step has succeeded, and how.
ok() {
    printf '%-16s %s (%s s)\n' "$step_title" "$1" "$(seconds_since "$step_began")"
}

# say TEXT: something to know meanwhile.
say() {
    printf '%-16s %s\n' "$step_title" "$1"
}

# die TEXT: the end, with the reason and what to do next.
die() {
    printf '\n%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# wait_until SECONDS COMMAND...: runs COMMAND again and again until it succeeds; fails when the time is over.
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
}
