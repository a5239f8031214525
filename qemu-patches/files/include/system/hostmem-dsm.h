/*
 * Memory backend whose memory other nodes of a machine see
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef SYSTEM_HOSTMEM_DSM_H
#define SYSTEM_HOSTMEM_DSM_H

#include <dsm/dsm.h>
#include "qapi/qapi-types-dsm.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "qemu/uuid.h"
#include "system/hostmem.h"
#include "qom/object.h"

#define TYPE_MEMORY_BACKEND_DSM "memory-backend-dsm"
OBJECT_DECLARE_SIMPLE_TYPE(HostMemoryBackendDsm, MEMORY_BACKEND_DSM)

/**
 * DsmClientOps: callbacks of the device that shows the machine to the guest.
 *
 * All of them run in the main loop with the BQL held and follow the contract
 * of struct dsm_ops.
 */
typedef struct DsmClientOps {
    bool (*message)(void *opaque, uint16_t from, enum dsm_class cls,
                    const void *data, uint32_t len);
    void (*writable)(void *opaque, uint16_t to, enum dsm_class cls);
    void (*doorbell)(void *opaque, uint16_t from, uint64_t bits);
    void (*peer_state)(void *opaque, uint16_t peer, enum dsm_peer_state state);
    /* Adds the client's state to @buf, for people. */
    void (*info)(void *opaque, GString *buf);
} DsmClientOps;

/* What the nodes agree on; constant once the backend is complete. */
typedef struct DsmMachine {
    QemuUUID uuid;
    DsmCoherenceMode coherence;
    uint16_t self;
    uint16_t nr_nodes;
    bool prefetch;
    bool code;                  /* shared: code that others write is right */
    struct dsm_node_desc node[DSM_MAX_NODES];
} DsmMachine;

/**
 * memory_backend_dsm_set_client() - make @ops the client of the backend, or
 * with NULL the backend without one.
 *
 * Peers that changed their state and doorbells that were rung before are
 * delivered before this returns; messages follow from the main loop.
 * Return: false with @errp set if there is a client already.
 */
bool memory_backend_dsm_set_client(HostMemoryBackendDsm *m,
                                   const DsmClientOps *ops, void *opaque,
                                   Error **errp);

/* The node's libdsm handle. Context: BQL held. */
struct dsm_node *memory_backend_dsm_node(HostMemoryBackendDsm *m);

const DsmMachine *memory_backend_dsm_machine(HostMemoryBackendDsm *m);

/**
 * memory_backend_dsm_fence() - the client has no mapping of @peer's memory
 * left; release the memory and tell everybody.
 * Return: as dsm_peer_fence().
 */
int memory_backend_dsm_fence(HostMemoryBackendDsm *m, uint16_t peer);

/* What mappings of nodes' memory are aligned to. */
#define DSM_HUGE_PAGE (2 * MiB)

/**
 * dsm_region_init_ram: make @mr the memory of node @i of @machine, coherent in
 * the way that the machine has.
 * @ram_flags: in addition to RAM_SHARED
 *
 * With a page protocol, or @machine->code, @mr must exist until the node is
 * fenced.
 */
bool dsm_region_init_ram(MemoryRegion *mr, Object *owner, const char *name,
                         const DsmMachine *machine, struct dsm_node *node,
                         uint16_t i, uint32_t ram_flags, Error **errp);

/* ROMs, video memory and the like, and gaps between RAM blocks. */
#define DSM_PAGES_OTHER_RAM (1 * GiB)

/*
 * The page protocol, coherence=dsm. dsm_pages_start() comes before the first
 * dsm_pages_attach(); dsm_pages_detached() when node @i was fenced.
 * dsm_pages_query() returns NULL when the region of node @i is not attached,
 * and may be called from any thread.
 */
bool dsm_pages_start(const DsmMachine *machine, Error **errp);
bool dsm_pages_attach(MemoryRegion *mr, const DsmMachine *machine,
                      struct dsm_node *node, uint16_t i, Error **errp);
void dsm_pages_detached(uint16_t i);
DsmRegionInfo *dsm_pages_query(struct dsm_node *node, uint16_t i);
uint64_t dsm_pages_zeroed_pages(void);
/* For the failed() of a region. Does not return. */
void dsm_pages_failed(void *opaque, uint16_t owner, const char *reason);

/* The same of coherence=shared where machine->code is set. */
void dsm_shared_start(const DsmMachine *machine, struct dsm_node *node);
bool dsm_shared_attach(MemoryRegion *mr, const DsmMachine *machine,
                       struct dsm_node *node, uint16_t i, Error **errp);
void dsm_shared_detached(uint16_t i);

/*
 * Backs the memory, @fd's, with huge pages in the background, as the guest uses
 * it. It must stay mapped and must not be discarded until dsm_collapser_stop(),
 * which takes NULL too.
 */
typedef struct DsmCollapser DsmCollapser;

DsmCollapser *dsm_collapser_start(int fd, void *memory, size_t bytes);
void dsm_collapser_stop(DsmCollapser *c);

/*
 * dsm_idle_start: call @dispatch whenever @fd is readable, from the main loop
 * or from an idle vCPU's thread; with the BQL held. One @fd per process. An
 * idle vCPU polls for up to @poll_max_ns before it blocks.
 */
bool dsm_idle_start(int fd, uint32_t poll_max_ns, IOHandler *dispatch,
                    void *opaque, Error **errp);
void dsm_idle_stop(void);

#endif /* SYSTEM_HOSTMEM_DSM_H */
