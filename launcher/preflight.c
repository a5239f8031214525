/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "preflight.h"

#include "kvm-probe.h"
#include "paths.h"
#include "qemu.h"
#include "rundir.h"
#include "util.h"

#include <arpa/inet.h>
#include <dsm/dsm.h>
#include <errno.h>
#include <gio/gio.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#if defined(__x86_64__)
#define HOST_ISA ISA_X86_64
#elif defined(__aarch64__)
#define HOST_ISA ISA_AARCH64
#else
#define HOST_ISA (-1)
#endif

char *preflight_qemu(enum isa isa)
{
    g_autofree char *rel = g_strconcat("bin/qemu-system-", isa_name(isa), NULL);

    return prefix_path(rel);
}

/* ---- memory ---- */

static char *read_text(const char *root, const char *path)
{
    g_autofree char *full = g_strconcat(root, path, NULL);
    char *text = NULL;

    return g_file_get_contents(full, &text, NULL, NULL) ? text : NULL;
}

/* The number behind @key in "key number" or "key: number kB" lines. */
static bool field_of(const char *text, const char *key, uint64_t *ret)
{
    size_t len = strlen(key);

    for (const char *p = text; p && *p;
         p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL) {
        if (strncmp(p, key, len) == 0 && (p[len] == ' ' || p[len] == ':')) {
            *ret = g_ascii_strtoull(p + len + 1, NULL, 10);
            return true;
        }
    }
    return false;
}

static bool number_in(const char *root, const char *dir, const char *file,
                      uint64_t *ret)
{
    g_autofree char *path = g_build_filename(dir, file, NULL);
    g_autofree char *text = read_text(root, path);

    /* "max" in version 2 is no number: no limit */
    return text && parse_uint(g_strchomp(text), 0, UINT64_MAX, ret);
}

/*
 * What the cgroup @dir still allows: its limit less what is in use and could
 * not be reclaimed. UINT64_MAX without a limit.
 */
static uint64_t cgroup_room(const char *root, const char *dir, bool v2)
{
    g_autofree char *stat_path = g_build_filename(dir, "memory.stat", NULL);
    g_autofree char *stat = read_text(root, stat_path);
    uint64_t limit, used, inactive = 0;

    if (!number_in(root, dir, v2 ? "memory.max" : "memory.limit_in_bytes",
                   &limit) ||
        !number_in(root, dir, v2 ? "memory.current" : "memory.usage_in_bytes",
                   &used)) {
        return UINT64_MAX;
    }
    field_of(stat, v2 ? "inactive_file" : "total_inactive_file", &inactive);
    used -= MIN(used, inactive);
    return limit - MIN(limit, used);
}

/* Goes up from @group to the root of the hierarchy mounted at @mount. */
static void cgroup_limits(const char *root, const char *mount, const char *group,
                          bool v2, uint64_t *room, char **limit)
{
    g_autofree char *rel = g_strdup(group);

    for (;;) {
        g_autofree char *dir = g_build_filename(mount, rel, NULL);
        uint64_t r = cgroup_room(root, dir, v2);
        char *slash = strrchr(rel, '/');

        if (r < *room) {
            *room = r;
            g_free(*limit);
            *limit = g_strdup_printf("the memory limit of cgroup %s",
                                     *rel ? rel : "/");
        }
        if (!slash) {
            return;
        }
        *slash = '\0';
    }
}

uint64_t preflight_memory_available(const char *root, char **ret_limit)
{
    g_autofree char *meminfo = read_text(root, "/proc/meminfo");
    g_autofree char *cgroup = read_text(root, "/proc/self/cgroup");
    g_auto(GStrv) lines = g_strsplit(cgroup ? cgroup : "", "\n", -1);
    char *limit = g_strdup("MemAvailable of the host");
    uint64_t room = UINT64_MAX, kb;

    if (field_of(meminfo, "MemAvailable", &kb)) {
        room = kb * 1024;
    }
    for (char **line = lines; *line; line++) {
        g_auto(GStrv) part = g_strsplit(*line, ":", 3);

        if (g_strv_length(part) != 3) {
            continue;
        }
        if (strcmp(part[0], "0") == 0 && *part[1] == '\0') {
            cgroup_limits(root, "/sys/fs/cgroup", part[2], true, &room, &limit);
        } else {
            g_auto(GStrv) names = g_strsplit(part[1], ",", -1);

            if (g_strv_contains((const char *const *)names, "memory")) {
                cgroup_limits(root, "/sys/fs/cgroup/memory", part[2], false,
                              &room, &limit);
            }
        }
    }
    *ret_limit = limit;
    return room;
}

/* ---- the checks ---- */

struct check {
    const struct machine_config *config;
    GPtrArray *errors;
};

static void G_GNUC_PRINTF(4, 5)
    fail(struct check *c, const struct node_config *n, const char *key,
         const char *fmt, ...)
{
    g_autofree char *where = config_where(c->config, n, key);
    GString *s = g_string_new(where);
    va_list ap;

    g_string_append(s, ": ");
    va_start(ap, fmt);
    g_string_append_vprintf(s, fmt, ap);
    va_end(ap);
    g_ptr_array_add(c->errors, g_string_free(s, FALSE));
}

static void check_file(struct check *c, const struct node_config *n,
                       const char *key, const char *path, const char *what)
{
    struct stat st;

    if (stat(path, &st) < 0) {
        fail(c, n, key, "%s %s: %s", what, path, g_strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        fail(c, n, key, "%s %s is not a file", what, path);
    } else if (access(path, R_OK) < 0) {
        fail(c, n, key, "%s %s: %s", what, path, g_strerror(errno));
    } else if (st.st_size == 0) {
        fail(c, n, key, "%s %s is empty", what, path);
    }
}

static void check_affinity(struct check *c, const struct node_config *n)
{
    g_autoptr(GArray) allowed = g_array_new(FALSE, FALSE, sizeof(unsigned));
    cpu_set_t *set = CPU_ALLOC(CONFIG_MAX_HOST_CPU + 1);
    size_t size = CPU_ALLOC_SIZE(CONFIG_MAX_HOST_CPU + 1);

    CPU_ZERO_S(size, set);
    sched_getaffinity(0, size, set);
    for (unsigned cpu = 0; cpu <= CONFIG_MAX_HOST_CPU; cpu++) {
        if (CPU_ISSET_S(cpu, size, set)) {
            g_array_append_val(allowed, cpu);
        }
    }
    for (unsigned i = 0; i < n->cpu_affinity->len; i++) {
        unsigned cpu = g_array_index(n->cpu_affinity, unsigned, i);

        if (!CPU_ISSET_S(cpu, size, set)) {
            g_autofree char *list = format_cpu_list(allowed);

            fail(c, n, "cpu-affinity",
                 "found host CPU %u; allowed on this host: %s", cpu, list);
            break;
        }
    }
    CPU_FREE(set);
}

static void check_ports(struct check *c, const struct node_config *n)
{
    for (unsigned i = 0; i < n->forwards->len; i++) {
        unsigned port = g_array_index(n->forwards, struct forward, i).host_port;
        struct sockaddr_in sin = {
            .sin_family = AF_INET,
            .sin_port = htons((uint16_t)port),
            .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
        };
        int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        /* As slirp does: the port of a connection that ended is free. */
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        if (fd < 0 || bind(fd, (struct sockaddr *)&sin, sizeof(sin)) < 0 ||
            listen(fd, 1) < 0) {
            fail(c, n, "forward", "found host port %u: %s; choose another",
                 port, g_strerror(errno));
        }
        close_fd(&fd);
    }
}

static void check_address(struct check *c, const struct node_config *n)
{
    /* "tcp:HOST:PORT" was checked when it was read; GIO reads it as a URI */
    g_autofree char *uri =
        n->address ? g_strdup_printf("tcp://%s", n->address + strlen("tcp:"))
                   : NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(GSocketConnectable) at =
        uri ? g_network_address_parse_uri(uri, 0, &error) : NULL;
    g_autoptr(GSocketListener) listener = g_socket_listener_new();
    g_autoptr(GInetAddress) inet = NULL;
    g_autoptr(GSocketAddress) address = NULL;

    if (!at) {
        return;
    }
    inet = g_inet_address_new_from_string(
        g_network_address_get_hostname(G_NETWORK_ADDRESS(at)));
    address = g_inet_socket_address_new(
        inet, g_network_address_get_port(G_NETWORK_ADDRESS(at)));
    if (!g_socket_listener_add_address(listener, address, G_SOCKET_TYPE_STREAM,
                                       G_SOCKET_PROTOCOL_TCP, NULL, NULL,
                                       &error)) {
        fail(c, n, "address", "found %s: %s; choose another", n->address,
             error->message);
    }
    g_socket_listener_close(listener);
}

static void check_key(struct check *c)
{
    char reason[DSM_REASON_BYTES];
    struct dsm_key *key = NULL;

    if (c->config->key && dsm_key_load(c->config->key, &key, reason) < 0) {
        fail(c, NULL, "key", "%s: %s", c->config->key, reason);
    }
    dsm_key_free(key);
}

/* The digits of the key, which check_key() has approved, key an HMAC. */
char *preflight_key_id(const struct machine_config *config,
                       const char *machine_uuid)
{
    g_autofree char *text = NULL, *digits = NULL;
    const char *colon;

    if (!config->key || !g_file_get_contents(config->key, &text, NULL, NULL)) {
        return NULL;
    }
    colon = strrchr(g_strchomp(text), ':');
    digits = g_ascii_strdown(colon ? colon + 1 : text, -1);
    return g_compute_hmac_for_string(G_CHECKSUM_SHA256, (const guchar *)digits,
                                     strlen(digits), machine_uuid, -1);
}

/* Of the nodes that this host starts. */
static uint64_t memory_needed(const struct machine_config *config)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < config->nodes->len; i++) {
        const struct node_config *n = config_node(config, i);

        sum += n->host ? 0 : n->memory_bytes;
    }
    return sum;
}

static void check_memory(struct check *c, uint64_t sum)
{
    g_autofree char *limit = NULL;
    g_autofree char *sum_text = NULL, *room_text = NULL;
    uint64_t room;

    if (c->config->overcommit) {
        return;
    }
    room = preflight_memory_available("", &limit);
    if (sum > room) {
        sum_text = format_size(sum);
        room_text = format_size(room);
        fail(c, NULL, "memory",
             "the nodes need %s together, %s leaves %s; give "
             "them less, or set overcommit=true if they will not touch it all",
             sum_text, limit, room_text);
    }
}

static void check_sockets(struct check *c)
{
    g_autofree char *path =
        rundir_longest_socket(c->config->name, c->config->nodes->len);
    const size_t max = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1;

    if (strlen(path) > max) {
        fail(c, NULL, "name",
             "the socket path %s would have %zu bytes, at most %zu "
             "are allowed; choose a shorter machine name or XDG_RUNTIME_DIR",
             path, strlen(path), max);
    }
}

static void check_share(struct check *c)
{
    const char *share = c->config->share;
    struct stat st;

    if (stat(share, &st) < 0) {
        fail(c, NULL, "share", "folder %s: %s", share, g_strerror(errno));
    } else if (!S_ISDIR(st.st_mode)) {
        fail(c, NULL, "share", "%s is not a folder", share);
    } else if (access(share, R_OK | X_OK) < 0) {
        fail(c, NULL, "share", "folder %s: %s", share, g_strerror(errno));
    }
}

static void check_node(struct check *c, const struct node_config *n)
{
    g_autofree char *qemu = preflight_qemu(n->isa);

    if (access(qemu, X_OK) < 0) {
        fail(c, n, "isa", "%s: %s; './bootstrap build' makes it", qemu,
             g_strerror(errno));
    }
    if (n->locks != LOCKS_QSPINLOCK && access(n->kernel, F_OK) < 0) {
        fail(c, n, "locks", "%s: %s; './bootstrap build kernel:%s' makes it",
             n->kernel, g_strerror(errno), locks_name(n->locks));
    } else {
        check_file(c, n, "kernel", n->kernel, "the kernel");
    }
    check_file(c, n, "initrd", n->initrd, "the initial RAM disk");
    if (n->cpu_affinity) {
        check_affinity(c, n);
    }
    check_ports(c, n);
    check_address(c, n);
}

/* Fills @choice; the probe runs at most once per machine. */
static void choose_accel(struct check *c, const struct node_config *n,
                         int *kvm_works, char **kvm_reason,
                         struct accel_choice *choice)
{
    bool native = (int)n->isa == HOST_ISA;

    choice->accel = ACCEL_TCG;
    choice->reason = g_strdup("");
    if (n->accel == ACCEL_TCG) {
        return;
    }
    if (native && *kvm_works < 0) {
        *kvm_works = kvm_probe(kvm_reason);
    }
    if (native && *kvm_works) {
        choice->accel = ACCEL_KVM;
        return;
    }
    g_free(choice->reason);
    choice->reason =
        native ? g_strdup(*kvm_reason)
               : g_strdup_printf("%s is not the host's ISA", isa_name(n->isa));
    if (n->accel == ACCEL_KVM) {
        fail(c, n, "accel", "found kvm; %s; allowed on this host: auto or tcg",
             choice->reason);
    }
}

/*
 * On another host only what was asked for is tried: what "auto" would find
 * there is not known here, where it is shown.
 */
static struct accel_choice choose_elsewhere(const struct node_config *n)
{
    return (struct accel_choice) {
        .accel = n->accel == ACCEL_KVM ? ACCEL_KVM : ACCEL_TCG,
        .reason = g_strdup(n->accel == ACCEL_AUTO
                               ? "on another host; accel=kvm asks for KVM"
                               : ""),
    };
}

/* Return: nothing was found wrong. */
static bool check_result(struct check *c, GError **error)
{
    if (c->errors->len > 0) {
        g_ptr_array_add(c->errors, NULL);
        g_autofree char *all = g_strjoinv("\n", (char **)c->errors->pdata);

        g_set_error_literal(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST, all);
        return false;
    }
    return true;
}

bool preflight_far(const struct machine_config *config, unsigned self,
                   enum accel *ret_accel, GError **error)
{
    g_autoptr(GPtrArray) errors = g_ptr_array_new_with_free_func(g_free);
    const struct node_config *n = config_node(config, self);
    struct check c = { config, errors };
    struct accel_choice choice = { 0 };
    g_autofree char *kvm_reason = NULL;
    int kvm_works = -1;

    check_share(&c);
    check_memory(&c, n->memory_bytes);
    check_key(&c);
    check_node(&c, n);
    choice.accel = ACCEL_TCG;
    if (errors->len == 0 && n->accel == ACCEL_KVM) {
        choose_accel(&c, n, &kvm_works, &kvm_reason, &choice);
    }
    *ret_accel = choice.accel;
    g_free(choice.reason);
    return check_result(&c, error);
}

bool preflight(const struct machine_config *config,
               struct accel_choice **ret_choices, GError **error)
{
    g_autoptr(GPtrArray) errors = g_ptr_array_new_with_free_func(g_free);
    struct check c = { config, errors };
    unsigned n = config->nodes->len;
    struct accel_choice *choices = g_new0(struct accel_choice, n);
    g_autofree char *kvm_reason = NULL;
    bool any_here = false;
    int kvm_works = -1;

    check_sockets(&c);
    check_memory(&c, memory_needed(config));
    for (unsigned i = 0; i < n; i++) {
        if (!config_node(config, i)->host) {
            check_node(&c, config_node(config, i));
            any_here = true;
        }
    }
    if (any_here) {
        check_share(&c);
        check_key(&c);
    }
    /* last: the only check that takes time */
    for (unsigned i = 0; i < n && errors->len == 0; i++) {
        const struct node_config *node = config_node(config, i);

        if (node->host) {
            choices[i] = choose_elsewhere(node);
        } else {
            choose_accel(&c, node, &kvm_works, &kvm_reason, &choices[i]);
        }
    }
    if (!check_result(&c, error)) {
        accel_choices_free(choices, n);
        return false;
    }
    *ret_choices = choices;
    return true;
}

void accel_choices_free(struct accel_choice *choices, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        g_free(choices[i].reason);
    }
    g_free(choices);
}
