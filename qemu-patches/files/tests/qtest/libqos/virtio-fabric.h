/*
 * libqos driver for virtio-fabric
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TESTS_LIBQOS_VIRTIO_FABRIC_H
#define TESTS_LIBQOS_VIRTIO_FABRIC_H

#include "../libqtest.h"
#include "libqos-malloc.h"
#include "pci.h"
#include "qgraph.h"
#include "virtio-pci.h"
#include "virtio.h"
#include "standard-headers/linux/virtio_fabric.h"

/* Slots of the queues that the driver uses; each has a buffer of its own. */
#define QFABRIC_TX_SLOTS 128
#define QFABRIC_RX_SLOTS 64
#define QFABRIC_EVENT_SLOTS 16

/* A tx chain has this many descriptors at most. */
#define QFABRIC_TX_DESCS 2

typedef struct QFabricRing {
    QVirtQueue *vq;
    uint64_t buf;      /* of slot 0; the others follow */
    uint32_t buf_len;  /* of one slot */
    uint16_t avail;    /* next index to write */
    uint16_t used;     /* next index to read */
} QFabricRing;

typedef struct QFabricMessage {
    uint16_t node;
    uint8_t cls;
    uint32_t len;
    uint8_t data[VIRTIO_FABRIC_MAX_PAYLOAD];
} QFabricMessage;

typedef struct QFabric {
    QTestState *qts;
    QGuestAllocator *alloc;
    QVirtioPCIDevice *pci;
    QVirtioDevice *d;
    QPCIBar windows;
    bool has_windows;
    QFabricRing tx, rx, event;
    bool tx_busy[QFABRIC_TX_SLOTS];
    unsigned tx_pending;
} QFabric;

typedef struct QVirtioFabricPCI {
    QVirtioPCIDevice pci_vdev;
} QVirtioFabricPCI;

/**
 * qfabric_new() - find the device at @devfn and map its BARs.
 * The driver does not run yet; the configuration can be read.
 */
QFabric *qfabric_new(QTestState *qts, QPCIBus *bus, QGuestAllocator *alloc,
                     int devfn);
/* Does not touch the device, which may be gone. */
void qfabric_free(QFabric *f);

/**
 * qfabric_start() - set up the queues and set DRIVER_OK.
 * @features: bits to take from what the device offers, VERSION_1 included.
 * No buffers are posted.
 */
void qfabric_start(QFabric *f, uint64_t features);

/* Resets the device; qfabric_start() is possible again. */
void qfabric_reset(QFabric *f);

/* Posts all free rx or event buffers, at most @max. */
void qfabric_post_rx(QFabric *f, unsigned max);
void qfabric_post_events(QFabric *f, unsigned max);

/**
 * qfabric_send() - put one message on the tx queue and kick.
 * Return: the slot; it is busy until qfabric_poll_tx() returned it.
 */
unsigned qfabric_send(QFabric *f, uint16_t node, uint8_t cls,
                      const void *data, uint32_t len);

/* Each takes one completed buffer, if there is one. */
bool qfabric_poll_tx(QFabric *f, unsigned *slot, uint32_t *status);
bool qfabric_poll_rx(QFabric *f, QFabricMessage *msg, bool repost);
bool qfabric_poll_event(QFabric *f, struct virtio_fabric_event *ev,
                        bool repost);

/* Fields of the device's configuration, before features are negotiated too. */
#define qfabric_config_at(f, op, field) \
    ((f)->d->bus->op((f)->d, offsetof(struct virtio_fabric_config, field)))
#define qfabric_config16(f, field) qfabric_config_at(f, config_readw, field)
#define qfabric_config32(f, field) qfabric_config_at(f, config_readl, field)
#define qfabric_config64(f, field) qfabric_config_at(f, config_readq, field)

uint16_t qfabric_node_state(QFabric *f, uint16_t node);

/* Accesses to the window on @node's memory. */
uint64_t qfabric_window_readq(QFabric *f, uint16_t node, uint64_t offset);
void qfabric_window_writeq(QFabric *f, uint16_t node, uint64_t offset,
                           uint64_t value);

#endif
