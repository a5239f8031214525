/* SPDX-License-Identifier: GPL-2.0-or-later */
/* wire.c: every frame goes round; every broken one is refused. */
#include <errno.h>
#include <stdlib.h>

#include "harness.h"

static struct dsm__frame any_hello(enum dsm__frame_type type)
{
    struct dsm__frame f = frame_of(type);

    f.hello = (struct dsm__hello) {
        .machine_uuid = { 0xff, 1, 2 },
        .version_min = 1,
        .version_max = 1,
        .features_offered = 0xa5a5a5a5,
        .features_required = 0x80000001,
        .from = 0x1234,
        .to = 0xfffe,
        .nr_nodes = 64,
        .elf_machine = 183,
        .coherence = 1,
        .page_bytes = 4096,
        .cpus = 0x01020304,
        .ram_bytes = UINT64_C(0x1122334455667788),
        .window = { 1, DSM_MAX_CREDITS, 3, 4 },
        .doorbell_window = 8,
        .name = "a-node",
    };
    return f;
}

/* One of each type, with all fields set. */
static struct dsm__frame sample(enum dsm__frame_type type)
{
    static uint8_t payload[DSM_MAX_MESSAGE_BYTES];
    struct dsm__frame f = frame_of(type);

    switch (type) {
    case DSM__FRAME_HELLO:
    case DSM__FRAME_HELLO_ACK:
        f = any_hello(type);
        break;
    case DSM__FRAME_REGION:
        f.region.owner = 5;
        f.region.bytes = UINT64_C(1) << 40;
        break;
    case DSM__FRAME_REJECT:
    case DSM__FRAME_ERROR:
        f.notice.code = DSM__NOTICE_CONFIG;
        f.notice.text = "because";
        f.notice.text_bytes = 7;
        break;
    case DSM__FRAME_MESSAGE:
        for (size_t i = 0; i < sizeof(payload); i++) {
            payload[i] = i * 7;
        }
        f.cls = DSM_CLASS_BULK;
        f.message.data = payload;
        f.message.bytes = sizeof(payload);
        break;
    case DSM__FRAME_DOORBELL:
        f.bits = UINT64_C(1) << 63;
        break;
    case DSM__FRAME_PING:
    case DSM__FRAME_PONG:
        f.token = UINT64_C(0x8877665544332211);
        break;
    default:
        break;
    }
    f.seq = UINT32_C(0xfffffffe);
    f.credit[0] = 1;
    f.credit[3] = 0xffff;
    f.doorbell_credit = 0x1001;
    return f;
}

static void test_round_trip(void **state)
{
    for (int type = 1; type < DSM__NR_FRAMES; type++) {
        uint8_t out[DSM__WIRE_FRAME_MAX_BYTES], again[sizeof(out)];
        struct dsm__frame f = sample(type), g;
        const char *why = NULL;
        size_t n = dsm__wire_encode(out, &f);

        assert_int_equal(dsm__wire_decode(out, n, &g, &why), n);
        assert_int_equal(g.type, type);
        assert_int_equal(g.seq, f.seq);
        assert_int_equal(g.cls, f.cls);
        assert_memory_equal(g.credit, f.credit, sizeof(f.credit));
        assert_int_equal(g.doorbell_credit, f.doorbell_credit);
        assert_int_equal(dsm__wire_encode(again, &g), n);
        assert_memory_equal(out, again, n);
    }
}

/* The bytes are those of docs/protocol.rst, whatever the host is. */
static void test_bytes(void **state)
{
    static const uint8_t doorbell[] = {
        'D',  'S',  'M',  '1',  1,    8,    0,    0,
        0xfe, 0xff, 0xff, 0xff, 8,    0,    0,    0,
        1,    0,    0,    0,    0,    0,    0xff, 0xff,
        0x01, 0x10, 0,    0,    0,    0,    0,    0,
        0,    0,    0,    0,    0,    0,    0,    0x80,
    };
    uint8_t out[DSM__WIRE_SMALL_MAX_BYTES];
    struct dsm__frame f = sample(DSM__FRAME_DOORBELL);

    assert_int_equal(dsm__wire_encode(out, &f), sizeof(doorbell));
    assert_memory_equal(out, doorbell, sizeof(doorbell));

    f = any_hello(DSM__FRAME_HELLO);
    assert_int_equal(dsm__wire_encode(out, &f), 32 + 104);
    assert_memory_equal(out + 32 + 16, "\x01\x00\x01\x00", 4);
    assert_memory_equal(out + 32 + 28, "\x34\x12\xfe\xff\x40\x00\xb7\x00", 8);
    assert_memory_equal(out + 32 + 48, "\x88\x77\x66\x55\x44\x33\x22\x11", 8);
    assert_memory_equal(out + 32 + 56, "\x01\x00\x00\x04\x03\x00\x04\x00", 8);
    assert_memory_equal(out + 32 + 72, "a-node\0", 7);
}

/* Nothing is decided before the bytes are there, nothing read behind them. */
static void test_truncated(void **state)
{
    for (int type = 1; type < DSM__NR_FRAMES; type++) {
        uint8_t out[DSM__WIRE_FRAME_MAX_BYTES];
        struct dsm__frame f = sample(type), g;
        const char *why = NULL;
        size_t n = dsm__wire_encode(out, &f);

        for (size_t cut = 0; cut < n; cut++) {
            uint8_t *exact = malloc(cut ? cut : 1); /* for the sanitizer */

            memcpy(exact, out, cut);
            assert_int_equal(dsm__wire_decode(exact, cut, &g, &why), 0);
            free(exact);
        }
    }
}

/* A change of one byte of a valid frame, and what is said about it. */
static const struct {
    enum dsm__frame_type type;
    int offset;
    uint8_t value;
    int error;
    const char *why;
} broken[] = {
    { DSM__FRAME_PING, 0, 'd', -EPROTO, "not a frame of this protocol" },
    { DSM__FRAME_PING, 1, 0, -EPROTO, "not a frame of this protocol" },
    { DSM__FRAME_PING, 3, '2', -EPROTO, "not a frame of this protocol" },
    { DSM__FRAME_PING, 4, 0, -EPROTONOSUPPORT,
      "frame of another protocol version" },
    { DSM__FRAME_PING, 4, 2, -EPROTONOSUPPORT,
      "frame of another protocol version" },
    { DSM__FRAME_PING, 5, 0, -EPROTO, "frame of an unknown type" },
    { DSM__FRAME_PING, 5, DSM__NR_FRAMES, -EPROTO,
      "frame of an unknown type" },
    { DSM__FRAME_PING, 5, 255, -EPROTO, "frame of an unknown type" },
    { DSM__FRAME_MESSAGE, 6, DSM_NR_CLASSES, -EPROTO,
      "frame of an unknown class" },
    { DSM__FRAME_PING, 6, 1, -EPROTO, "frame of an unknown class" },
    { DSM__FRAME_PING, 7, 1, -EPROTO, "reserved field of the header not 0" },
    { DSM__FRAME_PING, 26, 1, -EPROTO, "reserved field of the header not 0" },
    { DSM__FRAME_PING, 27, 1, -EPROTO, "reserved field of the header not 0" },
    { DSM__FRAME_PING, 28, 1, -EPROTO, "reserved field of the header not 0" },
    { DSM__FRAME_PING, 31, 1, -EPROTO, "reserved field of the header not 0" },
    { DSM__FRAME_PING, 12, 7, -EPROTO, "frame of an impossible length" },
    { DSM__FRAME_PING, 12, 9, -EPROTO, "frame of an impossible length" },
    { DSM__FRAME_READY, 12, 1, -EPROTO, "frame of an impossible length" },
    { DSM__FRAME_MESSAGE, 12, 1, -EPROTO, "frame of an impossible length" },
    { DSM__FRAME_MESSAGE, 15, 0x80, -EPROTO,
      "frame of an impossible length" },
    { DSM__FRAME_HELLO, 12, 103, -EPROTO, "frame of an impossible length" },
    { DSM__FRAME_HELLO, 13, 8, -EPROTO, "frame of an impossible length" },
    { DSM__FRAME_ERROR, 13, 1, -EPROTO, "frame of an impossible length" },
    { DSM__FRAME_HELLO, 32 + 18, 0, -EPROTO,
      "HELLO with an empty range of versions" },
    { DSM__FRAME_HELLO, 32 + 16, 0, -EPROTO,
      "HELLO with an empty range of versions" },
    { DSM__FRAME_HELLO, 32 + 20, 0, -EPROTO,
      "HELLO requires a feature that it does not offer" },
    { DSM__FRAME_HELLO, 32 + 56, 0, -EPROTO, "window in HELLO out of range" },
    { DSM__FRAME_HELLO, 32 + 59, 5, -EPROTO, "window in HELLO out of range" },
    { DSM__FRAME_HELLO, 32 + 64, 0, -EPROTO, "doorbell window in HELLO is 0" },
    { DSM__FRAME_HELLO, 32 + 66, 2, -EPROTO,
      "channel in HELLO out of range" },
    { DSM__FRAME_HELLO, 32 + 67, 1, -EPROTO,
      "channel in HELLO out of range" },
    { DSM__FRAME_HELLO, 32 + 68, 1, -EPROTO, "reserved field of HELLO not 0" },
    { DSM__FRAME_HELLO, 32 + 71, 1, -EPROTO, "reserved field of HELLO not 0" },
    { DSM__FRAME_HELLO_ACK, 32 + 72, 0, -EPROTO,
      "name in HELLO is not padded with NUL" },
    { DSM__FRAME_HELLO, 32 + 103, 'x', -EPROTO,
      "name in HELLO is not padded with NUL" },
    { DSM__FRAME_REGION, 32 + 2, 1, -EPROTO,
      "reserved field of REGION not 0" },
    { DSM__FRAME_REGION, 32 + 7, 1, -EPROTO,
      "reserved field of REGION not 0" },
    { DSM__FRAME_REJECT, 32 + 4, 1, -EPROTO,
      "reserved field of REJECT or ERROR not 0" },
    { DSM__FRAME_ERROR, 32 + 7, 1, -EPROTO,
      "reserved field of REJECT or ERROR not 0" },
    { DSM__FRAME_DOORBELL, 32 + 7, 0, -EPROTO, "DOORBELL without a bit" },
};

static void test_broken(void **state)
{
    for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++) {
        uint8_t out[DSM__WIRE_FRAME_MAX_BYTES + 1024] = { 0 };
        struct dsm__frame f = sample(broken[i].type), g;
        const char *why = "accepted";
        int ret;

        dsm__wire_encode(out, &f);
        assert_int_not_equal(out[broken[i].offset], broken[i].value);
        out[broken[i].offset] = broken[i].value;
        ret = dsm__wire_decode(out, sizeof(out), &g, &why);
        if (ret != broken[i].error || strcmp(why, broken[i].why) != 0) {
            fail_msg("%s[%d] = %d: %d, %s",
                     dsm__wire_frame_name(broken[i].type), broken[i].offset,
                     broken[i].value, ret, why);
        }
    }
}

static void test_broken_more(void **state)
{
    uint8_t out[DSM__WIRE_SMALL_MAX_BYTES] = { 0 };
    const char *why = NULL;
    struct dsm__frame f, g;

    f = any_hello(DSM__FRAME_HELLO);
    memset(f.hello.name, 0, sizeof(f.hello.name));
    dsm__wire_encode(out, &f);
    assert_int_equal(dsm__wire_decode(out, sizeof(out), &g, &why), -EPROTO);
    assert_string_equal(why, "name in HELLO is empty or not terminated");

    f = any_hello(DSM__FRAME_HELLO);
    memset(f.hello.name, 'x', sizeof(f.hello.name));
    dsm__wire_encode(out, &f);
    assert_int_equal(dsm__wire_decode(out, sizeof(out), &g, &why), -EPROTO);
    assert_string_equal(why, "name in HELLO is empty or not terminated");

    f = frame_of(DSM__FRAME_CREDIT);
    dsm__wire_encode(out, &f);
    assert_int_equal(dsm__wire_decode(out, sizeof(out), &g, &why), -EPROTO);
    assert_string_equal(why, "CREDIT without a credit");

    /* A longer HELLO is one of a later version, or wrong. */
    f = any_hello(DSM__FRAME_HELLO);
    dsm__wire_encode(out, &f);
    out[12] += 8;
    assert_int_equal(dsm__wire_decode(out, sizeof(out), &g, &why), -EPROTO);
    assert_string_equal(why, "HELLO of a wrong length");
}

/* What version 1 promises about later ones. */
static void test_later_versions(void **state)
{
    uint8_t out[DSM__WIRE_SMALL_MAX_BYTES] = { 0 };
    const char *why = NULL;
    struct dsm__frame f, g;

    /* It may append to HELLO and use what is reserved now. */
    f = any_hello(DSM__FRAME_HELLO);
    f.hello.version_max = 7;
    dsm__wire_encode(out, &f);
    out[12] += 8;
    out[32 + 68] = 1;
    assert_int_equal(dsm__wire_decode(out, sizeof(out), &g, &why),
                     32 + 104 + 8);
    assert_int_equal(g.hello.version_max, 7);
    /* But where it may be used, the rest must be right. */
    out[32 + 56] = 0;
    out[32 + 57] = 0;
    assert_int_equal(dsm__wire_decode(out, sizeof(out), &g, &why), -EPROTO);
    /* Where it cannot be, the range is all that counts. */
    out[32 + 16] = 2;
    assert_int_equal(dsm__wire_decode(out, sizeof(out), &g, &why),
                     32 + 104 + 8);

    /* Its refusal can be read. */
    f = sample(DSM__FRAME_REJECT);
    f.version = 9;
    dsm__wire_encode(out, &f);
    out[32 + 4] = 1;
    assert_true(dsm__wire_decode(out, sizeof(out), &g, &why) > 0);
    assert_int_equal(g.notice.text_bytes, 7);
    assert_memory_equal(g.notice.text, "because", 7);
}

static void test_text(void **state)
{
    char out[8];

    dsm__wire_text(out, sizeof(out), "a\nb\0c\xff" "defg", 10);
    assert_string_equal(out, "a?b?c?d");
    dsm__wire_text(out, sizeof(out), "ok", 2);
    assert_string_equal(out, "ok");
    dsm__wire_text(out, sizeof(out), "", 0);
    assert_string_equal(out, "");
    assert_string_equal(dsm__wire_frame_name(DSM__FRAME_BYE), "BYE");
    assert_string_equal(dsm__wire_frame_name(0), "?");
    assert_string_equal(dsm__wire_frame_name(DSM__NR_FRAMES), "?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_broken),
        cmocka_unit_test(test_broken_more),
        cmocka_unit_test(test_later_versions),
        cmocka_unit_test(test_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
