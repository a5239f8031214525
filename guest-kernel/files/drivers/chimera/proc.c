// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * /proc/chimera/{cpuinfo,meminfo,stat}: the files of the same names of all
 * nodes as if they were one machine's. /proc/chimera/tasks: the threads of
 * fused processes that have channels, of all homes.
 *
 * Every node renders its own by reading its /proc, through a mount of its own
 * so that what programs mount over /proc does not matter, and sends the text
 * to who asks. So all fields of both ISAs are there and the format is exactly
 * that of the kernel.
 *
 *   cpuinfo  one text after the other, processors numbered through
 *   meminfo  lines with the same name are added up, but page sizes
 *   stat     numbers of lines with the same name are added up; cpuN are
 *            numbered through; single interrupts and the boot time are the own
 *            node's
 */
#define pr_fmt(fmt) "chimera: " fmt

#include <linux/ctype.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/mount.h>
#include <linux/mutex.h>
#include <linux/proc_fs.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "internal.h"

#define PROC_TEXT_MAX	(512 << 10)	/* of one node */

static const char *const proc_file[CHIMERA_NR_PROC_FILES] = {
	"cpuinfo", "meminfo", "stat", "tasks"
};

struct proc_text {
	char *buf;		/* NUL-terminated */
	u32 len;
	u32 room;
};

/* What a peer has begun to read; touched by its REQUEST work only. */
struct proc_snapshot {
	struct proc_text text[CHIMERA_NR_PROC_FILES];
};

static struct vfsmount *proc_mnt;
static struct proc_snapshot *snapshots;		/* per node */

static void text_free(struct proc_text *t)
{
	kvfree(t->buf);
	*t = (struct proc_text) { };
}

static int text_reserve(struct proc_text *t, size_t more)
{
	size_t need = t->len + more + 1, room;
	char *buf;

	if (need <= t->room)
		return 0;
	if (need > (size_t)PROC_TEXT_MAX * VIRTIO_FABRIC_MAX_NODES)
		return -E2BIG;
	room = max(need, 2 * (size_t)t->room);
	buf = kvmalloc(room, GFP_KERNEL_ACCOUNT);
	if (!buf)
		return -ENOMEM;
	if (t->len)
		memcpy(buf, t->buf, t->len);
	kvfree(t->buf);
	t->buf = buf;
	t->room = room;
	buf[t->len] = 0;
	return 0;
}

static int text_add(struct proc_text *t, const char *s, size_t len)
{
	int err = text_reserve(t, len);

	if (err)
		return err;
	memcpy(t->buf + t->len, s, len);
	t->len += len;
	t->buf[t->len] = 0;
	return 0;
}

static __printf(2, 3) int text_printf(struct proc_text *t, const char *fmt, ...)
{
	char line[128];
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vscnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	return text_add(t, line, len);
}

/* ---- one node's own ---------------------------------------------------- */

/* There may be more of them at the second look: those come the next time. */
static int render_tasks(struct proc_text *t)
{
	size_t len = chimera_fused_tasks(NULL, 0);
	int err = text_reserve(t, len);

	if (!err)
		t->len = chimera_fused_tasks(t->buf, t->room);
	return err;
}

static int render_own(enum chimera_proc_file which, struct proc_text *t)
{
	struct file *file;
	loff_t pos = 0;
	ssize_t n;
	int err;

	text_free(t);
	if (which == CHIMERA_PROC_TASKS)
		return render_tasks(t);
	file = file_open_root_mnt(proc_mnt, proc_file[which], O_RDONLY, 0);
	if (IS_ERR(file))
		return PTR_ERR(file);
	do {
		err = text_reserve(t, PAGE_SIZE);
		if (err)
			break;
		n = kernel_read(file, t->buf + t->len, t->room - t->len - 1,
				&pos);
		if (n > 0)
			t->len += n;
		if (t->len > PROC_TEXT_MAX)
			err = -E2BIG;
		else
			err = n < 0 ? n : 0;
	} while (!err && n > 0);
	fput(file);
	if (err)
		text_free(t);
	else
		t->buf[t->len] = 0;
	return err;
}

static void proc_read_work(struct chimera_rx *rx)
{
	const struct chimera_proc_read *req = rx->body;
	struct chimera_proc_text head = { };
	struct kvec vec[2] = { { &head, sizeof(head) } };
	struct proc_text *t;
	u32 offset, n;
	int err = 0;

	if (rx->len != sizeof(*req) ||
	    le32_to_cpu(req->file) >= CHIMERA_NR_PROC_FILES) {
		chimera_drop(rx->node, "malformed request for a file");
		chimera_reply(rx, -EINVAL, NULL, 0, 0);
		return;
	}
	offset = le32_to_cpu(req->offset);
	t = &snapshots[rx->node->index].text[le32_to_cpu(req->file)];
	if (offset == 0)
		err = render_own(le32_to_cpu(req->file), t);
	if (!err && offset > t->len)
		err = -EINVAL;
	if (err) {
		chimera_reply(rx, err, NULL, 0, 0);
		return;
	}
	n = min(t->len - offset, (u32)(CHIMERA_BODY_BYTES - sizeof(head)));
	head.total = cpu_to_le32(t->len);
	vec[1] = (struct kvec) { t->buf + offset, n };
	chimera_reply(rx, 0, vec, 2, 0);
	if (offset + n == t->len)
		text_free(t);
}

static void own_mem(struct chimera_proc_mem *mem)
{
	struct sysinfo si;

	si_meminfo(&si);
	mem->total_kb = cpu_to_le64((u64)si.totalram << (PAGE_SHIFT - 10));
	mem->free_kb = cpu_to_le64((u64)si.freeram << (PAGE_SHIFT - 10));
}

static void proc_work(struct chimera_rx *rx)
{
	struct chimera_proc_mem mem;
	const struct kvec vec = { &mem, sizeof(mem) };

	switch (rx->hdr->type) {
	case CHIMERA_PROC_READ:
		proc_read_work(rx);
		break;
	case CHIMERA_PROC_MEM:
		own_mem(&mem);
		chimera_reply(rx, 0, &vec, 1, 0);
		break;
	default:
		chimera_drop(rx->node, "unknown question");
		chimera_reply(rx, -EOPNOTSUPP, NULL, 0, 0);
	}
}

static void proc_node_down(struct chimera_node *node)
{
	if (!snapshots)
		return;
	for (int i = 0; i < CHIMERA_NR_PROC_FILES; i++)
		text_free(&snapshots[node->index].text[i]);
}

const struct chimera_service chimera_proc_service = {
	.name = "proc",
	.classes = BIT(VIRTIO_FABRIC_CLASS_REQUEST),
	.work = proc_work,
	.node_down = proc_node_down,
};

/* ---- another node's ---------------------------------------------------- */

int chimera_proc_mem(struct chimera_node *node, u64 *ret_total_kb,
		     u64 *ret_free_kb)
{
	struct chimera_proc_mem mem;
	int ret;

	if (chimera_is_self(node)) {
		own_mem(&mem);
	} else {
		ret = chimera_call(node, CHIMERA_SERVICE_PROC, CHIMERA_PROC_MEM,
				   NULL, 0, &mem, sizeof(mem),
				   CHIMERA_KILLABLE, CHIMERA_QUERY_TIMEOUT);
		if (ret != sizeof(mem))
			return ret < 0 ? ret : -EPROTO;
	}
	*ret_total_kb = le64_to_cpu(mem.total_kb);
	*ret_free_kb = le64_to_cpu(mem.free_kb);
	return 0;
}

static int fetch(struct chimera_node *node, enum chimera_proc_file which,
		 struct proc_text *t)
{
	struct chimera_proc_text *head;
	struct chimera_proc_read req;
	int ret;

	head = kmalloc(CHIMERA_BODY_BYTES, GFP_KERNEL);
	if (!head)
		return -ENOMEM;
	do {
		req.file = cpu_to_le32(which);
		req.offset = cpu_to_le32(t->len);
		ret = chimera_call(node, CHIMERA_SERVICE_PROC,
				   CHIMERA_PROC_READ, &req, sizeof(req), head,
				   CHIMERA_BODY_BYTES, CHIMERA_KILLABLE,
				   CHIMERA_QUERY_TIMEOUT);
		if (ret < 0)
			break;
		if (ret < sizeof(*head) ||
		    le32_to_cpu(head->total) > PROC_TEXT_MAX ||
		    t->len + (ret - sizeof(*head)) > le32_to_cpu(head->total)) {
			chimera_drop(node, "malformed piece of a file");
			ret = -EPROTO;
			break;
		}
		ret -= sizeof(*head);
		if (!ret)
			break;		/* it got shorter meanwhile, or empty */
		if (text_add(t, (char *)(head + 1), ret)) {
			ret = -ENOMEM;
			break;
		}
	} while (t->len < le32_to_cpu(head->total));
	kfree(head);
	if (ret < 0)
		text_free(t);
	return ret < 0 ? ret : 0;
}

/* ---- all of them ------------------------------------------------------- */

/* Take a line off *s; the line does not contain its newline. */
static bool next_line(const char **s, const char **line, size_t *len)
{
	const char *end;

	if (!**s)
		return false;
	end = strchrnul(*s, '\n');
	*line = *s;
	*len = end - *s;
	*s = *end ? end + 1 : end;
	return true;
}

/* Number of leading characters of a line that name it. */
static size_t key_len(const char *line, size_t len)
{
	size_t n = 0;

	while (n < len && line[n] != ':' && line[n] != ' ' && line[n] != '\t')
		n++;
	return n;
}

/* The line of @t that has the same name. */
static bool find_line(const struct proc_text *t, const char *key, size_t klen,
		      const char **line, size_t *len)
{
	const char *s = t->buf;

	if (!s)
		return false;
	while (next_line(&s, line, len))
		if (key_len(*line, *len) == klen && !memcmp(*line, key, klen))
			return true;
	return false;
}

static int merge_cpuinfo(struct proc_text *out, const struct proc_text *in,
			 unsigned int nr)
{
	static const char proc[] = "processor";
	unsigned int cpu = 0;
	const char *line, *s;
	size_t len;
	int err = 0;

	for (unsigned int i = 0; i < nr; i++) {
		s = in[i].buf;
		while (!err && s && next_line(&s, &line, &len)) {
			if (key_len(line, len) == sizeof(proc) - 1 &&
			    !memcmp(line, proc, sizeof(proc) - 1))
				err = text_printf(out, "processor\t: %u\n",
						  cpu++);
			else
				err = text_add(out, line, len) ?:
				      text_add(out, "\n", 1);
		}
	}
	return err;
}

static int merge_tasks(struct proc_text *out, const struct proc_text *in,
		       unsigned int nr)
{
	int err = text_printf(out, "%4s %10s %10s %4s\n", "home", "pid", "tid",
			      "at");

	for (unsigned int i = 0; !err && i < nr; i++)
		if (in[i].len)
			err = text_add(out, in[i].buf, in[i].len);
	return err;
}

/* The number in "Key:   123 kB". */
static u64 mem_number(const char *line, size_t len)
{
	u64 n = 0;

	while (len && !isdigit(*line))
		line++, len--;
	for (; len && isdigit(*line); line++, len--)
		n = n * 10 + (*line - '0');
	return n;
}

static int merge_meminfo(struct proc_text *out, const struct proc_text *in,
			 unsigned int nr)
{
	const char *line, *s, *other;
	size_t len, klen, olen;
	char key[32];
	int err = 0;
	u64 sum;

	/* nodes in turn: each adds the lines that none before it has */
	for (unsigned int i = 0; i < nr; i++) {
		s = in[i].buf;
		while (!err && s && next_line(&s, &line, &len)) {
			klen = key_len(line, len);
			if (!klen || klen + 2 > sizeof(key) ||
			    find_line(out, line, klen, &other, &olen))
				continue;
			sum = mem_number(line + klen, len - klen);
			for (unsigned int j = i + 1; j < nr; j++)
				if (strncmp(line, "Hugepagesize:", 13) &&
				    find_line(&in[j], line, klen, &other,
					      &olen))
					sum += mem_number(other + klen,
							  olen - klen);
			snprintf(key, sizeof(key), "%.*s:", (int)klen, line);
			err = text_printf(out, "%-15s %8llu%s\n", key, sum,
					  len > 3 && !memcmp(line + len - 3,
							     " kB", 3) ?
					  " kB" : "");
		}
	}
	return err;
}

/* Take a number off a line of /proc/stat. */
static bool next_number(const char **s, const char *end, u64 *n)
{
	while (*s < end && **s == ' ')
		(*s)++;
	if (*s == end || !isdigit(**s))
		return false;
	for (*n = 0; *s < end && isdigit(**s); (*s)++)
		*n = *n * 10 + (**s - '0');
	return true;
}

#define STAT_COLUMNS	16

/* Write @line with its first @sums numbers added up over all nodes. */
static int stat_sum(struct proc_text *out, const struct proc_text *in,
		    unsigned int nr, const char *line, size_t len,
		    unsigned int sums)
{
	size_t klen = key_len(line, len), olen;
	u64 sum[STAT_COLUMNS] = { }, n;
	const char *other, *s = line + klen;
	unsigned int col;
	int err;

	for (unsigned int i = 0; i < nr; i++) {
		const char *p;

		if (!find_line(&in[i], line, klen, &other, &olen))
			continue;
		p = other + klen;
		for (col = 0; col < sums &&
		     next_number(&p, other + olen, &n); col++)
			sum[col] += n;
	}
	/* the kernel writes "cpu" with two blanks */
	err = text_add(out, line, klen);
	if (!err && klen == 3 && !memcmp(line, "cpu", 3))
		err = text_add(out, " ", 1);
	for (col = 0; !err && next_number(&s, line + len, &n); col++) {
		if (col >= sums)
			return text_add(out, " ", 1) ?: text_printf(out, "%llu", n) ?:
			       text_add(out, s, line + len - s) ?:
			       text_add(out, "\n", 1);
		err = text_printf(out, " %llu", sum[col]);
	}
	return err ?: text_add(out, "\n", 1);
}

static bool is_cpu_line(const char *line, size_t len)
{
	return len > 3 && !memcmp(line, "cpu", 3) && isdigit(line[3]);
}

static int merge_stat(struct proc_text *out, const struct proc_text *in,
		      unsigned int nr)
{
	const char *line, *other, *s = in[0].buf;
	unsigned int cpu = 0, sums;
	bool cpus_done = false;
	size_t len, klen, olen;
	int err = 0;

	while (!err && s && next_line(&s, &line, &len)) {
		if (is_cpu_line(line, len)) {
			for (unsigned int i = 0; i < nr && !cpus_done; i++) {
				const char *p = in[i].buf;

				while (!err && p &&
				       next_line(&p, &other, &olen)) {
					if (!is_cpu_line(other, olen))
						continue;
					klen = key_len(other, olen);
					err = text_printf(out, "cpu%u", cpu++) ?:
					      text_add(out, other + klen,
						       olen - klen) ?:
					      text_add(out, "\n", 1);
				}
			}
			cpus_done = true;
			continue;
		}
		klen = key_len(line, len);
		if (klen == 5 && !memcmp(line, "btime", 5))
			sums = 0;
		else if (klen == 4 && !memcmp(line, "intr", 4))
			sums = 1;
		else
			sums = STAT_COLUMNS;
		err = stat_sum(out, in, nr, line, len, sums);
	}
	return err;
}

static int render_all(enum chimera_proc_file which, struct proc_text *out)
{
	struct proc_text *in;
	struct chimera_node *node;
	unsigned int nr = 1;
	int err;

	in = kcalloc(chimera->nr_nodes, sizeof(*in), GFP_KERNEL);
	if (!in)
		return -ENOMEM;
	text_free(out);
	err = render_own(which, &in[0]);
	/* a node that does not answer is not part of the picture */
	for_each_peer(node)
		if (!err && chimera_node_greeted(node) &&
		    !fetch(node, which, &in[nr]))
			nr++;
	if (!err && fatal_signal_pending(current))
		err = -EINTR;
	if (!err && which == CHIMERA_PROC_CPUINFO)
		err = merge_cpuinfo(out, in, nr);
	else if (!err && which == CHIMERA_PROC_MEMINFO)
		err = merge_meminfo(out, in, nr);
	else if (!err && which == CHIMERA_PROC_TASKS)
		err = merge_tasks(out, in, nr);
	else if (!err)
		err = merge_stat(out, in, nr);
	for (unsigned int i = 0; i < nr; i++)
		text_free(&in[i]);
	kfree(in);
	if (err)
		text_free(out);
	return err;
}

/* ---- the files --------------------------------------------------------- */

struct proc_open {
	struct mutex lock;		/* text */
	enum chimera_proc_file which;
	struct proc_text text;
};

static int proc_open(struct inode *inode, struct file *file)
{
	struct proc_open *open = kzalloc(sizeof(*open), GFP_KERNEL);

	if (!open)
		return -ENOMEM;
	mutex_init(&open->lock);
	open->which = (uintptr_t)pde_data(inode);
	file->private_data = open;
	return 0;
}

static int proc_release(struct inode *inode, struct file *file)
{
	struct proc_open *open = file->private_data;

	text_free(&open->text);
	kfree(open);
	return 0;
}

/* As /proc's own files: what is read from the start on is fresh. */
static ssize_t proc_read_iter(struct kiocb *kiocb, struct iov_iter *to)
{
	struct proc_open *open = kiocb->ki_filp->private_data;
	ssize_t ret = 0;
	size_t n;

	if (mutex_lock_killable(&open->lock))
		return -EINTR;
	if (kiocb->ki_pos == 0 || !open->text.buf)
		ret = render_all(open->which, &open->text);
	if (!ret && kiocb->ki_pos < open->text.len) {
		n = copy_to_iter(open->text.buf + kiocb->ki_pos,
				 open->text.len - kiocb->ki_pos, to);
		kiocb->ki_pos += n;
		ret = n ? n : iov_iter_count(to) ? -EFAULT : 0;
	}
	mutex_unlock(&open->lock);
	return ret;
}

static loff_t proc_lseek(struct file *file, loff_t offset, int whence)
{
	struct proc_open *open = file->private_data;

	return generic_file_llseek_size(file, offset, whence, MAX_LFS_FILESIZE,
					open->text.len);
}

static const struct proc_ops chimera_proc_ops = {
	.proc_open = proc_open,
	.proc_read_iter = proc_read_iter,
	.proc_lseek = proc_lseek,
	.proc_release = proc_release,
};

int chimera_proc_init(void)
{
	struct file_system_type *type = get_fs_type("proc");
	struct proc_dir_entry *dir;

	if (!type)
		return -ENODEV;
	snapshots = kcalloc(chimera->nr_nodes, sizeof(*snapshots), GFP_KERNEL);
	if (!snapshots)
		return -ENOMEM;
	proc_mnt = kern_mount(type);
	if (IS_ERR(proc_mnt))
		return PTR_ERR(proc_mnt);
	dir = proc_mkdir("chimera", NULL);
	if (!dir)
		return -ENOMEM;
	for (uintptr_t i = 0; i < CHIMERA_NR_PROC_FILES; i++)
		if (!proc_create_data(proc_file[i], 0444, dir,
				      &chimera_proc_ops, (void *)i))
			return -ENOMEM;
	return 0;
}
