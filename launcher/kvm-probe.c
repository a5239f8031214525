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
#include <time.h>
#include <unistd.h>

enum {
    /*
     * A working one takes about 2 ms. Where an interpreter runs the guest it
     * burns processor time; the other limit is for one that sleeps for good.
     */
    PROBE_CPU_MS = 50,
    PROBE_TIMEOUT_MS = 1000,
    GUEST_BYTES = 0x10000,
    REASON_BYTES = 160,
};

#if defined(__x86_64__)
/*
 * Long mode from the first instruction on; the page tables map the first
 * 2 MiB to themselves. What an interpreter inside the host's kernel could
 * still run would prove nothing, so the guest does what needs the processor:
 * it uses SSE, takes an exception and returns from it, counts for a while.
 */
enum {
    CODE = 0x1000,
    PML4 = 0x2000,
    PDPT = 0x3000,
    PD = 0x4000,
    IDT = 0x5000,
    GDT = 0x6000,
    STACK = 0x8000,
    VECTOR_UD = 6,
    RIGHT_RESULT = 0x42,
};

extern const uint8_t kvm_probe_code[], kvm_probe_ud[], kvm_probe_end[];

__asm__(".pushsection .rodata\n"
        "kvm_probe_code:\n"
        "    mov $0x20, %eax\n"
        "    movd %eax, %xmm0\n"
        "    paddd %xmm0, %xmm0\n"
        "    movd %xmm0, %eax\n" /* 0x40 */
        "    ud2\n" /* + 2 */
        "    movabs $0x100000000, %rdx\n"
        "    mov $1000000, %ecx\n" /* 1 ms at one cycle an instruction */
        "1:  add $1, %rdx\n"
        "    dec %ecx\n"
        "    jnz 1b\n"
        "    movabs $0x1000f4240, %rcx\n" /* 2^32 + 1000000 */
        "    sub %rcx, %rdx\n"
        "    add %edx, %eax\n" /* + 0 */
        "    out %al, $0x42\n"
        "    hlt\n"
        "kvm_probe_ud:\n"
        "    add $2, %eax\n"
        "    addq $2, (%rsp)\n" /* behind ud2 */
        "    iretq\n"
        "kvm_probe_end:\n"
        ".popsection\n");

static const char *set_up(int vcpu, uint8_t *mem)
{
    const uint64_t present_write = 3, large = 0x80;
    const uint64_t handler = CODE + (uint64_t)(kvm_probe_ud - kvm_probe_code);
    uint64_t *gdt = (uint64_t *)(mem + GDT);
    uint64_t *gate = (uint64_t *)(mem + IDT) + (size_t)2 * VECTOR_UD;
    struct kvm_regs regs = { .rip = CODE, .rsp = STACK, .rflags = 2 };
    struct kvm_sregs sregs;

    memcpy(mem + CODE, kvm_probe_code, (size_t)(kvm_probe_end - kvm_probe_code));
    *(uint64_t *)(mem + PML4) = PDPT | present_write;
    *(uint64_t *)(mem + PDPT) = PD | present_write;
    *(uint64_t *)(mem + PD) = present_write | large;
    gdt[1] = 0x00af9b000000ffff; /* 64-bit code */
    gdt[2] = 0x00cf93000000ffff; /* data */
    gate[0] = (handler & 0xffff) | 8 << 16 | 0x8eull << 40;
    if (ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0) {
        return "KVM_GET_SREGS";
    }
    sregs.cr3 = PML4;
    sregs.cr4 = 1 << 5 | 1 << 9; /* PAE, OSFXSR */
    sregs.cr0 = 1u << 31 | 1 << 5 | 1 << 4 | 1 << 1 | 1; /* PG NE ET MP PE */
    sregs.efer = 1 << 8 | 1 << 10; /* LME, LMA */
    sregs.cs = (struct kvm_segment){ .limit = ~0u,
                                     .selector = 8,
                                     .type = 11,
                                     .present = 1,
                                     .s = 1,
                                     .l = 1,
                                     .g = 1 };
    sregs.ds = (struct kvm_segment){ .limit = ~0u,
                                     .selector = 16,
                                     .type = 3,
                                     .present = 1,
                                     .s = 1,
                                     .db = 1,
                                     .g = 1 };
    sregs.es = sregs.fs = sregs.gs = sregs.ss = sregs.ds;
    sregs.gdt = (struct kvm_dtable){ .base = GDT, .limit = 23 };
    sregs.idt =
        (struct kvm_dtable){ .base = IDT, .limit = 16 * (VECTOR_UD + 1) - 1 };
    if (ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0) {
        return "KVM_SET_SREGS";
    }
    return ioctl(vcpu, KVM_SET_REGS, &regs) < 0 ? "KVM_SET_REGS" : NULL;
}

static bool is_right_exit(const struct kvm_run *run)
{
    return run->exit_reason == KVM_EXIT_IO && run->io.port == 0x42 &&
           run->io.direction == KVM_EXIT_IO_OUT &&
           *((const uint8_t *)run + run->io.data_offset) == RIGHT_RESULT;
}

static unsigned long vm_type(int kvm)
{
    return 0;
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

/* Hosts with fewer physical address bits than 40 refuse the default. */
static unsigned long vm_type(int kvm)
{
    int bits = ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_ARM_VM_IPA_SIZE);

    return bits > 0 ? KVM_VM_TYPE_ARM_IPA_SIZE((unsigned)bits) : 0;
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
static void limit_cpu_time(void)
{
    struct sigevent kill_us = { .sigev_notify = SIGEV_SIGNAL,
                                .sigev_signo = SIGKILL };
    struct itimerspec limit = { .it_value.tv_nsec = PROBE_CPU_MS * 1000000 };
    timer_t timer;

    if (timer_create(CLOCK_PROCESS_CPUTIME_ID, &kill_us, &timer) == 0) {
        timer_settime(timer, 0, &limit, NULL);
    }
}

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
    vm = ioctl(kvm, KVM_CREATE_VM, vm_type(kvm));
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
                 "with exit reason %u)",
                 run->exit_reason);
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
    int pipefd[2];

    if (pipe2(pipefd, O_CLOEXEC) < 0) {
        *ret_reason = g_strdup_printf("cannot test KVM: %s", strerror(errno));
        return false;
    }
    child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent) {
            limit_cpu_time();
            run_guest(reason);
            write_all(pipefd[1], reason, sizeof(reason));
        }
        _exit(0);
    }
    close(pipefd[1]);
    p = (struct pollfd){ .fd = pipefd[0], .events = POLLIN };
    if (child > 0) {
        while ((n = poll(&p, 1, PROBE_TIMEOUT_MS)) < 0 && errno == EINTR) {}
        n = n > 0 ? read(pipefd[0], reason, sizeof(reason)) : 0;
        kill(child, SIGKILL);
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR) {}
        if (n != sizeof(reason)) {
            snprintf(reason, sizeof(reason),
                     "KVM does not run 64-bit guests here (a test guest did "
                     "not end within %d ms of processor time)",
                     PROBE_CPU_MS);
        }
    } else {
        snprintf(reason, sizeof(reason), "cannot test KVM: %s", strerror(errno));
    }
    close(pipefd[0]);
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
