#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "peer.h"

#define COUNT(array) (int)(sizeof(array) / sizeof((array)[0]))

/* Longer than a test may take: a test that waits for it has hung. */
static const CopyWait for_ever = {.timeout_ms = 60000};

/* ---- what can go wrong with any command ---- */

static bool
identify_with(Peer *peer)
{
    ServerIdentity identity = {.system_id = 77};
    bool ok = repl_identify_system(peer->conn, &identity, &peer->err);

    if (!ok)
        assert_int_equal(identity.system_id, 77);
    return ok;
}

static void
server_error_keeps_its_sqlstate_and_the_connection(void **state)
{
    Peer peer;
    (void)state;

    peer_init(&peer);
    peer_answer_error(&peer, "IDENTIFY_SYSTEM", "42501", "not for you");
    peer_answer(&peer, "IDENTIFY_SYSTEM", ROW("7", "1", "0/1", NULL));
    peer_connect(&peer);
    assert_false(identify_with(&peer));
    assert_string_equal(peer.err.sqlstate, "42501");
    peer_assert_error(
        &peer, ERR_SERVER,
        "could not send replication command \"IDENTIFY_SYSTEM\": ERROR:  not for you");
    assert_true(identify_with(&peer));
    peer_done(&peer);
}

static void
error_without_sqlstate_is_still_the_servers(void **state)
{
    Peer peer;
    Buf *out;
    (void)state;

    peer_init(&peer);
    wire_expect(&peer.script, "IDENTIFY_SYSTEM");
    out = wire_send(&peer.script);
    wire_error(out, "ERROR", NULL, "no state");
    wire_ready(out);
    peer_connect(&peer);
    assert_false(identify_with(&peer));
    assert_string_equal(peer.err.sqlstate, "");
    peer_assert_error(&peer, ERR_SERVER,
                      "could not send replication command \"IDENTIFY_SYSTEM\": ERROR:  no state");
    peer_done(&peer);
}

static void
overlong_sqlstate_is_cut(void **state)
{
    Peer peer;
    (void)state;

    peer_init(&peer);
    peer_answer_error(&peer, "IDENTIFY_SYSTEM", "425010123456789", "x");
    peer_connect(&peer);
    assert_false(identify_with(&peer));
    assert_string_equal(peer.err.sqlstate, "42501");
    peer_done(&peer);
}

static void
error_behind_the_row_is_an_error(void **state)
{
    Peer peer;
    Buf *out;
    (void)state;

    peer_init(&peer);
    wire_expect(&peer.script, "IDENTIFY_SYSTEM");
    out = wire_send(&peer.script);
    wire_one_row(out, ROW("7", "1", "0/1", NULL));
    wire_error(out, "ERROR", "XX000", "second thoughts");
    wire_ready(out);
    peer_connect(&peer);
    assert_false(identify_with(&peer));
    assert_string_equal(peer.err.sqlstate, "XX000");
    peer_done(&peer);
}

/* The answer to IDENTIFY_SYSTEM is none of its own. */
static void
unexpected_results(void **state)
{
    enum { COPY_OUT_R, COPY_IN_R, COPY_BOTH_R, COMPLETE_R, EMPTY_R, READY_R, RESULTS };
    static const char *const names[RESULTS] = {
        "unexpected result PGRES_COPY_OUT",    "unexpected result PGRES_COPY_IN",
        "unexpected result PGRES_COPY_BOTH",   "unexpected result PGRES_COMMAND_OK",
        "unexpected result PGRES_EMPTY_QUERY", "the server sent no result"};
    (void)state;

    for (int i = 0; i < RESULTS; i++) {
        char expected[200];
        Peer peer;
        Buf *out;

        peer_init(&peer);
        wire_expect(&peer.script, "IDENTIFY_SYSTEM");
        out = wire_send(&peer.script);
        if (i == COPY_OUT_R)
            wire_copy_out(out);
        else if (i == COPY_IN_R)
            wire_copy_in(out);
        else if (i == COPY_BOTH_R)
            wire_copy_both(out);
        else if (i == COMPLETE_R)
            wire_complete(out, "IDENTIFY_SYSTEM");
        else if (i == EMPTY_R)
            wire_message(out, 'I', NULL, 0);
        if (i > COPY_BOTH_R)
            wire_ready(out);
        peer_connect(&peer);
        assert_false(identify_with(&peer));
        (void)snprintf(expected, sizeof expected,
                       "could not send replication command \"IDENTIFY_SYSTEM\": %s", names[i]);
        peer_assert_error(&peer, ERR_PROTOCOL, expected);
        if (i <= COPY_BOTH_R) {
            assert_false(identify_with(&peer));
            peer_assert_error(&peer, ERR_PROTOCOL,
                              "could not send replication command \"IDENTIFY_SYSTEM\": the "
                              "connection is in the middle of a COPY");
        }
        peer_done(&peer);
    }
}

static void
copy_behind_the_row_is_an_error(void **state)
{
    Peer peer;
    Buf *out;
    (void)state;

    peer_init(&peer);
    wire_expect(&peer.script, "IDENTIFY_SYSTEM");
    out = wire_send(&peer.script);
    wire_one_row(out, ROW("7", "1", "0/1", NULL));
    wire_copy_out(out);
    peer_connect(&peer);
    assert_false(identify_with(&peer));
    peer_assert_error_begins(&peer, ERR_PROTOCOL, "could not send replication command");
    peer_done(&peer);
}

static void
server_that_goes_away_says_why(void **state)
{
    Peer peer;
    (void)state;

    peer_init(&peer);
    wire_expect(&peer.script, "IDENTIFY_SYSTEM");
    wire_error(wire_send(&peer.script), "FATAL", "57P01", "terminating connection");
    wire_step(&peer.script, WIRE_CLOSE);
    peer_connect(&peer);
    assert_false(identify_with(&peer));
    assert_string_equal(peer.err.sqlstate, "57P01");
    peer_assert_error_begins(
        &peer, ERR_SERVER,
        "could not send replication command \"IDENTIFY_SYSTEM\": FATAL:  terminating connection");
    /* and everything after that fails at once */
    assert_false(identify_with(&peer));
    assert_int_equal(peer.err.code, ERR_CONNECTION);
    peer_done(&peer);
}

static void
server_that_goes_away_in_silence(void **state)
{
    Peer peer;
    (void)state;

    peer_init(&peer);
    wire_expect(&peer.script, "IDENTIFY_SYSTEM");
    wire_step(&peer.script, WIRE_CLOSE);
    peer_connect(&peer);
    assert_false(identify_with(&peer));
    peer_assert_error_begins(&peer, ERR_CONNECTION,
                             "could not send replication command \"IDENTIFY_SYSTEM\": server "
                             "closed the connection unexpectedly");
    peer_done(&peer);
}

static void
server_that_left_while_we_were_idle(void **state)
{
    Stop stop;
    Peer peer;
    (void)state;

    peer_init(&peer);
    assert_true(stop_init(&stop, &peer.err));
    wire_stall(&peer.script, &stop);
    wire_error(wire_send(&peer.script), "FATAL", "57P01", "terminating connection");
    wire_step(&peer.script, WIRE_CLOSE);
    peer_connect(&peer);
    stop_request(&stop);
    while (wire_server_sent(peer.server) == 0)
        (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    assert_false(identify_with(&peer));
    assert_string_equal(peer.err.sqlstate, "57P01");
    assert_int_equal(peer.err.code, ERR_SERVER);
    peer_done(&peer);
    stop_destroy(&stop);
}

static void
request_stop_soon(void *arg)
{
    (void)nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    stop_request(arg);
}

static void
stop_ends_a_command_that_hangs(void **state)
{
    Stop stop;
    Thread thread;
    Peer peer;
    (void)state;

    peer_init(&peer);
    assert_true(stop_init(&stop, &peer.err));
    peer.conn_config.stop = &stop;
    wire_expect(&peer.script, "IDENTIFY_SYSTEM");
    wire_stall(&peer.script, NULL);
    peer_connect(&peer);
    assert_true(thread_start(&thread, request_stop_soon, &stop, &peer.err));
    assert_false(identify_with(&peer));
    peer_assert_error(&peer, ERR_STOPPED, "stopped");
    thread_join(&thread);
    peer_drop(&peer);
    stop_destroy(&stop);
}

/* ---- IDENTIFY_SYSTEM ---- */

static void
identify_system(void **state)
{
    ServerIdentity identity;
    Peer peer;
    (void)state;

    peer_init(&peer);
    peer_answer(&peer, "IDENTIFY_SYSTEM",
                ROW("18446744073709551615", "4294967295", "FFFFFFFF/FFFFFFFE", NULL));
    peer_answer(&peer, "IDENTIFY_SYSTEM", ROW("1", "2", "0/3", NULL, "new", "columns"));
    peer_connect(&peer);
    assert_true(repl_identify_system(peer.conn, &identity, &peer.err));
    assert_true(identity.system_id == UINT64_MAX);
    assert_true(identity.timeline == UINT32_MAX);
    assert_true(identity.position == UINT64_MAX - 1);
    assert_true(repl_identify_system(peer.conn, &identity, &peer.err));
    assert_true(identity.system_id == 1 && identity.timeline == 2 && identity.position == 3);
    peer_done(&peer);
}

typedef struct BadRow {
    int columns;
    const char *values[4];
    const char *message;
} BadRow;

static void
identify_system_refuses_bad_rows(void **state)
{
    static const BadRow rows[] = {
        {2,
         {"1", "1"},
         "could not identify system: got 1 rows and 2 fields, expected 1 rows and 3 "
         "or more fields"},
        {4, {NULL, "1", "0/1", NULL}, "the server sent no system identifier"},
        {4, {"1", NULL, "0/1", NULL}, "the server sent no timeline"},
        {4, {"1", "1", NULL, NULL}, "the server sent no write-ahead log location"},
        {4, {"", "1", "0/1", NULL}, "could not parse system identifier \"\""},
        {4, {"-1", "1", "0/1", NULL}, "could not parse system identifier \"-1\""},
        {4,
         {"18446744073709551616", "1", "0/1", NULL},
         "could not parse system identifier \"18446744073709551616\""},
        {4, {"1", "0", "0/1", NULL}, "could not parse timeline \"0\""},
        {4, {"1", "-1", "0/1", NULL}, "could not parse timeline \"-1\""},
        {4, {"1", "4294967296", "0/1", NULL}, "could not parse timeline \"4294967296\""},
        {4, {"1", "1 ", "0/1", NULL}, "could not parse timeline \"1 \""},
        {4, {"1", "1", "01", NULL}, "could not parse write-ahead log location \"01\""},
        {4, {"1", "1", "0/", NULL}, "could not parse write-ahead log location \"0/\""},
        {4, {"1", "1", "0/1G", NULL}, "could not parse write-ahead log location \"0/1G\""},
        {4,
         {"1", "1", "0/123456789", NULL},
         "could not parse write-ahead log location \"0/123456789\""},
    };
    Peer peer;
    (void)state;

    peer_init(&peer);
    for (int i = 0; i < COUNT(rows); i++)
        peer_answer(&peer, "IDENTIFY_SYSTEM", rows[i].columns, rows[i].values);
    peer_connect(&peer);
    for (int i = 0; i < COUNT(rows); i++) {
        assert_false(identify_with(&peer));
        peer_assert_error(&peer, ERR_PROTOCOL, rows[i].message);
    }
    peer_done(&peer);
}

static void
identify_system_wants_one_row(void **state)
{
    Peer peer;
    Buf *out;
    (void)state;

    peer_init(&peer);
    wire_expect(&peer.script, "IDENTIFY_SYSTEM");
    out = wire_send(&peer.script);
    wire_row_description(out, 4);
    wire_complete(out, "SELECT");
    wire_ready(out);
    wire_expect(&peer.script, "IDENTIFY_SYSTEM");
    out = wire_send(&peer.script);
    wire_row_description(out, 4);
    wire_row(out, ROW("1", "1", "0/1", NULL));
    wire_row(out, ROW("2", "1", "0/1", NULL));
    wire_complete(out, "SELECT");
    wire_ready(out);
    peer_connect(&peer);
    assert_false(identify_with(&peer));
    peer_assert_error(&peer, ERR_PROTOCOL,
                      "could not identify system: got 0 rows and 4 fields, expected 1 rows and 3 "
                      "or more fields");
    assert_false(identify_with(&peer));
    peer_assert_error(&peer, ERR_PROTOCOL,
                      "could not identify system: got 2 rows and 4 fields, expected 1 rows and 3 "
                      "or more fields");
    peer_done(&peer);
}

/* ---- SHOW ---- */

static void
segment_size(void **state)
{
    static const struct {
        const char *text;
        uint32_t size; /* 0: refused */
        const char *message;
    } cases[] = {
        {"1MB", 1U << 20, NULL},
        {"16MB", 1U << 24, NULL},
        {"512MB", 1U << 29, NULL},
        {"1GB", 1U << 30, NULL},
        {"1024MB", 1U << 30, NULL},
        {"2GB", 0,
         "WAL segment size must be a power of two between 1 MB and 1 GB, but the remote server "
         "reported a value of 2147483648 bytes"},
        {"0MB", 0,
         "WAL segment size must be a power of two between 1 MB and 1 GB, but the remote server "
         "reported a value of 0 bytes"},
        {"3MB", 0,
         "WAL segment size must be a power of two between 1 MB and 1 GB, but the remote server "
         "reported a value of 3145728 bytes"},
        {"16777216", 0, "WAL segment size could not be parsed: \"16777216\""},
        {"16kB", 0,
         "WAL segment size must be a power of two between 1 MB and 1 GB, but the remote server "
         "reported a value of 16384 bytes"},
        {"16KB", 0, "WAL segment size could not be parsed: \"16KB\""},
        {"16MBs", 0, "WAL segment size could not be parsed: \"16MBs\""},
        {"MB", 0, "WAL segment size could not be parsed: \"MB\""},
        {"", 0, "WAL segment size could not be parsed: \"\""},
        {"-16MB", 0, "WAL segment size could not be parsed: \"-16MB\""},
        {"99999999999MB", 0, "WAL segment size could not be parsed: \"99999999999MB\""},
        {NULL, 0, "the server sent no WAL segment size"},
    };
    Peer peer;
    (void)state;

    peer_init(&peer);
    for (int i = 0; i < COUNT(cases); i++)
        peer_answer(&peer, "SHOW wal_segment_size", 1, &cases[i].text);
    peer_connect(&peer);
    for (int i = 0; i < COUNT(cases); i++) {
        uint32_t size = 5;

        if (cases[i].size == 0) {
            assert_false(repl_segment_size(peer.conn, &size, &peer.err));
            peer_assert_error(&peer, ERR_PROTOCOL, cases[i].message);
            assert_int_equal(size, 5);
        } else {
            assert_true(repl_segment_size(peer.conn, &size, &peer.err));
            assert_int_equal(size, cases[i].size);
        }
    }
    peer_done(&peer);
}

static void
group_access(void **state)
{
    static const struct {
        const char *text;
        bool valid;
        bool group;
    } cases[] = {{"0700", true, false}, {"0750", true, true},   {"700", true, false},
                 {"750", true, true},   {"0740", true, false},  {"0710", true, false},
                 {"0777", true, true},  {"0780", false, false}, {"rwx", false, false},
                 {"", false, false},    {"50", false, false},   {"00750", false, false},
                 {NULL, false, false}};
    Peer peer;
    (void)state;

    peer_init(&peer);
    for (int i = 0; i < COUNT(cases); i++)
        peer_answer(&peer, "SHOW data_directory_mode", 1, &cases[i].text);
    peer_connect(&peer);
    for (int i = 0; i < COUNT(cases); i++) {
        bool group = !cases[i].group;

        assert_int_equal(repl_group_access(peer.conn, &group, &peer.err), cases[i].valid);
        assert_int_equal(group, cases[i].valid ? cases[i].group : !cases[i].group);
        if (!cases[i].valid)
            assert_int_equal(peer.err.code, ERR_PROTOCOL);
    }
    peer_done(&peer);
}

static void
group_access_is_not_asked_of_10(void **state)
{
    bool group = true;
    Peer peer;
    (void)state;

    peer_init(&peer);
    peer.config.server_version = "10.23";
    peer_connect(&peer);
    assert_true(repl_group_access(peer.conn, &group, &peer.err));
    assert_false(group);
    peer_done(&peer);
}

/* The answers to repl_page_layout; NULL is SQL's. */
typedef struct LayoutAnswers {
    const char *checksums;
    const char *page_size;
    const char *segment_size;
} LayoutAnswers;

/* A page size that is refused ends the questions. */
static void
script_layout(Peer *peer, const LayoutAnswers *answers, bool segment)
{
    peer_answer(peer, "SHOW data_checksums", 1, &answers->checksums);
    peer_answer(peer, "SHOW block_size", 1, &answers->page_size);
    if (segment)
        peer_answer(peer, "SHOW segment_size", 1, &answers->segment_size);
}

static void
page_layout(void **state)
{
    static const struct {
        LayoutAnswers answers;
        PageLayout layout;
    } cases[] = {
        {{"on", "8192", "1GB"}, {true, 8192, 131072}},
        {{"off", "8192", "1GB"}, {false, 8192, 131072}},
        /* a state between the two promises nothing */
        {{"inprogress-on", "8192", "1GB"}, {false, 8192, 131072}},
        {{"ON", "8192", "1GB"}, {false, 8192, 131072}},
        {{"", "8192", "1GB"}, {false, 8192, 131072}},
        {{"on", "1024", "1kB"}, {true, 1024, 1}},
        {{"on", "32768", "2GB"}, {true, 32768, 65536}},
        {{"on", "4096", "48kB"}, {true, 4096, 12}},
        {{"on", "16384", "1073741824B"}, {true, 16384, 65536}},
        {{"on", "8192", "16MB"}, {true, 8192, 2048}},
        {{"on", "8192", "1TB"}, {true, 8192, 134217728}},
        /* the most pages that have a number each */
        {{"on", "1024", "4294967295kB"}, {true, 1024, UINT32_MAX}},
    };
    Peer peer;
    (void)state;

    peer_init(&peer);
    for (int i = 0; i < COUNT(cases); i++)
        script_layout(&peer, &cases[i].answers, true);
    peer_connect(&peer);
    for (int i = 0; i < COUNT(cases); i++) {
        PageLayout layout = {.segment_pages = 0};

        assert_true(repl_page_layout(peer.conn, &layout, &peer.err));
        assert_int_equal(layout.checksums, cases[i].layout.checksums);
        assert_int_equal(layout.page_size, cases[i].layout.page_size);
        assert_int_equal(layout.segment_pages, cases[i].layout.segment_pages);
    }
    peer_done(&peer);
}

#define BAD_PAGE_SIZE(bytes)                                                                       \
    "block size must be a power of two between 1 kB and 32 kB, but the remote server reported a "  \
    "value of " bytes " bytes"
#define BAD_SEGMENT_SIZE(bytes)                                                                    \
    "relation segment size must be a number of blocks of 8192 bytes, but the remote server "       \
    "reported a value of " bytes " bytes"

static void
page_layout_refuses(void **state)
{
    static const struct {
        LayoutAnswers answers;
        bool segment; /* it is asked for */
        const char *message;
    } cases[] = {
        {{"on", "0", NULL}, false, BAD_PAGE_SIZE("0")},
        {{"on", "512", NULL}, false, BAD_PAGE_SIZE("512")},
        {{"on", "65536", NULL}, false, BAD_PAGE_SIZE("65536")},
        {{"on", "8191", NULL}, false, BAD_PAGE_SIZE("8191")},
        {{"on", "12288", NULL}, false, BAD_PAGE_SIZE("12288")},
        {{"on", "8kB", NULL}, false, "block size could not be parsed: \"8kB\""},
        {{"on", "", NULL}, false, "block size could not be parsed: \"\""},
        {{"on", "-8192", NULL}, false, "block size could not be parsed: \"-8192\""},
        {{"on", "4294975488", NULL}, false, "block size could not be parsed: \"4294975488\""},
        {{"on", NULL, NULL}, false, "the server sent no block size"},
        {{"on", "8192", "0kB"}, true, BAD_SEGMENT_SIZE("0")},
        {{"on", "8192", "4kB"}, true, BAD_SEGMENT_SIZE("4096")},
        {{"on", "8192", "12kB"}, true, BAD_SEGMENT_SIZE("12288")},
        {{"on", "8192", "32TB"}, true, BAD_SEGMENT_SIZE("35184372088832")},
        {{"on", "8192", "131072"}, true, "relation segment size could not be parsed: \"131072\""},
        {{"on", "8192", "1 GB"}, true, "relation segment size could not be parsed: \"1 GB\""},
        {{"on", "8192", "1gb"}, true, "relation segment size could not be parsed: \"1gb\""},
        {{"on", "8192", "GB"}, true, "relation segment size could not be parsed: \"GB\""},
        {{"on", "8192", ""}, true, "relation segment size could not be parsed: \"\""},
        /* more than 64 bits hold, and more than 32 of the number */
        {{"on", "8192", "16777216TB"},
         true,
         "relation segment size could not be parsed: \"16777216TB\""},
        {{"on", "8192", "4294967296kB"},
         true,
         "relation segment size could not be parsed: \"4294967296kB\""},
        {{"on", "8192", "00000000001kB"},
         true,
         "relation segment size could not be parsed: \"00000000001kB\""},
        {{"on", "8192", NULL}, true, "the server sent no relation segment size"},
    };
    Peer peer;
    (void)state;

    peer_init(&peer);
    for (int i = 0; i < COUNT(cases); i++)
        script_layout(&peer, &cases[i].answers, cases[i].segment);
    peer_connect(&peer);
    for (int i = 0; i < COUNT(cases); i++) {
        PageLayout layout = {.segment_pages = 77};

        assert_false(repl_page_layout(peer.conn, &layout, &peer.err));
        peer_assert_error(&peer, ERR_PROTOCOL, cases[i].message);
        assert_int_equal(layout.segment_pages, 77);
    }
    peer_done(&peer);
}

static void
page_layout_that_the_server_does_not_tell(void **state)
{
    PageLayout layout;
    Peer peer;
    Buf *out;
    (void)state;

    peer_init(&peer);
    peer_answer(&peer, "SHOW data_checksums", ROW(NULL));
    peer_answer_error(&peer, "SHOW data_checksums", "42704", "unrecognized parameter");
    peer_answer(&peer, "SHOW data_checksums", ROW("on"));
    wire_expect(&peer.script, "SHOW block_size");
    out = wire_send(&peer.script);
    wire_row_description(out, 1);
    wire_complete(out, "SHOW");
    wire_ready(out);
    peer_connect(&peer);
    assert_false(repl_page_layout(peer.conn, &layout, &peer.err));
    peer_assert_error(&peer, ERR_PROTOCOL, "the server sent no data_checksums setting");
    assert_false(repl_page_layout(peer.conn, &layout, &peer.err));
    assert_string_equal(peer.err.sqlstate, "42704");
    peer_assert_error(&peer, ERR_SERVER,
                      "could not send replication command \"SHOW data_checksums\": ERROR:  "
                      "unrecognized parameter");
    assert_false(repl_page_layout(peer.conn, &layout, &peer.err));
    peer_assert_error(&peer, ERR_PROTOCOL,
                      "could not fetch block size: got 0 rows and 1 fields, expected 1 rows and 1 "
                      "or more fields");
    peer_done(&peer);
}

/* ---- slots ---- */

static void
create_slot_commands(void **state)
{
    static const struct {
        const char *version;
        SlotKind kind;
        SlotReserve reserve;
        const char *command;
    } cases[] = {
        {"10.23", SLOT_TEMPORARY, SLOT_RESERVE_WAL,
         "CREATE_REPLICATION_SLOT \"a\"\"b\" TEMPORARY PHYSICAL RESERVE_WAL"},
        {"14.9", SLOT_PERMANENT, SLOT_RESERVE_WAL,
         "CREATE_REPLICATION_SLOT \"a\"\"b\" PHYSICAL RESERVE_WAL"},
        {"14.9", SLOT_PERMANENT, SLOT_RESERVE_LATER, "CREATE_REPLICATION_SLOT \"a\"\"b\" PHYSICAL"},
        {"15.1", SLOT_TEMPORARY, SLOT_RESERVE_WAL,
         "CREATE_REPLICATION_SLOT \"a\"\"b\" TEMPORARY PHYSICAL (RESERVE_WAL)"},
        {"18.0", SLOT_PERMANENT, SLOT_RESERVE_WAL,
         "CREATE_REPLICATION_SLOT \"a\"\"b\" PHYSICAL (RESERVE_WAL)"},
        {"18.0", SLOT_TEMPORARY, SLOT_RESERVE_LATER,
         "CREATE_REPLICATION_SLOT \"a\"\"b\" TEMPORARY PHYSICAL"},
    };
    (void)state;

    for (int i = 0; i < COUNT(cases); i++) {
        Peer peer;

        peer_init(&peer);
        peer.config.server_version = cases[i].version;
        peer_answer(&peer, "CREATE_REPLICATION_SLOT", ROW("a\"b", "0/0", NULL, NULL));
        peer_connect(&peer);
        assert_true(
            repl_create_slot(peer.conn, "a\"b", cases[i].kind, cases[i].reserve, &peer.err));
        (void)wire_server_stop(peer.server);
        assert_string_equal(wire_server_query(peer.server, 0), cases[i].command);
        peer_done(&peer);
    }
}

/* A stop in mid-command waits for the answer: somebody has to know that there is a slot now. */
static void
create_slot_and_a_stop(void **state)
{
    Peer peer;
    Stop stop;
    Stop answer;
    (void)state;

    peer_init(&peer);
    assert_true(stop_init_after(&answer, 300, &peer.err));
    wire_expect(&peer.script, "CREATE_REPLICATION_SLOT");
    wire_stall(&peer.script, &answer);
    wire_one_row(wire_send(&peer.script), ROW("s", "0/0", NULL, NULL));
    wire_complete(wire_send(&peer.script), "CREATE_REPLICATION_SLOT");
    wire_ready(wire_send(&peer.script));
    peer_start(&peer);
    assert_true(stop_init_after(&stop, 200, &peer.err));
    peer.conn_config.stop = &stop;
    peer.conn = conn_open(&peer.conn_config, &peer.err);
    assert_non_null(peer.conn);
    assert_true(repl_create_slot(peer.conn, "s", SLOT_PERMANENT, SLOT_RESERVE_WAL, &peer.err));
    assert_true(stop_requested(&stop));
    /* Once it has been noticed, nothing is begun any more. */
    assert_false(repl_create_slot(peer.conn, "t", SLOT_PERMANENT, SLOT_RESERVE_WAL, &peer.err));
    peer_assert_error(&peer, ERR_STOPPED, "stopped");
    peer_done(&peer);
    stop_destroy(&stop);
    stop_destroy(&answer);
}

static void
create_slot_that_exists(void **state)
{
    Peer peer;
    (void)state;

    peer_init(&peer);
    peer_answer_error(&peer, "CREATE_REPLICATION_SLOT", "42710",
                      "replication slot \"s\" already exists");
    peer_answer(&peer, "CREATE_REPLICATION_SLOT", ROW("s", "0/0"));
    peer_connect(&peer);
    assert_false(repl_create_slot(peer.conn, "s", SLOT_PERMANENT, SLOT_RESERVE_LATER, &peer.err));
    assert_string_equal(peer.err.sqlstate, "42710");
    peer_assert_error(&peer, ERR_SERVER,
                      "could not send replication command \"CREATE_REPLICATION_SLOT \"s\" "
                      "PHYSICAL\": ERROR:  replication slot \"s\" already exists");
    assert_false(repl_create_slot(peer.conn, "s", SLOT_PERMANENT, SLOT_RESERVE_LATER, &peer.err));
    peer_assert_error(&peer, ERR_PROTOCOL,
                      "could not create replication slot \"s\": got 1 rows and 2 fields, expected "
                      "1 rows and 4 or more fields");
    peer_done(&peer);
}

static void
drop_slot(void **state)
{
    Peer peer;
    Buf *out;
    (void)state;

    peer_init(&peer);
    wire_expect(&peer.script, "DROP_REPLICATION_SLOT \"s\"");
    out = wire_send(&peer.script);
    wire_complete(out, "DROP_REPLICATION_SLOT");
    wire_ready(out);
    peer_answer_error(&peer, "DROP_REPLICATION_SLOT \"s\"", "42704", "gone");
    peer_connect(&peer);
    assert_true(repl_drop_slot(peer.conn, "s", &peer.err));
    assert_false(repl_drop_slot(peer.conn, "s", &peer.err));
    assert_string_equal(peer.err.sqlstate, "42704");
    peer_assert_error(
        &peer, ERR_SERVER,
        "could not send replication command \"DROP_REPLICATION_SLOT \"s\"\": ERROR:  gone");
    peer_done(&peer);
}

static void
read_slot(void **state)
{
    SlotState slot;
    Peer peer;
    (void)state;

    peer_init(&peer);
    peer_answer(&peer, "READ_REPLICATION_SLOT \"s\"", ROW("physical", "1/2000", "3"));
    peer_answer(&peer, "READ_REPLICATION_SLOT \"s\"", ROW("physical", NULL, NULL, "more"));
    peer_answer(&peer, "READ_REPLICATION_SLOT \"s\"", ROW(NULL, NULL, NULL));
    peer_connect(&peer);
    assert_true(repl_read_slot(peer.conn, "s", &slot, &peer.err));
    assert_true(slot.exists && slot.has_position);
    assert_true(slot.restart_lsn == 0x100002000 && slot.restart_timeline == 3);
    assert_true(repl_read_slot(peer.conn, "s", &slot, &peer.err));
    assert_true(slot.exists && !slot.has_position);
    assert_true(slot.restart_lsn == 0 && slot.restart_timeline == 0);
    assert_true(repl_read_slot(peer.conn, "s", &slot, &peer.err));
    assert_false(slot.exists || slot.has_position);
    peer_done(&peer);
}

static void
read_slot_refuses(void **state)
{
    static const BadRow rows[] = {
        {3,
         {"logical", "0/1", "1"},
         "expected a physical replication slot, got type \"logical\" instead"},
        {3, {"physical", "1", "1"}, "replication slot \"s\": could not parse restart_lsn \"1\""},
        {3, {"physical", "0/1", NULL}, "replication slot \"s\": the server sent no restart_tli"},
        {3, {"physical", "0/1", "x"}, "replication slot \"s\": could not parse restart_tli \"x\""},
        {2,
         {"physical", "0/1"},
         "could not read replication slot \"s\": got 1 rows and 2 fields, expected 1 rows and 3 or "
         "more fields"},
    };
    SlotState slot;
    Peer peer;
    (void)state;

    peer_init(&peer);
    for (int i = 0; i < COUNT(rows); i++)
        peer_answer(&peer, "READ_REPLICATION_SLOT \"s\"", rows[i].columns, rows[i].values);
    peer_connect(&peer);
    for (int i = 0; i < COUNT(rows); i++) {
        assert_false(repl_read_slot(peer.conn, "s", &slot, &peer.err));
        peer_assert_error(&peer, i == 0 ? ERR_UNSUPPORTED : ERR_PROTOCOL, rows[i].message);
    }
    peer_done(&peer);
}

static void
read_slot_needs_15(void **state)
{
    SlotState slot;
    Peer peer;
    (void)state;

    peer_init(&peer);
    peer.config.server_version = "14.9";
    peer_connect(&peer);
    assert_false(repl_read_slot(peer.conn, "s", &slot, &peer.err));
    peer_assert_error(&peer, ERR_UNSUPPORTED,
                      "server version 14.9 cannot tell the position of replication slot \"s\"");
    peer_done(&peer);
}

/* ---- TIMELINE_HISTORY ---- */

static void
timeline_history(void **state)
{
    static const char content[] = "1\t0/3000000\tno\\x00 recovery\n\n2\t0/5\ta\n";
    Buf got = BUF_INIT;
    Peer peer;
    (void)state;

    peer_init(&peer);
    peer_answer(&peer, "TIMELINE_HISTORY 10", ROW("0000000A.history", content));
    peer_answer(&peer, "TIMELINE_HISTORY 4294967295", ROW("FFFFFFFF.history", ""));
    peer_connect(&peer);
    assert_true(buf_printf(&got, &peer.err, "before:"));
    assert_true(repl_timeline_history(peer.conn, 10, &got, &peer.err));
    assert_int_equal(got.len, 7 + sizeof content - 1);
    assert_memory_equal(got.data + 7, content, sizeof content - 1);
    assert_true(repl_timeline_history(peer.conn, UINT32_MAX, &got, &peer.err));
    assert_int_equal(got.len, 7 + sizeof content - 1);
    buf_free(&got);
    peer_done(&peer);
}

static void
timeline_history_keeps_zero_bytes(void **state)
{
    /* one row of two columns, the second with a zero byte in it */
    static const char row[] = "\0\2\0\0\0\x10"
                              "00000002.history\0\0\0\3a\0b";
    Buf got = BUF_INIT;
    Peer peer;
    Buf *out;
    (void)state;

    peer_init(&peer);
    wire_expect(&peer.script, "TIMELINE_HISTORY 2");
    out = wire_send(&peer.script);
    wire_row_description(out, 2);
    wire_message(out, 'D', row, sizeof row - 1);
    wire_complete(out, "TIMELINE_HISTORY");
    wire_ready(out);
    peer_connect(&peer);
    assert_true(repl_timeline_history(peer.conn, 2, &got, &peer.err));
    assert_int_equal(got.len, 3);
    assert_memory_equal(got.data, "a\0b", 3);
    buf_free(&got);
    peer_done(&peer);
}

static void
timeline_history_refuses(void **state)
{
    static const BadRow rows[] = {
        {2,
         {"00000003.history", "x"},
         "server reported unexpected history file name for timeline 2: 00000003.history"},
        {2,
         {"../00000002.history", "x"},
         "server reported unexpected history file name for timeline 2: ../00000002.history"},
        {2, {NULL, "x"}, "the server sent no history file name"},
        {2,
         {"00000002.history", NULL},
         "the server sent no content of history file \"00000002.history\""},
        {1,
         {"00000002.history"},
         "unexpected response to TIMELINE_HISTORY command: got 1 rows and 1 fields, expected 1 "
         "rows "
         "and 2 or more fields"},
    };
    Buf got = BUF_INIT;
    Peer peer;
    (void)state;

    peer_init(&peer);
    for (int i = 0; i < COUNT(rows); i++)
        peer_answer(&peer, "TIMELINE_HISTORY 2", rows[i].columns, rows[i].values);
    peer_answer_error(&peer, "TIMELINE_HISTORY 2", "58P01", "could not open file");
    peer_connect(&peer);
    for (int i = 0; i < COUNT(rows); i++) {
        assert_false(repl_timeline_history(peer.conn, 2, &got, &peer.err));
        peer_assert_error(&peer, ERR_PROTOCOL, rows[i].message);
    }
    assert_false(repl_timeline_history(peer.conn, 2, &got, &peer.err));
    assert_string_equal(peer.err.sqlstate, "58P01");
    assert_int_equal(got.len, 0);
    buf_free(&got);
    peer_done(&peer);
}

/* A field in which libpq would see less than the server sent. */
static void
zero_byte_in_a_field(void **state)
{
    static const char row[] = "\0\1\0\0\0\6"
                              "16MB\0x";
    uint32_t size;
    Peer peer;
    Buf *out;
    (void)state;

    peer_init(&peer);
    wire_expect(&peer.script, "SHOW wal_segment_size");
    out = wire_send(&peer.script);
    wire_row_description(out, 1);
    wire_message(out, 'D', row, sizeof row - 1);
    wire_complete(out, "SHOW");
    wire_ready(out);
    peer_connect(&peer);
    assert_false(repl_segment_size(peer.conn, &size, &peer.err));
    peer_assert_error(&peer, ERR_PROTOCOL,
                      "the server sent a WAL segment size with a zero byte in it");
    peer_done(&peer);
}

/* A row that is shorter than its description, and one that is longer than its message. */
static void
malformed_rows(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
    } rows[] = {{"\0\1\0\0\0\1x", 7}, {"\0\2\0\0\0\1x\0\0\0\xff", 11}, {"\0", 1}};
    (void)state;

    for (int i = 0; i < COUNT(rows); i++) {
        Buf got = BUF_INIT;
        Peer peer;
        Buf *out;

        peer_init(&peer);
        wire_expect(&peer.script, "TIMELINE_HISTORY 2");
        out = wire_send(&peer.script);
        wire_row_description(out, 2);
        wire_message(out, 'D', rows[i].bytes, rows[i].len);
        wire_complete(out, "SELECT");
        wire_ready(out);
        wire_step(&peer.script, WIRE_CLOSE);
        peer_connect(&peer);
        assert_false(repl_timeline_history(peer.conn, 2, &got, &peer.err));
        assert_true(peer.err.code == ERR_PROTOCOL || peer.err.code == ERR_CONNECTION);
        assert_int_equal(got.len, 0);
        buf_free(&got);
        peer_done(&peer);
    }
}

/* ---- BASE_BACKUP ---- */

static const BaseBackupRequest plain_request = {.label = "l",
                                                .fast_checkpoint = true,
                                                .no_wait = true,
                                                .verify_checksums = true,
                                                .manifest = MANIFEST_YES};

/* The two result sets that begin a backup, with a tablespace. */
static void
script_backup_start(Peer *peer)
{
    Buf *out;

    wire_expect(&peer->script, "BASE_BACKUP");
    out = wire_send(&peer->script);
    wire_notice(out, "a notice goes to standard error");
    wire_one_row(out, ROW("0/2000028", "1"));
    wire_row_description(out, 3);
    wire_row(out, ROW("16385", "/srv/ts", "12"));
    wire_row(out, ROW("16386", "pg_tblspc/16386", NULL));
    wire_row(out, ROW(NULL, NULL, "23000"));
    wire_complete(out, "SELECT");
}

static void
script_backup_end(Buf *out)
{
    wire_one_row(out, ROW("0/2000100", "1"));
    wire_complete(out, "BASE_BACKUP");
    wire_ready(out);
}

static void
assert_started(const BackupStart *start)
{
    assert_true(start->lsn == 0x2000028 && start->timeline == 1);
    assert_int_equal(start->tablespace_count, 3);
    assert_int_equal(start->tablespaces[0].oid, 16385);
    assert_string_equal(start->tablespaces[0].location, "/srv/ts");
    assert_int_equal(start->tablespaces[0].size_kb, 12);
    assert_int_equal(start->tablespaces[1].oid, 16386);
    assert_string_equal(start->tablespaces[1].location, "pg_tblspc/16386");
    assert_int_equal(start->tablespaces[1].size_kb, 0);
    assert_int_equal(start->tablespaces[2].oid, 0);
    assert_null(start->tablespaces[2].location);
    assert_int_equal(start->tablespaces[2].size_kb, 23000);
}

/* All messages of the current COPY, one after the other. */
static void
assert_copy(Peer *peer, const char *expected)
{
    Buf all = BUF_INIT;
    Span message;
    CopyResult got;

    while ((got = copy_next(peer->conn, &for_ever, &message, &peer->err)) == COPY_MESSAGE)
        assert_true(buf_append(&all, message.data, message.len, &peer->err));
    if (got != COPY_DONE)
        fail_msg("copy ended with %d: %s", (int)got, peer->err.message);
    assert_string_equal(buf_text(&all), expected);
    buf_free(&all);
}

static void
base_backup_one_copy(void **state)
{
    BackupStart start;
    BackupEnd end;
    Peer peer;
    Buf *out;
    (void)state;

    peer_init(&peer);
    script_backup_start(&peer);
    out = wire_send(&peer.script);
    wire_copy_out(out);
    wire_copy_data(out, "dfirst", 6);
    wire_copy_data(out, "dsecond", 7);
    wire_copy_done(out);
    script_backup_end(out);
    peer_answer(&peer, "IDENTIFY_SYSTEM", ROW("7", "1", "0/1", NULL));
    peer_connect(&peer);
    assert_true(repl_base_backup(peer.conn, &plain_request, NULL, &start, &peer.err));
    assert_started(&start);
    backup_start_free(&start);
    assert_null(start.tablespaces);
    backup_start_free(&start);
    assert_true(repl_next_copy(peer.conn, NULL, &peer.err));
    assert_copy(&peer, "dfirstdsecond");
    assert_true(repl_base_backup_end(peer.conn, NULL, &end, &peer.err));
    assert_true(end.lsn == 0x2000100 && end.timeline == 1 && !end.checksum_failures);
    assert_int_equal(copy_next(peer.conn, &for_ever, &(Span){.data = NULL}, &peer.err),
                     COPY_FAILED);
    peer_assert_error(&peer, ERR_BUG, "there is no COPY to read from");
    assert_true(identify_with(&peer));
    (void)wire_server_stop(peer.server);
    assert_string_equal(wire_server_query(peer.server, 0),
                        "BASE_BACKUP (LABEL 'l', CHECKPOINT 'fast', WAIT 0, VERIFY_CHECKSUMS 1, "
                        "MANIFEST 'yes', TARGET 'client')");
    peer_done(&peer);
}

static void
base_backup_copy_per_archive(void **state)
{
    BackupStart start;
    BackupEnd end;
    Peer peer;
    Buf *out;
    (void)state;

    peer_init(&peer);
    peer.config.server_version = "13.4";
    script_backup_start(&peer);
    out = wire_send(&peer.script);
    wire_copy_out(out);
    wire_copy_data(out, "one", 3);
    wire_copy_done(out);
    wire_copy_out(out);
    wire_copy_done(out);
    wire_copy_out(out);
    wire_copy_data(out, "base", 4);
    wire_copy_done(out);
    wire_copy_out(out);
    wire_copy_data(out, "manifest", 8);
    wire_copy_done(out);
    script_backup_end(out);
    peer_connect(&peer);
    assert_true(repl_base_backup(peer.conn, &plain_request, NULL, &start, &peer.err));
    assert_started(&start);
    backup_start_free(&start);
    assert_true(repl_next_copy(peer.conn, NULL, &peer.err));
    assert_copy(&peer, "one");
    assert_true(repl_next_copy(peer.conn, NULL, &peer.err));
    assert_copy(&peer, "");
    assert_true(repl_next_copy(peer.conn, NULL, &peer.err));
    assert_copy(&peer, "base");
    assert_true(repl_next_copy(peer.conn, NULL, &peer.err));
    assert_copy(&peer, "manifest");
    assert_true(repl_base_backup_end(peer.conn, NULL, &end, &peer.err));
    assert_true(end.lsn == 0x2000100);
    (void)wire_server_stop(peer.server);
    assert_string_equal(wire_server_query(peer.server, 0),
                        "BASE_BACKUP LABEL 'l' FAST NOWAIT MANIFEST 'yes'");
    peer_done(&peer);
}

static void
base_backup_with_damaged_pages(void **state)
{
    BackupStart start;
    BackupEnd end;
    Peer peer;
    Buf *out;
    (void)state;

    peer_init(&peer);
    script_backup_start(&peer);
    out = wire_send(&peer.script);
    wire_copy_out(out);
    wire_copy_done(out);
    wire_one_row(out, ROW("0/2000100", "2"));
    wire_error(out, "ERROR", "XX001", "checksum verification failure during base backup");
    wire_ready(out);
    peer_answer(&peer, "IDENTIFY_SYSTEM", ROW("7", "1", "0/1", NULL));
    peer_connect(&peer);
    assert_true(repl_base_backup(peer.conn, &plain_request, NULL, &start, &peer.err));
    backup_start_free(&start);
    assert_true(repl_next_copy(peer.conn, NULL, &peer.err));
    assert_copy(&peer, "");
    assert_true(repl_base_backup_end(peer.conn, NULL, &end, &peer.err));
    assert_true(end.lsn == 0x2000100 && end.timeline == 2 && end.checksum_failures);
    assert_int_equal(peer.err.code, ERR_NONE);
    assert_true(identify_with(&peer));
    peer_done(&peer);
}

static void
base_backup_refused(void **state)
{
    BackupStart start = {.timeline = 9};
    Peer peer;
    Buf *out;
    (void)state;

    peer_init(&peer);
    peer_answer_error(&peer, "BASE_BACKUP", "42601", "syntax error");
    wire_expect(&peer.script, "BASE_BACKUP");
    out = wire_send(&peer.script);
    wire_one_row(out, ROW("0/1", "1"));
    wire_error(out, "ERROR", "55000", "no");
    wire_ready(out);
    peer_answer(&peer, "BASE_BACKUP", ROW("0/1"));
    peer_answer(&peer, "BASE_BACKUP", ROW("0/1", NULL));
    peer_answer(&peer, "BASE_BACKUP", ROW("zero", "1"));
    wire_expect(&peer.script, "BASE_BACKUP");
    wire_copy_out(wire_send(&peer.script));
    peer_connect(&peer);

    assert_false(repl_base_backup(peer.conn, &plain_request, NULL, &start, &peer.err));
    assert_string_equal(peer.err.sqlstate, "42601");
    peer_assert_error(&peer, ERR_SERVER, "could not initiate base backup: ERROR:  syntax error");
    assert_false(repl_base_backup(peer.conn, &plain_request, NULL, &start, &peer.err));
    assert_string_equal(peer.err.sqlstate, "55000");
    peer_assert_error(&peer, ERR_SERVER, "could not get backup header: ERROR:  no");
    assert_false(repl_base_backup(peer.conn, &plain_request, NULL, &start, &peer.err));
    peer_assert_error(&peer, ERR_PROTOCOL,
                      "server returned unexpected response to BASE_BACKUP command; got 1 rows and "
                      "1 fields, expected 1 rows and 2 fields");
    assert_false(repl_base_backup(peer.conn, &plain_request, NULL, &start, &peer.err));
    peer_assert_error(&peer, ERR_PROTOCOL, "the server sent no timeline");
    assert_false(repl_base_backup(peer.conn, &plain_request, NULL, &start, &peer.err));
    peer_assert_error(&peer, ERR_PROTOCOL, "could not parse write-ahead log location \"zero\"");
    assert_false(repl_base_backup(peer.conn, &plain_request, NULL, &start, &peer.err));
    peer_assert_error(&peer, ERR_PROTOCOL,
                      "could not initiate base backup: unexpected result PGRES_COPY_OUT");
    assert_int_equal(start.timeline, 9);
    peer_done(&peer);
}

static void
base_backup_header_refused(void **state)
{
    enum { ROWS = 2 };
    static const struct {
        int rows;
        int columns;
        const char *values[ROWS][3];
        const char *message;
    } cases[] = {
        {0, 3, {{NULL}}, "no data returned from server"},
        {1,
         2,
         {{NULL, NULL}},
         "could not get backup header: got 1 rows and 2 fields, expected 3 or more fields"},
        {1,
         3,
         {{"1", "/x", NULL}},
         "server did not list the data directory once, as the last archive"},
        {2,
         3,
         {{NULL, NULL, NULL}, {"1", "/x", NULL}},
         "server did not list the data directory once, as the last archive"},
        {2,
         3,
         {{NULL, NULL, NULL}, {NULL, NULL, NULL}},
         "server did not list the data directory once, as the last archive"},
        {2, 3, {{"0", "/x", NULL}, {NULL, NULL, NULL}}, "could not parse tablespace OID \"0\""},
        {2,
         3,
         {{"4294967296", "/x", NULL}, {NULL, NULL, NULL}},
         "could not parse tablespace OID \"4294967296\""},
        {2, 3, {{"5", NULL, NULL}, {NULL, NULL, NULL}}, "the server sent no tablespace location"},
        {2,
         3,
         {{"5", "", NULL}, {NULL, NULL, NULL}},
         "the server sent no location of tablespace 5"},
        {2, 3, {{"5", "/x", "-1"}, {NULL, NULL, NULL}}, "could not parse tablespace size \"-1\""},
        {2,
         3,
         {{"5", "/x", "1"}, {NULL, NULL, "many"}},
         "could not parse tablespace size \"many\""},
    };
    BackupStart start;
    Peer peer;
    (void)state;

    peer_init(&peer);
    for (int i = 0; i < COUNT(cases); i++) {
        Buf *out;

        wire_expect(&peer.script, "BASE_BACKUP");
        out = wire_send(&peer.script);
        wire_one_row(out, ROW("0/1", "1"));
        wire_row_description(out, cases[i].columns);
        for (int row = 0; row < cases[i].rows; row++)
            wire_row(out, cases[i].columns, cases[i].values[row]);
        wire_complete(out, "SELECT");
        wire_ready(out);
    }
    peer_connect(&peer);
    for (int i = 0; i < COUNT(cases); i++) {
        assert_false(repl_base_backup(peer.conn, &plain_request, NULL, &start, &peer.err));
        peer_assert_error(&peer, ERR_PROTOCOL, cases[i].message);
    }
    peer_done(&peer);
}

static void
base_backup_accepts_more_columns(void **state)
{
    BackupStart start;
    Peer peer;
    Buf *out;
    (void)state;

    peer_init(&peer);
    wire_expect(&peer.script, "BASE_BACKUP");
    out = wire_send(&peer.script);
    wire_one_row(out, ROW("0/1", "1", "new"));
    wire_one_row(out, ROW(NULL, NULL, NULL, "new"));
    wire_ready(out);
    peer_connect(&peer);
    assert_true(repl_base_backup(peer.conn, &plain_request, NULL, &start, &peer.err));
    assert_int_equal(start.tablespace_count, 1);
    backup_start_free(&start);
    peer_done(&peer);
}

static void
stop_ends_the_wait_for_the_checkpoint(void **state)
{
    BackupStart start;
    Stop stop;
    Thread thread;
    Peer peer;
    (void)state;

    peer_init(&peer);
    assert_true(stop_init(&stop, &peer.err));
    wire_expect(&peer.script, "BASE_BACKUP");
    wire_stall(&peer.script, NULL);
    peer_connect(&peer);
    assert_true(thread_start(&thread, request_stop_soon, &stop, &peer.err));
    assert_false(repl_base_backup(peer.conn, &plain_request, &stop, &start, &peer.err));
    peer_assert_error(&peer, ERR_STOPPED, "stopped");
    thread_join(&thread);
    assert_false(repl_next_copy(peer.conn, &stop, &peer.err));
    peer_assert_error(&peer, ERR_STOPPED, "stopped");
    peer_drop(&peer);
    stop_destroy(&stop);
}

/* Everything up to the end of the one COPY, then what `end` says. */
static void
run_backup_with_end(Peer *peer)
{
    BackupStart start;

    peer_connect(peer);
    assert_true(repl_base_backup(peer->conn, &plain_request, NULL, &start, &peer->err));
    backup_start_free(&start);
    assert_true(repl_next_copy(peer->conn, NULL, &peer->err));
}

static Buf *
script_empty_copy(Peer *peer)
{
    Buf *out;

    peer_init(peer);
    script_backup_start(peer);
    out = wire_send(&peer->script);
    wire_copy_out(out);
    wire_copy_done(out);
    return out;
}

static void
base_backup_end_refused(void **state)
{
    static const BadRow rows[] = {
        {2, {"0/1", "0"}, "could not parse timeline \"0\""},
        {2, {NULL, "1"}, "the server sent no write-ahead log location"},
        {1,
         {"0/1"},
         "no write-ahead log end position returned from server: got 1 rows and 1 fields, expected "
         "1 "
         "rows and 2 fields"},
    };
    (void)state;

    for (int i = 0; i < COUNT(rows); i++) {
        BackupEnd end = {.timeline = 9};
        Peer peer;
        Buf *out = script_empty_copy(&peer);

        wire_one_row(out, rows[i].columns, rows[i].values);
        wire_complete(out, "BASE_BACKUP");
        wire_ready(out);
        run_backup_with_end(&peer);
        assert_copy(&peer, "");
        assert_false(repl_base_backup_end(peer.conn, NULL, &end, &peer.err));
        peer_assert_error(&peer, ERR_PROTOCOL, rows[i].message);
        assert_int_equal(end.timeline, 9);
        peer_done(&peer);
    }
}

static void
base_backup_end_with_another_error(void **state)
{
    BackupEnd end;
    Peer peer;
    Buf *out = script_empty_copy(&peer);
    (void)state;

    wire_one_row(out, ROW("0/1", "1"));
    wire_error(out, "ERROR", "XX002", "index corrupted");
    wire_ready(out);
    run_backup_with_end(&peer);
    assert_copy(&peer, "");
    assert_false(repl_base_backup_end(peer.conn, NULL, &end, &peer.err));
    assert_string_equal(peer.err.sqlstate, "XX002");
    peer_assert_error(&peer, ERR_SERVER, "final receive failed: ERROR:  index corrupted");
    peer_done(&peer);
}

static void
base_backup_end_without_completion(void **state)
{
    BackupEnd end;
    Peer peer;
    Buf *out = script_empty_copy(&peer);
    (void)state;

    wire_one_row(out, ROW("0/1", "1"));
    wire_ready(out);
    run_backup_with_end(&peer);
    assert_copy(&peer, "");
    assert_false(repl_base_backup_end(peer.conn, NULL, &end, &peer.err));
    peer_assert_error(&peer, ERR_PROTOCOL, "final receive failed: the server sent no result");
    peer_done(&peer);
}

/* An archive more than the caller knows of, and one less. */
static void
base_backup_copies_are_counted_by_the_caller(void **state)
{
    BackupEnd end;
    Peer peer;
    Buf *out = script_empty_copy(&peer);
    (void)state;

    wire_copy_out(out);
    wire_copy_done(out);
    script_backup_end(out);
    run_backup_with_end(&peer);
    assert_copy(&peer, "");
    assert_false(repl_base_backup_end(peer.conn, NULL, &end, &peer.err));
    peer_assert_error(&peer, ERR_PROTOCOL,
                      "could not get write-ahead log end position from server: unexpected result "
                      "PGRES_COPY_OUT");
    peer_done(&peer);

    out = script_empty_copy(&peer);
    script_backup_end(out);
    run_backup_with_end(&peer);
    assert_copy(&peer, "");
    assert_false(repl_next_copy(peer.conn, NULL, &peer.err));
    peer_assert_error(&peer, ERR_PROTOCOL,
                      "could not get COPY data stream: unexpected result PGRES_TUPLES_OK");
    peer_done(&peer);
}

static void
error_instead_of_a_copy(void **state)
{
    BackupStart start;
    Peer peer;
    Buf *out;
    (void)state;

    peer_init(&peer);
    script_backup_start(&peer);
    out = wire_send(&peer.script);
    wire_error(out, "ERROR", "58P01", "could not open file");
    wire_ready(out);
    peer_connect(&peer);
    assert_true(repl_base_backup(peer.conn, &plain_request, NULL, &start, &peer.err));
    backup_start_free(&start);
    assert_false(repl_next_copy(peer.conn, NULL, &peer.err));
    assert_string_equal(peer.err.sqlstate, "58P01");
    peer_assert_error(&peer, ERR_SERVER,
                      "could not get COPY data stream: ERROR:  could not open file");
    peer_done(&peer);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(server_error_keeps_its_sqlstate_and_the_connection),
        cmocka_unit_test(error_without_sqlstate_is_still_the_servers),
        cmocka_unit_test(overlong_sqlstate_is_cut),
        cmocka_unit_test(error_behind_the_row_is_an_error),
        cmocka_unit_test(unexpected_results),
        cmocka_unit_test(copy_behind_the_row_is_an_error),
        cmocka_unit_test(server_that_goes_away_says_why),
        cmocka_unit_test(server_that_goes_away_in_silence),
        cmocka_unit_test(server_that_left_while_we_were_idle),
        cmocka_unit_test(stop_ends_a_command_that_hangs),
        cmocka_unit_test(identify_system),
        cmocka_unit_test(identify_system_refuses_bad_rows),
        cmocka_unit_test(identify_system_wants_one_row),
        cmocka_unit_test(segment_size),
        cmocka_unit_test(group_access),
        cmocka_unit_test(group_access_is_not_asked_of_10),
        cmocka_unit_test(page_layout),
        cmocka_unit_test(page_layout_refuses),
        cmocka_unit_test(page_layout_that_the_server_does_not_tell),
        cmocka_unit_test(create_slot_commands),
        cmocka_unit_test(create_slot_and_a_stop),
        cmocka_unit_test(create_slot_that_exists),
        cmocka_unit_test(drop_slot),
        cmocka_unit_test(read_slot),
        cmocka_unit_test(read_slot_refuses),
        cmocka_unit_test(read_slot_needs_15),
        cmocka_unit_test(timeline_history),
        cmocka_unit_test(timeline_history_keeps_zero_bytes),
        cmocka_unit_test(timeline_history_refuses),
        cmocka_unit_test(zero_byte_in_a_field),
        cmocka_unit_test(malformed_rows),
        cmocka_unit_test(base_backup_one_copy),
        cmocka_unit_test(base_backup_copy_per_archive),
        cmocka_unit_test(base_backup_with_damaged_pages),
        cmocka_unit_test(base_backup_refused),
        cmocka_unit_test(base_backup_header_refused),
        cmocka_unit_test(base_backup_accepts_more_columns),
        cmocka_unit_test(stop_ends_the_wait_for_the_checkpoint),
        cmocka_unit_test(base_backup_end_refused),
        cmocka_unit_test(base_backup_end_with_another_error),
        cmocka_unit_test(base_backup_end_without_completion),
        cmocka_unit_test(base_backup_copies_are_counted_by_the_caller),
        cmocka_unit_test(error_instead_of_a_copy),
    };

    peer_clean_environment();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
