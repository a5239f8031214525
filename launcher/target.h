/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a MACHINE or NODE argument means among the machines that run. */
#ifndef CHIMERA_TARGET_H
#define CHIMERA_TARGET_H

#include <json-glib/json-glib.h>
#include <stdbool.h>

/*
 * MACHINE: a name, or the configuration file of one. NULL: the only machine
 * that runs.
 */
char *target_machine(const char *arg, GError **error);

struct target_node {
    char *machine, *name, *share;
    unsigned index;
};

/*
 * NODE: a node's name or index, or MACHINE/NODE when several machines run.
 * An error lists what there is.
 */
bool target_node(const char *arg, struct target_node *ret, GError **error);
void target_node_clear(struct target_node *t);

/* A node among @status->nodes, by name or index; false: none. */
bool target_find_node(JsonObject *status, const char *arg, unsigned *ret_index,
                      const char **ret_name);

/* "x86, arm" */
char *target_node_names(JsonObject *status);

#endif
