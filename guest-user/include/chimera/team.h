/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A team: one program running as one process on each of several nodes, all of
 * them with the same segment mapped. The process that the user started is the
 * leader; it makes the segment, prepares its contents and starts itself again
 * on the other nodes (through onnode), with the same arguments. A member that
 * is started so finds the segment by an environment variable.
 *
 * For development and tests a team can also be made of local processes over a
 * memory file, each started by a shell command, such as
 * "qemu-aarch64 build/libexec/chimera/guest/aarch64/wordcount".
 *
 *   leader: create -> fill memory -> start -> work -> wait -> free
 *   member: join -> work -> free
 */
#ifndef CHIMERA_TEAM_H
#define CHIMERA_TEAM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CHIMERA_TEAM_MAX 64
#define CHIMERA_LINE_BYTES 128 /* no two ISAs' cache lines are longer */

struct chimera_team_member {
    char name[32]; /* the node's, or "localN" */
    char arch[16];
    unsigned cpus;
    unsigned node;
    const char *command; /* local members but the first */
    pid_t pid;           /* of the onnode or shell that runs it; 0: not ours */
};

struct chimera_team {
    unsigned self; /* 0: the leader */
    unsigned nr;   /* processes */
    void *mem;     /* the program's part of the segment, on a page's border */
    size_t size;
    struct chimera_team_member *members; /* of the leader */
    void *shared;                        /* the team's own page, before mem */
    char error[256];                     /* what went wrong, for a person */
    char segment[64];
    int fd;
};

/** chimera_team_is_member() - whether a leader has started this process. */
bool chimera_team_is_member(void);

/**
 * chimera_team_create() - be the leader.
 * @nodes: "all", or names and indexes with commas; the leader's own node need
 * not be among them and always comes first. NULL: local members only.
 * @commands, @nr_commands: the local members besides the leader.
 * @size: bytes of mem, which start as zeroes.
 * Return: 0; a negative errno, then team->error says more.
 */
int chimera_team_create(struct chimera_team *team, const char *nodes,
                        char *const *commands, unsigned nr_commands,
                        size_t size);

/** chimera_team_start() - start this program with argv on the other nodes. */
int chimera_team_start(struct chimera_team *team, char *const *argv);

/** chimera_team_join() - be a member. Return: as chimera_team_create(). */
int chimera_team_join(struct chimera_team *team);

/**
 * chimera_team_wait() - the leader: until all members have ended.
 * Return: 0 all with status 0; -ECHILD, then team->error says which.
 */
int chimera_team_wait(struct chimera_team *team);

/** chimera_team_free() - unmap; the leader's segment goes when all have. */
void chimera_team_free(struct chimera_team *team);

/**
 * chimera_team_failed() - whether some process of the team gave up. To be
 * asked in every loop that waits for the others: they may never come.
 */
bool chimera_team_failed(const struct chimera_team *team);
void chimera_team_fail(const struct chimera_team *team);

/**
 * chimera_team_pause() - for loops that spin on memory of the team: give way,
 * after a while also to others on the host.
 * @spins: how often the loop has gone round.
 * Return: false if the team failed.
 */
bool chimera_team_pause(const struct chimera_team *team, unsigned spins);

/** A meeting point in shared memory; zeroes are a new one. */
struct chimera_barrier {
    _Atomic uint32_t arrived;
    _Atomic uint32_t round;
};

/**
 * chimera_barrier_wait() - spin until @parties threads have come.
 * Return: false if the team failed meanwhile.
 */
bool chimera_barrier_wait(const struct chimera_team *team,
                          struct chimera_barrier *barrier, unsigned parties);

#ifdef __cplusplus
}
#endif

#endif /* CHIMERA_TEAM_H */
