/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The floor of a message: a process that answers one eventfd with another
 * and does nothing else. QEMU kicks the first for the guest and raises the
 * guest's interrupt for the second.
 *
 *   echo-floor KICK_FD CALL_FD
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    uint64_t value;

    if (argc != 3) {
        fprintf(stderr, "usage: echo-floor KICK_FD CALL_FD\n");
        return 2;
    }
    for (;;) {
        if (read(atoi(argv[1]), &value, sizeof(value)) != sizeof(value) ||
            write(atoi(argv[2]), &value, sizeof(value)) != sizeof(value)) {
            fprintf(stderr, "echo-floor: %s\n", strerror(errno));
            return 1;
        }
    }
}
