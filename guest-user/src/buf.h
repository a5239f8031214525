/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A queue of bytes that grows at its end and is consumed from its start. */
#ifndef GUEST_BUF_H
#define GUEST_BUF_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct buf {
    char *data;
    size_t head; /* first byte that waits */
    size_t tail; /* one past the last */
    size_t cap;
};

static inline size_t buf_len(const struct buf *b)
{
    return b->tail - b->head;
}

static inline char *buf_head(struct buf *b)
{
    return b->data + b->head;
}

/* Room for n more bytes at the end; NULL if there is no memory. */
static inline char *buf_reserve(struct buf *b, size_t n)
{
    if (!b->data || b->cap - b->tail < n) {
        size_t len = buf_len(b);

        if (b->head) {
            memmove(b->data, b->data + b->head, len);
            b->head = 0;
            b->tail = len;
        }
        if (!b->data || b->cap - len < n) {
            size_t cap = b->cap ? b->cap : 4096;
            char *data;

            while (cap - len < n) {
                cap *= 2;
            }
            data = realloc(b->data, cap);
            if (!data) {
                return NULL;
            }
            b->data = data;
            b->cap = cap;
        }
    }
    return b->data + b->tail;
}

static inline bool buf_append(struct buf *b, const void *data, size_t n)
{
    char *to = buf_reserve(b, n);

    if (!to) {
        return false;
    }
    if (n) {
        memcpy(to, data, n);
    }
    b->tail += n;
    return true;
}

static inline void buf_consume(struct buf *b, size_t n)
{
    b->head += n;
    if (b->head == b->tail) {
        b->head = b->tail = 0;
    }
}

static inline void buf_free(struct buf *b)
{
    free(b->data);
    *b = (struct buf){ 0 };
}

#endif /* GUEST_BUF_H */
