/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * All programs of the image in one file; the name it is started by chooses.
 * Under TCG a program's first run is mostly translation, and what two
 * programs have in common is translated once if it is the same page.
 */
#include <stdio.h>
#include <string.h>

#define PROGRAMS(X)                   \
    X("init", init_main)              \
    X("chimera-agent", agent_main)    \
    X("chimera-noded", noded_main)    \
    X("onnode", onnode_main)          \
    X("chimera-image", image_main)    \
    X("lsnodes", lsnodes_main)        \
    X("chimera-migrate", migrate_main)\
    X("chimera-pages", pages_main)    \
    X("chimera-seg", seg_main)        \
    X("chimera-ping", ping_main)

#define DECLARE(name, function) int function(int argc, char **argv);
PROGRAMS(DECLARE)

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
    } programs[] = {
#define ENTRY(name, function) { name, function },
        PROGRAMS(ENTRY)
    };
    const char *name = argc ? argv[0] : "";
    const char *slash = strrchr(name, '/');

    name = slash ? slash + 1 : name;
    for (size_t i = 0; i < sizeof(programs) / sizeof(programs[0]); i++) {
        if (!strcmp(name, programs[i].name)) {
            return programs[i].run(argc, argv);
        }
    }
    fprintf(stderr, "chimera-guest: there is no program '%s' in here\n", name);
    return 127;
}
