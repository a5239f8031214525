/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu.h"

#include "paths.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <json-glib/json-glib.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static void add(GPtrArray *argv, const char *option, const char *fmt, ...)
    G_GNUC_PRINTF(3, 4);

static void add(GPtrArray *argv, const char *option, const char *fmt, ...)
{
    va_list ap;

    g_ptr_array_add(argv, g_strdup(option));
    va_start(ap, fmt);
    g_ptr_array_add(argv, g_strdup_vprintf(fmt, ap));
    va_end(ap);
}

/* A value inside "-option a=b,c=d": a comma is written twice. */
static char *option_value(const char *value)
{
    g_auto(GStrv) parts = g_strsplit(value, ",", -1);

    return g_strjoinv(",,", parts);
}

static void member_string(JsonBuilder *b, const char *name, const char *value)
{
    json_builder_set_member_name(b, name);
    json_builder_add_string_value(b, value);
}

static void member_int(JsonBuilder *b, const char *name, uint64_t value)
{
    json_builder_set_member_name(b, name);
    json_builder_add_int_value(b, (gint64)value);
}

/* The memory-backend-dsm object, see docs/interfaces.md. */
static char *backend_json(const struct qemu_spec *spec)
{
    const struct machine_config *c = spec->config;
    g_autoptr(JsonBuilder) b = json_builder_new();
    g_autoptr(JsonGenerator) gen = json_generator_new();
    g_autoptr(JsonNode) root = NULL;

    json_builder_begin_object(b);
    member_string(b, "qom-type", "memory-backend-dsm");
    member_string(b, "id", "ram");
    member_int(b, "size", config_node(c, spec->self)->memory_bytes);
    member_string(b, "machine-uuid", spec->machine_uuid);
    member_string(b, "coherence", coherence_name(c->coherence));
    member_int(b, "self", spec->self);
    if (c->heartbeat_ms) {
        member_int(b, "heartbeat-ms", c->heartbeat_ms);
    }
    if (c->peer_timeout_ms) {
        member_int(b, "peer-timeout-ms", c->peer_timeout_ms);
    }
    if (c->key) {
        member_string(b, "key-file", c->key);
    }
    if (!c->prefetch) {
        json_builder_set_member_name(b, "prefetch");
        json_builder_add_boolean_value(b, FALSE);
    }
    json_builder_set_member_name(b, "nodes");
    json_builder_begin_array(b);
    for (unsigned i = 0; i < c->nodes->len; i++) {
        const struct node_config *n = config_node(c, i);
        g_autofree char *address =
            n->address ? g_strdup(n->address)
                       : g_strdup_printf("unix:%s/link-%u.sock",
                                         spec->run_path, i);

        json_builder_begin_object(b);
        member_string(b, "name", n->name);
        member_string(b, "isa", isa_name(n->isa));
        member_int(b, "cpus", n->cpus);
        member_int(b, "size", n->memory_bytes);
        member_string(b, "address", address);
        json_builder_end_object(b);
    }
    json_builder_end_array(b);
    json_builder_end_object(b);
    root = json_builder_get_root(b);
    json_generator_set_root(gen, root);
    return json_generator_to_data(gen, NULL);
}

static void add_machine(GPtrArray *argv, const struct qemu_spec *spec)
{
    const struct node_config *n = config_node(spec->config, spec->self);
    const char *cpu = n->cpu_model;

    if (n->isa == ISA_X86_64) {
        add(argv, "-M", "q35,memory-backend=ram");
        add(argv, "-bios", "qboot.rom");
    } else {
        add(argv, "-M", "virt,gic-version=3,memory-backend=ram");
    }
    if (spec->accel == ACCEL_KVM) {
        add(argv, "-accel", "kvm");
    } else {
        add(argv, "-accel", "tcg,thread=multi");
    }
    if (!cpu) {
        cpu = spec->accel == ACCEL_KVM ? "host" : "max";
    }
    if (n->isa == ISA_X86_64 && spec->accel == ACCEL_TCG) {
        add(argv, "-cpu", "%s,tcg-clocks=on%s", cpu,
            n->tlb_shootdown == TLB_SHOOTDOWN_PARAVIRT ? ",tcg-tlb-flush=on"
                                                       : "");
    } else {
        add(argv, "-cpu", "%s", cpu);
    }
    add(argv, "-smp", "%u", n->cpus);
    add(argv, "-m", "%" PRIu64 "M", n->memory_bytes >> 20);
}

static void add_devices(GPtrArray *argv, const struct qemu_spec *spec)
{
    const struct machine_config *c = spec->config;
    const struct node_config *n = config_node(c, spec->self);
    g_autofree char *run = n->host ? NULL : option_value(spec->run_path);
    g_autofree char *share = option_value(c->share);

    if (spec->echo_floor) {
        add(argv, "-device",
            "virtio-fabric-pci,dsm=ram,echo-kick-fd=%d,echo-call-fd=%d",
            QEMU_FD_ECHO_KICK, QEMU_FD_ECHO_CALL);
    } else {
        add(argv, "-device", "virtio-fabric-pci,dsm=ram");
    }
    add(argv, "-chardev", "socket,id=agent,fd=%d", QEMU_FD_AGENT);
    /* As few eventfds as possible: QEMU polls them all for each message. */
    add(argv, "-device", "virtio-serial-pci,max_ports=2,ioeventfd=off");
    add(argv, "-device",
        "virtserialport,id=agent,chardev=agent,name=org.chimera.agent");
    add(argv, "-chardev", "socket,id=console,fd=%d", QEMU_FD_CONSOLE);
    add(argv, "-serial", "chardev:console");
    add(argv, "-chardev", "socket,id=qmp,fd=%d", QEMU_FD_QMP);
    add(argv, "-mon", "chardev=qmp,mode=control");
    /* A second monitor, for people and tests; the first is ours. */
    if (run) {
        add(argv, "-qmp", "unix:%s/qmp-%u.sock,server=on,wait=off", run,
            spec->self);
    }
    add(argv, "-fsdev", "local,id=share,path=%s,security_model=none%s", share,
        c->share_readonly ? ",readonly=on" : "");
    add(argv, "-device", "virtio-9p-pci,fsdev=share,mount_tag=share");
    add(argv, "-device", "virtio-rng-pci");
    if (n->network == NETWORK_USER) {
        GString *s = g_string_new("user,id=net");

        for (unsigned i = 0; i < n->forwards->len; i++) {
            const struct forward *f =
                &g_array_index(n->forwards, struct forward, i);

            g_string_append_printf(s, ",hostfwd=tcp:127.0.0.1:%u-:%u",
                                   f->host_port, f->guest_port);
        }
        add(argv, "-netdev", "%s", s->str);
        add(argv, "-device", "virtio-net-pci,netdev=net,romfile=");
        g_string_free(s, TRUE);
    }
}

static char *kernel_command_line(const struct qemu_spec *spec)
{
    const struct node_config *n = config_node(spec->config, spec->self);
    GString *s = g_string_new(NULL);

    g_string_append_printf(
        s, "console=%s quiet panic=-1%s chimera.node=%s chimera.share=%s",
        n->isa == ISA_X86_64 ? "ttyS0" : "ttyAMA0",
        n->isa == ISA_X86_64 ? " noreplace-smp no_timer_check" : "", n->name,
        GUEST_SHARE);
    if (n->network == NETWORK_USER) {
        /* What slirp's DHCP server would answer, without asking it. */
        g_string_append_printf(
            s, " ip=10.0.2.15::10.0.2.2:255.255.255.0:%s:eth0:off:10.0.2.3",
            n->name);
    }
    if (*n->append) {
        g_string_append_printf(s, " %s", n->append);
    }
    return g_string_free(s, FALSE);
}

char **qemu_argv(const struct qemu_spec *spec)
{
    const struct machine_config *c = spec->config;
    const struct node_config *n = config_node(c, spec->self);
    GPtrArray *argv = g_ptr_array_new();
    g_autofree char *backend = backend_json(spec);
    g_autofree char *command_line = kernel_command_line(spec);

    g_ptr_array_add(argv, preflight_qemu(n->isa));
    g_ptr_array_add(argv, g_strdup("-nodefaults"));
    g_ptr_array_add(argv, g_strdup("-no-user-config"));
    g_ptr_array_add(argv, g_strdup("-no-reboot"));
    add(argv, "-display", "none");
    add(argv, "-name", "%s/%s", c->name, n->name);
    add(argv, "-L", "%s/share/qemu", prefix_dir());
    add_machine(argv, spec);
    add(argv, "-object", "%s", backend);
    add_devices(argv, spec);
    add(argv, "-kernel", "%s", n->kernel);
    add(argv, "-initrd", "%s", n->initrd);
    add(argv, "-append", "%s", command_line);
    g_ptr_array_add(argv, NULL);
    return (char **)g_ptr_array_free(argv, FALSE);
}

struct child_setup {
    pid_t parent;
    cpu_set_t *cpus;
    size_t cpus_size;
};

/* Runs in the child between fork and exec. */
static void child_setup(gpointer opaque)
{
    const struct child_setup *s = opaque;
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != s->parent) {
        _exit(1); /* it died before prctl() */
    }
    if (s->cpus) {
        sched_setaffinity(0, s->cpus_size, s->cpus);
    }
}

pid_t child_start(char **argv, const int *fds, const int *target_fds,
                  unsigned n_fds, const GArray *affinity, const char *log_path,
                  GError **error)
{
    struct child_setup setup = { .parent = getpid() };
    GPid pid = -1;
    int log = -1;

    if (log_path) {
        log = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    }
    if (log_path && log < 0) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST,
                    "cannot create %s: %s", log_path, g_strerror(errno));
        return -1;
    }
    if (affinity) {
        setup.cpus_size = CPU_ALLOC_SIZE(CONFIG_MAX_HOST_CPU + 1);
        setup.cpus = CPU_ALLOC(CONFIG_MAX_HOST_CPU + 1);
        CPU_ZERO_S(setup.cpus_size, setup.cpus);
        for (unsigned i = 0; i < affinity->len; i++) {
            CPU_SET_S(g_array_index(affinity, unsigned, i), setup.cpus_size,
                      setup.cpus);
        }
    }
    if (!g_spawn_async_with_pipes_and_fds(
            "/", (const char *const *)argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD,
            child_setup, &setup, -1, log, log, fds, target_fds, n_fds, &pid,
            NULL, NULL, NULL, error)) {
        pid = -1;
    }
    if (setup.cpus) {
        CPU_FREE(setup.cpus);
    }
    close_fd(&log);
    return pid;
}

pid_t qemu_start(const struct qemu_spec *spec,
                 const int fds[QEMU_FD_END - QEMU_FD_QMP], const char *log_path,
                 GError **error)
{
    const struct node_config *n = config_node(spec->config, spec->self);
    g_auto(GStrv) argv = qemu_argv(spec);
    int source[QEMU_FD_END], target[QEMU_FD_END];
    unsigned n_fds = 0;

    for (int fd = QEMU_FD_QMP; fd < QEMU_FD_END; fd++) {
        if (fds[fd - QEMU_FD_QMP] >= 0) {
            source[n_fds] = fds[fd - QEMU_FD_QMP];
            target[n_fds++] = fd;
        }
    }
    return child_start(argv, source, target, n_fds, n->cpu_affinity, log_path,
                       error);
}
