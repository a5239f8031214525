/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"
#include "region.h"
#include "transport_loopback.h"

uint64_t patience_end_ns(void)
{
    return dsm__now_ns() + PATIENCE_MS * DSM__NSEC_PER_MSEC;
}

/* Callbacks */

static bool on_message(void *opaque, uint16_t from, enum dsm_class cls,
                       const void *data, uint32_t bytes)
{
    struct tnode *t = opaque;

    assert_int_equal(dsm_peer_state(t->node, from), DSM_PEER_UP);
    if (t->refuse[from][cls] ||
        (t->on_message && !t->on_message(t, from, cls, data, bytes))) {
        return false;
    }
    t->taken[from][cls]++;
    return true;
}

static void on_writable(void *opaque, uint16_t to, enum dsm_class cls)
{
    struct tnode *t = opaque;

    t->writable[to][cls]++;
    if (t->on_writable) {
        t->on_writable(t, to, cls);
    }
}

static void on_doorbell(void *opaque, uint16_t from, uint64_t bits)
{
    struct tnode *t = opaque;

    assert_true(bits != 0);
    t->bits[from] |= bits;
    t->bit_calls[from]++;
}

static void on_peer_state(void *opaque, uint16_t peer,
                          enum dsm_peer_state state, const char *reason)
{
    struct tnode *t = opaque;

    assert_int_equal(dsm_peer_state(t->node, peer), state);
    assert_null(strchr(reason, '\n'));
    if (state == DSM_PEER_UP) {
        assert_string_equal(reason, "");
        t->ups[peer]++;
        if (t->on_up) {
            t->on_up(t, peer);
        }
    } else {
        assert_int_equal(state, DSM_PEER_DOWN);
        t->downs[peer]++;
        snprintf(t->down_reason[peer], DSM_REASON_BYTES, "%s", reason);
    }
}

static void on_rejected(void *opaque, const char *reason)
{
    struct tnode *t = opaque;

    assert_null(strchr(reason, '\n'));
    t->nr_rejected++;
    snprintf(t->rejected, sizeof(t->rejected), "%s", reason);
}

static const struct dsm_ops test_ops = {
    .message = on_message,
    .writable = on_writable,
    .doorbell = on_doorbell,
    .peer_state = on_peer_state,
    .rejected = on_rejected,
};

/* Clusters */

/* A port that was free a moment ago. */
static int free_port(void)
{
    struct sockaddr_in sa = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    socklen_t len = sizeof(sa);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, len), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    close(fd);
    return ntohs(sa.sin_port);
}

static struct dsm_key *new_key(const struct cluster *c, const char *text)
{
    char path[96], reason[DSM_REASON_BYTES];
    struct dsm_key *key;

    snprintf(path, sizeof(path), "%s/key", c->dir);
    write_file(path, text, 0600);
    assert_int_equal(dsm_key_load(path, &key, reason), 0);
    assert_int_equal(unlink(path), 0);
    return key;
}

struct cluster *cluster_new(int nr, enum wiring wiring)
{
    struct cluster *c = calloc(1, sizeof(*c));
    bool tcp = wiring == WIRE_TCP || wiring == WIRE_TLS;

    assert_non_null(c);
    c->nr = nr;
    snprintf(c->dir, sizeof(c->dir), "/tmp/dsm-test-XXXXXX");
    assert_non_null(mkdtemp(c->dir));
    for (int i = 0; i < nr; i++) {
        if (tcp) {
            snprintf(c->address[i], sizeof(c->address[i]),
                     "tcp:127.0.0.1:%d", free_port());
        } else if (wiring == WIRE_LOOPBACK) {
            snprintf(c->address[i], sizeof(c->address[i]), "loopback:%d", i);
        } else {
            snprintf(c->address[i], sizeof(c->address[i]), "unix:%s/%d",
                     c->dir, i);
        }
        snprintf(c->desc[i].name, sizeof(c->desc[i].name), "node%d", i);
        c->desc[i].elf_machine = i % 2 ? 183 : 62;
        c->desc[i].cpus = 1 + i;
        c->desc[i].ram_bytes = REGION_BYTES * (1 + i % 3);
        c->desc[i].address = c->address[i];
    }
    c->config = (struct dsm_config) {
        .machine_uuid = { 1, 2, 3 },
        .coherence = tcp ? DSM_COHERENCE_PAGES : DSM_COHERENCE_SHARED,
        .nr_nodes = nr,
        .nodes = c->desc,
        .connect_retry_ms = 2,
    };
    c->options.links_only = tcp;
    if (wiring == WIRE_TLS) {
        c->key[0] = new_key(c, "a:000102030405060708090a0b0c0d0e0f\n");
        c->key[1] = new_key(c, "a:000102030405060708090a0b0c0d0e10\n");
        c->config.key = c->key[0];
    }
    if (wiring == WIRE_LOOPBACK) {
        c->hub = dsm__hub_new();
        c->options.transport = &dsm__transport_loopback;
        c->options.transport_ctx = c->hub;
    }
    for (int i = 0; i < nr; i++) {
        c->nodes[i].cluster = c;
        c->nodes[i].self = i;
    }
    return c;
}

/* Map and attach all regions but the late one, which is the owner's then. */
static void tnode_attach(struct tnode *t)
{
    for (int i = 0; i < t->cluster->nr; i++) {
        struct dsm_region_params params = { 0 };

        if (i && i == t->cluster->late_region && i != t->self) {
            continue;
        }
        if (t->cluster->config.code && i != t->self) {
            continue; /* it comes with the link */
        }

        t->memory[i] = mmap(NULL, t->cluster->desc[i].ram_bytes,
                            PROT_READ | PROT_WRITE, MAP_SHARED,
                            dsm_region_fd(t->node, i), 0);
        assert_true(t->memory[i] != MAP_FAILED);
        params.memory = t->memory[i];
        assert_int_equal(dsm_region_attach(t->node, i, &params), 0);
    }
}

void cluster_start_node(struct cluster *c, int index)
{
    struct dsm_config config = c->config;

    config.self = index;
    assert_int_equal(dsm__node_create(&config, &test_ops, &c->nodes[index],
                                      &c->options, &c->nodes[index].node),
                     0);
    if (c->nodes[index].node->pages) {
        tnode_attach(&c->nodes[index]);
    }
    assert_int_equal(dsm_node_start(c->nodes[index].node), 0);
}

void cluster_stop_node(struct cluster *c, int index)
{
    dsm_node_destroy(c->nodes[index].node);
    c->nodes[index].node = NULL;
    for (int i = 0; i < c->nr; i++) {
        if (c->nodes[index].memory[i]) {
            munmap(c->nodes[index].memory[i], c->desc[i].ram_bytes);
            c->nodes[index].memory[i] = NULL;
        }
    }
}

void cluster_free(struct cluster *c)
{
    for (int i = 0; i < c->nr; i++) {
        cluster_stop_node(c, i);
    }
    if (c->hub) {
        dsm__hub_free(c->hub);
    }
    dsm_key_free(c->key[0]);
    dsm_key_free(c->key[1]);
    /* Nodes leave nothing behind: the directory must be empty. */
    assert_int_equal(rmdir(c->dir), 0);
    free(c);
}

static bool cluster_all_up(const struct cluster *c)
{
    for (int i = 0; i < c->nr; i++) {
        for (int j = 0; j < c->nr; j++) {
            if (dsm_peer_state(c->nodes[i].node, j) != DSM_PEER_UP) {
                return false;
            }
        }
    }
    return true;
}

void cluster_start(struct cluster *c)
{
    for (int i = 0; i < c->nr; i++) {
        cluster_start_node(c, i);
    }
    cluster_wait(c, cluster_all_up(c));
    cluster_settle(c);
}

/* Return: number of things that happened. */
static int cluster_turn(struct cluster *c)
{
    int happened = 0;

    for (int i = 0; i < c->nr; i++) {
        if (c->nodes[i].node) {
            happened += dsm_node_dispatch(c->nodes[i].node);
        }
    }
    for (unsigned int i = 0; c->hub && i < dsm__hub_nr_lanes(c->hub); i++) {
        happened += dsm__hub_move(c->hub, i, SIZE_MAX);
    }
    return happened;
}

void cluster_settle(struct cluster *c)
{
    while (cluster_turn(c) > 0) {
    }
}

bool cluster_step(struct cluster *c, uint64_t end_ns)
{
    struct pollfd pfd[DSM_MAX_NODES];
    uint64_t now_ns = dsm__now_ns();
    int nr = 0;

    if (now_ns >= end_ns) {
        return false;
    }
    if (cluster_turn(c) > 0) {
        return true;
    }
    for (int i = 0; i < c->nr; i++) {
        if (c->nodes[i].node) {
            pfd[nr++] = (struct pollfd) {
                .fd = dsm_node_fd(c->nodes[i].node),
                .events = POLLIN,
            };
        }
    }
    /* Short, since other things than the nodes may be waited for. */
    poll(pfd, nr, 5);
    return true;
}

int tnode_send(struct tnode *t, uint16_t to, enum dsm_class cls,
               const void *data, size_t bytes)
{
    struct iovec iov = { .iov_base = (void *)data, .iov_len = bytes };

    return dsm_send(t->node, to, cls, &iov, 1);
}

/* Peers by hand */

static struct sockaddr_un raw_address(struct cluster *c, int index)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };

    snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/%d", c->dir, index);
    return sa;
}

static void raw_init(struct raw *r, int fd)
{
    *r = (struct raw) { .fd = fd, .passed_fd = -1 };
    assert_true(fd >= 0);
}

void raw_connect(struct raw *r, struct cluster *c, int to)
{
    struct sockaddr_un sa = raw_address(c, to);

    raw_init(r, socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    assert_int_equal(connect(r->fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
}

void raw_listen(int *ret_listener, struct cluster *c, int as)
{
    struct sockaddr_un sa = raw_address(c, as);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(listen(fd, 8), 0);
    *ret_listener = fd;
}

void raw_accept(struct raw *r, struct cluster *c, int listener)
{
    int fd;

    cluster_wait(c, (fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0);
    raw_init(r, fd);
}

void raw_close(struct raw *r)
{
    if (r->fd >= 0) {
        close(r->fd);
        r->fd = -1;
    }
    if (r->passed_fd >= 0) {
        close(r->passed_fd);
        r->passed_fd = -1;
    }
}

void raw_put_bytes(struct raw *r, const void *data, size_t bytes)
{
    /* The node may have closed already; what it said is then to be read. */
    send(r->fd, data, bytes, MSG_NOSIGNAL);
}

void raw_put(struct raw *r, const struct dsm__frame *frame)
{
    raw_put_fds(r, frame, NULL, 0);
}

void raw_put_fds(struct raw *r, const struct dsm__frame *frame,
                 const int *fds, int nr)
{
    static uint8_t buf[DSM__WIRE_FRAME_MAX_BYTES];
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int) * 64)];
    } control = { .space = { 0 } };
    struct dsm__frame f = *frame;
    struct iovec iov = { .iov_base = buf };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

    if (f.seq == 0) {
        f.seq = r->seq++;
    }
    iov.iov_len = dsm__wire_encode(buf, &f);
    if (nr > 0) {
        struct cmsghdr *cmsg;

        msg.msg_control = control.space;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * nr);
        cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int) * nr);
        memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * nr);
    }
    sendmsg(r->fd, &msg, MSG_NOSIGNAL);
}

static void raw_read(struct raw *r)
{
    struct dsm__fds fds;
    ssize_t n = dsm__sock_recv(r->fd, r->buf + r->bytes,
                               sizeof(r->buf) - r->bytes, &fds);

    if (n == 0 || n == -ECONNRESET || n == -EPIPE) {
        r->closed = true;
    } else if (n > 0) {
        r->bytes += n;
        for (int i = 0; i < fds.nr; i++) {
            if (r->passed_fd >= 0) {
                close(r->passed_fd);
            }
            r->passed_fd = fds.fd[i];
        }
    }
}

bool raw_get(struct raw *r, struct cluster *c, struct dsm__frame *ret)
{
    static uint8_t last[DSM__WIRE_FRAME_MAX_BYTES];
    const char *why = "";
    int n;

    for (;;) {
        cluster_wait(c, (raw_read(r), n = dsm__wire_decode(r->buf, r->bytes,
                                                           ret, &why)) != 0 ||
                            r->closed);
        if (n < 0) {
            fail_msg("the node sent a malformed frame: %s", why);
        }
        if (n == 0) {
            return false;
        }
        memcpy(last, r->buf, n);
        assert_int_equal(dsm__wire_decode(last, n, ret, &why), n);
        r->bytes -= n;
        memmove(r->buf, r->buf + n, r->bytes);
        if (ret->type != DSM__FRAME_PING && ret->type != DSM__FRAME_CREDIT) {
            return true;
        }
    }
}

void raw_expect(struct raw *r, struct cluster *c, enum dsm__frame_type type,
                struct dsm__frame *ret)
{
    struct dsm__frame f = { 0 };

    if (!raw_get(r, c, &f)) {
        fail_msg("closed in place of %s", dsm__wire_frame_name(type));
    }
    if (f.type != type) {
        fail_msg("%s in place of %s (%.*s)", dsm__wire_frame_name(f.type),
                 dsm__wire_frame_name(type),
                 f.type == DSM__FRAME_REJECT || f.type == DSM__FRAME_ERROR
                     ? (int)f.notice.text_bytes
                     : 0,
                 f.notice.text);
    }
    if (ret) {
        *ret = f;
    }
}

void raw_expect_closed(struct raw *r, struct cluster *c)
{
    struct dsm__frame f;

    if (raw_get(r, c, &f)) {
        fail_msg("%s in place of a close", dsm__wire_frame_name(f.type));
    }
}

struct dsm__frame frame_of(enum dsm__frame_type type)
{
    return (struct dsm__frame) { .type = type, .version = 1 };
}

struct dsm__frame hello_of(struct cluster *c, int from, int to,
                           enum dsm__frame_type type)
{
    struct dsm__frame f = frame_of(type);

    f.hello = (struct dsm__hello) {
        .version_min = 1,
        .version_max = 1,
        .from = from,
        .to = to,
        .nr_nodes = c->nr,
        .elf_machine = c->desc[from].elf_machine,
        .features_offered = c->config.code ? DSM__FEATURE_CODE : 0,
        .features_required = c->config.code ? DSM__FEATURE_CODE : 0,
        .coherence = c->config.coherence,
        .page_bytes = sysconf(_SC_PAGESIZE),
        .cpus = c->desc[from].cpus,
        .ram_bytes = c->desc[from].ram_bytes,
        .window = { 64, 64, 64, 64 },
        .doorbell_window = 8,
    };
    memcpy(f.hello.machine_uuid, c->config.machine_uuid, DSM_UUID_BYTES);
    memcpy(f.hello.name, c->desc[from].name, DSM_NAME_BYTES);
    return f;
}

struct dsm__frame region_of(struct cluster *c, int owner)
{
    struct dsm__frame f = frame_of(DSM__FRAME_REGION);

    f.region.owner = owner;
    f.region.bytes = c->desc[owner].ram_bytes;
    return f;
}

void raw_handshake(struct raw *r, struct cluster *c, int as, int to)
{
    struct dsm__frame f = hello_of(c, as, to, DSM__FRAME_HELLO);
    int fd;

    raw_connect(r, c, to);
    raw_put(r, &f);
    raw_expect(r, c, DSM__FRAME_HELLO_ACK, NULL);
    raw_expect(r, c, DSM__FRAME_REGION, NULL);
    f = region_of(c, as);
    fd = dsm__region_create("raw", f.region.bytes);
    assert_true(fd >= 0);
    raw_put_fds(r, &f, &fd, 1);
    close(fd);
    f = frame_of(DSM__FRAME_READY);
    raw_put(r, &f);
    raw_expect(r, c, DSM__FRAME_READY, NULL);
    assert_int_equal(dsm_peer_state(c->nodes[to].node, as), DSM_PEER_UP);
}

void write_file(const char *path, const char *text, unsigned int mode)
{
    size_t bytes = strlen(text);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, bytes), bytes);
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
}

int nr_open_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int nr = 0;

    assert_non_null(dir);
    while (readdir(dir)) {
        nr++;
    }
    closedir(dir);
    return nr;
}

/* Randomness: splitmix64 */

void rng_init(struct rng *rng, const char *test)
{
    const char *seed = getenv("DSM_TEST_SEED");

    rng->state = seed ? strtoull(seed, NULL, 0) : dsm__now_ns();
    print_message("%s: DSM_TEST_SEED=%llu\n", test,
                  (unsigned long long)rng->state);
}

uint64_t rng_next(struct rng *rng)
{
    uint64_t z = rng->state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint32_t rng_below(struct rng *rng, uint32_t bound)
{
    return (rng_next(rng) >> 32) % bound;
}
