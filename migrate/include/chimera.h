/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Moving between the nodes of a Chimera machine, for programs compiled with
 * chimera-cc.
 *
 * A thread moves at migration points: a call of chimera_migrate() or
 * chimera_point(), and where the compiler put polls (-fmigrate=entry, loops).
 */
#ifndef CHIMERA_H
#define CHIMERA_H

#ifdef __cplusplus
extern "C" {
#endif

/** chimera_nodes() - the number of nodes of the machine, 1 outside of one */
int chimera_nodes(void);

/** chimera_here() - the node on which the calling thread runs, 0 to nodes - 1 */
int chimera_here(void);

/** chimera_hops() - how often the calling thread has moved */
unsigned long chimera_hops(void);

/**
 * chimera_request() - ask for the calling thread to move at its next point.
 * Return: 0; -EINVAL if there is no such node.
 */
int chimera_request(int node);

/* The compiler replaces this by the code that moves the thread. */
void __chimera_point(void);

/** chimera_point() - a migration point: moves if that was asked for */
static inline void chimera_point(void)
{
    __chimera_point();
}

/**
 * chimera_migrate() - move the calling thread to @node.
 *
 * Functions between here and the first that is native (chimera-cc --explain)
 * go along, up to the segment length; the thread returns home when the last of
 * them returns, and moves again at its next point.  A negative @node ends the
 * request.
 *
 * Return: 0 if it is there now; -EINVAL no such node; -EAGAIN it stayed, since
 * the calling function is native.
 */
static inline int chimera_migrate(int node)
{
    int error = chimera_request(node);

    if (error) {
        return error;
    }
    __chimera_point();
    return node < 0 || chimera_here() == node ? 0 : -11;
}

#ifdef __cplusplus
}
#endif

#endif
