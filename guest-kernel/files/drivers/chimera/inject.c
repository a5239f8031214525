// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * For tests: lets root send any bytes as a message to another kernel, to see
 * that it survives them. A write to /sys/kernel/debug/chimera/inject is one
 * message: struct virtio_fabric_hdr with node and class, then the payload.
 */
#define pr_fmt(fmt) "chimera: " fmt

#include <linux/debugfs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "internal.h"

static ssize_t inject_write(struct file *file, const char __user *from,
			    size_t len, loff_t *pos)
{
	struct virtio_fabric_hdr *hdr;
	struct chimera_node *node;
	struct kvec vec;
	int err;

	if (len < sizeof(*hdr) + sizeof(struct chimera_hdr) ||
	    len > VIRTIO_FABRIC_RX_BYTES)
		return -EINVAL;
	hdr = memdup_user(from, len);
	if (IS_ERR(hdr))
		return PTR_ERR(hdr);
	node = chimera_node(le16_to_cpu(hdr->node));
	if (!node || chimera_is_self(node) ||
	    hdr->cls >= VIRTIO_FABRIC_NR_CLASSES) {
		err = -EINVAL;
	} else {
		vec.iov_base = (u8 *)(hdr + 1) + sizeof(struct chimera_hdr);
		vec.iov_len = len - sizeof(*hdr) - sizeof(struct chimera_hdr);
		err = fabric_send(node, hdr->cls,
				  (struct chimera_hdr *)(hdr + 1), &vec, 1,
				  CHIMERA_KILLABLE, CHIMERA_CALL_TIMEOUT);
	}
	kfree(hdr);
	return err ?: len;
}

static const struct file_operations inject_fops = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.write = inject_write,
};

void chimera_inject_init(void)
{
	struct dentry *dir = debugfs_create_dir("chimera", NULL);

	debugfs_create_file("inject", 0200, dir, NULL, &inject_fops);
}
