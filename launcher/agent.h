/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The supervisor's end of the agent protocol (chimera/agent-proto.h): one
 * connection to a node's agent with many sessions on it.
 *
 * What a guest sends is not trusted: a session that breaks its window or
 * sends frames out of order is ended with an error; a broken frame boundary
 * ends all sessions and starts over with AGENT_RESET.
 */
#ifndef CHIMERA_AGENT_H
#define CHIMERA_AGENT_H

#include <chimera/agent-proto.h>
#include <glib.h>
#include <stdbool.h>

struct agent;
struct agent_session;

struct agent_ops {
    /* The agent answered; sessions can start. Again after each restart. */
    void (*hello)(struct agent *agent, const char *system, void *opaque);
    /* It sees @up of @total nodes; 0 of 0 without a fabric device. */
    void (*machine)(struct agent *agent, uint32_t up, uint32_t total,
                    void *opaque);
    /* The agent broke the protocol or restarted; all sessions were ended. */
    void (*trouble)(struct agent *agent, const char *what, void *opaque);
    /*
     * The connection is over. Last call but for the ends of sessions, which
     * agent_free() brings: so the owner can find out first why it is over.
     */
    void (*closed)(struct agent *agent, const GError *error, void *opaque);
};

/* exit() or failed() is a session's last callback; it is freed after it. */
struct agent_session_ops {
    void (*started)(struct agent_session *s, uint32_t pid, void *opaque);
    /* @len 0: end of that stream. What is taken must be granted again. */
    void (*data)(struct agent_session *s, unsigned stream, const uint8_t *data,
                 gsize len, void *opaque);
    /* The program read that much of its stdin. */
    void (*grant)(struct agent_session *s, uint32_t bytes, void *opaque);
    /* As in AGENT_EXIT. @text: one line, for kind 2. */
    void (*exit)(struct agent_session *s, uint32_t kind, uint32_t value,
                 const char *text, void *opaque);
    void (*failed)(struct agent_session *s, const char *why, void *opaque);
};

/* Takes over @fd; sends AGENT_RESET, which QEMU keeps until the port opens. */
struct agent *agent_new(int fd, const struct agent_ops *ops, void *opaque);
void agent_free(struct agent *agent);
/* As conn_drain(). */
void agent_drain(struct agent *agent);
bool agent_is_ready(const struct agent *agent);

/*
 * The port was opened or closed inside the guest (VSERPORT_CHANGE). At the
 * first opening there is nothing to do; at a later one the agent is new.
 */
void agent_port_changed(struct agent *agent, bool open);

void agent_poweroff(struct agent *agent);

/* @strings: as AGENT_EXEC wants them, at most AGENT_MAX_PAYLOAD bytes. */
struct agent_session *agent_exec(struct agent *agent, const void *strings,
                                 gsize len, const struct agent_session_ops *ops,
                                 void *opaque);

/*
 * Data for stdin; @len 0 ends it. false when it exceeds what was granted
 * (nothing is sent).
 */
bool agent_session_write(struct agent_session *s, const uint8_t *data,
                         gsize len);
/* false when it would grant more than a window holds. */
bool agent_session_grant(struct agent_session *s, unsigned stream,
                         uint32_t bytes);
void agent_session_signal(struct agent_session *s, uint32_t signal);
void agent_session_winsize(struct agent_session *s, uint16_t rows,
                           uint16_t cols);

/*
 * Nobody is interested any more: no callbacks from now on. The program gets
 * SIGHUP and, if it is still there two seconds later, SIGKILL.
 */
void agent_session_abandon(struct agent_session *s);

#endif
