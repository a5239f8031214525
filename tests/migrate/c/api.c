/* SPDX-License-Identifier: GPL-2.0-or-later */
/* <chimera.h> and Popcorn's names: where am I, go there. */
#include <chimera.h>
#include <migrate.h>
#include <stdio.h>

static int called_on;

static void note(void *arg)
{
    called_on = chimera_here() + *(int *)arg;
}

static __attribute__((noinline)) int there(int node)
{
    int error = chimera_migrate(node);

    return error ? error : chimera_here() == node;
}

int main(void)
{
    int nodes = chimera_nodes(), ok = 1, one = 1;

    for (int i = 0; i < 10; i++) {
        ok &= there(i % nodes) == 1;
    }
    ok &= there(nodes) == -22;
    ok &= chimera_here() < nodes;
    for (int i = 0; i < nodes; i++) {
        migrate(i, note, &one);
        ok &= called_on == i + 1 && popcorn_getnid() == i && node_available(i);
    }
    chimera_migrate(-1);
    check_migrate(NULL, NULL);
    printf("ok %d\n", ok);
    return 0;
}
