/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "dsm/dsm.h"
#include "region.h"

int dsm__region_create(const char *name, uint64_t bytes)
{
    char full_name[sizeof("chimera-") + DSM_NAME_BYTES];
    int fd, err;

    snprintf(full_name, sizeof(full_name), "chimera-%.*s", DSM_NAME_BYTES,
             name);
    fd = memfd_create(full_name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        return -errno;
    }
    /* The seals come last: they forbid the resize, and then themselves. */
    if (ftruncate(fd, bytes) < 0 ||
        fcntl(fd, F_ADD_SEALS,
              F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        err = -errno;
        close(fd);
        return err;
    }
    return fd;
}

int dsm__region_check(int fd, uint64_t bytes, const char **ret_why)
{
    struct statfs fs;
    struct stat st;
    int flags, seals;

    if (fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0 || !S_ISREG(st.st_mode) ||
        fs.f_type != TMPFS_MAGIC) {
        *ret_why = "its region is not shared memory";
        return -EBADF;
    }
    flags = fcntl(fd, F_GETFL);
    if (flags < 0 || (flags & O_ACCMODE) != O_RDWR) {
        *ret_why = "its region cannot be written";
        return -EBADF;
    }
    /* Seals before size: only then does the size stay what was seen. */
    seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK)) {
        *ret_why = "its region is not sealed against shrinking";
        return -EBADF;
    }
    if (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) {
        *ret_why = "its region is sealed against writing";
        return -EBADF;
    }
    if (fstat(fd, &st) < 0 || st.st_size < 0 ||
        (uint64_t)st.st_size != bytes) {
        *ret_why = "its region does not have the size that was announced";
        return -EBADF;
    }
    return 0;
}
