/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who has a page: the supervisor has nodes run chimera-pages
 * (guest-user/src/pages.c), which looks at their processes. Only the home of a
 * page can find it there. Of a page in a segment the node that asks then says
 * who of its own processes has that segment; a process with threads on several
 * nodes is one of the page's home.
 */
#ifndef CHIMERA_NAMES_H
#define CHIMERA_NAMES_H

#include "machine.h"

enum {
    NAMES_MAX_PAGES = 64, /* in one question */
    NAMES_WIRE_BYTES = 12, /* of a page in CTL_NAMES */
};

struct page_id {
    uint32_t owner; /* index of the node whose memory it is in */
    uint64_t page;
};

struct names;

/*
 * @names: {"node": INDEX, "pages": [{"owner", "page", "who"}]}, without the
 * pages of which nothing is known; a node that does not answer within two
 * seconds, or has no agent, knows nothing. NULL: no node did, and @why.
 * The call is the last thing that happens to the question.
 */
typedef void names_done(JsonNode *names, const char *why, void *opaque);

/* @n: the node that uses the pages. */
struct names *names_ask(struct node *n, const struct page_id *pages,
                        unsigned nr, names_done *done, void *opaque);
/* Nobody wants to know any more: @done is not called. */
void names_cancel(struct names *names);

/*
 * What one node said, of which not a byte is trusted: "PAGE WHO" goes into
 * @pages, "segment NAME: WHO" into @segments; text to text.
 */
void names_parse(const char *text, GHashTable *pages, GHashTable *segments);

/*
 * What a page is to a node that uses it. @at_home: what its home says of it.
 * @home: the home's name, NULL if that is the node itself. @segments: of the
 * node.
 */
char *names_text(const char *at_home, const char *home, GHashTable *segments);

#endif
