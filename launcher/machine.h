/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A running machine inside its supervisor: the QEMUs, their monitors, agents
 * and consoles. Everything runs on one main loop; nothing here blocks.
 *
 *   node:     STARTING --QEMU's monitor--> BOOTING --agent, whole--> UP
 *             any --QEMU ends--> DOWN (with a reason; never left)
 *   machine:  BOOTING --all nodes UP--> RUNNING
 *             BOOTING --a node goes DOWN, or the time is over--> STOPPING
 *             any --machine_stop()--> STOPPING --no QEMU left--> loop ends
 */
#ifndef CHIMERA_MACHINE_H
#define CHIMERA_MACHINE_H

#include "agent.h"
#include "config.h"
#include "conn.h"
#include "guard.h"
#include "preflight.h"
#include "qmp.h"

#include <json-glib/json-glib.h>

enum node_state { NODE_STARTING, NODE_BOOTING, NODE_UP, NODE_DOWN };
enum machine_state { MACHINE_BOOTING, MACHINE_RUNNING, MACHINE_STOPPING };

struct node {
    struct machine *machine;
    const struct node_config *config;
    const struct accel_choice *accel;
    unsigned index;
    enum node_state state;
    char *reason; /* of DOWN, or what peers say about it; "" */
    char *system; /* uname -srm of its kernel; NULL until known */
    char *shutdown; /* why QEMU said it would end; NULL */
    char *given_up; /* which node gave it up, and why; then we end it; NULL */
    pid_t pid;
    int pidfd;
    guint pid_source;
    struct qmp *qmp;
    struct agent *agent;
    guint agent_timer; /* its connection ended, QEMU should follow */
    struct conn *console;
    struct conn *key_ids; /* says key_id, of a node on another host */
    char *key_id; /* preflight_key_id() there; NULL: no key, or not known */
    int log_fd; /* console-N.log, -1: it cannot be written */
    uint64_t log_bytes;
    bool whole; /* its guest sees all nodes */
    gint64 start_us, qmp_us, agent_us, up_us; /* monotonic; 0: not yet */
};

struct machine {
    const struct machine_config *config;
    const struct accel_choice *accels;
    struct rundir *rd;
    struct guard *guard;
    GMainLoop *loop;
    enum machine_state state;
    char *uuid;
    gint64 start_us, up_us;
    bool echo_floor;
    struct node *nodes;
    unsigned nr_nodes, nr_alive; /* alive: QEMUs not reaped yet */
    int echo_pidfd;
    guint boot_timer, stop_timer;
    char *boot_error; /* why it stopped before it was RUNNING; NULL */

    /* Set by control.c before machine_start(). */
    void (*on_progress)(struct machine *m, struct node *n, const char *event);
    void (*on_ready)(struct machine *m);
    void (*on_node_down)(struct machine *m, struct node *n);
    void (*on_console)(struct machine *m, struct node *n, const uint8_t *data,
                       gsize len);
    void *opaque;
};

/* Starts all nodes. false: nothing can run; the caller ends everything. */
bool machine_start(struct machine *m, GError **error);

/*
 * Ends all nodes, then m->loop. @at_once: no power-off of the guests, the
 * guard's SIGKILL. May be called again to hurry.
 */
void machine_stop(struct machine *m, bool at_once);

/* After the loop: closes what is left. Processes are the guard's. */
void machine_clear(struct machine *m);

/* What "status --json" shows of this machine. */
JsonNode *machine_status(const struct machine *m);

/* A line in supervisor.log. */
void machine_log(const struct machine *m, const char *fmt, ...)
    G_GNUC_PRINTF(2, 3);

const char *node_state_name(enum node_state state);
const char *machine_state_name(enum machine_state state);

#endif
