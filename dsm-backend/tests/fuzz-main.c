/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Runs a libFuzzer target without libFuzzer: every file of a corpus, and
 * then mutations of them, drawn from a seed that DSM_TEST_SEED repeats.
 *
 *   fuzz-TARGET CORPUS-DIRECTORY [MUTATIONS]
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_FILES 4096
#define MAX_BYTES 16384

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static struct {
    uint8_t *data;
    size_t bytes;
} files[MAX_FILES];
static size_t nr_files;

static uint64_t rng_state;

static uint32_t rng_below(uint32_t bound)
{
    rng_state = rng_state * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (rng_state >> 33) % bound;
}

static void load(const char *dir_name)
{
    DIR *dir = opendir(dir_name);
    struct dirent *entry;

    if (!dir) {
        perror(dir_name);
        exit(1);
    }
    while ((entry = readdir(dir)) && nr_files < MAX_FILES) {
        char path[4096];
        FILE *f;

        if (entry->d_name[0] == '.') {
            continue;
        }
        snprintf(path, sizeof(path), "%s/%s", dir_name, entry->d_name);
        f = fopen(path, "rb");
        if (!f) {
            perror(path);
            exit(1);
        }
        files[nr_files].data = malloc(MAX_BYTES);
        files[nr_files].bytes = fread(files[nr_files].data, 1, MAX_BYTES, f);
        fclose(f);
        nr_files++;
    }
    closedir(dir);
}

/* An exact copy, so that a sanitizer sees a read behind its end. */
static void run(const uint8_t *data, size_t bytes)
{
    uint8_t *copy = malloc(bytes ? bytes : 1);

    memcpy(copy, data, bytes);
    LLVMFuzzerTestOneInput(copy, bytes);
    free(copy);
}

static void run_mutation(void)
{
    static uint8_t buf[2 * MAX_BYTES];
    size_t i = rng_below(nr_files), bytes = files[i].bytes;
    uint32_t rounds = 1 + rng_below(4);

    memcpy(buf, files[i].data, bytes);
    while (rounds--) {
        size_t at = bytes ? rng_below(bytes) : 0;

        switch (rng_below(5)) {
        case 0:
            if (bytes) {
                buf[at] ^= 1 << rng_below(8);
            }
            break;
        case 1:
            if (bytes) {
                buf[at] = rng_below(4) ? rng_below(256) : 0xff;
            }
            break;
        case 2:
            bytes = at;
            break;
        case 3:
            if (bytes < MAX_BYTES) {
                memmove(buf + at + 1, buf + at, bytes - at);
                buf[at] = rng_below(256);
                bytes++;
            }
            break;
        case 4:
            i = rng_below(nr_files);
            if (bytes + files[i].bytes <= sizeof(buf)) {
                memcpy(buf + bytes, files[i].data, files[i].bytes);
                bytes += files[i].bytes;
            }
            break;
        }
    }
    run(buf, bytes);
}

int main(int argc, char **argv)
{
    const char *seed = getenv("DSM_TEST_SEED");
    unsigned long mutations = argc > 2 ? strtoul(argv[2], NULL, 0) : 0;

    if (argc < 2) {
        fprintf(stderr, "usage: %s CORPUS [MUTATIONS]\n", argv[0]);
        return 2;
    }
    load(argv[1]);
    if (nr_files == 0) {
        fprintf(stderr, "%s: no files\n", argv[1]);
        return 1;
    }
    rng_state = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
    printf("DSM_TEST_SEED=%llu, %zu files, %lu mutations\n",
           (unsigned long long)rng_state, nr_files, mutations);
    fflush(stdout);
    for (size_t i = 0; i < nr_files; i++) {
        run(files[i].data, files[i].bytes);
    }
    while (mutations--) {
        run_mutation();
    }
    for (size_t i = 0; i < nr_files; i++) {
        free(files[i].data);
    }
    return 0;
}
