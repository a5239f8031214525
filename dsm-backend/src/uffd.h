/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * userfaultfd, one function for each thing that is done with it. They work on
 * whole pages, restart what was interrupted, and treat as done what is done.
 */
#ifndef DSM_SRC_UFFD_H
#define DSM_SRC_UFFD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dsm__fault {
    uintptr_t address; /* of the page or within it */
    bool write;
};

#define DSM__FAULTS 16

/**
 * dsm__uffd_open() - a non-blocking fd that serves faults of the kernel, too.
 * @ret_why: on failure a constant string for people.
 * Return: an fd; -EPERM this process may not; -EOPNOTSUPP the kernel lacks
 * something (Linux 6.6 has all); other errno.
 */
int dsm__uffd_open(const char **ret_why);

/**
 * dsm__uffd_register() - have the faults of a mapping reported.
 * @missing: also those on pages that do not exist yet.
 */
int dsm__uffd_register(int fd, void *at, size_t bytes, bool missing);
/* Only to protect: what is not protected is the kernel's affair alone. */
int dsm__uffd_register_wp(int fd, void *at, size_t bytes);
int dsm__uffd_unregister(int fd, void *at, size_t bytes);

/** dsm__uffd_read() - Return: number of faults, 0 none; -errno. */
int dsm__uffd_read(int fd, struct dsm__fault faults[DSM__FAULTS]);

/** dsm__uffd_map() - map pages that exist, where they are not; wakes. */
int dsm__uffd_map(int fd, void *at, size_t bytes, size_t page_bytes,
                  bool writable);
/** dsm__uffd_map_present() - map, writable, what exists of the pages; wakes. */
int dsm__uffd_map_present(int fd, void *at, size_t bytes, size_t page_bytes);
/** dsm__uffd_protect() - from now on writing is reported. */
int dsm__uffd_protect(int fd, void *at, size_t bytes);
/** dsm__uffd_unprotect() - no more; wakes. */
int dsm__uffd_unprotect(int fd, void *at, size_t bytes);
/** dsm__uffd_zap() - from now on any access is reported. */
int dsm__uffd_zap(void *at, size_t bytes);
/** dsm__uffd_poison() - from now on any access gets SIGBUS; wakes. */
int dsm__uffd_poison(int fd, void *at, size_t bytes, size_t page_bytes);

#endif
