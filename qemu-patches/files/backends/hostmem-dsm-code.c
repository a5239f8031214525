/*
 * Translated code in memory that all nodes share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * With coherence=shared the hardware keeps the memory coherent, but nothing
 * tells a node that another one wrote to what it has translations of. Here
 * libdsm is asked before a page is read for translation; from then on it lets
 * nobody else write to the page before this node's translations are dropped
 * (accel/tcg/dsm-code.c).
 *
 * dsm_code_execute() may wait for other nodes, whatever locks its caller
 * holds. What lets it go on is libdsm's thread, which takes none of them and
 * calls back here, so neither do the callbacks.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "exec/memory.h"
#include "system/dsm.h"
#include "system/hostmem-dsm.h"
#include "trace.h"

static struct dsm_shared_region {
    uint64_t bytes;             /* 0: not attached */
    ram_addr_t ram_start;
} dsm_shared_regions[DSM_MAX_NODES];

static struct dsm_node *dsm_shared_node;
static uint16_t dsm_shared_nr_nodes;
static size_t dsm_shared_page_bytes;

static void dsm_shared_execute(ram_addr_t start, size_t bytes)
{
    uint16_t i;

    for (i = 0; i < dsm_shared_nr_nodes; i++) {
        const struct dsm_shared_region *r = &dsm_shared_regions[i];
        uint64_t attached = qatomic_load_acquire(&r->bytes);
        ram_addr_t at;

        if (start < r->ram_start || start - r->ram_start >= attached) {
            continue;
        }
        for (at = start - r->ram_start;
             at < MIN(start - r->ram_start + bytes, attached);
             at += dsm_shared_page_bytes) {
            dsm_region_execute(dsm_shared_node, i, at / dsm_shared_page_bytes);
        }
        return;
    }
}

static void dsm_shared_invalidated(void *opaque, uint16_t owner,
                                   uint64_t page_idx, uint64_t nr_pages)
{
    struct dsm_shared_region *r = opaque;

    dsm_code_lost(r->ram_start + page_idx * dsm_shared_page_bytes,
                  nr_pages * dsm_shared_page_bytes);
}

static bool dsm_shared_executed(void *opaque, uint16_t owner,
                                uint64_t page_idx)
{
    struct dsm_shared_region *r = opaque;

    return dsm_code_is_marked(r->ram_start +
                              page_idx * dsm_shared_page_bytes);
}

void dsm_shared_start(const DsmMachine *machine, struct dsm_node *node)
{
    ram_addr_t ram_bytes = DSM_PAGES_OTHER_RAM;
    uint16_t i;

    dsm_shared_node = node;
    dsm_shared_nr_nodes = machine->nr_nodes;
    dsm_shared_page_bytes = qemu_real_host_page_size();
    for (i = 0; i < machine->nr_nodes; i++) {
        ram_bytes += ROUND_UP(machine->node[i].ram_bytes, DSM_HUGE_PAGE);
    }
    dsm_code_enable(ram_bytes, dsm_shared_execute);
}

bool dsm_shared_attach(MemoryRegion *mr, const DsmMachine *machine,
                       struct dsm_node *node, uint16_t i, Error **errp)
{
    struct dsm_shared_region *r = &dsm_shared_regions[i];
    struct dsm_region_params params = {
        .memory = memory_region_get_ram_ptr(mr),
        .opaque = r,
        .invalidated = dsm_shared_invalidated,
        .executed = dsm_shared_executed,
        .failed = dsm_pages_failed,
    };
    int ret;

    r->ram_start = memory_region_get_ram_addr(mr);
    ret = dsm_region_attach(node, i, &params);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "cannot keep code in the memory of node "
                         "'%s' coherent", machine->node[i].name);
        return false;
    }
    qatomic_store_release(&r->bytes, machine->node[i].ram_bytes);
    trace_hostmem_dsm_attach(i, r->ram_start, machine->node[i].ram_bytes);
    return true;
}

void dsm_shared_detached(uint16_t i)
{
    qatomic_set(&dsm_shared_regions[i].bytes, 0);
}
