#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/protocol.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* A message in memory of exactly its size, so that the sanitizer sees a read beyond it. */
typedef struct Exact {
    uint8_t *bytes;
    size_t len;
} Exact;

static Span
exact(Exact *copy, const void *bytes, size_t len)
{
    copy->bytes = malloc(len == 0 ? 1 : len);
    assert_non_null(copy->bytes);
    copy->len = len;
    if (len > 0)
        memcpy(copy->bytes, bytes, len);
    return (Span){.data = copy->bytes, .len = len};
}

static bool
backup_parse(const void *bytes, size_t len, BackupMessage *ret_message, Error *err)
{
    static Exact held;

    free(held.bytes);
    *err = ERROR_INIT;
    return backup_message_parse(exact(&held, bytes, len), ret_message, err);
}

static bool
wal_parse(const void *bytes, size_t len, WalMessage *ret_message, Error *err)
{
    static Exact held;

    free(held.bytes);
    *err = ERROR_INIT;
    return wal_message_parse(exact(&held, bytes, len), ret_message, err);
}

/* ---- BASE_BACKUP ---- */

static void
new_archive(void **state)
{
    static const char base[] = "nbase.tar\0";
    static const char tablespace[] = "n16385.tar\0/srv/a b";
    BackupMessage got;
    Error err;

    (void)state;
    assert_true(backup_parse(base, sizeof base, &got, &err));
    assert_int_equal(got.kind, BACKUP_NEW_ARCHIVE);
    assert_string_equal(got.archive_name, "base.tar");
    assert_string_equal(got.tablespace_path, "");
    assert_true(backup_parse(tablespace, sizeof tablespace, &got, &err));
    assert_string_equal(got.archive_name, "16385.tar");
    assert_string_equal(got.tablespace_path, "/srv/a b");
}

static void
new_archive_of_another_length(void **state)
{
    static const char message[] = "n16385.tar\0/srv\0more";
    BackupMessage got = {.archive_name = "kept"};
    Error err;

    (void)state;
    for (size_t len = 1; len <= sizeof message; len++) {
        bool whole = len == 16; /* both strings with their terminators */
        char expected[80];

        assert_int_equal(backup_parse(message, len, &got, &err), whole);
        if (whole) {
            got.archive_name = "kept";
            continue;
        }
        (void)snprintf(expected, sizeof expected, "malformed COPY message of type 110, length %zu",
                       len);
        assert_string_equal(err.message, expected);
        assert_int_equal(err.code, ERR_PROTOCOL);
        assert_string_equal(got.archive_name, "kept");
    }
}

static void
archive_names_that_lead_elsewhere(void **state)
{
    static const char *const names[] = {"",     ".",        "..",       ".hidden",  "a/b.tar",
                                        "/abs", "../x.tar", "a\\b.tar", "base.tar/"};

    (void)state;
    for (size_t i = 0; i < COUNT(names); i++) {
        char message[64];
        char expected[96];
        int len = snprintf(message, sizeof message, "n%s", names[i]);
        BackupMessage got;
        Error err;

        message[len + 1] = '\0'; /* the path */
        assert_false(backup_parse(message, (size_t)len + 2, &got, &err));
        (void)snprintf(expected, sizeof expected, "invalid archive name: \"%s\"", names[i]);
        assert_string_equal(err.message, expected);
        assert_int_equal(err.code, ERR_PROTOCOL);
    }
}

static void
backup_data(void **state)
{
    BackupMessage got;
    Error err;

    (void)state;
    assert_true(backup_parse("dabc", 4, &got, &err));
    assert_int_equal(got.kind, BACKUP_DATA);
    assert_int_equal(got.data.len, 3);
    assert_memory_equal(got.data.data, "abc", 3);
    assert_true(backup_parse("d", 1, &got, &err));
    assert_int_equal(got.kind, BACKUP_DATA);
    assert_int_equal(got.data.len, 0);
}

static void
backup_progress(void **state)
{
    static const char message[] = "p\x01\x02\x03\x04\x05\x06\x07\x08\x09";
    BackupMessage got;
    Error err;

    (void)state;
    assert_true(backup_parse(message, 9, &got, &err));
    assert_int_equal(got.kind, BACKUP_PROGRESS);
    assert_true(got.bytes_done == 0x0102030405060708);
    for (size_t len = 1; len <= 10; len++)
        assert_int_equal(backup_parse(message, len, &got, &err), len == 9);
    assert_true(backup_parse("p\x7f\xff\xff\xff\xff\xff\xff\xff", 9, &got, &err));
    assert_true(got.bytes_done == INT64_MAX);
    /* the server's number is signed */
    assert_false(backup_parse("p\x80\0\0\0\0\0\0\0", 9, &got, &err));
    assert_string_equal(err.message, "malformed COPY message of type 112, length 9");
}

static void
backup_manifest(void **state)
{
    BackupMessage got;
    Error err;

    (void)state;
    assert_true(backup_parse("m", 1, &got, &err));
    assert_int_equal(got.kind, BACKUP_MANIFEST);
    assert_false(backup_parse("mx", 2, &got, &err));
    assert_string_equal(err.message, "malformed COPY message of type 109, length 2");
}

static void
backup_messages_of_no_kind(void **state)
{
    BackupMessage got;
    Error err;

    (void)state;
    assert_false(backup_parse("", 0, &got, &err));
    assert_string_equal(err.message, "empty COPY message");
    assert_int_equal(err.code, ERR_PROTOCOL);
    for (int type = 0; type < 256; type++) {
        uint8_t message[3] = {(uint8_t)type, 0, 0};
        char expected[80];

        if (strchr("ndpm", type) != NULL && type != 0)
            continue;
        assert_false(backup_parse(message, sizeof message, &got, &err));
        (void)snprintf(expected, sizeof expected, "malformed COPY message of type %d, length 3",
                       type);
        assert_string_equal(err.message, expected);
        assert_int_equal(err.code, ERR_PROTOCOL);
    }
}

/* ---- START_REPLICATION ---- */

static void
wal_data(void **state)
{
    static const uint8_t message[] = {'w',  0,    0,    0,    1,    0,   0,   0,    0x28, 0,
                                      0,    0,    1,    2,    0,    0,   0,   0xff, 0xff, 0xff,
                                      0xff, 0xff, 0xff, 0xff, 0xfe, 'a', 'b', 'c'};
    WalMessage got;
    Error err;

    (void)state;
    assert_true(wal_parse(message, sizeof message, &got, &err));
    assert_int_equal(got.kind, WAL_DATA);
    assert_true(got.start == 0x100000028);
    assert_true(got.server_end == 0x102000000);
    assert_true(got.sent_at == -2);
    assert_int_equal(got.data.len, 3);
    assert_memory_equal(got.data.data, "abc", 3);
    assert_false(got.reply_requested);
    assert_true(wal_parse(message, 25, &got, &err));
    assert_int_equal(got.data.len, 0);
    for (size_t len = 1; len < 25; len++) {
        got.start = 5;
        assert_false(wal_parse(message, len, &got, &err));
        assert_int_equal(err.code, ERR_PROTOCOL);
        assert_true(got.start == 5);
    }
    assert_string_equal(err.message, "malformed replication message of type 119, length 24");
}

/* start + length is what a receiver works with: it must not wrap. */
static void
wal_data_at_the_end_of_all_lsns(void **state)
{
    uint8_t message[25 + 16] = {'w'};
    WalMessage got;
    Error err;

    (void)state;
    put_be64(message + 1, UINT64_MAX - 15);
    assert_true(wal_parse(message, 25 + 15, &got, &err));
    assert_true(got.start + got.data.len == UINT64_MAX);
    assert_false(wal_parse(message, 25 + 16, &got, &err));
    assert_string_equal(err.message, "16 bytes of WAL at FFFFFFFF/FFFFFFF0 end beyond all LSNs");
    assert_int_equal(err.code, ERR_PROTOCOL);
}

static void
wal_keepalive(void **state)
{
    uint8_t message[19] = {'k'};
    WalMessage got;
    Error err;

    (void)state;
    put_be64(message + 1, 0x1122334455667788);
    put_be64(message + 9, 99);
    assert_true(wal_parse(message, 18, &got, &err));
    assert_int_equal(got.kind, WAL_KEEPALIVE);
    assert_true(got.server_end == 0x1122334455667788);
    assert_true(got.sent_at == 99);
    assert_false(got.reply_requested);
    assert_int_equal(got.data.len, 0);
    message[17] = 1;
    assert_true(wal_parse(message, 18, &got, &err));
    assert_true(got.reply_requested);
    message[17] = 200;
    assert_true(wal_parse(message, 18, &got, &err));
    assert_true(got.reply_requested);
    for (size_t len = 1; len <= 19; len++)
        assert_int_equal(wal_parse(message, len, &got, &err), len == 18);
    assert_string_equal(err.message, "malformed replication message of type 107, length 19");
}

static void
wal_messages_of_no_kind(void **state)
{
    WalMessage got;
    Error err;

    (void)state;
    assert_false(wal_parse("", 0, &got, &err));
    assert_string_equal(err.message, "empty replication message");
    for (int type = 0; type < 256; type++) {
        uint8_t message[25] = {(uint8_t)type};

        if (type == 'w' || type == 'k')
            continue;
        assert_false(wal_parse(message, sizeof message, &got, &err));
        assert_int_equal(err.code, ERR_PROTOCOL);
    }
    assert_string_equal(err.message, "unrecognized streaming header: type 255, length 25");
}

static void
status_message(void **state)
{
    static const uint8_t expected[STATUS_MESSAGE_SIZE] = {
        'r', 0, 0, 0, 1, 0, 0, 0, 2,    0,    0,    0,    3,    0,    0,    0,    4,
        0,   0, 0, 5, 0, 0, 0, 6, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1};
    StatusMessage status = {.written = 0x100000002,
                            .flushed = 0x300000004,
                            .applied = 0x500000006,
                            .sent_at = -1,
                            .reply_requested = true};
    uint8_t bytes[STATUS_MESSAGE_SIZE];

    (void)state;
    status_message_format(&status, bytes);
    assert_memory_equal(bytes, expected, sizeof expected);
    status.reply_requested = false;
    status_message_format(&status, bytes);
    assert_int_equal(bytes[33], 0);
    assert_memory_equal(bytes, expected, 33);
}

/* ---- quoting ---- */

static void
quoting(void **state)
{
    static const struct {
        const char *text;
        const char *literal;
        const char *identifier;
    } cases[] = {
        {"", "''", "\"\""},
        {"plain", "'plain'", "\"plain\""},
        {"it's", "'it''s'", "\"it's\""},
        {"a\"b", "'a\"b'", "\"a\"\"b\""},
        {"'", "''''", "\"'\""},
        {"'';--", "''''';--'", "\"'';--\""},
        {"\"\"", "'\"\"'", "\"\"\"\"\"\""},
        {"back\\slash'", "'back\\slash'''", "\"back\\slash'\""},
        {"new\nline\xc3\xa4", "'new\nline\xc3\xa4'", "\"new\nline\xc3\xa4\""},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        Error err = ERROR_INIT;
        Buf buf = BUF_INIT;

        assert_true(buf_printf(&buf, &err, "x"));
        assert_true(repl_quote_literal(&buf, cases[i].text, &err));
        assert_string_equal(buf_text(&buf) + 1, cases[i].literal);
        assert_int_equal(buf.len, 1 + strlen(cases[i].literal));
        buf_clear(&buf);
        assert_true(repl_quote_identifier(&buf, cases[i].text, &err));
        assert_string_equal(buf_text(&buf), cases[i].identifier);
        buf_free(&buf);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(new_archive),
        cmocka_unit_test(new_archive_of_another_length),
        cmocka_unit_test(archive_names_that_lead_elsewhere),
        cmocka_unit_test(backup_data),
        cmocka_unit_test(backup_progress),
        cmocka_unit_test(backup_manifest),
        cmocka_unit_test(backup_messages_of_no_kind),
        cmocka_unit_test(wal_data),
        cmocka_unit_test(wal_data_at_the_end_of_all_lsns),
        cmocka_unit_test(wal_keepalive),
        cmocka_unit_test(wal_messages_of_no_kind),
        cmocka_unit_test(status_message),
        cmocka_unit_test(quoting),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
