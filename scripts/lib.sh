# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# What every part of ./bootstrap uses: messages, steps with progress, stamps.
# Sourced, never run.

# Absolute, without symbolic links: build trees record these names.
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
build=$top/build
jobs=${CHIMERA_JOBS:-$(nproc)}
isas="x86_64 aarch64"

# Our tools first, then the system's: a private python or compiler that happens
# to stand first in the caller's PATH must not decide what is built.
PATH=$build/tools/bin:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin
export PATH LC_ALL=C.UTF-8
unset MAKEFLAGS MAKELEVEL CFLAGS LDFLAGS PYTHONPATH PYTHONHOME GIT_DIR GIT_WORK_TREE

# A cache hit must not depend on where the clone stands.
export CCACHE_BASEDIR=${CCACHE_BASEDIR:-$top} CCACHE_NOHASHDIR=1 CCACHE_DEPEND=1

if [ -t 2 ] && [ "${TERM:-dumb}" != dumb ]; then
    tty=1 bold=$'\e[1m' red=$'\e[31m' yellow=$'\e[33m' plain=$'\e[0m' clear=$'\r\e[K'
else
    tty='' bold='' red='' yellow='' plain='' clear=''
fi

say()  { printf '%s\n' "$*" >&2; }
warn() { printf '%swarning:%s %s\n' "$yellow" "$plain" "$*" >&2; }
die()  { printf '%serror:%s %s\n' "$red" "$plain" "$*" >&2; exit 1; }

duration() {  # SECONDS
    if [ "$1" -lt 60 ]; then
        printf '%d s' "$1"
    else
        printf '%d min %02d s' $(($1 / 60)) $(($1 % 60))
    fi
}

# --- Stamps ---------------------------------------------------------------
# A step is done when build/stamp/NAME holds the hash of its inputs.

hash_text() { sha256sum | cut -c1-64; }

# hash_paths PATH... - contents and names of all files below; a missing path
# counts as such, so that its appearance changes the hash.
hash_paths() {
    local p
    for p; do
        [ -e "$p" ] || printf 'missing %s\n' "$p"
    done
    for p; do
        [ ! -e "$p" ] || find -L "$p" -type f ! -name '*~' ! -name '.*.sw?' -print0
    done | LC_ALL=C sort -z | xargs -0 -r sha256sum
}

fresh() {  # NAME HASH
    [ -f "$build/stamp/$1" ] && [ "$(cat "$build/stamp/$1")" = "$2" ]
}

stamp() {  # NAME HASH
    mkdir -p "$build/stamp"
    printf '%s\n' "$2" > "$build/stamp/$1.new"
    mv "$build/stamp/$1.new" "$build/stamp/$1"
}

# --- Steps ----------------------------------------------------------------

step_pid='' ticker_pid='' steps_done=0

# What the log's last line says about progress: "[12/345]" as ninja and the
# kernel's own rules print it, else nothing.
progress_of() {
    tail -c 400 "$1" 2>/dev/null | tr '\r' '\n' | grep -o '\[[0-9]*/[0-9]*\]' | tail -n 1
}

ticker() {  # TITLE LOG - redraws one line a second until it is killed
    local began=$SECONDS
    while :; do
        printf '%s%s %s %s' "$clear" "$1" "$(duration $((SECONDS - began)))" \
            "$(progress_of "$2")" >&2
        read -r -t 1 <> <(:) || true
    done
}

stop_jobs() {
    local pid
    for pid in $ticker_pid $step_pid; do
        kill -TERM -- "-$pid" 2>/dev/null || kill -TERM "$pid" 2>/dev/null || true
    done
    ticker_pid='' step_pid=''
}

on_signal() {
    trap - INT TERM HUP
    stop_jobs
    printf '%s' "$clear" >&2
    say "stopped; run the same command again to continue where it was"
    exit 130
}
trap on_signal INT TERM HUP
trap stop_jobs EXIT

# run_logged TITLE LOG COMMAND... - run with progress, output to the log; on
# failure show the end of the log and leave.
run_logged() {
    local title=$1 log=$2 began=$SECONDS rc=0
    shift 2
    mkdir -p "$(dirname "$log")"
    : > "$log"
    if [ -n "$tty" ]; then
        set -m; ticker "$bold$title$plain" "$log" & ticker_pid=$!; set +m
    else
        say "$title ..."
    fi
    # A process group of its own: stopping us stops all of it. Descriptor 9 is
    # the lock of the build directory, which no child may keep open.
    set -m; ( set -e; "$@" ) > "$log" 2>&1 < /dev/null 9>&- & step_pid=$!; set +m
    wait "$step_pid" || rc=$?
    # What a step leaves behind when it is killed from outside goes with it.
    [ "$rc" -eq 0 ] || kill -TERM -- "-$step_pid" 2> /dev/null || true
    step_pid=''
    if [ -n "$ticker_pid" ]; then
        kill -TERM -- "-$ticker_pid" 2>/dev/null || true
        wait "$ticker_pid" 2>/dev/null || true
        ticker_pid=''
    fi
    if [ "$rc" -ne 0 ]; then
        printf '%s%s%s: failed after %s%s\n' "$clear" "$red" "$title" \
            "$(duration $((SECONDS - began)))" "$plain" >&2
        say "the last lines of ${log#"$top"/}:"
        tail -n "${CHIMERA_LOG_LINES:-25}" "$log" | sed 's/^/    /' >&2
        die "$title failed; the whole log is $log"
    fi
    printf '%s%s: done, %s\n' "$clear" "$title" "$(duration $((SECONDS - began)))" >&2
    steps_done=$((steps_done + 1))
}

# step NAME TITLE HASH COMMAND... - run once for each value of HASH.
step() {
    local name=$1 title=$2 hash=$3
    shift 3
    if fresh "$name" "$hash"; then
        return 0
    fi
    rm -f "$build/stamp/$name"
    run_logged "$title" "$build/log/$name.log" "$@"
    stamp "$name" "$hash"
}

# newer_than STAMP DIR - is a plain file below DIR newer than the stamp? For
# trees in which people edit files that are not in this repository.
newer_than() {
    [ -n "$(find "$2" -name .git -prune -o -type f -newer "$build/stamp/$1" \
            -print -quit 2>/dev/null)" ]
}

lock_build() {
    mkdir -p "$build"
    exec 9> "$build/lock"
    if ! flock -n 9; then
        say "another ./bootstrap works in build/; waiting for it"
        flock 9
    fi
}
unlock_build() { exec 9>&-; }
