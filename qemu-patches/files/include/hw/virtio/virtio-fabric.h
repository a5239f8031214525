/*
 * Virtio fabric: windows, messages and doorbells between nodes of a machine
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef QEMU_VIRTIO_FABRIC_H
#define QEMU_VIRTIO_FABRIC_H

#include "hw/virtio/virtio.h"
#include "standard-headers/linux/virtio_fabric.h"
#include "system/hostmem-dsm.h"
#include "qom/object.h"

#define TYPE_VIRTIO_FABRIC "virtio-fabric-device"
OBJECT_DECLARE_SIMPLE_TYPE(VirtIOFabric, VIRTIO_FABRIC)

/* Queues with the echo queue, and their interrupts with configuration's. */
#define VIRTIO_FABRIC_NUM_QUEUES 4
#define VIRTIO_FABRIC_NUM_VECTORS (VIRTIO_FABRIC_NUM_QUEUES + 1)

typedef struct FabricTx FabricTx;
typedef struct FabricWindow FabricWindow;

typedef struct FabricPeer {
    /* enum virtio_fabric_state: what it is, and what the guest was told. */
    uint16_t state;
    uint16_t reported;
    bool fencing;          /* the guest asked for it, the window is going */
    uint64_t doorbells;    /* rung there, not yet told the guest */
    uint64_t window_offset;
    FabricWindow *window;  /* NULL unless mapped */
    /* Buffers that wait for room at the peer, oldest first. */
    QSIMPLEQ_HEAD(, FabricTx) tx[VIRTIO_FABRIC_NR_CLASSES];
} FabricPeer;

typedef struct FabricExtent {
    uint64_t gpa;
    uint64_t offset;
    uint64_t len;
} FabricExtent;

struct VirtIOFabric {
    VirtIODevice parent_obj;

    /* Properties. */
    HostMemoryBackendDsm *backend;
    char *echo_kick;
    char *echo_call;

    VirtQueue *tx_vq;
    VirtQueue *rx_vq;
    VirtQueue *event_vq;
    VirtQueue *echo_vq;
    int echo_kick_fd;
    int echo_call_fd;

    const DsmMachine *machine;
    uint64_t windows_size;
    MemoryRegion windows;  /* of windows_size, 0 for a machine of one node */
    FabricExtent extent[VIRTIO_FABRIC_MAX_EXTENTS];
    uint16_t nr_extents;
    Notifier machine_done;

    /* The driver runs, and so does the machine: rings may be used. */
    bool ready;
    QEMUBH *resume_bh;
    uint64_t rx_stalled[VIRTIO_FABRIC_NR_CLASSES]; /* bit per node */
    uint64_t event_pending;                        /* bit per node */
    uint16_t event_next;
    FabricPeer peer[VIRTIO_FABRIC_MAX_NODES];
    uint8_t tx_copy[VIRTIO_FABRIC_MAX_PAYLOAD];

    struct {
        uint64_t tx_sent;
        uint64_t tx_waited;
        uint64_t tx_node_down;
        uint64_t rx_delivered;
        uint64_t rx_stalled;
        uint64_t events;
    } stats;
};

/**
 * virtio_fabric_layout() - give every peer its place among the windows.
 *
 * For the transport, before the device is realized: @s->windows_size is the
 * size of the BAR afterwards.
 */
bool virtio_fabric_layout(VirtIOFabric *s, Error **errp);

#endif /* QEMU_VIRTIO_FABRIC_H */
