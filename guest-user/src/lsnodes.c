/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lsnodes: the nodes of this machine, as a table or as JSON. */
#define _GNU_SOURCE
#include <chimera/guest.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_json(const struct chimera_node *nodes, int nr)
{
    printf("[\n");
    for (int i = 0; i < nr; i++) {
        const struct chimera_node *n = &nodes[i];

        /* Names are [A-Za-z0-9_-]: nothing to escape. */
        printf("  {\"index\": %u, \"name\": \"%s\", \"self\": %s, "
               "\"arch\": \"%s\", \"cpus\": %u, \"state\": \"%s\", "
               "\"ram_bytes\": %" PRIu64 ", \"mem_total_kb\": %" PRIu64
               ", \"mem_free_kb\": %" PRIu64 ", \"window_phys\": %" PRIu64
               ", \"messages_sent\": %" PRIu64
               ", \"messages_received\": %" PRIu64 "}%s\n",
               n->index, n->name, n->self ? "true" : "false", n->arch, n->cpus,
               n->state, n->ram_bytes, n->mem_total_kb, n->mem_free_kb,
               n->window_phys, n->messages_sent, n->messages_received,
               i + 1 < nr ? "," : "");
    }
    printf("]\n");
}

static void print_mib(uint64_t kb)
{
    if (kb) {
        printf(" %6" PRIu64 " MiB", kb >> 10);
    } else {
        printf(" %10s", "-");
    }
}

static void print_table(const struct chimera_node *nodes, int nr)
{
    size_t width = strlen("NAME");

    for (int i = 0; i < nr; i++) {
        size_t n = strlen(nodes[i].name);

        width = n > width ? n : width;
    }
    printf("  NODE  %-*s  ARCH     CPUS  STATE   %10s %10s %10s  WINDOW\n",
           (int)width, "NAME", "RAM", "TOTAL", "FREE");
    for (int i = 0; i < nr; i++) {
        const struct chimera_node *n = &nodes[i];

        printf("%c %4u  %-*s  %-7s  %4u  %-6s ", n->self ? '*' : ' ', n->index,
               (int)width, n->name, n->arch, n->cpus, n->state);
        print_mib(n->ram_bytes >> 10);
        print_mib(n->mem_total_kb);
        print_mib(n->mem_free_kb);
        if (n->window_phys) {
            printf("  0x%" PRIx64 "\n", n->window_phys);
        } else {
            printf("  -\n");
        }
    }
}

int main(int argc, char **argv)
{
    struct chimera_node *nodes;
    bool json = argc == 2 && !strcmp(argv[1], "--json");
    int nr;

    if (argc > 1 && !json) {
        bool help = argc == 2 && !strcmp(argv[1], "--help");

        fprintf(help ? stdout : stderr,
                "usage: lsnodes [--json]\n"
                "The nodes of this machine; * marks the one this runs on. "
                "TOTAL and FREE are\nwhat the node's kernel manages, WINDOW "
                "is where its RAM appears to this node.\n");
        return help ? 0 : 2;
    }
    nr = chimera_nodes(&nodes);
    if (nr < 0) {
        fprintf(stderr, "lsnodes: %s\n",
                nr == -ENODEV ? "this kernel has no fabric device: a machine "
                                "of its own"
                              : strerror(-nr));
        return 1;
    }
    if (json) {
        print_json(nodes, nr);
    } else {
        print_table(nodes, nr);
    }
    free(nodes);
    return ferror(stdout) || fflush(stdout) ? 1 : 0;
}
