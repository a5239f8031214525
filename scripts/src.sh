# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# The upstream trees build/src/{qemu,linux}: unpack, put overlay files in place,
# keep hooks as commits, write them back. Sourced by ./bootstrap.
#
# A tree holds a small git repository of its own with the files that hooks
# touch, and no others (a repository of all of Linux would cost minutes and a
# gigabyte):
#
#   baseline commit   the pristine files, tag `upstream`
#   hook commits      one per patch in `series`, in order; a note holds the
#                     patch's file name
#
# Overlay files are symbolic links into the repository, so that an edit on
# either side is the same edit.

patch_dir() {  # TREE
    case $1 in
    qemu)  echo "$top/qemu-patches" ;;
    linux) echo "$top/guest-kernel" ;;
    *) die "unknown tree '$1' (allowed: qemu, linux)" ;;
    esac
}

# Identity and dates must not enter what is written back.
tree_git() {  # TREE ARGS...
    local tree=$1
    shift
    GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null \
        git -C "${tree_at:-$build/src/$tree}" -c user.name=chimera -c user.email=chimera@localhost \
        -c commit.gpgsign=false -c core.autocrlf=false -c core.abbrev=40 \
        -c core.hooksPath=/dev/null -c advice.detachedHead=false \
        -c notes.rewriteRef=refs/notes/commits -c safe.directory='*' \
        -c diff.noprefix=false -c diff.renames=true -c gc.auto=0 "$@"
}

series() {  # TREE
    local s
    s=$(patch_dir "$1")/series
    [ ! -e "$s" ] || sed -e 's/[[:space:]]*#.*//' -e '/^[[:space:]]*$/d' "$s"
}

patch_paths() {  # TREE - where its patches are, in order
    local name
    series "$1" | while read -r name; do echo "$(patch_dir "$1")/patches/$name"; done
}

# touched TREE - the upstream files that patches change.
touched() {
    local list
    list=$(patch_paths "$1")
    [ -z "$list" ] || xargs -r sed -n 's,^--- a/,,p' <<< "$list" | sort -u
}

upstream_version() {  # TREE
    case $1 in
    qemu)  lock_lines "$top/qemu-patches/upstream.lock" | awk '$2 == "qemu" { print $4; exit }' ;;
    linux) lock_lines "$top/guest-kernel/upstream.lock" | awk '{ print $4; exit }' ;;
    esac
}

tarball() {  # TREE - the upstream tar archive on standard output
    case $1 in
    qemu)
        xz -dc "$build/dl/$(locked_file qemu source '*.orig.tar.xz')" ;;
    linux)
        dpkg-deb --fsys-tarfile "$build/dl/$(locked_file linux-source-6.12)" |
            tar -xO --wildcards './usr/src/linux-source-*.tar.xz' | xz -dc ;;
    esac
}

# Debian's archive lacks firmware blobs and a Python package that only functional
# tests need; these two of its patches make it build so.
debian_patches="skip-unpack-edk2-blobs disable-pycotap"

debian_patch() {  # NAME
    tar -xJOf "$build/dl/$(locked_file qemu source '*.debian.tar.xz')" "debian/patches/$1.patch"
}

unpack_tree() {  # TREE
    local part=$build/src/$1.part p
    rm -rf "$part"
    mkdir -p "$part"
    tarball "$1" | tar -x --strip-components=1 -C "$part"
    if [ "$1" = qemu ]; then
        for p in $debian_patches; do
            debian_patch "$p" | patch -s -p1 --no-backup-if-mismatch -d "$part"
        done
    fi
    mv "$part" "$build/src/$1"
}

# The repository of an unpacked tree, with the files that hooks touch.
init_tree() {  # TREE
    tree_git "$1" init -q -b main
    printf '*\n' > "$build/src/$1/.git/info/exclude"
    tree_git "$1" commit -q --allow-empty -m "upstream: $1 $(upstream_version "$1")"
    tree_git "$1" tag -f upstream > /dev/null
    tree_git "$1" checkout -q -b hooks
    upstream_version "$1" > "$build/src/$1/.git/chimera-version"
    # What is newer than this file was edited here.
    touch "$build/src/$1/.git/chimera-unpacked"
}

# edited_untracked TREE - upstream files that somebody edited and that the
# tree's repository does not know yet.
edited_untracked() {
    local dir=$build/src/$1
    (cd "$dir" && find . -name .git -prune -o -name '*.orig' -prune -o -name '*.rej' -prune \
        -o -name '*~' -prune -o -name '__pycache__' -prune \
        -o -type f -newer .git/chimera-unpacked -print | sed 's,^\./,,') | sort |
        comm -23 - <(tree_git "$1" ls-files | sort)
}

# track TREE PATH... - add upstream files to the repository with their pristine
# content; the working files stay as they are.
track() {
    local tree=$1 tmp path mode
    shift
    tmp=$(mktemp -d "$build/src/track.XXXXXX")
    pristine "$tree" "$tmp" "$@" || { rm -rf "$tmp"; return 1; }
    for path; do
        mode=100644
        [ ! -x "$tmp/$path" ] || mode=100755
        tree_git "$tree" update-index --add \
            --cacheinfo "$mode,$(tree_git "$tree" hash-object -w "$tmp/$path"),$path"
    done
    rm -rf "$tmp"
    tree_git "$tree" commit -q -m "upstream: $*"
}

hook_commits() {  # TREE - without the commits that only add pristine files
    tree_git "$1" log --reverse --format=%H --invert-grep --grep='^upstream: ' upstream..HEAD
}

hooks_hash() {  # TREE - of what apply_hooks would build
    {
        upstream_version "$1"
        series "$1"
        # shellcheck disable=SC2046 # names without blanks
        hash_paths $(patch_paths "$1")
    } | hash_text
}

# move_to TREE COMMIT - bring working files and HEAD to COMMIT. A file that
# stays the same is not written; one with edits of its own stops everything
# before the first write.
move_to() {
    local tree=$1 tip=$2 dir=$build/src/$1 mode type blob path old now write=()
    while read -r mode type blob path; do
        old=$(tree_git "$tree" rev-parse -q --verify "HEAD:$path" ||
              tree_git "$tree" rev-parse -q --verify "upstream:$path")
        now=$(tree_git "$tree" hash-object -- "$dir/$path")
        [ "$now" = "$blob" ] && continue
        if [ "$now" != "$old" ]; then
            echo "error: build/src/$tree/$path has edits that are in no patch;" >&2
            echo "commit them there and \`./bootstrap src export $tree\`, or restore the file" >&2
            return 1
        fi
        write+=("$path")
    done < <(tree_git "$tree" ls-tree -r "$tip")
    for path in "${write[@]}"; do
        tree_git "$tree" show "$tip:$path" > "$dir/$path.chimera-new"
        chmod --reference="$dir/$path" "$dir/$path.chimera-new"
        mv "$dir/$path.chimera-new" "$dir/$path"
    done
    tree_git "$tree" update-ref refs/heads/hooks "$tip"
    tree_git "$tree" symbolic-ref HEAD refs/heads/hooks
    tree_git "$tree" read-tree "$tip"
    tree_git "$tree" update-index -q --refresh || true
}

# apply_hooks TREE - build the commits of `series` beside the working tree, then
# move the tree over: a patch that does not apply changes nothing.
apply_hooks() {
    local tree=$1 side=$build/src/$1.hooks p name tip new=()
    for p in $(touched "$tree"); do
        tree_git "$tree" cat-file -e "upstream:$p" 2> /dev/null || new+=("$p")
    done
    rm -rf "$side"
    tree_git "$tree" worktree prune
    tree_git "$tree" worktree add -q --detach "$side" upstream
    local tree_at=$side
    if [ ${#new[@]} -gt 0 ]; then
        # The baseline grows, below the hooks. QEMU's has two of Debian's
        # patches in it, so take what this tree was made of.
        pristine "$tree" "$side" "${new[@]}"
        tree_git "$tree" add -f -- "${new[@]}"
        tree_git "$tree" commit -q --amend --no-edit
        tree_git "$tree" tag -f upstream > /dev/null
    fi
    for p in $(patch_paths "$tree"); do
        name=${p##*/}
        if [ ! -e "$p" ]; then
            echo "error: $name is in series and not in patches/" >&2
            return 1
        fi
        if ! tree_git "$tree" am -q --keep-cr --keep-non-patch "$p"; then
            tree_git "$tree" am --abort || true
            cat >&2 <<MESSAGE
error: $name does not apply to $tree $(upstream_version "$tree")
Take it out of series, run this again, make its change in build/src/$tree, commit
it there under the patch's subject, then \`./bootstrap src export $tree\`.
MESSAGE
            return 1
        fi
        tree_git "$tree" notes add -f -m "$name" HEAD
    done
    tip=$(tree_git "$tree" rev-parse HEAD)
    unset tree_at
    move_to "$tree" "$tip"
    tree_git "$tree" worktree remove --force "$side"
    echo "$tip" > "$build/src/$tree/.git/chimera-applied"
    hooks_hash "$tree" > "$build/src/$tree/.git/chimera-hooks"
}

# pristine TREE DIR PATH... - write upstream's PATHs below DIR.
pristine() {
    local tree=$1 dir=$2 path mode
    shift 2
    tarball "$tree" | tar -x -C "$dir" --strip-components=1 --no-wildcards-match-slash \
        --wildcards "${@/#/*/}" || true
    for path; do
        [ -e "$dir/$path" ] || {
            echo "error: $path is not in upstream $tree: an own file belongs to" \
                "$(patch_dir "$tree")/files" >&2
            return 1
        }
    done
    if [ "$tree" = qemu ]; then
        for path in $debian_patches; do
            debian_patch "$path" | (cd "$dir" && git apply -q --include="$(IFS=,; echo "$*")" -) || true
        done
    fi
}

# --- Overlay files --------------------------------------------------------

overlay_files() {  # TREE - lines "PATH-IN-TREE FILE"
    local files
    files=$(patch_dir "$1")/files
    [ ! -d "$files" ] || (cd "$files" && find . -type f ! -name '*~' ! -name '.*.sw?' |
        sed -E "s,^\./(.*),\1 $files/\1,")
    if [ "$1" = qemu ]; then
        # An ABI has one text, the kernel's.
        echo "include/standard-headers/linux/virtio_fabric.h" \
            "$top/guest-kernel/files/include/uapi/linux/virtio_fabric.h"
        echo "include/standard-headers/asm-x86/tcg_para.h" \
            "$top/guest-kernel/files/arch/x86/include/uapi/asm/tcg_para.h"
    fi
}

place_overlay() {  # TREE
    local dir=$build/src/$1 list=$build/src/$1/.git/chimera-overlay path file link want
    overlay_files "$1" | sort > "$list.new"
    # What is gone from files/ goes from the tree.
    if [ -e "$list" ]; then
        comm -23 <(cut -d' ' -f1 "$list" | sort) <(cut -d' ' -f1 "$list.new" | sort) |
            while read -r path; do
                [ ! -L "$dir/$path" ] || rm "$dir/$path"
                (cd "$dir" && rmdir -p --ignore-fail-on-non-empty "$(dirname "$path")" 2> /dev/null) || true
            done
    fi
    while read -r path file; do
        link=$dir/$path
        if [ -e "$link" ] && [ ! -L "$link" ]; then
            echo "error: overlay file $path exists in upstream $1; change it by a patch" >&2
            return 1
        fi
        want=$(realpath -s --relative-to="$(dirname "$link")" "$file")
        if [ "$(readlink "$link" || true)" != "$want" ]; then
            mkdir -p "$(dirname "$link")"
            ln -sfn "$want" "$link"
            echo "placed $path"
        fi
    done < "$list.new"
    mv "$list.new" "$list"
}

# --- Preparing a tree -----------------------------------------------------

make_tree() {
    unpack_tree "$1"
    init_tree "$1"
}

new_commits() {  # TREE - made here since hooks were applied or exported
    local applied
    applied=$(cat "$build/src/$1/.git/chimera-applied" 2> /dev/null || true)
    [ -z "$applied" ] || tree_git "$1" log --format='%h %s' --invert-grep --grep='^upstream: ' "$applied..HEAD"
}

unexported() {  # TREE - is there work that patches/ does not have?
    [ -n "$(new_commits "$1")" ] || ! tree_git "$1" diff --quiet HEAD -- ||
        [ -n "$(edited_untracked "$1")" ]
}

do_tree() {  # TREE
    local tree=$1 dir=$build/src/$1 version links
    version=$(upstream_version "$tree")
    [ ! -e "$dir" ] || [ -e "$dir/.git/chimera-version" ] ||
        die "$dir was not unpacked by ./bootstrap; move it away"
    if [ -e "$dir" ] && [ "$(cat "$dir/.git/chimera-version")" != "$version" ]; then
        ! unexported "$tree" ||
            die "$dir is $(cat "$dir/.git/chimera-version") with changes that are in no patch;
export or undo them before moving to $version"
        rm -rf "$dir"
    fi
    [ -e "$dir" ] ||
        run_logged "$tree: unpack $version" "$build/log/unpack-$tree.log" make_tree "$tree"
    # Hooks first: an overlay file may stand where a hook makes room.
    if [ "$(cat "$dir/.git/chimera-hooks" 2> /dev/null || true)" != "$(hooks_hash "$tree")" ]; then
        [ -z "$(new_commits "$tree")" ] || die "patches of $tree have changed, and $dir has commits that are in none:
$(new_commits "$tree")
Keep them with \`git -C build/src/$tree format-patch -o DIR $(cat "$dir/.git/chimera-applied")\`,
take them back with \`git -C build/src/$tree reset --hard\` to that commit, run this again,
then \`git -C build/src/$tree am DIR/*\` and \`./bootstrap src export $tree\`"
        run_logged "$tree: apply hooks" "$build/log/hooks-$tree.log" apply_hooks "$tree"
    fi
    links=$(place_overlay "$tree") || exit 1
    [ -z "$links" ] || say "$tree: $(wc -l <<< "$links") overlay files placed"
}

# --- Writing hooks back ---------------------------------------------------

write_patches() {  # TREE DIR - DIR/patches/* and DIR/names from the commits
    local commit name
    mkdir -p "$2/patches"
    : > "$2/names"
    for commit in $(hook_commits "$1"); do
        name=$(tree_git "$1" notes show "$commit" 2> /dev/null) ||
            name=$(tree_git "$1" log -1 --format=%f "$commit").patch
        tree_git "$1" format-patch -1 --stdout -N --zero-commit --full-index --no-signature \
            --no-stat --no-renames "$commit" > "$2/patches/$name"
        echo "$name" >> "$2/names"
    done
}

src_check() {  # TREE
    local tmp rc=0
    tmp=$(mktemp -d "$build/src/check.XXXXXX")
    write_patches "$1" "$tmp"
    series "$1" > "$tmp/series"
    mkdir -p "$tmp/have"
    cp -r "$(patch_dir "$1")/patches/." "$tmp/have" 2> /dev/null || true
    if ! diff -u "$tmp/series" "$tmp/names" || ! diff -ru "$tmp/have" "$tmp/patches"; then
        echo "$1: patches/ and the tree's commits differ; ./bootstrap src export $1 writes them" >&2
        rc=1
    else
        echo "$1: $(wc -l < "$tmp/names") hooks, byte for byte the same after a round trip"
    fi
    rm -rf "$tmp"
    return $rc
}

src_export() {  # TREE
    local tmp dir edited name
    dir=$(patch_dir "$1")
    edited=$(edited_untracked "$1")
    [ -z "$edited" ] || die "edited, but unknown to the tree's repository:
$edited
\`./bootstrap src track $1\` adds their pristine content; then commit the edits there"
    tree_git "$1" diff --quiet HEAD -- ||
        die "build/src/$1 has changes that are not committed there:
$(tree_git "$1" diff --stat HEAD --)"
    tmp=$(mktemp -d "$build/src/export.XXXXXX")
    write_patches "$1" "$tmp"
    mkdir -p "$dir/patches"
    for name in "$dir"/patches/*.patch; do
        [ ! -e "$name" ] || [ -e "$tmp/patches/${name##*/}" ] || rm "$name"
    done
    while read -r name; do
        cmp -s "$tmp/patches/$name" "$dir/patches/$name" || {
            mv "$tmp/patches/$name" "$dir/patches/$name"
            say "wrote ${dir#"$top"/}/patches/$name"
        }
    done < "$tmp/names"
    if ! series "$1" | cmp -s - "$tmp/names"; then
        { grep -s '^#' "$dir/series" || true; cat "$tmp/names"; } > "$tmp/series"
        mv "$tmp/series" "$dir/series"
        say "wrote ${dir#"$top"/}/series"
    fi
    rm -rf "$tmp"
    apply_hooks "$1"
    src_check "$1"
}

src_track() {  # TREE [PATH...]
    local tree=$1
    shift
    # shellcheck disable=SC2046 # names without blanks
    [ $# -gt 0 ] || set -- $(edited_untracked "$tree")
    [ $# -gt 0 ] || { say "nothing to track"; return; }
    track "$tree" "$@"
    tree_git "$tree" status --short
}

do_src() {
    local action=${1:-} tree
    [ $# -gt 0 ] && shift
    case $action in
    export|check|track|status) ;;
    *) die "unknown: src ${action:-(nothing)}; allowed: src export|check|status [qemu|linux], src track TREE [FILE...]" ;;
    esac
    case $action in
    export|track) lock_build ;;
    esac
    if [ "$action" = track ]; then
        [ $# -gt 0 ] || die "src track needs a tree: qemu or linux"
        patch_dir "$1" > /dev/null
        src_track "$@"
        return
    fi
    [ $# -gt 0 ] || set -- qemu linux
    for tree; do
        patch_dir "$tree" > /dev/null
        [ -e "$build/src/$tree/.git/chimera-version" ] ||
            die "build/src/$tree does not exist yet; ./bootstrap build src makes it"
        case $action in
        export) src_export "$tree" ;;
        check)  src_check "$tree" ;;
        status)
            say "$tree $(cat "$build/src/$tree/.git/chimera-version")"
            tree_git "$tree" log --oneline upstream..HEAD
            tree_git "$tree" status --short
            edited_untracked "$tree" | sed 's/^/ ?! /' ;;
        esac
    done
}
