# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# Packages of the host. Sourced by ./bootstrap.

wanted_packages() {
    grep -v '^#' "$top/scripts/host-packages" | grep .
}

missing_packages() {
    local p
    for p in $(wanted_packages); do
        # One line an architecture; "not-installed" is a status, too.
        dpkg-query -W -f '${db:Status-Status}\n' "$p" 2> /dev/null | grep -qx installed ||
            echo "$p"
    done
}

check_host() {
    local id='' version=''
    [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
        die "the host must be Linux on x86_64, this is $(uname -s) on $(uname -m)"
    if [ -r /etc/os-release ]; then
        id=$(. /etc/os-release && echo "${ID:-}")
        version=$(. /etc/os-release && echo "${VERSION_ID:-}")
    fi
    case $id-$version in
    debian-12|debian-13) ;;
    *) warn "tried on Debian 12 and 13 only, this is ${id:-unknown} ${version}" ;;
    esac
    command -v apt-get > /dev/null && command -v dpkg-query > /dev/null ||
        die "apt and dpkg are needed to install packages and to fetch sources"
}

install_packages() {  # PACKAGE... ; root, or sudo with rights already given
    local as=''
    [ "$(id -u)" -eq 0 ] || as="sudo -n"
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086 # $as is a command and its option, or nothing
    $as apt-get -o DPkg::Lock::Timeout=300 update
    # shellcheck disable=SC2086
    $as env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
        install -y --no-install-recommends "$@"
}

do_deps() {
    local missing
    check_host
    missing=$(missing_packages | tr '\n' ' ')
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        # Ask for the password here, where a person sees the question.
        if ! command -v sudo > /dev/null || ! sudo -v; then
            die "these packages are missing and only root can install them; run as root:
  apt-get update && apt-get install --no-install-recommends $missing"
        fi
    fi
    say "missing packages: $missing"
    # shellcheck disable=SC2086 # a list of words
    run_logged "deps: install packages" "$build/log/deps.log" install_packages $missing
    missing=$(missing_packages | tr '\n' ' ')
    [ -z "$missing" ] || die "still missing after the installation: $missing"
}
