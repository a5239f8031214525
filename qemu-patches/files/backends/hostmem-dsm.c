/*
 * Memory backend whose memory other nodes of a machine see
 *
 * One object makes this process a node: it owns the libdsm handle, drives it
 * from the main loop and keeps what management asks about. The device that
 * shows the machine to the guest (virtio-fabric) is its only client.
 *
 * Locks: libdsm is called and calls back under the BQL. dsm_lock is a leaf
 * that guards what query-dsm reads without the BQL.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <elf.h>
#include "qapi/error.h"
#include "qapi/qapi-commands-dsm.h"
#include "qapi/qapi-commands-machine.h"
#include "qapi/qapi-events-dsm.h"
#include "qapi/qapi-visit-dsm.h"
#include "qapi/qapi-builtin-visit.h"
#include "qapi/type-helpers.h"
#include "qapi/visitor.h"
#include "qemu/error-report.h"
#include "qemu/cutils.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/stats64.h"
#include "qemu/units.h"
#include "hw/boards.h"
#include "hw/qdev-core.h"
#include "migration/blocker.h"
#include "monitor/monitor.h"
#include "qom/object_interfaces.h"
#include "system/cpu-timers.h"
#include "system/dsm.h"
#include "system/hostmem-dsm.h"
#include "system/system.h"
#include "system/tcg.h"
#include "trace.h"

QEMU_BUILD_BUG_ON((int)DSM_NODE_STATE_ABSENT != (int)DSM_PEER_ABSENT);
QEMU_BUILD_BUG_ON((int)DSM_NODE_STATE_UP != (int)DSM_PEER_UP);
QEMU_BUILD_BUG_ON((int)DSM_NODE_STATE_DOWN != (int)DSM_PEER_DOWN);
QEMU_BUILD_BUG_ON((int)DSM_NODE_STATE_FENCED != (int)DSM_PEER_FENCED);
QEMU_BUILD_BUG_ON((int)DSM_MESSAGE_CLASS_REPLY != (int)DSM_CLASS_REPLY);
QEMU_BUILD_BUG_ON((int)DSM_MESSAGE_CLASS_ACK != (int)DSM_CLASS_ACK);
QEMU_BUILD_BUG_ON((int)DSM_MESSAGE_CLASS_REQUEST != (int)DSM_CLASS_REQUEST);
QEMU_BUILD_BUG_ON((int)DSM_MESSAGE_CLASS_BULK != (int)DSM_CLASS_BULK);
QEMU_BUILD_BUG_ON((int)DSM_MESSAGE_CLASS__MAX != (int)DSM_NR_CLASSES);
QEMU_BUILD_BUG_ON((int)DSM_COHERENCE_MODE_DSM != (int)DSM_COHERENCE_PAGES);
QEMU_BUILD_BUG_ON((int)DSM_COHERENCE_MODE_SHARED !=
                  (int)DSM_COHERENCE_SHARED);

struct HostMemoryBackendDsm {
    HostMemoryBackend parent_obj;

    /* Properties as they were set; @machine is made of them. */
    char *machine_uuid;
    DsmCoherenceMode coherence;
    uint32_t self;
    DsmNodeOptionsList *nodes;
    uint32_t connect_retry_ms;
    uint32_t heartbeat_ms;
    uint32_t peer_timeout_ms;
    uint32_t poll_max_ns;
    bool prefetch;
    char *key_file;

    DsmMachine machine;
    struct dsm_key *key;
    struct dsm_node *node;
    DsmCollapser *collapser;
    const DsmClientOps *client;
    void *client_opaque;
    uint64_t doorbells[DSM_MAX_NODES]; /* rung while there was no client */

    Error *migration_blocker;
    Notifier exit_notifier;
    bool discard_disabled;

    /* Written under the BQL and dsm_lock, read under either. */
    uint8_t state[DSM_MAX_NODES];
    uint64_t rejected;
    char *rejected_reason;
};

#define DSM_SELF_UNSET UINT32_MAX
/* Several times what waking a thread costs. */
#define DSM_POLL_MAX_NS 200000

static QemuMutex dsm_lock;
/* The one node that a process can be; guarded by the BQL and dsm_lock. */
static HostMemoryBackendDsm *dsm_instance;
/* Set once, before the first vCPU thread exists. */
static bool dsm_is_active;
static Stat64 dsm_exclusive_steps;

bool dsm_active(void)
{
    return qatomic_read(&dsm_is_active);
}

void dsm_note_exclusive_step(void)
{
    if (!dsm_active()) {
        return;
    }
    stat64_add(&dsm_exclusive_steps, 1);
    warn_report_once("the guest used an atomic access that this host has no "
                     "instruction for; it was not atomic for other nodes");
}

/* libdsm's callbacks */

static bool dsm_backend_message(void *opaque, uint16_t from,
                                enum dsm_class cls, const void *data,
                                uint32_t len)
{
    HostMemoryBackendDsm *m = opaque;

    return m->client && m->client->message(m->client_opaque, from, cls, data,
                                           len);
}

static void dsm_backend_writable(void *opaque, uint16_t to, enum dsm_class cls)
{
    HostMemoryBackendDsm *m = opaque;

    if (m->client) {
        m->client->writable(m->client_opaque, to, cls);
    }
}

static void dsm_backend_doorbell(void *opaque, uint16_t from, uint64_t bits)
{
    HostMemoryBackendDsm *m = opaque;

    if (m->client) {
        m->client->doorbell(m->client_opaque, from, bits);
    } else {
        m->doorbells[from] |= bits;
    }
}

static void dsm_backend_set_state(HostMemoryBackendDsm *m, uint16_t peer,
                                  enum dsm_peer_state state,
                                  const char *reason)
{
    trace_hostmem_dsm_peer_state(peer, m->machine.node[peer].name,
                                 DsmNodeState_str(state), reason);
    WITH_QEMU_LOCK_GUARD(&dsm_lock) {
        m->state[peer] = state;
    }
    qapi_event_send_dsm_node_state(peer, m->machine.node[peer].name,
                                   (DsmNodeState)state, reason);
}

static void dsm_backend_peer_state(void *opaque, uint16_t peer,
                                   enum dsm_peer_state state,
                                   const char *reason)
{
    HostMemoryBackendDsm *m = opaque;

    dsm_backend_set_state(m, peer, state, reason);
    if (m->client) {
        m->client->peer_state(m->client_opaque, peer, state);
    }
}

static void dsm_backend_rejected(void *opaque, const char *reason)
{
    HostMemoryBackendDsm *m = opaque;
    bool repeated;

    trace_hostmem_dsm_rejected(reason);
    WITH_QEMU_LOCK_GUARD(&dsm_lock) {
        m->rejected++;
        repeated = g_strcmp0(m->rejected_reason, reason) == 0;
        if (!repeated) {
            g_free(m->rejected_reason);
            m->rejected_reason = g_strdup(reason);
        }
    }
    /* A stranger who tries again and again must not fill the log. */
    if (!repeated) {
        warn_report("a connection to node %s was refused: %s",
                    m->machine.node[m->machine.self].name, reason);
    }
}

static const struct dsm_ops dsm_backend_ops = {
    .message = dsm_backend_message,
    .writable = dsm_backend_writable,
    .doorbell = dsm_backend_doorbell,
    .peer_state = dsm_backend_peer_state,
    .rejected = dsm_backend_rejected,
};

static void dsm_backend_dispatch(void *opaque)
{
    HostMemoryBackendDsm *m = opaque;

    dsm_node_dispatch(m->node);
}

/* For the client */

bool memory_backend_dsm_set_client(HostMemoryBackendDsm *m,
                                   const DsmClientOps *ops, void *opaque,
                                   Error **errp)
{
    uint16_t i;
    enum dsm_class cls;

    if (ops && m->client) {
        error_setg(errp, "memory-backend-dsm '%s' has a device already",
                   object_get_canonical_path_component(OBJECT(m)));
        return false;
    }
    m->client = ops;
    m->client_opaque = opaque;
    if (!ops) {
        return true;
    }
    for (i = 0; i < m->machine.nr_nodes; i++) {
        if (i == m->machine.self) {
            continue;
        }
        if (m->state[i] != DSM_PEER_ABSENT) {
            ops->peer_state(opaque, i, m->state[i]);
        }
        if (m->doorbells[i]) {
            ops->doorbell(opaque, i, m->doorbells[i]);
            m->doorbells[i] = 0;
        }
        for (cls = 0; cls < DSM_NR_CLASSES; cls++) {
            dsm_resume(m->node, i, cls);
        }
    }
    return true;
}

struct dsm_node *memory_backend_dsm_node(HostMemoryBackendDsm *m)
{
    return m->node;
}

const DsmMachine *memory_backend_dsm_machine(HostMemoryBackendDsm *m)
{
    return &m->machine;
}

int memory_backend_dsm_fence(HostMemoryBackendDsm *m, uint16_t peer)
{
    int ret = dsm_peer_fence(m->node, peer);

    if (ret == 0) {
        dsm_pages_detached(peer);
        dsm_shared_detached(peer);
        dsm_backend_set_state(m, peer, DSM_PEER_FENCED, "");
    }
    return ret;
}

/* Start and end */

static const struct {
    SysEmuTarget isa;
    uint16_t elf_machine;
} dsm_isas[] = {
    { SYS_EMU_TARGET_X86_64, EM_X86_64 },
    { SYS_EMU_TARGET_AARCH64, EM_AARCH64 },
};

static bool dsm_isa_to_elf_machine(SysEmuTarget isa, uint16_t *elf_machine)
{
    int i;

    for (i = 0; i < ARRAY_SIZE(dsm_isas); i++) {
        if (dsm_isas[i].isa == isa) {
            *elf_machine = dsm_isas[i].elf_machine;
            return true;
        }
    }
    return false;
}

static SysEmuTarget dsm_isa_from_elf_machine(uint16_t elf_machine)
{
    int i;

    for (i = 0; i < ARRAY_SIZE(dsm_isas); i++) {
        if (dsm_isas[i].elf_machine == elf_machine) {
            return dsm_isas[i].isa;
        }
    }
    g_assert_not_reached();
}

/* What has no place beside other nodes' access to the same memory. */
static bool dsm_backend_check_host(HostMemoryBackend *backend, Error **errp)
{
    if (phase_check(PHASE_MACHINE_INITIALIZED)) {
        error_setg(errp, "it cannot be added to a machine that is running");
        return false;
    }
    if (dsm_instance) {
        error_setg(errp, "there is one already, and a process can be one node "
                   "only");
        return false;
    }
    if (!backend->share) {
        error_setg(errp, "share=off: other nodes could not map it");
        return false;
    }
    if (backend->prealloc) {
        error_setg(errp, "prealloc=on is not possible");
        return false;
    }
    if (backend->merge) {
        error_setg(errp, "merge=on is not possible");
        return false;
    }
    if (backend->guest_memfd) {
        error_setg(errp, "private guest memory is not possible");
        return false;
    }
    if (icount_enabled()) {
        error_setg(errp, "icount is not possible: other nodes do not follow "
                   "its clock");
        return false;
    }
    if (tcg_enabled() && !qemu_tcg_mttcg_enabled()) {
        error_setg(errp, "-accel tcg,thread=multi is needed: a single "
                   "thread's atomics are not atomic for other nodes");
        return false;
    }
    return true;
}

static bool dsm_backend_check_node(HostMemoryBackendDsm *m, unsigned i,
                                   const DsmNodeOptions *opt, Error **errp)
{
    DsmMachine *machine = &m->machine;
    struct dsm_node_desc *desc = &machine->node[i];
    size_t name_len = strlen(opt->name);
    unsigned k;

    if (name_len == 0 || name_len >= DSM_NAME_BYTES) {
        error_setg(errp, "nodes.%u.name '%s' must have 1 to %d characters",
                   i, opt->name, DSM_NAME_BYTES - 1);
        return false;
    }
    for (k = 0; k < i; k++) {
        if (strcmp(machine->node[k].name, opt->name) == 0) {
            error_setg(errp, "nodes.%u.name '%s' is also the name of "
                       "nodes.%u", i, opt->name, k);
            return false;
        }
    }
    if (!dsm_isa_to_elf_machine(opt->isa, &desc->elf_machine)) {
        error_setg(errp, "nodes.%u.isa '%s' cannot be part of a machine "
                   "(possible: x86_64, aarch64)",
                   i, SysEmuTarget_str(opt->isa));
        return false;
    }
    if (opt->cpus == 0) {
        error_setg(errp, "nodes.%u.cpus must not be 0", i);
        return false;
    }
    if (opt->size == 0 ||
        !QEMU_IS_ALIGNED(opt->size, qemu_real_host_page_size())) {
        error_setg(errp, "nodes.%u.size %" PRIu64 " is not a multiple of the "
                   "page size, %zu", i, opt->size,
                   (size_t)qemu_real_host_page_size());
        return false;
    }
    if (!g_str_has_prefix(opt->address, "unix:") &&
        !g_str_has_prefix(opt->address, "tcp:")) {
        error_setg(errp, "nodes.%u.address '%s' is neither unix:PATH nor "
                   "tcp:HOST:PORT", i, opt->address);
        return false;
    }
    if (!m->key_file && dsm_address_needs_key(opt->address)) {
        error_setg(errp, "nodes.%u.address '%s' is not on this host's "
                   "loopback: links to it must be authenticated and "
                   "encrypted, which needs key-file", i, opt->address);
        return false;
    }
    pstrcpy(desc->name, sizeof(desc->name), opt->name);
    desc->cpus = opt->cpus;
    desc->ram_bytes = opt->size;
    desc->address = opt->address; /* belongs to m->nodes */
    return true;
}

static bool dsm_backend_check_machine(HostMemoryBackendDsm *m, Error **errp)
{
    HostMemoryBackend *backend = MEMORY_BACKEND(m);
    g_autoptr(TargetInfo) target = qmp_query_target(&error_abort);
    MachineState *ms = MACHINE(qdev_get_machine());
    DsmMachine *machine = &m->machine;
    DsmNodeOptionsList *l;
    const DsmNodeOptions *self = NULL;
    unsigned i = 0;

    if (!m->machine_uuid) {
        error_setg(errp, "machine-uuid is missing");
        return false;
    }
    if (qemu_uuid_parse(m->machine_uuid, &machine->uuid) < 0) {
        error_setg(errp, "machine-uuid '%s' is not a UUID", m->machine_uuid);
        return false;
    }
    if (!m->nodes) {
        error_setg(errp, "nodes is missing or empty");
        return false;
    }
    for (l = m->nodes; l; l = l->next, i++) {
        if (i == DSM_MAX_NODES) {
            error_setg(errp, "nodes has more than %d elements", DSM_MAX_NODES);
            return false;
        }
        if (!dsm_backend_check_node(m, i, l->value, errp)) {
            return false;
        }
        if (i == m->self) {
            self = l->value;
        }
    }
    if (m->self == DSM_SELF_UNSET) {
        error_setg(errp, "self is missing");
        return false;
    }
    if (!self) {
        error_setg(errp, "self is %" PRIu32 ", but nodes has %u elements",
                   m->self, i);
        return false;
    }
    if (self->isa != target->arch) {
        error_setg(errp, "nodes.%" PRIu32 ".isa is %s, but this is %s",
                   m->self, SysEmuTarget_str(self->isa),
                   SysEmuTarget_str(target->arch));
        return false;
    }
    if (self->size != backend->size) {
        error_setg(errp, "size is %" PRIu64 ", but nodes.%" PRIu32 ".size "
                   "is %" PRIu64, backend->size, m->self, self->size);
        return false;
    }
    if (self->cpus != ms->smp.cpus) {
        error_setg(errp, "nodes.%" PRIu32 ".cpus is %" PRIu32 ", but this "
                   "node has %u (see -smp)", m->self, self->cpus,
                   ms->smp.cpus);
        return false;
    }
    machine->coherence = m->coherence;
    machine->prefetch = m->prefetch;
    machine->self = m->self;
    machine->nr_nodes = i;
    return true;
}

static bool dsm_backend_load_key(HostMemoryBackendDsm *m, Error **errp)
{
    char reason[DSM_REASON_BYTES];

    if (m->key_file && dsm_key_load(m->key_file, &m->key, reason) < 0) {
        error_setg(errp, "key-file '%s': %s", m->key_file, reason);
        return false;
    }
    return true;
}

static bool dsm_backend_create_node(HostMemoryBackendDsm *m, Error **errp)
{
    const DsmMachine *machine = &m->machine;
    struct dsm_config config = {
        .coherence = (enum dsm_coherence)machine->coherence,
        .self = machine->self,
        .nr_nodes = machine->nr_nodes,
        .nodes = machine->node,
        .key = m->key,
        .connect_retry_ms = m->connect_retry_ms,
        .heartbeat_ms = m->heartbeat_ms,
        .peer_timeout_ms = m->peer_timeout_ms,
    };
    const char *why;
    int ret;

    QEMU_BUILD_BUG_ON(sizeof(config.machine_uuid) != sizeof(machine->uuid));
    memcpy(config.machine_uuid, &machine->uuid, sizeof(config.machine_uuid));

    if (machine->coherence == DSM_COHERENCE_MODE_DSM) {
        ret = dsm_pages_available(&why);
        if (ret < 0) {
            error_setg_errno(errp, -ret, "coherence=dsm is not possible: %s",
                             why);
            return false;
        }
    } else if (machine->nr_nodes > 1) {
        if (dsm_pages_available(&why) < 0) {
            warn_report("code that other nodes write cannot be executed: %s",
                        why);
        } else {
            config.code = m->machine.code = true;
        }
    }
    ret = dsm_node_create(&config, &dsm_backend_ops, m, &m->node);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "cannot create node '%s' with %" PRIu64
                         " bytes of memory",
                         machine->node[machine->self].name,
                         machine->node[machine->self].ram_bytes);
        return false;
    }
    return true;
}

bool dsm_region_init_ram(MemoryRegion *mr, Object *owner, const char *name,
                         const DsmMachine *machine, struct dsm_node *node,
                         uint16_t i, uint32_t ram_flags, Error **errp)
{
    g_autofree char *path = NULL;
    int fd = dsm_region_fd(node, i);

    if (fd < 0) {
        error_setg_errno(errp, -fd, "cannot get at the memory of node '%s'",
                         machine->node[i].name);
        return false;
    }
    /*
     * By path, because memory_region_init_ram_from_fd() takes no alignment.
     * The RAM block has a descriptor of its own then.
     */
    path = g_strdup_printf("/proc/self/fd/%d", fd);
    if (!memory_region_init_ram_from_file(mr, owner, name,
                                          machine->node[i].ram_bytes,
                                          DSM_HUGE_PAGE,
                                          RAM_SHARED | ram_flags, path, 0,
                                          errp)) {
        return false;
    }
    if (machine->coherence == DSM_COHERENCE_MODE_SHARED) {
        return !machine->code ||
               dsm_shared_attach(mr, machine, node, i, errp);
    }
    return dsm_pages_attach(mr, machine, node, i, errp);
}

static bool dsm_backend_init_memory(HostMemoryBackendDsm *m, Error **errp)
{
    HostMemoryBackend *backend = MEMORY_BACKEND(m);
    g_autofree char *name = host_memory_backend_get_name(backend);

    backend->aligned = true;
    /*
     * RAM_NAMED_FILE: the memory has a life outside this process, which is
     * what x-ignore-shared wants to know.
     */
    return dsm_region_init_ram(&backend->mr, OBJECT(m), name, &m->machine,
                               m->node, m->machine.self, RAM_NAMED_FILE |
                               (backend->reserve ? 0 : RAM_NORESERVE), errp);
}

/* Leaves the machine; the memory stays mapped. */
static void dsm_backend_leave(HostMemoryBackendDsm *m)
{
    struct dsm_node *node = m->node;

    if (!node) {
        return;
    }
    dsm_idle_stop();
    WITH_QEMU_LOCK_GUARD(&dsm_lock) {
        if (dsm_instance == m) {
            dsm_instance = NULL;
        }
        m->node = NULL;
    }
    dsm_node_destroy(node);
}

static void dsm_backend_exit(Notifier *notifier, void *data)
{
    HostMemoryBackendDsm *m = container_of(notifier, HostMemoryBackendDsm,
                                           exit_notifier);

    dsm_backend_leave(m);
}

static bool dsm_backend_setup(HostMemoryBackendDsm *m, Error **errp)
{
    int ret;

    if (!dsm_backend_check_host(MEMORY_BACKEND(m), errp) ||
        !dsm_backend_check_machine(m, errp) ||
        !dsm_backend_load_key(m, errp) ||
        !dsm_backend_create_node(m, errp) ||
        (m->coherence == DSM_COHERENCE_MODE_DSM &&
         !dsm_pages_start(&m->machine, errp))) {
        return false;
    }
    if (m->machine.code) {
        dsm_shared_start(&m->machine, m->node);
    }
    if (!dsm_backend_init_memory(m, errp)) {
        return false;
    }

    ret = ram_block_discard_disable(true);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "something else needs to discard guest "
                         "memory");
        return false;
    }
    m->discard_disabled = true;

    error_setg(&m->migration_blocker, "memory-backend-dsm: other nodes change "
               "this node's memory without QEMU's knowledge");
    if (migrate_add_blocker(&m->migration_blocker, errp) < 0) {
        return false;
    }

    ret = dsm_node_start(m->node);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "cannot listen at nodes.%u.address '%s'",
                         m->machine.self,
                         m->machine.node[m->machine.self].address);
        return false;
    }
    return true;
}

static bool dsm_backend_memory_alloc(HostMemoryBackend *backend, Error **errp)
{
    ERRP_GUARD();
    HostMemoryBackendDsm *m = MEMORY_BACKEND_DSM(backend);

    if (!dsm_backend_setup(m, errp) ||
        !dsm_idle_start(dsm_node_fd(m->node), m->poll_max_ns,
                        dsm_backend_dispatch, m, errp)) {
        error_prepend(errp, "memory-backend-dsm '%s': ",
                      object_get_canonical_path_component(OBJECT(m)));
        return false;
    }

    m->state[m->machine.self] = DSM_PEER_UP;
    WITH_QEMU_LOCK_GUARD(&dsm_lock) {
        dsm_instance = m;
    }
    qatomic_set(&dsm_is_active, true);
    m->collapser = dsm_collapser_start(
        memory_region_get_fd(&backend->mr),
        memory_region_get_ram_ptr(&backend->mr), backend->size);
    m->exit_notifier.notify = dsm_backend_exit;
    qemu_add_exit_notifier(&m->exit_notifier);
    return true;
}

static void dsm_backend_finalize(Object *obj)
{
    HostMemoryBackendDsm *m = MEMORY_BACKEND_DSM(obj);

    if (m->exit_notifier.notify) {
        qemu_remove_exit_notifier(&m->exit_notifier);
    }
    dsm_backend_leave(m);
    dsm_collapser_stop(m->collapser);
    if (m->discard_disabled) {
        ram_block_discard_disable(false);
    }
    migrate_del_blocker(&m->migration_blocker);
    dsm_key_free(m->key);
    qapi_free_DsmNodeOptionsList(m->nodes);
    g_free(m->key_file);
    g_free(m->machine_uuid);
    g_free(m->rejected_reason);
}

/* Management */

static DsmNodeInfo *dsm_query_node(HostMemoryBackendDsm *m, uint16_t i)
{
    const struct dsm_node_desc *desc = &m->machine.node[i];
    DsmNodeInfo *info = g_new0(DsmNodeInfo, 1);
    struct dsm_link_stats st = { };
    DsmClassInfoList **class_tail = &info->classes;
    uint64List **rtt_tail = &info->ping_rtt_ns;
    int k;

    info->name = g_strdup(desc->name);
    info->isa = dsm_isa_from_elf_machine(desc->elf_machine);
    info->cpus = desc->cpus;
    info->size = desc->ram_bytes;
    info->address = g_strdup(desc->address);
    info->state = m->state[i];
    info->region = m->coherence == DSM_COHERENCE_MODE_DSM
                   ? dsm_pages_query(m->node, i) : NULL;

    if (i != m->machine.self && dsm_link_stats(m->node, i, &st) == 0) {
        for (k = 0; k < DSM_NR_CLASSES; k++) {
            DsmClassInfo *c = g_new0(DsmClassInfo, 1);

            c->q_class = k;
            c->messages_sent = st.messages_sent[k];
            c->messages_received = st.messages_received[k];
            c->sends_refused = st.sends_refused[k];
            c->deliveries_refused = st.deliveries_refused[k];
            c->credits_left = st.credits_left[k];
            c->queued = st.queued_in[k];
            QAPI_LIST_APPEND(class_tail, c);
            info->messages_sent += c->messages_sent;
            info->messages_received += c->messages_received;
        }
        for (k = 0; k < DSM_HISTOGRAM_BUCKETS; k++) {
            QAPI_LIST_APPEND(rtt_tail, st.ping_rtt_ns[k]);
        }
    }
    st.down_reason[sizeof(st.down_reason) - 1] = '\0';
    info->reason = g_strdup(st.down_reason);
    info->bytes_sent = st.bytes_sent;
    info->bytes_received = st.bytes_received;
    info->doorbells_sent = st.doorbells_sent;
    info->doorbell_frames_sent = st.doorbell_frames_sent;
    info->doorbell_frames_received = st.doorbell_frames_received;
    info->protocol_errors = st.protocol_errors;
    return info;
}

/* Runs out of band: no BQL. */
DsmInfo *qmp_query_dsm(Error **errp)
{
    DsmInfo *info = g_new0(DsmInfo, 1);
    DsmNodeInfoList **tail = &info->nodes;
    HostMemoryBackendDsm *m;
    uint16_t i;

    QEMU_LOCK_GUARD(&dsm_lock);
    m = dsm_instance;
    info->exclusive_steps = stat64_get(&dsm_exclusive_steps);
    info->rejected_reason = g_strdup(m && m->rejected_reason ?
                                     m->rejected_reason : "");
    if (!m) {
        return info;
    }
    info->node = m->machine.self;
    info->machine_uuid = qemu_uuid_unparse_strdup(&m->machine.uuid);
    info->has_coherence = true;
    info->coherence = m->machine.coherence;
    info->rejected = m->rejected;
    info->zeroed_pages = dsm_pages_zeroed_pages();
    info->memory_errors = dsm_lost_nr_errors();
    for (i = 0; i < m->machine.nr_nodes; i++) {
        QAPI_LIST_APPEND(tail, dsm_query_node(m, i));
    }
    return info;
}

static HumanReadableText *dsm_hmp_info_dsm(Error **errp)
{
    g_autoptr(GString) buf = g_string_new("");
    g_autoptr(DsmInfo) info = qmp_query_dsm(errp);
    DsmNodeInfoList *l;
    DsmClassInfoList *c;
    unsigned i = 0;

    if (!info->nodes) {
        g_string_append(buf, "no memory-backend-dsm\n");
        return human_readable_text_from_str(buf);
    }
    g_string_append_printf(buf, "machine %s, coherence %s, node %u\n",
                           info->machine_uuid,
                           DsmCoherenceMode_str(info->coherence), info->node);
    g_string_append_printf(buf, "exclusive steps %" PRIu64 ", connections "
                           "refused %" PRIu64 "%s%s\n",
                           info->exclusive_steps, info->rejected,
                           info->rejected ? ", the last: " : "",
                           info->rejected_reason);
    for (l = info->nodes; l; l = l->next, i++) {
        DsmNodeInfo *n = l->value;

        g_string_append_printf(buf, "node %u %s: %s, %u CPUs, %" PRIu64
                               " MiB, %s%s%s\n", i, n->name,
                               SysEmuTarget_str(n->isa), n->cpus,
                               n->size / MiB, DsmNodeState_str(n->state),
                               n->reason[0] ? ": " : "", n->reason);
        if (n->region) {
            const DsmRegionInfo *r = n->region;

            g_string_append_printf(buf, "  pages shared %" PRIu64
                                   " modified %" PRIu64 " waiting %" PRIu64
                                   " lost %" PRIu64 ", received %" PRIu64
                                   " sent %" PRIu64 "\n"
                                   "  faults read %" PRIu64 " write %" PRIu64
                                   " local %" PRIu64 ", upgrades %" PRIu64
                                   ", invalidations %" PRIu64
                                   ", prefetched %" PRIu64 " (wasted %" PRIu64
                                   ")\n",
                                   r->pages_shared, r->pages_modified,
                                   r->pages_waiting, r->pages_lost,
                                   r->pages_received, r->pages_sent,
                                   r->read_faults, r->write_faults,
                                   r->local_faults, r->upgrades,
                                   r->invalidations, r->prefetched,
                                   r->prefetch_wasted);
        }
        if (!n->classes) {
            continue;
        }
        g_string_append_printf(buf, "  bytes sent %" PRIu64 " received %"
                               PRIu64 ", doorbells sent %" PRIu64 " (%" PRIu64
                               " frames) received %" PRIu64 " frames, "
                               "protocol errors %" PRIu64 "\n",
                               n->bytes_sent, n->bytes_received,
                               n->doorbells_sent, n->doorbell_frames_sent,
                               n->doorbell_frames_received,
                               n->protocol_errors);
        for (c = n->classes; c; c = c->next) {
            DsmClassInfo *k = c->value;

            g_string_append_printf(buf, "  %-7s sent %" PRIu64 " received %"
                                   PRIu64 " refused %" PRIu64 "/%" PRIu64
                                   " credits %u queued %u\n",
                                   DsmMessageClass_str(k->q_class),
                                   k->messages_sent, k->messages_received,
                                   k->sends_refused, k->deliveries_refused,
                                   k->credits_left, k->queued);
        }
    }
    return human_readable_text_from_str(buf);
}

static HumanReadableText *dsm_hmp_info_fabric(Error **errp)
{
    g_autoptr(GString) buf = g_string_new("");
    HostMemoryBackendDsm *m = dsm_instance;

    if (m && m->client) {
        m->client->info(m->client_opaque, buf);
    } else {
        g_string_append(buf, "no virtio-fabric device\n");
    }
    return human_readable_text_from_str(buf);
}

/* Properties */

static bool dsm_backend_is_settable(Object *obj, const char *name,
                                    Error **errp)
{
    if (host_memory_backend_mr_inited(MEMORY_BACKEND(obj))) {
        error_setg(errp, "cannot change property '%s' of %s", name,
                   object_get_typename(obj));
        return false;
    }
    return true;
}

static void dsm_backend_get_nodes(Object *obj, Visitor *v, const char *name,
                                  void *opaque, Error **errp)
{
    HostMemoryBackendDsm *m = MEMORY_BACKEND_DSM(obj);

    visit_type_DsmNodeOptionsList(v, name, &m->nodes, errp);
}

static void dsm_backend_set_nodes(Object *obj, Visitor *v, const char *name,
                                  void *opaque, Error **errp)
{
    HostMemoryBackendDsm *m = MEMORY_BACKEND_DSM(obj);
    DsmNodeOptionsList *nodes;

    if (!dsm_backend_is_settable(obj, name, errp) ||
        !visit_type_DsmNodeOptionsList(v, name, &nodes, errp)) {
        return;
    }
    qapi_free_DsmNodeOptionsList(m->nodes);
    m->nodes = nodes;
}

static char *dsm_backend_get_machine_uuid(Object *obj, Error **errp)
{
    return g_strdup(MEMORY_BACKEND_DSM(obj)->machine_uuid);
}

static void dsm_backend_set_machine_uuid(Object *obj, const char *value,
                                         Error **errp)
{
    HostMemoryBackendDsm *m = MEMORY_BACKEND_DSM(obj);

    if (dsm_backend_is_settable(obj, "machine-uuid", errp)) {
        g_free(m->machine_uuid);
        m->machine_uuid = g_strdup(value);
    }
}

static char *dsm_backend_get_key_file(Object *obj, Error **errp)
{
    return g_strdup(MEMORY_BACKEND_DSM(obj)->key_file);
}

static void dsm_backend_set_key_file(Object *obj, const char *value,
                                     Error **errp)
{
    HostMemoryBackendDsm *m = MEMORY_BACKEND_DSM(obj);

    if (dsm_backend_is_settable(obj, "key-file", errp)) {
        g_free(m->key_file);
        m->key_file = g_strdup(value);
    }
}

static int dsm_backend_get_coherence(Object *obj, Error **errp)
{
    return MEMORY_BACKEND_DSM(obj)->coherence;
}

static void dsm_backend_set_coherence(Object *obj, int value, Error **errp)
{
    if (dsm_backend_is_settable(obj, "coherence", errp)) {
        MEMORY_BACKEND_DSM(obj)->coherence = value;
    }
}

static void dsm_backend_get_uint32(Object *obj, Visitor *v, const char *name,
                                   void *opaque, Error **errp)
{
    uint32_t *field = (void *)obj + (uintptr_t)opaque;

    visit_type_uint32(v, name, field, errp);
}

static void dsm_backend_set_uint32(Object *obj, Visitor *v, const char *name,
                                   void *opaque, Error **errp)
{
    uint32_t *field = (void *)obj + (uintptr_t)opaque;
    uint32_t value;

    if (dsm_backend_is_settable(obj, name, errp) &&
        visit_type_uint32(v, name, &value, errp)) {
        *field = value;
    }
}

static bool dsm_backend_get_prefetch(Object *obj, Error **errp)
{
    return MEMORY_BACKEND_DSM(obj)->prefetch;
}

static void dsm_backend_set_prefetch(Object *obj, bool value, Error **errp)
{
    if (dsm_backend_is_settable(obj, "prefetch", errp)) {
        MEMORY_BACKEND_DSM(obj)->prefetch = value;
    }
}

static void dsm_backend_add_uint32(ObjectClass *oc, const char *name,
                                   size_t offset, const char *description)
{
    object_class_property_add(oc, name, "uint32", dsm_backend_get_uint32,
                              dsm_backend_set_uint32, NULL, (void *)offset);
    object_class_property_set_description(oc, name, description);
}

static void dsm_backend_instance_init(Object *obj)
{
    HostMemoryBackend *backend = MEMORY_BACKEND(obj);
    HostMemoryBackendDsm *m = MEMORY_BACKEND_DSM(obj);

    backend->share = true;
    backend->merge = false;
    m->self = DSM_SELF_UNSET;
    m->poll_max_ns = DSM_POLL_MAX_NS;
    m->prefetch = true;
}

static void dsm_backend_class_init(ObjectClass *oc, void *data)
{
    HostMemoryBackendClass *bc = MEMORY_BACKEND_CLASS(oc);

    bc->alloc = dsm_backend_memory_alloc;

    object_class_property_add_str(oc, "machine-uuid",
                                  dsm_backend_get_machine_uuid,
                                  dsm_backend_set_machine_uuid);
    object_class_property_set_description(oc, "machine-uuid",
        "Identity of the machine, the same on all its nodes");
    object_class_property_add_str(oc, "key-file", dsm_backend_get_key_file,
                                  dsm_backend_set_key_file);
    object_class_property_set_description(oc, "key-file",
        "File of the key that authenticates and encrypts links by TCP");
    object_class_property_add_enum(oc, "coherence", "DsmCoherenceMode",
                                   &DsmCoherenceMode_lookup,
                                   dsm_backend_get_coherence,
                                   dsm_backend_set_coherence);
    object_class_property_set_description(oc, "coherence",
        "How the nodes' memory is kept coherent");
    object_class_property_add_bool(oc, "prefetch", dsm_backend_get_prefetch,
                                   dsm_backend_set_prefetch);
    object_class_property_set_description(oc, "prefetch",
        "Whether coherence=dsm fetches ahead of sequential and strided reads");
    object_class_property_add(oc, "nodes", "DsmNodeOptionsList",
                              dsm_backend_get_nodes, dsm_backend_set_nodes,
                              NULL, NULL);
    object_class_property_set_description(oc, "nodes",
        "All nodes of the machine, the same list on all of them");
    dsm_backend_add_uint32(oc, "self", offsetof(HostMemoryBackendDsm, self),
        "Index of this node in nodes");
    dsm_backend_add_uint32(oc, "connect-retry-ms",
        offsetof(HostMemoryBackendDsm, connect_retry_ms),
        "Time between two attempts to reach a node (0: libdsm's default)");
    dsm_backend_add_uint32(oc, "heartbeat-ms",
        offsetof(HostMemoryBackendDsm, heartbeat_ms),
        "Silence of a node before it is asked (0: libdsm's default)");
    dsm_backend_add_uint32(oc, "peer-timeout-ms",
        offsetof(HostMemoryBackendDsm, peer_timeout_ms),
        "Silence of a node before it counts as lost (0: libdsm's default)");
    dsm_backend_add_uint32(oc, "poll-max-ns",
        offsetof(HostMemoryBackendDsm, poll_max_ns),
        "How long an idle vCPU polls for messages at most before it blocks");
}

static const TypeInfo dsm_backend_info = {
    .name = TYPE_MEMORY_BACKEND_DSM,
    .parent = TYPE_MEMORY_BACKEND,
    .instance_init = dsm_backend_instance_init,
    .instance_finalize = dsm_backend_finalize,
    .class_init = dsm_backend_class_init,
    .instance_size = sizeof(HostMemoryBackendDsm),
};

static void dsm_backend_register_types(void)
{
    qemu_mutex_init(&dsm_lock);
    type_register_static(&dsm_backend_info);
    monitor_register_hmp_info_hrt("dsm", dsm_hmp_info_dsm);
    monitor_register_hmp_info_hrt("fabric", dsm_hmp_info_fabric);
}

type_init(dsm_backend_register_types);
