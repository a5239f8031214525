# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# What the checks share. Sourced by ci/check-*.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$top" || exit 1
bad=0

# Exit code 77 tells meson that a test was skipped.
skip() { echo "SKIP: $*"; exit 77; }

complain() { echo "$*" >&2; bad=1; }

# Files of the repository, those not yet added included.
files() {
    git -c safe.directory='*' ls-files --cached --others --exclude-standard -- "$@" |
        while read -r file; do [ ! -f "$file" ] || echo "$file"; done
}

# Shell scripts, known by name or by first line.
shell_files() {
    files | while read -r file; do
        case $file in
        *.sh) echo "$file" ;;
        *.*) ;;
        *) ! head -n 1 "$file" | grep -qaE '^#! ?/bin/(ba)?sh' || echo "$file" ;;
        esac
    done
}
