/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Machine configurations: isa-configs/SCHEMA.md describes the format, the
 * tables in config.c are its code. Parsing looks at the file only; what the
 * host must offer for it is preflight.h's.
 */
#ifndef CHIMERA_CONFIG_H
#define CHIMERA_CONFIG_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define CONFIG_MAX_NODES 64 /* VIRTIO_FABRIC_MAX_NODES */
#define CONFIG_MAX_CPUS 8 /* per node */
#define CONFIG_MAX_NAME 31 /* DSM_NAME_BYTES less its NUL */
#define CONFIG_MAX_HOST_CPU 4095 /* highest number in cpu-affinity */

enum isa { ISA_X86_64, ISA_AARCH64 };
enum accel { ACCEL_AUTO, ACCEL_TCG, ACCEL_KVM };
enum coherence { COHERENCE_SHARED, COHERENCE_DSM };
enum network { NETWORK_NONE, NETWORK_USER };
enum locks { LOCKS_QSPINLOCK, LOCKS_TICKET, LOCKS_PREEMPTABLE };
enum tlb_shootdown { TLB_SHOOTDOWN_IPI, TLB_SHOOTDOWN_PARAVIRT };

struct forward {
    unsigned host_port, guest_port; /* TCP, on the host's loopback */
};

struct node_config {
    char *name;
    enum isa isa;
    unsigned cpus;
    uint64_t memory_bytes;
    enum accel accel;
    char *cpu_model; /* NULL: the launcher's choice */
    enum locks locks;
    enum tlb_shootdown tlb_shootdown;
    GArray *cpu_affinity; /* of unsigned, sorted; NULL: anywhere */
    char *kernel, *initrd;
    char *append; /* "" when not given */
    enum network network;
    GArray *forwards; /* of struct forward; may be empty */
    char *address; /* where it listens, as libdsm has it; NULL: unix socket */
    char *host; /* for start_command; NULL: this host */
};

struct machine_config {
    char *path; /* of the file, absolute */
    char *text; /* all of it */
    char *name;
    enum coherence coherence;
    char *share; /* host folder, absolute */
    bool share_readonly;
    bool overcommit;
    bool prefetch;
    unsigned boot_timeout_s;
    unsigned heartbeat_ms, peer_timeout_ms; /* 0: libdsm's default */
    char *key; /* file of the links' key, absolute; NULL: none */
    char **start_command; /* starts a program on a host; NULL: none */
    GPtrArray *nodes; /* of struct node_config */
    GHashTable *lines; /* "group\nkey" -> line, for later messages */
};

/*
 * Reads a configuration. On failure the message has one line for each thing
 * that is wrong, "file:line:key: what was found; what is allowed".
 */
struct machine_config *config_load(const char *path, GError **error);

/* The same for text; @path names it in messages. */
struct machine_config *config_parse(const char *path, const char *text,
                                    gsize len, GError **error);

void config_free(struct machine_config *config);
typedef struct machine_config MachineConfig;
G_DEFINE_AUTOPTR_CLEANUP_FUNC(MachineConfig, config_free)

/*
 * The file that a CONF argument means: the path itself, or the machine of
 * that name in PREFIX/share/chimera/machines.
 */
char *config_find(const char *arg, GError **error);

/*
 * "file:line:key" for a message about a value; "file:key" when it is a
 * default. @node: NULL for [machine].
 */
char *config_where(const struct machine_config *config,
                   const struct node_config *node, const char *key);

const char *isa_name(enum isa isa);
const char *accel_name(enum accel accel);
const char *coherence_name(enum coherence coherence);
const char *network_name(enum network network);
const char *locks_name(enum locks locks);
const char *tlb_shootdown_name(enum tlb_shootdown tlb_shootdown);

bool config_name_is_valid(const char *name);

/*
 * The command that runs @command on @host: in each word of start-command
 * "{host}" is replaced; a word "{command}" by the words of @command, and
 * inside of a word by all of them. Nothing in there means anything to a
 * shell, however many there are on the way.
 */
char **config_start_argv(const struct machine_config *config, const char *host,
                         const char *const *command);

/* Does @text mean itself to a shell, and to who splits words? */
bool config_is_plain(const char *text);

static inline struct node_config *config_node(const struct machine_config *c,
                                              unsigned i)
{
    return c->nodes->pdata[i];
}

/* For the test that compares SCHEMA.md with the tables; NULL-terminated. */
const char *const *config_machine_keys(void);
const char *const *config_node_keys(void);

#endif
