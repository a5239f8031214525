/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file of a key: one line of hexadecimal digits, alone or behind a name
 * and a colon as psktool(1) writes it. The name means nothing here.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "key.h"
#include "transport.h"

/* 128 bits cannot be guessed; the upper bound is that of psktool(1). */
#define KEY_MIN_BYTES 16
#define KEY_MAX_BYTES 64
#define KEY_FILE_BYTES 1024

/*
 * One version; one way to agree on keys, which proves that both have ours and
 * forgets what it made of it; ciphers that authenticate, of the suites with
 * SHA-256, because that is the hash of a PSK that comes from a file. GnuTLS
 * wants signatures for TLS 1.3, but there is no certificate to be signed.
 */
#define KEY_PRIORITY                                                \
    "NONE:+VERS-TLS1.3:+ECDHE-PSK:+AES-128-GCM:+CHACHA20-POLY1305:" \
    "+AEAD:+GROUP-X25519:+GROUP-SECP256R1:+SIGN-ALL"

static __attribute__((format(printf, 3, 4))) int
key_fail(int err, char ret_reason[DSM_REASON_BYTES], const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    vsnprintf(ret_reason, DSM_REASON_BYTES, format, ap);
    va_end(ap);
    return err;
}

static int key_check_file(int fd, char ret_reason[DSM_REASON_BYTES])
{
    struct stat st;

    if (fstat(fd, &st) < 0) {
        return key_fail(-errno, ret_reason, "%s", strerror(errno));
    }
    if (!S_ISREG(st.st_mode)) {
        return key_fail(-EINVAL, ret_reason, "not a regular file");
    }
    if (st.st_uid != geteuid()) {
        return key_fail(-EACCES, ret_reason,
                        "it belongs to user %lu, not to user %lu",
                        (unsigned long)st.st_uid, (unsigned long)geteuid());
    }
    if (st.st_mode & 0077) {
        return key_fail(-EACCES, ret_reason,
                        "its mode is %04o, so others could use the key; it "
                        "must be 0600 or stricter",
                        (unsigned int)st.st_mode & 07777);
    }
    return 0;
}

static int key_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* Return: bytes of the key; -EINVAL. */
static int key_parse(char *text, uint8_t ret_secret[KEY_MAX_BYTES],
                     char ret_reason[DSM_REASON_BYTES])
{
    size_t len = strlen(text);
    char *hex;

    while (len > 0 && isspace((unsigned char)text[len - 1])) {
        text[--len] = '\0';
    }
    if (strchr(text, '\n')) {
        return key_fail(-EINVAL, ret_reason,
                        "it has more than one line; one key is needed");
    }
    hex = strrchr(text, ':');
    hex = hex ? hex + 1 : text;
    len = strlen(hex);
    if (len % 2 || len < 2 * KEY_MIN_BYTES || len > 2 * KEY_MAX_BYTES) {
        return key_fail(-EINVAL, ret_reason,
                        "its key has %zu hexadecimal digits; %d to %d are "
                        "needed, an even number",
                        len, 2 * KEY_MIN_BYTES, 2 * KEY_MAX_BYTES);
    }
    for (size_t i = 0; i < len; i += 2) {
        int high = key_digit(hex[i]), low = key_digit(hex[i + 1]);

        if (high < 0 || low < 0) {
            return key_fail(-EINVAL, ret_reason,
                            "its key is not made of hexadecimal digits");
        }
        ret_secret[i / 2] = high << 4 | low;
    }
    return len / 2;
}

static int key_on_server(gnutls_session_t session, const char *identity,
                         gnutls_datum_t *ret_secret)
{
    const struct dsm_key *key = gnutls_session_get_ptr(session);

    if (strcmp(identity, DSM__KEY_IDENTITY) != 0) {
        return -1;
    }
    ret_secret->data = gnutls_malloc(key->secret.size);
    if (!ret_secret->data) {
        return -1;
    }
    memcpy(ret_secret->data, key->secret.data, key->secret.size);
    ret_secret->size = key->secret.size;
    return 0;
}

static int key_make(const uint8_t *secret, int bytes, struct dsm_key **ret_key)
{
    struct dsm_key *key = calloc(1, sizeof(*key));
    int ret;

    if (!key) {
        return GNUTLS_E_MEMORY_ERROR;
    }
    key->secret.data = malloc(bytes);
    if (!key->secret.data) {
        free(key);
        return GNUTLS_E_MEMORY_ERROR;
    }
    memcpy(key->secret.data, secret, bytes);
    key->secret.size = bytes;
    ret = gnutls_priority_init(&key->priority, KEY_PRIORITY, NULL);
    if (ret >= 0) {
        ret = gnutls_psk_allocate_client_credentials(&key->client);
    }
    if (ret >= 0) {
        ret = gnutls_psk_set_client_credentials(
            key->client, DSM__KEY_IDENTITY, &key->secret, GNUTLS_PSK_KEY_RAW);
    }
    if (ret >= 0) {
        ret = gnutls_psk_allocate_server_credentials(&key->server);
    }
    if (ret < 0) {
        dsm_key_free(key);
        return ret;
    }
    gnutls_psk_set_server_credentials_function(key->server, key_on_server);
    *ret_key = key;
    return 0;
}

int dsm_key_load(const char *path, struct dsm_key **ret_key,
                 char ret_reason[DSM_REASON_BYTES])
{
    char text[KEY_FILE_BYTES + 1];
    uint8_t secret[KEY_MAX_BYTES];
    ssize_t n;
    int ret, fd;

    /* Of a FIFO in its place, open(2) would wait for a writer. */
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        return key_fail(-errno, ret_reason, "%s", strerror(errno));
    }
    ret = key_check_file(fd, ret_reason);
    if (ret < 0) {
        close(fd);
        return ret;
    }
    do {
        n = read(fd, text, sizeof(text));
    } while (n < 0 && errno == EINTR);
    ret = n < 0 ? -errno : 0;
    close(fd);
    if (ret < 0) {
        return key_fail(ret, ret_reason, "%s", strerror(-ret));
    }
    if (n > KEY_FILE_BYTES || memchr(text, '\0', n)) {
        ret = key_fail(-EINVAL, ret_reason, "it is not a key");
    } else {
        text[n] = '\0';
        ret = key_parse(text, secret, ret_reason);
    }
    if (ret > 0) {
        ret = key_make(secret, ret, ret_key);
        if (ret < 0) {
            ret = key_fail(-ENOMEM, ret_reason, "GnuTLS: %s",
                           gnutls_strerror(ret));
        }
    }
    explicit_bzero(text, sizeof(text));
    explicit_bzero(secret, sizeof(secret));
    return ret;
}

bool dsm_address_needs_key(const char *address)
{
    const char *where = address + strlen("tcp:");

    return strncmp(address, "tcp:", strlen("tcp:")) == 0 &&
           dsm__tcp_check(where) == 0 && !dsm__tcp_is_loopback(where);
}

void dsm_key_free(struct dsm_key *key)
{
    if (!key) {
        return;
    }
    if (key->server) {
        gnutls_psk_free_server_credentials(key->server);
    }
    if (key->client) {
        gnutls_psk_free_client_credentials(key->client);
    }
    if (key->priority) {
        gnutls_priority_deinit(key->priority);
    }
    explicit_bzero(key->secret.data, key->secret.size);
    free(key->secret.data);
    free(key);
}
