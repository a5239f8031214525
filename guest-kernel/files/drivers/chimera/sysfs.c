// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * /sys/devices/system/chimera: the machine and its nodes. The segments
 * directory is filled by seg.c. Laid out in docs/interfaces.md.
 */
#define pr_fmt(fmt) "chimera: " fmt

#include <linux/elf-em.h>
#include <linux/sysfs.h>

#include "internal.h"

static const struct bus_type chimera_subsys = {
	.name = "chimera",
	.dev_name = "node",
};

static ssize_t self_show(struct device *dev, struct device_attribute *attr,
			 char *buf)
{
	return sysfs_emit(buf, "%u\n", chimera->self);
}
static DEVICE_ATTR_RO(self);

static ssize_t coherence_show(struct device *dev,
			      struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%s\n", chimera->coherence ? "dsm" : "shared");
}
static DEVICE_ATTR_RO(coherence);

/* Can segments be mapped executable, whoever writes the code? */
static ssize_t executable_segments_show(struct device *dev,
					struct device_attribute *attr,
					char *buf)
{
	return sysfs_emit(buf, "%d\n", chimera->code);
}
static DEVICE_ATTR_RO(executable_segments);

static ssize_t machine_uuid_show(struct device *dev,
				 struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%pUb\n", chimera->uuid);
}
static DEVICE_ATTR_RO(machine_uuid);

/* Where the own region lies in this node's physical memory. */
static ssize_t ram_extents_show(struct device *dev,
				struct device_attribute *attr, char *buf)
{
	ssize_t len = 0;

	for (int i = 0; i < chimera->nr_extents; i++) {
		const struct chimera_extent *e = &chimera->extent[i];

		len += sysfs_emit_at(buf, len, "0x%llx 0x%llx 0x%llx\n",
				     e->gpa, e->offset, e->len);
	}
	return len;
}
static DEVICE_ATTR_RO(ram_extents);

static struct attribute *root_attrs[] = {
	&dev_attr_self.attr,
	&dev_attr_coherence.attr,
	&dev_attr_executable_segments.attr,
	&dev_attr_machine_uuid.attr,
	&dev_attr_ram_extents.attr,
	NULL
};
ATTRIBUTE_GROUPS(root);

static struct chimera_node *to_node(struct device *dev)
{
	return container_of(dev, struct chimera_node, dev);
}

static ssize_t name_show(struct device *dev, struct device_attribute *attr,
			 char *buf)
{
	return sysfs_emit(buf, "%s\n", to_node(dev)->name);
}
static DEVICE_ATTR_RO(name);

static ssize_t arch_show(struct device *dev, struct device_attribute *attr,
			 char *buf)
{
	const struct chimera_node *node = to_node(dev);

	switch (node->elf_machine) {
	case EM_X86_64:
		return sysfs_emit(buf, "x86_64\n");
	case EM_AARCH64:
		return sysfs_emit(buf, "aarch64\n");
	default:
		return sysfs_emit(buf, "elf-%u\n", node->elf_machine);
	}
}
static DEVICE_ATTR_RO(arch);

static ssize_t cpus_show(struct device *dev, struct device_attribute *attr,
			 char *buf)
{
	return sysfs_emit(buf, "%u\n", to_node(dev)->cpus);
}
static DEVICE_ATTR_RO(cpus);

static ssize_t state_show(struct device *dev, struct device_attribute *attr,
			  char *buf)
{
	static const char *const text[] = { "absent", "up", "down", "fenced" };

	return sysfs_emit(buf, "%s\n", text[READ_ONCE(to_node(dev)->state)]);
}
static DEVICE_ATTR_RO(state);

static ssize_t ram_bytes_show(struct device *dev,
			      struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%llu\n", to_node(dev)->ram_bytes);
}
static DEVICE_ATTR_RO(ram_bytes);

static ssize_t mem_show(struct device *dev, char *buf, bool total)
{
	u64 total_kb, free_kb;

	/* a node that cannot be asked reads as empty */
	if (chimera_proc_mem(to_node(dev), &total_kb, &free_kb))
		return 0;
	return sysfs_emit(buf, "%llu\n", total ? total_kb : free_kb);
}

static ssize_t mem_total_kb_show(struct device *dev,
				 struct device_attribute *attr, char *buf)
{
	return mem_show(dev, buf, true);
}
static DEVICE_ATTR_RO(mem_total_kb);

static ssize_t mem_free_kb_show(struct device *dev,
				struct device_attribute *attr, char *buf)
{
	return mem_show(dev, buf, false);
}
static DEVICE_ATTR_RO(mem_free_kb);

/* Physical addresses are for the administrator only. */
static ssize_t window_phys_show(struct device *dev,
				struct device_attribute *attr, char *buf)
{
	const struct chimera_node *node = to_node(dev);

	if (chimera_is_self(node))
		return 0;
	return sysfs_emit(buf, "0x%llx\n", (u64)node->window_phys);
}
static DEVICE_ATTR_ADMIN_RO(window_phys);

static ssize_t messages_sent_show(struct device *dev,
				  struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%lld\n", atomic64_read(&to_node(dev)->sent));
}
static DEVICE_ATTR_RO(messages_sent);

static ssize_t messages_received_show(struct device *dev,
				      struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%lld\n",
			  atomic64_read(&to_node(dev)->received));
}
static DEVICE_ATTR_RO(messages_received);

static ssize_t messages_dropped_show(struct device *dev,
				     struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%lld\n",
			  atomic64_read(&to_node(dev)->dropped));
}
static DEVICE_ATTR_RO(messages_dropped);

static struct attribute *node_attrs[] = {
	&dev_attr_name.attr,
	&dev_attr_arch.attr,
	&dev_attr_cpus.attr,
	&dev_attr_state.attr,
	&dev_attr_ram_bytes.attr,
	&dev_attr_mem_total_kb.attr,
	&dev_attr_mem_free_kb.attr,
	&dev_attr_window_phys.attr,
	&dev_attr_messages_sent.attr,
	&dev_attr_messages_received.attr,
	&dev_attr_messages_dropped.attr,
	NULL
};
ATTRIBUTE_GROUPS(node);

/* Nodes are never freed; the driver core insists on being told so. */
static void node_release(struct device *dev)
{
}

static int sysfs_add_node(struct chimera_node *node)
{
	node->dev.bus = &chimera_subsys;
	node->dev.id = node->index;
	node->dev.groups = node_groups;
	node->dev.release = node_release;
	return device_register(&node->dev);
}

/* chimera_sysfs_state_changed() - wake who polls the node's state. */
void chimera_sysfs_state_changed(struct chimera_node *node)
{
	if (device_is_registered(&node->dev))
		sysfs_notify(&node->dev.kobj, NULL, "state");
}

struct kobject *chimera_sysfs_root(void)
{
	struct device *root = bus_get_dev_root(&chimera_subsys);

	return root ? &root->kobj : NULL;
}

int chimera_sysfs_init(void)
{
	int err;

	chimera->node[chimera->self]->state = VIRTIO_FABRIC_UP;
	err = subsys_system_register(&chimera_subsys, root_groups);
	for (unsigned int i = 0; !err && i < chimera->nr_nodes; i++)
		err = sysfs_add_node(chimera->node[i]);
	return err;
}
