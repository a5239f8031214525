/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * relay [-t THREADS] [-q] [-o OUT] FILE...: counts the words of files, each chunk of them on
 * another node than the one before.
 *
 * An ordinary pthread program: one address space, one heap, one stdout, one mutex.
 * Its threads take chunks of the text, carry on to the next node of the machine,
 * count there - into a hash table that all share - and say where that was. At the
 * end the main thread counts everything again where it was started, compares, and
 * writes the counts to OUT.
 *
 *   chimera-cc -O2 relay.c -o relay
 *   chimera run isa-configs/machines/x86-arm.conf -- ./relay README.md
 */
#include <chimera.h>

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK_BYTES (4u << 10)
#define BUCKETS 4096
#define MAX_THREADS 64
#define MAX_NODES 64

struct word {
    struct word *next;
    unsigned long count;
    size_t len;
    char text[];
};

struct table {
    struct {
        pthread_mutex_t lock;
        struct word *first;
    } bucket[BUCKETS];
};

struct file {
    const char *name, *text;
    size_t len;
};

static struct {
    char name[32], isa[16];
    atomic_ulong words, chunks;
} nodes[MAX_NODES];

static struct table shared, alone;
static struct file file;
static atomic_size_t next_chunk;
static bool quiet;

static void die(const char *what)
{
    fprintf(stderr, "relay: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void read_line(unsigned node, const char *what, char *to, size_t size)
{
    char path[80];
    FILE *f;

    snprintf(path, sizeof(path), "/sys/devices/system/chimera/node%u/%s", node,
             what);
    f = fopen(path, "re");
    if (!f || !fgets(to, size, f)) {
        snprintf(to, size, "?");
    }
    to[strcspn(to, "\n")] = '\0';
    if (f) {
        fclose(f);
    }
}

static void table_init(struct table *t)
{
    for (unsigned i = 0; i < BUCKETS; i++) {
        pthread_mutex_init(&t->bucket[i].lock, NULL);
    }
}

static void table_add(struct table *t, const char *text, size_t len)
{
    uint32_t hash = 2166136261u;
    struct word *w;
    unsigned i;

    for (size_t k = 0; k < len; k++) {
        hash = (hash ^ (unsigned char)tolower((unsigned char)text[k])) *
               16777619u;
    }
    i = hash % BUCKETS;
    pthread_mutex_lock(&t->bucket[i].lock);
    for (w = t->bucket[i].first; w; w = w->next) {
        if (w->len == len && !strncasecmp(w->text, text, len)) {
            break;
        }
    }
    if (!w) {
        w = malloc(sizeof(*w) + len);
        if (!w) {
            die("words");
        }
        w->count = 0;
        w->len = len;
        memcpy(w->text, text, len);
        w->next = t->bucket[i].first;
        t->bucket[i].first = w;
    }
    w->count++;
    pthread_mutex_unlock(&t->bucket[i].lock);
}

/* Words that begin in [from, to) */
static unsigned long count(struct table *t, size_t from, size_t to)
{
    unsigned long words = 0;
    size_t at = from;

    if (at && isalpha((unsigned char)file.text[at - 1])) {
        while (at < file.len && isalpha((unsigned char)file.text[at])) {
            at++;
        }
    }
    while (at < to) {
        size_t begin;

        while (at < to && !isalpha((unsigned char)file.text[at])) {
            at++;
        }
        begin = at;
        while (at < file.len && isalpha((unsigned char)file.text[at])) {
            at++;
        }
        if (at > begin && begin < to) {
            table_add(t, file.text + begin, at - begin);
            words++;
        }
    }
    return words;
}

static void *run(void *arg)
{
    unsigned thread = (unsigned)(uintptr_t)arg;
    int node = thread;

    for (;;) {
        size_t chunk = atomic_fetch_add(&next_chunk, 1);
        size_t from = chunk * CHUNK_BYTES;
        size_t to = from + CHUNK_BYTES < file.len ? from + CHUNK_BYTES
                                                  : file.len;
        unsigned long words;
        int here;

        if (from >= file.len) {
            return NULL;
        }
        node = (node + 1) % chimera_nodes();
        chimera_migrate(node);
        words = count(&shared, from, to);
        here = chimera_here();
        atomic_fetch_add(&nodes[here].words, words);
        atomic_fetch_add(&nodes[here].chunks, 1);
        if (!quiet) {
            printf("thread %u: chunk %zu of %s: %lu words, on %s (%s)\n", thread,
                   chunk, file.name, words, nodes[here].name, nodes[here].isa);
        }
    }
}

static unsigned long compare(unsigned *ret_distinct)
{
    unsigned long differences = 0;

    *ret_distinct = 0;
    for (unsigned i = 0; i < BUCKETS; i++) {
        for (struct word *w = alone.bucket[i].first; w; w = w->next) {
            struct word *v = shared.bucket[i].first;

            while (v && (v->len != w->len ||
                         strncasecmp(v->text, w->text, w->len))) {
                v = v->next;
            }
            differences += !v || v->count != w->count;
            ++*ret_distinct;
        }
        for (struct word *v = shared.bucket[i].first; v; v = v->next) {
            struct word *w = alone.bucket[i].first;

            while (w && (v->len != w->len ||
                         strncasecmp(v->text, w->text, w->len))) {
                w = w->next;
            }
            differences += !w;
        }
    }
    return differences;
}

/* A line for each word, in lower case */
static void write_counts(const char *name)
{
    FILE *f = fopen(name, "we");

    if (!f) {
        die(name);
    }
    for (unsigned i = 0; i < BUCKETS; i++) {
        for (struct word *w = shared.bucket[i].first; w; w = w->next) {
            fprintf(f, "%lu ", w->count);
            for (size_t k = 0; k < w->len; k++) {
                fputc(tolower((unsigned char)w->text[k]), f);
            }
            fputc('\n', f);
        }
    }
    if (ferror(f) | fclose(f)) {
        die(name);
    }
}

static void open_file(const char *name)
{
    struct stat st;
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    void *p;

    if (fd < 0 || fstat(fd, &st) < 0) {
        die(name);
    }
    if (!st.st_size) {
        errno = ENODATA;
        die(name);
    }
    p = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) {
        die(name);
    }
    close(fd);
    if (strrchr(name, '/')) {
        name = strrchr(name, '/') + 1;
    }
    file = (struct file){ name, p, st.st_size };
}

int main(int argc, char **argv)
{
    pthread_t threads[MAX_THREADS];
    unsigned long words = 0, differences;
    unsigned nr_threads = 4, distinct;
    const char *out = NULL;
    int opt;

    while ((opt = getopt(argc, argv, "o:qt:")) != -1) {
        if (opt == 't') {
            nr_threads = atoi(optarg);
        } else if (opt == 'q') {
            quiet = true;
        } else if (opt == 'o') {
            out = optarg;
        }
        if (opt == '?' || !nr_threads || nr_threads > MAX_THREADS) {
            optind = argc;
        }
    }
    if (optind == argc) {
        fprintf(stderr, "usage: relay [-t THREADS] [-q] [-o OUT] FILE...\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 0; i < chimera_nodes(); i++) {
        read_line(i, "name", nodes[i].name, sizeof(nodes[i].name));
        read_line(i, "arch", nodes[i].isa, sizeof(nodes[i].isa));
    }
    table_init(&shared);
    table_init(&alone);
    for (; optind < argc; optind++) {
        open_file(argv[optind]);
        next_chunk = 0;
        for (unsigned i = 0; i < nr_threads; i++) {
            errno = pthread_create(&threads[i], NULL, run,
                                   (void *)(uintptr_t)i);
            if (errno) {
                die("threads");
            }
        }
        for (unsigned i = 0; i < nr_threads; i++) {
            pthread_join(threads[i], NULL);
        }
        words += count(&alone, 0, file.len);
        munmap((void *)file.text, file.len);
    }
    for (int i = 0; i < chimera_nodes(); i++) {
        printf("%s (%s): %lu words in %lu chunks\n", nodes[i].name, nodes[i].isa,
               nodes[i].words, nodes[i].chunks);
        words -= nodes[i].words;
    }
    if (out) {
        write_counts(out);
    }
    differences = compare(&distinct);
    printf("%s: %u distinct words, %lu counts differ\n",
           differences || words ? "FAILED" : "OK", distinct, differences);
    return differences || words;
}
