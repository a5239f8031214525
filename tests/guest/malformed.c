/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A kernel that sends rubbish: the other one counts it, answers what can be
 * answered, and goes on. Needs a kernel with CONFIG_CHIMERA_INJECT on the
 * leading node; without it the test is skipped (exit code 77).
 */
#include "harness.h"

#include <linux/virtio_fabric.h>
#include <sys/mount.h>

#define INJECT "/sys/kernel/debug/chimera/inject"

/* The driver's proto.h, as far as it is needed to be almost right. */
enum { SERVICE_NODE, SERVICE_PING, SERVICE_PROC, SERVICE_SEG, SERVICE_PORT };
enum { HELLO, SYNCED };
enum { SEG_TYPES = 7, PORT_TYPES = 5 };

struct hdr {
    uint8_t service, type, flags, reserved;
    uint32_t status;
    uint64_t cookie;
};

struct wire {
    struct virtio_fabric_hdr fabric;
    struct hdr hdr;
    uint8_t body[VIRTIO_FABRIC_MAX_PAYLOAD - sizeof(struct hdr)];
};

static int inject_fd;
static uint64_t seed = 1;

static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1dull;
}

static void rnd_bytes(void *to, size_t len)
{
    uint8_t *p = to;

    for (size_t i = 0; i < len; i++) {
        p[i] = rnd() >> 20;
    }
}

static void inject(struct wire *w, unsigned cls, size_t body)
{
    w->fabric = (struct virtio_fabric_hdr){ .node = peer, .cls = cls };
    if (write(inject_fd, w, sizeof(w->fabric) + sizeof(w->hdr) + body) < 0) {
        die("inject: %s", strerror(errno));
    }
}

static long dropped_there(void)
{
    struct order_msg m = { .op = DO_SYSFS };

    snprintf(m.name, sizeof(m.name), "node%u/messages_dropped", self_node());
    return atol(order(m).text);
}

/* Everything still works, both ways. */
static void still_works(const char *after)
{
    static uint64_t ns[100];
    struct chimera_ping req = { .node = peer,
                                .kind = CHIMERA_PING_KERNEL,
                                .count = 100,
                                .samples = (uintptr_t)ns };
    long fd, rfd;
    uint64_t *at;
    int64_t rat;

    check_is(sys(ioctl(dev, CHIMERA_IOC_PING, &req)), 0, "ping after %s",
             after);
    fd = seg_create("works", 10 * PAGE, 0600, 0);
    check(fd >= 0, "create after %s: %ld", after, fd);
    rfd = there_named("works", DO_OPEN, .a = O_RDWR);
    check(rfd >= 0, "open there after %s: %ld", after, rfd);
    rat = there(DO_MAP, .a = rfd, .b = 10 * PAGE,
                .c = PROT_READ | PROT_WRITE);
    at = mmap(NULL, 10 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    check_is(there(DO_FILL, .a = rat, .b = 10 * PAGE, .c = 7), 0, "fill");
    check_is(verify(at, 10 * PAGE, 7), 0, "words that differ after %s", after);
    munmap(at, 10 * PAGE);
    close(fd);
    there(DO_UNMAP, .a = rat, .b = 10 * PAGE);
    there(DO_CLOSE, .a = rfd);
}

/* Nothing but noise. The first message of a node must not be forged: HELLO
 * from a kernel that is not the one known ends the friendship. */
static void test_noise(void)
{
    struct wire w;
    long before = dropped_there();

    for (int i = 0; i < 3000; i++) {
        rnd_bytes(&w, sizeof(w));
        if (w.hdr.service == SERVICE_NODE) {
            w.hdr.service = 77;
        }
        inject(&w, rnd() % 4, rnd() % (sizeof(w.body) + 1));
    }
    check(dropped_there() > before + 1000, "%ld dropped of 3000",
          dropped_there() - before);
    still_works("noise");
}

/* Right headers, wrong bodies. */
static void test_bodies(void)
{
    struct wire w = { 0 };
    size_t len;

    for (int i = 0; i < 6000; i++) {
        static const uint8_t services[] = { SERVICE_PING, SERVICE_PROC,
                                            SERVICE_SEG, SERVICE_SEG,
                                            SERVICE_PORT };
        uint64_t *word = (uint64_t *)w.body;

        w.hdr = (struct hdr){ .service = services[rnd() % 5],
                              .type = rnd() % 8,
                              .flags = rnd() % 16 == 0,
                              .status = rnd() % 4 ? 0 : rnd(),
                              .cookie = rnd() % 8 ? rnd() : rnd() % 64 };
        rnd_bytes(w.body, sizeof(w.body));
        /* half of the numbers small: ids, counts and lengths that exist */
        for (size_t k = 0; k < 16; k++) {
            if (rnd() % 2) {
                word[k] = rnd() % 20;
            }
        }
        len = rnd() % 2 ? rnd() % 200 : rnd() % (sizeof(w.body) + 1);
        if (rnd() % 2) {
            len &= ~7ul;
        }
        if (w.hdr.service == SERVICE_PORT) {
            *(uint32_t *)w.body |= 1 << 20; /* not the pair of our orders */
        }
        inject(&w, rnd() % 4, len);
    }
    still_works("malformed bodies");
}

/* Names as they could be, and such as must not be. */
static void test_names(void)
{
    struct entry {
        char name[CHIMERA_SEG_NAME_BYTES];
        uint64_t id, size;
        uint32_t uid, gid, mode, reserved;
    } *e;
    static const char *const bad[] = { "", "..", "a/b", "x\n" };
    struct wire w = { .hdr = { .service = SERVICE_SEG, .type = 1,
                               .cookie = 1 } };
    struct order_msg m = { .op = DO_SYSFS };
    struct result_msg shown = { 0 };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        memset(w.body, 0, sizeof(w.body));
        e = (struct entry *)w.body;
        strcpy(e->name, bad[i]);
        e->id = 1000000 + i;
        e->size = PAGE;
        inject(&w, VIRTIO_FABRIC_CLASS_REQUEST, sizeof(*e));
    }
    /* one that is no segment: opening it finds nothing */
    memset(w.body, 0, sizeof(w.body));
    e = (struct entry *)w.body;
    strcpy(e->name, "forged");
    e->id = 2000000;
    e->size = PAGE;
    e->mode = 0666;
    inject(&w, VIRTIO_FABRIC_CLASS_REQUEST, sizeof(*e));
    strcpy(m.name, "segments/forged/size");
    /* names are entered by a work item: it may come after our question */
    for (int64_t until = now_ns() + 5 * SECOND; now_ns() < until;) {
        shown = order(m);
        if (shown.text[0]) {
            break;
        }
    }
    check(!strcmp(shown.text, "4096"), "forged name: '%s'", shown.text);
    check_is(there_named("forged", DO_OPEN, .a = O_RDWR), -ENOENT, "open");
    check_is(there_named("forged", DO_UNLINK), -ENOENT, "unlink");
    check(!order(m).text[0], "still there after unlink");
    still_works("forged names");
}

/* Many more requests than agreed, without waiting for an answer. */
static void test_flood(void)
{
    struct wire w = { .hdr = { .service = SERVICE_PROC, .type = 0 } };
    long before = dropped_there();

    for (int i = 0; i < 2000; i++) {
        w.hdr.cookie = i + 1;
        inject(&w, VIRTIO_FABRIC_CLASS_REQUEST, 8);
    }
    still_works("a flood");
    printf("flood: %ld of 2000 dropped\n", dropped_there() - before);
}

int main(int argc, char **argv)
{
    bool following = argc == 2 && !strcmp(argv[1], "follow");
    struct wire w = { .hdr = { .service = SERVICE_NODE, .type = HELLO } };
    char path[64];

    if (following) {
        struct pollfd p = { .events = POLLPRI };
        char state[16];

        follow();
        /* last of all: a HELLO of another kernel */
        snprintf(path, sizeof(path), SYSFS "/node%d/state", peer);
        p.fd = open(path, O_RDONLY);
        while (pread(p.fd, state, sizeof(state), 0) > 2 &&
               !strncmp(state, "up\n", 3)) {
            if (poll(&p, 1, 10000) <= 0) {
                break;
            }
        }
        check(!strcmp(slurp("%s", path), "down"), "leader's node is %s",
              slurp("%s", path));
        return report();
    }
    if (argc != 3 || strcmp(argv[1], "lead")) {
        return usage(argv[0]);
    }
    mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
    inject_fd = open(INJECT, O_WRONLY);
    lead(argv[2]);
    if (inject_fd < 0) {
        printf("skipped: no " INJECT ": %s\n", strerror(errno));
        dismiss();
        return 77;
    }
    test_noise();
    test_bodies();
    test_names();
    test_flood();
    dismiss();
    rnd_bytes(w.body, 16);
    inject(&w, VIRTIO_FABRIC_CLASS_REQUEST, 16);
    return report();
}
