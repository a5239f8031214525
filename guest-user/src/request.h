/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What to run and how, as it travels: NUL-terminated strings KEY=VALUE, see
 * AGENT_EXEC in <chimera/agent-proto.h>. The agent and noded parse it alike.
 */
#ifndef GUEST_REQUEST_H
#define GUEST_REQUEST_H

#include "spawn.h"

#define REQUEST_MAX_GROUPS 64

struct exec_request {
    struct spawn_request spawn; /* points into the text and into this */
    char **argv, **envp;
    gid_t groups[REQUEST_MAX_GROUPS];
};

/**
 * request_parse() - fill in a request. PATH, HOME and SHELL have defaults.
 * @text: is kept by the caller as long as the request.
 * Return: NULL, or what is wrong with the text. To be freed either way.
 */
const char *request_parse(struct exec_request *ret_request, char *text,
                          size_t len);
void request_free(struct exec_request *request);

#endif /* GUEST_REQUEST_H */
