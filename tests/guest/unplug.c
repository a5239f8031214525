/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The fabric device goes: its node is alone from then on and goes on. The
 * leader takes its own device away; its node is of no use to the machine
 * afterwards.
 */
#include "harness.h"

#include <dirent.h>
#include <limits.h>

#define RW (PROT_READ | PROT_WRITE)

static void unplug(void)
{
    const char *drivers = "/sys/bus/virtio/drivers/virtio_fabric";
    char path[PATH_MAX], real[PATH_MAX];
    struct dirent *d;
    DIR *dir = opendir(drivers);
    int fd;

    while (dir && (d = readdir(dir))) {
        if (!strncmp(d->d_name, "virtio", 6)) {
            break;
        }
    }
    if (!dir || !d) {
        die("no device in %s", drivers);
    }
    snprintf(path, sizeof(path), "%s/%s", drivers, d->d_name);
    closedir(dir);
    if (!realpath(path, real)) {
        die("%s: %s", path, strerror(errno));
    }
    /* .../0000:00:01.0/virtio0: the PCI function is above */
    *strrchr(real, '/') = 0;
    strcat(real, "/remove");
    fd = open(real, O_WRONLY);
    if (fd < 0 || write(fd, "1", 1) != 1) {
        die("%s: %s", real, strerror(errno));
    }
    close(fd);
}

int main(int argc, char **argv)
{
    struct chimera_info info;
    struct chimera_ping ping = { .count = 1, .kind = CHIMERA_PING_KERNEL };
    uint64_t *far, *near, value, ns[1];
    unsigned self;
    long fd, near_fd;
    int64_t began;
    char byte = 1;

    if (argc == 2 && !strcmp(argv[1], "follow")) {
        return follow();
    }
    if (argc != 3 || strcmp(argv[1], "lead")) {
        return usage(argv[0]);
    }
    lead(argv[2]);
    self = self_node();
    there_named("far", DO_CREATE, .a = 10 * PAGE, .b = 0600,
                .c = CHIMERA_SEG_PERSIST);
    fd = seg_open("far", O_RDWR);
    check(fd >= 0, "open: %ld", fd);
    far = mmap(NULL, 10 * PAGE, RW, MAP_SHARED, fd, 0);
    fill(far, 5 * PAGE, 1);
    near_fd = seg_create("near", 10 * PAGE, 0600, 0);
    near = mmap(NULL, 10 * PAGE, RW, MAP_SHARED, near_fd, 0);
    fill(near, 10 * PAGE, 2);
    dismiss();

    began = now_ns();
    unplug();
    check_is(peek(far, &value), SIGNALLED(SIGBUS), "touched page");
    check_is(peek(far + 9 * PAGE / 8, &value), SIGNALLED(SIGBUS),
             "untouched page");
    check(!strcmp(slurp(SYSFS "/node%d/state", peer), "down"), "state is %s",
          slurp(SYSFS "/node%d/state", peer));
    check(!slurp(SYSFS "/segments/far/size")[0], "its name is shown");
    check_is(sys(ioctl(dev, CHIMERA_IOC_INFO, &info)), 0, "INFO");
    check_is(info.up_mask, 1 << self, "up mask");
    ping.node = peer;
    ping.samples = (uintptr_t)ns;
    check_is(sys(ioctl(dev, CHIMERA_IOC_PING, &ping)), -EHOSTDOWN, "ping");
    check_is(msg_send(dev, peer, FOLLOW_PORT + 1, &byte, 1, 0, -1), -EHOSTDOWN,
             "send");

    /* what needs no other node works */
    check_is(verify(near, 10 * PAGE, 2), 0, "words that differ");
    check_is(msg_send(dev, self, LEAD_PORT, &byte, 1, 0, SECOND), 0, "send");
    check_is(msg_recv(dev, &byte, 1, NULL, NULL, 0, SECOND), 1, "receive");
    close(near_fd);
    munmap(near, 10 * PAGE);
    near_fd = seg_create("far", PAGE, 0600, 0);
    check(near_fd >= 0, "create: %ld", near_fd);
    check(slurp("/proc/chimera/stat")[0], "no /proc/chimera/stat");
    munmap(far, 10 * PAGE);
    close(fd);
    check(now_ns() - began < 5 * SECOND, "it took %lld ms",
          (long long)(now_ns() - began) / 1000000);
    return report();
}
