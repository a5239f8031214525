/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The key that the nodes of a machine share: what TLS makes of its file. */
#ifndef DSM_SRC_KEY_H
#define DSM_SRC_KEY_H

#include <gnutls/gnutls.h>

#include "dsm/dsm.h"

/* Not secret: it is sent in the clear, the same for all keys. */
#define DSM__KEY_IDENTITY "dsm"

struct dsm_key {
    gnutls_priority_t priority;
    gnutls_psk_client_credentials_t client;
    gnutls_psk_server_credentials_t server;
    gnutls_datum_t secret;
};

#endif
