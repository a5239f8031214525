/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The configuration parser: a table of what is wrong and the exact words for
 * it, what right values become, and that SCHEMA.md knows every key.
 *
 *   test-config SCHEMA.md
 */
#include "config.h"
#include "util.h"

#include <string.h>

#define NODE "[node a]\nisa=x86_64\n"
#define DSM "[machine]\ncoherence=dsm\n"
#define ADDRESS "allowed: tcp:HOST:PORT with a numeric address at which the " \
                "other nodes reach this one, such as tcp:127.0.0.1:7001"
#define HOST "allowed: what start-command calls a host, 1 to 253 letters, " \
             "digits and _-./:@%+, not beginning with '-'"
#define COMMAND "allowed: a command with the words {host} and {command}, " \
                "such as ssh {host} {command}"

static const struct {
    const char *name, *text, *error;
} bad[] = {
    /* structure */
    { "empty", "",
      "m.conf: found no [node NAME] group; a machine has 1 to 64 "
      "nodes" },
    { "no-nodes", "[machine]\nname=x\n",
      "m.conf: found no [node NAME] group; a machine has 1 to 64 nodes" },
    { "before-group", "cpus=1\n" NODE,
      "m.conf:1: found 'cpus=1' before the first group; begin with [machine] "
      "or [node NAME]" },
    { "no-key", NODE "fast\n",
      "m.conf:3: found 'fast'; allowed: [group], key=value, or # comment" },
    { "no-key-name", NODE "=5\n",
      "m.conf:3: found '=5'; allowed: [group], key=value, or # comment" },
    { "open-group", "[machine\n" NODE,
      "m.conf:1: found '[machine'; a group is written [machine] or [node "
      "NAME]" },
    { "group-comment", "[machine] # mine\n" NODE,
      "m.conf:1: found '[machine] # mine'; a group is written [machine] or "
      "[node NAME]" },
    { "unknown-group", NODE "[nod b]\nisa=x86_64\n",
      "m.conf:3: unknown group [nod b]; allowed: [machine] and [node NAME]" },
    { "nameless-node", "[node]\nisa=x86_64\n",
      "m.conf:1: found [node] without a name; allowed: [node NAME]\n"
      "m.conf: found no [node NAME] group; a machine has 1 to 64 nodes" },
    { "twice-group", NODE "[machine]\n" NODE,
      "m.conf:4: found a second group [node a], the first is in line 1; every "
      "group stands once" },
    { "twice-node", NODE "[node  a]\nisa=x86_64\n",
      "m.conf:3: found a second node 'a'; every node has a name of its own" },
    { "twice-key", NODE "cpus=1\ncpus=2\n",
      "m.conf:4:cpus: found a second time, the first is in line 3; every key "
      "stands once in its group" },
    { "no-utf8", NODE "# \xff\n",
      "m.conf:3: found a byte that is not UTF-8 text (0xff)" },
    /* keys */
    { "unknown-key-near", NODE "memroy=1G\n",
      "m.conf:3:memroy: unknown key; did you mean 'memory'?" },
    { "unknown-key-far", NODE "colour=red\n",
      "m.conf:3:colour: unknown key; allowed in [node a]: isa, cpus, memory, "
      "accel, cpu-model, cpu-affinity, locks, tlb-shootdown, kernel, initrd, "
      "append, network, forward, address, host" },
    { "key-of-other-group", "[machine]\ncpus=1\n" NODE,
      "m.conf:2:cpus: unknown key; allowed in [machine]: name, coherence, "
      "share, share-readonly, boot-timeout, overcommit, prefetch, "
      "heartbeat-ms, peer-timeout-ms, key, start-command" },
    { "no-isa", "[node a]\ncpus=1\n",
      "m.conf:1:isa: missing in [node a]; allowed: x86_64 or aarch64" },
    /* values of nodes */
    { "isa", "[node a]\nisa=riscv64\n",
      "m.conf:2:isa: found 'riscv64'; allowed: x86_64 or aarch64" },
    { "isa-case", "[node a]\nisa=X86_64\n",
      "m.conf:2:isa: found 'X86_64'; allowed: x86_64 or aarch64" },
    { "cpus-zero", NODE "cpus=0\n",
      "m.conf:3:cpus: found '0'; allowed: a whole number from 1 to 8" },
    { "cpus-many", NODE "cpus=9\n",
      "m.conf:3:cpus: found '9'; allowed: a whole number from 1 to 8" },
    { "cpus-text", NODE "cpus=two\n",
      "m.conf:3:cpus: found 'two'; allowed: a whole number from 1 to 8" },
    { "cpus-negative", NODE "cpus=-1\n",
      "m.conf:3:cpus: found '-1'; allowed: a whole number from 1 to 8" },
    { "cpus-huge", NODE "cpus=99999999999999999999\n",
      "m.conf:3:cpus: found '99999999999999999999'; allowed: a whole number "
      "from 1 to 8" },
    { "cpus-comment", NODE "cpus=2 # two\n",
      "m.conf:3:cpus: found '2 # two'; allowed: a whole number from 1 to 8 (a "
      "comment needs its own line)" },
    { "cpus-empty", NODE "cpus=\n",
      "m.conf:3:cpus: found ''; allowed: a whole number from 1 to 8" },
    { "memory-unit", NODE "memory=1X\n",
      "m.conf:3:memory: found '1X'; allowed: 64M to 1T in whole MiB, such as "
      "512M or 2G" },
    { "memory-small", NODE "memory=63M\n",
      "m.conf:3:memory: found '63M'; allowed: 64M to 1T in whole MiB, such as "
      "512M or 2G" },
    { "memory-big", NODE "memory=2T\n",
      "m.conf:3:memory: found '2T'; allowed: 64M to 1T in whole MiB, such as "
      "512M or 2G" },
    { "memory-odd", NODE "memory=65537K\n",
      "m.conf:3:memory: found '65537K'; allowed: 64M to 1T in whole MiB, such "
      "as 512M or 2G" },
    { "memory-overflow", NODE "memory=18446744073709551615T\n",
      "m.conf:3:memory: found '18446744073709551615T'; allowed: 64M to 1T in "
      "whole MiB, such as 512M or 2G" },
    { "accel", NODE "accel=hvf\n",
      "m.conf:3:accel: found 'hvf'; allowed: auto, tcg or kvm" },
    { "cpu-model", NODE "cpu-model=max;rm\n",
      "m.conf:3:cpu-model: found 'max;rm'; allowed: a CPU model of QEMU with "
      "its features, such as max or qemu64,+ssse3" },
    { "affinity-order", NODE "cpu-affinity=3-1\n",
      "m.conf:3:cpu-affinity: found '3-1'; allowed: host CPUs such as 0-3 or "
      "0,2, none twice" },
    { "affinity-twice", NODE "cpu-affinity=0-2,1\n",
      "m.conf:3:cpu-affinity: found '0-2,1'; allowed: host CPUs such as 0-3 "
      "or 0,2, none twice" },
    { "affinity-text", NODE "cpu-affinity=all\n",
      "m.conf:3:cpu-affinity: found 'all'; allowed: host CPUs such as 0-3 or "
      "0,2, none twice" },
    { "locks", NODE "locks=mcs\n",
      "m.conf:3:locks: found 'mcs'; allowed: qspinlock, ticket or "
      "preemptable" },
    { "locks-kernel", NODE "kernel=k\nlocks=ticket\n",
      "m.conf:4:locks: found together with kernel, which has the locks that "
      "it was built with; one of them must go" },
    { "tlb-shootdown", NODE "tlb-shootdown=none\n",
      "m.conf:3:tlb-shootdown: found 'none'; allowed: ipi or paravirt" },
    { "tlb-shootdown-arm", "[node a]\nisa=aarch64\ntlb-shootdown=paravirt\n",
      "m.conf:3:tlb-shootdown: found paravirt; allowed: ipi, for aarch64 "
      "processors flush each other's TLBs by themselves" },
    { "kernel-empty", NODE "kernel=\n",
      "m.conf:3:kernel: found ''; allowed: a path" },
    { "append-control", NODE "append=a\\nb\n",
      "m.conf:3:append: found 'ab'; allowed: printable ASCII on one line" },
    { "network", NODE "network=bridge\n",
      "m.conf:3:network: found 'bridge'; allowed: none or user" },
    { "address-form", NODE "address=unix:/x\n",
      "m.conf:3:address: found 'unix:/x'; " ADDRESS },
    { "address-name", NODE "address=tcp:localhost:7001\n",
      "m.conf:3:address: found 'tcp:localhost:7001'; " ADDRESS },
    { "address-any", NODE "address=tcp:0.0.0.0:7001\n",
      "m.conf:3:address: found 'tcp:0.0.0.0:7001'; " ADDRESS },
    { "address-port", NODE "address=tcp:[::1]:70000\n",
      "m.conf:3:address: found 'tcp:[::1]:70000'; " ADDRESS },
    { "address-far", DSM NODE "address=tcp:10.0.0.1:7001\n",
      "m.conf:5:address: found tcp:10.0.0.1:7001, which is not on the host's "
      "loopback; links that others can reach need key in [machine]" },
    { "address-far-6", DSM NODE "address=tcp:[2001:db8::1]:7001\n",
      "m.conf:5:address: found tcp:[2001:db8::1]:7001, which is not on the "
      "host's loopback; links that others can reach need key in [machine]" },
    { "key-shared", "[machine]\nkey=k\n" NODE,
      "m.conf:2:key: found with coherence=shared, whose links do not leave "
      "the host; it needs coherence=dsm" },
    { "host-form", DSM "start-command=ssh {host} {command}\n" NODE
      "address=tcp:127.0.0.1:1\nhost=a b\n",
      "m.conf:7:host: found 'a b'; " HOST "\n"
      "m.conf:3:start-command: found, but no node has a host" },
    { "host-option", DSM "start-command=ssh {host} {command}\n" NODE
      "address=tcp:127.0.0.1:1\nhost=-oProxyCommand\n",
      "m.conf:7:host: found '-oProxyCommand'; " HOST "\n"
      "m.conf:3:start-command: found, but no node has a host" },
    { "host-shell", DSM "start-command=ssh {host} {command}\n" NODE
      "address=tcp:127.0.0.1:1\nhost=$(id)\n",
      "m.conf:7:host: found '$(id)'; " HOST "\n"
      "m.conf:3:start-command: found, but no node has a host" },
    { "host-no-command", DSM NODE "address=tcp:127.0.0.1:1\nhost=b\n",
      "m.conf:6:host: found without start-command in [machine], which says "
      "how a program is started there" },
    { "host-shared", "[machine]\nstart-command=ssh {host} {command}\n" NODE
      "address=tcp:127.0.0.1:1\nhost=b\n",
      "m.conf:6:host: found with coherence=shared, whose nodes share one "
      "host's memory; it needs coherence=dsm\n"
      "m.conf:5:address: found with coherence=shared, whose nodes pass each "
      "other memory through unix sockets; it needs coherence=dsm" },
    { "host-no-address", DSM "start-command=ssh {host} {command}\n" NODE
      "host=b\n",
      "m.conf:6:address: missing in [node a]; nodes of a machine with hosts "
      "find each other by tcp" },
    { "host-loopback", DSM "start-command=ssh {host} {command}\nkey=k\n" NODE
      "address=tcp:127.0.0.1:1\nhost=a\n[node b]\nisa=aarch64\n"
      "address=tcp:192.0.2.1:1\n",
      "m.conf:7:address: found tcp:127.0.0.1:1, which means another host's "
      "own loopback to node b" },
    { "host-loopback-here", DSM "start-command=ssh {host} {command}\nkey=k\n"
      NODE "address=tcp:192.0.2.1:1\nhost=a\n[node b]\nisa=aarch64\n"
      "address=tcp:127.0.0.1:1\n",
      "m.conf:11:address: found tcp:127.0.0.1:1, which means another host's "
      "own loopback to node a" },
    { "command-unused", DSM "start-command=ssh {host} {command}\n" NODE,
      "m.conf:3:start-command: found, but no node has a host" },
    { "command-host", DSM "start-command=ssh b {command}\n" NODE,
      "m.conf:3:start-command: found 'ssh b {command}'; " COMMAND },
    { "command-command", DSM "start-command=ssh {host} chimera\n" NODE,
      "m.conf:3:start-command: found 'ssh {host} chimera'; " COMMAND },
    { "command-program", DSM "start-command={command} {host}\n" NODE,
      "m.conf:3:start-command: found '{command} {host}'; " COMMAND },
    { "command-quotes", DSM "start-command=ssh '{host} {command}\n" NODE,
      "m.conf:3:start-command: found 'ssh '{host} {command}'; " COMMAND },
    { "command-empty", DSM "start-command=\n" NODE,
      "m.conf:3:start-command: found ''; " COMMAND },
    { "address-shared", NODE "address=tcp:127.0.0.1:7001\n",
      "m.conf:3:address: found with coherence=shared, whose nodes pass each "
      "other memory through unix sockets; it needs coherence=dsm" },
    { "forward-alone", NODE "forward=2222:22\n",
      "m.conf:3:forward: found without a network; it needs network=user in "
      "[node a]" },
    { "forward-form", NODE "network=user\nforward=2222\n",
      "m.conf:4:forward: found '2222'; allowed: 1 to 16 pairs "
      "HOSTPORT:GUESTPORT, such as 2222:22,8080:80" },
    { "forward-port", NODE "network=user\nforward=0:22\n",
      "m.conf:4:forward: found '0:22'; allowed: 1 to 16 pairs "
      "HOSTPORT:GUESTPORT, such as 2222:22,8080:80" },
    { "forward-twice", NODE "network=user\nforward=2222:22,2222:23\n",
      "m.conf:4:forward: found host port 2222 a second time; every host port "
      "is forwarded once" },
    { "node-name", "[node a b]\nisa=x86_64\n",
      "m.conf:1: found node name 'a b'; allowed: 1 to 31 letters, digits, '_' "
      "and '-'" },
    { "node-name-long", "[node abcdefghijklmnopqrstuvwxyz123456]\nisa=x86_64\n",
      "m.conf:1: found node name 'abcdefghijklmnopqrstuvwxyz123456'; allowed: "
      "1 to 31 letters, digits, '_' and '-'" },
    { "node-name-digits", "[node 7]\nisa=x86_64\n",
      "m.conf:1: found node name '7'; a name of digits only would be taken "
      "for a node's index" },
    /* values of the machine */
    { "name", "[machine]\nname=a/b\n" NODE,
      "m.conf:2:name: found 'a/b'; allowed: 1 to 31 letters, digits, '_' and "
      "'-'" },
    { "name-escape", "[machine]\nname=..\n" NODE,
      "m.conf:2:name: found '..'; allowed: 1 to 31 letters, digits, '_' and "
      "'-'" },
    { "coherence", "[machine]\ncoherence=msi\n" NODE,
      "m.conf:2:coherence: found 'msi'; allowed: shared or dsm" },
    { "share-readonly", "[machine]\nshare-readonly=yes\n" NODE,
      "m.conf:2:share-readonly: found 'yes'; allowed: false or true" },
    { "boot-timeout", "[machine]\nboot-timeout=0\n" NODE,
      "m.conf:2:boot-timeout: found '0'; allowed: a whole number of seconds "
      "from 1 to 3600" },
    { "timeouts", "[machine]\nheartbeat-ms=500\npeer-timeout-ms=500\n" NODE,
      "m.conf:3:peer-timeout-ms: peer-timeout-ms is 500, heartbeat-ms 500; "
      "the former must be at least twice as much" },
    { "timeouts-half", "[machine]\nheartbeat-ms=500\npeer-timeout-ms=999\n" NODE,
      "m.conf:3:peer-timeout-ms: peer-timeout-ms is 999, heartbeat-ms 500; "
      "the former must be at least twice as much" },
    /* the other one has its default */
    { "timeouts-heartbeat", "[machine]\nheartbeat-ms=15001\n" NODE,
      "m.conf:2:heartbeat-ms: peer-timeout-ms is 30000, heartbeat-ms 15001; "
      "the former must be at least twice as much" },
    { "timeouts-silence", "[machine]\npeer-timeout-ms=3999\n" NODE,
      "m.conf:2:peer-timeout-ms: peer-timeout-ms is 3999, heartbeat-ms 2000; "
      "the former must be at least twice as much" },
    { "timeouts-most", "[machine]\nheartbeat-ms=300001\n" NODE,
      "m.conf:2:heartbeat-ms: found '300001'; allowed: a whole number of "
      "milliseconds from 10 to 300000" },
    { "bad-escape", NODE "append=\\q\n",
      "m.conf:3:append: found '\\q'; allowed after a backslash: s, n, t, r or "
      "another backslash" },
    /* several at once */
    { "all-of-them", "[machine]\nnmae=x\n[node a]\ncpus=0\n",
      "m.conf:2:nmae: unknown key; did you mean 'name'?\n"
      "m.conf:3:isa: missing in [node a]; allowed: x86_64 or aarch64\n"
      "m.conf:4:cpus: found '0'; allowed: a whole number from 1 to 8" },
};

static void test_bad(gconstpointer data)
{
    unsigned i = GPOINTER_TO_UINT(data);
    g_autoptr(GError) error = NULL;
    struct machine_config *c =
        config_parse("m.conf", bad[i].text, strlen(bad[i].text), &error);

    g_assert_null(c);
    g_assert_error(error, CHIMERA_ERROR, CHIMERA_ERROR_CONFIG);
    g_assert_cmpstr(error->message, ==, bad[i].error);
}

static struct machine_config *parse(const char *path, const char *text)
{
    g_autoptr(GError) error = NULL;
    struct machine_config *c = config_parse(path, text, strlen(text), &error);

    g_assert_no_error(error);
    return c;
}

static void test_full(void)
{
    g_autoptr(MachineConfig) c =
        parse("/etc/m/x.conf", "# a comment\n"
                               "[machine]\n"
                               "name = big-one\n"
                               "coherence=dsm\n"
                               "share=../data\n"
                               "share-readonly=true\n"
                               "boot-timeout=120\n"
                               "overcommit=true\n"
                               "heartbeat-ms=100\n"
                               "peer-timeout-ms=1000\n"
                               "\n"
                               "[node x86]\r\n"
                               "isa=x86_64\r\n"
                               "cpus=8\r\n"
                               "memory=4G\n"
                               "accel=kvm\n"
                               "cpu-model=qemu64,+ssse3\n"
                               "cpu-affinity=4,0-2\n"
                               "tlb-shootdown=paravirt\n"
                               "kernel=k/vmlinuz\n"
                               "initrd=/abs/initrd\n"
                               "append=debug loglevel=7\n"
                               "network=user\n"
                               "forward=2222:22, 8080 : 80\n"
                               "[node arm]\n"
                               "isa=aarch64\n");
    const struct node_config *x86 = config_node(c, 0), *arm = config_node(c, 1);
    g_autofree char *cpus = format_cpu_list(x86->cpu_affinity);
    g_autofree char *where = config_where(c, x86, "memory");
    g_autofree char *nowhere = config_where(c, arm, "memory");

    g_assert_cmpstr(c->name, ==, "big-one");
    g_assert_cmpint(c->coherence, ==, COHERENCE_DSM);
    g_assert_cmpstr(c->share, ==, "/etc/data");
    g_assert_true(c->share_readonly);
    g_assert_true(c->overcommit);
    g_assert_cmpuint(c->boot_timeout_s, ==, 120);
    g_assert_cmpuint(c->heartbeat_ms, ==, 100);
    g_assert_cmpuint(c->peer_timeout_ms, ==, 1000);
    g_assert_cmpuint(c->nodes->len, ==, 2);
    g_assert_cmpstr(x86->name, ==, "x86");
    g_assert_cmpint(x86->isa, ==, ISA_X86_64);
    g_assert_cmpuint(x86->cpus, ==, 8);
    g_assert_cmpuint(x86->memory_bytes, ==, 4ull << 30);
    g_assert_cmpint(x86->accel, ==, ACCEL_KVM);
    g_assert_cmpstr(x86->cpu_model, ==, "qemu64,+ssse3");
    g_assert_cmpstr(cpus, ==, "0-2,4");
    g_assert_cmpint(x86->tlb_shootdown, ==, TLB_SHOOTDOWN_PARAVIRT);
    g_assert_cmpstr(x86->kernel, ==, "/etc/m/k/vmlinuz");
    g_assert_cmpstr(x86->initrd, ==, "/abs/initrd");
    g_assert_cmpstr(x86->append, ==, "debug loglevel=7");
    g_assert_cmpuint(x86->forwards->len, ==, 2);
    g_assert_cmpuint(g_array_index(x86->forwards, struct forward, 1).host_port,
                     ==, 8080);
    g_assert_cmpuint(g_array_index(x86->forwards, struct forward, 1).guest_port,
                     ==, 80);
    g_assert_cmpstr(where, ==, "/etc/m/x.conf:15:memory");
    g_assert_cmpstr(nowhere, ==, "/etc/m/x.conf:[node arm]:memory");
}

static void test_defaults(void)
{
    g_autoptr(MachineConfig) c = parse("/etc/m/two.conf", NODE);
    const struct node_config *n = config_node(c, 0);
    g_autofree char *cwd = g_get_current_dir();

    g_assert_cmpstr(c->name, ==, "two");
    g_assert_cmpint(c->coherence, ==, COHERENCE_SHARED);
    g_assert_cmpstr(c->share, ==, cwd);
    g_assert_false(c->share_readonly);
    g_assert_false(c->overcommit);
    g_assert_cmpuint(c->boot_timeout_s, ==, 60);
    g_assert_cmpuint(n->cpus, ==, 1);
    g_assert_cmpuint(n->memory_bytes, ==, 512ull << 20);
    g_assert_cmpint(n->accel, ==, ACCEL_AUTO);
    g_assert_null(n->cpu_model);
    g_assert_null(n->cpu_affinity);
    g_assert_cmpint(n->locks, ==, LOCKS_QSPINLOCK);
    g_assert_cmpint(n->tlb_shootdown, ==, TLB_SHOOTDOWN_IPI);
    g_assert_cmpint(n->network, ==, NETWORK_NONE);
    g_assert_cmpstr(n->append, ==, "");
    g_assert_true(g_str_has_suffix(n->kernel, "/images/x86_64/kernel"));
    g_assert_true(
        g_str_has_suffix(n->initrd, "/images/x86_64/initramfs.cpio.gz"));
}

static void test_locks(void)
{
    static const char text[] = "[node t]\nisa=x86_64\nlocks=ticket\n"
                               "[node p]\nisa=aarch64\nlocks=preemptable\n"
                               "[node q]\nisa=x86_64\nlocks=qspinlock\n";
    g_autoptr(MachineConfig) c = parse("m.conf", text);
    const struct node_config *t = config_node(c, 0), *p = config_node(c, 1),
                             *q = config_node(c, 2);

    g_assert_cmpint(t->locks, ==, LOCKS_TICKET);
    g_assert_true(g_str_has_suffix(t->kernel, "/images/x86_64/kernel-ticket"));
    g_assert_cmpint(p->locks, ==, LOCKS_PREEMPTABLE);
    g_assert_true(
        g_str_has_suffix(p->kernel, "/images/aarch64/kernel-preemptable"));
    g_assert_cmpint(q->locks, ==, LOCKS_QSPINLOCK);
    g_assert_true(g_str_has_suffix(q->kernel, "/images/x86_64/kernel"));
}

static void test_hosts(void)
{
    static const char text[] =
        DSM "key=sub/m.key\n"
        "start-command=sh -c 'ssh \"{host}\" nice {command}' - {host}:{host} "
        "{command}\n"
        "[node a]\nisa=x86_64\naddress=tcp:192.0.2.1:7001\n"
        "[node b]\nisa=aarch64\naddress=tcp:[2001:db8::2]:7001\n"
        "host=me@b.example\n";
    static const char *const command[] = { "/usr/bin/x", "far", NULL };
    static const char *const want[] = {
        "sh", "-c", "ssh \"me@b.example\" nice /usr/bin/x far", "-",
        "me@b.example:me@b.example", "/usr/bin/x", "far", NULL,
    };
    g_autoptr(MachineConfig) c = parse("/etc/m.conf", text);
    g_auto(GStrv) argv =
        config_start_argv(c, config_node(c, 1)->host, command);

    g_assert_cmpstr(c->key, ==, "/etc/sub/m.key");
    g_assert_cmpstr(c->text, ==, text);
    g_assert_null(config_node(c, 0)->host);
    g_assert_cmpstr(config_node(c, 1)->host, ==, "me@b.example");
    g_assert_true(g_strv_equal((const char *const *)argv, want));

    g_assert_true(config_is_plain("/opt/x-1.2_3/bin/chimera"));
    for (const char *s = " '\"\\$`;&|<>(){}[]*?!~#\n\t^"; *s; s++) {
        const char word[] = { 'a', *s, 0 };

        g_assert_false(config_is_plain(word));
    }
    g_assert_false(config_is_plain(""));
}

static void test_name_from_file(void)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(config_parse("/a/my machine.conf", NODE, strlen(NODE), &error));
    g_assert_cmpstr(error->message, ==,
                    "/a/my machine.conf:name: missing, and the file's name "
                    "'my machine' is none; allowed: 1 to 31 letters, digits, "
                    "'_' and '-'");
}

static void test_many_nodes(void)
{
    g_autoptr(GString) s = g_string_new(NULL);
    g_autoptr(GError) error = NULL;

    for (int i = 0; i < CONFIG_MAX_NODES; i++) {
        g_string_append_printf(s, "[node n%d]\nisa=aarch64\n", i);
    }
    config_free(parse("m.conf", s->str));
    g_string_append(s, "[node last]\nisa=aarch64\n");
    g_assert_null(config_parse("m.conf", s->str, s->len, &error));
    g_assert_cmpstr(error->message, ==,
                    "m.conf: found 65 nodes; a machine has 1 to 64 nodes");
}

static void test_nul(void)
{
    static const char text[] = NODE "append=a\0b\n";
    g_autoptr(GError) error = NULL;

    g_assert_null(config_parse("m.conf", text, sizeof(text) - 1, &error));
    g_assert_cmpstr(error->message, ==,
                    "m.conf:3: found a byte that is not UTF-8 text (0x00)");
}

/* Every key has a row in SCHEMA.md and every row a key. */
static void test_schema(gconstpointer path)
{
    g_autofree char *text = NULL;
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) lines = NULL;
    unsigned rows = 0, keys = 0;

    g_file_get_contents(path, &text, NULL, &error);
    g_assert_no_error(error);
    for (int group = 0; group < 2; group++) {
        const char *const *names =
            group ? config_node_keys() : config_machine_keys();

        for (; *names; names++, keys++) {
            g_autofree char *row = g_strdup_printf("\n| `%s` |", *names);

            if (!strstr(text, row)) {
                g_test_message("no row for key '%s'", *names);
                g_test_fail();
            }
        }
    }
    lines = g_strsplit(text, "\n", -1);
    for (char **l = lines; *l; l++) {
        rows += g_str_has_prefix(*l, "| `");
    }
    g_assert_cmpuint(rows, ==, keys);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *path = g_strconcat("/config/bad/", bad[i].name, NULL);

        g_test_add_data_func(path, GUINT_TO_POINTER(i), test_bad);
    }
    g_test_add_func("/config/full", test_full);
    g_test_add_func("/config/defaults", test_defaults);
    g_test_add_func("/config/locks", test_locks);
    g_test_add_func("/config/hosts", test_hosts);
    g_test_add_func("/config/name-from-file", test_name_from_file);
    g_test_add_func("/config/many-nodes", test_many_nodes);
    g_test_add_func("/config/nul", test_nul);
    if (argc > 1) {
        g_test_add_data_func("/config/schema", argv[1], test_schema);
    }
    return g_test_run();
}
