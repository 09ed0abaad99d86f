/*
 * What becomes of a failure of receivewal: a table of all kinds, with what servers really say.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "cmd/receivewal_failure.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* In the middle of a run that goes well, with a slot called "archive". */
#define RUNNING .connected = true, .streaming = true, .streamed = true, .slot = "archive"

typedef struct Row {
    const char *what;
    ErrorCode code;
    int sys_errno;
    const char *sqlstate;
    const char *message;
    FailureFacts facts;
    FailureAction action;
} Row;

static Error
error_of(const Row *row)
{
    Error err = {.code = row->code, .sys_errno = row->sys_errno};

    (void)snprintf(err.sqlstate, sizeof err.sqlstate, "%s",
                   row->sqlstate == NULL ? "" : row->sqlstate);
    (void)snprintf(err.message, sizeof err.message, "%s", row->message == NULL ? "" : row->message);
    return err;
}

static void
check_rows(const Row *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        Error err = error_of(&rows[i]);
        FailureAction action = failure_action(&err, &rows[i].facts);

        if (action != rows[i].action)
            fail_msg("%s: action %d, not %d", rows[i].what, (int)action, (int)rows[i].action);
    }
}

#define CHECK(rows) check_rows(rows, COUNT(rows))

static void
test_connections(void **state)
{
    static const Row rows[] = {
        {.what = "the very first connection",
         .code = ERR_CONNECTION,
         .facts = {.slot = "archive"},
         .action = FAILURE_FATAL},
        {.what = "a server that refuses the first connection",
         .code = ERR_SERVER,
         .sqlstate = "57P03",
         .action = FAILURE_FATAL},
        {.what = "a later connection",
         .code = ERR_CONNECTION,
         .facts = {.connected = true, .streamed = true},
         .action = FAILURE_RETRY},
        {.what = "a connection that is made, but breaks before anything is streamed",
         .code = ERR_CONNECTION,
         .facts = {.connected = true},
         .action = FAILURE_RETRY},
        {.what = "a stream that breaks",
         .code = ERR_CONNECTION,
         .facts = {RUNNING},
         .action = FAILURE_RETRY},
        {.what = "a server that shuts down",
         .code = ERR_SERVER,
         .sqlstate = "57P01",
         .facts = {RUNNING},
         .action = FAILURE_RETRY},
        {.what = "what the protocol does not allow",
         .code = ERR_PROTOCOL,
         .facts = {RUNNING},
         .action = FAILURE_RETRY},
        {.what = "a server that has no WAL yet where the archive ends",
         .code = ERR_SERVER,
         .facts = {.connected = true},
         .action = FAILURE_RETRY},
    };

    (void)state;
    CHECK(rows);
}

#define GONE "ERROR:  requested WAL segment 00000001000000000000000A has already been removed"

static void
test_gaps(void **state)
{
    static const Row rows[] = {
        {.what = "a segment that is gone",
         .code = ERR_SERVER,
         .sqlstate = "58P01",
         .message = GONE,
         .facts = {RUNNING},
         .action = FAILURE_GAP},
        {.what = "in another language",
         .code = ERR_SERVER,
         .sqlstate = "58P01",
         .message = "FEHLER:  das angeforderte WAL-Segment 00000001000000000000000A wurde schon "
                    "entfernt",
         .facts = {RUNNING},
         .action = FAILURE_GAP},
        {.what = "at the first try",
         .code = ERR_SERVER,
         .sqlstate = "58P01",
         .message = GONE,
         .facts = {.connected = true, .streaming = true},
         .action = FAILURE_GAP},
        {.what = "the name at the very end",
         .code = ERR_SERVER,
         .sqlstate = "58P01",
         .message = "00000001000000000000000A",
         .facts = {RUNNING},
         .action = FAILURE_GAP},
        {.what = "a history file that is gone",
         .code = ERR_SERVER,
         .sqlstate = "58P01",
         .message = "ERROR:  could not open file \"pg_wal/00000007.history\": No such file or "
                    "directory",
         .facts = {RUNNING},
         .action = FAILURE_RETRY},
        {.what = "a number that is longer than a segment's name",
         .code = ERR_SERVER,
         .sqlstate = "58P01",
         .message = "00000001000000000000000AB",
         .facts = {RUNNING},
         .action = FAILURE_RETRY},
        {.what = "not from the stream",
         .code = ERR_SERVER,
         .sqlstate = "58P01",
         .message = GONE,
         .facts = {.connected = true},
         .action = FAILURE_RETRY},
        {.what =
             "the server was still reading it when it was removed, and has no SQLSTATE for that",
         .code = ERR_SERVER,
         .sqlstate = "XX000",
         .message = GONE,
         .facts = {RUNNING},
         .action = FAILURE_RETRY},
    };

    (void)state;
    CHECK(rows);
}

#define MISSING "ERROR:  replication slot \"archive\" does not exist"

static void
test_slots(void **state)
{
    static const Row rows[] = {
        {.what = "a slot that was never there",
         .code = ERR_SERVER,
         .sqlstate = "42704",
         .message = MISSING,
         .facts = {.connected = true, .slot = "archive"},
         .action = FAILURE_SLOT_LOST},
        {.what = "a slot that was there: after a failover it may come",
         .code = ERR_SERVER,
         .sqlstate = "42704",
         .message = MISSING,
         .facts = {RUNNING},
         .action = FAILURE_RETRY},
        {.what = "or not, but patience is not at its end",
         .code = ERR_SERVER,
         .sqlstate = "42704",
         .message = MISSING,
         .facts = {RUNNING, .slot_missing_ms = SLOT_PATIENCE_MS - 1},
         .action = FAILURE_RETRY},
        {.what = "now it is",
         .code = ERR_SERVER,
         .sqlstate = "42704",
         .message = MISSING,
         .facts = {RUNNING, .slot_missing_ms = SLOT_PATIENCE_MS},
         .action = FAILURE_SLOT_LOST},
        {.what = "another object that does not exist",
         .code = ERR_SERVER,
         .sqlstate = "42704",
         .message = "ERROR:  role \"archives\" does not exist",
         .facts = {RUNNING},
         .action = FAILURE_RETRY},
        {.what = "no slot was asked for",
         .code = ERR_SERVER,
         .sqlstate = "42704",
         .message = MISSING,
         .facts = {.connected = true, .streaming = true},
         .action = FAILURE_RETRY},
        {.what = "a slot that is invalidated, on 18",
         .code = ERR_SERVER,
         .sqlstate = "55000",
         .message = "ERROR:  can no longer access replication slot \"archive\"\nDETAIL:  This "
                    "replication slot has been invalidated due to \"wal_removed\".",
         .facts = {RUNNING},
         .action = FAILURE_SLOT_LOST},
        {.what = "a logical slot",
         .code = ERR_SERVER,
         .sqlstate = "55000",
         .message = "ERROR:  cannot use a logical replication slot for physical replication",
         .facts = {RUNNING},
         .action = FAILURE_RETRY},
        {.what = "its name is a part of a word of that",
         .code = ERR_SERVER,
         .sqlstate = "55000",
         .message = "ERROR:  cannot use a logical replication slot for physical replication",
         .facts = {.connected = true, .streaming = true, .slot = "log"},
         .action = FAILURE_RETRY},
        {.what = "no slot was asked for",
         .code = ERR_SERVER,
         .sqlstate = "55000",
         .message = "ERROR:  recovery is not in progress",
         .facts = {.connected = true, .streaming = true},
         .action = FAILURE_RETRY},
        {.what = "a slot that somebody else uses",
         .code = ERR_SERVER,
         .sqlstate = "55006",
         .message = "ERROR:  replication slot \"archive\" is active for PID 4711",
         .facts = {RUNNING},
         .action = FAILURE_RETRY},
    };

    (void)state;
    CHECK(rows);
}

static void
test_names_of_slots(void **state)
{
    static const struct {
        const char *slot;
        const char *message;
        bool missing;
    } rows[] = {
        {"a", "replication slot \"a\" does not exist", true},
        {"slot_1", "slot_10 and my_slot_1 are here, slot_1 is not", true},
        {"slot_1", "slot_10 and my_slot_1 are here", false},
        {"slot_1", "slot_1", true},
        {"slot_1", "slot_1_", false},
        {"", "replication slot \"\" does not exist", false},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        const Row row = {.code = ERR_SERVER, .sqlstate = "42704", .message = rows[i].message};
        Error err = error_of(&row);

        if (failure_is_missing_slot(&err, rows[i].slot) != rows[i].missing)
            fail_msg("\"%s\" in: %s", rows[i].slot, rows[i].message);
        err.code = ERR_CONNECTION;
        assert_false(failure_is_missing_slot(&err, rows[i].slot));
    }
}

static void
test_disks(void **state)
{
    static const Row rows[] = {
        {.what = "full",
         .code = ERR_SYSTEM,
         .sys_errno = ENOSPC,
         .facts = {RUNNING},
         .action = FAILURE_DISK_FULL},
        {.what = "full for us",
         .code = ERR_SYSTEM,
         .sys_errno = EDQUOT,
         .facts = {RUNNING},
         .action = FAILURE_DISK_FULL},
        {.what = "broken for now",
         .code = ERR_SYSTEM,
         .sys_errno = EIO,
         .facts = {RUNNING},
         .action = FAILURE_RETRY},
        {.what = "away for now",
         .code = ERR_SYSTEM,
         .sys_errno = ESTALE,
         .facts = {RUNNING},
         .action = FAILURE_RETRY},
        {.what = "read-only since a failure",
         .code = ERR_SYSTEM,
         .sys_errno = EROFS,
         .facts = {RUNNING},
         .action = FAILURE_RETRY},
        {.what = "read-only from the start",
         .code = ERR_SYSTEM,
         .sys_errno = EROFS,
         .facts = {.connected = true, .streaming = true},
         .action = FAILURE_FATAL},
        {.what = "not ours to write",
         .code = ERR_SYSTEM,
         .sys_errno = EACCES,
         .facts = {RUNNING},
         .action = FAILURE_FATAL},
        {.what = "taken away",
         .code = ERR_SYSTEM,
         .sys_errno = ENOENT,
         .facts = {RUNNING},
         .action = FAILURE_FATAL},
    };

    (void)state;
    CHECK(rows);
}

static void
test_damage(void **state)
{
    static const Row rows[] = {
        {.what = "WAL that is damaged",
         .code = ERR_MISMATCH,
         .facts = {RUNNING, .times = 1},
         .action = FAILURE_RETRY_AT_ONCE},
        {.what = "for the last time that it is fetched again",
         .code = ERR_MISMATCH,
         .facts = {RUNNING, .times = DAMAGE_RETRIES},
         .action = FAILURE_RETRY_AT_ONCE},
        {.what = "once too often",
         .code = ERR_MISMATCH,
         .facts = {RUNNING, .times = DAMAGE_RETRIES + 1},
         .action = FAILURE_DAMAGED},
        {.what = "another cluster",
         .code = ERR_MISMATCH,
         .facts = {.connected = true, .streamed = true, .times = 1},
         .action = FAILURE_FATAL},
    };

    (void)state;
    CHECK(rows);
}

static void
test_nothing_helps(void **state)
{
    static const ErrorCode codes[] = {ERR_USAGE,       ERR_MEMORY,  ERR_FORMAT,
                                      ERR_UNSUPPORTED, ERR_STOPPED, ERR_BUG};
    const FailureFacts facts = {RUNNING};

    (void)state;
    for (size_t i = 0; i < COUNT(codes); i++) {
        Error err = {.code = codes[i]};

        assert_int_equal(failure_action(&err, &facts), FAILURE_FATAL);
    }
}

static void
test_whose_fault(void **state)
{
    static const ErrorCode theirs[] = {ERR_CONNECTION, ERR_SERVER, ERR_PROTOCOL, ERR_MISMATCH};

    (void)state;
    for (size_t i = 0; i < COUNT(theirs); i++)
        assert_false(failure_is_ours(&(Error){.code = theirs[i]}));
    assert_true(failure_is_ours(&(Error){.code = ERR_SYSTEM, .sys_errno = EIO}));
}

static void
test_delays(void **state)
{
    static const int64_t delays[] = {500, 1000, 2000, 4000, 5000, 5000, 5000};

    (void)state;
    for (unsigned i = 0; i < COUNT(delays); i++)
        assert_int_equal(retry_delay_ms(i), delays[i]);
    assert_int_equal(retry_delay_ms(UINT32_MAX), 5000);
}

static void
test_delays_in_words(void **state)
{
    static const struct {
        int64_t ms;
        const char *text;
    } rows[] = {{500, "0.5 seconds"}, {1000, "1 second"},  {1500, "1.5 seconds"},
                {2000, "2 seconds"},  {5000, "5 seconds"}, {10000, "10 seconds"}};

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        char text[RETRY_TEXT_SIZE];

        retry_delay_text(rows[i].ms, text);
        assert_string_equal(text, rows[i].text);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_connections),   cmocka_unit_test(test_gaps),
        cmocka_unit_test(test_slots),         cmocka_unit_test(test_names_of_slots),
        cmocka_unit_test(test_disks),         cmocka_unit_test(test_damage),
        cmocka_unit_test(test_nothing_helps), cmocka_unit_test(test_whose_fault),
        cmocka_unit_test(test_delays),        cmocka_unit_test(test_delays_in_words),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
