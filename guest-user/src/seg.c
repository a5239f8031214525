/* SPDX-License-Identifier: GPL-2.0-or-later */
/* chimera-seg: named segments from the command line. */
#define _GNU_SOURCE
#include <chimera/guest.h>

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int __attribute__((format(printf, 1, 2))) fail(const char *fmt, ...)
{
    va_list ap;

    fprintf(stderr, "chimera-seg: ");
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\n");
    return 1;
}

/* A number of bytes with K, M or G. */
static bool parse_size(const char *text, uint64_t *ret_size)
{
    char *end;
    int shift = 0;

    errno = 0;
    *ret_size = strtoull(text, &end, 0);
    switch (*end) {
    case 'G':
        shift += 10; /* fall through */
    case 'M':
        shift += 10; /* fall through */
    case 'K':
        shift += 10;
        end++;
    }
    if (!isdigit((unsigned char)*text) || *end || errno ||
        *ret_size > UINT64_MAX >> shift) {
        return false;
    }
    *ret_size <<= shift;
    return true;
}

static int seg_open(const char *name, int flags, struct chimera_seg_stat *st)
{
    int fd = chimera_segment_open(name, flags);
    int rc = fd < 0 ? fd : chimera_segment_stat(fd, st);

    if (rc < 0) {
        fail("%s: %s", name,
             rc == -ENOENT ? "no such segment on any node" : strerror(-rc));
        if (fd >= 0) {
            close(fd);
        }
        return rc;
    }
    return fd;
}

static int cmd_create(int argc, char **argv)
{
    unsigned long mode = 0600;
    uint64_t size;
    char *end;
    int fd;

    if (!parse_size(argv[1], &size) || !size) {
        return fail("'%s' is not a size (bytes, or with K, M, G)", argv[1]);
    }
    if (argc > 2) {
        mode = strtoul(argv[2], &end, 8);
        if (*end || end == argv[2] || mode > 0777) {
            return fail("'%s' is not a mode (octal, up to 777)", argv[2]);
        }
    }
    fd = chimera_segment_create(argv[0], size, mode, CHIMERA_SEG_PERSIST);
    if (fd < 0) {
        return fail("%s: %s", argv[0],
                    fd == -EINVAL
                        ? "not a segment's name ([A-Za-z0-9_.-]+) or size"
                        : strerror(-fd));
    }
    close(fd);
    return 0;
}

static int cmd_rm(int argc, char **argv)
{
    int rc = 0;

    for (int i = 0; i < argc; i++) {
        int err = chimera_segment_unlink(argv[i]);

        if (err < 0) {
            rc = fail("%s: %s", argv[i],
                      err == -ENOENT ? "no such segment on any node"
                                     : strerror(-err));
        }
    }
    return rc;
}

static int cmd_stat(int argc, char **argv)
{
    int rc = 0;

    for (int i = 0; i < argc; i++) {
        struct chimera_seg_stat st;
        int fd = seg_open(argv[i], O_RDONLY, &st);

        if (fd < 0) {
            rc = 1;
            continue;
        }
        printf("name %s\nsize %llu\nhome %u\nuid %u\ngid %u\nmode %04o\n",
               st.name, (unsigned long long)st.size, st.home, st.uid, st.gid,
               st.mode);
        if (chimera_self() == st.home) {
            printf("resident %llu\n", (unsigned long long)st.resident);
        }
        close(fd);
    }
    return rc;
}

/* What sysfs lists; a value that this node does not know shows as "-". */
static int cmd_list(int argc, char **argv)
{
    static const char *const columns[] = { "size", "resident", "home", "uid",
                                           "gid",  "mode",     "attached" };
    DIR *dir = opendir(CHIMERA_SYSFS "/segments");
    struct dirent *d;

    (void)argc;
    (void)argv;
    if (!dir) {
        return fail("this kernel has no fabric device");
    }
    printf("%12s %12s %5s %6s %6s %5s %8s  NAME\n", "SIZE", "RESIDENT", "HOME",
           "UID", "GID", "MODE", "ATTACHED");
    while ((d = readdir(dir))) {
        static const int width[] = { 12, 12, 5, 6, 6, 5, 8 };

        if (*d->d_name == '.' &&
            (!d->d_name[1] || (d->d_name[1] == '.' && !d->d_name[2]))) {
            continue;
        }
        for (size_t i = 0; i < sizeof(columns) / sizeof(columns[0]); i++) {
            char path[sizeof(CHIMERA_SYSFS) + CHIMERA_SEG_NAME_BYTES + 64];
            char value[32] = "-";
            FILE *f;

            snprintf(path, sizeof(path), CHIMERA_SYSFS "/segments/%.63s/%s",
                     d->d_name, columns[i]);
            f = fopen(path, "re");
            if (f && fgets(value, sizeof(value), f)) {
                value[strcspn(value, "\n")] = '\0';
            }
            if (f) {
                fclose(f);
            }
            printf("%*s ", width[i], *value ? value : "-");
        }
        printf(" %s\n", d->d_name);
    }
    closedir(dir);
    return 0;
}

static void on_sigbus(int sig)
{
    static const char text[] = "chimera-seg: the segment's home is gone\n";

    (void)sig;
    _exit(write(STDERR_FILENO, text, sizeof(text) - 1) < 0 ? 2 : 1);
}

static int cmd_hexdump(int argc, char **argv)
{
    struct chimera_seg_stat st;
    struct sigaction sa = { .sa_handler = on_sigbus };
    uint64_t at = 0, len = UINT64_MAX;
    unsigned char line[16], last[16];
    bool starred = false;
    size_t size;
    void *mem;
    int fd, rc;

    if ((argc > 1 && !parse_size(argv[1], &at)) ||
        (argc > 2 && !parse_size(argv[2], &len))) {
        return fail("'%s' is not an offset or length", argv[argc - 1]);
    }
    fd = seg_open(argv[0], O_RDONLY, &st);
    if (fd < 0) {
        return 1;
    }
    rc = chimera_segment_map(fd, PROT_READ, &mem, &size);
    close(fd);
    if (rc < 0) {
        return fail("%s: %s", argv[0], strerror(-rc));
    }
    if (at > size) {
        return fail("%s: has only %zu bytes", argv[0], size);
    }
    len = len < size - at ? len : size - at;
    sigaction(SIGBUS, &sa, NULL);
    for (uint64_t end = at + len; at < end; at += sizeof(line)) {
        size_t n = end - at < sizeof(line) ? end - at : sizeof(line);
        char text[sizeof(line) + 1];

        memcpy(line, (char *)mem + at, n);
        /* Full lines like the one before are shown once, as one star. */
        if (at != end - len && n == sizeof(line) &&
            !memcmp(line, last, sizeof(line)) && at + n < end) {
            if (!starred) {
                printf("*\n");
            }
            starred = true;
            continue;
        }
        starred = false;
        memcpy(last, line, sizeof(line));
        printf("%08" PRIx64 " ", at);
        for (size_t i = 0; i < sizeof(line); i++) {
            if (i < n) {
                printf("%s%02x", i == 8 ? "  " : " ", line[i]);
                text[i] = isprint(line[i]) ? line[i] : '.';
            } else {
                printf("%s  ", i == 8 ? "  " : " ");
            }
        }
        text[n] = '\0';
        printf("  |%s|\n", text);
    }
    return ferror(stdout) || fflush(stdout) ? 1 : 0;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
        int min, max;
        const char *args;
    } cmds[] = {
        { "list", cmd_list, 0, 0, "" },
        { "create", cmd_create, 2, 3, "NAME SIZE [MODE]" },
        { "rm", cmd_rm, 1, 1000, "NAME..." },
        { "stat", cmd_stat, 1, 1000, "NAME..." },
        { "hexdump", cmd_hexdump, 1, 3, "NAME [OFFSET [LENGTH]]" },
    };
    const size_t nr = sizeof(cmds) / sizeof(cmds[0]);
    bool help = argc == 2 && !strcmp(argv[1], "--help");

    for (size_t i = 0; i < nr && argc > 1; i++) {
        if (!strcmp(argv[1], cmds[i].name) && argc - 2 >= cmds[i].min &&
            argc - 2 <= cmds[i].max) {
            return cmds[i].run(argc - 2, argv + 2);
        }
    }
    for (size_t i = 0; i < nr; i++) {
        fprintf(help ? stdout : stderr, "%s chimera-seg %s%s%s\n",
                i ? "      " : "usage:", cmds[i].name, *cmds[i].args ? " " : "",
                cmds[i].args);
    }
    fprintf(help ? stdout : stderr,
            "A segment made by create lives until rm. Sizes are bytes, or "
            "with K, M, G.\n");
    return help ? 0 : 2;
}
