# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=dash
#
# Runs inside a machine of two or more nodes, in an empty folder of the share,
# on its first node, by busybox: what a node's user space promises. PEER is a
# node of the other ISA. Ends with "N passed, N failed".

passed=0
failed=0
is() { # NAME WANTED GOT
    if [ "$2" = "$3" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL $1: '$3' instead of '$2'"
    fi
}
peer=$1
machine=$(onnode "$peer" uname -m)

# --- onnode
[ "$machine" != "$(uname -m)" ]; is "the peer is of another ISA" 0 $?
is "its host name" "$peer" "$(onnode "$peer" hostname)"
onnode "$peer" sh -c 'exit 9'; is "exit status" 9 $?
onnode "$peer" sh -c 'kill -TERM $$'; is "killed" 143 $?
onnode "$peer" no-such-program 2> err; is "not found" 127 $?
is "and why" 1 "$(grep -c 'not found in PATH' err)"
onnode no-such-node true 2> err; is "no such node" 125 $?
is "working directory" "$PWD" "$(onnode "$peer" pwd)"
is "environment" "a  b" "$(WORD='a  b' onnode "$peer" sh -c 'echo "$WORD"')"
is "input and output" 1000000 "$(head -c 1000000 /dev/zero | onnode "$peer" cat | wc -c)"
is "standard error" e "$(onnode "$peer" sh -c 'echo o; echo e >&2' 2>&1 > /dev/null)"
is "to the own node" "$(uname -m)" "$(onnode "$(hostname)" uname -m)"
is "there and back" "$(hostname)" "$(onnode "$peer" onnode "$(hostname)" hostname)"
cp "/proc/$$/exe" shell
onnode "$peer" ./shell -c true 2> err; is "of another ISA" 126 $?
is "and why" 1 "$(grep -c "program on an $machine node" err)"

mkfifo began
onnode -n "$peer" sh -c 'echo $$ > pid; echo; exec sleep 1000' > began &
read -r _ < began
kill %1
wait %1; is "a signal reaches it" 143 $?
onnode "$peer" sh -c 'kill -0 $(cat pid)' 2> /dev/null; is "and ends it" 1 $?

onnode -n "$peer" sh -c 'echo $$ > pid; echo; exec sleep 1000' > began &
read -r _ < began
kill -9 %1
wait %1 2> /dev/null
# Each look takes a round trip; it is gone after a few.
onnode "$peer" sh -c 'i=0; while kill -0 $(cat pid); do i=$((i + 1)); [ $i -lt 100000 ] || exit 1; done' \
    2> /dev/null
is "it does not outlive onnode" 0 $?

n=0
for i in 1 2 3 4 5 6 7 8; do
    onnode -n "$peer" sh -c "echo $i; exit $i" > "out$i" &
done
for i in 1 2 3 4 5 6 7 8; do
    wait "%$i"; [ $? -eq "$i" ] && [ "$(cat "out$i")" = "$i" ] && n=$((n + 1))
done
is "eight at once" 8 $n

# --- the share: every node sees every change at once
echo one > file
is "written here, read there" one "$(onnode "$peer" cat file)"
onnode "$peer" sh -c 'echo two >> file'
is "appended there, read here" "one two " "$(tr '\n' ' ' < file)"
for i in 1 2 3 4 5; do
    echo "$i" >> turns
    onnode "$peer" sh -c "echo $i >> turns"
done
is "appended in turns" "1 1 2 2 3 3 4 4 5 5 " "$(tr '\n' ' ' < turns)"
is "size there" "$(stat -c %s turns)" "$(onnode "$peer" stat -c %s turns)"
mv file moved
is "moved here" "moved" "$(onnode "$peer" sh -c 'ls file moved 2> /dev/null')"
onnode "$peer" sh -c ': > moved'
is "truncated there" 0 "$(stat -c %s moved)"
onnode "$peer" mkdir dir; is "made there" 0 $?
rmdir dir; is "removed here" 0 $?
for v in 1 2; do
    printf '#!/bin/sh\necho v%s\n' $v > prog.new
    chmod +x prog.new
    cat prog.new > prog
    chmod +x prog
    is "a program that changed" "v$v" "$(onnode "$peer" ./prog)"
done

# --- what a node shows
is "lsnodes" 1 "$(lsnodes | grep -c "^[* ] *[0-9]* *$peer .* up ")"
is "lsnodes --json" 1 "$(lsnodes --json | grep -c "\"name\": \"$peer\", \"self\": false")"
is "itself, there" 1 "$(onnode "$peer" lsnodes | grep -c "^\*.* $peer ")"
all=$(lsnodes --json | sed -n 's/.*"cpus": \([0-9]*\).*/\1/p' | awk '{ n += $1 } END { print n }')
is "all CPUs in /proc/stat" "$all" "$(grep -c '^cpu[0-9]' /proc/stat)"
chimera-seg create seg 64K; is "segment made" 0 $?
is "segment there" "size 65536" "$(onnode "$peer" chimera-seg stat seg | grep size)"
onnode "$peer" chimera-seg rm seg; is "segment removed there" 0 $?
chimera-seg stat seg 2> /dev/null; is "segment gone" 1 $?
chimera-pages 5 x 2> /dev/null; is "pages by number only" 2 $?
chimera-pages 5 18446744073709551615 > /dev/null; is "pages, one that is not there" 0 $?
is "kernel ping" 1 "$(chimera-ping -c 100 -k kernel "$peer" | grep -c ' 100 round trips')"
date=$(date +%s)
there=$(onnode "$peer" date +%s)
[ $((there - date)) -ge -60 ] && [ $((there - date)) -le 60 ]; is "about the same time" 0 $?

# --- as another user: nobody is 65534 and has no shell, so ask by number
if [ "$(id -u)" -ne 0 ]; then
    is "the same user there" "$(id -u) $(id -g)" "$(onnode "$peer" sh -c 'echo "$(id -u) $(id -g)"')"
    chimera-ping -l 500 2> err; is "no port of the system's" 1 $?
    is "and why" 1 "$(grep -c 'ermission denied' err)"
fi

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
