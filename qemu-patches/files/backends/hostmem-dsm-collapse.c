/*
 * Huge pages for a node's memory
 *
 * Plain RAM is anonymous memory, which most hosts back with transparent huge
 * pages when it is asked for them. A node's memory is shared memory, which
 * most hosts do not (shmem_enabled=never); guests whose working set exceeds
 * the TLB's reach then run up to a tenth slower. MADV_COLLAPSE does not depend
 * on that setting: a thread applies it to what the guest uses.
 *
 * Only huge-page-sized chunks of which most pages exist are collapsed, so that
 * memory which the guest never touched is not allocated. They are looked for
 * when the file has grown. The host's kernel keeps other processes' mappings of
 * the same memory right. Where a page protocol watches pages it refuses
 * (MADV_NOHUGEPAGE), once for each chunk.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include <sys/stat.h>
#include "qemu/bitmap.h"
#include "qemu/thread.h"
#include "system/hostmem-dsm.h"
#include "trace.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define CHUNK DSM_HUGE_PAGE
#define PAGES_PER_MINCORE 4096
#define WANTED_PAGES(pages) ((pages) / 4 * 3)
#define MAX_PER_ROUND 64        /* some 20 ms of copying */
#define ROUND_MS 100

struct DsmCollapser {
    QemuThread thread;
    QemuSemaphore stop;
    int fd;
    blkcnt_t blocks;            /* of the file, when a round last began */
    char *start;
    size_t chunks;
    size_t next;                /* where the next round begins */
    unsigned long *done;        /* a bit per chunk */
};

static size_t collapser_present(const unsigned char *page, size_t pages)
{
    size_t n = 0;

    for (size_t i = 0; i < pages; i++) {
        n += page[i] & 1;
    }
    return n;
}

/* False: this host does not even tell which pages exist. */
static bool collapser_round(DsmCollapser *c, unsigned *ret_collapsed)
{
    const size_t page_bytes = qemu_real_host_page_size();
    const size_t pages = CHUNK / page_bytes;
    const size_t step = MAX(PAGES_PER_MINCORE / pages, 1);
    g_autofree unsigned char *resident = g_malloc(step * pages);
    unsigned collapsed = 0;

    *ret_collapsed = 0;
    for (size_t seen = 0; seen < c->chunks; seen += step) {
        size_t first = c->next, n = MIN(step, c->chunks - first);

        c->next = (first + n) % c->chunks;
        if (find_next_zero_bit(c->done, first + n, first) == first + n) {
            continue;
        }
        if (mincore(c->start + first * CHUNK, n * CHUNK, resident) < 0) {
            return false;
        }
        for (size_t i = 0; i < n; i++) {
            if (test_bit(first + i, c->done) ||
                collapser_present(resident + i * pages, pages) <
                WANTED_PAGES(pages)) {
                continue;
            }
            if (madvise(c->start + (first + i) * CHUNK, CHUNK,
                        MADV_COLLAPSE) == 0) {
                set_bit(first + i, c->done);
                collapsed++;
            } else if (errno == EINVAL) {
                set_bit(first + i, c->done); /* it never will */
            }
            /* Otherwise: in use or no memory just now. */
        }
        if (collapsed >= MAX_PER_ROUND) {
            break;
        }
    }
    *ret_collapsed = collapsed;
    return true;
}

/* Is there memory that was not there in the round before? */
static bool collapser_grown(DsmCollapser *c)
{
    struct stat st;

    if (fstat(c->fd, &st) < 0 || st.st_blocks == c->blocks) {
        return false;
    }
    c->blocks = st.st_blocks;
    return true;
}

static void *collapser_run(void *opaque)
{
    DsmCollapser *c = opaque;
    unsigned collapsed = 0;

    while (qemu_sem_timedwait(&c->stop, ROUND_MS) < 0) {
        /* After work there may be more, or some that was in use. */
        if (!collapsed && !collapser_grown(c)) {
            continue;
        }
        if (!collapser_round(c, &collapsed)) {
            trace_hostmem_dsm_collapse_impossible(errno);
            break;
        }
        if (collapsed) {
            trace_hostmem_dsm_collapsed(collapsed);
        }
    }
    return NULL;
}

DsmCollapser *dsm_collapser_start(int fd, void *memory, size_t bytes)
{
    DsmCollapser *c = g_new0(DsmCollapser, 1);

    assert(QEMU_PTR_IS_ALIGNED(memory, CHUNK));
    c->fd = fd;
    c->start = memory;
    c->chunks = bytes / CHUNK;
    c->done = bitmap_new(MAX(c->chunks, 1));
    qemu_sem_init(&c->stop, 0);
    qemu_thread_create(&c->thread, "dsm-collapse", collapser_run, c,
                       QEMU_THREAD_JOINABLE);
    return c;
}

void dsm_collapser_stop(DsmCollapser *c)
{
    if (!c) {
        return;
    }
    qemu_sem_post(&c->stop);
    qemu_thread_join(&c->thread);
    qemu_sem_destroy(&c->stop);
    g_free(c->done);
    g_free(c);
}
