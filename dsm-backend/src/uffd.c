/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "uffd.h"

/* Of Linux 6.6 and older than that where the headers are. */
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFDIO_CONTINUE_MODE_WP
#define UFFDIO_CONTINUE_MODE_WP ((uint64_t)1 << 1)
#endif
#ifndef UFFD_FEATURE_POISON
#define UFFD_FEATURE_POISON (1 << 14)
struct uffdio_poison {
    struct uffdio_range range;
    uint64_t mode;
    int64_t updated;
};
#define UFFDIO_POISON _IOWR(UFFDIO, 0x08, struct uffdio_poison)
#endif
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

/* In the order in which the kernel got them. */
static const struct {
    uint64_t feature;
    const char *missing;
} features[] = {
    { UFFD_FEATURE_MISSING_SHMEM,
      "the kernel reports no missing pages of shared memory" },
    { UFFD_FEATURE_MINOR_SHMEM,
      "the kernel reports no minor faults of shared memory (Linux 5.14 does)" },
    { UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
      "the kernel cannot write-protect shared memory (Linux 5.19 can)" },
    { UFFD_FEATURE_WP_UNPOPULATED,
      "the kernel cannot write-protect what is not there (Linux 6.4 can)" },
    { UFFD_FEATURE_POISON,
      "the kernel cannot poison pages (Linux 6.6 can)" },
};
#define NR_FEATURES (sizeof(features) / sizeof(features[0]))

static int uffd_create(void)
{
    const int flags = O_CLOEXEC | O_NONBLOCK;
    int dev, fd = syscall(SYS_userfaultfd, flags);

    if (fd >= 0 || errno != EPERM) {
        return fd < 0 ? -errno : fd;
    }
    /* Who may open this may have one with faults of the kernel, too. */
    dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (dev < 0) {
        return -EPERM;
    }
    fd = ioctl(dev, USERFAULTFD_IOC_NEW, flags);
    fd = fd < 0 ? -errno : fd;
    close(dev);
    return fd;
}

static int uffd_handshake(int fd, uint64_t wanted, uint64_t *ret_offered)
{
    struct uffdio_api api = { .api = UFFD_API, .features = wanted };

    if (ioctl(fd, UFFDIO_API, &api) < 0) {
        return -errno;
    }
    *ret_offered = api.features;
    return 0;
}

int dsm__uffd_open(const char **ret_why)
{
    uint64_t offered = 0, wanted = 0;
    int fd = uffd_create(), ret;

    if (fd < 0) {
        *ret_why = fd == -EPERM
                       ? "userfaultfd is not allowed: it takes CAP_SYS_PTRACE, "
                         "access to /dev/userfaultfd, or "
                         "vm.unprivileged_userfaultfd=1"
                   : fd == -ENOSYS ? "the kernel has no userfaultfd"
                                   : "userfaultfd cannot be created";
        return fd;
    }
    /* An fd shakes hands once; the first one is only asked what there is. */
    ret = uffd_handshake(fd, 0, &offered);
    close(fd);
    if (ret < 0) {
        *ret_why = "userfaultfd has another interface";
        return ret;
    }
    for (size_t i = 0; i < NR_FEATURES; i++) {
        if (!(offered & features[i].feature)) {
            *ret_why = features[i].missing;
            return -EOPNOTSUPP;
        }
        wanted |= features[i].feature;
    }
    fd = uffd_create();
    ret = fd < 0 ? fd : uffd_handshake(fd, wanted, &offered);
    if (ret < 0) {
        *ret_why = "userfaultfd cannot be created";
        if (fd >= 0) {
            close(fd);
        }
        return ret;
    }
    return fd;
}

static int uffd_register(int fd, void *at, size_t bytes, uint64_t mode)
{
    struct uffdio_register reg = {
        .range = { (uintptr_t)at, bytes },
        .mode = mode | UFFDIO_REGISTER_MODE_WP,
    };

    return ioctl(fd, UFFDIO_REGISTER, &reg) < 0 ? -errno : 0;
}

int dsm__uffd_register(int fd, void *at, size_t bytes, bool missing)
{
    return uffd_register(fd, at, bytes,
                         UFFDIO_REGISTER_MODE_MINOR |
                             (missing ? UFFDIO_REGISTER_MODE_MISSING : 0));
}

int dsm__uffd_register_wp(int fd, void *at, size_t bytes)
{
    return uffd_register(fd, at, bytes, 0);
}

int dsm__uffd_unregister(int fd, void *at, size_t bytes)
{
    struct uffdio_range range = { (uintptr_t)at, bytes };

    return ioctl(fd, UFFDIO_UNREGISTER, &range) < 0 ? -errno : 0;
}

int dsm__uffd_read(int fd, struct dsm__fault faults[DSM__FAULTS])
{
    struct uffd_msg msgs[DSM__FAULTS];
    ssize_t n = read(fd, msgs, sizeof(msgs));
    int nr = 0;

    if (n < 0) {
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    }
    for (size_t i = 0; i < n / sizeof(msgs[0]); i++) {
        uint64_t flags = msgs[i].arg.pagefault.flags;

        if (msgs[i].event == UFFD_EVENT_PAGEFAULT) {
            faults[nr].address = msgs[i].arg.pagefault.address;
            faults[nr++].write =
                flags & (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP);
        }
    }
    return nr;
}

static int uffd_wake(int fd, void *at, size_t bytes)
{
    struct uffdio_range range = { (uintptr_t)at, bytes };

    return ioctl(fd, UFFDIO_WAKE, &range) < 0 ? -errno : 0;
}

/* @mode: of struct uffdio_writeprotect. */
static int uffd_set_protection(int fd, void *at, size_t bytes, uint64_t mode)
{
    struct uffdio_writeprotect wp = {
        .range = { (uintptr_t)at, bytes },
        .mode = mode,
    };
    int ret;

    do {
        ret = ioctl(fd, UFFDIO_WRITEPROTECT, &wp);
    } while (ret < 0 && errno == EAGAIN);
    return ret < 0 ? -errno : 0;
}

/*
 * CONTINUE and POISON do page after page and say how many bytes they did; on
 * a page that is mapped they stop. @flag: it is to be writable; a page that
 * is mapped may be protected.
 */
static int uffd_each(int fd, void *at, size_t bytes, size_t page_bytes,
                     int64_t (*once)(int fd, void *at, size_t bytes,
                                     bool flag), bool flag)
{
    uint8_t *end = (uint8_t *)at + bytes, *p = at;

    while (p < end) {
        int64_t done = once(fd, p, end - p, flag);

        if (done > 0) {
            p += done;
        } else if (done == -EEXIST) {
            if (flag) {
                uffd_set_protection(fd, p, page_bytes, 0);
            }
            uffd_wake(fd, p, page_bytes);
            p += page_bytes;
        } else if (done < 0 && done != -EAGAIN) {
            return done;
        }
    }
    return 0;
}

static int64_t uffd_continue(int fd, void *at, size_t bytes, bool writable)
{
    struct uffdio_continue c = {
        .range = { (uintptr_t)at, bytes },
        .mode = writable ? 0 : UFFDIO_CONTINUE_MODE_WP,
    };

    if (ioctl(fd, UFFDIO_CONTINUE, &c) == 0) {
        return bytes;
    }
    return c.mapped > 0 ? c.mapped : -errno;
}

int dsm__uffd_map(int fd, void *at, size_t bytes, size_t page_bytes,
                  bool writable)
{
    return uffd_each(fd, at, bytes, page_bytes, uffd_continue, writable);
}

int dsm__uffd_map_present(int fd, void *at, size_t bytes, size_t page_bytes)
{
    uint8_t *end = (uint8_t *)at + bytes, *p = at;

    while (p < end) {
        int64_t done = uffd_continue(fd, p, end - p, true);

        if (done > 0) {
            p += done;
        } else if (done == -EEXIST || done == -EFAULT) {
            p += page_bytes; /* mapped meanwhile; not there */
        } else if (done != -EAGAIN) {
            return done;
        }
    }
    return 0;
}

static int64_t uffd_poison_some(int fd, void *at, size_t bytes, bool flag)
{
    struct uffdio_poison p = { .range = { (uintptr_t)at, bytes } };

    if (ioctl(fd, UFFDIO_POISON, &p) == 0) {
        return bytes;
    }
    return p.updated > 0 ? p.updated : -errno;
}

int dsm__uffd_poison(int fd, void *at, size_t bytes, size_t page_bytes)
{
    int ret;

    /* What was protected has left a mark, which POISON does not replace. */
    ret = uffd_set_protection(fd, at, bytes,
                              UFFDIO_WRITEPROTECT_MODE_DONTWAKE);
    if (ret < 0) {
        return ret;
    }
    return uffd_each(fd, at, bytes, page_bytes, uffd_poison_some, false);
}

int dsm__uffd_protect(int fd, void *at, size_t bytes)
{
    return uffd_set_protection(fd, at, bytes, UFFDIO_WRITEPROTECT_MODE_WP);
}

int dsm__uffd_unprotect(int fd, void *at, size_t bytes)
{
    return uffd_set_protection(fd, at, bytes, 0);
}

int dsm__uffd_zap(void *at, size_t bytes)
{
    return madvise(at, bytes, MADV_DONTNEED) < 0 ? -errno : 0;
}
