/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The memory of a node as a file descriptor: create one, trust none. */
#ifndef DSM_SRC_REGION_H
#define DSM_SRC_REGION_H

#include <stdint.h>

/**
 * dsm__region_create() - @bytes of zeroed memory whose size cannot change.
 * Return: an fd; -errno.
 */
int dsm__region_create(const char *name, uint64_t bytes);

/**
 * dsm__region_check() - is @fd, which a peer sent, safe to map in whole?
 * @ret_why: on failure a constant string for people.
 * Return: 0; -EBADF no.
 */
int dsm__region_check(int fd, uint64_t bytes, const char **ret_why);

#endif
