# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# Upstream sources and packages, through apt and the mirror that the machine
# already uses. Sourced by ./bootstrap.
#
# What is wanted stands in *.lock files, one file of an archive a line:
#
#   KIND PACKAGE ARCH VERSION SHA256 FILE
#
# KIND is `source` (FILE is one file of the source package, ARCH is `source`) or
# `binary`. Everything comes from one suite on every machine, in an apt state of
# its own under build/apt, so that the machine's own apt is neither used nor
# changed. apt verifies the archive's signature with Debian's keyring; the lock
# then fixes the exact bytes.

suite=trixie
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
locks="$top/qemu-patches/upstream.lock $top/guest-kernel/upstream.lock $top/scripts/packages.lock
$top/migrate/upstream.lock"

# mirror_uris - sets main_uri and security_uri from the machine's apt sources.
mirror_uris() {
    local uri release component
    main_uri='' security_uri=''
    while read -r uri release component; do
        [ "$component" = main ] || continue
        uri=${uri%/}
        case $uri in
        http://*|https://*|ftp://*|file:*|copy:*|mirror*|tor*) ;;
        *) continue ;;
        esac
        case $release in
        bookworm-security|trixie-security|stable-security|oldstable-security)
            : "${security_uri:=$uri}" ;;
        bookworm|trixie|forky|sid|stable|oldstable|testing|unstable)
            : "${main_uri:=$uri}" ;;
        esac
    done < <(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' \
                'Created-By: Packages' 2>/dev/null | sort -u)
    [ -n "$main_uri" ] ||
        die "no Debian mirror among this machine's apt sources (apt-get indextargets)"
    if [ -z "$security_uri" ]; then
        security_uri=${main_uri%/debian}/debian-security
    fi
}

apt_private() {  # PROGRAM ARGS...
    local program=$1
    shift
    "$program" -c "$build/apt/apt.conf" "$@"
}

apt_setup() {
    local a=$build/apt signed=''
    mirror_uris
    mkdir -p "$a/lists/partial" "$a/cache/archives/partial" "$a/sources.d" "$a/preferences.d"
    : > "$a/status"
    : > "$a/preferences"
    [ ! -r "$keyring" ] || signed="signed-by=$keyring "
    {
        local uri dist
        while read -r uri dist; do
            echo "deb [${signed}arch=amd64,arm64 target=Packages] $uri $dist main"
            echo "deb-src [${signed}target=Sources] $uri $dist main"
        done <<LIST
$main_uri $suite
$main_uri $suite-updates
$security_uri $suite-security
LIST
    } > "$a/sources.list"
    cat > "$a/apt.conf" <<CONF
Dir::State "$a";
Dir::State::lists "$a/lists";
Dir::State::status "$a/status";
Dir::Cache "$a/cache";
Dir::Etc::sourcelist "$a/sources.list";
Dir::Etc::sourceparts "$a/sources.d";
Dir::Etc::preferences "$a/preferences";
Dir::Etc::preferencesparts "$a/preferences.d";
APT::Architecture "amd64";
#clear APT::Architectures;
APT::Architectures { "amd64"; "arm64"; };
APT::Sandbox::User "root";
APT::Install-Recommends "false";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Acquire::Languages "none";
Acquire::Retries "3";
CONF
}

apt_update() {
    apt_setup
    if apt_private apt-get update -o APT::Update::Error-Mode=any; then
        return
    fi
    # A mirror without the security archive is enough when it has what we pin.
    echo "trying without $suite-security"
    sed -i "/ $suite-security /d" "$build/apt/sources.list"
    apt_private apt-get update -o APT::Update::Error-Mode=any
}

lock_lines() {  # LOCK...
    grep -hv -e '^#' -e '^[[:space:]]*$' "$@"
}

have_file() {  # FILE SHA256
    [ -f "$build/dl/$1" ] && echo "$2  $build/dl/$1" | sha256sum --quiet -c - > /dev/null 2>&1
}

# versions PACKAGE ARCH - what the archive offers, newest first.
versions() {
    if [ "$2" = source ]; then
        apt_private apt-cache showsrc --only-source "$1"
    else
        apt_private apt-cache show -a "$1:${2/all/amd64}"
    fi 2>/dev/null | sed -n 's/^Version: //p' | sort -u | sort -Vr
}

# 1:10.0.13+ds-0+deb13u1 -> 10.0: a point release changes what comes after it.
release_series() {
    sed -E 's/^[0-9]+://; s/^([0-9]+\.[0-9]+).*/\1/' <<< "$1"
}

# available PACKAGE ARCH VERSION - the version to take: the pinned one, or the
# newest of the same release series, with a warning.
available() {
    local have v
    have=$(versions "$1" "$2")
    if grep -qxF -- "$3" <<< "$have"; then
        echo "$3"
        return
    fi
    for v in $have; do
        if [ "$(release_series "$v")" = "$(release_series "$3")" ]; then
            echo "warning: $1 $3 is gone from the archive, taking $v" >&2
            echo "$v"
            return
        fi
    done
    cat >&2 <<MESSAGE
error: the archive has neither $1 $3 nor another release of its series.
It offers: $(echo ${have:-nothing})
Either point apt at an archive that has it (a Debian snapshot), or move to a
version that exists: write it with its SHA-256 into the .lock file that names
$1, then \`./bootstrap src check\` says whether the hooks still apply.
MESSAGE
    return 1
}

fetch_file() {  # KIND PACKAGE ARCH VERSION SHA256 FILE
    local kind=$1 package=$2 arch=$3 version=$4 sha=$5 file=$6 take part=$build/dl/part
    if have_file "$file" "$sha"; then
        echo "have $file"
        return
    fi
    take=$(available "$package" "$arch" "$version") || return 1
    echo "fetching $package $take ($arch)"
    rm -rf "$part"
    mkdir -p "$part"
    if [ "$kind" = source ]; then
        (cd "$part" && apt_private apt-get source -q --download-only --only-source "$package=$take")
    else
        (cd "$part" && apt_private apt-get download -q "$package:${arch/all/amd64}=$take")
        # apt's name has the epoch encoded; without one it is ours already
        [ -e "$part/$file" ] || mv "$part"/*.deb "$part/$file"
    fi
    if [ "$take" = "$version" ]; then
        echo "$sha  $part/$file" | sha256sum -c - || {
            echo "error: $file differs from the bytes that the lock file pins" >&2
            return 1
        }
        mv "$part"/* "$build/dl/"
    else
        # apt has verified it; remember it under the pinned name, so that all
        # who ask for the pinned file get it, and note that it is another.
        local other
        case $file in
        *.orig.tar.*)   other=$(echo "$part"/*.orig.tar.*[a-z2]) ;;
        *.debian.tar.*) other=$(echo "$part"/*.debian.tar.*[a-z2]) ;;
        *)              other=$part/$file ;;
        esac
        mv "$other" "$build/dl/$file.$take"
        ln -sfn "$file.$take" "$build/dl/$file"
        echo "$package $take instead of $version" >> "$build/dl/replaced"
    fi
    rm -rf "$part"
}

fetch_all() {  # [PACKAGE] - only its files
    local line updated='' sha file only=${1:-}
    mkdir -p "$build/dl"
    rm -f "$build/dl/replaced"
    while read -r line; do
        # shellcheck disable=SC2086 # six words
        set -- $line
        [ $# -eq 6 ] || { echo "error: malformed lock line: $line" >&2; return 1; }
        [ "${only:-$2}" = "$2" ] || continue
        sha=$5 file=$6
        if ! have_file "$file" "$sha" && [ -z "$updated" ]; then
            apt_update
            updated=1
        fi
        fetch_file "$@"
    done < <(lock_lines $locks)
}

do_fetch() {
    local hash line file
    # shellcheck disable=SC2086 # a list of paths
    hash=$(hash_paths $locks | hash_text)
    # A file that somebody removed is fetched again.
    # shellcheck disable=SC2086
    while read -r line; do
        file=${line##* }
        [ -e "$build/dl/$file" ] || rm -f "$build/stamp/fetch"
    done < <(lock_lines $locks)
    step fetch "sources: fetch and verify" "$hash" fetch_all
    if [ -s "$build/dl/replaced" ]; then
        while read -r line; do warn "$line"; done < "$build/dl/replaced"
    fi
}

# make_source PACKAGE - a source package with Debian's patches: build/src/PACKAGE.
make_source() {
    local dir=$build/src/$1 part=$build/src/$1.part package file patch
    fetch_all "$1"
    rm -rf "$dir" "$part"
    mkdir -p "$part"
    while read -r _ package _ _ _ file; do
        [ "$package" = "$1" ] || continue
        case $file in
        *.orig.tar.*)   tar -x -f "$build/dl/$file" -C "$part" --strip-components=1 ;;
        *.debian.tar.*) tar -x -f "$build/dl/$file" -C "$part" ;;
        esac
    done < <(lock_lines $locks)
    if [ -f "$part/debian/patches/series" ]; then
        while read -r patch _; do
            case $patch in ''|'#'*) continue ;; esac
            patch -d "$part" -p1 -s -f < "$part/debian/patches/$patch"
        done < "$part/debian/patches/series"
    fi
    mv "$part" "$dir"
}

source_hash() { { declare -f make_source; lock_lines $locks | grep "^source $1 "; } | hash_text; }
source_current() { [ -d "$build/src/$1" ] && fresh "source-$1" "$(source_hash "$1")"; }

do_source() {  # PACKAGE
    [ -d "$build/src/$1" ] || rm -f "$build/stamp/source-$1"
    step "source-$1" "$1: fetch and unpack" "$(source_hash "$1")" make_source "$1"
}

unpack_deb() {  # FILE DIR - the deb's files, below DIR
    mkdir -p "$2"
    dpkg-deb --fsys-tarfile "$build/dl/$1" | tar -x -C "$2"
}

# locked_file PACKAGE [ARCH [PATTERN]] - the file that the locks name.
locked_file() {
    local line
    while read -r line; do
        # shellcheck disable=SC2086
        set -- "$1" "${2:-}" "${3:-}" $line
        [ "$5" = "$1" ] && [ "${2:-$6}" = "$6" ] || continue
        # shellcheck disable=SC2254 # a pattern on purpose
        case $9 in ${3:-*}) echo "$9"; return ;; esac
    done < <(lock_lines $locks)
    die "no lock file names $1 ${2:-} ${3:-}"
}
