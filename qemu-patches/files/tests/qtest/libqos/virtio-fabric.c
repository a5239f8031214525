/*
 * libqos driver for virtio-fabric
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/module.h"
#include "virtio-fabric.h"
#include "standard-headers/linux/virtio_config.h"
#include "standard-headers/linux/virtio_ring.h"

#define TX_HDR sizeof(struct virtio_fabric_hdr)
#define TX_STATUS sizeof(struct virtio_fabric_tx_status)
#define TX_BUF (TX_HDR + VIRTIO_FABRIC_MAX_PAYLOAD + TX_STATUS)

QFabric *qfabric_new(QTestState *qts, QPCIBus *bus, QGuestAllocator *alloc,
                     int devfn)
{
    QFabric *f = g_new0(QFabric, 1);
    QPCIAddress addr = { .devfn = devfn };

    f->qts = qts;
    f->alloc = alloc;
    f->pci = virtio_pci_new(bus, &addr);
    g_assert_nonnull(f->pci);
    f->d = &f->pci->vdev;
    g_assert_cmpuint(f->d->device_type, ==, VIRTIO_ID_FABRIC);
    qvirtio_pci_device_enable(f->pci);
    if (qfabric_config16(f, nr_nodes) > 1) {
        f->windows = qpci_iomap(f->pci->pdev, 4, NULL);
        f->has_windows = true;
    }
    qvirtio_reset(f->d);
    qvirtio_set_acknowledge(f->d);
    qvirtio_set_driver(f->d);
    return f;
}

static void ring_setup(QFabric *f, QFabricRing *r, uint16_t index,
                       unsigned slots, uint32_t buf_len)
{
    memset(r, 0, sizeof(*r));
    r->vq = qvirtqueue_setup(f->d, f->alloc, index);
    r->buf_len = ROUND_UP(buf_len, 64);
    r->buf = guest_alloc(f->alloc, (uint64_t)slots * r->buf_len);
}

static void ring_cleanup(QFabric *f, QFabricRing *r)
{
    if (r->vq) {
        guest_free(f->alloc, r->buf);
        qvirtqueue_cleanup(f->d->bus, r->vq, f->alloc);
        r->vq = NULL;
    }
}

void qfabric_start(QFabric *f, uint64_t features)
{
    QTestState *qts = f->qts;
    uint64_t offered = qvirtio_get_features(f->d);

    g_assert_cmphex(offered & features, ==, features);
    qvirtio_set_features(f->d, features);
    ring_setup(f, &f->tx, VIRTIO_FABRIC_VQ_TX, QFABRIC_TX_SLOTS, TX_BUF);
    ring_setup(f, &f->rx, VIRTIO_FABRIC_VQ_RX, QFABRIC_RX_SLOTS,
               VIRTIO_FABRIC_RX_BYTES);
    ring_setup(f, &f->event, VIRTIO_FABRIC_VQ_EVENT, QFABRIC_EVENT_SLOTS,
               sizeof(struct virtio_fabric_event));
    g_assert_cmpuint(f->tx.vq->size, >=, QFABRIC_TX_SLOTS * QFABRIC_TX_DESCS);
    g_assert_cmpuint(f->rx.vq->size, >=, QFABRIC_RX_SLOTS);
    g_assert_cmpuint(f->event.vq->size, >=, QFABRIC_EVENT_SLOTS);
    memset(f->tx_busy, 0, sizeof(f->tx_busy));
    f->tx_pending = 0;
    /* libqos leaves the used event where the last user had it. */
    if (f->d->features & (1ull << VIRTIO_RING_F_EVENT_IDX)) {
        qvirtqueue_set_used_event(qts, f->tx.vq, 0);
        qvirtqueue_set_used_event(qts, f->rx.vq, 0);
        qvirtqueue_set_used_event(qts, f->event.vq, 0);
    }
    qvirtio_set_driver_ok(f->d);
}

static void rings_cleanup(QFabric *f)
{
    ring_cleanup(f, &f->tx);
    ring_cleanup(f, &f->rx);
    ring_cleanup(f, &f->event);
}

void qfabric_free(QFabric *f)
{
    rings_cleanup(f);
    g_free(f->pci->pdev);
    g_free(f->pci);
    g_free(f);
}

void qfabric_reset(QFabric *f)
{
    qvirtio_reset(f->d);
    rings_cleanup(f);
    qvirtio_set_acknowledge(f->d);
    qvirtio_set_driver(f->d);
}

static void ring_desc(QFabric *f, QFabricRing *r, unsigned i, uint64_t addr,
                      uint32_t len, uint16_t flags, uint16_t next)
{
    struct vring_desc desc = {
        .addr = cpu_to_le64(addr),
        .len = cpu_to_le32(len),
        .flags = cpu_to_le16(flags),
        .next = cpu_to_le16(next),
    };

    qtest_memwrite(f->qts, r->vq->desc + i * sizeof(desc), &desc,
                   sizeof(desc));
}

/* Makes the chain at @head available; the device is told by ring_kick(). */
static void ring_add(QFabric *f, QFabricRing *r, uint16_t head)
{
    qtest_writew(f->qts, r->vq->avail + 4 + 2 * (r->avail % r->vq->size),
                 head);
    r->avail++;
    qtest_writew(f->qts, r->vq->avail + 2, r->avail);
}

static void ring_kick(QFabric *f, QFabricRing *r)
{
    f->d->bus->virtqueue_kick(f->d, r->vq);
}

static bool ring_poll(QFabric *f, QFabricRing *r, uint32_t *head,
                      uint32_t *len)
{
    uint64_t elem;

    if (qtest_readw(f->qts, r->vq->used + 2) == r->used) {
        return false;
    }
    elem = r->vq->used + 4 +
           sizeof(struct vring_used_elem) * (r->used % r->vq->size);
    *head = qtest_readl(f->qts, elem);
    *len = qtest_readl(f->qts, elem + 4);
    r->used++;
    if (f->d->features & (1ull << VIRTIO_RING_F_EVENT_IDX)) {
        qvirtqueue_set_used_event(f->qts, r->vq, r->used);
    }
    return true;
}

static void ring_post(QFabric *f, QFabricRing *r, unsigned slot)
{
    ring_desc(f, r, slot, r->buf + slot * r->buf_len, r->buf_len,
              VRING_DESC_F_WRITE, 0);
    ring_add(f, r, slot);
}

/* Only for a ring with nothing outstanding or slots in order. */
static void ring_post_free(QFabric *f, QFabricRing *r, unsigned slots,
                           unsigned max)
{
    unsigned n = slots - (uint16_t)(r->avail - r->used);

    for (n = MIN(n, max); n; n--) {
        ring_post(f, r, r->avail % slots);
    }
    ring_kick(f, r);
}

void qfabric_post_rx(QFabric *f, unsigned max)
{
    ring_post_free(f, &f->rx, QFABRIC_RX_SLOTS, max);
}

void qfabric_post_events(QFabric *f, unsigned max)
{
    ring_post_free(f, &f->event, QFABRIC_EVENT_SLOTS, max);
}

unsigned qfabric_send(QFabric *f, uint16_t node, uint8_t cls,
                      const void *data, uint32_t len)
{
    struct virtio_fabric_hdr hdr = {
        .node = cpu_to_le16(node),
        .cls = cls,
        .len = cpu_to_le32(len),
    };
    uint64_t buf;
    unsigned slot = 0;

    while (slot < QFABRIC_TX_SLOTS && f->tx_busy[slot]) {
        slot++;
    }
    g_assert_cmpuint(slot, <, QFABRIC_TX_SLOTS);
    f->tx_busy[slot] = true;
    f->tx_pending++;
    buf = f->tx.buf + slot * f->tx.buf_len;

    qtest_memwrite(f->qts, buf, &hdr, sizeof(hdr));
    if (len) {
        qtest_memwrite(f->qts, buf + TX_HDR, data, len);
    }
    qtest_writel(f->qts, buf + TX_BUF - TX_STATUS, UINT32_MAX);
    ring_desc(f, &f->tx, 2 * slot, buf, TX_HDR + len, VRING_DESC_F_NEXT,
              2 * slot + 1);
    ring_desc(f, &f->tx, 2 * slot + 1, buf + TX_BUF - TX_STATUS, TX_STATUS,
              VRING_DESC_F_WRITE, 0);
    ring_add(f, &f->tx, 2 * slot);
    ring_kick(f, &f->tx);
    return slot;
}

bool qfabric_poll_tx(QFabric *f, unsigned *slot, uint32_t *status)
{
    uint32_t head, len;

    if (!ring_poll(f, &f->tx, &head, &len)) {
        return false;
    }
    g_assert_cmpuint(head % 2, ==, 0);
    *slot = head / 2;
    g_assert_cmpuint(*slot, <, QFABRIC_TX_SLOTS);
    g_assert_true(f->tx_busy[*slot]);
    g_assert_cmpuint(len, ==, TX_STATUS);
    f->tx_busy[*slot] = false;
    f->tx_pending--;
    *status = qtest_readl(f->qts, f->tx.buf + *slot * f->tx.buf_len + TX_BUF -
                          TX_STATUS);
    return true;
}

bool qfabric_poll_rx(QFabric *f, QFabricMessage *msg, bool repost)
{
    struct virtio_fabric_hdr hdr;
    uint32_t head, len;
    uint64_t buf;

    if (!ring_poll(f, &f->rx, &head, &len)) {
        return false;
    }
    g_assert_cmpuint(head, <, QFABRIC_RX_SLOTS);
    g_assert_cmpuint(len, >=, sizeof(hdr));
    buf = f->rx.buf + head * f->rx.buf_len;
    qtest_memread(f->qts, buf, &hdr, sizeof(hdr));
    g_assert_cmpuint(hdr.reserved, ==, 0);
    msg->node = le16_to_cpu(hdr.node);
    msg->cls = hdr.cls;
    msg->len = le32_to_cpu(hdr.len);
    g_assert_cmpuint(msg->len, ==, len - sizeof(hdr));
    g_assert_cmpuint(msg->len, <=, VIRTIO_FABRIC_MAX_PAYLOAD);
    if (msg->len) {
        qtest_memread(f->qts, buf + sizeof(hdr), msg->data, msg->len);
    }
    if (repost) {
        ring_post(f, &f->rx, head);
        ring_kick(f, &f->rx);
    }
    return true;
}

bool qfabric_poll_event(QFabric *f, struct virtio_fabric_event *ev,
                        bool repost)
{
    struct virtio_fabric_event raw;
    uint32_t head, len;

    if (!ring_poll(f, &f->event, &head, &len)) {
        return false;
    }
    g_assert_cmpuint(head, <, QFABRIC_EVENT_SLOTS);
    g_assert_cmpuint(len, ==, sizeof(raw));
    qtest_memread(f->qts, f->event.buf + head * f->event.buf_len, &raw,
                  sizeof(raw));
    g_assert_cmpuint(raw.reserved, ==, 0);
    ev->type = le16_to_cpu(raw.type);
    ev->node = le16_to_cpu(raw.node);
    ev->reserved = 0;
    ev->data = le64_to_cpu(raw.data);
    if (repost) {
        ring_post(f, &f->event, head);
        ring_kick(f, &f->event);
    }
    return true;
}

uint16_t qfabric_node_state(QFabric *f, uint16_t node)
{
    return f->d->bus->config_readw(f->d,
                                offsetof(struct virtio_fabric_config, node) +
                                node * sizeof(struct virtio_fabric_node) +
                                offsetof(struct virtio_fabric_node, state));
}

static uint64_t window_offset(QFabric *f, uint16_t node)
{
    return f->d->bus->config_readq(f->d,
                                offsetof(struct virtio_fabric_config, node) +
                                node * sizeof(struct virtio_fabric_node) +
                                offsetof(struct virtio_fabric_node,
                                         window_offset));
}

uint64_t qfabric_window_readq(QFabric *f, uint16_t node, uint64_t offset)
{
    g_assert_true(f->has_windows);
    return qpci_io_readq(f->pci->pdev, f->windows,
                         window_offset(f, node) + offset);
}

void qfabric_window_writeq(QFabric *f, uint16_t node, uint64_t offset,
                           uint64_t value)
{
    g_assert_true(f->has_windows);
    qpci_io_writeq(f->pci->pdev, f->windows, window_offset(f, node) + offset,
                   value);
}

/* A node of the qos graph: a machine of one node, for the generic tests. */

static void *qvirtio_fabric_pci_get_driver(void *object, const char *interface)
{
    QVirtioFabricPCI *v = object;

    if (!g_strcmp0(interface, "pci-device")) {
        return v->pci_vdev.pdev;
    }
    if (!g_strcmp0(interface, "virtio")) {
        return &v->pci_vdev.vdev;
    }
    fprintf(stderr, "%s not present in virtio-fabric-pci\n", interface);
    g_assert_not_reached();
}

static void *virtio_fabric_pci_create(void *pci_bus, QGuestAllocator *alloc,
                                      void *addr)
{
    QVirtioFabricPCI *v = g_new0(QVirtioFabricPCI, 1);

    virtio_pci_init(&v->pci_vdev, pci_bus, addr);
    v->pci_vdev.obj.get_driver = qvirtio_fabric_pci_get_driver;
    return &v->pci_vdev.obj;
}

static void virtio_fabric_register_nodes(void)
{
    const char *arch = qtest_get_arch();
    g_autofree char *before = NULL;
    QPCIAddress addr = {
        .devfn = QPCI_DEVFN(4, 0),
    };
    QOSGraphEdgeOptions opts = {
        .extra_device_opts = "addr=04.0,dsm=fabric-ram",
    };

    if (strcmp(arch, "x86_64") && strcmp(arch, "aarch64")) {
        return;
    }
    before = g_strdup_printf(
        "-m 128M -machine memory-backend=fabric-ram "
        "-object '{\"qom-type\":\"memory-backend-dsm\","
        "\"id\":\"fabric-ram\",\"size\":134217728,\"self\":0,"
        "\"machine-uuid\":\"9f2a6bd4-3e0c-4f43-8c9b-3d2f70a1c0de\","
        "\"nodes\":[{\"name\":\"only\",\"isa\":\"%s\",\"cpus\":1,"
        "\"size\":134217728,"
        "\"address\":\"unix:%s/qos-fabric-%d.sock\"}]}'",
        arch, g_get_tmp_dir(), getpid());
    opts.before_cmd_line = before;
    add_qpci_address(&opts, &addr);
    qos_node_create_driver("virtio-fabric-pci", virtio_fabric_pci_create);
    qos_node_consumes("virtio-fabric-pci", "pci-bus", &opts);
    qos_node_produces("virtio-fabric-pci", "pci-device");
    qos_node_produces("virtio-fabric-pci", "virtio");
}

libqos_init(virtio_fabric_register_nodes);
