/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * wordcount: count the words of a file with all nodes of a machine at once.
 *
 * A word is a run of the letters A-Z and a-z, taken as lower case. Worker
 * threads on every node steal chunks of the file from each other and count
 * into one table, all of it in one segment that all nodes map (table.h,
 * chunks.h). The file itself is read through the share by who counts it. A
 * word belongs to the chunk in which it starts.
 */
#define _GNU_SOURCE
#include "chunks.h"
#include "table.h"

#include <chimera/team.h>

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_WORKERS 256
#define MAX_LOCALS (CHIMERA_TEAM_MAX - 1)
#define READ_AHEAD_BYTES 4096u /* how far a last word is looked for at a time */
#define ARENA_MAX_BYTES (256ull << 20)

struct worker {
    _Atomic uint32_t done; /* released: the rest is there to be read */
    uint32_t member;
    uint32_t chunks;
    uint32_t steals, stolen;         /* times, chunks */
    uint32_t far_steals, far_stolen; /* from another node's workers */
    uint32_t error;                  /* errno */
    uint64_t words, new_words;
    uint64_t bytes;
    uint64_t busy_ns, begin_ns, end_ns;
    uint64_t reserved[6];
};
_Static_assert(sizeof(struct worker) == 128, "shared layout");

/* At the start of the segment; the same on every ISA. */
struct job {
    uint64_t file_bytes;
    uint32_t chunk_bytes;
    uint32_t nr_chunks;
    uint32_t nr_workers;
    uint32_t nr_members;
    uint64_t table; /* offset */
    uint32_t first_worker[CHIMERA_TEAM_MAX + 1];
    uint32_t reserved[87]; /* what follows is on cache lines of its own */
    struct chunk_range ranges[MAX_WORKERS];
    struct worker workers[MAX_WORKERS];
};
_Static_assert(sizeof(struct job) == 640 + 2 * 128 * MAX_WORKERS,
               "shared layout");

static struct {
    const char *path;
    const char *nodes;
    const char *out;
    char *locals[MAX_LOCALS];
    unsigned nr_locals;
    unsigned long threads, chunk_bytes, nr_slots, top;
    bool quiet;
} options = { .nodes = "all", .chunk_bytes = 128 << 10, .nr_slots = 1 << 20,
              .top = 10 };

static struct chimera_team team;
static struct job *job;
static struct word_table *table;
static int file;
static unsigned char lower[256]; /* a letter in lower case, else 0 */

static int __attribute__((format(printf, 1, 2))) fail(const char *fmt, ...)
{
    va_list ap;

    fprintf(stderr, "wordcount: ");
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\n");
    return 1;
}

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

/* ---- a worker ---- */

struct reader {
    unsigned char *data;
    size_t cap;
};

static int read_at(struct reader *r, size_t at, uint64_t from, size_t len)
{
    if (at + len > r->cap) {
        size_t cap = (at + len) * 2;
        unsigned char *data = realloc(r->data, cap);

        if (!data) {
            return -ENOMEM;
        }
        r->data = data;
        r->cap = cap;
    }
    while (len) {
        ssize_t n = pread(file, r->data + at, len, from);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? -errno : -ENODATA; /* it has become shorter */
        }
        at += n;
        from += n;
        len -= n;
    }
    return 0;
}

static int count_chunk(struct worker *w, struct word_writer *writer,
                       struct reader *r, uint32_t chunk)
{
    const uint64_t begin = (uint64_t)chunk * job->chunk_bytes;
    const uint64_t left = job->file_bytes - begin;
    const size_t len = left < job->chunk_bytes ? left : job->chunk_bytes;
    /* One byte before tells whether a word began in the previous chunk. */
    const size_t before = begin ? 1 : 0;
    size_t have = before + len, at = before;
    int rc = read_at(r, 0, begin - before, have);

    if (rc < 0) {
        return rc;
    }
    if (before && lower[r->data[0]]) {
        while (at < have && lower[r->data[at]]) {
            at++;
        }
    }
    while (at < before + len) {
        size_t word = at;
        uint32_t hash = 0;

        if (!lower[r->data[at]]) {
            at++;
            continue;
        }
        for (;;) {
            while (at < have && lower[r->data[at]]) {
                r->data[at] = lower[r->data[at]];
                hash = word_hash(hash, r->data[at]);
                at++;
            }
            if (at < have || begin - before + have == job->file_bytes) {
                break;
            }
            /* The last word goes on behind the chunk. */
            uint64_t more = job->file_bytes - (begin - before + have);

            more = more < READ_AHEAD_BYTES ? more : READ_AHEAD_BYTES;
            rc = read_at(r, have, begin - before + have, more);
            if (rc < 0) {
                return rc;
            }
            have += more;
        }
        if (at - word > UINT32_MAX) {
            return -EFBIG;
        }
        rc = table_add(table, writer, (char *)r->data + word, at - word, hash);
        if (rc < 0) {
            return rc;
        }
        w->words++;
    }
    w->chunks++;
    w->bytes += len;
    return 0;
}

/* Somebody else's chunks: first of a neighbour, then round all of them. */
static bool steal(struct worker *w, uint32_t self)
{
    for (uint32_t i = 1; i < job->nr_workers; i++) {
        uint32_t victim = (self + i) % job->nr_workers;
        uint32_t nr = chunks_steal(&job->ranges[self], &job->ranges[victim]);

        if (nr) {
            bool far = job->workers[victim].member != w->member;

            w->steals++;
            w->stolen += nr;
            w->far_steals += far;
            w->far_stolen += far ? nr : 0;
            return true;
        }
    }
    return false;
}

static void *work(void *arg)
{
    struct worker *w = arg;
    const uint32_t self = w - job->workers;
    struct word_writer writer = { 0 };
    struct reader reader = { 0 };
    uint32_t chunk;
    int rc = 0;

    w->begin_ns = now_ns();
    do {
        while (!rc && chunks_take(&job->ranges[self], &chunk)) {
            rc = chimera_team_failed(&team)
                     ? -ECANCELED
                     : count_chunk(w, &writer, &reader, chunk);
        }
    } while (!rc && steal(w, self));
    w->end_ns = now_ns();
    w->busy_ns = w->end_ns - w->begin_ns;
    w->new_words = writer.nr_new;
    w->error = -rc;
    if (rc) {
        chimera_team_fail(&team);
    }
    free(reader.data);
    atomic_store_explicit(&w->done, 1, memory_order_release);
    return NULL;
}

static int start_workers(pthread_t *threads)
{
    uint32_t first = job->first_worker[team.self];
    uint32_t nr = job->first_worker[team.self + 1] - first;

    for (uint32_t i = 0; i < nr; i++) {
        int err = pthread_create(&threads[i], NULL, work,
                                 &job->workers[first + i]);

        if (err) {
            chimera_team_fail(&team);
            fail("thread: %s", strerror(err));
            exit(1);
        }
    }
    return nr;
}

static const char *explain(int err)
{
    return err == ENOSPC    ? "more distinct words than slots (see --slots)"
           : err == ENOMEM  ? "no room for the words"
           : err == ENODATA ? "the file has become shorter"
                            : strerror(err);
}

static int member_main(void)
{
    pthread_t threads[MAX_WORKERS];
    int nr;

    if (chimera_team_join(&team) < 0) {
        return fail("%s", team.error);
    }
    job = team.mem;
    table = (struct word_table *)((char *)job + job->table);
    nr = start_workers(threads);
    for (int i = 0; i < nr; i++) {
        pthread_join(threads[i], NULL);
    }
    /* What went wrong stands in the segment; the leader tells it. */
    chimera_team_free(&team);
    return 0;
}

/* ---- the leader ---- */

struct entry {
    const char *word;
    uint64_t count;
    uint32_t len;
};

static int by_word(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    uint32_t len = x->len < y->len ? x->len : y->len;
    int c = memcmp(x->word, y->word, len);

    return c ? c : (x->len > y->len) - (x->len < y->len);
}

static int by_count(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;

    return x->count != y->count ? (x->count < y->count ? 1 : -1)
                                : by_word(a, b);
}

static int prepare(const char *path)
{
    struct stat st;
    uint64_t arena;
    uint32_t nr_chunks, nr = 0;

    if (fstat(file, &st) < 0 || !S_ISREG(st.st_mode)) {
        return fail("%s: not a regular file", path);
    }
    if ((uint64_t)st.st_size / options.chunk_bytes >= UINT32_MAX) {
        return fail("%s: too large for chunks of %lu bytes", path,
                    options.chunk_bytes);
    }
    nr_chunks = (st.st_size + options.chunk_bytes - 1) / options.chunk_bytes;
    /*
     * A word of n letters takes up to n + 7 bytes in the arena, so this holds
     * every word of a file up to 64 MiB; a page exists once it is used.
     */
    arena = (uint64_t)st.st_size * 4 + MAX_WORKERS * 65536;
    arena = arena < ARENA_MAX_BYTES ? arena : ARENA_MAX_BYTES;
    if (chimera_team_create(&team, options.nr_locals ? NULL : options.nodes,
                            options.locals, options.nr_locals,
                            sizeof(*job) +
                                table_bytes(options.nr_slots, arena)) < 0) {
        return fail("%s", team.error);
    }
    job = team.mem;
    job->file_bytes = st.st_size;
    job->chunk_bytes = options.chunk_bytes;
    job->nr_chunks = nr_chunks;
    job->nr_members = team.nr;
    for (unsigned m = 0; m < team.nr; m++) {
        unsigned n = options.threads ? options.threads : team.members[m].cpus;

        job->first_worker[m] = nr;
        for (; n && nr < MAX_WORKERS; n--) {
            job->workers[nr++].member = m;
        }
    }
    job->first_worker[team.nr] = job->nr_workers = nr;
    chunks_share(job->ranges, nr, nr_chunks);
    job->table = sizeof(*job);
    table = (struct word_table *)((char *)job + job->table);
    table_init(table, options.nr_slots, arena);
    return 0;
}

/* Never NULL, also when there are no words: qsort() wants a pointer. */
static struct entry *collect(uint64_t *ret_nr, uint64_t *ret_total)
{
    uint64_t nr = 0, cap = 4096;
    struct entry *list = malloc(cap * sizeof(*list));

    if (!list) {
        exit(fail("no memory for the list of words"));
    }
    *ret_total = 0;
    for (uint64_t i = 0; i < table->nr_slots; i++) {
        struct entry e;

        e.word = table_word(table, i, &e.len, &e.count);
        if (!e.word) {
            continue;
        }
        if (nr == cap) {
            cap *= 2;
            list = realloc(list, cap * sizeof(*list));
            if (!list) {
                exit(fail("no memory for the list of words"));
            }
        }
        list[nr++] = e;
        *ret_total += e.count;
    }
    *ret_nr = nr;
    return list;
}

static int write_counts(struct entry *list, uint64_t nr)
{
    FILE *f;

    if (!options.out) {
        return 0;
    }
    qsort(list, nr, sizeof(*list), by_word);
    f = fopen(options.out, "we");
    if (!f) {
        return fail("%s: %s", options.out, strerror(errno));
    }
    setvbuf(f, NULL, _IOFBF, 256 << 10);
    for (uint64_t i = 0; i < nr; i++) {
        fprintf(f, "%" PRIu64 " %.*s\n", list[i].count, (int)list[i].len,
                list[i].word);
    }
    if (ferror(f) | fclose(f)) {
        return fail("%s: %s", options.out, strerror(errno));
    }
    return 0;
}

static void report(struct entry *list, uint64_t nr, uint64_t total,
                   double seconds)
{
    printf("%.1f MB in %u chunks of %u KiB, counted by %u workers on %u nodes "
           "in %.2f s\n\n",
           job->file_bytes / 1e6, job->nr_chunks, job->chunk_bytes >> 10,
           job->nr_workers, job->nr_members, seconds);
    printf("%-10s %-8s %7s %7s %16s %10s %10s %7s %10s\n", "node", "arch",
           "workers", "chunks", "stolen (far)", "words", "first seen", "busy s",
           "words/s");
    for (unsigned m = 0; m < team.nr; m++) {
        struct worker sum = { 0 };
        char stolen[40];

        for (uint32_t i = job->first_worker[m]; i < job->first_worker[m + 1];
             i++) {
            const struct worker *w = &job->workers[i];

            sum.chunks += w->chunks;
            sum.stolen += w->stolen;
            sum.far_stolen += w->far_stolen;
            sum.words += w->words;
            sum.new_words += w->new_words;
            sum.busy_ns += w->busy_ns;
        }
        snprintf(stolen, sizeof(stolen), "%u (%u)", sum.stolen, sum.far_stolen);
        printf("%-10s %-8s %7u %7u %16s %10" PRIu64 " %10" PRIu64
               " %7.2f %10.0f\n",
               team.members[m].name, team.members[m].arch,
               job->first_worker[m + 1] - job->first_worker[m], sum.chunks,
               stolen, sum.words, sum.new_words, sum.busy_ns / 1e9,
               sum.busy_ns ? sum.words / (sum.busy_ns / 1e9) : 0);
    }
    printf("\n%" PRIu64 " words, %" PRIu64 " distinct\n", total, nr);
    qsort(list, nr, sizeof(*list), by_count);
    printf("the most frequent:");
    for (uint64_t i = 0; i < nr && i < options.top; i++) {
        printf("%s %.*s %" PRIu64, i ? "," : "", (int)list[i].len,
               list[i].word, list[i].count);
    }
    printf("\n");
}

static int leader_main(char **argv)
{
    pthread_t threads[MAX_WORKERS];
    uint64_t begin, nr, total, words = 0, chunks = 0;
    struct entry *list;
    double seconds;
    int nr_threads, rc;

    if (prepare(options.path)) {
        return 1;
    }
    begin = now_ns();
    if (chimera_team_start(&team, argv) < 0) {
        return fail("%s", team.error);
    }
    nr_threads = start_workers(threads);
    rc = chimera_team_wait(&team);
    for (int i = 0; i < nr_threads; i++) {
        pthread_join(threads[i], NULL);
    }
    seconds = (now_ns() - begin) / 1e9;
    if (rc < 0) {
        return fail("%s", team.error);
    }
    for (uint32_t i = 0; i < job->nr_workers; i++) {
        const struct worker *w = &job->workers[i];

        if (!atomic_load_explicit(&w->done, memory_order_acquire)) {
            return fail("a worker of %s never finished",
                        team.members[w->member].name);
        }
        if (w->error && w->error != ECANCELED) {
            return fail("%s on %s: %s", options.path,
                        team.members[w->member].name, explain(w->error));
        }
        words += w->words;
        chunks += w->chunks;
    }
    list = collect(&nr, &total);
    /* Nothing was lost on the way into the table, and nothing done twice. */
    if (chunks != job->nr_chunks || total != words) {
        return fail("INCONSISTENT: %" PRIu64 " of %u chunks done, %" PRIu64
                    " words seen, %" PRIu64 " in the table",
                    chunks, job->nr_chunks, words, total);
    }
    rc = write_counts(list, nr);
    if (!rc && !options.quiet) {
        report(list, nr, total, seconds);
    }
    free(list);
    chimera_team_free(&team);
    return rc || fflush(stdout) ? 1 : 0;
}

static bool parse(const char *name, const char *text, unsigned long min,
                  unsigned long max, unsigned long *ret_value)
{
    char *end;

    errno = 0;
    *ret_value = strtoul(text, &end, 10);
    if (*end == 'K' || *end == 'M') {
        unsigned long unit = *end == 'K' ? 1ul << 10 : 1ul << 20;

        end++;
        *ret_value = *ret_value > ULONG_MAX / unit ? ULONG_MAX
                                                   : *ret_value * unit;
    }
    if (errno || *end || end == text || *text == '-' || *ret_value < min ||
        *ret_value > max) {
        fail("--%s: '%s' is not a number from %lu to %lu", name, text, min,
             max);
        return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {
        { "nodes", required_argument, NULL, 'n' },
        { "threads", required_argument, NULL, 't' },
        { "chunk", required_argument, NULL, 'c' },
        { "slots", required_argument, NULL, 's' },
        { "out", required_argument, NULL, 'o' },
        { "top", required_argument, NULL, 'T' },
        { "local", required_argument, NULL, 'l' },
        { "quiet", no_argument, NULL, 'q' },
        { "help", no_argument, NULL, 'h' },
        { 0 },
    };
    static const char usage[] =
        "usage: wordcount [OPTION]... FILE\n"
        "Counts the words ([A-Za-z]+, in lower case) of FILE on several nodes "
        "at once.\n"
        "  --nodes LIST   all (default), or names with commas; this node always "
        "takes part\n"
        "  --threads N    workers on each node (default: its CPUs)\n"
        "  --chunk BYTES  size of a piece of work (default 128K)\n"
        "  --slots N      size of the table, a power of two (default 1M)\n"
        "  --out FILE     write `COUNT WORD' lines there, sorted by word\n"
        "  --top N        show the N most frequent words (default 10)\n"
        "  --quiet        print nothing but errors\n"
        "  --local CMD    instead of nodes: another local process started by "
        "CMD; repeated\n";
    int opt, i = 0;

    while ((opt = getopt_long(argc, argv, "", longs, &i)) != -1) {
        switch (opt) {
        case 'n':
            options.nodes = optarg;
            break;
        case 't':
            if (!parse("threads", optarg, 1, MAX_WORKERS, &options.threads)) {
                return 2;
            }
            break;
        case 'c':
            if (!parse("chunk", optarg, 1, 1ul << 30, &options.chunk_bytes)) {
                return 2;
            }
            break;
        case 's':
            if (!parse("slots", optarg, 2, 1ul << 28, &options.nr_slots)) {
                return 2;
            }
            if (options.nr_slots & (options.nr_slots - 1)) {
                fail("--slots: %lu is not a power of two", options.nr_slots);
                return 2;
            }
            break;
        case 'o':
            options.out = optarg;
            break;
        case 'T':
            if (!parse("top", optarg, 0, 1000, &options.top)) {
                return 2;
            }
            break;
        case 'l':
            if (options.nr_locals == MAX_LOCALS) {
                fail("--local: at most %d", MAX_LOCALS);
                return 2;
            }
            options.locals[options.nr_locals++] = optarg;
            break;
        case 'q':
            options.quiet = true;
            break;
        default:
            fputs(usage, opt == 'h' ? stdout : stderr);
            return opt == 'h' ? 0 : 2;
        }
    }
    if (argc - optind != 1) {
        fputs(usage, stderr);
        return 2;
    }
    options.path = argv[optind];
    for (int c = 'a'; c <= 'z'; c++) {
        lower[c] = lower[c - 'a' + 'A'] = c;
    }
    file = open(options.path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        return fail("%s: %s", options.path, strerror(errno));
    }
    return chimera_team_is_member() ? member_main() : leader_main(argv);
}
