# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# ./bootstrap test: build, then every suite, then one line that counts. Sourced
# by ./bootstrap.

all_suites="lint unit model fuzz uffd qemu boot migrate"

make_asan() {
    local obj=$build/obj/host-asan
    [ -e "$obj/build.ninja" ] ||
        meson setup "$obj" "$top" -Dbuildtype=debugoptimized -Dwerror=true \
            -Db_sanitize=address,undefined -Db_lundef=false
    ninja -C "$obj" -j "$jobs"
}

# suite OBJ SUITE - run one suite of a meson build; the results stay in its log.
suite() {
    local obj=$1 name=$2
    rm -f "$obj/meson-logs/$name.json"
    # A failing test is counted at the end, not here.
    meson test -C "$obj" --no-rebuild --suite "$name" --logbase "$name" \
        --print-errorlogs --num-processes "$jobs" || true
    [ ! -s "$obj/meson-logs/$name.json" ] || results+=("$obj/meson-logs/$name.json")
}

do_test() {
    local name results=()
    [ $# -gt 0 ] || set -- $all_suites
    for name; do
        case " $all_suites " in
        *" $name "*) ;;
        *) die "unknown suite '$name' (allowed: $all_suites)" ;;
        esac
    done
    do_build all
    lock_build
    step host-asan "host: the same with sanitizers, warnings as errors" \
        "$({ compiler_id; host_inputs; } | hash_text)" make_asan
    unlock_build
    for name; do
        say "${bold}suite $name${plain}"
        suite "$build/obj/host" "$name"
        case $name in
        unit|fuzz|uffd)
            say "${bold}suite $name with sanitizers${plain}"
            suite "$build/obj/host-asan" "$name" ;;
        esac
    done
    /usr/bin/python3 "$top/ci/count-results" "${results[@]}"
}
