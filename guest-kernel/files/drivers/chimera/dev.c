// SPDX-License-Identifier: GPL-2.0-or-later
/* /dev/chimera: what include/uapi/linux/chimera.h describes. */
#define pr_fmt(fmt) "chimera: " fmt

#include <linux/compat.h>
#include <linux/miscdevice.h>
#include <linux/uaccess.h>

#include "internal.h"

static int chimera_dev_info(struct chimera_info __user *arg)
{
	struct chimera_info info = {
		.abi_version = CHIMERA_ABI_VERSION,
		.self = chimera->self,
		.nr_nodes = chimera->nr_nodes,
		.up_mask = chimera_up_mask(),
	};

	memcpy(info.machine_uuid, chimera->uuid, sizeof(info.machine_uuid));
	return copy_to_user(arg, &info, sizeof(info)) ? -EFAULT : 0;
}

static long dev_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct port_ep *ep = file->private_data;
	void __user *p = (void __user *)arg;

	switch (cmd) {
	case CHIMERA_IOC_INFO:
		return chimera_dev_info(p);
	case CHIMERA_IOC_SEG_CREATE:
		return chimera_seg_create(p);
	case CHIMERA_IOC_SEG_OPEN:
		return chimera_seg_open(p);
	case CHIMERA_IOC_SEG_UNLINK:
		return chimera_seg_unlink(p);
	case CHIMERA_IOC_BIND:
		return chimera_port_bind(ep, p);
	case CHIMERA_IOC_SEND:
		return chimera_port_send(ep, p);
	case CHIMERA_IOC_RECV:
		return chimera_port_recv(ep, p);
	case CHIMERA_IOC_PING:
		return chimera_ping(p);
	case CHIMERA_IOC_FUSE:
		return chimera_fuse(p);
	case CHIMERA_IOC_JOIN:
		return chimera_join(p);
	default:
		return -ENOTTY;
	}
}

static int dev_open(struct inode *inode, struct file *file)
{
	struct port_ep *ep = chimera_port_new();

	if (IS_ERR(ep))
		return PTR_ERR(ep);
	file->private_data = ep;
	return stream_open(inode, file);
}

static int dev_release(struct inode *inode, struct file *file)
{
	chimera_port_close(file->private_data);
	return 0;
}

static __poll_t dev_poll(struct file *file, poll_table *wait)
{
	return chimera_port_poll(file->private_data, file, wait);
}

static const struct file_operations dev_fops = {
	.owner = THIS_MODULE,
	.open = dev_open,
	.release = dev_release,
	.unlocked_ioctl = dev_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.poll = dev_poll,
};

static struct miscdevice dev_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "chimera",
	.mode = 0666,
	.fops = &dev_fops,
};

int chimera_dev_init(void)
{
	chimera_inject_init();
	return misc_register(&dev_misc);
}
