/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Starting a process on another node, by noded of this one, as onnode does:
 * guest-user/src/noded-proto.h.  The socket stays with us; when we end noded
 * ends the process there, and what it writes can be read here at any time.
 */

#include "thread.h"

#include "../../guest-user/src/noded-proto.h"

#define NR_READ     0
#define NR_WRITE    1
#define NR_CLOSE    3
#define NR_PPOLL    271
#define NR_SOCKET   41
#define NR_CONNECT  42
#define NR_SENDTO   44
#define NR_FCNTL    72

#define AF_UNIX         1
#define SOCK_SEQPACKET  5
#define SOCK_CLOEXEC    02000000
#define F_DUPFD_CLOEXEC 1030
#define POLLIN          1
#define MSG_NOSIGNAL    0x4000
#define EPIPE           32
#define ECONNRESET      104

/* Descriptors of ours stay away from those that programs count on. */
#define FD_FROM 700

static void say(struct peer_process *p, const char *text)
{
    char *to = p->said;

    while (*text && to < p->said + sizeof(p->said) - 1) {
        *to++ = *text++;
    }
    *to = '\0';
}

static int connect_noded(void)
{
    struct {
        uint16_t family;
        char path[108];
    } addr = { AF_UNIX, NODED_SOCKET };
    long fd = sys(NR_SOCKET, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, 0, 0, 0);
    long high;

    if (fd < 0) {
        return -1;
    }
    if (sys(NR_CONNECT, fd, (long)&addr, sizeof(addr), 0, 0, 0) < 0) {
        sys(NR_CLOSE, fd, 0, 0, 0, 0, 0);
        return -1;
    }
    high = sys(NR_FCNTL, fd, F_DUPFD_CLOEXEC, FD_FROM, 0, 0, 0);
    if (high < 0) {
        return fd;
    }
    sys(NR_CLOSE, fd, 0, 0, 0, 0, 0);
    return high;
}

static char *put_string(char *p, const char *key, const char *value)
{
    return chimera_put_text(chimera_put_text(p, key), value) + 1;
}

static size_t length(const char *s)
{
    size_t n = 0;

    while (s[n]) {
        n++;
    }
    return n;
}

/* If noded has ended the call, what it said last is still to be read. */
static bool send_message(struct peer_process *p, struct noded_msg *m, long len)
{
    long ret = sys(NR_SENDTO, p->fd, (long)m, NODED_HEADER_BYTES + len,
                   MSG_NOSIGNAL, 0, 0);

    if (ret < 0 && ret != -EPIPE && ret != -ECONNRESET) {
        say(p, "noded does not take the request");
        return false;
    }
    return true;
}

bool chimera_noded_start(struct peer_process *p, int node, const char *file,
                         char *const env[])
{
    static struct noded_msg m;  /* the caller holds a lock */
    char *at = (char *)m.data;
    size_t need = length(file) + sizeof("arg=") + sizeof("cwd=/");
    long len;

    *p = (struct peer_process){ .fd = connect_noded() };
    if (p->fd < 0) {
        say(p, "noded (" NODED_SOCKET ") does not answer");
        return false;
    }
    for (unsigned i = 0; env[i]; i++) {
        need += length(env[i]) + sizeof("env=");
    }
    if (need > sizeof(m.data)) {
        say(p, "the program's path is too long");
        return false;
    }
    m = (struct noded_msg){ .type = NODED_CONNECT, .value = node };
    if (!send_message(p, &m, 0)) {
        return false;
    }
    at = put_string(at, "arg=", file);
    for (unsigned i = 0; env[i]; i++) {
        at = put_string(at, "env=", env[i]);
    }
    at = put_string(at, "cwd=", "/");
    len = at - (char *)m.data;
    m.type = NODED_REQUEST;
    m.value = len;
    return send_message(p, &m, len);
}

/* How the process ended, in words. */
static void note_end(struct peer_process *p, struct noded_msg *m, long len)
{
    static const char killed[] = "killed by signal ", status[] = "exit status ";

    p->ended = true;
    if (m->stream == NODED_KILLED || m->stream == NODED_EXITED) {
        chimera_put_number(chimera_put_text(p->said, m->stream == NODED_KILLED
                                                         ? killed : status),
                           m->value);
        return;
    }
    len = len < (long)sizeof(p->said) - 1 ? len : (long)sizeof(p->said) - 1;
    __builtin_memcpy(p->said, m->data, len);
    p->said[len] = '\0';
}

void chimera_noded_listen(struct peer_process *p, int timeout_ms)
{
    struct {
        int fd;
        short events, revents;
    } poll = { .fd = p->fd, .events = POLLIN };
    struct {
        long sec, nsec;
    } limit = { timeout_ms / 1000, timeout_ms % 1000 * 1000000l };
    struct noded_msg m;
    long n;

    while (!p->ended &&
           sys(NR_PPOLL, (long)&poll, 1, (long)&limit, 0, 0, 0) > 0) {
        n = sys(NR_READ, p->fd, (long)&m, sizeof(m), 0, 0, 0);
        if (n == -ECONNRESET) {
            continue; /* said once, before what was sent earlier */
        }
        if (n < NODED_HEADER_BYTES) {
            p->ended = true;
            say(p, "noded went away");
            break;
        }
        n -= NODED_HEADER_BYTES;
        if (m.type == NODED_EXIT) {
            note_end(p, &m, n);
        } else if (m.type == NODED_DATA && m.stream == 2) {
            sys(NR_WRITE, 2, (long)m.data, n, 0, 0, 0);
        } else if (m.type == NODED_DATA && n > 0) {
            p->ready = true;
            break;
        }
    }
}
