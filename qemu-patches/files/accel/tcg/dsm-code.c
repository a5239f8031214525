/*
 * Code that other nodes write
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A page of guest RAM that a page protocol keeps coherent can be taken away by
 * another node, which then writes to it. QEMU's own means to notice writes to
 * translated code do not see that. So this node remembers which pages it made
 * translations of, and drops them before it gives such a page up.
 *
 * Who gives a page up (dsm_code_lost(), a thread of the protocol) holds up
 * other nodes while it does, and vCPUs that wait for a page may hold any lock.
 * So it takes none of theirs: it notes the page and makes every vCPU leave its
 * chain of translations; the first one that comes by drops what was noted.
 *
 *   C1 A page is marked before its bytes are read for translation, and made
 *      inaccessible before its mark is looked at. So either the reader waits
 *      for the new bytes, or the mark is seen. It is marked under its lock,
 *      which is kept until the translation can be found, and which the drain
 *      takes: what was noted after the mark finds the translation. Where the
 *      memory is shared and stays accessible, who marks waits in execute()
 *      until nobody else may write; "not accessible" reads "not executable".
 *   C2 When dsm_code_lost() has returned, each vCPU finishes the translation
 *      that it is in, and starts another one only after the drain. So no
 *      translation of old bytes starts after the page was given up, that is,
 *      after anybody could have written or seen newer ones.
 *   C3 A write on this node to a page with translations first gains the right
 *      to write, then drops them (notdirty_write()). Else the wait for the
 *      right would stand between the two, and translations could be made
 *      meanwhile.
 *
 * The pages here are the protocol's, not the target's.
 */

#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "qemu/bitmap.h"
#include "qemu/bitops.h"
#include "qemu/lockable.h"
#include "qemu/rcu.h"
#include "qemu/thread.h"
#include "exec/exec-all.h"
#include "exec/memory.h"
#include "hw/core/cpu.h"
#include "system/dsm.h"
#include "dsm-code.h"
#include "trace.h"

#define PAGE_BITS 12
#define PAGE_BYTES (1ull << PAGE_BITS)

bool dsm_code_pending;

static struct {
    unsigned long *mark;    /* a bit per page; NULL: not in use */
    void (*execute)(ram_addr_t start, size_t bytes);
    size_t pages;
    unsigned long *lost;    /* a bit per page, to be dropped */
    size_t first_lost;      /* no bit is set outside of these; under lock */
    size_t last_lost;
    QemuSpin lock;          /* a leaf */
    QemuMutex drain_lock;
} dsm_code;

void dsm_code_enable(ram_addr_t ram_bytes,
                     void (*execute)(ram_addr_t start, size_t bytes))
{
    assert(!dsm_code.mark);
    dsm_code.execute = execute;
    dsm_code.pages = DIV_ROUND_UP(ram_bytes, PAGE_BYTES);
    dsm_code.lost = bitmap_new(dsm_code.pages);
    dsm_code.first_lost = dsm_code.pages;
    qemu_spin_init(&dsm_code.lock);
    qemu_mutex_init(&dsm_code.drain_lock);
    qatomic_set(&dsm_code.mark, bitmap_new(dsm_code.pages));
}

void dsm_code_mark(ram_addr_t addr)
{
    unsigned long *mark = qatomic_read(&dsm_code.mark);
    size_t page = addr >> PAGE_BITS;
    size_t end = page + MAX(TARGET_PAGE_SIZE >> PAGE_BITS, 1);

    if (!mark) {
        return;
    }
    for (; page < MIN(end, dsm_code.pages); page++) {
        set_bit_atomic(page, mark);
    }
    smp_mb(); /* C1 */
    if (dsm_code.execute) {
        dsm_code.execute(addr & -(ram_addr_t)PAGE_BYTES,
                         MAX(TARGET_PAGE_SIZE, PAGE_BYTES));
    }
}

bool dsm_code_is_marked(ram_addr_t addr)
{
    size_t page = addr >> PAGE_BITS;

    return page < dsm_code.pages &&
           (qatomic_read(dsm_code.mark + BIT_WORD(page)) & BIT_MASK(page));
}

void dsm_code_lost(ram_addr_t start, size_t bytes)
{
    unsigned long *mark = qatomic_read(&dsm_code.mark);
    size_t page = start >> PAGE_BITS;
    size_t end = page + DIV_ROUND_UP(bytes, PAGE_BYTES);
    bool any = false;
    CPUState *cpu;

    if (!mark) {
        return;
    }
    smp_mb(); /* C1 */
    for (; page < MIN(end, dsm_code.pages); page++) {
        if (!(qatomic_read(mark + BIT_WORD(page)) & BIT_MASK(page)) ||
            !bitmap_test_and_clear_atomic(mark, page, 1)) {
            continue;
        }
        QEMU_LOCK_GUARD(&dsm_code.lock);
        set_bit(page, dsm_code.lost);
        dsm_code.first_lost = MIN(dsm_code.first_lost, page);
        dsm_code.last_lost = MAX(dsm_code.last_lost, page);
        /* C2: who sees its exit request sees this after it. */
        qatomic_set(&dsm_code_pending, true);
        any = true;
    }
    if (!any) {
        return;
    }
    /* C2; pairs with the reset of icount_decr in cpu_handle_interrupt() */
    smp_mb();
    WITH_RCU_READ_LOCK_GUARD() {
        CPU_FOREACH(cpu) {
            qatomic_set(&cpu->neg.icount_decr.u16.high, -1);
        }
    }
    /* The requests are visible before the caller tells other nodes. */
    smp_mb();
}

/* The next page to drop, taken from what was noted. */
static bool dsm_code_next(size_t *ret_page)
{
    size_t page;

    QEMU_LOCK_GUARD(&dsm_code.lock);
    page = find_next_bit(dsm_code.lost, dsm_code.last_lost + 1,
                         dsm_code.first_lost);
    if (page > dsm_code.last_lost) {
        dsm_code.first_lost = dsm_code.pages;
        dsm_code.last_lost = 0;
        qatomic_set(&dsm_code_pending, false);
        return false;
    }
    clear_bit(page, dsm_code.lost);
    dsm_code.first_lost = page + 1;
    *ret_page = page;
    return true;
}

void dsm_code_drain(void)
{
    size_t page;

    /* Other vCPUs wait here until all is dropped: C2. */
    QEMU_LOCK_GUARD(&dsm_code.drain_lock);
    while (dsm_code_next(&page)) {
        ram_addr_t start = (ram_addr_t)page << PAGE_BITS;

        trace_dsm_code_drop(start);
        tb_invalidate_phys_range(start, start + PAGE_BYTES - 1);
    }
}

void dsm_code_own(ram_addr_t addr)
{
    if (qatomic_read(&dsm_code.mark)) {
        /* Changes nothing, but needs the right to write. */
        qatomic_or((volatile uint8_t *)qemu_map_ram_ptr(NULL, addr), 0);
    }
}
