/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libdsm: coherent memory and messages between the nodes of one machine.
 *
 * A machine is a fixed set of nodes, known to all of them before any of them
 * starts. Every node owns one region (its RAM) and can attach every other
 * node's region. A node is one process; the process gives libdsm its event
 * loop: an fd to poll and a function to call when it is readable.
 *
 * Context: unless a function says otherwise, calls on one node are serialised
 * by the caller (QEMU: they are made under the big QEMU lock). Callbacks run
 * inside dsm_node_dispatch() and nowhere else, and may call back into libdsm,
 * except for dsm_node_destroy() and dsm_node_dispatch(). No call blocks.
 *
 * Errors: 0 or a negative errno; a ret_ pointer is untouched on failure. The
 * library never logs, never exits, never raises SIGPIPE and has no global
 * state.
 */
#ifndef DSM_DSM_H
#define DSM_DSM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DSM_MAX_NODES 64
#define DSM_MAX_MESSAGE_BYTES 4096
#define DSM_MAX_CREDITS 1024 /* largest window of one class, in messages */
#define DSM_NAME_BYTES 32 /* with its terminating NUL */
#define DSM_UUID_BYTES 16
#define DSM_REASON_BYTES 160 /* with its terminating NUL */
#define DSM_HISTOGRAM_BUCKETS 40
#define DSM_HEAT_RANGES 128
#define DSM_HEAT_PAGES 64

struct dsm_node;
struct dsm_key;

/** How the regions of a machine are kept coherent. */
enum dsm_coherence {
    DSM_COHERENCE_SHARED = 0, /* one memfd mapped by every process */
    DSM_COHERENCE_PAGES = 1,  /* page protocol: docs/coherence.md */
};

/**
 * Message classes. Messages are delivered in order within one (peer, class)
 * and have no order between classes. Each class has its own window of
 * credits, so a class that the receiver does not read never delays another.
 */
enum dsm_class {
    DSM_CLASS_REPLY = 0,   /* replies and invalidations, one ordered stream */
    DSM_CLASS_ACK = 1,     /* acknowledgements: never wait for anything */
    DSM_CLASS_REQUEST = 2, /* requests */
    DSM_CLASS_BULK = 3,    /* user messages and bulk data */
    DSM_NR_CLASSES
};

/**
 * State of a peer as this node sees it. It only ever moves forward; a node
 * that was lost does not come back within the life of the machine.
 */
enum dsm_peer_state {
    DSM_PEER_ABSENT = 0, /* not connected yet */
    DSM_PEER_UP = 1,     /* connected, its region can be attached */
    DSM_PEER_DOWN = 2,   /* lost or left; its region is still held here */
    DSM_PEER_FENCED = 3, /* dsm_peer_fence() was called: region released */
};

/** One node of the machine, as every node is told about it. */
struct dsm_node_desc {
    char name[DSM_NAME_BYTES];
    uint16_t elf_machine; /* ISA, as in ELF's e_machine: 62, 183, ... */
    uint32_t cpus;
    uint64_t ram_bytes;  /* size of its region; a multiple of the page size */
    /*
     * Where it listens: "unix:PATH" (at most 107 bytes of path), or
     * "tcp:HOST:PORT" with a numeric HOST (IPv6 in brackets). TCP cannot pass
     * memory, so it is -EINVAL with DSM_COHERENCE_SHARED; without a key it is
     * -ENOKEY unless HOST is a loopback address.
     */
    const char *address;
};

struct dsm_config {
    uint8_t machine_uuid[DSM_UUID_BYTES]; /* a link to another machine's node
                                             is refused */
    enum dsm_coherence coherence;
    uint16_t self;     /* index of this node in nodes[] */
    uint16_t nr_nodes; /* 1..DSM_MAX_NODES */
    const struct dsm_node_desc *nodes; /* copied by dsm_node_create() */

    /*
     * The key of the machine: all its TCP links are authenticated with it and
     * encrypted. NULL: they are not. Belongs to the caller, who keeps it until
     * the node is destroyed.
     */
    struct dsm_key *key;

    /* 0 means the default given here. */
    uint32_t credits[DSM_NR_CLASSES]; /* receive window in messages: 64 */
    uint32_t connect_retry_ms;        /* between two attempts: 20 */
    uint32_t handshake_timeout_ms;    /* of one connection: 5000 */
    uint32_t heartbeat_ms;            /* silence before a PING: 2000 */
    uint32_t peer_timeout_ms; /* silence before DOWN, at least two
                                 heartbeats: 30000 */

    /*
     * DSM_COHERENCE_SHARED only, the same on all nodes: nobody writes a page
     * that another node executes; see dsm_region_execute(). Takes what
     * dsm_pages_available() looks for. All mappings of regions are to be
     * attached.
     */
    bool code;

    /* With DSM_COHERENCE_PAGES, or code. */
    uint32_t hold_us; /* a page just won is kept for so long: 50 */
    bool no_hold;     /* it is not */
    uint32_t spin_us; /* after an event the protocol thread looks for the next
                         one for so long before it sleeps; 0: it sleeps */
};

/* All but rejected() are required. */
struct dsm_ops {
    /**
     * message() - one message has arrived.
     * @data: until return only, and not aligned to anything.
     * Return: true when it was taken; false to have it kept: nothing more of
     * this (from, cls) is delivered until dsm_resume(), then this message is
     * the first again. What is kept when the peer goes DOWN is dropped.
     */
    bool (*message)(void *opaque, uint16_t from, enum dsm_class cls,
                    const void *data, uint32_t len_bytes);
    /**
     * writable() - a dsm_send() that got -EAGAIN is worth another try. Once
     * for any number of them; not when the peer went DOWN instead.
     */
    void (*writable)(void *opaque, uint16_t to, enum dsm_class cls);
    /**
     * doorbell() - @bits (never 0) were rung by @from since the last call.
     * Comes no earlier than the messages that were sent before it, unless
     * they are kept.
     */
    void (*doorbell)(void *opaque, uint16_t from, uint64_t bits);
    /**
     * peer_state() - @peer became UP or DOWN.
     * @reason: for people, one line of ASCII; "" for UP, "left" when the
     *          peer said goodbye.
     *
     * UP comes before and DOWN after all else from that peer; messages may
     * follow UP in the same dispatch, so what they need is set up in here.
     * ABSENT becomes DOWN when the process at the peer's address is there but
     * can never be that node (another machine, configuration or version).
     */
    void (*peer_state)(void *opaque, uint16_t peer, enum dsm_peer_state state,
                       const char *reason);
    /**
     * rejected() - a connection came to nothing and no peer changed state:
     * somebody was refused at the door, sent garbage before its handshake was
     * done, or an attempt of this node failed other than because nobody
     * listens there yet; it will be repeated. May be NULL.
     */
    void (*rejected)(void *opaque, const char *reason);
};

/**
 * dsm_key_load() - read the key of a machine from a file.
 * @ret_reason: on failure, what is wrong with the file, for people.
 *
 * The file has one line, 32 to 128 hexadecimal digits, alone or behind a name
 * and a colon as psktool(1) writes it. It must be a regular file, belong to
 * the effective user and be of no use to others (mode 0600 or stricter).
 * Context: any thread.
 * Return: 0; -EACCES its owner or mode; -EINVAL what is in it; errors of
 * open(2) and read(2); -ENOMEM.
 */
int dsm_key_load(const char *path, struct dsm_key **ret_key,
                 char ret_reason[DSM_REASON_BYTES]);

/** dsm_key_free() - no node uses it any more. NULL is allowed. */
void dsm_key_free(struct dsm_key *key);

/**
 * dsm_address_needs_key() - is it an address of TCP outside this host's
 * loopback? False for what is no address.
 * Context: any thread.
 */
bool dsm_address_needs_key(const char *address);

/**
 * dsm_node_create() - make this process a node; allocates its region.
 * @opaque: handed to every callback.
 *
 * No peer is contacted yet. @config and @ops are copied.
 * DSM_COHERENCE_PAGES starts a thread, with all signals blocked.
 * Return: 0; -EINVAL the configuration contradicts itself; -ENOKEY a node's
 * address needs a key; what
 * dsm_pages_available() says; -ENOMEM, -EMFILE, ... from the system.
 * Source: docs/libdsm.md.
 */
int dsm_node_create(const struct dsm_config *config, const struct dsm_ops *ops,
                    void *opaque, struct dsm_node **ret_node);

/**
 * dsm_pages_available() - can this process use DSM_COHERENCE_PAGES?
 * @ret_why: if not, a constant string for people. May be NULL.
 * Return: 0; -EPERM, -ENOSYS, -EOPNOTSUPP, ...: what dsm_node_create() would
 * return.
 */
int dsm_pages_available(const char **ret_why);

/**
 * dsm_node_start() - listen at the own address and connect to the peers.
 *
 * Connections to nodes of a lower index are made from here and retried until
 * they stand or the node is destroyed; nodes of a higher index connect to us.
 * With DSM_COHERENCE_PAGES the own region must be attached.
 * Return: 0; -EADDRINUSE a live process listens there (a stale unix socket
 * is replaced); -ENOTSOCK something else has that path; -EALREADY it was
 * called before; -ENXIO the own region is not attached; other errors of
 * socket(2), bind(2), and of open(2) for the directory of the path, which is
 * locked meanwhile (flock).
 */
int dsm_node_start(struct dsm_node *node);

/**
 * dsm_node_destroy() - leave the machine: says goodbye, closes all links and
 * all descriptors; what is mapped of the regions stays so, but is coherent no
 * more, and who waits for a page reads what happens to be there. NULL is
 * allowed. No callback runs.
 */
void dsm_node_destroy(struct dsm_node *node);

/** dsm_node_fd() - readable whenever dsm_node_dispatch() has work. */
int dsm_node_fd(const struct dsm_node *node);

/**
 * dsm_node_dispatch() - handle whatever is ready, without blocking.
 * Return: number of events handled, 0 when there was nothing; -EBUSY from
 * inside a callback.
 */
int dsm_node_dispatch(struct dsm_node *node);

/**
 * dsm_region_fd() - the memory of node @owner as a file descriptor.
 *
 * With DSM_COHERENCE_PAGES this is the memory in which this node keeps its
 * copy of the region, and exists from the beginning. Map it, shared, once, and
 * attach the mapping before it is touched.
 *
 * The descriptor belongs to libdsm; it stays open until the region's owner
 * is fenced or the node destroyed. Its size is exactly the owner's ram_bytes
 * and is sealed against shrinking (checked for peers), so that a mapping of
 * it cannot fault because of what the peer does.
 * Return: the fd; -EINVAL no such node; -ENODATA the owner was not seen yet;
 * -EHOSTDOWN it is fenced; -EOPNOTSUPP there is none in this mode.
 */
int dsm_region_fd(const struct dsm_node *node, uint16_t owner);

/*
 * What an embedder tells about a mapping. The callbacks come from the protocol
 * thread, at any time, also while other threads of the process hold any lock
 * and wait for a page: they must not block, take a lock that is held while
 * memory of a region is touched, touch such memory, or call libdsm.
 */
struct dsm_region_params {
    void *memory; /* the mapping: all of the region, page aligned */
    bool ahead;   /* fetch ahead of sequential and strided reads */
    uint32_t ahead_max_pages; /* in one batch, at most 256: 128 */
    void *opaque;
    /**
     * invalidated() - these pages cannot be accessed here any more, and the
     * peer that will write them has not been told so yet: it is when this
     * returns. May be NULL.
     */
    void (*invalidated)(void *opaque, uint16_t owner, uint64_t page_idx,
                        uint64_t nr_pages);
    /**
     * executed() - is there a note of dsm_region_execute() for this page? If it
     * says no, others may get the right to write before they ask for it. May be
     * NULL.
     */
    bool (*executed)(void *opaque, uint16_t owner, uint64_t page_idx);
    /**
     * lost() - the data of these pages is lost with a node; an access gets
     * SIGBUS (BUS_MCEERR_AR). All pages: the region's owner is lost. Whoever
     * waits for one of them is about to get the signal. May be NULL.
     */
    void (*lost)(void *opaque, uint16_t owner, uint64_t page_idx,
                 uint64_t nr_pages);
    /**
     * failed() - the kernel refused what it must not, so the memory is no
     * longer coherent: the embedder should stop. May be NULL.
     */
    void (*failed)(void *opaque, uint16_t owner, const char *reason);
};

/**
 * dsm_region_attach() - keep a mapping of dsm_region_fd(@owner) coherent.
 *
 * The own region: before dsm_node_start(). What nobody shared yet of it is
 * ordinary memory, which may have huge pages; around a page that is shared they
 * are switched off (MADV_NOHUGEPAGE), 2 MiB at a time, and must stay off.
 * Another's: at any time; what is accessed before its owner is UP waits for
 * that. From here on an access may wait for other nodes, also one of the
 * kernel, but never for the caller's dsm_node_dispatch() or any lock of the
 * embedder.
 * Return: 0; -EINVAL the parameters are wrong; -EALREADY it is attached;
 * -EOPNOTSUPP coherence mode is not PAGES, nor is code set; -EHOSTDOWN the owner is lost;
 * errors of mmap(2), madvise(2) and UFFDIO_REGISTER.
 */
int dsm_region_attach(struct dsm_node *node, uint16_t owner,
                      const struct dsm_region_params *params);

/**
 * dsm_region_execute() - wait until this node may execute a page.
 *
 * For embedders that make something of the bytes of a page, translations of
 * the code there, and of which dsm_config.code is set. The order is: note that
 * the page is used; call this; read the page. When another node is about to
 * write to it, invalidated() looks at the note and drops what was made, or has
 * it dropped before it is used again. The same page need not be asked for again
 * before that.
 * Context: any thread, under any lock that invalidated() does not take.
 * Return: 0; -ENXIO it is not attached or code is not set; -EINVAL page_idx.
 */
int dsm_region_execute(struct dsm_node *node, uint16_t owner,
                       uint64_t page_idx);

/**
 * dsm_region_detach() - stop to watch a mapping of a lost node's region;
 * part of dsm_peer_fence(). The memory stays mapped as it is.
 * Return: 0; -ENXIO it is not attached; -EBUSY the owner is not lost.
 */
int dsm_region_detach(struct dsm_node *node, uint16_t owner);

/** Of one region, on this node, since it was attached. */
struct dsm_region_stats {
    /* gauges: pages by the state of this node's copy */
    uint64_t pages_none, pages_shared, pages_modified, pages_waiting;
    uint64_t pages_lost;
    /* counters */
    uint64_t read_faults;  /* that were answered by another node */
    uint64_t write_faults; /* the same; upgrades of readable pages included */
    uint64_t local_faults; /* that needed no message */
    uint64_t upgrades;     /* permissions to write that came without data */
    uint64_t taken;        /* pages asked for writing because one read them */
    uint64_t taken_unused; /* of these: not written until they were given up */
    uint64_t pages_in, pages_out;
    uint64_t invalidations; /* of copies here */
    uint64_t downgrades;    /* from writable to readable */
    uint64_t holds;         /* of these were put off */
    uint64_t ahead_asked, ahead_declined; /* pages, asked for ahead of use */
    uint64_t ahead_useful, ahead_wasted;  /* a batch counts as a whole */
    /* bucket b counts waits of [2^b, 2^(b+1)) ns; measured in us */
    uint64_t read_ns[DSM_HISTOGRAM_BUCKETS];
    uint64_t write_ns[DSM_HISTOGRAM_BUCKETS];
    uint64_t upgrade_ns[DSM_HISTOGRAM_BUCKETS];
};

/**
 * dsm_region_stats() - a copy of the region's statistics, of one instant.
 * Context: any thread, also while others wait for pages.
 * Return: 0; -ENXIO it is not attached.
 */
int dsm_region_stats(struct dsm_node *node, uint16_t owner,
                     struct dsm_region_stats *ret_stats);

/** One of the pages of a region that this node waits for most. */
struct dsm_hot_page {
    uint64_t page_idx;
    uint64_t faults; /* since it was taken into the table; exact */
    uint64_t writes; /* of these */
    uint64_t missed; /* it had at most so many before that */
};

/**
 * Where in one region this node had the faults that another node answered
 * (dsm_region_stats: read_faults + write_faults), since it was attached.
 *
 * The memory for this does not depend on the size of the region. Every page
 * that had more than faults / DSM_HEAT_PAGES of them is in page[]. Of the
 * difference between two calls: a page whose missed is the same has stayed in
 * the table and its faults can be subtracted; else it has come (back) since,
 * and all its faults are new.
 */
struct dsm_region_heat {
    uint64_t faults;      /* of all pages */
    uint64_t range_pages; /* pages in one range: a power of two */
    uint32_t nr_ranges;   /* the last one may be shorter */
    uint32_t nr_pages;
    uint64_t range[DSM_HEAT_RANGES]; /* faults by range; exact */
    struct dsm_hot_page page[DSM_HEAT_PAGES]; /* in no order */
};

/**
 * dsm_region_heat() - a copy of the region's hottest pages, of one instant.
 * Context: any thread, also while others wait for pages.
 * Return: 0; -ENXIO it is not attached.
 */
int dsm_region_heat(struct dsm_node *node, uint16_t owner,
                    struct dsm_region_heat *ret_heat);

/**
 * dsm_peer_state() - state of @peer; DSM_PEER_UP for the node itself,
 * DSM_PEER_ABSENT for an index that does not exist.
 * Context: any thread.
 */
enum dsm_peer_state dsm_peer_state(const struct dsm_node *node, uint16_t peer);

/**
 * dsm_peer_fence() - no mapping of @peer's region is left in this process.
 * Return: 0; -EBUSY the peer is not DOWN; -EINVAL no such peer.
 */
int dsm_peer_fence(struct dsm_node *node, uint16_t peer);

/**
 * dsm_send() - send one message, whole or not at all.
 * @iov: at most DSM_MAX_MESSAGE_BYTES in sum; not referenced after return.
 * Return: 0 it will arrive unless the peer or this node dies; -EAGAIN no
 * credit or no room: writable() follows; -EHOSTDOWN the peer is not UP;
 * -EMSGSIZE; -EINVAL unknown peer or class, or the node itself.
 */
int dsm_send(struct dsm_node *node, uint16_t to, enum dsm_class cls,
             const struct iovec *iov, int iovcnt);

/**
 * dsm_resume() - deliver again what message() left, in a dispatch that this
 * call brings about. Without effect when nothing was left.
 */
void dsm_resume(struct dsm_node *node, uint16_t from, enum dsm_class cls);

/**
 * dsm_doorbell() - ring @bits at @to. Doorbells not delivered yet coalesce
 * by OR; they need no credit and never fail for want of room. Each bit is
 * delivered at least once after it was rung, unless a side dies.
 * Return: 0; -EHOSTDOWN; -EINVAL unknown peer, the node itself, or bits 0.
 */
int dsm_doorbell(struct dsm_node *node, uint16_t to, uint64_t bits);

/**
 * Counters of one link since it is UP; all monotonic. They stay readable when
 * it is DOWN. Each is exact; taken together they are not one instant's.
 */
struct dsm_link_stats {
    uint64_t messages_sent[DSM_NR_CLASSES];
    uint64_t messages_received[DSM_NR_CLASSES];
    uint64_t bytes_sent; /* on the wire, headers included */
    uint64_t bytes_received;
    uint64_t sends_refused[DSM_NR_CLASSES]; /* -EAGAIN */
    uint64_t deliveries_refused[DSM_NR_CLASSES]; /* message() said false */
    uint64_t doorbells_sent;       /* calls of dsm_doorbell() */
    uint64_t doorbell_frames_sent; /* after coalescing */
    uint64_t doorbell_frames_received;
    uint64_t protocol_errors;
    /* round trip of PING..PONG; bucket b counts [2^b, 2^(b+1)) ns */
    uint64_t ping_rtt_ns[DSM_HISTOGRAM_BUCKETS];
    uint32_t credits_left[DSM_NR_CLASSES]; /* gauges, not counters */
    uint32_t queued_in[DSM_NR_CLASSES];
    char down_reason[DSM_REASON_BYTES]; /* "" while it stands */
};

/**
 * dsm_link_stats() - a copy of the link's counters.
 * Context: any thread; takes a leaf lock only. Return: 0; -EINVAL.
 */
int dsm_link_stats(struct dsm_node *node, uint16_t peer,
                   struct dsm_link_stats *ret_stats);

/** dsm_version() - "MAJOR.MINOR.PATCH" of the library. */
const char *dsm_version(void);

#ifdef __cplusplus
}
#endif
#endif /* DSM_DSM_H */
