/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Prints the tables of coherence.c and rights.c, for those who need the same
 * ones:
 *
 *   coherence-tables promela         for model/coherence.pml
 *   coherence-tables markdown        for docs/coherence.md
 *   coherence-tables rights          for docs/coherence.md, translated code
 *   coherence-tables check FILE      is that what FILE has between its marks?
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coherence.h"
#include "rights.h"

static void print_actions(FILE *f, uint16_t actions, const char *const *names,
                          int nr)
{
    for (int i = 0; i < nr; i++) {
        if (actions & (1 << i)) {
            fprintf(f, " %s", names[i]);
        }
    }
}

static void markdown(FILE *f)
{
    fprintf(f, "\n| copy | event | next | actions |\n|---|---|---|---|\n");
    for (int s = 0; s < DSM__NR_COPIES; s++) {
        for (int e = 0; e < DSM__NR_COPY_EVENTS; e++) {
            const struct dsm__copy_rule *rule = &dsm__copy_rules[s][e];

            if (rule->defined) {
                fprintf(f, "| %s | %s | %s |", dsm__copy_names[s],
                        dsm__copy_event_names[e],
                        dsm__copy_names[rule->next]);
                print_actions(f, rule->actions, dsm__copy_action_names,
                              DSM__NR_COPY_ACTIONS);
                fprintf(f, " |\n");
            }
        }
    }
    fprintf(f, "\n| request | event | next | actions |\n|---|---|---|---|\n");
    for (int s = 0; s < DSM__NR_DIRS; s++) {
        for (int e = 0; e < DSM__NR_DIR_EVENTS; e++) {
            const struct dsm__dir_rule *rule = &dsm__dir_rules[s][e];

            if (rule->defined) {
                fprintf(f, "| %s | %s | %s |", dsm__dir_names[s],
                        dsm__dir_event_names[e], dsm__dir_names[rule->next]);
                print_actions(f, rule->actions, dsm__dir_action_names,
                              DSM__NR_DIR_ACTIONS);
                fprintf(f, " |\n");
            }
        }
    }
    fprintf(f, "\n");
}

static void markdown_rights(FILE *f)
{
    fprintf(f, "\n| claim | event | next | actions |\n|---|---|---|---|\n");
    for (int s = 0; s < DSM__NR_CLAIMS; s++) {
        for (int e = 0; e < DSM__NR_CLAIM_EVENTS; e++) {
            const struct dsm__claim_rule *rule = &dsm__claim_rules[s][e];

            if (rule->defined) {
                fprintf(f, "| %s | %s | %s |", dsm__claim_names[s],
                        dsm__claim_event_names[e],
                        dsm__claim_names[rule->next]);
                print_actions(f, rule->actions, dsm__claim_action_names,
                              DSM__NR_CLAIM_ACTIONS);
                fprintf(f, " |\n");
            }
        }
    }
    fprintf(f, "\n| turn | event | next | actions |\n|---|---|---|---|\n");
    for (int s = 0; s < DSM__NR_TURNS; s++) {
        for (int e = 0; e < DSM__NR_TURN_EVENTS; e++) {
            const struct dsm__turn_rule *rule = &dsm__turn_rules[s][e];

            if (rule->defined) {
                fprintf(f, "| %s | %s | %s |", dsm__turn_names[s],
                        dsm__turn_event_names[e],
                        dsm__turn_names[rule->next]);
                print_actions(f, rule->actions, dsm__turn_action_names,
                              DSM__NR_TURN_ACTIONS);
                fprintf(f, " |\n");
            }
        }
    }
    fprintf(f, "\n");
}

static void names(const char *prefix, const char *const *list, int nr)
{
    for (int i = 0; i < nr; i++) {
        printf("#define %s_%s %d\n", prefix, list[i], i);
    }
}

static void action_names(const char *prefix, const char *const *list, int nr)
{
    for (int i = 0; i < nr; i++) {
        const char *name = list[i][0] == '+' ? list[i] + 1 : list[i];

        printf("#define %s_%s%s %d\n", prefix, list[i][0] == '+' ? "SEND_" : "",
               name, 1 << i);
    }
}

/* Rules as a choice that has no other case: what is undefined is an error. */
static void promela(void)
{
    names("C", dsm__copy_names, DSM__NR_COPIES);
    names("CE", dsm__copy_event_names, DSM__NR_COPY_EVENTS);
    action_names("CA", dsm__copy_action_names, DSM__NR_COPY_ACTIONS);
    names("D", dsm__dir_names, DSM__NR_DIRS);
    names("DE", dsm__dir_event_names, DSM__NR_DIR_EVENTS);
    action_names("DA", dsm__dir_action_names, DSM__NR_DIR_ACTIONS);
    printf("\ninline copy_rule(state, event)\n{\n    if\n");
    for (int s = 0; s < DSM__NR_COPIES; s++) {
        for (int e = 0; e < DSM__NR_COPY_EVENTS; e++) {
            const struct dsm__copy_rule *rule = &dsm__copy_rules[s][e];

            if (rule->defined) {
                printf("    :: (state == C_%s && event == CE_%s) -> "
                       "next = C_%s; acts = %u\n",
                       dsm__copy_names[s], dsm__copy_event_names[e],
                       dsm__copy_names[rule->next], rule->actions);
            }
        }
    }
    printf("    :: else -> assert(false)\n    fi\n}\n");
    printf("\ninline dir_rule(state, event)\n{\n    if\n");
    for (int s = 0; s < DSM__NR_DIRS; s++) {
        for (int e = 0; e < DSM__NR_DIR_EVENTS; e++) {
            const struct dsm__dir_rule *rule = &dsm__dir_rules[s][e];

            if (rule->defined) {
                printf("    :: (state == D_%s && event == DE_%s) -> "
                       "next = D_%s; acts = %u\n",
                       dsm__dir_names[s], dsm__dir_event_names[e],
                       dsm__dir_names[rule->next], rule->actions);
            }
        }
    }
    printf("    :: else -> assert(false)\n    fi\n}\n");
}

static char *read_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    size_t room = 1 << 20;
    char *text = calloc(1, room + 1);

    if (!f || !text) {
        perror(path);
        exit(1);
    }
    if (fread(text, 1, room, f) == room) {
        fprintf(stderr, "%s: too long\n", path);
        exit(1);
    }
    fclose(f);
    return text;
}

/* Return: 0; 1: @path has something else between @mark's marks. */
static int check(const char *path, void (*print)(FILE *f), const char *mark,
                 const char *option)
{
    char *text = read_file(path), *begin, *end, *wanted = NULL;
    char mark_begin[64], mark_end[64];
    size_t wanted_bytes;
    FILE *f = open_memstream(&wanted, &wanted_bytes);
    int ret = 0;

    print(f);
    fclose(f);
    snprintf(mark_begin, sizeof(mark_begin), "<!-- %s: begin -->\n", mark);
    snprintf(mark_end, sizeof(mark_end), "<!-- %s: end -->\n", mark);
    begin = strstr(text, mark_begin);
    end = strstr(text, mark_end);
    if (!begin || !end || end < begin) {
        fprintf(stderr, "%s: no marks\n", path);
        ret = 1;
    } else {
        begin += strlen(mark_begin);
        if ((size_t)(end - begin) != wanted_bytes ||
            memcmp(begin, wanted, wanted_bytes) != 0) {
            fprintf(stderr, "%s: its tables are not those of the code; "
                    "`coherence-tables %s` prints them\n", path, option);
            ret = 1;
        }
    }
    free(wanted);
    free(text);
    return ret;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "promela") == 0) {
        promela();
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "markdown") == 0) {
        markdown(stdout);
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "rights") == 0) {
        markdown_rights(stdout);
        return 0;
    }
    if (argc == 3 && strcmp(argv[1], "check") == 0) {
        return check(argv[2], markdown, "tables", "markdown") |
               check(argv[2], markdown_rights, "rights", "rights");
    }
    fprintf(stderr, "usage: %s promela | markdown | rights | check FILE\n", argv[0]);
    return 2;
}
