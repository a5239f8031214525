/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * GKeyFile reads the values (so that escapes and comments are its own) but
 * knows no line numbers and silently merges what is written twice. Therefore
 * a scanner goes over the same text first: it notes the line of every group
 * and key and reports what GKeyFile would swallow.
 */
#include "config.h"

#include <dsm/dsm.h>

#include "paths.h"
#include "util.h"

#include <errno.h>
#include <gio/gio.h>
#include <string.h>

enum {
    MAX_FILE_BYTES = 1 << 20,
    MIN_MEMORY_MB = 64, /* less than this no guest kernel unpacks its image */
    MAX_MEMORY_MB = 1 << 20,
    MAX_APPEND_BYTES = 1024, /* half of what both kernels take in all */
    MAX_FORWARDS = 16,
    MAX_HOST_BYTES = 253, /* of a name in DNS */
    /* libdsm's defaults, see <dsm/dsm.h> */
    LIBDSM_HEARTBEAT_MS = 2000,
    LIBDSM_PEER_TIMEOUT_MS = 30000,
};

struct group {
    char *name; /* as in the file: "machine", "node x86" */
    unsigned line;
    GHashTable *keys; /* key -> line as GUINT_TO_POINTER */
    GPtrArray *order; /* keys as they stand in the file */
};

struct parser {
    const char *path;
    GKeyFile *kf;
    GPtrArray *groups;
    GPtrArray *errors; /* of strings */
    struct machine_config *config;
};

static const char *const isa_names[] = { "x86_64", "aarch64", NULL };
static const char *const accel_names[] = { "auto", "tcg", "kvm", NULL };
static const char *const coherence_names[] = { "shared", "dsm", NULL };
static const char *const network_names[] = { "none", "user", NULL };
static const char *const locks_names[] = { "qspinlock", "ticket", "preemptable",
                                           NULL };
static const char *const tlb_shootdown_names[] = { "ipi", "paravirt", NULL };
static const char *const bool_names[] = { "false", "true", NULL };

const char *isa_name(enum isa isa)
{
    return isa_names[isa];
}

const char *accel_name(enum accel accel)
{
    return accel_names[accel];
}

const char *coherence_name(enum coherence coherence)
{
    return coherence_names[coherence];
}

const char *network_name(enum network network)
{
    return network_names[network];
}

const char *locks_name(enum locks locks)
{
    return locks_names[locks];
}

const char *tlb_shootdown_name(enum tlb_shootdown tlb_shootdown)
{
    return tlb_shootdown_names[tlb_shootdown];
}

bool config_name_is_valid(const char *name)
{
    size_t len = strlen(name);

    return len >= 1 && len <= CONFIG_MAX_NAME &&
           strspn(name, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "_-") == len;
}

static void G_GNUC_PRINTF(4, 5) add_error(struct parser *p, unsigned line,
                                          const char *key, const char *fmt, ...)
{
    GString *s = g_string_new(p->path);
    va_list ap;

    if (line) {
        g_string_append_printf(s, ":%u", line);
    }
    if (key) {
        g_string_append_printf(s, ":%s", key);
    }
    g_string_append(s, ": ");
    va_start(ap, fmt);
    g_string_append_vprintf(s, fmt, ap);
    va_end(ap);
    g_ptr_array_add(p->errors, g_string_free(s, FALSE));
}

/* ---- values: each parser fills its field or says what is allowed ---- */

/*
 * A value parser returns NULL, or what is allowed instead of @value, to be
 * freed. @dir: the folder of the configuration, for relative paths.
 */
typedef char *value_parser(const char *value, const char *dir, void *field);

static char *allowed_words(const char *const *words)
{
    g_autofree char *s = g_strjoinv(", ", (char **)words);
    char *comma = strrchr(s, ',');

    if (!comma) {
        return g_strdup_printf("allowed: %s", s);
    }
    *comma = '\0';
    return g_strdup_printf("allowed: %s or %s", s, comma + 2);
}

static char *parse_word(const char *value, const char *const *words, int *field)
{
    for (int i = 0; words[i]; i++) {
        if (strcmp(value, words[i]) == 0) {
            *field = i;
            return NULL;
        }
    }
    return allowed_words(words);
}

#define WORD_PARSER(fn, type, words)                                 \
    static char *fn(const char *value, const char *dir, void *field) \
    {                                                                \
        int i = 0;                                                   \
        char *allowed = parse_word(value, words, &i);                \
                                                                     \
        if (!allowed) {                                              \
            *(type *)field = (type)i;                                \
        }                                                            \
        return allowed;                                              \
    }

WORD_PARSER(value_isa, enum isa, isa_names)
WORD_PARSER(value_accel, enum accel, accel_names)
WORD_PARSER(value_coherence, enum coherence, coherence_names)
WORD_PARSER(value_network, enum network, network_names)
WORD_PARSER(value_locks, enum locks, locks_names)
WORD_PARSER(value_tlb_shootdown, enum tlb_shootdown, tlb_shootdown_names)
WORD_PARSER(value_bool, bool, bool_names)

static char *value_name(const char *value, const char *dir, void *field)
{
    if (!config_name_is_valid(value)) {
        return g_strdup_printf("allowed: 1 to %d letters, digits, '_' and '-'",
                               CONFIG_MAX_NAME);
    }
    g_free(*(char **)field);
    *(char **)field = g_strdup(value);
    return NULL;
}

static char *parse_number(const char *value, unsigned min, unsigned max,
                          const char *unit, void *field)
{
    uint64_t v;

    if (!parse_uint(value, min, max, &v)) {
        return g_strdup_printf("allowed: a whole number%s from %u to %u", unit,
                               min, max);
    }
    *(unsigned *)field = (unsigned)v;
    return NULL;
}

static char *value_cpus(const char *value, const char *dir, void *field)
{
    return parse_number(value, 1, CONFIG_MAX_CPUS, "", field);
}

static char *value_timeout(const char *value, const char *dir, void *field)
{
    return parse_number(value, 1, 3600, " of seconds", field);
}

static char *value_heartbeat(const char *value, const char *dir, void *field)
{
    return parse_number(value, 10, 300000, " of milliseconds", field);
}

static char *value_silence(const char *value, const char *dir, void *field)
{
    return parse_number(value, 10, 600000, " of milliseconds", field);
}

static char *value_memory(const char *value, const char *dir, void *field)
{
    const uint64_t mb = 1 << 20;
    uint64_t v;

    if (!parse_size(value, &v) || v % mb || v < MIN_MEMORY_MB * mb ||
        v > MAX_MEMORY_MB * mb) {
        return g_strdup("allowed: 64M to 1T in whole MiB, such as 512M or 2G");
    }
    *(uint64_t *)field = v;
    return NULL;
}

static char *value_path(const char *value, const char *dir, void *field)
{
    if (!*value) {
        return g_strdup("allowed: a path");
    }
    g_free(*(char **)field);
    *(char **)field = g_canonicalize_filename(value, dir);
    return NULL;
}

static char *value_append(const char *value, const char *dir, void *field)
{
    for (const char *c = value; *c; c++) {
        if ((unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7f) {
            return g_strdup("allowed: printable ASCII on one line");
        }
    }
    if (strlen(value) > MAX_APPEND_BYTES) {
        return g_strdup_printf("allowed: at most %d bytes", MAX_APPEND_BYTES);
    }
    g_free(*(char **)field);
    *(char **)field = g_strdup(value);
    return NULL;
}

static char *value_cpu_model(const char *value, const char *dir, void *field)
{
    if (!*value || strspn(value, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS
                          "_-.,=+") != strlen(value)) {
        return g_strdup("allowed: a CPU model of QEMU with its features, "
                        "such as max or qemu64,+ssse3");
    }
    g_free(*(char **)field);
    *(char **)field = g_strdup(value);
    return NULL;
}

static char *value_affinity(const char *value, const char *dir, void *field)
{
    GArray *cpus = parse_cpu_list(value, CONFIG_MAX_HOST_CPU);

    if (!cpus) {
        return g_strdup("allowed: host CPUs such as 0-3 or 0,2, none twice");
    }
    g_clear_pointer((GArray **)field, g_array_unref);
    *(GArray **)field = cpus;
    return NULL;
}

static char *value_forward(const char *value, const char *dir, void *field)
{
    g_autoptr(GArray) list = g_array_new(FALSE, FALSE, sizeof(struct forward));
    g_auto(GStrv) parts = g_strsplit(value, ",", -1);

    for (char **part = parts; *part; part++) {
        char *colon = strchr(*part, ':');
        uint64_t host, guest;

        if (colon) {
            *colon = '\0';
        }
        if (!colon || !parse_uint(g_strstrip(*part), 1, 65535, &host) ||
            !parse_uint(g_strstrip(colon + 1), 1, 65535, &guest)) {
            list->len = 0;
            break;
        }
        struct forward f = { (unsigned)host, (unsigned)guest };

        g_array_append_val(list, f);
    }
    if (list->len == 0 || list->len > MAX_FORWARDS) {
        return g_strdup_printf("allowed: 1 to %d pairs HOSTPORT:GUESTPORT, "
                               "such as 2222:22,8080:80",
                               MAX_FORWARDS);
    }
    g_array_unref(*(GArray **)field);
    *(GArray **)field = g_steal_pointer(&list);
    return NULL;
}

bool config_is_plain(const char *text)
{
    return *text && strspn(text, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS
                           "_-./:@%+,=") == strlen(text);
}

/* It becomes a word of a command line: it must not look like an option. */
static char *value_host(const char *value, const char *dir, void *field)
{
    if (!config_is_plain(value) || *value == '-' || strchr(value, '=') ||
        strlen(value) > MAX_HOST_BYTES) {
        return g_strdup_printf("allowed: what start-command calls a host, 1 "
                               "to %d letters, digits and _-./:@%%+, not "
                               "beginning with '-'",
                               MAX_HOST_BYTES);
    }
    *(char **)field = g_strdup(value);
    return NULL;
}

static bool mentions(char **words, const char *what)
{
    for (; *words; words++) {
        if (strstr(*words, what)) {
            return true;
        }
    }
    return false;
}

static char *value_start_command(const char *value, const char *dir, void *field)
{
    g_auto(GStrv) words = NULL;

    if (!g_shell_parse_argv(value, NULL, &words, NULL) ||
        strchr(words[0], '{') || !mentions(words, "{host}") ||
        !mentions(words, "{command}")) {
        return g_strdup("allowed: a command with the words {host} and "
                        "{command}, such as ssh {host} {command}");
    }
    *(char ***)field = g_steal_pointer(&words);
    return NULL;
}

static char *value_address(const char *value, const char *dir, void *field)
{
    g_autofree char *host = NULL;
    g_autoptr(GInetAddress) inet = NULL;
    const char *colon = strrchr(value, ':');
    uint64_t port;

    if (g_str_has_prefix(value, "tcp:") && colon > value + 4) {
        host = g_strndup(value + 4, colon - value - 4);
        if (host[0] == '[' && g_str_has_suffix(host, "]")) {
            host[strlen(host) - 1] = '\0';
            memmove(host, host + 1, strlen(host));
        }
        inet = g_inet_address_new_from_string(host);
    }
    if (!inet || g_inet_address_get_is_any(inet) ||
        g_inet_address_get_is_multicast(inet) ||
        !parse_uint(colon + 1, 1, 65535, &port)) {
        return g_strdup("allowed: tcp:HOST:PORT with a numeric address at "
                        "which the other nodes reach this one, such as "
                        "tcp:127.0.0.1:7001");
    }
    *(char **)field = g_strdup(value);
    return NULL;
}

/* ---- keys ---- */

struct key_spec {
    const char *name;
    value_parser *parse;
    size_t offset; /* of the field */
    bool required;
};

#define M(field) G_STRUCT_OFFSET(struct machine_config, field)
#define N(field) G_STRUCT_OFFSET(struct node_config, field)

static const struct key_spec machine_keys[] = {
    { "name", value_name, M(name) },
    { "coherence", value_coherence, M(coherence) },
    { "share", value_path, M(share) },
    { "share-readonly", value_bool, M(share_readonly) },
    { "boot-timeout", value_timeout, M(boot_timeout_s) },
    { "overcommit", value_bool, M(overcommit) },
    { "prefetch", value_bool, M(prefetch) },
    { "heartbeat-ms", value_heartbeat, M(heartbeat_ms) },
    { "peer-timeout-ms", value_silence, M(peer_timeout_ms) },
    { "key", value_path, M(key) },
    { "start-command", value_start_command, M(start_command) },
    { NULL }
};

static const struct key_spec node_keys[] = {
    { "isa", value_isa, N(isa), true },
    { "cpus", value_cpus, N(cpus) },
    { "memory", value_memory, N(memory_bytes) },
    { "accel", value_accel, N(accel) },
    { "cpu-model", value_cpu_model, N(cpu_model) },
    { "cpu-affinity", value_affinity, N(cpu_affinity) },
    { "locks", value_locks, N(locks) },
    { "tlb-shootdown", value_tlb_shootdown, N(tlb_shootdown) },
    { "kernel", value_path, N(kernel) },
    { "initrd", value_path, N(initrd) },
    { "append", value_append, N(append) },
    { "network", value_network, N(network) },
    { "forward", value_forward, N(forwards) },
    { "address", value_address, N(address) },
    { "host", value_host, N(host) },
    { NULL }
};

static const char *const *key_names(const struct key_spec *keys)
{
    GPtrArray *names = g_ptr_array_new();

    for (; keys->name; keys++) {
        g_ptr_array_add(names, (char *)keys->name);
    }
    g_ptr_array_add(names, NULL);
    return (const char *const *)g_ptr_array_free(names, FALSE);
}

const char *const *config_machine_keys(void)
{
    static const char *const *names;

    return names ? names : (names = key_names(machine_keys));
}

const char *const *config_node_keys(void)
{
    static const char *const *names;

    return names ? names : (names = key_names(node_keys));
}

/* ---- the scanner ---- */

static void group_free(gpointer data)
{
    struct group *g = data;

    g_hash_table_unref(g->keys);
    g_ptr_array_unref(g->order);
    g_free(g->name);
    g_free(g);
}

static struct group *find_group(struct parser *p, const char *name)
{
    for (unsigned i = 0; i < p->groups->len; i++) {
        struct group *g = p->groups->pdata[i];

        if (strcmp(g->name, name) == 0) {
            return g;
        }
    }
    return NULL;
}

static struct group *scan_group(struct parser *p, unsigned line,
                                const char *text)
{
    size_t len = strlen(text);
    struct group *g;

    if (text[len - 1] != ']') {
        add_error(p, line, NULL,
                  "found '%s'; a group is written [machine] "
                  "or [node NAME]",
                  text);
        return NULL;
    }
    g_autofree char *name = g_strndup(text + 1, len - 2);

    if ((g = find_group(p, name))) {
        add_error(p, line, NULL,
                  "found a second group [%s], the first is in line %u; every "
                  "group stands once",
                  name, g->line);
        return NULL;
    }
    g = g_new0(struct group, 1);
    g->name = g_steal_pointer(&name);
    g->line = line;
    g->keys = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g->order = g_ptr_array_new(); /* the strings belong to g->keys */
    g_ptr_array_add(p->groups, g);
    return g;
}

static void scan_key(struct parser *p, unsigned line, struct group *g,
                     const char *text)
{
    const char *eq = strchr(text, '=');
    unsigned first;

    if (!eq || eq == text) {
        add_error(p, line, NULL,
                  "found '%s'; allowed: [group], key=value, or # comment", text);
        return;
    }
    g_autofree char *key = g_strchomp(g_strndup(text, (gsize)(eq - text)));

    first = GPOINTER_TO_UINT(g_hash_table_lookup(g->keys, key));
    if (first) {
        add_error(p, line, key,
                  "found a second time, the first is in line %u; every key "
                  "stands once in its group",
                  first);
        return;
    }
    g_ptr_array_add(g->order, key);
    g_hash_table_insert(p->config->lines,
                        g_strdup_printf("%s\n%s", g->name, key),
                        GUINT_TO_POINTER(line));
    g_hash_table_insert(g->keys, g_steal_pointer(&key), GUINT_TO_POINTER(line));
}

static void scan(struct parser *p, const char *text, gsize len)
{
    g_autofree char *terminated = g_strndup(text, len);
    g_auto(GStrv) lines = g_strsplit(terminated, "\n", -1);
    struct group *current = NULL;
    bool in_bad_group = false;

    for (unsigned i = 0; lines[i]; i++) {
        char *s = g_strstrip(lines[i]);

        if (*s == '\0' || *s == '#') {
            continue;
        }
        if (*s == '[') {
            current = scan_group(p, i + 1, s);
            in_bad_group = !current;
        } else if (current) {
            scan_key(p, i + 1, current, s);
        } else if (!in_bad_group) {
            add_error(p, i + 1, NULL,
                      "found '%s' before the first group; begin with "
                      "[machine] or [node NAME]",
                      s);
            in_bad_group = true; /* once is enough */
        }
    }
}

/* ---- from groups to the configuration ---- */

static void parse_value(struct parser *p, const struct group *g,
                        const struct key_spec *spec, void *object)
{
    unsigned line = GPOINTER_TO_UINT(g_hash_table_lookup(g->keys, spec->name));
    g_autoptr(GError) error = NULL;
    g_autofree char *dir = g_path_get_dirname(p->config->path);
    g_autofree char *value =
        g_key_file_get_string(p->kf, g->name, spec->name, &error);

    if (error) {
        g_autofree char *raw =
            g_key_file_get_value(p->kf, g->name, spec->name, NULL);

        add_error(p, line, spec->name,
                  "found '%s'; allowed after a backslash: "
                  "s, n, t, r or another backslash",
                  raw);
        return;
    }
    g_strchomp(value);

    g_autofree char *allowed =
        spec->parse(value, dir, G_STRUCT_MEMBER_P(object, spec->offset));

    if (allowed) {
        g_autofree char *shown = printable_line(value, -1);

        add_error(p, line, spec->name, "found '%s'; %s%s", shown, allowed,
                  strchr(value, '#') ? " (a comment needs its own line)" : "");
    }
}

static void parse_group(struct parser *p, const struct group *g,
                        const struct key_spec *keys, const char *const *names,
                        void *object)
{
    for (unsigned i = 0; i < g->order->len; i++) {
        const char *key = g->order->pdata[i];

        if (!g_strv_contains(names, key)) {
            const char *near = did_you_mean(key, names);
            g_autofree char *all = g_strjoinv(", ", (char **)names);
            g_autofree char *hint =
                near ? g_strdup_printf("did you mean '%s'?", near)
                     : g_strdup_printf("allowed in [%s]: %s", g->name, all);

            add_error(p, GPOINTER_TO_UINT(g_hash_table_lookup(g->keys, key)),
                      key, "unknown key; %s", hint);
        }
    }
    for (; keys->name; keys++) {
        if (g_hash_table_contains(g->keys, keys->name)) {
            parse_value(p, g, keys, object);
        } else if (keys->required) {
            char *allowed = keys->parse("", "/", NULL);

            add_error(p, g->line, keys->name, "missing in [%s]; %s", g->name,
                      allowed);
            g_free(allowed);
        }
    }
}

static void node_free(gpointer data)
{
    struct node_config *n = data;

    g_free(n->name);
    g_free(n->cpu_model);
    g_clear_pointer(&n->cpu_affinity, g_array_unref);
    g_free(n->kernel);
    g_free(n->initrd);
    g_free(n->append);
    g_free(n->address);
    g_free(n->host);
    g_array_unref(n->forwards);
    g_free(n);
}

static void parse_node(struct parser *p, const struct group *g)
{
    g_autofree char *name = g_strdup(g->name + strlen("node"));
    struct node_config *n = g_new0(struct node_config, 1);
    uint64_t number;

    n->cpus = 1;
    n->memory_bytes = 512 << 20;
    n->append = g_strdup("");
    n->forwards = g_array_new(FALSE, FALSE, sizeof(struct forward));
    n->name = g_strdup(g_strstrip(name));
    for (unsigned i = 0; i < p->config->nodes->len; i++) {
        if (strcmp(config_node(p->config, i)->name, name) == 0) {
            add_error(p, g->line, NULL,
                      "found a second node '%s'; every node "
                      "has a name of its own",
                      name);
        }
    }
    g_ptr_array_add(p->config->nodes, n);

    if (!config_name_is_valid(name)) {
        add_error(p, g->line, NULL,
                  "found node name '%s'; allowed: 1 to %d letters, digits, "
                  "'_' and '-'",
                  name, CONFIG_MAX_NAME);
    } else if (parse_uint(name, 0, UINT64_MAX, &number)) {
        add_error(p, g->line, NULL,
                  "found node name '%s'; a name of digits only would be taken "
                  "for a node's index",
                  name);
    }
    parse_group(p, g, node_keys, config_node_keys(), n);
    if (n->forwards->len > 0 && n->network != NETWORK_USER) {
        add_error(p, GPOINTER_TO_UINT(g_hash_table_lookup(g->keys, "forward")),
                  "forward",
                  "found without a network; it needs network=user "
                  "in [%s]",
                  g->name);
    }
    if (n->tlb_shootdown == TLB_SHOOTDOWN_PARAVIRT && n->isa != ISA_X86_64) {
        add_error(p,
                  GPOINTER_TO_UINT(
                      g_hash_table_lookup(g->keys, "tlb-shootdown")),
                  "tlb-shootdown",
                  "found paravirt; allowed: ipi, for %s processors flush each "
                  "other's TLBs by themselves",
                  isa_name(n->isa));
    }
    if (n->kernel && g_hash_table_contains(g->keys, "locks")) {
        add_error(p, GPOINTER_TO_UINT(g_hash_table_lookup(g->keys, "locks")),
                  "locks",
                  "found together with kernel, which has the locks that it "
                  "was built with; one of them must go");
    }
    if (!n->kernel) {
        g_autofree char *file =
            n->locks == LOCKS_QSPINLOCK
                ? g_strdup("kernel")
                : g_strdup_printf("kernel-%s", locks_name(n->locks));

        n->kernel = g_build_filename(prefix_dir(), "images", isa_name(n->isa),
                                     file, NULL);
    }
    if (!n->initrd) {
        n->initrd = g_build_filename(prefix_dir(), "images", isa_name(n->isa),
                                     "initramfs.cpio.gz", NULL);
    }
}

/* The line of a key, 0 where it is not given. @node: NULL for [machine] */
static unsigned line_of(struct parser *p, const struct node_config *node,
                        const char *key)
{
    g_autofree char *name =
        node ? g_strdup_printf("node %s", node->name) : g_strdup("machine");
    const struct group *g = find_group(p, name);

    return g ? GPOINTER_TO_UINT(g_hash_table_lookup(g->keys, key)) : 0;
}

/* Every host of the machine is another for it. */
static void check_hosts(struct parser *p)
{
    const struct machine_config *c = p->config;
    const struct node_config *elsewhere = NULL; /* than the first */
    bool any = false;

    for (unsigned i = 0; i < c->nodes->len; i++) {
        const struct node_config *n = config_node(c, i);

        if (g_strcmp0(n->host, config_node(c, 0)->host) != 0) {
            elsewhere = n;
        }
        any |= n->host != NULL;
        if (n->host && !c->start_command) {
            add_error(p, line_of(p, n, "host"), "host",
                      "found without start-command in [machine], which says "
                      "how a program is started there");
        }
        if (n->host && c->coherence != COHERENCE_DSM) {
            add_error(p, line_of(p, n, "host"), "host",
                      "found with coherence=shared, whose nodes share one "
                      "host's memory; it needs coherence=dsm");
        }
    }
    if (c->start_command && !any) {
        add_error(p, line_of(p, NULL, "start-command"), "start-command",
                  "found, but no node has a host");
    }
    for (unsigned i = 0; any && i < c->nodes->len; i++) {
        const struct node_config *n = config_node(c, i);

        if (!n->address) {
            add_error(p, line_of(p, n, "host"), "address",
                      "missing in [node %s]; nodes of a machine with hosts "
                      "find each other by tcp",
                      n->name);
        } else if (elsewhere && !dsm_address_needs_key(n->address)) {
            add_error(p, line_of(p, n, "address"), "address",
                      "found %s, which means another host's own loopback to "
                      "node %s",
                      n->address,
                      n == elsewhere ? config_node(c, 0)->name
                                     : elsewhere->name);
        }
    }
}

static void check_address(struct parser *p, unsigned i)
{
    const struct machine_config *c = p->config;
    const struct node_config *n = config_node(c, i);
    unsigned line = line_of(p, n, "address");

    if (dsm_address_needs_key(n->address) && !c->key) {
        add_error(p, line, "address",
                  "found %s, which is not on the host's loopback; links that "
                  "others can reach need key in [machine]",
                  n->address);
    }
    if (c->coherence != COHERENCE_DSM) {
        add_error(p, line, "address",
                  "found with coherence=shared, whose nodes pass each other "
                  "memory through unix sockets; it needs coherence=dsm");
    }
    for (unsigned j = 0; j < i; j++) {
        if (g_strcmp0(n->address, config_node(c, j)->address) == 0) {
            add_error(p, line, "address",
                      "found %s, where node %s listens; every node has an "
                      "address of its own",
                      n->address, config_node(c, j)->name);
        }
    }
}

/* A node that is to test a link needs time for the answer. */
static void check_timeouts(struct parser *p, const struct group *machine)
{
    const struct machine_config *c = p->config;
    unsigned heartbeat_ms =
        c->heartbeat_ms ? c->heartbeat_ms : LIBDSM_HEARTBEAT_MS;
    unsigned silence_ms =
        c->peer_timeout_ms ? c->peer_timeout_ms : LIBDSM_PEER_TIMEOUT_MS;
    const char *key = c->peer_timeout_ms ? "peer-timeout-ms" : "heartbeat-ms";

    if (silence_ms / 2 < heartbeat_ms) {
        add_error(p, line_of(p, NULL, key), key,
                  "peer-timeout-ms is %u, heartbeat-ms %u; the former must be "
                  "at least twice as much",
                  silence_ms, heartbeat_ms);
    }
}

static void check_machine(struct parser *p)
{
    struct machine_config *c = p->config;
    const struct group *machine = find_group(p, "machine");
    g_autoptr(GHashTable) ports = g_hash_table_new(NULL, NULL);

    if (!c->name) {
        g_autofree char *base = g_path_get_basename(c->path);

        if (g_str_has_suffix(base, ".conf")) {
            base[strlen(base) - strlen(".conf")] = '\0';
        }
        if (!config_name_is_valid(base)) {
            add_error(p, machine ? machine->line : 0, "name",
                      "missing, and the file's name '%s' is none; allowed: 1 "
                      "to %d letters, digits, '_' and '-'",
                      base, CONFIG_MAX_NAME);
        }
        c->name = g_steal_pointer(&base);
    }
    if (!c->share) {
        c->share = g_get_current_dir();
    }
    check_timeouts(p, machine);
    if (c->key && c->coherence != COHERENCE_DSM) {
        add_error(p, line_of(p, NULL, "key"), "key",
                  "found with coherence=shared, whose links do not leave the "
                  "host; it needs coherence=dsm");
    }
    check_hosts(p);
    if (c->nodes->len == 0) {
        add_error(p, 0, NULL,
                  "found no [node NAME] group; a machine has 1 to "
                  "%d nodes",
                  CONFIG_MAX_NODES);
    } else if (c->nodes->len > CONFIG_MAX_NODES) {
        add_error(p, 0, NULL, "found %u nodes; a machine has 1 to %d nodes",
                  c->nodes->len, CONFIG_MAX_NODES);
    }
    for (unsigned i = 0; i < c->nodes->len; i++) {
        const struct node_config *n = config_node(c, i);

        if (n->address) {
            check_address(p, i);
        }
        for (unsigned j = 0; j < n->forwards->len; j++) {
            unsigned port =
                g_array_index(n->forwards, struct forward, j).host_port;

            if (!g_hash_table_add(ports, GUINT_TO_POINTER(port))) {
                g_autofree char *name = g_strdup_printf("node %s", n->name);
                const struct group *g = find_group(p, name);

                add_error(
                    p,
                    g ? GPOINTER_TO_UINT(g_hash_table_lookup(g->keys, "forward"))
                      : 0,
                    "forward",
                    "found host port %u a second time; every "
                    "host port is forwarded once",
                    port);
            }
        }
    }
}

static void parse_groups(struct parser *p)
{
    for (unsigned i = 0; i < p->groups->len; i++) {
        struct group *g = p->groups->pdata[i];

        if (strcmp(g->name, "machine") == 0) {
            parse_group(p, g, machine_keys, config_machine_keys(), p->config);
        } else if (g_str_has_prefix(g->name, "node ")) {
            parse_node(p, g);
        } else if (strcmp(g->name, "node") == 0) {
            add_error(p, g->line, NULL,
                      "found [node] without a name; allowed: [node NAME]");
        } else {
            add_error(p, g->line, NULL,
                      "unknown group [%s]; allowed: "
                      "[machine] and [node NAME]",
                      g->name);
        }
    }
}

struct machine_config *config_parse(const char *path, const char *text,
                                    gsize len, GError **error)
{
    g_autoptr(GPtrArray) errors = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) groups = g_ptr_array_new_with_free_func(group_free);
    g_autoptr(GKeyFile) kf = g_key_file_new();
    g_autoptr(GError) kf_error = NULL;
    struct machine_config *c = g_new0(struct machine_config, 1);
    struct parser p = { path, kf, groups, errors, c };
    const char *bad;

    c->path = g_canonicalize_filename(path, NULL);
    c->text = g_strndup(text, len);
    c->nodes = g_ptr_array_new_with_free_func(node_free);
    c->lines = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    c->boot_timeout_s = 60;
    c->prefetch = true;

    if (!g_utf8_validate(text, (gssize)len, &bad)) {
        unsigned line = 1;

        for (const char *s = text; s < bad; s++) {
            line += *s == '\n';
        }
        add_error(&p, line, NULL, "found a byte that is not UTF-8 text (0x%02x)",
                  (unsigned char)*bad);
    } else {
        scan(&p, text, len);
    }
    if (errors->len == 0) {
        if (!g_key_file_load_from_data(kf, text, len, G_KEY_FILE_NONE,
                                       &kf_error)) {
            add_error(&p, 0, NULL, "%s", kf_error->message);
        } else {
            parse_groups(&p);
            check_machine(&p);
        }
    }
    if (errors->len > 0) {
        g_ptr_array_add(errors, NULL);
        g_autofree char *all = g_strjoinv("\n", (char **)errors->pdata);

        g_set_error_literal(error, CHIMERA_ERROR, CHIMERA_ERROR_CONFIG, all);
        config_free(c);
        return NULL;
    }
    return c;
}

struct machine_config *config_load(const char *path, GError **error)
{
    g_autofree char *text = NULL;
    g_autoptr(GError) read_error = NULL;
    gsize len;

    if (g_file_test(path, G_FILE_TEST_IS_DIR)) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_CONFIG,
                    "%s: found a directory; a machine configuration is a file",
                    path);
        return NULL;
    }
    if (!g_file_get_contents(path, &text, &len, &read_error)) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_CONFIG,
                    "%s: cannot read the configuration: %s", path,
                    g_strerror(errno));
        return NULL;
    }
    if (len > MAX_FILE_BYTES) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_CONFIG,
                    "%s: found %zu bytes; a configuration has at most %d", path,
                    len, MAX_FILE_BYTES);
        return NULL;
    }
    return config_parse(path, text, len, error);
}

void config_free(struct machine_config *c)
{
    if (c) {
        g_free(c->path);
        g_free(c->text);
        g_free(c->name);
        g_free(c->share);
        g_free(c->key);
        g_strfreev(c->start_command);
        g_ptr_array_unref(c->nodes);
        g_hash_table_unref(c->lines);
        g_free(c);
    }
}

char *config_where(const struct machine_config *c,
                   const struct node_config *node, const char *key)
{
    g_autofree char *id = node ? g_strdup_printf("node %s\n%s", node->name, key)
                               : g_strdup_printf("machine\n%s", key);
    unsigned line = GPOINTER_TO_UINT(g_hash_table_lookup(c->lines, id));

    if (line) {
        return g_strdup_printf("%s:%u:%s", c->path, line, key);
    }
    return node ? g_strdup_printf("%s:[node %s]:%s", c->path, node->name, key)
                : g_strdup_printf("%s:%s", c->path, key);
}

char **config_start_argv(const struct machine_config *c, const char *host,
                         const char *const *command)
{
    GPtrArray *argv = g_ptr_array_new();
    g_autofree char *joined = g_strjoinv(" ", (char **)command);

    g_assert(config_is_plain(host));
    for (unsigned i = 0; command[i]; i++) {
        g_assert(config_is_plain(command[i]));
    }
    for (char **word = c->start_command; *word; word++) {
        GString *s = g_string_new(*word);

        if (strcmp(*word, "{command}") == 0) {
            for (unsigned i = 0; command[i]; i++) {
                g_ptr_array_add(argv, g_strdup(command[i]));
            }
            g_string_free(s, TRUE);
            continue;
        }
        g_string_replace(s, "{host}", host, 0);
        g_string_replace(s, "{command}", joined, 0);
        g_ptr_array_add(argv, g_string_free(s, FALSE));
    }
    g_ptr_array_add(argv, NULL);
    return (char **)g_ptr_array_free(argv, FALSE);
}

char *config_find(const char *arg, GError **error)
{
    if (!strchr(arg, '/') && !g_file_test(arg, G_FILE_TEST_EXISTS)) {
        g_autofree char *base = g_str_has_suffix(arg, ".conf")
                                    ? g_strdup(arg)
                                    : g_strconcat(arg, ".conf", NULL);
        g_autofree char *path =
            g_build_filename(prefix_dir(), "share/chimera/machines", base, NULL);

        if (g_file_test(path, G_FILE_TEST_EXISTS)) {
            return g_steal_pointer(&path);
        }
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_CONFIG,
                    "%s: no such configuration, neither here nor as %s", arg,
                    path);
        return NULL;
    }
    return g_strdup(arg);
}
