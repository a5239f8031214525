/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a node shows of the machine, and round trips. */
#include "harness.h"

#include <sys/sysinfo.h>
#include <sys/utsname.h>

static struct chimera_info info;

static void test_info(void)
{
    check_is(sys(ioctl(dev, CHIMERA_IOC_INFO, &info)), 0, "INFO");
    check_is(info.abi_version, CHIMERA_ABI_VERSION, "version");
    check(info.nr_nodes >= 2 && info.self < info.nr_nodes, "node %u of %u",
          info.self, info.nr_nodes);
    check((info.up_mask >> info.self & 1) && (info.up_mask >> peer & 1),
          "up mask %llx", (unsigned long long)info.up_mask);
    check_is(sys(ioctl(dev, CHIMERA_IOC_INFO, (void *)8)), -EFAULT, "pointer");
}

static void test_sysfs(void)
{
    struct utsname uts;
    struct order_msg m = { .op = DO_SYSFS };
    char path[64];
    long total;

    uname(&uts);
    check_is(atoi(slurp(SYSFS "/self")), info.self, "self");
    check(!strcmp(slurp(SYSFS "/coherence"), "shared") ||
              !strcmp(slurp(SYSFS "/coherence"), "dsm"),
          "coherence");
    check_is(strlen(slurp(SYSFS "/machine_uuid")), 36, "uuid's length");
    check(!strcmp(slurp(SYSFS "/node%u/arch", info.self), uts.machine),
          "own arch");
    check_is(atol(slurp(SYSFS "/node%u/cpus", info.self)), get_nprocs(),
             "own cpus");
    for (unsigned i = 0; i < info.nr_nodes; i++) {
        check(slurp(SYSFS "/node%u/name", i)[0], "name of %u", i);
        total = atol(slurp(SYSFS "/node%u/mem_total_kb", i));
        check(total > 0 &&
                  total <= atol(slurp(SYSFS "/node%u/ram_bytes", i)) / 1024,
              "mem_total_kb of %u is %ld", i, total);
        check(atol(slurp(SYSFS "/node%u/mem_free_kb", i)) < total,
              "mem_free_kb of %u", i);
        check(!strcmp(slurp(SYSFS "/node%u/state", i), "up"), "state of %u", i);
        check((slurp(SYSFS "/node%u/window_phys", i)[0] != 0) !=
                  (i == info.self),
              "window_phys of %u", i);
    }
    /* both nodes say the same */
    for (unsigned i = 0; i < info.nr_nodes; i++) {
        static const char *const same[] = { "name", "arch", "cpus",
                                            "ram_bytes", "mem_total_kb" };

        for (size_t a = 0; a < sizeof(same) / sizeof(same[0]); a++) {
            snprintf(m.name, sizeof(m.name), "node%u/%s", i, same[a]);
            check(!strcmp(order(m).text,
                          slurp(SYSFS "/node%u/%s", i, same[a])),
                  "%s differs there", m.name);
        }
    }
    snprintf(path, sizeof(path), SYSFS "/node%d/messages_dropped", peer);
    check_is(atol(slurp("%s", path)), 0, "messages dropped");
}

/* Value of a line "KEY ... NUMBER" of a file; -1 if there is none. */
static long long number(const char *path, const char *key, int column)
{
    char line[16384];
    long long value = -1;
    FILE *f = fopen(path, "r");

    while (f && value < 0 && fgets(line, sizeof(line), f)) {
        char *p = line + strlen(key);

        if (strncmp(line, key, strlen(key)) || !strchr(" \t:", *p)) {
            continue;
        }
        for (int i = 0; i <= column; i++) {
            p += strspn(p, " \t:");
            value = strtoll(p, &p, 10);
        }
    }
    if (f) {
        fclose(f);
    }
    return value;
}

static int lines(const char *path, const char *start)
{
    char line[16384];
    int n = 0;
    FILE *f = fopen(path, "r");

    while (f && fgets(line, sizeof(line), f)) {
        n += !strncmp(line, start, strlen(start));
    }
    if (f) {
        fclose(f);
    }
    return n;
}

static void test_proc(void)
{
    long total = 0, cpus = 0, next = 0;
    long long before, own;
    char line[16384], buf[4096];
    FILE *f;
    int fd;

    for (unsigned i = 0; i < info.nr_nodes; i++) {
        total += atol(slurp(SYSFS "/node%u/mem_total_kb", i));
        cpus += atol(slurp(SYSFS "/node%u/cpus", i));
    }
    check_is(number("/proc/chimera/meminfo", "MemTotal", 0), total, "MemTotal");
    check(number("/proc/chimera/meminfo", "MemFree", 0) > 0 &&
              number("/proc/chimera/meminfo", "MemFree", 0) < total,
          "MemFree");
    check_is(number("/proc/chimera/meminfo", "Hugepagesize", 0),
             number("/proc/meminfo", "Hugepagesize", 0), "Hugepagesize");
    check_is(lines("/proc/chimera/cpuinfo", "processor"), cpus, "processors");
    f = fopen("/proc/chimera/cpuinfo", "r");
    while (f && fgets(line, sizeof(line), f)) {
        int n;

        if (sscanf(line, "processor : %d", &n) == 1) {
            check_is(n, next++, "processors are numbered through");
        }
    }
    if (f) {
        fclose(f);
    }

    check_is(lines("/proc/chimera/stat", "cpu"), cpus + 1, "cpu lines");
    for (long i = 0; i < cpus; i++) {
        snprintf(buf, sizeof(buf), "cpu%ld", i);
        check(number("/proc/chimera/stat", buf, 3) >= 0, "no line %s", buf);
    }
    own = number("/proc/stat", "ctxt", 0);
    check(number("/proc/chimera/stat", "ctxt", 0) > own, "ctxt");
    check_is(number("/proc/chimera/stat", "btime", 0),
             number("/proc/stat", "btime", 0), "btime");
    /* init may have mounted the machine's file over /proc/stat */
    check_is(lines("/proc/chimera/stat", "") - cpus - 1,
             lines("/proc/stat", "") - lines("/proc/stat", "cpu"),
             "lines of stat");

    /* read again from the start: fresh; in small pieces: whole */
    fd = open("/proc/chimera/stat", O_RDONLY);
    check(read(fd, buf, sizeof(buf)) > 100, "read");
    before = number("/proc/chimera/stat", "ctxt", 0);
    check_is(lseek(fd, 0, SEEK_SET), 0, "seek");
    check(read(fd, buf, 7) == 7 && !memcmp(buf, "cpu  ", 5), "read pieces");
    {
        size_t have = 7;
        ssize_t n;

        while (have < sizeof(buf) - 1 && (n = read(fd, buf + have, 1)) == 1) {
            have++;
        }
        buf[have] = 0;
        check(strstr(buf, "\nctxt ") &&
                  atoll(strstr(buf, "\nctxt ") + 6) >= before,
              "second read is not fresh");
    }
    close(fd);
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static long ping(unsigned node, unsigned kind, unsigned count, unsigned bytes,
                 uint64_t *samples, unsigned *done)
{
    struct chimera_ping req = { .node = node,
                                .kind = kind,
                                .count = count,
                                .bytes = bytes,
                                .samples = (uintptr_t)samples };
    long err = sys(ioctl(dev, CHIMERA_IOC_PING, &req));

    *done = req.done;
    return err;
}

static void test_ping(void)
{
    enum { COUNT = 2000 };
    static const struct {
        const char *name;
        unsigned kind, bytes;
    } kinds[] = {
        { "kernel, 0 bytes", CHIMERA_PING_KERNEL, 0 },
        { "kernel, 64 bytes", CHIMERA_PING_KERNEL, 64 },
        { "kernel, most bytes", CHIMERA_PING_KERNEL, CHIMERA_MSG_BYTES },
        { "doorbell", CHIMERA_PING_DOORBELL, 0 },
        { "echo", CHIMERA_PING_ECHO, 0 },
    };
    static uint64_t ns[COUNT];
    unsigned done;
    long err;

    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        err = ping(peer, kinds[i].kind, COUNT, kinds[i].bytes, ns, &done);
        if (kinds[i].kind == CHIMERA_PING_ECHO &&
            (err == -EOPNOTSUPP || err == -ETIMEDOUT)) {
            continue; /* the device has no echo, or nobody echoes */
        }
        check_is(err, 0, "ping %s", kinds[i].name);
        check_is(done, COUNT, "samples of %s", kinds[i].name);
        qsort(ns, COUNT, sizeof(ns[0]), by_value);
        check(ns[0] > 0 && ns[COUNT / 2] < SECOND / 10, "%s takes %llu ns",
              kinds[i].name, (unsigned long long)ns[COUNT / 2]);
        printf("%-20s p50 %6.1f us  p99 %6.1f us\n", kinds[i].name,
               ns[COUNT / 2] / 1e3, ns[COUNT * 99 / 100] / 1e3);
    }
    check_is(ping(info.self, CHIMERA_PING_KERNEL, 1, 0, ns, &done), -EINVAL,
             "ping oneself");
    check_is(ping(64, CHIMERA_PING_KERNEL, 1, 0, ns, &done), -EINVAL, "node");
    check_is(ping(peer, 3, 1, 0, ns, &done), -EINVAL, "kind");
    check_is(ping(peer, CHIMERA_PING_KERNEL, 0, 0, ns, &done), -EINVAL,
             "no samples");
    check_is(ping(peer, CHIMERA_PING_KERNEL, 1000001, 0, ns, &done), -EINVAL,
             "too many samples");
    check_is(ping(peer, CHIMERA_PING_KERNEL, 1, CHIMERA_MSG_BYTES + 1, ns,
                  &done),
             -EINVAL, "too many bytes");
    check_is(ping(peer, CHIMERA_PING_DOORBELL, 1, 1, ns, &done), -EINVAL,
             "doorbell with bytes");
    check_is(ping(peer, CHIMERA_PING_KERNEL, 1, 0, (void *)8, &done), -EFAULT,
             "pointer");
}

/* A ping of a program that is killed leaves nothing behind. */
static void test_killed(void)
{
    static uint64_t ns[1000];
    unsigned done;
    int status;

    fflush(stdout);
    for (int i = 0; i < 20; i++) {
        pid_t pid = fork();

        if (pid == 0) {
            static uint64_t mine[1000000];

            ping(peer, CHIMERA_PING_KERNEL, 1000000, 100, mine, &done);
            _exit(0);
        }
        /* somewhere in its first millisecond */
        for (int64_t until = now_ns() + i * 50000; now_ns() < until;) {
        }
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
    }
    /* all slots for calls are free again */
    check_is(ping(peer, CHIMERA_PING_KERNEL, 1000, 0, ns, &done), 0, "ping");
    check_is(atol(slurp(SYSFS "/node%d/messages_dropped", peer)), 0,
             "messages dropped");
}

/* What an unprivileged program may not do. */
static void test_closed(void)
{
    check(open(SYSFS "/node0/state", O_WRONLY) < 0, "state can be written");
    check(write(open("/proc/chimera/stat", O_WRONLY), "x", 1) < 0,
          "stat can be written");
    check(read(dev, &info, 1) < 0, "read() works");
    check(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, dev, 0) == MAP_FAILED,
          "mmap() works");
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "follow")) {
        return follow();
    }
    if (argc != 3 || strcmp(argv[1], "lead")) {
        return usage(argv[0]);
    }
    lead(argv[2]);
    test_info();
    test_sysfs();
    test_proc();
    test_ping();
    test_killed();
    test_closed();
    dismiss();
    return report();
}
