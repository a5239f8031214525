/*
 * virtio-fabric and memory-backend-dsm: machines of several QEMU processes
 *
 * Every test starts the nodes that it needs, drives their devices through
 * qtest and waits for what must happen, never for time.
 *
 * FABRIC_FUZZ_SEED=N and FABRIC_FUZZ_ROUNDS=N repeat or lengthen the fuzz
 * test; both are printed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include "block/qdict.h"
#include "libqtest.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "qobject/qlist.h"
#include "qemu/bswap.h"
#include "qemu/units.h"
#include "qemu/uuid.h"
#include "libqos/generic-pcihost.h"
#include "libqos/libqos-malloc.h"
#include "libqos/pci-pc.h"
#include "libqos/virtio-fabric.h"
#include "standard-headers/linux/virtio_config.h"
#include "standard-headers/linux/virtio_ring.h"

/* How long anything may take; then the test names what did not happen. */
#define TIMEOUT_US (30 * G_USEC_PER_SEC)

#define MACHINE_UUID "9f2a6bd4-3e0c-4f43-8c9b-3d2f70a1c0de"
#define RAM_BYTES (32 * MiB)
#define DEVFN QPCI_DEVFN(4, 0)
#define MAX_NODES 3
/* libdsm's window of messages in flight, per class. */
#define CREDITS 64

#define BASE_FEATURES (1ull << VIRTIO_F_VERSION_1)
#define ALL_FEATURES (BASE_FEATURES | 1ull << VIRTIO_RING_F_EVENT_IDX | \
                      1ull << VIRTIO_RING_F_INDIRECT_DESC)

typedef struct Isa {
    const char *name;
    const char *binary_var; /* for qtest_init_with_env() */
    const char *machine;
    uint16_t elf_machine;
    uint64_t ram_base;
    const char *args;
} Isa;

static const Isa isas[] = {
    { "x86_64", "QTEST_QEMU_BINARY_X86_64", "q35", 62, 0,
      "-global apic-common.vapic=off" },
    { "aarch64", "QTEST_QEMU_BINARY_AARCH64", "virt", 183, 1 * GiB,
      "-cpu max" },
};
static const Isa *native; /* of QTEST_QEMU_BINARY */

typedef struct Node {
    const Isa *isa;
    QTestState *qts;
    QPCIBus *bus;
    QGenericPCIBus generic_bus;
    QGuestAllocator alloc;
    QFabric *f;
} Node;

static char *run_dir;
static char *log_path; /* what a device that is abused had to say */
static char *bios_path; /* q35 does not start without firmware */
static unsigned machine_nr; /* of the machine under test, for its sockets */
static Node nodes[MAX_NODES];
static unsigned nr_nodes;
static const char *coherence = "shared";

#define WAIT_FOR(cond, what) \
    do { \
        gint64 wait_end = g_get_monotonic_time() + TIMEOUT_US; \
        while (!(cond)) { \
            if (g_get_monotonic_time() > wait_end) { \
                g_error("%s:%d: timed out waiting for %s", __func__, \
                        __LINE__, what); \
            } \
        } \
    } while (0)

/* Machines */

static const Isa *other_isa(const Isa *isa)
{
    return isa == &isas[0] ? &isas[1] : &isas[0];
}

static char *link_path(unsigned node)
{
    return g_strdup_printf("%s/m%u-%u.sock", run_dir, machine_nr, node);
}

static char *nodes_json(const Isa *const *isa, unsigned nr, uint64_t ram_bytes)
{
    GString *s = g_string_new("[");
    unsigned i;

    for (i = 0; i < nr; i++) {
        g_autofree char *path = link_path(i);

        g_string_append_printf(s, "%s{\"name\":\"n%u\",\"isa\":\"%s\","
                               "\"cpus\":1,\"size\":%" PRIu64 ","
                               "\"address\":\"unix:%s\"}", i ? "," : "", i,
                               isa[i]->name, ram_bytes, path);
    }
    g_string_append_c(s, ']');
    return g_string_free(s, false);
}

/* @device: more of its properties, beginning with a comma, or "". */
static char *node_args(const Isa *const *isa, unsigned nr, unsigned self,
                       uint64_t ram_bytes, const char *device)
{
    g_autofree char *list = nodes_json(isa, nr, ram_bytes);

    return g_strdup_printf(
        "-nodefaults %s -M %s,memory-backend=ram -m %" PRIu64 "k -bios %s "
        "-object '{\"qom-type\":\"memory-backend-dsm\",\"id\":\"ram\","
        "\"size\":%" PRIu64 ",\"machine-uuid\":\"" MACHINE_UUID "\","
        "\"coherence\":\"%s\",\"self\":%u,\"nodes\":%s}' "
        "-device virtio-fabric-pci,dsm=ram,addr=04.0%s",
        isa[self]->args, isa[self]->machine, ram_bytes / KiB, bios_path,
        ram_bytes, coherence, self, list, device);
}

static Node *node_start_full(const Isa *const *isa, unsigned nr, unsigned self,
                             uint64_t ram_bytes, const char *device)
{
    Node *n = &nodes[self];
    g_autofree char *args = node_args(isa, nr, self, ram_bytes, device);

    memset(n, 0, sizeof(*n));
    n->isa = isa[self];
    n->qts = qtest_init_with_env(n->isa == native ? NULL : n->isa->binary_var,
                                 args, true);
    alloc_init(&n->alloc, 0, n->isa->ram_base + 1 * MiB,
               n->isa->ram_base + RAM_BYTES, 4096);
    if (n->isa == &isas[0]) {
        n->bus = qpci_new_pc(n->qts, &n->alloc);
    } else {
        qpci_init_generic(&n->generic_bus, n->qts, &n->alloc, false);
        n->bus = &n->generic_bus.bus;
    }
    n->f = qfabric_new(n->qts, n->bus, &n->alloc, DEVFN);
    nr_nodes = MAX(nr_nodes, self + 1);
    return n;
}

static Node *node_start(const Isa *const *isa, unsigned nr, unsigned self)
{
    return node_start_full(isa, nr, self, RAM_BYTES, "");
}

static void node_forget(Node *n)
{
    alloc_destroy(&n->alloc);
    if (n->isa == &isas[0]) {
        qpci_free_pc(n->bus);
    }
    memset(n, 0, sizeof(*n));
}

static void node_quit(Node *n)
{
    qfabric_free(n->f);
    qtest_quit(n->qts);
    node_forget(n);
}

/*
 * Ends a process without letting it say goodbye. libqtest has no way to part
 * with a process that did not exit by itself, so its state is left behind.
 */
static void node_kill(Node *n)
{
    kill(qtest_pid(n->qts), SIGKILL);
    WAIT_FOR(!qtest_probe_child(n->qts), "the end of a killed process");
    node_forget(n);
}

static void machine_end(void)
{
    unsigned i;

    for (i = 0; i < nr_nodes; i++) {
        if (nodes[i].qts) {
            node_quit(&nodes[i]);
        }
    }
    nr_nodes = 0;
    machine_nr++;
}

static void node_driver(Node *n, uint64_t features)
{
    qfabric_start(n->f, features);
    qfabric_post_rx(n->f, QFABRIC_RX_SLOTS);
    qfabric_post_events(n->f, QFABRIC_EVENT_SLOTS);
}

/* Waits */

static void wait_event(Node *n, uint16_t type, uint16_t node, uint64_t data)
{
    struct virtio_fabric_event ev;
    g_autofree char *what = g_strdup_printf(
        "event type %u node %u data %" PRIu64, type, node, data);

    WAIT_FOR(qfabric_poll_event(n->f, &ev, true), what);
    g_assert_cmpuint(ev.type, ==, type);
    g_assert_cmpuint(ev.node, ==, node);
    g_assert_cmphex(ev.data, ==, data);
}

static void wait_state(Node *n, uint16_t node, uint16_t state)
{
    wait_event(n, VIRTIO_FABRIC_EVENT_STATE, node, state);
    g_assert_cmpuint(qfabric_node_state(n->f, node), >=, state);
}

static uint32_t wait_tx(Node *n)
{
    unsigned slot;
    uint32_t status;

    WAIT_FOR(qfabric_poll_tx(n->f, &slot, &status), "a tx buffer");
    return status;
}

static void wait_message(Node *n, QFabricMessage *msg)
{
    WAIT_FOR(qfabric_poll_rx(n->f, msg, true), "a message");
}

/* Two nodes that see each other, drivers running. */
static void machine_pair_full(const Isa *a, const Isa *b, uint64_t features,
                              const char *device)
{
    const Isa *isa[] = { a, b };

    node_start_full(isa, 2, 0, RAM_BYTES, device);
    node_start(isa, 2, 1);
    node_driver(&nodes[0], features);
    node_driver(&nodes[1], features);
    wait_state(&nodes[0], 1, VIRTIO_FABRIC_UP);
    wait_state(&nodes[1], 0, VIRTIO_FABRIC_UP);
}

static void fill(uint8_t *data, uint32_t len, uint32_t seed)
{
    uint32_t i;

    for (i = 0; i < len; i++) {
        data[i] = seed * 31 + i * 7 + (i >> 8);
    }
}

static void machine_pair(const Isa *a, const Isa *b, uint64_t features)
{
    machine_pair_full(a, b, features, "");
}

/*
 * The same, for a test that makes node 0's device complain all the time. What
 * it says goes to a file that is there afterwards if the test failed.
 */
static void machine_pair_quiet(uint64_t features)
{
    g_autofree char *redirect = g_strdup_printf(" 2>%s", log_path);

    machine_pair_full(native, native, features,
                      g_test_verbose() ? "" : redirect);
}

/* One message from @a to @b, checked. */
static void check_message(Node *a, Node *b, uint8_t cls, uint32_t len,
                          uint32_t seed)
{
    uint8_t data[VIRTIO_FABRIC_MAX_PAYLOAD];
    QFabricMessage msg;

    fill(data, len, seed);
    qfabric_send(a->f, b - nodes, cls, data, len);
    g_assert_cmpuint(wait_tx(a), ==, VIRTIO_FABRIC_TX_OK);
    wait_message(b, &msg);
    g_assert_cmpuint(msg.node, ==, a - nodes);
    g_assert_cmpuint(msg.cls, ==, cls);
    g_assert_cmpmem(msg.data, msg.len, data, len);
}

/* QMP */

static QDict *query_dsm(Node *n)
{
    QDict *rsp = qtest_qmp(n->qts, "{ 'execute': 'query-dsm' }");
    QDict *ret = qdict_get_qdict(rsp, "return");

    g_assert_nonnull(ret);
    qobject_ref(ret);
    qobject_unref(rsp);
    return ret;
}

static void assert_node_state(Node *n, unsigned node, const char *state)
{
    g_autoptr(QDict) info = query_dsm(n);
    QList *list = qdict_get_qlist(info, "nodes");
    const QListEntry *e;
    unsigned i = 0;

    QLIST_FOREACH_ENTRY(list, e) {
        if (i++ == node) {
            QDict *d = qobject_to(QDict, qlist_entry_obj(e));

            g_assert_cmpstr(qdict_get_str(d, "state"), ==, state);
            if (!strcmp(state, "down") || !strcmp(state, "fenced")) {
                g_assert_cmpstr(qdict_get_str(d, "reason"), !=, "");
            }
            return;
        }
    }
    g_assert_not_reached();
}

static void wait_qmp_state(Node *n, unsigned node, const char *state)
{
    g_autoptr(QDict) ev = qtest_qmp_eventwait_ref(n->qts, "DSM_NODE_STATE");
    QDict *data = qdict_get_qdict(ev, "data");

    g_assert_cmpuint(qdict_get_int(data, "node"), ==, node);
    g_assert_cmpstr(qdict_get_str(data, "state"), ==, state);
}

/* Tests of one node */

static void test_config(void)
{
    const Isa *isa[] = { native, native };
    static const uint8_t uuid[] = {
        0x9f, 0x2a, 0x6b, 0xd4, 0x3e, 0x0c, 0x4f, 0x43,
        0x8c, 0x9b, 0x3d, 0x2f, 0x70, 0xa1, 0xc0, 0xde,
    };
    Node *n = node_start(isa, 2, 1);
    QFabric *f = n->f;
    unsigned i;

    g_assert_cmpuint(qfabric_config16(f, version), ==, VIRTIO_FABRIC_VERSION);
    g_assert_cmpuint(qfabric_config16(f, self), ==, 1);
    g_assert_cmpuint(qfabric_config16(f, nr_nodes), ==, 2);
    g_assert_cmpuint(qfabric_config32(f, coherence), ==, 0);
    g_assert_cmpuint(qfabric_config32(f, reserved), ==, 0);
    for (i = 0; i < sizeof(uuid); i++) {
        g_assert_cmphex(f->d->bus->config_readb(f->d, i +
                            offsetof(struct virtio_fabric_config,
                                     machine_uuid)), ==, uuid[i]);
    }
    g_assert_cmpuint(qfabric_config16(f, nr_extents), ==, 1);
    g_assert_cmphex(qfabric_config64(f, extent[0].gpa), ==,
                    n->isa->ram_base);
    g_assert_cmphex(qfabric_config64(f, extent[0].offset), ==, 0);
    g_assert_cmphex(qfabric_config64(f, extent[0].len), ==, RAM_BYTES);
    for (i = 0; i < 2; i++) {
        g_assert_cmpuint(qfabric_config16(f, node[i].elf_machine), ==,
                         n->isa->elf_machine);
        g_assert_cmpuint(qfabric_config32(f, node[i].cpus), ==, 1);
        g_assert_cmphex(qfabric_config64(f, node[i].ram_bytes), ==,
                        RAM_BYTES);
        g_assert_cmphex(qfabric_config64(f, node[i].window_offset) %
                        (2 * MiB), ==, 0);
        g_assert_cmpuint(qfabric_config16(f, node[i].name), ==,
                         'n' | ('0' + i) << 8);
    }
    g_assert_cmpuint(qfabric_node_state(f, 0), ==, VIRTIO_FABRIC_ABSENT);
    g_assert_cmpuint(qfabric_node_state(f, 1), ==, VIRTIO_FABRIC_UP);
    g_assert_cmphex(qvirtio_get_features(f->d) & ALL_FEATURES, ==,
                    ALL_FEATURES);
    g_assert_cmphex(qvirtio_get_features(f->d) &
                    (1ull << VIRTIO_FABRIC_F_ECHO), ==, 0);
    /* Nobody there: as an empty PCI slot. */
    g_assert_cmphex(qfabric_window_readq(f, 0, 0), ==, UINT64_MAX);
    qfabric_window_writeq(f, 0, 0, 1);
    g_assert_cmphex(qfabric_window_readq(f, 0, 0), ==, UINT64_MAX);
    machine_end();
}

/* Memory on both sides of q35's hole below 4 GiB. */
static void test_extents(void)
{
    const Isa *isa[] = { native };
    Node *n = node_start_full(isa, 1, 0, 3 * GiB, "");
    uint16_t i, nr = qfabric_config16(n->f, nr_extents);
    uint64_t covered = 0;

    g_assert_cmpuint(nr, ==, native == &isas[0] ? 2 : 1);
    for (i = 0; i < nr; i++) {
        uint64_t gpa = qfabric_config64(n->f, extent[i].gpa);
        uint64_t len = qfabric_config64(n->f, extent[i].len);

        g_assert_cmphex(qfabric_config64(n->f, extent[i].offset), ==,
                        covered);
        covered += len;
        /* It is memory at both ends. */
        qtest_writeq(n->qts, gpa + 0x1000, gpa);
        qtest_writeq(n->qts, gpa + len - 8, ~gpa);
        g_assert_cmphex(qtest_readq(n->qts, gpa + 0x1000), ==, gpa);
        g_assert_cmphex(qtest_readq(n->qts, gpa + len - 8), ==, ~gpa);
    }
    g_assert_cmphex(covered, ==, 3 * GiB);
    g_assert_false(n->f->has_windows);
    machine_end();
}

static void test_echo(void)
{
    const Isa *isa[] = { native };
    int kick = eventfd(0, 0);
    int call = eventfd(0, 0);
    g_autofree char *device = g_strdup_printf(
        ",echo-kick-fd=%d,echo-call-fd=%d", kick, call);
    Node *n = node_start_full(isa, 1, 0, RAM_BYTES, device);
    uint64_t value, buf;
    QVirtQueue *vq;
    uint32_t head, idx = 0;
    int i;

    qvirtio_set_features(n->f->d, BASE_FEATURES |
                         (1ull << VIRTIO_FABRIC_F_ECHO));
    vq = qvirtqueue_setup(n->f->d, &n->alloc, VIRTIO_FABRIC_VQ_ECHO);
    qvirtio_set_driver_ok(n->f->d);
    buf = guest_alloc(&n->alloc, 64);
    for (i = 0; i < 3; i++) {
        head = qvirtqueue_add(n->qts, vq, buf, 64, false, false);
        qvirtqueue_kick(n->qts, n->f->d, vq, head);
        g_assert_cmpint(read(kick, &value, sizeof(value)), ==, sizeof(value));
        g_assert_cmpuint(value, ==, 1);
        g_assert_false(qvirtqueue_get_buf(n->qts, vq, &idx, NULL));
        g_assert_cmpint(write(call, &value, sizeof(value)), ==,
                        sizeof(value));
        WAIT_FOR(qvirtqueue_get_buf(n->qts, vq, &idx, NULL), "an echo");
        g_assert_cmpuint(idx, ==, head);
    }
    qvirtqueue_cleanup(n->f->d->bus, vq, &n->alloc);
    machine_end();
    close(kick);
    close(call);
}

/* Command lines that must be refused, with a message that names the reason */

#define BAD_NODE(name, isa, address) \
    "\"nodes\":[{\"name\":\"" name "\",\"isa\":\"" isa "\",\"cpus\":1," \
    "\"size\":@SIZE@,\"address\":\"" address "\"}]"

typedef struct BadArgs {
    const char *path;
    const char *object; /* members that differ from a correct object */
    const char *args;   /* after it; @OBJECT2@ is another correct object */
    const char *error;  /* part of what it must say */
} BadArgs;

static const BadArgs bad_args[] = {
    { "size", "\"size\":1048576", "", "nodes.0.size" },
    { "uuid", "\"machine-uuid\":\"x\"", "",
      "machine-uuid 'x' is not a UUID" },
    { "self", "\"self\":4", "", "self is 4" },
    { "self-range", "\"self\":70000", "", "self" },
    { "coherence", "\"coherence\":\"none\"", "", "coherence" },
    { "share", "\"share\":false", "", "share=off" },
    { "prealloc", "\"prealloc\":true", "", "prealloc=on" },
    { "merge", "\"merge\":true", "", "merge=on" },
    { "isa", BAD_NODE("a", "sparc", "unix:@SOCK@"), "",
      "nodes.0.isa 'sparc'" },
    { "isa-unknown", BAD_NODE("a", "vax", "unix:@SOCK@"), "", "vax" },
    { "isa-other", BAD_NODE("a", "@OTHER@", "unix:@SOCK@"), "",
      "nodes.0.isa is" },
    { "cpus", "", "-smp 2", "nodes.0.cpus is 1" },
    { "name", BAD_NODE("", "@ISA@", "unix:@SOCK@"), "", "nodes.0.name" },
    { "name-long", BAD_NODE("abcdefghijklmnopqrstuvwxyzabcdef", "@ISA@",
                            "unix:@SOCK@"), "", "nodes.0.name" },
    { "address", BAD_NODE("a", "@ISA@", "@SOCK@"), "", "nodes.0.address" },
    { "address-dir", BAD_NODE("a", "@ISA@", "unix:@SOCK@/x"), "",
      "cannot listen at" },
    { "address-host", BAD_NODE("a", "@ISA@", "tcp:192.0.2.1:7001"), "",
      "nodes.0.address 'tcp:192.0.2.1:7001' is not on this host's loopback" },
    { "key-file", "\"key-file\":\"@SOCK@.key\"", "",
      ".key': No such file or directory" },
    { "key-file-type", "\"key-file\":\"/dev/null\"", "",
      "key-file '/dev/null': not a regular file" },
    { "nodes", "\"nodes\":[]", "", "nodes is missing or empty" },
    { "unknown", "\"colour\":\"blue\"", "", "colour" },
    { "thread", "", "-accel tcg,thread=single", "thread=multi" },
    { "icount", "", "-accel tcg -icount 3", "icount" },
    { "two", "", "-object '@OBJECT2@'",
      "memory-backend-dsm 'ram2': there is one already" },
    { "no-dsm", "", "-device virtio-fabric-pci",
      "dsm must name a memory-backend-dsm" },
    { "other-backend", "", "-object memory-backend-memfd,id=m,size=1M "
      "-device virtio-fabric-pci,dsm=m", "dsm" },
    { "two-devices", "", "-device virtio-fabric-pci,dsm=ram "
      "-device virtio-fabric-pci,dsm=ram", "has a device already" },
    { "echo-one", "", "-device virtio-fabric-pci,dsm=ram,echo-kick-fd=0",
      "need each other" },
    { "echo-fd", "", "-device virtio-fabric-pci,dsm=ram,"
      "echo-kick-fd=99,echo-call-fd=98", "echo-kick-fd" },
};

static void replace(char **text, const char *what, const char *by)
{
    g_auto(GStrv) parts = g_strsplit(*text, what, -1);

    g_free(*text);
    *text = g_strjoinv(by, parts);
}

/* A correct object of one node with the members of @differs in it. */
static char *object_json(const char *id, const char *differs)
{
    const Isa *isa[] = { native };
    g_autofree char *list = nodes_json(isa, 1, RAM_BYTES);
    g_autofree char *text = g_strdup_printf(
        "{\"qom-type\":\"memory-backend-dsm\",\"id\":\"%s\","
        "\"size\":%" PRIu64 ",\"machine-uuid\":\"" MACHINE_UUID "\","
        "\"self\":0,\"nodes\":%s}", id, (uint64_t)RAM_BYTES, list);
    g_autofree char *more = g_strdup_printf("{%s}", differs);
    g_autoptr(QDict) dict = qobject_to(QDict, qobject_from_json(text,
                                                                &error_abort));
    g_autoptr(QDict) other = qobject_to(QDict, qobject_from_json(more,
                                                                 &error_abort));
    g_autoptr(GString) json = NULL;

    qdict_join(dict, other, true);
    json = qobject_to_json(QOBJECT(dict));
    return g_strdup(json->str);
}

static void test_bad_args(const void *opaque)
{
    const BadArgs *bad = opaque;
    g_autofree char *sock = link_path(0);
    g_autofree char *size = g_strdup_printf("%" PRIu64, (uint64_t)RAM_BYTES);
    g_autofree char *differs = g_strdup(bad->object);
    g_autofree char *object = NULL;
    g_autofree char *object2 = object_json("ram2", "");
    g_autofree char *args = g_strdup(bad->args);
    g_autofree char *line = NULL;
    g_autofree char *err = NULL;
    g_autoptr(GError) gerr = NULL;
    g_auto(GStrv) argv = NULL;
    int status;

    replace(&differs, "@SIZE@", size);
    replace(&differs, "@SOCK@", sock);
    replace(&differs, "@ISA@", native->name);
    replace(&differs, "@OTHER@", other_isa(native)->name);
    replace(&args, "@OBJECT2@", object2);
    object = object_json("ram", differs);
    line = g_strdup_printf("%s -nodefaults -display none -S %s -M %s,"
                           "memory-backend=ram -m %" PRIu64 "k -bios %s "
                           "-object '%s' %s",
                           getenv("QTEST_QEMU_BINARY"), native->args,
                           native->machine, (uint64_t)RAM_BYTES / KiB,
                           bios_path, object, args);
    g_test_message("%s", line);
    g_assert_true(g_shell_parse_argv(line, NULL, &argv, NULL));
    g_assert_true(g_spawn_sync(NULL, argv, NULL,
                               G_SPAWN_SEARCH_PATH |
                               G_SPAWN_STDOUT_TO_DEV_NULL, NULL, NULL, NULL,
                               &err, &status, &gerr));
    g_assert_true(WIFEXITED(status));
    g_assert_cmpint(WEXITSTATUS(status), ==, 1);
    if (!strstr(err, bad->error)) {
        g_error("expected '%s', got: %s", bad->error, err);
    }
    g_test_message("%s", g_strchomp(err));
    g_assert_false(g_file_test(sock, G_FILE_TEST_EXISTS));
    machine_nr++;
}

/* Tests of several nodes */

static void test_windows(void)
{
    const Isa *isa[] = { native, native };
    const uint64_t at = 0x123458;
    Node *a = node_start(isa, 2, 0), *b;

    node_driver(a, BASE_FEATURES);
    g_assert_cmphex(qfabric_window_readq(a->f, 1, at), ==, UINT64_MAX);

    b = node_start(isa, 2, 1);
    qtest_writeq(b->qts, b->isa->ram_base + at, 0x1122334455667788);
    wait_state(a, 1, VIRTIO_FABRIC_UP);
    g_assert_cmphex(qfabric_window_readq(a->f, 1, at), ==,
                    0x1122334455667788);
    qfabric_window_writeq(a->f, 1, at, 42);
    g_assert_cmphex(qtest_readq(b->qts, b->isa->ram_base + at), ==, 42);
    /* The last bytes, and nothing behind them. */
    qfabric_window_writeq(a->f, 1, RAM_BYTES - 8, 43);
    g_assert_cmphex(qtest_readq(b->qts, b->isa->ram_base + RAM_BYTES - 8), ==,
                    43);

    node_driver(b, BASE_FEATURES);
    wait_state(b, 0, VIRTIO_FABRIC_UP);
    qfabric_window_writeq(b->f, 0, at, 44);
    g_assert_cmphex(qtest_readq(a->qts, a->isa->ram_base + at), ==, 44);
    wait_qmp_state(a, 1, "up");
    assert_node_state(a, 0, "up");
    assert_node_state(a, 1, "up");
    machine_end();
}

static void check_messages(uint64_t features)
{
    static const uint32_t lens[] = { 0, 1, 7, 8, 64, 4095, 4096 };
    Node *a = &nodes[0], *b = &nodes[1];
    unsigned cls, i;
    QFabricMessage msg;

    for (cls = 0; cls < VIRTIO_FABRIC_NR_CLASSES; cls++) {
        for (i = 0; i < ARRAY_SIZE(lens); i++) {
            check_message(a, b, cls, lens[i], i);
            check_message(b, a, cls, lens[i], ~i);
        }
    }
    /* Many in flight: order and contents, more than rings or windows hold. */
    for (i = 0; i < 4 * QFABRIC_TX_SLOTS; i++) {
        uint32_t data[2] = { i, ~i };

        if (a->f->tx_pending == QFABRIC_TX_SLOTS / 2) {
            g_assert_cmpuint(wait_tx(a), ==, VIRTIO_FABRIC_TX_OK);
        }
        qfabric_send(a->f, 1, VIRTIO_FABRIC_CLASS_REQUEST, data,
                     sizeof(data));
        if (i >= 40) {
            wait_message(b, &msg);
            g_assert_cmpuint(msg.len, ==, sizeof(data));
            g_assert_cmpuint(ldl_he_p(msg.data), ==, i - 40);
        }
    }
    while (a->f->tx_pending) {
        g_assert_cmpuint(wait_tx(a), ==, VIRTIO_FABRIC_TX_OK);
    }
    for (i -= 40; i < 4 * QFABRIC_TX_SLOTS; i++) {
        wait_message(b, &msg);
        g_assert_cmpuint(ldl_he_p(msg.data), ==, i);
    }
}

static void test_messages(void)
{
    machine_pair(native, native, BASE_FEATURES);
    check_messages(BASE_FEATURES);
    machine_end();
}

static void test_messages_event_idx(void)
{
    machine_pair(native, native, ALL_FEATURES);
    check_messages(ALL_FEATURES);
    machine_end();
}

/* Both ISAs in one machine, if the other emulator was built as well. */
static void test_mixed(void)
{
    Node *a = &nodes[0], *b = &nodes[1];

    machine_pair(native, other_isa(native), ALL_FEATURES);
    check_message(a, b, VIRTIO_FABRIC_CLASS_REQUEST, 100, 1);
    check_message(b, a, VIRTIO_FABRIC_CLASS_REPLY, 4096, 2);
    qfabric_window_writeq(a->f, 1, 0x2000, 0xa5a5);
    g_assert_cmphex(qtest_readq(b->qts, b->isa->ram_base + 0x2000), ==,
                    0xa5a5);
    qtest_writeq(a->qts, a->isa->ram_base + 0x3000, 0x5a5a);
    g_assert_cmphex(qfabric_window_readq(b->f, 0, 0x3000), ==, 0x5a5a);
    machine_end();
}

static void test_three(void)
{
    const Isa *isa[] = { native, native, native };
    unsigned i, k;

    for (i = 3; i-- > 0;) {
        node_start(isa, 3, i); /* the last first: order must not matter */
    }
    for (i = 0; i < 3; i++) {
        struct virtio_fabric_event ev;

        node_driver(&nodes[i], BASE_FEATURES);
        for (k = 0; k < 2; k++) {
            WAIT_FOR(qfabric_poll_event(nodes[i].f, &ev, true), "a node");
            g_assert_cmpuint(ev.type, ==, VIRTIO_FABRIC_EVENT_STATE);
            g_assert_cmpuint(ev.data, ==, VIRTIO_FABRIC_UP);
        }
        qtest_writeq(nodes[i].qts, nodes[i].isa->ram_base, 1000 + i);
    }
    for (i = 0; i < 3; i++) {
        for (k = 0; k < 3; k++) {
            if (i != k) {
                check_message(&nodes[i], &nodes[k], i, 100, k);
                g_assert_cmpuint(qfabric_window_readq(nodes[i].f, k, 0), ==,
                                 1000 + k);
            }
        }
    }
    /* One leaves in order; the others go on. */
    node_quit(&nodes[1]);
    wait_state(&nodes[0], 1, VIRTIO_FABRIC_DOWN);
    wait_state(&nodes[2], 1, VIRTIO_FABRIC_DOWN);
    check_message(&nodes[0], &nodes[2], 0, 100, 5);
    check_message(&nodes[2], &nodes[0], 0, 100, 6);
    machine_end();
}

/* Descriptor chains of all shapes that carry one correct message. */
static void test_chains(void)
{
    static const unsigned pieces[] = { 1, 2, 8, 9, 60, 200 };
    Node *a = &nodes[0], *b = &nodes[1];
    QFabricRing *r;
    uint8_t data[8 + 1000];
    struct virtio_fabric_hdr *hdr = (void *)data;
    QFabricMessage msg;
    unsigned i, k, indirect;

    machine_pair(native, native, ALL_FEATURES);
    r = &a->f->tx;
    fill(data + 8, 1000, 3);
    *hdr = (struct virtio_fabric_hdr) {
        .node = cpu_to_le16(1),
        .cls = VIRTIO_FABRIC_CLASS_BULK,
        .len = cpu_to_le32(1000),
    };
    for (indirect = 0; indirect < 2; indirect++) {
        for (i = 0; i < ARRAY_SIZE(pieces); i++) {
            uint64_t buf = guest_alloc(&a->alloc, sizeof(data) + 4);
            uint64_t table = indirect ? guest_alloc(&a->alloc, 16 * 256) :
                             r->vq->desc;
            uint32_t done = 0;

            qtest_memwrite(a->qts, buf, data, sizeof(data));
            qtest_writel(a->qts, buf + sizeof(data), UINT32_MAX);
            for (k = 0; k <= pieces[i]; k++) {
                bool last = k == pieces[i];
                uint32_t end = sizeof(data) * (k + 1) / pieces[i];
                struct vring_desc desc = {
                    .addr = cpu_to_le64(buf + (last ? sizeof(data) : done)),
                    .len = cpu_to_le32(last ? 4 : end - done),
                    .flags = cpu_to_le16(last ? VRING_DESC_F_WRITE :
                                         VRING_DESC_F_NEXT),
                    .next = cpu_to_le16(k + 1),
                };

                qtest_memwrite(a->qts, table + 16 * k, &desc, 16);
                done = end;
            }
            if (indirect) {
                struct vring_desc desc = {
                    .addr = cpu_to_le64(table),
                    .len = cpu_to_le32(16 * (pieces[i] + 1)),
                    .flags = cpu_to_le16(VRING_DESC_F_INDIRECT),
                };

                qtest_memwrite(a->qts, r->vq->desc, &desc, 16);
            }
            qtest_writew(a->qts, r->vq->avail + 4 +
                         2 * (r->avail % r->vq->size), 0);
            qtest_writew(a->qts, r->vq->avail + 2, ++r->avail);
            a->f->d->bus->virtqueue_kick(a->f->d, r->vq);
            wait_message(b, &msg);
            g_assert_cmpmem(msg.data, msg.len, data + 8, 1000);
            WAIT_FOR(qtest_readw(a->qts, r->vq->used + 2) == r->avail,
                     "a tx buffer");
            r->used = r->avail;
            g_assert_cmpuint(qtest_readl(a->qts, buf + sizeof(data)), ==,
                             VIRTIO_FABRIC_TX_OK);
        }
    }
    machine_end();
}

static void ring(Node *a, uint16_t to, uint64_t bits)
{
    uint64_t le = cpu_to_le64(bits);

    qfabric_send(a->f, to, VIRTIO_FABRIC_CLASS_DOORBELL, &le, sizeof(le));
    g_assert_cmpuint(wait_tx(a), ==, VIRTIO_FABRIC_TX_OK);
}

static void test_doorbells(void)
{
    const Isa *isa[] = { native, native };
    Node *a = node_start(isa, 2, 0);
    Node *b = node_start(isa, 2, 1);
    struct virtio_fabric_event ev;
    uint64_t got = 0;
    int i;

    /* The peer has no driver yet: bits are kept. */
    node_driver(a, BASE_FEATURES);
    wait_state(a, 1, VIRTIO_FABRIC_UP);
    ring(a, 1, 1);
    ring(a, 1, 2);
    qfabric_start(b->f, BASE_FEATURES);
    ring(a, 1, 1ull << 63);
    /* A driver without buffers: the state first, then all bits. */
    qfabric_post_events(b->f, 1);
    WAIT_FOR(qfabric_poll_event(b->f, &ev, false), "the state of node 0");
    g_assert_cmpuint(ev.type, ==, VIRTIO_FABRIC_EVENT_STATE);
    g_assert_cmpuint(ev.data, ==, VIRTIO_FABRIC_UP);
    while (got != (1ull << 63 | 3)) {
        qfabric_post_events(b->f, 1);
        WAIT_FOR(qfabric_poll_event(b->f, &ev, false), "doorbells");
        g_assert_cmpuint(ev.type, ==, VIRTIO_FABRIC_EVENT_DOORBELL);
        g_assert_cmpuint(ev.node, ==, 0);
        g_assert_cmphex(ev.data & ~(1ull << 63 | 3), ==, 0);
        g_assert_cmphex(ev.data, !=, 0);
        g_assert_cmphex(got & ev.data, ==, 0); /* each was rung once */
        got |= ev.data;
    }
    /* Many rings with one free buffer: none is lost, all coalesce. */
    for (i = 0; i < 300; i++) {
        ring(a, 1, 1ull << (i % 60));
    }
    for (got = 0; got != (1ull << 60) - 1; got |= ev.data) {
        qfabric_post_events(b->f, 1);
        WAIT_FOR(qfabric_poll_event(b->f, &ev, false), "doorbells");
        g_assert_cmpuint(ev.type, ==, VIRTIO_FABRIC_EVENT_DOORBELL);
    }
    machine_end();
}

/* Fills class @cls towards node 1, which posts nothing, until it is held. */
static unsigned fill_class(Node *a, uint8_t cls)
{
    unsigned sent = 0, slot;
    uint32_t status;

    while (sent < CREDITS + 8) {
        uint32_t data = sent;

        qfabric_send(a->f, 1, cls, &data, sizeof(data));
        sent++;
        while (a->f->tx_pending > 8 && qfabric_poll_tx(a->f, &slot, &status)) {
            g_assert_cmpuint(status, ==, VIRTIO_FABRIC_TX_OK);
        }
    }
    /* The window's worth completes, the rest must not. */
    while (a->f->tx_pending > 8) {
        g_assert_cmpuint(wait_tx(a), ==, VIRTIO_FABRIC_TX_OK);
    }
    g_assert_false(qfabric_poll_tx(a->f, &slot, &status));
    return sent;
}

static void test_backpressure(void)
{
    const Isa *isa[] = { native, native };
    Node *a = node_start(isa, 2, 0);
    Node *b = node_start(isa, 2, 1);
    unsigned sent, i, bulk = 0, acks = 0;
    QFabricMessage msg;

    node_driver(a, ALL_FEATURES);
    qfabric_start(b->f, ALL_FEATURES);
    qfabric_post_events(b->f, QFABRIC_EVENT_SLOTS);
    wait_state(a, 1, VIRTIO_FABRIC_UP);
    wait_state(b, 0, VIRTIO_FABRIC_UP);

    sent = fill_class(a, VIRTIO_FABRIC_CLASS_BULK);
    /* Another class, and the other direction, are not held. */
    for (i = 0; i < 20; i++) {
        qfabric_send(a->f, 1, VIRTIO_FABRIC_CLASS_ACK, &i, sizeof(i));
        g_assert_cmpuint(wait_tx(a), ==, VIRTIO_FABRIC_TX_OK);
    }
    check_message(b, a, VIRTIO_FABRIC_CLASS_BULK, 100, 1);

    /* Everything arrives, in order within its class. */
    qfabric_post_rx(b->f, QFABRIC_RX_SLOTS);
    while (bulk < sent || acks < 20) {
        wait_message(b, &msg);
        if (msg.cls == VIRTIO_FABRIC_CLASS_BULK) {
            g_assert_cmpuint(ldl_he_p(msg.data), ==, bulk++);
        } else {
            g_assert_cmpuint(msg.cls, ==, VIRTIO_FABRIC_CLASS_ACK);
            g_assert_cmpuint(ldl_he_p(msg.data), ==, acks++);
        }
    }
    while (a->f->tx_pending) {
        g_assert_cmpuint(wait_tx(a), ==, VIRTIO_FABRIC_TX_OK);
    }
    machine_end();
}

/* A paused machine takes nothing and loses nothing. */
static void test_pause(void)
{
    Node *a = &nodes[0], *b = &nodes[1];
    QFabricMessage msg;
    unsigned i;

    machine_pair(native, native, ALL_FEATURES);
    qtest_qmp_assert_success(b->qts, "{ 'execute': 'stop' }");
    ring(a, 1, 4);
    for (i = 0; i < 10; i++) {
        qfabric_send(a->f, 1, VIRTIO_FABRIC_CLASS_REQUEST, &i, sizeof(i));
        g_assert_cmpuint(wait_tx(a), ==, VIRTIO_FABRIC_TX_OK);
    }
    /* An answer to this came through the same link after the messages. */
    WAIT_FOR(({
        g_autoptr(QDict) info = query_dsm(b);
        QList *list = qdict_get_qlist(info, "nodes");
        QDict *peer = qobject_to(QDict, qlist_peek(list));

        qdict_get_int(peer, "messages-received") > 0;
    }), "the arrival of messages");
    g_assert_false(qfabric_poll_rx(b->f, &msg, true));
    qtest_qmp_assert_success(b->qts, "{ 'execute': 'cont' }");
    for (i = 0; i < 10; i++) {
        wait_message(b, &msg);
        g_assert_cmpuint(ldl_he_p(msg.data), ==, i);
    }
    wait_event(b, VIRTIO_FABRIC_EVENT_DOORBELL, 0, 4);
    machine_end();
}

static void fence(Node *a, uint16_t node)
{
    struct virtio_fabric_control ctl = {
        .op = cpu_to_le32(VIRTIO_FABRIC_CONTROL_FENCE),
    };

    qfabric_send(a->f, node, VIRTIO_FABRIC_CLASS_CONTROL, &ctl, sizeof(ctl));
    g_assert_cmpuint(wait_tx(a), ==, VIRTIO_FABRIC_TX_OK);
}

static void test_kill(void)
{
    const Isa *isa[] = { native, native };
    Node *a = node_start(isa, 2, 0);
    Node *b = node_start(isa, 2, 1);
    unsigned down = 0, pending, slot;
    uint32_t status;
    gint64 start;

    node_driver(a, BASE_FEATURES);
    wait_state(a, 1, VIRTIO_FABRIC_UP);
    wait_qmp_state(a, 1, "up");
    qfabric_window_writeq(a->f, 1, 0x5000, 77);
    fill_class(a, VIRTIO_FABRIC_CLASS_REQUEST); /* some buffers are held */
    pending = a->f->tx_pending;
    g_assert_cmpuint(pending, >, 0);

    start = g_get_monotonic_time();
    node_kill(b);
    wait_state(a, 1, VIRTIO_FABRIC_DOWN);
    g_assert_cmpint(g_get_monotonic_time() - start, <, 2 * G_USEC_PER_SEC);
    wait_qmp_state(a, 1, "down");
    assert_node_state(a, 1, "down");
    while (a->f->tx_pending) {
        down += wait_tx(a) == VIRTIO_FABRIC_TX_NODE_DOWN;
    }
    g_assert_cmpuint(down, ==, pending);
    qfabric_send(a->f, 1, VIRTIO_FABRIC_CLASS_ACK, &slot, 4);
    g_assert_cmpuint(wait_tx(a), ==, VIRTIO_FABRIC_TX_NODE_DOWN);
    status = 1;
    qfabric_send(a->f, 1, VIRTIO_FABRIC_CLASS_DOORBELL,
                 (uint64_t[]) { cpu_to_le64(status) }, 8);
    g_assert_cmpuint(wait_tx(a), ==, VIRTIO_FABRIC_TX_NODE_DOWN);

    /*
     * Its memory is as it was left until it is fenced; with a page protocol it
     * is lost, and reads as zeros.
     */
    g_assert_cmphex(qfabric_window_readq(a->f, 1, 0x5000), ==,
                    g_str_equal(coherence, "dsm") ? 0 : 77);
    fence(a, 1);
    wait_state(a, 1, VIRTIO_FABRIC_FENCED);
    wait_qmp_state(a, 1, "fenced");
    assert_node_state(a, 1, "fenced");
    g_assert_cmphex(qfabric_window_readq(a->f, 1, 0x5000), ==, UINT64_MAX);
    fence(a, 1); /* again: nothing to do, nothing wrong */

    /* A driver that comes now is told how it is. */
    qfabric_reset(a->f);
    node_driver(a, BASE_FEATURES);
    wait_state(a, 1, VIRTIO_FABRIC_FENCED);
    machine_end();
}

/* Another test, with a page protocol between the nodes. */
static void test_dsm(const void *opaque)
{
    const GTestFunc test = (GTestFunc)opaque;
    int fd = syscall(__NR_userfaultfd, O_CLOEXEC);

    if (fd < 0) {
        g_test_skip("this process may not use userfaultfd");
        return;
    }
    close(fd);
    coherence = "dsm";
    test();
    coherence = "shared";
}

static void test_reset(void)
{
    const Isa *isa[] = { native, native };
    Node *a = node_start(isa, 2, 0);
    Node *b = node_start(isa, 2, 1);
    QFabricMessage msg;
    unsigned i, got = 0;

    node_driver(a, BASE_FEATURES);
    node_driver(b, BASE_FEATURES);
    wait_state(a, 1, VIRTIO_FABRIC_UP);
    wait_state(b, 0, VIRTIO_FABRIC_UP);
    for (i = 0; i < 4; i++) {
        /* The sender goes away with buffers held, */
        qfabric_reset(b->f);
        fill_class(a, VIRTIO_FABRIC_CLASS_BULK);
        g_assert_cmpuint(a->f->tx_pending, >, 0);
        qfabric_reset(a->f);
        node_driver(a, i & 1 ? ALL_FEATURES : BASE_FEATURES);
        wait_state(a, 1, VIRTIO_FABRIC_UP);
        /* and the receiver with messages that it did not take. */
        node_driver(b, i & 1 ? BASE_FEATURES : ALL_FEATURES);
        wait_state(b, 0, VIRTIO_FABRIC_UP);
        for (got = 0; got < CREDITS; got++) {
            wait_message(b, &msg);
            g_assert_cmpuint(ldl_he_p(msg.data), ==, got);
        }
        /* What was held is gone; what comes is new. */
        check_message(a, b, VIRTIO_FABRIC_CLASS_BULK, 200, i);
        check_message(b, a, VIRTIO_FABRIC_CLASS_BULK, 200, i);
    }
    /* The whole machine as well. */
    qtest_system_reset(a->qts);
    qfabric_free(a->f);
    if (a->isa == &isas[0]) {
        qpci_free_pc(a->bus);
        a->bus = qpci_new_pc(a->qts, &a->alloc);
    } else {
        qpci_init_generic(&a->generic_bus, a->qts, &a->alloc, false);
    }
    a->f = qfabric_new(a->qts, a->bus, &a->alloc, DEVFN);
    node_driver(a, ALL_FEATURES);
    wait_state(a, 1, VIRTIO_FABRIC_UP);
    check_message(a, b, VIRTIO_FABRIC_CLASS_ACK, 200, 9);
    machine_end();
}

/*
 * A peer of another protocol version: a socket that says hello as docs/
 * protocol.rst has it, with versions 99 to 99.
 */
static int connect_to(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(fd, >=, 0);
    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    g_assert_cmpint(connect(fd, (void *)&addr, sizeof(addr)), ==, 0);
    return fd;
}

static void test_version(void)
{
    const Isa *isa[] = { native, native };
    Node *a = node_start(isa, 2, 0), *b;
    g_autofree char *path = link_path(0);
    static const char garbage[] = "GET / HTTP/1.0\r\n\r\n";
    uint8_t hello[32 + 104] = { 'D', 'S', 'M', '1', 1, 1 };
    QemuUUID uuid;
    char answer[512];
    ssize_t len;
    int fd;

    stl_le_p(hello + 12, 104);
    g_assert_cmpint(qemu_uuid_parse(MACHINE_UUID, &uuid), ==, 0);
    memcpy(hello + 32, &uuid, 16);
    stw_le_p(hello + 32 + 16, 99);
    stw_le_p(hello + 32 + 18, 99);
    stw_le_p(hello + 32 + 28, 1);
    stw_le_p(hello + 32 + 30, 0);
    stw_le_p(hello + 32 + 32, 2);
    stw_le_p(hello + 32 + 34, native->elf_machine);
    stl_le_p(hello + 32 + 40, 4096);
    stl_le_p(hello + 32 + 44, 1);
    stq_le_p(hello + 32 + 48, RAM_BYTES);
    for (int i = 0; i < 5; i++) {
        stw_le_p(hello + 32 + 56 + 2 * i, 64);
    }
    strcpy((char *)hello + 32 + 72, "n1");

    node_driver(a, BASE_FEATURES);
    fd = connect_to(path);
    g_assert_cmpint(send(fd, hello, sizeof(hello), MSG_NOSIGNAL), ==,
                    sizeof(hello));
    /* It says why, then it hangs up. */
    len = recv(fd, answer, sizeof(answer), MSG_WAITALL);
    g_assert_cmpint(len, >, 40);
    g_assert_cmpuint(answer[5], ==, 3); /* REJECT */
    g_assert_nonnull(memmem(answer + 40, len - 40, "version", 7));
    close(fd);
    WAIT_FOR(({
        g_autoptr(QDict) info = query_dsm(a);

        qdict_get_int(info, "rejected") == 1 &&
            strstr(qdict_get_str(info, "rejected-reason"), "version");
    }), "the refusal in query-dsm");

    fd = connect_to(path);
    g_assert_cmpint(send(fd, garbage, strlen(garbage), MSG_NOSIGNAL), ==,
                    strlen(garbage));
    WAIT_FOR(recv(fd, answer, sizeof(answer), 0) <= 0, "a hang-up");
    close(fd);
    g_assert_cmpuint(qfabric_node_state(a->f, 1), ==, VIRTIO_FABRIC_ABSENT);

    /* The right one is still welcome. */
    b = node_start(isa, 2, 1);
    node_driver(b, BASE_FEATURES);
    wait_state(a, 1, VIRTIO_FABRIC_UP);
    wait_state(b, 0, VIRTIO_FABRIC_UP);
    check_message(a, b, VIRTIO_FABRIC_CLASS_BULK, 10, 1);
    machine_end();
}

static void test_monitor(void)
{
    Node *a = &nodes[0];
    g_autoptr(QDict) rsp = NULL;
    g_autoptr(QDict) info = NULL;
    g_autofree char *text = NULL;

    machine_pair(native, native, BASE_FEATURES);
    check_message(a, &nodes[1], VIRTIO_FABRIC_CLASS_ACK, 5, 1);
    info = query_dsm(a);
    g_assert_cmpuint(qdict_get_int(info, "node"), ==, 0);
    g_assert_cmpstr(qdict_get_str(info, "machine-uuid"), ==, MACHINE_UUID);
    g_assert_cmpstr(qdict_get_str(info, "coherence"), ==, "shared");
    g_assert_cmpuint(qlist_size(qdict_get_qlist(info, "nodes")), ==, 2);

    text = qtest_hmp(a->qts, "info dsm");
    g_assert_nonnull(strstr(text, "node 1 n1: "));
    g_assert_nonnull(strstr(text, "ack     sent 1"));
    g_free(text);
    text = qtest_hmp(a->qts, "info fabric");
    g_assert_nonnull(strstr(text, "node 1 n1: up, window 0x0+"));
    g_free(text);
    text = qtest_hmp(a->qts, "info virtio");
    g_assert_nonnull(strstr(text, "virtio-fabric"));
    g_free(text);
    /* The generic introspection of virtio devices knows it. */
    text = qtest_hmp(a->qts, "info virtio-status "
                     "/machine/peripheral-anon/device[0]/virtio-backend");
    g_assert_nonnull(strstr(text, "virtio-fabric"));

    rsp = qtest_qmp(a->qts, "{ 'execute': 'migrate', 'arguments': "
                    "{ 'uri': 'exec:true' } }");
    g_assert_true(qdict_haskey(rsp, "error"));
    machine_end();
}

/* Fuzz */

static GRand *rnd;

static uint32_t chance(uint32_t n)
{
    return g_rand_int_range(rnd, 0, n) == 0;
}

static uint64_t fuzz_addr(Node *n)
{
    switch (g_rand_int_range(rnd, 0, 8)) {
    case 0:
        return 0;
    case 1:
        return UINT64_MAX - g_rand_int_range(rnd, 0, 8192);
    case 2:
        return n->isa->ram_base + RAM_BYTES - g_rand_int_range(rnd, 0, 64);
    case 3:
        return ((uint64_t)g_rand_int(rnd) << 32) | g_rand_int(rnd);
    case 4: /* this device's own registers and windows */
        return (chance(2) ? n->f->pci->bar.addr : n->f->windows.addr) +
               g_rand_int_range(rnd, 0, 0x4000);
    default:
        return n->f->tx.buf + g_rand_int_range(rnd, 0, 128 * 1024);
    }
}

static uint32_t fuzz_len(void)
{
    static const uint32_t lens[] = {
        0, 1, 7, 8, 9, 12, 16, 20, 4095, 4096, 4104, 4105, 65536,
        0x7fffffff, 0x80000000, 0xffffffff,
    };

    return chance(4) ? g_rand_int(rnd) :
           lens[g_rand_int_range(rnd, 0, ARRAY_SIZE(lens))];
}

static void ring_fuzz_avail(Node *n, QFabricRing *r, uint16_t head,
                            uint16_t step)
{
    qtest_writew(n->qts, r->vq->avail + 4 + 2 * (r->avail % r->vq->size),
                 head);
    r->avail += step;
    qtest_writew(n->qts, r->vq->avail + 2, r->avail);
    n->f->d->bus->virtqueue_kick(n->f->d, r->vq);
}

static void fuzz_header(Node *n, uint64_t addr)
{
    struct virtio_fabric_hdr hdr = {
        .node = cpu_to_le16(chance(3) ? g_rand_int(rnd) :
                            g_rand_int_range(rnd, 0, 3)),
        .cls = chance(3) ? g_rand_int(rnd) :
               chance(2) ? 0xfe + g_rand_int_range(rnd, 0, 2) :
               g_rand_int_range(rnd, 0, 5),
        .reserved = chance(5),
        .len = cpu_to_le32(chance(2) ? 8 : fuzz_len()),
    };
    uint64_t payload = chance(2) ? g_rand_int_range(rnd, 0, 3) :
                       g_rand_int(rnd);

    qtest_memwrite(n->qts, addr, &hdr, sizeof(hdr));
    qtest_writeq(n->qts, addr + 8, payload);
}

static void fuzz_table(Node *n, uint64_t table, unsigned nr)
{
    unsigned i;

    for (i = 0; i < nr; i++) {
        struct vring_desc desc = {
            .addr = cpu_to_le64(fuzz_addr(n)),
            .len = cpu_to_le32(fuzz_len()),
            .flags = cpu_to_le16(chance(8) ? g_rand_int(rnd) :
                                 g_rand_int_range(rnd, 0, chance(3) ? 8 : 4)),
            .next = cpu_to_le16(chance(4) ? g_rand_int(rnd) :
                                g_rand_int_range(rnd, 0, nr + 1)),
        };

        if (i == 0 && !chance(4)) {
            /* At least the first is good, so that headers are seen. */
            desc.addr = cpu_to_le64(n->f->tx.buf);
            desc.len = cpu_to_le32(chance(2) ? 16 : 8);
            desc.flags = cpu_to_le16(VRING_DESC_F_NEXT);
            desc.next = cpu_to_le16(1);
        }
        if (i == 1 && chance(2)) {
            desc.addr = cpu_to_le64(n->f->tx.buf + 64);
            desc.len = cpu_to_le32(g_rand_int_range(rnd, 0, 8));
            desc.flags = cpu_to_le16(VRING_DESC_F_WRITE);
        }
        qtest_memwrite(n->qts, table + 16 * i, &desc, sizeof(desc));
    }
}

/* A correct chain whose header and payload are right, nearly right or not. */
static void fuzz_step_header(Node *n)
{
    QFabricRing *r = &n->f->tx;
    struct vring_desc desc[] = {
        {
            .addr = cpu_to_le64(r->buf),
            .len = cpu_to_le32(16),
            .flags = cpu_to_le16(VRING_DESC_F_NEXT),
            .next = cpu_to_le16(1),
        }, {
            .addr = cpu_to_le64(r->buf + 64),
            .len = cpu_to_le32(4),
            .flags = cpu_to_le16(VRING_DESC_F_WRITE),
        },
    };

    fuzz_header(n, r->buf);
    if (!chance(8)) {
        struct virtio_fabric_hdr hdr = {
            .node = cpu_to_le16(1),
            .cls = chance(4) ? 0xfe : g_rand_int_range(rnd, 0, 4),
            .len = cpu_to_le32(8),
        };

        qtest_memwrite(n->qts, r->buf, &hdr, sizeof(hdr));
        qtest_writeq(n->qts, r->buf + 8, 1 + g_rand_int(rnd));
    }
    qtest_memwrite(n->qts, r->vq->desc, desc, sizeof(desc));
    ring_fuzz_avail(n, r, 0, 1);
}

/* Anything at all. */
static void fuzz_step_ring(Node *n, uint64_t table)
{
    QFabricRing *rings[] = { &n->f->tx, &n->f->tx, &n->f->rx, &n->f->event };
    QFabricRing *r = rings[g_rand_int_range(rnd, 0, ARRAY_SIZE(rings))];
    uint16_t head = 0;

    fuzz_header(n, n->f->tx.buf);
    fuzz_table(n, r->vq->desc, 6);
    if (chance(3)) {
        struct vring_desc desc = {
            .addr = cpu_to_le64(chance(5) ? fuzz_addr(n) : table),
            .len = cpu_to_le32(chance(3) ? fuzz_len() : 6 * 16),
            .flags = cpu_to_le16(VRING_DESC_F_INDIRECT |
                                 (chance(6) ? g_rand_int(rnd) : 0)),
            .next = cpu_to_le16(g_rand_int(rnd)),
        };

        fuzz_table(n, table, 6);
        qtest_memwrite(n->qts, r->vq->desc, &desc, sizeof(desc));
    }
    if (chance(10)) {
        head = g_rand_int(rnd);
    }
    ring_fuzz_avail(n, r, head, chance(12) ? g_rand_int(rnd) : 1);
    if (chance(4)) {
        n->f->d->bus->virtqueue_kick(n->f->d, n->f->rx.vq);
    }
}

static void test_fuzz(void)
{
    const char *env = getenv("FABRIC_FUZZ_SEED");
    uint32_t seed = env ? strtoul(env, NULL, 0) : 20250101;
    unsigned i, k, broken = 0, rounds;
    Node *a = &nodes[0], *b = &nodes[1];
    uint64_t table;

    env = getenv("FABRIC_FUZZ_ROUNDS");
    rounds = env ? strtoul(env, NULL, 0) : g_test_slow() ? 5000 : 200;
    g_test_message("FABRIC_FUZZ_SEED=%u FABRIC_FUZZ_ROUNDS=%u", seed, rounds);
    rnd = g_rand_new_with_seed(seed);
    machine_pair_quiet(ALL_FEATURES);
    table = guest_alloc(&a->alloc, 4096);

    for (i = 0; i < rounds; i++) {
        bool wild = chance(2);

        for (k = 0; k < 8; k++) {
            if (wild) {
                fuzz_step_ring(a, table);
            } else {
                fuzz_step_header(a);
            }
            /* What the peer gets is well formed, whatever is sent. */
            QFabricMessage msg;
            while (qfabric_poll_rx(b->f, &msg, true)) {
                g_assert_cmpuint(msg.node, ==, 0);
                g_assert_cmpuint(msg.cls, <, VIRTIO_FABRIC_NR_CLASSES);
            }
            struct virtio_fabric_event ev;
            while (qfabric_poll_event(b->f, &ev, true)) {
                g_assert_cmpuint(ev.type, ==, VIRTIO_FABRIC_EVENT_DOORBELL);
            }
            if (a->f->d->bus->get_status(a->f->d) &
                VIRTIO_CONFIG_S_NEEDS_RESET) {
                broken++;
                break;
            }
        }
        /* A reset makes it whole, whatever was outstanding. */
        qfabric_reset(a->f);
        qfabric_start(a->f, ALL_FEATURES);
        if (i % 20 == 0) {
            qfabric_post_rx(a->f, QFABRIC_RX_SLOTS);
            qfabric_post_events(a->f, QFABRIC_EVENT_SLOTS);
            wait_state(a, 1, VIRTIO_FABRIC_UP);
            QFabricMessage msg;
            qfabric_send(a->f, 1, VIRTIO_FABRIC_CLASS_ACK, "fuzz-ok!", 8);
            g_assert_cmpuint(wait_tx(a), ==, VIRTIO_FABRIC_TX_OK);
            do {
                wait_message(b, &msg);
            } while (msg.len != 8 || memcmp(msg.data, "fuzz-ok!", 8));
            check_message(b, a, VIRTIO_FABRIC_CLASS_REPLY, 300, i);
        }
    }
    g_test_message("the device was broken in %u of %u rounds", broken, rounds);
    /* Otherwise it tries too little, or nothing that is right. */
    g_assert_cmpuint(broken, >, rounds / 4);
    g_assert_cmpuint(broken, <, rounds);
    g_rand_free(rnd);
    machine_end();
}

/* Each of these breaks the device, alone, and a reset repairs it. */

typedef struct BadTx {
    const char *path;
    struct virtio_fabric_hdr hdr;
    uint32_t payload[2];
    uint32_t out_len; /* of the descriptor */
    uint32_t in_len;
} BadTx;

static const BadTx bad_tx[] = {
    { "short-header", { 1, 0, 0, 0 }, { 0 }, 7, 4 },
    { "no-status", { 1, 0, 0, 4 }, { 0 }, 12, 0 },
    { "short-status", { 1, 0, 0, 4 }, { 0 }, 12, 3 },
    { "too-long", { 1, 0, 0, 4097 }, { 0 }, 8 + 4097, 4 },
    { "longer-than-header", { 1, 0, 0, 4 }, { 0 }, 13, 4 },
    { "shorter-than-header", { 1, 0, 0, 4 }, { 0 }, 11, 4 },
    { "length-overflow", { 1, 0, 0, 0xfffffffc }, { 0 }, 4, 4 },
    { "reserved", { 1, 0, 1, 4 }, { 0 }, 12, 4 },
    { "self", { 0, 0, 0, 4 }, { 0 }, 12, 4 },
    { "no-node", { 2, 0, 0, 4 }, { 0 }, 12, 4 },
    { "no-node-63", { 63, 0, 0, 4 }, { 0 }, 12, 4 },
    { "no-node-65535", { 65535, 0, 0, 4 }, { 0 }, 12, 4 },
    { "class-4", { 1, 4, 0, 4 }, { 0 }, 12, 4 },
    { "class-253", { 1, 0xfd, 0, 4 }, { 0 }, 12, 4 },
    { "doorbell-0", { 1, 0xfe, 0, 8 }, { 0, 0 }, 16, 4 },
    { "doorbell-short", { 1, 0xfe, 0, 4 }, { 1 }, 12, 4 },
    { "control-op", { 1, 0xff, 0, 8 }, { 2, 0 }, 16, 4 },
    { "control-reserved", { 1, 0xff, 0, 8 }, { 1, 1 }, 16, 4 },
    { "control-short", { 1, 0xff, 0, 4 }, { 1 }, 12, 4 },
    { "fence-up", { 1, 0xff, 0, 8 }, { 1, 0 }, 16, 4 },
};

static void test_bad_tx(void)
{
    Node *a = &nodes[0], *b = &nodes[1];
    unsigned i;

    machine_pair_quiet(BASE_FEATURES);
    for (i = 0; i < ARRAY_SIZE(bad_tx); i++) {
        const BadTx *bad = &bad_tx[i];
        QFabricRing *r = &a->f->tx;
        struct virtio_fabric_hdr hdr = {
            .node = cpu_to_le16(bad->hdr.node),
            .cls = bad->hdr.cls,
            .reserved = bad->hdr.reserved,
            .len = cpu_to_le32(bad->hdr.len),
        };
        uint32_t payload[2] = {
            cpu_to_le32(bad->payload[0]), cpu_to_le32(bad->payload[1]),
        };
        struct vring_desc desc[] = {
            {
                .addr = cpu_to_le64(r->buf),
                .len = cpu_to_le32(bad->out_len),
                .flags = cpu_to_le16(bad->in_len ? VRING_DESC_F_NEXT : 0),
                .next = cpu_to_le16(1),
            }, {
                .addr = cpu_to_le64(r->buf + 8192),
                .len = cpu_to_le32(bad->in_len),
                .flags = cpu_to_le16(VRING_DESC_F_WRITE),
            },
        };

        qtest_memwrite(a->qts, r->buf, &hdr, sizeof(hdr));
        qtest_memwrite(a->qts, r->buf + 8, payload, sizeof(payload));
        qtest_memwrite(a->qts, r->vq->desc, desc, sizeof(desc));
        qtest_writew(a->qts, r->vq->avail + 4 +
                     2 * (r->avail % r->vq->size), 0);
        qtest_writew(a->qts, r->vq->avail + 2, ++r->avail);
        a->f->d->bus->virtqueue_kick(a->f->d, r->vq);
        if (!(a->f->d->bus->get_status(a->f->d) &
              VIRTIO_CONFIG_S_NEEDS_RESET)) {
            g_error("%s did not break the device", bad->path);
        }
        g_assert_cmpuint(qtest_readw(a->qts, r->vq->used + 2), ==, r->used);
        qfabric_reset(a->f);
        node_driver(a, BASE_FEATURES);
        wait_state(a, 1, VIRTIO_FABRIC_UP);
        check_message(a, b, VIRTIO_FABRIC_CLASS_REQUEST, 40, i);
        check_message(b, a, VIRTIO_FABRIC_CLASS_REQUEST, 40, i);
    }
    machine_end();
}

/* The emulator of the other ISA, next to the one under test. */
static bool find_other_binary(void)
{
    const Isa *other = other_isa(native);
    const char *own = getenv("QTEST_QEMU_BINARY");
    g_autofree char *dir = g_path_get_dirname(own);
    g_autofree char *path = NULL;

    if (!getenv(other->binary_var)) {
        path = g_strdup_printf("%s/qemu-system-%s", dir, other->name);
        if (!g_file_test(path, G_FILE_TEST_IS_EXECUTABLE)) {
            return false;
        }
        g_setenv(other->binary_var, path, true);
    }
    return true;
}

/* Nothing runs it, but it must have the size of a ROM. */
static char *make_bios(void)
{
    static const char zeros[64 * KiB];
    char *path = g_strdup_printf("%s/bios.bin", run_dir);

    g_assert_true(g_file_set_contents(path, zeros, sizeof(zeros), NULL));
    return path;
}

int main(int argc, char **argv)
{
    const char *arch = qtest_get_arch();
    unsigned i;
    int ret;

    g_test_init(&argc, &argv, NULL);
    for (i = 0; i < ARRAY_SIZE(isas); i++) {
        if (strcmp(arch, isas[i].name) == 0) {
            native = &isas[i];
        }
    }
    if (!native) {
        g_test_message("no machine can have a node of %s", arch);
        return 0;
    }
    run_dir = g_dir_make_tmp("fabric-test-XXXXXX", NULL);
    g_assert_nonnull(run_dir);
    bios_path = make_bios();
    log_path = g_strdup_printf("%s/stderr.log", run_dir);

    qtest_add_func("/virtio-fabric/config", test_config);
    qtest_add_func("/virtio-fabric/extents", test_extents);
    qtest_add_func("/virtio-fabric/echo", test_echo);
    for (i = 0; i < ARRAY_SIZE(bad_args); i++) {
        g_autofree char *path = g_strdup_printf("/virtio-fabric/bad-args/%s",
                                                bad_args[i].path);

        qtest_add_data_func(path, &bad_args[i], test_bad_args);
    }
    qtest_add_func("/virtio-fabric/windows", test_windows);
    qtest_add_func("/virtio-fabric/messages", test_messages);
    qtest_add_func("/virtio-fabric/messages-event-idx",
                   test_messages_event_idx);
    qtest_add_func("/virtio-fabric/chains", test_chains);
    qtest_add_func("/virtio-fabric/three", test_three);
    if (find_other_binary()) {
        qtest_add_func("/virtio-fabric/mixed", test_mixed);
    }
    qtest_add_func("/virtio-fabric/doorbells", test_doorbells);
    qtest_add_func("/virtio-fabric/backpressure", test_backpressure);
    qtest_add_func("/virtio-fabric/pause", test_pause);
    qtest_add_func("/virtio-fabric/kill", test_kill);
    qtest_add_func("/virtio-fabric/reset", test_reset);
    qtest_add_func("/virtio-fabric/version", test_version);
    qtest_add_func("/virtio-fabric/monitor", test_monitor);
    qtest_add_data_func("/virtio-fabric/dsm/windows", test_windows, test_dsm);
    qtest_add_data_func("/virtio-fabric/dsm/messages", test_messages,
                        test_dsm);
    qtest_add_data_func("/virtio-fabric/dsm/three", test_three, test_dsm);
    qtest_add_data_func("/virtio-fabric/dsm/kill", test_kill, test_dsm);
    qtest_add_func("/virtio-fabric/bad-tx", test_bad_tx);
    qtest_add_func("/virtio-fabric/fuzz", test_fuzz);
    ret = g_test_run();

    g_unlink(bios_path);
    g_free(bios_path);
    g_unlink(log_path);
    g_free(log_path);
    g_rmdir(run_dir);
    g_free(run_dir);
    return ret;
}
