/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "kvm-probe.h"

#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    PROBE_TIMEOUT_MS = 1000, /* a working one takes about 2 ms */
    GUEST_BYTES = 0x10000,
    REASON_BYTES = 160,
};

#if defined(__x86_64__)
/*
 * Long mode from the first instruction: the page tables map the first 2 MiB
 * to themselves. The program is only right with 64-bit registers.
 */
enum { CODE = 0x1000, PML4 = 0x2000, PDPT = 0x3000, PD = 0x4000 };

static const uint8_t program[] = {
    0x48, 0xb8, 0x01, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, /* mov rax,
                                                    0x100000001 */
    0x48, 0xc1, 0xe8, 0x20,                         /* shr rax, 32 */
    0x83, 0xc0, 0x41,                               /* add eax, 0x41 */
    0xe6, 0x42,                                     /* out 0x42, al */
    0xf4,                                           /* hlt */
};

static const char *set_up(int vcpu, uint8_t *mem)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = { .rip = CODE, .rflags = 2 };
    const uint64_t present_write = 3, large = 0x80;

    memcpy(mem + CODE, program, sizeof(program));
    *(uint64_t *)(mem + PML4) = PDPT | present_write;
    *(uint64_t *)(mem + PDPT) = PD | present_write;
    *(uint64_t *)(mem + PD) = present_write | large;
    if (ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0) {
        return "KVM_GET_SREGS";
    }
    sregs.cr3 = PML4;
    sregs.cr4 = 1 << 5;                         /* PAE */
    sregs.cr0 = 1u << 31 | 1 << 5 | 1 << 4 | 1; /* PG, NE, ET, PE */
    sregs.efer = 1 << 8 | 1 << 10;              /* LME, LMA */
    sregs.cs = (struct kvm_segment){ .limit = ~0u, .selector = 8, .type = 11,
                                     .present = 1, .s = 1, .l = 1, .g = 1 };
    sregs.ds = (struct kvm_segment){ .limit = ~0u, .selector = 16, .type = 3,
                                     .present = 1, .s = 1, .db = 1, .g = 1 };
    sregs.es = sregs.fs = sregs.gs = sregs.ss = sregs.ds;
    if (ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0) {
        return "KVM_SET_SREGS";
    }
    return ioctl(vcpu, KVM_SET_REGS, &regs) < 0 ? "KVM_SET_REGS" : NULL;
}

static bool is_right_exit(const struct kvm_run *run)
{
    return run->exit_reason == KVM_EXIT_IO && run->io.port == 0x42 &&
           run->io.direction == KVM_EXIT_IO_OUT &&
           *((const uint8_t *)run + run->io.data_offset) == 0x42;
}

static int create_vcpu(int vm, const char **ret_what)
{
    int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);

    *ret_what = "KVM_CREATE_VCPU";
    return vcpu;
}

#elif defined(__aarch64__)
/* EL1 with the MMU off; stores 0x42 where no memory is: an MMIO exit. */
enum { CODE = 0x1000 };

static const uint32_t program[] = {
    0xd2800020, /* mov x0, #1 */
    0xd3607c00, /* lsl x0, x0, #32 */
    0xd360fc00, /* lsr x0, x0, #32 */
    0x91010400, /* add x0, x0, #0x41 */
    0xd2a20001, /* mov x1, #0x10000000 */
    0x39000020, /* strb w0, [x1] */
    0x14000000, /* b . */
};

static const char *set_up(int vcpu, uint8_t *mem)
{
    uint64_t pc = CODE;
    struct kvm_one_reg reg = {
        .id = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE |
              KVM_REG_ARM_CORE_REG(regs.pc),
        .addr = (uint64_t)(uintptr_t)&pc,
    };

    memcpy(mem + CODE, program, sizeof(program));
    return ioctl(vcpu, KVM_SET_ONE_REG, &reg) < 0 ? "KVM_SET_ONE_REG" : NULL;
}

static bool is_right_exit(const struct kvm_run *run)
{
    return run->exit_reason == KVM_EXIT_MMIO && run->mmio.is_write &&
           run->mmio.phys_addr == 0x10000000 && run->mmio.data[0] == 0x42;
}

static int create_vcpu(int vm, const char **ret_what)
{
    struct kvm_vcpu_init init;
    int vcpu;

    *ret_what = "KVM_ARM_PREFERRED_TARGET";
    if (ioctl(vm, KVM_ARM_PREFERRED_TARGET, &init) < 0) {
        return -1;
    }
    *ret_what = "KVM_CREATE_VCPU";
    vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    if (vcpu < 0) {
        return -1;
    }
    *ret_what = "KVM_ARM_VCPU_INIT";
    return ioctl(vcpu, KVM_ARM_VCPU_INIT, &init) < 0 ? -1 : vcpu;
}
#endif

#if defined(__x86_64__) || defined(__aarch64__)
/* Fills @reason; "" means that KVM works. Descriptors die with the process. */
static void run_guest(char reason[REASON_BYTES])
{
    struct kvm_userspace_memory_region region = { .memory_size = GUEST_BYTES };
    const char *what;
    struct kvm_run *run;
    uint8_t *mem;
    int kvm, vm, vcpu, size;

    kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0) {
        what = "/dev/kvm";
        goto failed;
    }
    if (ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
        snprintf(reason, REASON_BYTES, "/dev/kvm has another API version");
        return;
    }
    what = "KVM_CREATE_VM";
    vm = ioctl(kvm, KVM_CREATE_VM, 0);
    if (vm < 0) {
        goto failed;
    }
    what = "mmap";
    mem = mmap(NULL, GUEST_BYTES, PROT_READ | PROT_WRITE,
               MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (mem == MAP_FAILED) {
        goto failed;
    }
    region.userspace_addr = (uint64_t)(uintptr_t)mem;
    what = "KVM_SET_USER_MEMORY_REGION";
    if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0) {
        goto failed;
    }
    vcpu = create_vcpu(vm, &what);
    if (vcpu < 0) {
        goto failed;
    }
    what = "KVM_GET_VCPU_MMAP_SIZE";
    size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size < (int)sizeof(*run)) {
        goto failed;
    }
    what = "mmap";
    run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED) {
        goto failed;
    }
    what = set_up(vcpu, mem);
    if (what) {
        goto failed;
    }
    what = "KVM_RUN";
    if (ioctl(vcpu, KVM_RUN, 0) < 0) {
        goto failed;
    }
    if (!is_right_exit(run)) {
        snprintf(reason, REASON_BYTES,
                 "KVM does not run 64-bit guests here (a test guest ended "
                 "with exit reason %u)", run->exit_reason);
    }
    return;

failed:
    snprintf(reason, REASON_BYTES, "KVM does not work here: %s: %s", what,
             strerror(errno));
}

bool kvm_probe(char **ret_reason)
{
    char reason[REASON_BYTES] = "";
    struct pollfd p;
    ssize_t n = -1;
    pid_t child, parent = getpid();
    int pipefd[2], status;

    if (pipe2(pipefd, O_CLOEXEC) < 0) {
        *ret_reason = g_strdup_printf("cannot test KVM: %s", strerror(errno));
        return false;
    }
    child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent) {
            run_guest(reason);
            write_all(pipefd[1], reason, sizeof(reason));
        }
        _exit(0);
    }
    close(pipefd[1]);
    p = (struct pollfd){ .fd = pipefd[0], .events = POLLIN };
    if (child > 0) {
        while ((n = poll(&p, 1, PROBE_TIMEOUT_MS)) < 0 && errno == EINTR) {
        }
        if (n > 0) {
            n = read(pipefd[0], reason, sizeof(reason));
        } else {
            snprintf(reason, sizeof(reason),
                     "KVM does not run 64-bit guests here (a test guest did "
                     "not end within %d ms)", PROBE_TIMEOUT_MS);
            n = sizeof(reason);
        }
        kill(child, SIGKILL);
        while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
        }
    }
    close(pipefd[0]);
    if (n != sizeof(reason)) {
        *ret_reason = g_strdup("cannot test KVM: the test process died");
        return false;
    }
    if (reason[0]) {
        *ret_reason = g_strdup(reason);
    }
    return !reason[0];
}
#else
bool kvm_probe(char **ret_reason)
{
    *ret_reason = g_strdup("no node runs on this host's ISA");
    return false;
}
#endif
