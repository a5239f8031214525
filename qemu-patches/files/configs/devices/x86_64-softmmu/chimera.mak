# SPDX-License-Identifier: GPL-2.0-or-later
#
# What an x86_64 node needs, and no more: the q35 machine (and pc, on which
# libqos stands), virtio over PCI, a serial port and a disk controller.

CONFIG_Q35=y
CONFIG_I440FX=y
CONFIG_HPET=y
CONFIG_PCIE_PORT=y

CONFIG_VIRTIO_PCI=y
CONFIG_VIRTIO_NET=y
CONFIG_VIRTIO_BLK=y
CONFIG_VIRTIO_SCSI=y
CONFIG_VIRTIO_RNG=y
CONFIG_VIRTIO_BALLOON=y
CONFIG_VIRTIO_SERIAL=y
CONFIG_VIRTIO_9P=y
CONFIG_VIRTIO_FABRIC=y

CONFIG_ISA_DEBUG=y
CONFIG_PCI_TESTDEV=y
