/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The page protocol for spin: three nodes, two pages homed at node 0, one
 * thread a node. What a state does with an event is not written here: the
 * rules are generated from the tables of src/coherence.c (coherence-tables
 * promela), so that this proves those. Written here, a second time and apart
 * from coherence.c, is what the actions mean.
 *
 * Each pair of nodes has a channel, so messages keep their order within a
 * link and have none between links. Nothing breaks here; what happens then is
 * the matter of tests/test-coherence.c.
 *
 * Checked: assertions (one writer or many readers; a reader sees the last
 * write; nobody meets an event that has no rule), no deadlock, and with
 * -DLIVE that a fault is always answered.
 */
#define N 3
#define P 2
#define HOME 0
#define ROOM 6

#include "rules.pml"

#define M_READ 1
#define M_WRITE 2
#define M_FWD_READ 3
#define M_FWD_WRITE 4
#define M_INV 5
#define M_GRANT 7
#define M_ACK 9
#define M_DONE 10
#define M_DATA_S 11
#define M_DATA_M 12

#define NONE 0
#define RO 1
#define RW 2

#define AT(node, page) ((node) * P + (page))
#define LINK(x_source, dst) ((x_source) * N + (dst))
#define BIT(node) (1 << (node))
#define HAS_COPY(c) ((c) == C_S || (c) == C_M || (c) == C_SM)

/* type, page, node that it names, is the data what was written last */
chan link[N * N] = [ROOM] of { byte, byte, byte, byte };
chan queue[P] = [N] of { byte, byte }; /* requests that wait: who, write */

byte copy[N * P];
byte can[N * P];     /* what the mapping allows */
byte current[N * P]; /* the data here is what was written last */
byte carried[P];     /* messages with data under way */
bool waits[N];
byte wanted[N];

/* The directory: who else has copies; the request that is served. */
byte others[P];
bool busy[P];
byte q_state[P];
byte q_from[P];
byte q_write[P];
byte q_source[P];
byte q_acks[P];

/* Used within one step only. */
hidden byte next, x_type, x_page, x_node, x_from, x_event, x_dir, x_source, x_i, x_copies, x_current, x_write, x_more;
hidden short acts;

#define COPIES(page) \
    (others[page] | (HAS_COPY(copy[AT(HOME, page)]) -> BIT(HOME) : 0))

inline say(s_me, s_to, s_type, s_page, s_node)
{
    x_current = current[AT(s_me, s_page)];
    if
    :: (s_type == M_DATA_S || s_type == M_DATA_M) -> carried[s_page]++
    :: else
    fi;
    assert(nfull(link[LINK(s_me, s_to)]));
    link[LINK(s_me, s_to)]!s_type, s_page, s_node, x_current
}

inline answer(a_me, a_page, a_what)
{
    can[AT(a_me, a_page)] = a_what;
    if
    :: (waits[a_me] && wanted[a_me] == a_page) -> waits[a_me] = false; wanted[a_me] = 0
    :: else
    fi
}

/* An event of a copy; @from sent it, @node is the requester it names. */
inline copy_event(c_me, c_page, c_event, c_from, c_node)
{
    copy_rule(copy[AT(c_me, c_page)], c_event);
    copy[AT(c_me, c_page)] = next;
    if
    :: (acts & CA_protect) && can[AT(c_me, c_page)] == RW -> can[AT(c_me, c_page)] = RO
    :: else
    fi;
    if
    :: (acts & CA_zap) -> can[AT(c_me, c_page)] = NONE
    :: else
    fi;
    if
    :: (acts & CA_map_ro) -> answer(c_me, c_page, RO)
    :: else
    fi;
    if
    :: (acts & (CA_map_rw | CA_allow)) -> answer(c_me, c_page, RW)
    :: else
    fi;
    if
    :: (acts & CA_SEND_READ) -> say(c_me, HOME, M_READ, c_page, 0)
    :: else
    fi;
    if
    :: (acts & CA_SEND_WRITE) -> say(c_me, HOME, M_WRITE, c_page, 0)
    :: else
    fi;
    if
    :: (acts & (CA_SEND_DATA_S | CA_SEND_DATA_M)) ->
        if
        :: (acts & CA_SEND_DATA_S) -> say(c_me, c_node, M_DATA_S, c_page, 0)
        :: else -> say(c_me, c_node, M_DATA_M, c_page, 0)
        fi;
        if
        :: (c_me == HOME) -> say(c_me, HOME, M_DONE, c_page, c_node)
        :: else
        fi
    :: else
    fi;
    if
    :: (acts & CA_SEND_ACK) -> say(c_me, HOME, M_ACK, c_page, 0)
    :: else
    fi;
    if
    :: (acts & CA_SEND_DONE) && c_from != HOME -> say(c_me, HOME, M_DONE, c_page, c_me)
    :: else
    fi;
    assert(!(acts & (CA_poison | CA_SEND_RETURN)))
}

/* Who gives the page: itself, else the home, else the lowest. */
inline choose_source(h_page)
{
    x_copies = COPIES(h_page);
    if
    :: (x_copies & BIT(q_from[h_page])) -> x_source = q_from[h_page]
    :: else ->
        x_source = 0;
        do
        :: !(x_copies & BIT(x_source)) -> x_source++
        :: else -> break
        od
    fi
}

inline look(l_page)
{
    choose_source(l_page);
    assert(x_copies != 0);
    if
    :: (q_write[l_page] && x_copies == BIT(q_from[l_page])) -> x_dir = DE_SOLE
    :: else ->
        q_source[l_page] = x_source;
        assert(q_write[l_page] || !(x_copies & BIT(q_from[l_page])));
        if
        :: (q_write[l_page] && (x_copies & ~BIT(x_source))) -> x_dir = DE_SHARED
        :: else -> x_dir = DE_REACHABLE
        fi
    fi
}

inline act_on_request(r_page)
{
    if
    :: (acts & DA_given) ->
        others[r_page] = (q_write[r_page] -> 0 : others[r_page]) |
                       (q_from[r_page] == HOME -> 0 : BIT(q_from[r_page]))
    :: else
    fi;
    if
    :: (acts & DA_SEND_GRANT) -> say(HOME, q_from[r_page], M_GRANT, r_page, 0)
    :: else
    fi;
    if
    :: (acts & DA_SEND_INV) ->
        x_copies = COPIES(r_page) & ~BIT(q_source[r_page]);
        q_acks[r_page] = x_copies;
        x_i = 0;
        do
        :: (x_i == N) -> break
        :: (x_i < N && (x_copies & BIT(x_i))) -> say(HOME, x_i, M_INV, r_page, 0); x_i++
        :: (x_i < N && !(x_copies & BIT(x_i))) -> x_i++
        od
    :: else
    fi;
    if
    :: (acts & DA_SEND_FWD) ->
        if
        :: q_write[r_page] ->
            say(HOME, q_source[r_page], M_FWD_WRITE, r_page, q_from[r_page])
        :: else -> say(HOME, q_source[r_page], M_FWD_READ, r_page, q_from[r_page])
        fi
    :: else
    fi;
    assert(!(acts & (DA_lose | DA_SEND_RECALL | DA_SEND_GONE)))
}

/* An event of the request that is served, and what follows at once. */
inline dir_event(d_page)
{
    x_more = true;
    do
    :: !x_more -> break
    :: else ->
        dir_rule(q_state[d_page], x_dir);
        q_state[d_page] = next;
        act_on_request(d_page);
        x_more = false;
        if
        :: (q_state[d_page] == D_RUN) -> look(d_page); x_more = true
        :: (q_state[d_page] == D_END) ->
            busy[d_page] = false;
            q_state[d_page] = D_RUN;
            q_from[d_page] = 0;
            q_write[d_page] = false;
            q_source[d_page] = 0;
            q_acks[d_page] = 0;
            if
            :: nempty(queue[d_page]) ->
                queue[d_page]?x_from, x_write;
                q_from[d_page] = x_from;
                q_write[d_page] = x_write;
                busy[d_page] = true;
                look(d_page);
                x_more = true
            :: empty(queue[d_page])
            fi
        :: else
        fi
    od
}

inline dir_request(i_page, i_from, i_write)
{
    if
    :: busy[i_page] ->
        assert(nfull(queue[i_page]));
        queue[i_page]!i_from, i_write
    :: !busy[i_page] ->
        busy[i_page] = true;
        q_from[i_page] = i_from;
        q_write[i_page] = i_write;
        look(i_page);
        dir_event(i_page)
    fi
}

inline copy_message(m_me, m_from)
{
    if
    :: x_type == M_FWD_READ -> x_event = CE_FWD_READ
    :: x_type == M_FWD_WRITE -> x_event = CE_FWD_WRITE
    :: x_type == M_INV -> x_event = CE_INV
    :: x_type == M_GRANT -> x_event = CE_GRANT
    :: x_type == M_DATA_S -> x_event = CE_DATA_S
    :: x_type == M_DATA_M -> x_event = CE_DATA_M
    fi;
    if
    :: (x_type == M_DATA_S || x_type == M_DATA_M) ->
        carried[x_page]--;
        assert(can[AT(m_me, x_page)] == NONE);
        current[AT(m_me, x_page)] = x_current
    :: else
    fi;
    copy_event(m_me, x_page, x_event, m_from, x_node)
}

/* A message, then what the node says to itself because of it. */
inline handle(g_me, g_from)
{
    x_from = g_from;
    do
    :: true ->
        if
        :: x_type == M_READ -> dir_request(x_page, x_from, false)
        :: x_type == M_WRITE -> dir_request(x_page, x_from, true)
        :: x_type == M_ACK ->
            assert(q_state[x_page] == D_INV && (q_acks[x_page] & BIT(x_from)));
            q_acks[x_page] = q_acks[x_page] & ~BIT(x_from);
            others[x_page] = others[x_page] & ~BIT(x_from);
            x_dir = (q_acks[x_page] -> DE_ACK : DE_LAST_ACK);
            dir_event(x_page)
        :: x_type == M_DONE ->
            assert(q_state[x_page] == D_FWD && q_from[x_page] == x_node);
            x_dir = DE_DONE;
            dir_event(x_page)
        :: else -> copy_message(g_me, x_from)
        fi;
        if
        :: nempty(link[LINK(g_me, g_me)]) ->
            link[LINK(g_me, g_me)]?x_type, x_page, x_node, x_current;
            x_from = g_me
        :: empty(link[LINK(g_me, g_me)]) -> break
        fi
    od
}

inline clean()
{
    next = 0; x_type = 0; x_page = 0; x_node = 0; x_from = 0; x_event = 0; x_dir = 0; x_source = 0; x_i = 0;
    x_copies = 0; acts = 0; x_current = 0; x_write = 0; x_more = 0
}

proctype hear(byte me; byte from)
{
end:
    do
    :: d_step {
           nempty(link[LINK(from, me)]) ->
           link[LINK(from, me)]?x_type, x_page, x_node, x_current;
           handle(me, from);
           clean()
       }
    od
}

inline fault(f_me, f_page, f_event)
{
    waits[f_me] = true;
    wanted[f_me] = f_page;
    copy_event(f_me, f_page, f_event, f_me, 0);
    if
    :: nempty(link[LINK(f_me, f_me)]) ->
        link[LINK(f_me, f_me)]?x_type, x_page, x_node, x_current;
        handle(f_me, f_me)
    :: empty(link[LINK(f_me, f_me)])
    fi
}

inline read_page(e_me, e_page)
{
    if
    :: (can[AT(e_me, e_page)] != NONE) -> assert(current[AT(e_me, e_page)])
    :: else -> fault(e_me, e_page, CE_READ)
    fi
}

inline write_page(w_me, w_page)
{
    if
    :: (can[AT(w_me, w_page)] == RW) ->
        assert(carried[w_page] == 0);
        x_i = 0;
        do
        :: (x_i == N) -> break
        :: else ->
            assert(x_i == w_me || can[AT(x_i, w_page)] == NONE);
            current[AT(x_i, w_page)] = (x_i == w_me);
            x_i++
        od
    :: else -> fault(w_me, w_page, CE_WRITE)
    fi
}

proctype thread(byte me)
{
end:
    do
    :: d_step { !waits[me] -> read_page(me, 0); clean() }
    :: d_step { !waits[me] -> read_page(me, 1); clean() }
    :: d_step { !waits[me] -> write_page(me, 0); clean() }
    :: d_step { !waits[me] -> write_page(me, 1); clean() }
    od
}

/* Who waits when nothing is under way waits for ever. */
#define QUIET                                                          \
    (len(link[1]) == 0 && len(link[2]) == 0 && len(link[3]) == 0 &&    \
     len(link[5]) == 0 && len(link[6]) == 0 && len(link[7]) == 0)

init
{
    d_step {
        for (x_i : 0 .. P - 1) {
            copy[AT(HOME, x_i)] = C_M;
            can[AT(HOME, x_i)] = RW;
            current[AT(HOME, x_i)] = true;
        }
        clean()
    }
    atomic {
        run hear(0, 1); run hear(0, 2); run hear(1, 0);
        run hear(1, 2); run hear(2, 0); run hear(2, 1);
        run thread(0); run thread(1); run thread(2)
    }
}

#ifdef LIVE
ltl answered { [] (waits[1] -> <> !waits[1]) }
#else
/* One writer or many readers, and nobody is forgotten, in every state. */
ltl safe {
    [] (!(QUIET && (waits[0] || waits[1] || waits[2])))
}
#endif
