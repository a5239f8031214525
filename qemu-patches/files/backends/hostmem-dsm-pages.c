/*
 * Nodes' memory under libdsm's page protocol
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Every mapping of a node's memory, its own and the windows on others', is
 * attached to the protocol before anything touches it. From then on an access
 * to it may wait for another node, whatever thread makes it and whatever locks
 * it holds; what lets it go on is libdsm's thread, which takes none of them.
 * That thread calls back here, so neither do the callbacks.
 *
 * When a node is lost, so are the pages that only it had. The kernel answers
 * an access to them with SIGBUS. A program of the guest gets an error for it
 * (accel/tcg/dsm-lost.c). The guest's kernel has other means to learn that a
 * node is lost and to stop using what was there; where it or a device uses
 * such a page all the same, the page is replaced by zeros, which is counted
 * and told once.
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include "qapi/error.h"
#include "qemu/atomic.h"
#include "qemu/bitmap.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/stats64.h"
#include "exec/memory.h"
#include "system/dsm.h"
#include "system/hostmem-dsm.h"
#include "trace.h"

static struct dsm_pages_region {
    char *start;                /* NULL: not attached */
    size_t bytes;
    ram_addr_t ram_start;
    unsigned long *replaced;    /* a bit for each page: by zeros */
} dsm_pages_regions[DSM_MAX_NODES];

static size_t dsm_pages_page_bytes;
static struct sigaction dsm_pages_next_sigbus;
static Stat64 dsm_pages_zeroed;
static QEMUBH *dsm_pages_lost_bh;

static void dsm_pages_invalidated(void *opaque, uint16_t owner,
                                  uint64_t page_idx, uint64_t nr_pages)
{
    struct dsm_pages_region *r = opaque;

    dsm_code_lost(r->ram_start + page_idx * dsm_pages_page_bytes,
                  nr_pages * dsm_pages_page_bytes);
}

static void dsm_pages_lost(void *opaque, uint16_t owner, uint64_t page_idx,
                           uint64_t nr_pages)
{
    dsm_pages_invalidated(opaque, owner, page_idx, nr_pages);
    qemu_bh_schedule(dsm_pages_lost_bh);
}

static void dsm_pages_tell_lost(void *opaque)
{
    warn_report_once("pages of guest memory are lost with another node; "
                     "programs that use them get an error, the guest's kernel "
                     "reads zeros");
}

/* Going on would corrupt memory; the other nodes see this one die. */
void dsm_pages_failed(void *opaque, uint16_t owner, const char *reason)
{
    static const char what[] = "guest memory is not coherent any more: ";

    /* No lock may be taken here, so this is not error_report(). */
    if (write(STDERR_FILENO, what, sizeof(what) - 1) < 0 ||
        write(STDERR_FILENO, reason, strlen(reason)) < 0 ||
        write(STDERR_FILENO, "\n", 1) < 0) {
        /* There is nobody to tell. */
    }
    abort();
}

static struct dsm_pages_region *dsm_pages_find(char *addr)
{
    int i;

    for (i = 0; i < DSM_MAX_NODES; i++) {
        struct dsm_pages_region *r = &dsm_pages_regions[i];
        char *start = qatomic_read(&r->start);

        if (start && addr >= start && addr < start + r->bytes) {
            return r;
        }
    }
    return NULL;
}

/* Whoever comes second finds it done when it accesses the page again. */
static bool dsm_pages_replace(struct dsm_pages_region *r, char *addr)
{
    size_t page = (addr - r->start) / dsm_pages_page_bytes;

    addr = QEMU_ALIGN_PTR_DOWN(addr, dsm_pages_page_bytes);
    if (qatomic_fetch_or(&r->replaced[BIT_WORD(page)], BIT_MASK(page)) &
        BIT_MASK(page)) {
        return true;
    }
    stat64_add(&dsm_pages_zeroed, 1);
    return mmap(addr, dsm_pages_page_bytes, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == addr;
}

static uintptr_t dsm_pages_host_pc(const ucontext_t *uc)
{
#if defined(__x86_64__)
    return uc->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
    return uc->uc_mcontext.pc;
#else
    return 0; /* no translation's */
#endif
}

static void dsm_pages_sigbus(int sig, siginfo_t *info, void *context)
{
    const ucontext_t *uc = context;
    struct dsm_pages_region *r = dsm_pages_find(info->si_addr);
    int saved_errno = errno;

    if (r) {
        dsm_lost_fault(dsm_pages_host_pc(uc), info->si_addr, &uc->uc_sigmask);
        if (dsm_pages_replace(r, info->si_addr)) {
            errno = saved_errno;
            return;
        }
    }
    /* The next one was installed with SA_SIGINFO or is the default action. */
    if (dsm_pages_next_sigbus.sa_flags & SA_SIGINFO) {
        dsm_pages_next_sigbus.sa_sigaction(sig, info, context);
    } else {
        sigaction(SIGBUS, &dsm_pages_next_sigbus, NULL);
    }
}

void dsm_prepare_map(void *host, size_t bytes, bool write)
{
    char *at = host, *end = at + bytes;

    if (!dsm_pages_page_bytes || !dsm_pages_find(host)) {
        return;
    }
    while (at < end) {
        if (write) {
            /* Changes nothing, but needs the right to write. */
            qatomic_or((volatile uint8_t *)at, 0);
        } else {
            (void)*(volatile uint8_t *)at;
        }
        at = QEMU_ALIGN_PTR_DOWN(at, dsm_pages_page_bytes) +
             dsm_pages_page_bytes;
    }
}

/* QEMU's threads block SIGBUS; then the kernel would end the process. */
static void dsm_pages_unblock_sigbus(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

void dsm_vcpu_thread_init(void)
{
    if (dsm_pages_page_bytes) {
        dsm_pages_unblock_sigbus();
    }
}

uint64_t dsm_pages_zeroed_pages(void)
{
    return stat64_get(&dsm_pages_zeroed);
}

bool dsm_pages_start(const DsmMachine *machine, Error **errp)
{
    struct sigaction action = {
        .sa_sigaction = dsm_pages_sigbus,
        .sa_flags = SA_SIGINFO,
    };
    ram_addr_t ram_bytes = DSM_PAGES_OTHER_RAM;
    uint16_t i;

    dsm_pages_page_bytes = qemu_real_host_page_size();
    dsm_pages_lost_bh = qemu_bh_new(dsm_pages_tell_lost, NULL);
    for (i = 0; i < machine->nr_nodes; i++) {
        ram_bytes += ROUND_UP(machine->node[i].ram_bytes, DSM_HUGE_PAGE);
    }
    dsm_code_enable(ram_bytes, NULL);
    dsm_lost_enable();
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGBUS, &action, &dsm_pages_next_sigbus) < 0) {
        error_setg_errno(errp, errno, "cannot handle SIGBUS");
        return false;
    }
    dsm_pages_unblock_sigbus();
    return true;
}

bool dsm_pages_attach(MemoryRegion *mr, const DsmMachine *machine,
                      struct dsm_node *node, uint16_t i, Error **errp)
{
    struct dsm_pages_region *r = &dsm_pages_regions[i];
    struct dsm_region_params params = {
        .memory = memory_region_get_ram_ptr(mr),
        .ahead = machine->prefetch,
        .opaque = r,
        .invalidated = dsm_pages_invalidated,
        .lost = dsm_pages_lost,
        .failed = dsm_pages_failed,
    };
    int ret;

    assert(!r->start);
    r->bytes = machine->node[i].ram_bytes;
    r->ram_start = memory_region_get_ram_addr(mr);
    r->replaced = bitmap_new(r->bytes / dsm_pages_page_bytes);
    qatomic_set_mb(&r->start, params.memory);
    ret = dsm_region_attach(node, i, &params);
    if (ret < 0) {
        r->start = NULL;
        g_free(r->replaced);
        error_setg_errno(errp, -ret, "cannot keep the memory of node '%s' "
                         "coherent", machine->node[i].name);
        return false;
    }
    trace_hostmem_dsm_attach(i, r->ram_start, r->bytes);
    return true;
}

void dsm_pages_detached(uint16_t i)
{
    qatomic_set(&dsm_pages_regions[i].start, NULL);
}

static uint64List *dsm_pages_histogram(const uint64_t *bucket)
{
    uint64List *list = NULL, **tail = &list;
    int i;

    for (i = 0; i < DSM_HISTOGRAM_BUCKETS; i++) {
        QAPI_LIST_APPEND(tail, bucket[i]);
    }
    return list;
}

static DsmHeatInfo *dsm_pages_query_heat(struct dsm_node *node, uint16_t i)
{
    g_autofree struct dsm_region_heat *heat = g_new0(struct dsm_region_heat, 1);
    DsmHeatInfo *info = g_new0(DsmHeatInfo, 1);
    uint64List **range = &info->ranges;
    DsmHotPageList **page = &info->pages;
    uint32_t k;

    dsm_region_heat(node, i, heat);
    info->faults = heat->faults;
    info->range_pages = heat->range_pages;
    for (k = 0; k < heat->nr_ranges; k++) {
        QAPI_LIST_APPEND(range, heat->range[k]);
    }
    for (k = 0; k < heat->nr_pages; k++) {
        DsmHotPage *hot = g_new0(DsmHotPage, 1);

        hot->page = heat->page[k].page_idx;
        hot->faults = heat->page[k].faults;
        hot->writes = heat->page[k].writes;
        hot->missed = heat->page[k].missed;
        QAPI_LIST_APPEND(page, hot);
    }
    return info;
}

DsmRegionInfo *dsm_pages_query(struct dsm_node *node, uint16_t i)
{
    struct dsm_region_stats st;
    DsmRegionInfo *info;

    if (dsm_region_stats(node, i, &st) < 0) {
        return NULL;
    }
    info = g_new0(DsmRegionInfo, 1);
    info->page_size = dsm_pages_page_bytes;
    info->pages_none = st.pages_none;
    info->pages_shared = st.pages_shared;
    info->pages_modified = st.pages_modified;
    info->pages_waiting = st.pages_waiting;
    info->pages_lost = st.pages_lost;
    info->read_faults = st.read_faults;
    info->write_faults = st.write_faults;
    info->local_faults = st.local_faults;
    info->upgrades = st.upgrades;
    info->taken = st.taken;
    info->taken_unused = st.taken_unused;
    info->pages_received = st.pages_in;
    info->pages_sent = st.pages_out;
    info->invalidations = st.invalidations;
    info->downgrades = st.downgrades;
    info->holds = st.holds;
    info->prefetched = st.ahead_asked;
    info->prefetch_declined = st.ahead_declined;
    info->prefetch_useful = st.ahead_useful;
    info->prefetch_wasted = st.ahead_wasted;
    info->read_ns = dsm_pages_histogram(st.read_ns);
    info->write_ns = dsm_pages_histogram(st.write_ns);
    info->upgrade_ns = dsm_pages_histogram(st.upgrade_ns);
    info->heat = dsm_pages_query_heat(node, i);
    return info;
}
