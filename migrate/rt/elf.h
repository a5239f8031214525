/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the library reads of its own program file: 64-bit ELF headers. */
#ifndef CHIMERA_RT_ELF_H
#define CHIMERA_RT_ELF_H

#include <stdint.h>

struct ehdr {
    unsigned char ident[16];
    uint16_t type, machine;
    uint32_t version;
    uint64_t entry, phoff, shoff;
    uint32_t flags;
    uint16_t ehsize, phentsize, phnum, shentsize, shnum, shstrndx;
};

struct shdr {
    uint32_t name, type;
    uint64_t flags, addr, offset, size;
    uint32_t link, info;
    uint64_t addralign, entsize;
};

#endif
