/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Coherent memory between processes: read-miss, write-upgrade, travel, stream,
 * stride, pingpong, invalidate, scaling; which one, the program's name says.
 *
 * The measuring process is node 0. The others are its children; each is asked
 * by a pipe to write or read all pages of a region, and sleeps otherwise, so
 * that only its protocol thread runs while something is measured. Floors are
 * in pages-floor.c: the same threads at the same places, without a protocol.
 */
#include "bench.h"
#include "pages-floor.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "machine.h"

#define MISS_PAGES 512
#define STREAM_PAGES 8192
#define STRIDE 4

struct child {
    pid_t pid;
    int ask[2], answer[2];
};

struct bed {
    struct machine m;
    struct child child[MACHINE_MAX];
};

static struct bed bed;
static volatile uint64_t sink;

static _Atomic uint64_t *word(int owner, int page)
{
    return (_Atomic uint64_t *)(bed.m.memory[owner] + (size_t)page * PAGE);
}

static void pin(int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    for (int i = 0; i < sysconf(_SC_NPROCESSORS_ONLN); i++) {
        if (cpu < 0 || i == cpu) {
            CPU_SET(i, &set);
        }
    }
    if (sched_setaffinity(0, sizeof(set), &set) < 0) {
        perror("sched_setaffinity");
        exit(1);
    }
}

/* Threads that are made later inherit it. */
static void place(enum placement placement, int node)
{
    pin(placement == ANYWHERE    ? -1
        : placement == ONE_CORE  ? 0
                                 : node % sysconf(_SC_NPROCESSORS_ONLN));
}

/* The children */

struct order {
    char what; /* 'w'rite, 'r'ead all pages, 'f'ight for a page, 'm'iss */
    int owner, pages;
    uint64_t until_ns;
};

static uint64_t obey(const struct order *o)
{
    uint64_t done = 0;

    switch (o->what) {
    case 'w':
        for (int page = 0; page < o->pages; page++) {
            atomic_fetch_add(word(o->owner, page), 1);
        }
        break;
    case 'r':
        for (int page = 0; page < o->pages; page++) {
            sink += *word(o->owner, page);
        }
        break;
    case 'f':
        while (machine_now_ns() < o->until_ns) {
            atomic_fetch_add(word(o->owner, 0), 1);
            done++;
        }
        break;
    case 'm':
        while (machine_now_ns() < o->until_ns) {
            int page = machine_random(&bed.m) % o->pages;

            /* Every fourth access writes: so that there are misses. */
            if (machine_random(&bed.m) % 4 == 0) {
                atomic_fetch_add(word(o->owner, page), 1);
            } else {
                sink += *word(o->owner, page);
            }
            done++;
        }
        break;
    }
    return done;
}

static void run_child(int self, enum placement placement)
{
    struct child *c = &bed.child[self];
    struct order order;
    uint64_t done;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    place(placement, self);
    machine_join(&bed.m, self);
    machine_barrier(&bed.m);
    while (read(c->ask[0], &order, sizeof(order)) == sizeof(order) &&
           order.what != 'x') {
        done = obey(&order);
        if (write(c->answer[1], &done, sizeof(done)) != sizeof(done)) {
            break;
        }
    }
    machine_leave(&bed.m);
    _exit(0);
}

static void ask(int node, struct order order)
{
    CHECK(write(bed.child[node].ask[1], &order, sizeof(order)) ==
              sizeof(order), "%s", strerror(errno));
}

static uint64_t hear(int node)
{
    uint64_t done;

    CHECK(read(bed.child[node].answer[0], &done, sizeof(done)) == sizeof(done),
          "node %d is gone", node);
    return done;
}

static uint64_t order(int node, char what, int owner, int pages)
{
    ask(node, (struct order) { what, owner, pages, 0 });
    return hear(node);
}

static void bed_make(int nr, int pages, bool tcp, bool ahead, int spin_us,
                     enum placement placement)
{
    memset(&bed, 0, sizeof(bed));
    bed.m.nr = nr;
    bed.m.tcp = tcp;
    bed.m.ahead = ahead;
    bed.m.config.spin_us = spin_us;
    bed.m.region_bytes = (uint64_t)pages * PAGE;
    machine_describe(&bed.m);
    for (int i = 1; i < nr; i++) {
        struct child *c = &bed.child[i];

        CHECK(pipe(c->ask) == 0 && pipe(c->answer) == 0, "%s",
              strerror(errno));
        c->pid = fork();
        CHECK(c->pid >= 0, "%s", strerror(errno));
        if (c->pid == 0) {
            run_child(i, placement);
        }
    }
    place(placement, 0);
    machine_join(&bed.m, 0);
    machine_barrier(&bed.m);
}

static void bed_end(void)
{
    for (int i = 1; i < bed.m.nr; i++) {
        struct child *c = &bed.child[i];

        ask(i, (struct order) { .what = 'x' });
        waitpid(c->pid, NULL, 0);
        for (int k = 0; k < 2; k++) {
            close(c->ask[k]);
            close(c->answer[k]);
        }
    }
    machine_leave(&bed.m);
    munmap(bed.m.board, sizeof(*bed.m.board));
    rmdir(bed.m.dir);
    place(ANYWHERE, 0);
}

/* The benchmarks */

static GArray *series(void)
{
    return g_array_new(FALSE, FALSE, sizeof(double));
}

static void add(GArray *a, double sample)
{
    g_array_append_val(a, sample);
}

static const struct {
    const char *name;
    bool tcp;
    enum placement placement;
    int spin_us;
} ways[] = {
    { "unix-unpinned", false, ANYWHERE, 0 },
    { "unix-one-core", false, ONE_CORE, 0 },
    { "unix-apart", false, APART, 0 },
    { "unix-apart-spinning", false, APART, 200 },
    { "tcp-unpinned", true, ANYWHERE, 0 },
    { "tcp-one-core", true, ONE_CORE, 0 },
};

static void emit(const struct bench_options *options, const char *name,
                 const char *kase, const char *unit, GArray *samples,
                 enum bench_reference reference, GArray *others, double goal,
                 bool bigger)
{
    bench_emit(options, &(struct bench_figure) {
        .name = name,
        .kase = kase,
        .unit = unit,
        .samples = samples,
        .reference = reference,
        .reference_samples = others,
        .goal = goal,
        .bigger_is_better = bigger,
    });
    g_array_unref(samples);
}

/*
 * Node 0 takes none of node 1's pages for writing when it reads one: if it did
 * so by now, it gives them up unwritten and has forgotten it.
 */
static void forget_travels(void)
{
    order(1, 'w', 1, MISS_PAGES);
    for (int page = 0; page < MISS_PAGES; page++) {
        sink += *word(1, page);
    }
    order(1, 'w', 1, MISS_PAGES);
}

/* Faults one after the other, each timed by who waits for it. */
static void bench_fault(const struct bench_options *options, const char *name,
                        bool upgrade)
{
    for (size_t w = 0; w < G_N_ELEMENTS(ways); w++) {
        g_autoptr(GArray) floor = series();
        GArray *ours = series();
        struct floor *f;

        bed_make(2, MISS_PAGES, ways[w].tcp, false, ways[w].spin_us,
                 ways[w].placement);
        f = floor_begin(MISS_PAGES, ways[w].tcp, ways[w].spin_us > 0,
                        ways[w].placement);
        for (int i = 0; i < options->samples; i++) {
            forget_travels();
            if (upgrade) {
                for (int page = 0; page < MISS_PAGES; page++) {
                    sink += *word(1, page);
                }
            }
            for (int page = 0; page < MISS_PAGES; page++) {
                uint64_t begin = machine_now_ns();

                if (upgrade) {
                    *word(1, page) = begin;
                } else {
                    sink += *word(1, page);
                }
                add(ours, (machine_now_ns() - begin) / 1e3);
            }
            floor_prepare(f, upgrade);
            for (int page = 0; page < MISS_PAGES; page++) {
                add(floor, floor_fault(f, page, upgrade) / 1e3);
            }
        }
        floor_end(f);
        bed_end();
        emit(options, name, ways[w].name, "us", ours, BENCH_FLOOR, floor, 1.25,
             false);
    }
}

/* Reads and writes pages that node 1 wrote last, each timed. */
static void travel(GArray *a)
{
    order(1, 'w', 1, MISS_PAGES);
    for (int page = 0; page < MISS_PAGES; page++) {
        uint64_t begin = machine_now_ns();

        sink = *word(1, page);
        *word(1, page) = begin;
        add(a, (machine_now_ns() - begin) / 1e3);
    }
}

/* Once they are known to be read and written, beside the first times. */
static void bench_travel(const struct bench_options *options, const char *name)
{
    for (size_t w = 0; w < G_N_ELEMENTS(ways); w++) {
        g_autoptr(GArray) first = series();
        GArray *later = series();

        bed_make(2, MISS_PAGES, ways[w].tcp, false, ways[w].spin_us,
                 ways[w].placement);
        for (int i = 0; i < options->samples; i++) {
            forget_travels();
            travel(first);
            travel(first);
            travel(later);
            travel(later);
        }
        bed_end();
        emit(options, name, ways[w].name, "us", later, BENCH_PEER, first, 0,
             false);
    }
}

/* MB/s of reading pages in order, @step apart. */
static double read_speed(int step)
{
    uint64_t begin;

    order(1, 'w', 1, STREAM_PAGES);
    /* Longer than a page that was just written is kept from being spared. */
    g_usleep(10000);
    begin = machine_now_ns();
    for (int page = 0; page < STREAM_PAGES; page += step) {
        sink += *word(1, page);
    }
    return (double)STREAM_PAGES / step * PAGE * 1e3 /
           (machine_now_ns() - begin);
}

static void read_speeds(GArray *a, bool tcp, bool ahead, int step, int samples)
{
    bed_make(2, STREAM_PAGES, tcp, ahead, 0, ANYWHERE);
    read_speed(step); /* then the memory is there */
    for (int i = 0; i < samples; i++) {
        add(a, read_speed(step));
    }
    bed_end();
}

static void emit_speed(const struct bench_options *options, const char *name,
                       const char *with, const char *what, GArray *samples,
                       enum bench_reference reference, GArray *others,
                       double goal)
{
    g_autofree char *kase = g_strdup_printf("%s-%s", with, what);

    emit(options, name, kase, "MB/s", g_array_ref(samples), reference, others,
         goal, true);
}

/*
 * Sequential reads stand beside the raw rate of the same socket: from as much
 * memory to as much memory (the floor: pages have to come from and go to where
 * they are), and from one small buffer to another that stay in the caches.
 */
static void bench_stream(const struct bench_options *options, const char *name,
                         int step)
{
    const size_t bytes = (size_t)STREAM_PAGES * PAGE;

    for (int tcp = 0; tcp < 2; tcp++) {
        g_autoptr(GArray) off = series();
        g_autoptr(GArray) memory = series(), cached = series();
        g_autoptr(GArray) on = series();
        const char *with = tcp ? "tcp" : "unix";

        for (int i = 0; i < options->samples; i++) {
            read_speeds(on, tcp, true, step, 3);
            read_speeds(off, tcp, false, step, 1);
            if (step == 1) {
                add(memory, floor_bulk(bytes, bytes, tcp));
                add(cached, floor_bulk(bytes, 128 * 1024, tcp));
            }
        }
        if (step == 1) {
            emit_speed(options, name, with, "memory", on, BENCH_FLOOR, memory,
                       0.8);
            emit_speed(options, name, with, "cached", on, BENCH_FLOOR, cached,
                       0);
        }
        emit_speed(options, name, with, "off", on, BENCH_PEER, off,
                   step == 1 ? 5 : 3);
    }
}

/* All write one page as fast as they can, for a while. */
static void bench_pingpong(const struct bench_options *options)
{
    for (int nr = 2; nr <= 4; nr++) {
        GArray *most = series(), *moves = series();
        g_autoptr(GArray) least = series();
        g_autofree char *fair = g_strdup_printf("%d-fairness", nr);
        g_autofree char *us = g_strdup_printf("%d-move", nr);

        bed_make(nr, 16, false, false, 0, ANYWHERE);
        for (int i = 0; i < options->samples; i++) {
            uint64_t until_ns = machine_now_ns() + UINT64_C(500000000);
            struct order o = { 'f', 0, 1, until_ns };
            uint64_t before = machine_stats(&bed.m, 0).pages_out, done;
            double low, high;

            for (int n = 1; n < nr; n++) {
                ask(n, o);
            }
            low = high = obey(&o);
            for (int n = 1; n < nr; n++) {
                done = hear(n);
                low = MIN(low, done);
                high = MAX(high, done);
            }
            add(most, high);
            add(least, low);
            add(moves, 5e5 / MAX(1, machine_stats(&bed.m, 0).pages_out -
                                        before));
        }
        bed_end();
        /* Of those that leave node 0, which are every second or fewer. */
        emit(options, "pingpong", us, "us", moves, BENCH_PEER, NULL, 0, false);
        emit(options, "pingpong", fair, "writes", most, BENCH_PEER, least, 2,
             false);
    }
}

/* The home writes a page that others can read. */
static void bench_invalidate(const struct bench_options *options)
{
    static const int sharers[] = { 1, 3, 7 };
    g_autoptr(GArray) one = NULL;

    for (size_t s = 0; s < G_N_ELEMENTS(sharers); s++) {
        GArray *us = series();
        g_autofree char *kase = g_strdup_printf("%d-sharers", sharers[s]);

        bed_make(sharers[s] + 1, 64, false, false, 0, ANYWHERE);
        for (int i = 0; i < 8 * options->samples; i++) {
            for (int n = 1; n <= sharers[s]; n++) {
                order(n, 'r', 0, 64);
            }
            for (int page = 0; page < 64; page++) {
                uint64_t begin = machine_now_ns();

                *word(0, page) = begin;
                add(us, (machine_now_ns() - begin) / 1e3);
            }
        }
        bed_end();
        if (!one) {
            one = g_array_ref(us);
        }
        emit(options, "invalidate", kase, "us", us, BENCH_PEER, one, 0, false);
    }
}

/* Everybody uses one region each of the others', all at the same time. */
static void bench_scaling(const struct bench_options *options)
{
    g_autoptr(GArray) two = NULL;

    for (int nr = 2; nr <= MACHINE_MAX; nr++) {
        GArray *rate = series();
        g_autofree char *kase = g_strdup_printf("%d-processes", nr);

        bed_make(nr, 256, false, false, 0, ANYWHERE);
        for (int i = 0; i < options->samples; i++) {
            uint64_t until_ns = machine_now_ns() + UINT64_C(300000000);
            uint64_t done;

            for (int n = 1; n < nr; n++) {
                ask(n, (struct order) { 'm', (n + 1) % nr, 256, until_ns });
            }
            done = obey(&(struct order) { 'm', 1, 256, until_ns });
            for (int n = 1; n < nr; n++) {
                done += hear(n);
            }
            add(rate, done / 0.3 / 1e3);
        }
        bed_end();
        if (!two) {
            two = g_array_ref(rate);
        }
        emit(options, "scaling", kase, "kop/s", rate, BENCH_PEER, two, 0, true);
    }
}

int main(int argc, char **argv)
{
    g_autofree char *name = g_path_get_basename(argv[0]);
    struct bench_options options;
    const char *why;

    bench_init(&argc, &argv,
               "Coherent memory between processes of this host. No machine is "
               "booted.", 5, &options);
    if (dsm_pages_available(&why) < 0) {
        g_printerr("%s: %s\n", name, why);
        return 1;
    }
    if (g_str_equal(name, "read-miss")) {
        bench_fault(&options, name, false);
    } else if (g_str_equal(name, "write-upgrade")) {
        bench_fault(&options, name, true);
    } else if (g_str_equal(name, "travel")) {
        bench_travel(&options, name);
    } else if (g_str_equal(name, "stream")) {
        bench_stream(&options, name, 1);
    } else if (g_str_equal(name, "stride")) {
        bench_stream(&options, name, STRIDE);
    } else if (g_str_equal(name, "pingpong")) {
        bench_pingpong(&options);
    } else if (g_str_equal(name, "invalidate")) {
        bench_invalidate(&options);
    } else if (g_str_equal(name, "scaling")) {
        bench_scaling(&options);
    } else {
        g_printerr("%s: no benchmark of this name\n", name);
        return 2;
    }
    return 0;
}
