/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "courier.h"

#include "frame.h"
#include "paths.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <json-glib/json-glib.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    NR_STREAMS = 3,
    FIRST_STREAM = QEMU_FD_QMP,
    READ_BYTES = 65536,
    QUEUE_BYTES = 1 << 20, /* to the other side; then QEMU has to wait */
    HELLO_S = 30, /* logging in, too */
    ALIVE_S = 5,
    SILENCE_S = 30,
    LEAVE_MS = 5000, /* for the other side to end its QEMU */
    REAP_MS = 2000,
    MAX_REQUEST_BYTES = 4 << 20,
};

_Static_assert(QEMU_FD_CONSOLE == FIRST_STREAM + NR_STREAMS - 1,
               "streams are the descriptors of monitor, agent, console");

struct stream {
    int fd; /* -1: not open */
    bool in_ended; /* nothing more comes from it */
    bool out_ended; /* nothing more is to go to it */
    GByteArray *out;
};

struct courier {
    GByteArray *rx, *tx;
    gint64 rx_us, tx_us; /* when something came and went last */
    struct stream stream[NR_STREAMS];
    char *error; /* why this side ends; NULL */
    int in, out; /* the way to the other side; may be the same */
    int child_fd; /* pidfd: near: of start-command, far: of QEMU; -1 */
    pid_t child;

    /* near */
    const char *host; /* for messages */
    char *prefix;
    GByteArray *request;
    gint64 hello_by_us; /* 0: it came */
    gint64 leave_by_us; /* 0: not leaving */
    int signal_fd;
    uint32_t exit_kind, exit_value;

    /* far */
    GByteArray *start; /* pieces of the request */

    bool near;
    bool in_ended, out_broken;
    bool noise; /* near: a line that was not ours is not ended */
    bool exited; /* near: far said so */
    bool started; /* far */
};

/* ---- bytes ---- */

static void put_frame(struct courier *c, uint16_t type, uint16_t stream,
                      const void *payload, gsize len)
{
    struct agent_frame wire;

    if (c->out_broken) {
        return;
    }
    frame_encode(&wire, COURIER_MAGIC, type, stream, 0, (uint32_t)len);
    g_byte_array_append(c->tx, (const guint8 *)&wire, sizeof(wire));
    if (len > 0) {
        g_byte_array_append(c->tx, payload, (guint)len);
    }
    c->tx_us = g_get_monotonic_time();
}

static void put_text(struct courier *c, uint16_t type, const char *text)
{
    put_frame(c, type, 0, text, MIN(strlen(text), AGENT_MAX_PAYLOAD));
}

/* Write what @fd takes. Return: false: it takes nothing any more. */
static bool push(int fd, GByteArray *queue)
{
    while (queue->len > 0) {
        ssize_t n = write(fd, queue->data, queue->len);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return errno == EAGAIN;
        }
        g_byte_array_remove_range(queue, 0, (guint)n);
    }
    return true;
}

/* Return: bytes; 0 the end, or an error, which is the same; -1 none now. */
static ssize_t pull(int fd, uint8_t buf[READ_BYTES])
{
    ssize_t n;

    do {
        n = read(fd, buf, READ_BYTES);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? (errno == EAGAIN ? -1 : 0) : n;
}

static void stream_push(struct stream *s)
{
    if (s->fd < 0) {
        return;
    }
    if (!push(s->fd, s->out)) {
        /* Its last words are still to be read. */
        g_byte_array_set_size(s->out, 0);
        s->out_ended = false;
    } else if (s->out_ended && s->out->len == 0) {
        shutdown(s->fd, SHUT_WR);
        s->out_ended = false;
    }
}

/* Return: something came. */
static bool stream_pull(struct courier *c, unsigned i)
{
    static uint8_t buf[READ_BYTES];
    struct stream *s = &c->stream[i];
    ssize_t n = pull(s->fd, buf);

    if (n >= 0) {
        put_frame(c, COURIER_DATA, (uint16_t)i, buf, (gsize)n);
        s->in_ended = n == 0;
    }
    return n > 0;
}

static void G_GNUC_PRINTF(2, 3) fail(struct courier *c, const char *fmt, ...)
{
    va_list ap;

    if (!c->error) {
        va_start(ap, fmt);
        c->error = g_strdup_vprintf(fmt, ap);
        va_end(ap);
    }
}

/* ---- the request ---- */

/* How to start near. */
static char **courier_argv(void)
{
    g_autofree char *exe = g_file_read_link("/proc/self/exe", NULL);
    const char *const argv[] = { exe ? exe : "chimera", "node-near", NULL };

    return g_strdupv((char **)argv);
}

static void member(JsonBuilder *b, const char *name, const char *value)
{
    json_builder_set_member_name(b, name);
    json_builder_add_string_value(b, value);
}

static char *builder_text(JsonBuilder *b)
{
    g_autoptr(JsonNode) root = json_builder_get_root(b);

    return json_to_string(root, FALSE);
}

/* What far needs: all that this side knows of the machine. */
static char *far_request(const struct qemu_spec *spec)
{
    const struct machine_config *c = spec->config;
    g_autoptr(JsonBuilder) b = json_builder_new();

    json_builder_begin_object(b);
    member(b, "path", c->path);
    member(b, "text", c->text);
    member(b, "name", c->name);
    member(b, "share", c->share);
    member(b, "uuid", spec->machine_uuid);
    json_builder_set_member_name(b, "self");
    json_builder_add_int_value(b, spec->self);
    json_builder_end_object(b);
    return builder_text(b);
}

/* What near has to know, as a file. -1 on failure. */
static int courier_request(const struct qemu_spec *spec, GError **error)
{
    const struct node_config *n = config_node(spec->config, spec->self);
    g_auto(GStrv) near = courier_argv();
    const char *const command[] = { near[0], "node-far", NULL };
    g_auto(GStrv) argv = NULL;
    g_autoptr(JsonBuilder) b = json_builder_new();
    g_autofree char *request = far_request(spec);
    g_autofree char *text = NULL;
    int fd, err;

    if (!config_is_plain(near[0])) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST,
                    "the path of this program, %s, has characters that the "
                    "shell of another host may not take as they are; install "
                    "it elsewhere",
                    near[0]);
        return -1;
    }
    argv = config_start_argv(spec->config, n->host, command);
    json_builder_begin_object(b);
    member(b, "host", n->host);
    member(b, "prefix", prefix_dir());
    member(b, "request", request);
    json_builder_set_member_name(b, "argv");
    json_builder_begin_array(b);
    for (char **arg = argv; *arg; arg++) {
        json_builder_add_string_value(b, *arg);
    }
    json_builder_end_array(b);
    json_builder_end_object(b);
    text = builder_text(b);

    fd = memfd_create("chimera-request", MFD_CLOEXEC);
    err = fd < 0 ? errno : write_all(fd, text, strlen(text));
    if (err) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST,
                    "a file in memory: %s", g_strerror(err));
        close_fd(&fd);
    }
    return fd;
}

pid_t courier_start(const struct qemu_spec *spec,
                    const int fds[QEMU_FD_END - QEMU_FD_QMP], int key_id_fd,
                    const char *log_path, GError **error)
{
    g_auto(GStrv) argv = courier_argv();
    int request = courier_request(spec, error);
    int source[NR_STREAMS + 2], target[NR_STREAMS + 2];
    pid_t pid;

    if (request < 0) {
        return -1;
    }
    for (int i = 0; i < NR_STREAMS; i++) {
        source[i] = fds[i];
        target[i] = FIRST_STREAM + i;
    }
    source[NR_STREAMS] = request;
    target[NR_STREAMS] = QEMU_FD_REQUEST;
    source[NR_STREAMS + 1] = key_id_fd;
    target[NR_STREAMS + 1] = QEMU_FD_KEY_ID;
    pid = child_start(argv, source, target, NR_STREAMS + 2, NULL, log_path,
                      error);
    close(request);
    return pid;
}

/* ---- frames ---- */

static void handle_data(struct courier *c, const struct agent_frame *f,
                        const uint8_t *payload)
{
    struct stream *s = &c->stream[f->stream];

    if (s->fd < 0) {
        return; /* QEMU, or the supervisor, closed it */
    }
    if (f->len == 0) {
        s->out_ended = true;
    } else {
        g_byte_array_append(s->out, payload, f->len);
    }
    stream_push(s);
}

static void near_hello(struct courier *c, const struct agent_frame *f,
                       const uint8_t *payload)
{
    g_autofree char *text =
        f->len > 4 ? g_strndup((const char *)payload + 4, f->len - 4)
                   : g_strdup("");
    g_auto(GStrv) line = g_strsplit(text, "\n", 2);
    gsize done = 0;

    if (!c->hello_by_us) {
        fail(c, "the other side began anew");
        return;
    }
    if (f->len < 4 || frame_u32(payload) != COURIER_VERSION ||
        g_strv_length(line) != 2 || strcmp(line[0], CHIMERA_VERSION) != 0) {
        g_autofree char *shown = printable_line(line[0] ? line[0] : "?", -1);

        fail(c, "chimera there is version %s, here it is %s; both must be the "
             "same build", shown, CHIMERA_VERSION);
        return;
    }
    if (strcmp(line[1], c->prefix) != 0) {
        g_autofree char *shown = printable_line(line[1], -1);

        fail(c, "chimera there is installed in %s, here in %s; paths must be "
             "the same", shown, c->prefix);
        return;
    }
    c->hello_by_us = 0;
    while (done < c->request->len) {
        gsize n = MIN(c->request->len - done, AGENT_MAX_PAYLOAD);

        put_frame(c, COURIER_START, 0, c->request->data + done, n);
        done += n;
    }
    put_frame(c, COURIER_START, 0, NULL, 0);
}

static void near_frame(struct courier *c, const struct agent_frame *f,
                       const uint8_t *payload)
{
    g_autofree char *text = NULL;

    if (f->type == COURIER_HELLO) {
        near_hello(c, f, payload);
    } else if (c->hello_by_us) {
        fail(c, "frame %u came before all others", f->type);
    } else if (f->type == COURIER_ERROR) {
        text = g_strndup((const char *)payload, f->len);
        fail(c, "%s", text);
    } else if (f->type == COURIER_KEY_ID && f->len == PREFLIGHT_KEY_ID_BYTES) {
        write_all(QEMU_FD_KEY_ID, payload, f->len);
    } else if (f->type == COURIER_EXIT && f->len == 8) {
        c->exited = true;
        c->exit_kind = frame_u32(payload);
        c->exit_value = frame_u32(payload + 4);
    } else {
        fail(c, "frame %u of %u bytes makes no sense", f->type, f->len);
    }
}

static void far_start(struct courier *c);

static void far_frame(struct courier *c, const struct agent_frame *f,
                      const uint8_t *payload)
{
    if (f->type != COURIER_START || c->started) {
        fail(c, "frame %u makes no sense", f->type);
    } else if (f->len == 0) {
        c->started = true;
        far_start(c);
    } else if (c->start->len + f->len > MAX_REQUEST_BYTES) {
        fail(c, "the request is too long");
    } else {
        g_byte_array_append(c->start, payload, f->len);
    }
}

static void pass_noise(struct courier *c, gsize bytes)
{
    if (bytes > 0) {
        c->noise = c->rx->data[bytes - 1] != '\n';
        write_all(STDERR_FILENO, c->rx->data, bytes);
        g_byte_array_remove_range(c->rx, 0, (guint)bytes);
    }
}

/*
 * What a shell's start-up files print, or ssh on its way, is not ours: skip
 * to the first frame.
 */
static void skip_to_hello(struct courier *c)
{
    const uint32_t magic = GUINT32_TO_LE(COURIER_MAGIC);
    const uint8_t *at = memmem(c->rx->data, c->rx->len, &magic, sizeof(magic));
    gsize skip = at ? (gsize)(at - c->rx->data)
                    : c->rx->len - MIN(c->rx->len, sizeof(magic) - 1);

    pass_noise(c, skip);
}

static void parse(struct courier *c)
{
    g_autoptr(GError) error = NULL;
    struct agent_frame f;
    gssize n = 1;

    while (!c->error && n > 0) {
        if (c->near && c->hello_by_us) {
            skip_to_hello(c);
        }
        n = frame_parse(c->rx->data, c->rx->len, COURIER_MAGIC, &f, &error);
        if (n < 0) {
            fail(c, "%s", error->message);
        } else if (n > 0) {
            const uint8_t *payload = c->rx->data + sizeof(f);

            if (f.type == COURIER_DATA && !c->hello_by_us) {
                handle_data(c, &f, payload);
            } else if (f.type != COURIER_ALIVE && c->near) {
                near_frame(c, &f, payload);
            } else if (f.type != COURIER_ALIVE) {
                far_frame(c, &f, payload);
            }
            g_byte_array_remove_range(c->rx, 0, (guint)n);
        }
    }
}

static void way_pull(struct courier *c)
{
    static uint8_t buf[READ_BYTES];
    ssize_t n = pull(c->in, buf);

    if (n > 0) {
        c->rx_us = g_get_monotonic_time();
        g_byte_array_append(c->rx, buf, (guint)n);
        parse(c);
    }
    c->in_ended = n == 0;
}

static void way_push(struct courier *c)
{
    if (!c->out_broken && !push(c->out, c->tx)) {
        c->out_broken = true; /* what it said before is still to be read */
        g_byte_array_set_size(c->tx, 0);
    }
}

/* ---- the loop ---- */

static void keep_alive(struct courier *c, gint64 now_us)
{
    if (now_us - c->rx_us > SILENCE_S * G_USEC_PER_SEC && !c->hello_by_us) {
        fail(c, "no sign of the other side for %d s", SILENCE_S);
    }
    if (now_us - c->tx_us > ALIVE_S * G_USEC_PER_SEC && c->tx->len == 0) {
        put_frame(c, COURIER_ALIVE, 0, NULL, 0);
    }
}

static short stream_events(const struct courier *c, const struct stream *s)
{
    short events = s->out->len > 0 ? POLLOUT : 0;

    /* Until far has started the QEMU there is nobody to send it to. */
    if (!s->in_ended && c->tx->len < QUEUE_BYTES && !c->out_broken &&
        !c->hello_by_us) {
        events |= POLLIN;
    }
    return events;
}

/* One round. Return: false: the child ended, or was asked to. */
static bool step(struct courier *c, int timeout_ms)
{
    struct pollfd p[4 + NR_STREAMS];

    way_push(c);
    p[0] = (struct pollfd) { .fd = c->in_ended ? -1 : c->in, .events = POLLIN };
    p[1] = (struct pollfd) { .fd = c->tx->len ? c->out : -1, .events = POLLOUT };
    p[2] = (struct pollfd) { .fd = c->child_fd, .events = POLLIN };
    p[3] = (struct pollfd) { .fd = c->signal_fd, .events = POLLIN };
    for (unsigned i = 0; i < NR_STREAMS; i++) {
        struct stream *s = &c->stream[i];
        short events = stream_events(c, s);

        p[4 + i] = (struct pollfd) { .fd = events ? s->fd : -1,
                                     .events = events };
    }
    if (poll(p, G_N_ELEMENTS(p), timeout_ms) < 0) {
        return true; /* EINTR */
    }
    for (unsigned i = 0; i < NR_STREAMS; i++) {
        if (p[4 + i].revents) {
            stream_push(&c->stream[i]);
            if ((p[4 + i].revents & (POLLIN | POLLHUP | POLLERR)) &&
                !c->stream[i].in_ended) {
                stream_pull(c, i);
            }
        }
    }
    if (p[0].revents) {
        way_pull(c);
    }
    way_push(c);
    keep_alive(c, g_get_monotonic_time());
    return !p[2].revents && !p[3].revents;
}

static void set_nonblocking(int fd)
{
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static void courier_init(struct courier *c, bool near)
{
    *c = (struct courier) {
        .near = near,
        .in = -1,
        .out = -1,
        .child_fd = -1,
        .signal_fd = -1,
        .rx = g_byte_array_new(),
        .tx = g_byte_array_new(),
        .start = g_byte_array_new(),
        .request = g_byte_array_new(),
        .rx_us = g_get_monotonic_time(),
        .tx_us = g_get_monotonic_time(),
    };
    for (unsigned i = 0; i < NR_STREAMS; i++) {
        c->stream[i].fd = -1;
        c->stream[i].out = g_byte_array_new();
    }
    signal(SIGPIPE, SIG_IGN);
}

/* Give the child up to @timeout_ms to end, then kill it. Return: its status. */
static siginfo_t reap(struct courier *c, int timeout_ms)
{
    struct pollfd p = { .fd = c->child_fd, .events = POLLIN };
    siginfo_t info = { 0 };

    if (poll(&p, 1, timeout_ms) <= 0) {
        syscall(SYS_pidfd_send_signal, c->child_fd, SIGKILL, NULL, 0);
    }
    while (waitid(P_PIDFD, (id_t)c->child_fd, &info, WEXITED) < 0 &&
           errno == EINTR) {}
    close_fd(&c->child_fd);
    return info;
}

/* ---- near ---- */

static bool near_spawn(struct courier *c, char **argv)
{
    sigset_t none;
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        fail(c, "socketpair: %s", g_strerror(errno));
        return false;
    }
    c->child = fork();
    if (c->child < 0) {
        fail(c, "fork: %s", g_strerror(errno));
        return false;
    }
    if (c->child == 0) {
        dup2(pair[1], STDIN_FILENO);
        dup2(pair[1], STDOUT_FILENO);
        signal(SIGPIPE, SIG_DFL);
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        /* Should near be killed; else the end of its input ends it. */
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        execvp(argv[0], argv);
        complain("%s: %s", argv[0], g_strerror(errno));
        _exit(EXIT_NOT_FOUND);
    }
    close(pair[1]);
    c->in = c->out = pair[0];
    set_nonblocking(c->in);
    c->child_fd = (int)syscall(SYS_pidfd_open, c->child, 0);
    return true;
}

/* Read the request; fills c->request and *ret_argv. */
static bool near_read_request(struct courier *c, char ***ret_argv)
{
    g_autoptr(JsonParser) parser = json_parser_new();
    off_t bytes = lseek(QEMU_FD_REQUEST, 0, SEEK_END);
    g_autofree char *text = g_malloc0((gsize)MAX(bytes, 0) + 1);
    GPtrArray *argv = g_ptr_array_new();
    const char *request;
    JsonObject *o;
    JsonArray *a;

    if (bytes <= 0 || pread(QEMU_FD_REQUEST, text, (size_t)bytes, 0) != bytes ||
        !json_parser_load_from_data(parser, text, bytes, NULL)) {
        g_ptr_array_unref(argv);
        fail(c, "this command is only for the launcher itself");
        return false;
    }
    o = json_node_get_object(json_parser_get_root(parser));
    a = json_object_get_array_member(o, "argv");
    for (unsigned i = 0; i < json_array_get_length(a); i++) {
        g_ptr_array_add(argv, g_strdup(json_array_get_string_element(a, i)));
    }
    g_ptr_array_add(argv, NULL);
    *ret_argv = (char **)g_ptr_array_free(argv, FALSE);
    c->host = g_strdup(json_object_get_string_member(o, "host"));
    c->prefix = g_strdup(json_object_get_string_member(o, "prefix"));
    request = json_object_get_string_member(o, "request");
    g_byte_array_append(c->request, (const guint8 *)request,
                        (guint)strlen(request));
    close(QEMU_FD_REQUEST);
    return true;
}

/* Stop asking, so that far ends its QEMU and start-command ends. */
static void near_leave(struct courier *c)
{
    if (!c->leave_by_us) {
        c->leave_by_us = g_get_monotonic_time() + LEAVE_MS * 1000;
        way_push(c);
        shutdown(c->out, SHUT_WR);
        c->out_broken = true;
        g_byte_array_set_size(c->tx, 0);
    }
}

static void near_relay(struct courier *c)
{
    while (!c->error && !c->exited && !c->in_ended) {
        gint64 now_us = g_get_monotonic_time();

        if (c->hello_by_us && now_us > c->hello_by_us) {
            fail(c, "it did not answer within %d s", HELLO_S);
        } else if (c->leave_by_us &&
                   (c->hello_by_us || now_us > c->leave_by_us)) {
            return; /* nothing was started, or it does not end */
        }
        if (!step(c, c->leave_by_us ? 100 : 1000)) {
            struct pollfd p = { .fd = c->signal_fd, .events = POLLIN };

            if (c->signal_fd >= 0 && poll(&p, 1, 0) > 0) {
                close_fd(&c->signal_fd); /* one is enough */
                near_leave(c);
            }
            /* start-command has ended; what it said is still in the socket */
            while (!c->in_ended && !c->exited && !c->error &&
                   poll(&(struct pollfd) { .fd = c->child_fd,
                                           .events = POLLIN }, 1, 0) > 0) {
                way_pull(c);
                c->in_ended |= recv(c->in, &(char) { 0 }, 1,
                                    MSG_PEEK | MSG_DONTWAIT) <= 0;
            }
        }
    }
}

/* What came must reach the supervisor before it hears of our end. */
static void near_flush(struct courier *c)
{
    for (unsigned i = 0; i < NR_STREAMS; i++) {
        struct stream *s = &c->stream[i];
        struct pollfd p = { .fd = s->fd, .events = POLLOUT };

        while (s->out->len > 0 && poll(&p, 1, REAP_MS) > 0) {
            stream_push(s);
        }
    }
}

/* As the QEMU ended, so that our parent sees it. */
static G_NORETURN void near_exit(const struct courier *c)
{
    if (c->exit_kind == 1) {
        sigset_t one;

        prctl(PR_SET_DUMPABLE, 0);
        signal((int)c->exit_value, SIG_DFL);
        sigemptyset(&one);
        sigaddset(&one, (int)c->exit_value);
        sigprocmask(SIG_UNBLOCK, &one, NULL);
        raise((int)c->exit_value);
    }
    _exit((int)c->exit_value);
}

static void near_complain(struct courier *c, const siginfo_t *child)
{
    g_autofree char *how =
        child->si_code == CLD_EXITED
            ? g_strdup_printf("ended with status %d", child->si_status)
            : g_strdup_printf("was killed by signal %d", child->si_status);

    if (c->hello_by_us && !c->error) {
        pass_noise(c, c->rx->len);
    }
    if (c->noise) {
        write_all(STDERR_FILENO, "\n", 1);
    }
    if (c->error) {
        g_auto(GStrv) lines = g_strsplit(c->error, "\n", -1);

        for (char **line = lines; *line; line++) {
            g_autofree char *shown = printable_line(*line, -1);

            complain("host %s: %s", c->host, shown);
        }
    } else if (c->leave_by_us) {
        complain("host %s: left", c->host);
    } else if (c->hello_by_us) {
        complain("host %s: start-command %s before chimera answered there; is "
                 "the host up, and %s/bin/chimera on it?",
                 c->host, how, c->prefix);
    } else {
        complain("host %s: the connection is lost: start-command %s", c->host,
                 how);
    }
}

int courier_near(void)
{
    g_auto(GStrv) argv = NULL;
    struct courier c;
    siginfo_t child = { 0 };
    sigset_t term;

    courier_init(&c, true);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, NULL);
    if (!near_read_request(&c, &argv)) {
        complain("%s", c.error);
        return EXIT_USAGE;
    }
    c.signal_fd = signalfd(-1, &term, SFD_CLOEXEC);
    for (int i = 0; i < NR_STREAMS; i++) {
        c.stream[i].fd = FIRST_STREAM + i;
        fcntl(c.stream[i].fd, F_SETFD, FD_CLOEXEC);
        set_nonblocking(c.stream[i].fd);
    }
    fcntl(QEMU_FD_KEY_ID, F_SETFD, FD_CLOEXEC);
    c.hello_by_us = g_get_monotonic_time() + HELLO_S * G_USEC_PER_SEC;
    if (near_spawn(&c, argv)) {
        near_relay(&c);
        near_flush(&c);
        close_fd(&c.in); /* also what ends far, if it still runs */
        child = reap(&c, c.hello_by_us && !c.in_ended ? 0 : REAP_MS);
    }
    if (c.exited) {
        near_exit(&c);
    }
    near_complain(&c, &child);
    return EXIT_LAUNCHER;
}

/* ---- far ---- */

static const char *string_of(JsonObject *o, const char *name)
{
    return json_object_get_string_member_with_default(o, name, "");
}

static struct machine_config *far_config(JsonObject *o, unsigned self,
                                         GError **error)
{
    const char *text = string_of(o, "text");
    struct machine_config *config =
        config_parse(string_of(o, "path"), text, strlen(text), error);

    if (!config) {
        return NULL;
    }
    g_free(config->name);
    config->name = g_strdup(string_of(o, "name"));
    g_free(config->share);
    config->share = g_strdup(string_of(o, "share"));
    if (self >= config->nodes->len || !config_name_is_valid(config->name)) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_PROTO,
                    "the request contradicts itself");
        g_clear_pointer(&config, config_free);
    }
    return config;
}

static pid_t far_start_qemu(struct courier *c, GError **error)
{
    g_autoptr(JsonParser) parser = json_parser_new();
    g_autoptr(MachineConfig) config = NULL;
    g_autofree char *key_id = NULL;
    struct qemu_spec spec = { 0 };
    int far[QEMU_FD_END - QEMU_FD_QMP], pair[2];
    JsonObject *o;
    pid_t pid;

    if (!json_parser_load_from_data(parser, (const char *)c->start->data,
                                    (gssize)c->start->len, error)) {
        return -1;
    }
    if (!JSON_NODE_HOLDS_OBJECT(json_parser_get_root(parser))) {
        g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_PROTO,
                    "the request is no object");
        return -1;
    }
    o = json_node_get_object(json_parser_get_root(parser));
    spec.self = (unsigned)json_object_get_int_member_with_default(o, "self",
                                                                  0);
    config = far_config(o, spec.self, error);
    if (!config || !preflight_far(config, spec.self, &spec.accel, error)) {
        return -1;
    }
    spec.config = config;
    spec.machine_uuid = string_of(o, "uuid");
    key_id = preflight_key_id(config, spec.machine_uuid);
    if (key_id) {
        put_text(c, COURIER_KEY_ID, key_id);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(far); i++) {
        far[i] = -1;
    }
    for (unsigned i = 0; i < NR_STREAMS; i++) {
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
            g_set_error(error, CHIMERA_ERROR, CHIMERA_ERROR_HOST,
                        "socketpair: %s", g_strerror(errno));
            return -1;
        }
        c->stream[i].fd = pair[0];
        set_nonblocking(pair[0]);
        far[i] = pair[1];
    }
    pid = qemu_start(&spec, far, NULL, error);
    for (unsigned i = 0; i < NR_STREAMS; i++) {
        close(far[i]);
    }
    return pid;
}

static void far_start(struct courier *c)
{
    g_autoptr(GError) error = NULL;

    c->child = far_start_qemu(c, &error);
    if (c->child < 0) {
        fail(c, "%s", error->message);
        return;
    }
    c->child_fd = (int)syscall(SYS_pidfd_open, c->child, 0);
}

static void far_flush(struct courier *c)
{
    struct pollfd p = { .fd = c->out, .events = POLLOUT };

    while (c->tx->len > 0 && !c->out_broken && poll(&p, 1, REAP_MS) > 0) {
        way_push(c);
    }
}

int courier_far(void)
{
    g_autofree char *text = g_strdup_printf("....%s\n%s", CHIMERA_VERSION,
                                            prefix_dir());
    struct courier c;
    bool running = true;

    courier_init(&c, false);
    /*
     * Not our standard input and output: those are QEMU's, which finds
     * nothing there and writes to where our messages go.
     */
    c.in = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, QEMU_FD_END);
    c.out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, QEMU_FD_END);
    dup2(STDERR_FILENO, STDOUT_FILENO);
    set_nonblocking(c.in);
    set_nonblocking(c.out);
    frame_put_u32((uint8_t *)text, COURIER_VERSION);
    put_frame(&c, COURIER_HELLO, 0, text, 4 + strlen(text + 4));
    while (running && !c.error && !c.in_ended && !c.out_broken) {
        running = step(&c, 1000);
    }
    if (c.child_fd >= 0) {
        siginfo_t info = reap(&c, 0);
        uint8_t wire[8];

        for (unsigned i = 0; i < NR_STREAMS && !running; i++) {
            while (stream_pull(&c, i)) {}
        }
        frame_put_u32(wire, info.si_code == CLD_EXITED ? 0 : 1);
        frame_put_u32(wire + 4, (uint32_t)info.si_status);
        if (!running) {
            put_frame(&c, COURIER_EXIT, 0, wire, sizeof(wire));
        }
    }
    if (c.error) {
        put_text(&c, COURIER_ERROR, c.error);
    }
    far_flush(&c);
    return running ? EXIT_FAILED : EXIT_OK;
}
