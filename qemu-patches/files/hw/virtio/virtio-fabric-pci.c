/*
 * Virtio fabric PCI bindings
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/qdev-properties.h"
#include "hw/virtio/virtio-fabric.h"
#include "hw/virtio/virtio-pci.h"
#include "qapi/error.h"
#include "qemu/module.h"
#include "qom/object.h"

#define TYPE_VIRTIO_FABRIC_PCI "virtio-fabric-pci"
OBJECT_DECLARE_SIMPLE_TYPE(VirtIOFabricPCI, VIRTIO_FABRIC_PCI)

struct VirtIOFabricPCI {
    VirtIOPCIProxy parent_obj;
    VirtIOFabric vdev;
};

#define FABRIC_WINDOWS_BAR 4

/*
 * No ioeventfd: a kick is handled at once by the vCPU that made it, which
 * saves a message the way through another thread.
 */
static const Property virtio_fabric_pci_properties[] = {
    DEFINE_PROP_UINT32("vectors", VirtIOPCIProxy, nvectors,
                       DEV_NVECTORS_UNSPECIFIED),
};

static void virtio_fabric_pci_realize(VirtIOPCIProxy *vpci_dev, Error **errp)
{
    VirtIOFabricPCI *dev = VIRTIO_FABRIC_PCI(vpci_dev);
    VirtIOFabric *s = &dev->vdev;

    if (vpci_dev->nvectors == DEV_NVECTORS_UNSPECIFIED) {
        vpci_dev->nvectors = VIRTIO_FABRIC_NUM_VECTORS;
    }
    if (!virtio_fabric_layout(s, errp)) {
        return;
    }

    /* The windows take the BAR that the modern interface has elsewhere. */
    vpci_dev->msix_bar_idx = 1;
    vpci_dev->modern_mem_bar_idx = 2;
    if (s->windows_size) {
        pci_register_bar(&vpci_dev->pci_dev, FABRIC_WINDOWS_BAR,
                         PCI_BASE_ADDRESS_SPACE_MEMORY |
                         PCI_BASE_ADDRESS_MEM_PREFETCH |
                         PCI_BASE_ADDRESS_MEM_TYPE_64,
                         &s->windows);
        virtio_pci_add_shm_cap(vpci_dev, FABRIC_WINDOWS_BAR, 0,
                               s->windows_size, VIRTIO_FABRIC_SHM_WINDOWS);
    }

    virtio_pci_force_virtio_1(vpci_dev);
    qdev_realize(DEVICE(s), BUS(&vpci_dev->bus), errp);
}

static void virtio_fabric_pci_class_init(ObjectClass *klass, void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    VirtioPCIClass *k = VIRTIO_PCI_CLASS(klass);
    PCIDeviceClass *pcidev_k = PCI_DEVICE_CLASS(klass);

    k->realize = virtio_fabric_pci_realize;
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
    dc->hotpluggable = false;
    pcidev_k->vendor_id = PCI_VENDOR_ID_REDHAT_QUMRANET;
    pcidev_k->revision = VIRTIO_PCI_ABI_VERSION;
    pcidev_k->class_id = PCI_CLASS_OTHERS;
    device_class_set_props(dc, virtio_fabric_pci_properties);
}

static void virtio_fabric_pci_instance_init(Object *obj)
{
    VirtIOFabricPCI *dev = VIRTIO_FABRIC_PCI(obj);

    virtio_instance_init_common(obj, &dev->vdev, sizeof(dev->vdev),
                                TYPE_VIRTIO_FABRIC);
}

static const VirtioPCIDeviceTypeInfo virtio_fabric_pci_info = {
    .generic_name = TYPE_VIRTIO_FABRIC_PCI,
    .instance_size = sizeof(VirtIOFabricPCI),
    .instance_init = virtio_fabric_pci_instance_init,
    .class_init = virtio_fabric_pci_class_init,
};

static void virtio_fabric_pci_register(void)
{
    virtio_pci_types_register(&virtio_fabric_pci_info);
}

type_init(virtio_fabric_pci_register)
