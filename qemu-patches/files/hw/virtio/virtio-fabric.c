/*
 * Virtio fabric: windows, messages and doorbells between nodes of a machine
 *
 * The ABI is in virtio_fabric.h, its description in docs/virtio-fabric.md.
 *
 * Everything here runs under the BQL: kicks of the guest in the thread of the
 * vCPU that kicked, what comes from other nodes in the main loop. A message
 * takes no other thread and no bottom half on its way.
 *
 * The guest is not trusted. What it gives is checked before it is used, and
 * a violation makes the device broken until the guest resets it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "exec/address-spaces.h"
#include "hw/qdev-properties.h"
#include "hw/virtio/virtio-fabric.h"
#include "hw/virtio/virtio-bus.h"
#include "migration/vmstate.h"
#include "monitor/monitor.h"
#include "qapi/error.h"
#include "qemu/bitops.h"
#include "qemu/error-report.h"
#include "qemu/host-utils.h"
#include "qemu/iov.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/rcu.h"
#include "qemu/units.h"
#include "system/system.h"
#include "trace.h"

#define FABRIC_QUEUE_SIZE 256
#define FABRIC_EVENT_QUEUE_SIZE 64
#define FABRIC_ECHO_QUEUE_SIZE 16

/*
 * Windows begin where a guest can map them with huge pages: at their own
 * size, but not less than x86's and arm64's first huge page size and not
 * more than the second.
 */
#define FABRIC_WINDOW_ALIGN_MIN (2 * MiB)
#define FABRIC_WINDOW_ALIGN_MAX (1 * GiB)
/* What a PCI BAR of a guest can hold: below any guest's physical limit. */
#define FABRIC_WINDOWS_MAX (1ULL << 46)

QEMU_BUILD_BUG_ON(VIRTIO_FABRIC_MAX_NODES != DSM_MAX_NODES);
QEMU_BUILD_BUG_ON(VIRTIO_FABRIC_MAX_PAYLOAD != DSM_MAX_MESSAGE_BYTES);
QEMU_BUILD_BUG_ON(VIRTIO_FABRIC_NAME_BYTES != DSM_NAME_BYTES);
QEMU_BUILD_BUG_ON(VIRTIO_FABRIC_NR_CLASSES != (int)DSM_NR_CLASSES);
QEMU_BUILD_BUG_ON(VIRTIO_FABRIC_CLASS_REPLY != (int)DSM_CLASS_REPLY);
QEMU_BUILD_BUG_ON(VIRTIO_FABRIC_CLASS_ACK != (int)DSM_CLASS_ACK);
QEMU_BUILD_BUG_ON(VIRTIO_FABRIC_CLASS_REQUEST != (int)DSM_CLASS_REQUEST);
QEMU_BUILD_BUG_ON(VIRTIO_FABRIC_CLASS_BULK != (int)DSM_CLASS_BULK);
QEMU_BUILD_BUG_ON((int)VIRTIO_FABRIC_ABSENT != (int)DSM_PEER_ABSENT);
QEMU_BUILD_BUG_ON((int)VIRTIO_FABRIC_UP != (int)DSM_PEER_UP);
QEMU_BUILD_BUG_ON((int)VIRTIO_FABRIC_DOWN != (int)DSM_PEER_DOWN);
QEMU_BUILD_BUG_ON((int)VIRTIO_FABRIC_FENCED != (int)DSM_PEER_FENCED);
QEMU_BUILD_BUG_ON(sizeof(struct virtio_fabric_hdr) != 8);
QEMU_BUILD_BUG_ON(sizeof(struct virtio_fabric_node) != 56);
/* The transport gives the device's configuration 4 KiB. */
QEMU_BUILD_BUG_ON(sizeof(struct virtio_fabric_config) > 4096);

/* A tx buffer of the guest, with what its header said when it was checked. */
struct FabricTx {
    VirtQueueElement elem; /* first: virtqueue_pop() allocates both */
    uint32_t len;
    QSIMPLEQ_ENTRY(FabricTx) next;
};

/*
 * Windows
 *
 * A window is an object of its own because the address space may refer to it
 * for a while after it was taken out: vCPUs hold RCU, DMA holds references.
 * The last reference releases the RAM block, whose memory is unmapped after
 * one more grace period; callbacks of call_rcu() run in order, so the one
 * queued by the window's finalizer finds it done.
 *
 *   fence: del_subregion -> last unref -> RCU: munmap -> RCU: schedule
 *          -> main loop: dsm_peer_fence(), FENCED
 */

#define TYPE_FABRIC_WINDOW "virtio-fabric-window"
OBJECT_DECLARE_SIMPLE_TYPE(FabricWindow, FABRIC_WINDOW)

struct FabricWindow {
    Object parent_obj;
    MemoryRegion mr;
    VirtIOFabric *fenced_for; /* reference; NULL unless it is being fenced */
    uint16_t node;
};

typedef struct FabricFence {
    struct rcu_head rcu;
    VirtIOFabric *s; /* reference */
    uint16_t node;
} FabricFence;

static void virtio_fabric_fenced(VirtIOFabric *s, uint16_t node);

static void fabric_fence_done(void *opaque)
{
    FabricFence *f = opaque;

    virtio_fabric_fenced(f->s, f->node);
    object_unref(OBJECT(f->s));
    g_free(f);
}

static void fabric_fence_unmapped(FabricFence *f)
{
    aio_bh_schedule_oneshot(qemu_get_aio_context(), fabric_fence_done, f);
}

static void fabric_window_finalize(Object *obj)
{
    FabricWindow *w = FABRIC_WINDOW(obj);
    FabricFence *f;

    if (w->fenced_for) {
        f = g_new0(FabricFence, 1);
        f->s = w->fenced_for;
        f->node = w->node;
        call_rcu(f, fabric_fence_unmapped, rcu);
    }
}

static bool virtio_fabric_map_window(VirtIOFabric *s, uint16_t node,
                                     Error **errp)
{
    FabricPeer *peer = &s->peer[node];
    const struct dsm_node_desc *desc = &s->machine->node[node];
    g_autofree char *name = g_strdup_printf("fabric-window-%s", desc->name);
    FabricWindow *w;

    w = FABRIC_WINDOW(object_new(TYPE_FABRIC_WINDOW));
    w->node = node;
    /* Not registered with vmstate: it is another node's memory. */
    if (!dsm_region_init_ram(&w->mr, OBJECT(w), name, s->machine,
                             memory_backend_dsm_node(s->backend), node, 0,
                             errp)) {
        object_unref(OBJECT(w));
        return false;
    }
    memory_region_add_subregion(&s->windows, peer->window_offset, &w->mr);
    peer->window = w;
    trace_virtio_fabric_window_map(node, peer->window_offset,
                                   desc->ram_bytes);
    return true;
}

static void virtio_fabric_unmap_window(VirtIOFabric *s, uint16_t node)
{
    FabricWindow *w = s->peer[node].window;

    s->peer[node].window = NULL;
    trace_virtio_fabric_window_unmap(node);
    memory_region_del_subregion(&s->windows, &w->mr);
    object_unref(OBJECT(w));
}

/* Where there is no window: as on PCI, all ones, and writes go nowhere. */

static uint64_t virtio_fabric_hole_read(void *opaque, hwaddr addr,
                                        unsigned size)
{
    trace_virtio_fabric_hole(addr, size, false);
    return MAKE_64BIT_MASK(0, size * 8);
}

static void virtio_fabric_hole_write(void *opaque, hwaddr addr, uint64_t data,
                                     unsigned size)
{
    trace_virtio_fabric_hole(addr, size, true);
}

static const MemoryRegionOps virtio_fabric_hole_ops = {
    .read = virtio_fabric_hole_read,
    .write = virtio_fabric_hole_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 8, .unaligned = true },
    .impl = { .min_access_size = 1, .max_access_size = 8, .unaligned = true },
};

bool virtio_fabric_layout(VirtIOFabric *s, Error **errp)
{
    const DsmMachine *machine;
    uint64_t end = 0;
    uint16_t i;

    if (!s->backend) {
        error_setg(errp, "dsm must name a memory-backend-dsm");
        return false;
    }
    machine = memory_backend_dsm_machine(s->backend);
    for (i = 0; i < machine->nr_nodes; i++) {
        uint64_t size = machine->node[i].ram_bytes;
        uint64_t align;

        if (i == machine->self) {
            continue;
        }
        if (size > FABRIC_WINDOWS_MAX) {
            error_setg(errp, "node %s has more memory than a window can show",
                       machine->node[i].name);
            return false;
        }
        align = MIN(MAX(pow2ceil(size), FABRIC_WINDOW_ALIGN_MIN),
                    FABRIC_WINDOW_ALIGN_MAX);
        s->peer[i].window_offset = ROUND_UP(end, align);
        end = s->peer[i].window_offset + size;
    }
    if (end > FABRIC_WINDOWS_MAX) {
        error_setg(errp, "the other nodes have more memory than a PCI device "
                   "can show: %" PRIu64 " bytes", end);
        return false;
    }
    if (end) {
        s->windows_size = pow2ceil(end);
        memory_region_init_io(&s->windows, OBJECT(s), &virtio_fabric_hole_ops,
                              s, "virtio-fabric-windows", s->windows_size);
    }
    s->machine = machine;
    return true;
}

/*
 * Where the node's own memory is
 *
 * Taken from the address space itself, so that no machine has to tell. What
 * lies at a constant distance from the region is one extent, even if
 * something else covers it here and there: on a PC the VGA and ROM areas
 * below 1 MiB, whose mapping the guest can change.
 */

typedef struct FabricExtents {
    VirtIOFabric *s;
    const MemoryRegion *ram;
    bool overflow;
} FabricExtents;

static bool virtio_fabric_add_extent(Int128 start, Int128 len,
                                     const MemoryRegion *mr,
                                     hwaddr offset, void *opaque)
{
    FabricExtents *x = opaque;
    VirtIOFabric *s = x->s;
    uint64_t gpa, size;
    FabricExtent *last;

    if (mr != x->ram) {
        return false;
    }
    gpa = int128_get64(start);
    size = int128_get64(len);
    last = s->nr_extents ? &s->extent[s->nr_extents - 1] : NULL;
    if (last && gpa - last->gpa == offset - last->offset) {
        last->len = gpa + size - last->gpa;
        return false;
    }
    if (s->nr_extents == VIRTIO_FABRIC_MAX_EXTENTS) {
        x->overflow = true;
        return true;
    }
    s->extent[s->nr_extents++] = (FabricExtent) {
        .gpa = gpa,
        .offset = offset,
        .len = size,
    };
    return false;
}

static void virtio_fabric_machine_done(Notifier *notifier, void *data)
{
    VirtIOFabric *s = container_of(notifier, VirtIOFabric, machine_done);
    FabricExtents x = {
        .s = s,
        .ram = host_memory_backend_get_memory(MEMORY_BACKEND(s->backend)),
    };
    uint16_t i;

    WITH_RCU_READ_LOCK_GUARD() {
        flatview_for_each_range(address_space_to_flatview(
                                    &address_space_memory),
                                virtio_fabric_add_extent, &x);
    }
    if (x.overflow || s->nr_extents == 0) {
        error_report("virtio-fabric: memory backend '%s' %s",
                     object_get_canonical_path_component(OBJECT(s->backend)),
                     x.overflow ? "is mapped in too many pieces" :
                     "is not this machine's memory (see -machine "
                     "memory-backend)");
        exit(EXIT_FAILURE);
    }
    for (i = 0; i < s->nr_extents; i++) {
        trace_virtio_fabric_extent(i, s->extent[i].gpa, s->extent[i].offset,
                                   s->extent[i].len);
    }
}

/* Events: the state of a node, then its doorbells */

static bool virtio_fabric_event_is_pending(const FabricPeer *peer)
{
    return peer->reported != peer->state || peer->doorbells;
}

static VirtQueueElement *virtio_fabric_pop_event(VirtIOFabric *s)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(s);
    VirtQueueElement *elem = virtqueue_pop(s->event_vq, sizeof(*elem));

    if (!elem || vdev->broken) {
        goto none;
    }
    if (elem->out_num ||
        iov_size(elem->in_sg, elem->in_num) <
        sizeof(struct virtio_fabric_event)) {
        virtio_error(vdev, "virtio-fabric: an event buffer must be writable "
                     "and have %zu bytes", sizeof(struct virtio_fabric_event));
        goto none;
    }
    return elem;

none:
    if (elem) {
        virtqueue_detach_element(s->event_vq, elem, 0);
        g_free(elem);
    }
    return NULL;
}

static void virtio_fabric_send_events(VirtIOFabric *s)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(s);
    bool pushed = false;

    if (!s->ready || vdev->broken) {
        return;
    }
    while (s->event_pending) {
        uint64_t later = s->event_pending >> s->event_next << s->event_next;
        uint16_t node = ctz64(later ?: s->event_pending);
        FabricPeer *peer = &s->peer[node];
        struct virtio_fabric_event ev = { .node = cpu_to_le16(node) };
        VirtQueueElement *elem = virtio_fabric_pop_event(s);

        if (!elem) {
            break;
        }
        if (peer->reported != peer->state) {
            ev.type = cpu_to_le16(VIRTIO_FABRIC_EVENT_STATE);
            ev.data = cpu_to_le64(++peer->reported);
        } else {
            ev.type = cpu_to_le16(VIRTIO_FABRIC_EVENT_DOORBELL);
            ev.data = cpu_to_le64(peer->doorbells);
            peer->doorbells = 0;
        }
        if (!virtio_fabric_event_is_pending(peer)) {
            s->event_pending &= ~BIT_ULL(node);
        }
        s->event_next = (node + 1) % VIRTIO_FABRIC_MAX_NODES;
        trace_virtio_fabric_event(node, le16_to_cpu(ev.type),
                                  le64_to_cpu(ev.data));
        iov_from_buf(elem->in_sg, elem->in_num, 0, &ev, sizeof(ev));
        virtqueue_push(s->event_vq, elem, sizeof(ev));
        g_free(elem);
        s->stats.events++;
        pushed = true;
    }
    if (pushed) {
        virtio_notify(vdev, s->event_vq);
    }
}

static void virtio_fabric_handle_event(VirtIODevice *vdev, VirtQueue *vq)
{
    virtio_fabric_send_events(VIRTIO_FABRIC(vdev));
}

static void virtio_fabric_set_state(VirtIOFabric *s, uint16_t node,
                                    uint16_t state)
{
    s->peer[node].state = state;
    s->event_pending |= BIT_ULL(node);
    virtio_notify_config(VIRTIO_DEVICE(s));
    virtio_fabric_send_events(s);
}

/* After a reset the guest is told about all nodes anew, beginning with now. */
static void virtio_fabric_reset_events(VirtIOFabric *s)
{
    uint16_t i;

    s->event_pending = 0;
    s->event_next = 0;
    for (i = 0; i < s->machine->nr_nodes; i++) {
        FabricPeer *peer = &s->peer[i];

        peer->doorbells = 0;
        peer->reported = MAX(peer->state, 1) - 1;
        if (i != s->machine->self && virtio_fabric_event_is_pending(peer)) {
            s->event_pending |= BIT_ULL(i);
        }
    }
}

/* Transmission */

static void virtio_fabric_complete_tx(VirtIOFabric *s, FabricTx *tx,
                                      uint32_t status)
{
    struct virtio_fabric_tx_status st = { .status = cpu_to_le32(status) };

    if (status == VIRTIO_FABRIC_TX_OK) {
        s->stats.tx_sent++;
    } else {
        s->stats.tx_node_down++;
    }
    iov_from_buf(tx->elem.in_sg, tx->elem.in_num, 0, &st, sizeof(st));
    virtqueue_push(s->tx_vq, &tx->elem, sizeof(st));
    g_free(tx);
}

/*
 * Gives a message to libdsm. Return: false if there is no room for it yet;
 * true with *status set when the buffer is done with.
 */
static bool virtio_fabric_send(VirtIOFabric *s, uint16_t node, uint8_t cls,
                               FabricTx *tx, uint32_t *status)
{
    const size_t hdr_len = sizeof(struct virtio_fabric_hdr);
    struct iovec iov[8];
    unsigned iovcnt;
    int ret;

    if (tx->elem.out_num <= ARRAY_SIZE(iov)) {
        iovcnt = iov_copy(iov, ARRAY_SIZE(iov), tx->elem.out_sg,
                          tx->elem.out_num, hdr_len, tx->len);
    } else {
        iov_to_buf(tx->elem.out_sg, tx->elem.out_num, hdr_len, s->tx_copy,
                   tx->len);
        iov[0].iov_base = s->tx_copy;
        iov[0].iov_len = tx->len;
        iovcnt = 1;
    }
    ret = dsm_send(memory_backend_dsm_node(s->backend), node, cls, iov,
                   iovcnt);
    trace_virtio_fabric_send(node, cls, tx->len, ret);
    if (ret == -EAGAIN) {
        return false;
    }
    *status = ret == 0 ? VIRTIO_FABRIC_TX_OK : VIRTIO_FABRIC_TX_NODE_DOWN;
    return true;
}

static bool virtio_fabric_fence(VirtIOFabric *s, uint16_t node)
{
    FabricPeer *peer = &s->peer[node];

    if (peer->state == VIRTIO_FABRIC_FENCED || peer->fencing) {
        return true; /* what is wanted is so, or on its way */
    }
    if (peer->state != VIRTIO_FABRIC_DOWN) {
        return false;
    }
    peer->fencing = true;
    peer->window->fenced_for = VIRTIO_FABRIC(object_ref(OBJECT(s)));
    virtio_fabric_unmap_window(s, node);
    return true;
}

static void virtio_fabric_fenced(VirtIOFabric *s, uint16_t node)
{
    s->peer[node].fencing = false;
    memory_backend_dsm_fence(s->backend, node);
    virtio_fabric_set_state(s, node, VIRTIO_FABRIC_FENCED);
}

static bool virtio_fabric_tx_payload(const FabricTx *tx, void *buf, size_t len)
{
    return tx->len == len &&
           iov_to_buf(tx->elem.out_sg, tx->elem.out_num,
                      sizeof(struct virtio_fabric_hdr), buf, len) == len;
}

/*
 * Takes charge of one buffer. Return: NULL, or what is wrong with it, and
 * then it is still the caller's; *ret_done says whether it was completed.
 */
static const char *virtio_fabric_tx(VirtIOFabric *s, FabricTx *tx,
                                    bool *ret_done)
{
    struct virtio_fabric_hdr hdr;
    struct virtio_fabric_control ctl;
    uint32_t status = VIRTIO_FABRIC_TX_OK;
    uint64_t bits;
    uint16_t node;
    FabricPeer *peer;

    *ret_done = false;
    if (iov_to_buf(tx->elem.out_sg, tx->elem.out_num, 0, &hdr, sizeof(hdr)) !=
        sizeof(hdr)) {
        return "has no header";
    }
    if (iov_size(tx->elem.in_sg, tx->elem.in_num) <
        sizeof(struct virtio_fabric_tx_status)) {
        return "has no room for its status";
    }
    tx->len = le32_to_cpu(hdr.len);
    if (tx->len > VIRTIO_FABRIC_MAX_PAYLOAD) {
        return "is too long";
    }
    if (iov_size(tx->elem.out_sg, tx->elem.out_num) !=
        sizeof(hdr) + tx->len) {
        return "is not as long as its header says";
    }
    if (hdr.reserved) {
        return "has a reserved field that is not 0";
    }
    node = le16_to_cpu(hdr.node);
    if (node >= s->machine->nr_nodes || node == s->machine->self) {
        return "is to a node that is none";
    }
    peer = &s->peer[node];

    switch (hdr.cls) {
    case VIRTIO_FABRIC_CLASS_REPLY:
    case VIRTIO_FABRIC_CLASS_ACK:
    case VIRTIO_FABRIC_CLASS_REQUEST:
    case VIRTIO_FABRIC_CLASS_BULK:
        if (peer->state != VIRTIO_FABRIC_UP) {
            status = VIRTIO_FABRIC_TX_NODE_DOWN;
        } else if (!QSIMPLEQ_EMPTY(&peer->tx[hdr.cls]) ||
                   !virtio_fabric_send(s, node, hdr.cls, tx, &status)) {
            /* At most a ring full of them: each still occupies its slot. */
            QSIMPLEQ_INSERT_TAIL(&peer->tx[hdr.cls], tx, next);
            s->stats.tx_waited++;
            return NULL;
        }
        break;

    case VIRTIO_FABRIC_CLASS_DOORBELL:
        if (!virtio_fabric_tx_payload(tx, &bits, sizeof(bits)) || !bits) {
            return "is a doorbell without bits";
        }
        if (peer->state != VIRTIO_FABRIC_UP ||
            dsm_doorbell(memory_backend_dsm_node(s->backend), node,
                         le64_to_cpu(bits)) < 0) {
            status = VIRTIO_FABRIC_TX_NODE_DOWN;
        }
        trace_virtio_fabric_ring(node, le64_to_cpu(bits), status);
        break;

    case VIRTIO_FABRIC_CLASS_CONTROL:
        if (!virtio_fabric_tx_payload(tx, &ctl, sizeof(ctl)) ||
            ctl.reserved || le32_to_cpu(ctl.op) !=
            VIRTIO_FABRIC_CONTROL_FENCE) {
            return "is an unknown control message";
        }
        if (!virtio_fabric_fence(s, node)) {
            return "fences a node that is not down";
        }
        break;

    default:
        return "has an unknown class";
    }

    virtio_fabric_complete_tx(s, tx, status);
    *ret_done = true;
    return NULL;
}

static void virtio_fabric_handle_tx(VirtIODevice *vdev, VirtQueue *vq)
{
    VirtIOFabric *s = VIRTIO_FABRIC(vdev);
    /* Other vCPUs may add buffers forever; the main loop wants its turn. */
    int budget = 2 * FABRIC_QUEUE_SIZE;
    bool suppress = virtio_queue_get_notification(vq);
    bool any_done = false, done;
    FabricTx *tx;

    if (!s->ready) {
        return;
    }
    do {
        if (suppress) {
            virtio_queue_set_notification(vq, 0);
        }
        while (budget && (tx = virtqueue_pop(vq, sizeof(*tx)))) {
            const char *problem = virtio_fabric_tx(s, tx, &done);

            budget--;
            any_done |= done;
            if (problem) {
                virtio_error(vdev, "virtio-fabric: a tx buffer %s", problem);
                virtqueue_detach_element(vq, &tx->elem, 0);
                g_free(tx);
                return;
            }
        }
        if (suppress) {
            virtio_queue_set_notification(vq, 1);
        }
    } while (budget && !vdev->broken && !virtio_queue_empty(vq));

    if (any_done && !vdev->broken) {
        virtio_notify(vdev, vq);
    }
    if (!budget) {
        qemu_bh_schedule(s->resume_bh);
    }
}

/* Sends what waits for (node, cls). Return: something was completed. */
static bool virtio_fabric_flush_tx(VirtIOFabric *s, uint16_t node, uint8_t cls)
{
    FabricPeer *peer = &s->peer[node];
    bool any = false;
    uint32_t status;
    FabricTx *tx;

    while ((tx = QSIMPLEQ_FIRST(&peer->tx[cls]))) {
        if (peer->state != VIRTIO_FABRIC_UP) {
            status = VIRTIO_FABRIC_TX_NODE_DOWN;
        } else if (!virtio_fabric_send(s, node, cls, tx, &status)) {
            break;
        }
        QSIMPLEQ_REMOVE_HEAD(&peer->tx[cls], next);
        virtio_fabric_complete_tx(s, tx, status);
        any = true;
    }
    return any;
}

static void virtio_fabric_drop_tx(VirtIOFabric *s)
{
    uint16_t node;
    uint8_t cls;
    FabricTx *tx;

    for (node = 0; node < s->machine->nr_nodes; node++) {
        for (cls = 0; cls < VIRTIO_FABRIC_NR_CLASSES; cls++) {
            while ((tx = QSIMPLEQ_FIRST(&s->peer[node].tx[cls]))) {
                QSIMPLEQ_REMOVE_HEAD(&s->peer[node].tx[cls], next);
                virtqueue_detach_element(s->tx_vq, &tx->elem, 0);
                g_free(tx);
            }
        }
    }
}

/*
 * Reception
 *
 * While no buffer is free, messages stay in libdsm and so hold back their
 * senders. The guest is asked to kick only then.
 */

static VirtQueueElement *virtio_fabric_pop_rx(VirtIOFabric *s)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(s);
    VirtQueueElement *elem = virtqueue_pop(s->rx_vq, sizeof(*elem));

    if (!elem && !vdev->broken) {
        virtio_queue_set_notification(s->rx_vq, 1);
        /* A buffer that came before the guest could know needs no kick. */
        elem = virtqueue_pop(s->rx_vq, sizeof(*elem));
        if (elem) {
            virtio_queue_set_notification(s->rx_vq, 0);
        }
    }
    if (elem && (elem->out_num ||
                 iov_size(elem->in_sg, elem->in_num) <
                 VIRTIO_FABRIC_RX_BYTES)) {
        virtio_error(vdev, "virtio-fabric: an rx buffer must be writable and "
                     "have %zu bytes", VIRTIO_FABRIC_RX_BYTES);
        virtqueue_detach_element(s->rx_vq, elem, 0);
        g_free(elem);
        return NULL;
    }
    return elem;
}

static bool virtio_fabric_message(void *opaque, uint16_t from,
                                  enum dsm_class cls, const void *data,
                                  uint32_t len)
{
    VirtIOFabric *s = opaque;
    VirtIODevice *vdev = VIRTIO_DEVICE(s);
    struct virtio_fabric_hdr hdr = {
        .node = cpu_to_le16(from),
        .cls = cls,
        .len = cpu_to_le32(len),
    };
    VirtQueueElement *elem = NULL;

    if (s->ready && !vdev->broken) {
        elem = virtio_fabric_pop_rx(s);
    }
    trace_virtio_fabric_message(from, cls, len, elem != NULL);
    if (!elem) {
        s->rx_stalled[cls] |= BIT_ULL(from);
        s->stats.rx_stalled++;
        return false;
    }
    iov_from_buf(elem->in_sg, elem->in_num, 0, &hdr, sizeof(hdr));
    iov_from_buf(elem->in_sg, elem->in_num, sizeof(hdr), data, len);
    virtqueue_push(s->rx_vq, elem, sizeof(hdr) + len);
    g_free(elem);
    s->stats.rx_delivered++;
    /* Now, not when a batch is complete: this is a round trip's latency. */
    virtio_notify(vdev, s->rx_vq);
    return true;
}

static void virtio_fabric_resume_rx(VirtIOFabric *s)
{
    /* What others wait for comes first. */
    static const uint8_t order[] = {
        VIRTIO_FABRIC_CLASS_ACK, VIRTIO_FABRIC_CLASS_REPLY,
        VIRTIO_FABRIC_CLASS_REQUEST, VIRTIO_FABRIC_CLASS_BULK,
    };
    int i;

    QEMU_BUILD_BUG_ON(ARRAY_SIZE(order) != VIRTIO_FABRIC_NR_CLASSES);

    for (i = 0; i < ARRAY_SIZE(order); i++) {
        uint64_t nodes = s->rx_stalled[order[i]];

        s->rx_stalled[order[i]] = 0;
        while (nodes) {
            uint16_t node = ctz64(nodes);

            nodes &= nodes - 1;
            dsm_resume(memory_backend_dsm_node(s->backend), node, order[i]);
        }
    }
}

static void virtio_fabric_handle_rx(VirtIODevice *vdev, VirtQueue *vq)
{
    VirtIOFabric *s = VIRTIO_FABRIC(vdev);

    if (s->ready) {
        virtio_queue_set_notification(vq, 0);
        virtio_fabric_resume_rx(s);
    }
}

/* The backend's other callbacks */

static void virtio_fabric_writable(void *opaque, uint16_t to,
                                   enum dsm_class cls)
{
    VirtIOFabric *s = opaque;
    VirtIODevice *vdev = VIRTIO_DEVICE(s);

    if (s->ready && !vdev->broken && virtio_fabric_flush_tx(s, to, cls)) {
        virtio_notify(vdev, s->tx_vq);
    }
}

static void virtio_fabric_doorbell(void *opaque, uint16_t from, uint64_t bits)
{
    VirtIOFabric *s = opaque;

    s->peer[from].doorbells |= bits;
    s->event_pending |= BIT_ULL(from);
    virtio_fabric_send_events(s);
}

static void virtio_fabric_peer_state(void *opaque, uint16_t node,
                                     enum dsm_peer_state state)
{
    VirtIOFabric *s = opaque;
    VirtIODevice *vdev = VIRTIO_DEVICE(s);
    FabricPeer *peer = &s->peer[node];
    Error *err = NULL;
    bool any = false;
    uint8_t cls;

    switch (state) {
    case DSM_PEER_UP:
        if (!virtio_fabric_map_window(s, node, &err)) {
            /* The guest never sees this node. */
            error_reportf_err(err, "virtio-fabric: cannot map the memory of "
                              "node %s: ", s->machine->node[node].name);
            return;
        }
        break;
    case DSM_PEER_DOWN:
        if (peer->state != VIRTIO_FABRIC_UP) {
            return;
        }
        break;
    default:
        return;
    }

    virtio_fabric_set_state(s, node, state);
    if (state == DSM_PEER_DOWN && s->ready && !vdev->broken) {
        for (cls = 0; cls < VIRTIO_FABRIC_NR_CLASSES; cls++) {
            any |= virtio_fabric_flush_tx(s, node, cls);
        }
        if (any) {
            virtio_notify(vdev, s->tx_vq);
        }
    }
}

static void virtio_fabric_info(void *opaque, GString *buf)
{
    static const char *const states[] = { "absent", "up", "down", "fenced" };
    VirtIOFabric *s = opaque;
    VirtIODevice *vdev = VIRTIO_DEVICE(s);
    uint16_t i;

    g_string_append_printf(buf, "driver %s, status 0x%02x%s\n",
                           s->ready ? "running" : "not running", vdev->status,
                           vdev->broken ? ", broken" : "");
    g_string_append_printf(buf, "tx sent %" PRIu64 " waited %" PRIu64
                           " node-down %" PRIu64 ", rx delivered %" PRIu64
                           " stalled %" PRIu64 ", events %" PRIu64 "\n",
                           s->stats.tx_sent, s->stats.tx_waited,
                           s->stats.tx_node_down, s->stats.rx_delivered,
                           s->stats.rx_stalled, s->stats.events);
    for (i = 0; i < s->nr_extents; i++) {
        g_string_append_printf(buf, "own memory 0x%" PRIx64 "-0x%" PRIx64
                               " at offset 0x%" PRIx64 "\n",
                               s->extent[i].gpa,
                               s->extent[i].gpa + s->extent[i].len - 1,
                               s->extent[i].offset);
    }
    for (i = 0; i < s->machine->nr_nodes; i++) {
        FabricPeer *peer = &s->peer[i];
        uint8_t cls;
        FabricTx *tx;

        if (i == s->machine->self) {
            continue;
        }
        g_string_append_printf(buf, "node %u %s: %s, window 0x%" PRIx64
                               "+0x%" PRIx64 " %s, doorbells 0x%" PRIx64
                               ", waiting", i, s->machine->node[i].name,
                               states[peer->state], peer->window_offset,
                               s->machine->node[i].ram_bytes,
                               peer->window ? "mapped" : "not mapped",
                               peer->doorbells);
        for (cls = 0; cls < VIRTIO_FABRIC_NR_CLASSES; cls++) {
            unsigned n = 0;

            QSIMPLEQ_FOREACH(tx, &peer->tx[cls], next) {
                n++;
            }
            g_string_append_printf(buf, " %u%s", n,
                                   s->rx_stalled[cls] & BIT_ULL(i) ?
                                   "/rx" : "");
        }
        g_string_append_c(buf, '\n');
    }
}

static const DsmClientOps virtio_fabric_client_ops = {
    .message = virtio_fabric_message,
    .writable = virtio_fabric_writable,
    .doorbell = virtio_fabric_doorbell,
    .peer_state = virtio_fabric_peer_state,
    .info = virtio_fabric_info,
};

/* Echo: a floor to measure messages against */

static void virtio_fabric_handle_echo(VirtIODevice *vdev, VirtQueue *vq)
{
    VirtIOFabric *s = VIRTIO_FABRIC(vdev);
    uint64_t one = 1;
    ssize_t ret;

    if (s->ready) {
        ret = write(s->echo_kick_fd, &one, sizeof(one));
        trace_virtio_fabric_echo_kick(ret);
    }
}

static void virtio_fabric_echo_call(void *opaque)
{
    VirtIOFabric *s = opaque;
    VirtIODevice *vdev = VIRTIO_DEVICE(s);
    VirtQueueElement *elem;
    bool any = false;
    uint64_t value;
    ssize_t ret;

    ret = read(s->echo_call_fd, &value, sizeof(value));
    if (ret != sizeof(value)) {
        if (ret < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        warn_report("virtio-fabric: echo-call-fd is not an eventfd: %s",
                    ret < 0 ? strerror(errno) : "end of file");
        qemu_set_fd_handler(s->echo_call_fd, NULL, NULL, NULL);
        return;
    }
    if (!s->ready || vdev->broken) {
        return;
    }
    while ((elem = virtqueue_pop(s->echo_vq, sizeof(*elem)))) {
        if (elem->in_num) {
            virtio_error(vdev, "virtio-fabric: an echo buffer must not be "
                         "writable");
            virtqueue_detach_element(s->echo_vq, elem, 0);
            g_free(elem);
            return;
        }
        virtqueue_push(s->echo_vq, elem, 0);
        g_free(elem);
        any = true;
    }
    if (any) {
        virtio_notify(vdev, s->echo_vq);
    }
}

static bool virtio_fabric_get_fd(const char *name, const char *value, int *fd,
                                 Error **errp)
{
    ERRP_GUARD();
    int ret = monitor_fd_param(monitor_cur(), value, errp);

    if (ret < 0) {
        error_prepend(errp, "%s: ", name);
        return false;
    }
    if (fcntl(ret, F_GETFD) < 0) {
        error_setg_errno(errp, errno, "%s: descriptor %d", name, ret);
        return false;
    }
    /* Not O_NONBLOCK: the other process's side shares that flag. */
    qemu_set_cloexec(ret);
    *fd = ret;
    return true;
}

static bool virtio_fabric_open_echo(VirtIOFabric *s, Error **errp)
{
    if (!s->echo_kick && !s->echo_call) {
        return true;
    }
    if (!s->echo_kick || !s->echo_call) {
        error_setg(errp, "echo-kick-fd and echo-call-fd need each other");
        return false;
    }
    return virtio_fabric_get_fd("echo-kick-fd", s->echo_kick,
                                &s->echo_kick_fd, errp) &&
           virtio_fabric_get_fd("echo-call-fd", s->echo_call,
                                &s->echo_call_fd, errp);
}

/* The virtio device */

static void virtio_fabric_resume(void *opaque)
{
    VirtIOFabric *s = opaque;
    VirtIODevice *vdev = VIRTIO_DEVICE(s);
    bool any = false;
    uint16_t node;
    uint8_t cls;

    if (!s->ready || vdev->broken) {
        return;
    }
    for (node = 0; node < s->machine->nr_nodes; node++) {
        for (cls = 0; cls < VIRTIO_FABRIC_NR_CLASSES; cls++) {
            any |= virtio_fabric_flush_tx(s, node, cls);
        }
    }
    if (any) {
        virtio_notify(vdev, s->tx_vq);
    }
    virtio_fabric_handle_tx(vdev, s->tx_vq);
    virtio_fabric_send_events(s);
    virtio_fabric_handle_rx(vdev, s->rx_vq);
}

/* Also called, with the status unchanged, when the machine stops or goes on. */
static void virtio_fabric_set_status(VirtIODevice *vdev, uint8_t status)
{
    VirtIOFabric *s = VIRTIO_FABRIC(vdev);
    bool ready = (status & VIRTIO_CONFIG_S_DRIVER_OK) && vdev->vm_running;

    if (ready && !s->ready) {
        /* Not from here: vdev->status is still the old one. */
        qemu_bh_schedule(s->resume_bh);
    }
    s->ready = ready;
}

static void virtio_fabric_reset(VirtIODevice *vdev)
{
    VirtIOFabric *s = VIRTIO_FABRIC(vdev);

    trace_virtio_fabric_reset();
    s->ready = false;
    virtio_fabric_drop_tx(s);
    virtio_fabric_reset_events(s);
}

static void virtio_fabric_queue_reset(VirtIODevice *vdev, uint32_t index)
{
    if (index == VIRTIO_FABRIC_VQ_TX) {
        virtio_fabric_drop_tx(VIRTIO_FABRIC(vdev));
    }
}

static uint64_t virtio_fabric_get_features(VirtIODevice *vdev,
                                           uint64_t features, Error **errp)
{
    if (VIRTIO_FABRIC(vdev)->echo_vq) {
        virtio_add_feature(&features, VIRTIO_FABRIC_F_ECHO);
    }
    if (VIRTIO_FABRIC(vdev)->machine->code) {
        virtio_add_feature(&features, VIRTIO_FABRIC_F_CODE);
    }
    return features;
}

static void virtio_fabric_get_config(VirtIODevice *vdev, uint8_t *data)
{
    VirtIOFabric *s = VIRTIO_FABRIC(vdev);
    const DsmMachine *machine = s->machine;
    struct virtio_fabric_config *config = (void *)data;
    uint16_t i;

    memset(config, 0, sizeof(*config));
    config->version = cpu_to_le16(VIRTIO_FABRIC_VERSION);
    config->self = cpu_to_le16(machine->self);
    config->nr_nodes = cpu_to_le16(machine->nr_nodes);
    config->nr_extents = cpu_to_le16(s->nr_extents);
    config->coherence = cpu_to_le32(machine->coherence);
    memcpy(config->machine_uuid, &machine->uuid, sizeof(config->machine_uuid));
    for (i = 0; i < s->nr_extents; i++) {
        config->extent[i].gpa = cpu_to_le64(s->extent[i].gpa);
        config->extent[i].offset = cpu_to_le64(s->extent[i].offset);
        config->extent[i].len = cpu_to_le64(s->extent[i].len);
    }
    for (i = 0; i < machine->nr_nodes; i++) {
        const struct dsm_node_desc *desc = &machine->node[i];
        struct virtio_fabric_node *node = &config->node[i];

        node->elf_machine = cpu_to_le16(desc->elf_machine);
        node->state = cpu_to_le16(s->peer[i].state);
        node->cpus = cpu_to_le32(desc->cpus);
        node->ram_bytes = cpu_to_le64(desc->ram_bytes);
        node->window_offset = cpu_to_le64(s->peer[i].window_offset);
        memcpy(node->name, desc->name, sizeof(node->name));
    }
}

static void virtio_fabric_device_realize(DeviceState *dev, Error **errp)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);
    VirtIOFabric *s = VIRTIO_FABRIC(dev);
    uint16_t node;
    uint8_t cls;

    if (!s->machine) {
        error_setg(errp, "this transport has no room for windows; use "
                   "virtio-fabric-pci");
        return;
    }
    if (!virtio_fabric_open_echo(s, errp)) {
        return;
    }
    for (node = 0; node < VIRTIO_FABRIC_MAX_NODES; node++) {
        for (cls = 0; cls < VIRTIO_FABRIC_NR_CLASSES; cls++) {
            QSIMPLEQ_INIT(&s->peer[node].tx[cls]);
        }
    }
    s->peer[s->machine->self].state = VIRTIO_FABRIC_UP;
    s->peer[s->machine->self].reported = VIRTIO_FABRIC_UP;

    virtio_init(vdev, VIRTIO_ID_FABRIC, sizeof(struct virtio_fabric_config));
    s->tx_vq = virtio_add_queue(vdev, FABRIC_QUEUE_SIZE,
                                virtio_fabric_handle_tx);
    s->rx_vq = virtio_add_queue(vdev, FABRIC_QUEUE_SIZE,
                                virtio_fabric_handle_rx);
    s->event_vq = virtio_add_queue(vdev, FABRIC_EVENT_QUEUE_SIZE,
                                   virtio_fabric_handle_event);
    if (s->echo_call_fd >= 0) {
        s->echo_vq = virtio_add_queue(vdev, FABRIC_ECHO_QUEUE_SIZE,
                                      virtio_fabric_handle_echo);
    }
    s->resume_bh = virtio_bh_new_guarded(dev, virtio_fabric_resume, s);

    if (!memory_backend_dsm_set_client(s->backend, &virtio_fabric_client_ops,
                                       s, errp)) {
        qemu_bh_delete(s->resume_bh);
        for (node = 0; node < VIRTIO_FABRIC_NUM_QUEUES; node++) {
            virtio_del_queue(vdev, node);
        }
        virtio_cleanup(vdev);
        return;
    }
    if (s->echo_call_fd >= 0) {
        qemu_set_fd_handler(s->echo_call_fd, virtio_fabric_echo_call, NULL, s);
    }
    s->machine_done.notify = virtio_fabric_machine_done;
    qemu_add_machine_init_done_notifier(&s->machine_done);
}

static void virtio_fabric_device_unrealize(DeviceState *dev)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);
    VirtIOFabric *s = VIRTIO_FABRIC(dev);
    uint16_t i;

    qemu_remove_machine_init_done_notifier(&s->machine_done);
    memory_backend_dsm_set_client(s->backend, NULL, NULL, &error_abort);
    if (s->echo_call_fd >= 0) {
        qemu_set_fd_handler(s->echo_call_fd, NULL, NULL, NULL);
    }
    virtio_fabric_drop_tx(s);
    for (i = 0; i < s->machine->nr_nodes; i++) {
        if (s->peer[i].window) {
            if (s->machine->coherence != DSM_COHERENCE_MODE_SHARED ||
                s->machine->code) {
                /* libdsm's thread goes on: for it the memory stays. */
                object_ref(OBJECT(s->peer[i].window));
            }
            virtio_fabric_unmap_window(s, i);
        }
    }
    qemu_bh_delete(s->resume_bh);
    for (i = 0; i < VIRTIO_FABRIC_NUM_QUEUES; i++) {
        virtio_del_queue(vdev, i);
    }
    virtio_cleanup(vdev);
}

static void virtio_fabric_instance_init(Object *obj)
{
    VirtIOFabric *s = VIRTIO_FABRIC(obj);

    s->echo_kick_fd = -1;
    s->echo_call_fd = -1;
}

static void virtio_fabric_instance_finalize(Object *obj)
{
    VirtIOFabric *s = VIRTIO_FABRIC(obj);

    if (s->echo_kick_fd >= 0) {
        close(s->echo_kick_fd);
    }
    if (s->echo_call_fd >= 0) {
        close(s->echo_call_fd);
    }
}

static const VMStateDescription vmstate_virtio_fabric = {
    .name = "virtio-fabric",
    .unmigratable = 1,
};

static const Property virtio_fabric_properties[] = {
    DEFINE_PROP_LINK("dsm", VirtIOFabric, backend, TYPE_MEMORY_BACKEND_DSM,
                     HostMemoryBackendDsm *),
    DEFINE_PROP_STRING("echo-kick-fd", VirtIOFabric, echo_kick),
    DEFINE_PROP_STRING("echo-call-fd", VirtIOFabric, echo_call),
};

static void virtio_fabric_class_init(ObjectClass *klass, void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    VirtioDeviceClass *vdc = VIRTIO_DEVICE_CLASS(klass);

    device_class_set_props(dc, virtio_fabric_properties);
    dc->vmsd = &vmstate_virtio_fabric;
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
    vdc->realize = virtio_fabric_device_realize;
    vdc->unrealize = virtio_fabric_device_unrealize;
    vdc->get_features = virtio_fabric_get_features;
    vdc->get_config = virtio_fabric_get_config;
    vdc->set_status = virtio_fabric_set_status;
    vdc->reset = virtio_fabric_reset;
    vdc->queue_reset = virtio_fabric_queue_reset;
}

static const TypeInfo virtio_fabric_types[] = {
    {
        .name = TYPE_VIRTIO_FABRIC,
        .parent = TYPE_VIRTIO_DEVICE,
        .instance_size = sizeof(VirtIOFabric),
        .instance_init = virtio_fabric_instance_init,
        .instance_finalize = virtio_fabric_instance_finalize,
        .class_init = virtio_fabric_class_init,
    },
    {
        .name = TYPE_FABRIC_WINDOW,
        .parent = TYPE_OBJECT,
        .instance_size = sizeof(FabricWindow),
        .instance_finalize = fabric_window_finalize,
    },
};

DEFINE_TYPES(virtio_fabric_types)
