#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/protocol.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void
assert_command(int major, const BaseBackupRequest *request, const char *expected)
{
    ServerFeatures features;
    Error err = ERROR_INIT;
    Buf command = BUF_INIT;

    assert_true(server_features(major * 10000 + 1, "x", &features, &err));
    assert_true(base_backup_command(request, &features, &command, &err));
    assert_string_equal(buf_text(&command), expected);
    assert_int_equal(command.len, strlen(expected));
    buf_free(&command);
}

/* What a plain backup with streamed WAL asks for. */
static const BaseBackupRequest usual = {.label = "pg_basebackup base backup",
                                        .progress = true,
                                        .fast_checkpoint = true,
                                        .no_wait = true,
                                        .verify_checksums = true,
                                        .manifest = MANIFEST_YES};

/* Every option there is. */
static const BaseBackupRequest everything = {.label = "it's",
                                             .progress = true,
                                             .fast_checkpoint = true,
                                             .include_wal = true,
                                             .no_wait = true,
                                             .max_rate_kb = 1048576,
                                             .tablespace_map = true,
                                             .verify_checksums = false,
                                             .manifest = MANIFEST_FORCE_ENCODE,
                                             .manifest_checksums = "SHA256"};

static const BaseBackupRequest nothing = {.label = "", .verify_checksums = true};

#define USUAL_OLD "BASE_BACKUP LABEL 'pg_basebackup base backup' PROGRESS FAST NOWAIT"
#define USUAL_NEW                                                                                  \
    "BASE_BACKUP (LABEL 'pg_basebackup base backup', PROGRESS, CHECKPOINT 'fast', WAIT 0, "        \
    "VERIFY_CHECKSUMS 1, MANIFEST 'yes', TARGET 'client')"
#define EVERYTHING_OLD                                                                             \
    "BASE_BACKUP LABEL 'it''s' PROGRESS WAL FAST NOWAIT MAX_RATE 1048576 TABLESPACE_MAP"
#define EVERYTHING_NEW                                                                             \
    "BASE_BACKUP (LABEL 'it''s', PROGRESS, WAL, CHECKPOINT 'fast', WAIT 0, MAX_RATE 1048576, "     \
    "TABLESPACE_MAP, VERIFY_CHECKSUMS 0, MANIFEST 'force-encode', MANIFEST_CHECKSUMS 'SHA256', "   \
    "TARGET 'client')"
#define NOTHING_OLD "BASE_BACKUP LABEL ''"
#define NOTHING_NEW "BASE_BACKUP (LABEL '', VERIFY_CHECKSUMS 1, TARGET 'client')"

static void
every_major_version(void **state)
{
    static const struct {
        int major;
        const char *usual;
        const char *everything;
        const char *nothing;
    } rows[] = {
        {10, USUAL_OLD, EVERYTHING_OLD, NOTHING_OLD},
        {11, USUAL_OLD, EVERYTHING_OLD " NOVERIFY_CHECKSUMS", NOTHING_OLD},
        {12, USUAL_OLD, EVERYTHING_OLD " NOVERIFY_CHECKSUMS", NOTHING_OLD},
        {13, USUAL_OLD " MANIFEST 'yes'",
         EVERYTHING_OLD " NOVERIFY_CHECKSUMS MANIFEST 'force-encode' MANIFEST_CHECKSUMS 'SHA256'",
         NOTHING_OLD},
        {14, USUAL_OLD " MANIFEST 'yes'",
         EVERYTHING_OLD " NOVERIFY_CHECKSUMS MANIFEST 'force-encode' MANIFEST_CHECKSUMS 'SHA256'",
         NOTHING_OLD},
        {15, USUAL_NEW, EVERYTHING_NEW, NOTHING_NEW},
        {16, USUAL_NEW, EVERYTHING_NEW, NOTHING_NEW},
        {17, USUAL_NEW, EVERYTHING_NEW, NOTHING_NEW},
        {18, USUAL_NEW, EVERYTHING_NEW, NOTHING_NEW},
    };

    (void)state;
    assert_int_equal(COUNT(rows), SERVER_MAJOR_MAX - SERVER_MAJOR_MIN + 1);
    for (size_t i = 0; i < COUNT(rows); i++) {
        assert_int_equal(rows[i].major, SERVER_MAJOR_MIN + (int)i);
        assert_command(rows[i].major, &usual, rows[i].usual);
        assert_command(rows[i].major, &everything, rows[i].everything);
        assert_command(rows[i].major, &nothing, rows[i].nothing);
    }
}

/* Each option alone, so that none depends on another. */
static void
single_options(void **state)
{
    static const struct {
        BaseBackupRequest request;
        const char *old_form; /* 14 */
        const char *new_form; /* 15 */
    } cases[] = {
        {{.label = "a", .verify_checksums = true, .progress = true},
         "BASE_BACKUP LABEL 'a' PROGRESS",
         "BASE_BACKUP (LABEL 'a', PROGRESS, VERIFY_CHECKSUMS 1, TARGET 'client')"},
        {{.label = "a", .verify_checksums = true, .include_wal = true},
         "BASE_BACKUP LABEL 'a' WAL",
         "BASE_BACKUP (LABEL 'a', WAL, VERIFY_CHECKSUMS 1, TARGET 'client')"},
        {{.label = "a", .verify_checksums = true, .fast_checkpoint = true},
         "BASE_BACKUP LABEL 'a' FAST",
         "BASE_BACKUP (LABEL 'a', CHECKPOINT 'fast', VERIFY_CHECKSUMS 1, TARGET 'client')"},
        {{.label = "a", .verify_checksums = true, .no_wait = true},
         "BASE_BACKUP LABEL 'a' NOWAIT",
         "BASE_BACKUP (LABEL 'a', WAIT 0, VERIFY_CHECKSUMS 1, TARGET 'client')"},
        {{.label = "a", .verify_checksums = true, .max_rate_kb = 32},
         "BASE_BACKUP LABEL 'a' MAX_RATE 32",
         "BASE_BACKUP (LABEL 'a', MAX_RATE 32, VERIFY_CHECKSUMS 1, TARGET 'client')"},
        {{.label = "a", .verify_checksums = true, .max_rate_kb = UINT32_MAX},
         "BASE_BACKUP LABEL 'a' MAX_RATE 4294967295",
         "BASE_BACKUP (LABEL 'a', MAX_RATE 4294967295, VERIFY_CHECKSUMS 1, TARGET 'client')"},
        {{.label = "a", .verify_checksums = true, .tablespace_map = true},
         "BASE_BACKUP LABEL 'a' TABLESPACE_MAP",
         "BASE_BACKUP (LABEL 'a', TABLESPACE_MAP, VERIFY_CHECKSUMS 1, TARGET 'client')"},
        {{.label = "a", .verify_checksums = false},
         "BASE_BACKUP LABEL 'a' NOVERIFY_CHECKSUMS",
         "BASE_BACKUP (LABEL 'a', VERIFY_CHECKSUMS 0, TARGET 'client')"},
        {{.label = "a",
          .verify_checksums = true,
          .manifest = MANIFEST_YES,
          .manifest_checksums = "no'ne"},
         "BASE_BACKUP LABEL 'a' MANIFEST 'yes' MANIFEST_CHECKSUMS 'no''ne'",
         "BASE_BACKUP (LABEL 'a', VERIFY_CHECKSUMS 1, MANIFEST 'yes', MANIFEST_CHECKSUMS 'no''ne', "
         "TARGET 'client')"},
        /* checksums without a manifest are an error on the server */
        {{.label = "a",
          .verify_checksums = true,
          .manifest = MANIFEST_NO,
          .manifest_checksums = "SHA224"},
         "BASE_BACKUP LABEL 'a'",
         "BASE_BACKUP (LABEL 'a', VERIFY_CHECKSUMS 1, TARGET 'client')"},
        /* a label cannot end its literal */
        {{.label = "', TARGET 'server", .verify_checksums = true},
         "BASE_BACKUP LABEL ''', TARGET ''server'",
         "BASE_BACKUP (LABEL ''', TARGET ''server', VERIFY_CHECKSUMS 1, TARGET 'client')"},
        {{.label = "%s\\n", .verify_checksums = true},
         "BASE_BACKUP LABEL '%s\\n'",
         "BASE_BACKUP (LABEL '%s\\n', VERIFY_CHECKSUMS 1, TARGET 'client')"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_command(14, &cases[i].request, cases[i].old_form);
        assert_command(15, &cases[i].request, cases[i].new_form);
    }
}

/* ---- what only some servers have ---- */

#define INCREMENTAL_NEW                                                                            \
    "BASE_BACKUP (INCREMENTAL, LABEL 'a', VERIFY_CHECKSUMS 1, MANIFEST 'yes', TARGET 'client')"
#define TARGET_NEW                                                                                 \
    "BASE_BACKUP (LABEL 'a', VERIFY_CHECKSUMS 1, TABLESPACE_MAP, TARGET 'server', TARGET_DETAIL "  \
    "'/srv/it''s')"
#define COMPRESSION_NEW                                                                            \
    "BASE_BACKUP (LABEL 'a', VERIFY_CHECKSUMS 1, TARGET 'client', COMPRESSION 'zstd', "            \
    "COMPRESSION_DETAIL 'level=3,workers=2')"
#define NO_INCREMENTAL "server does not support incremental backup"
#define NO_TARGET      "backup targets are not supported by this server version"
#define NO_COMPRESSION "server does not support server-side compression"

static const BaseBackupRequest incremental = {
    .label = "a", .verify_checksums = true, .manifest = MANIFEST_YES, .incremental = true};
static const BaseBackupRequest targeted = {
    .label = "a", .verify_checksums = true, .target = "server", .target_detail = "/srv/it's"};
static const BaseBackupRequest compressed = {.label = "a",
                                             .verify_checksums = true,
                                             .compression = "zstd",
                                             .compression_detail = "level=3,workers=2"};

/* Nothing is appended, and the hint names the version that is there and the one that is needed. */
static void
assert_refused(int major, const BaseBackupRequest *request, const char *message, int since)
{
    ServerFeatures features;
    Error err = ERROR_INIT;
    Buf command = BUF_INIT;
    char hint[100];

    assert_true(server_features(major * 10000 + 23, "x", &features, &err));
    assert_true(buf_printf(&command, &err, "before"));
    assert_false(base_backup_command(request, &features, &command, &err));
    assert_int_equal(err.code, ERR_UNSUPPORTED);
    assert_string_equal(err.message, message);
    (void)snprintf(hint, sizeof hint,
                   "The server is of version %d.23; this needs version %d or later.", major, since);
    assert_string_equal(err.hint, hint);
    assert_string_equal(buf_text(&command), "before");
    buf_free(&command);
}

static void
newer_options_over_every_major_version(void **state)
{
    static const struct {
        const BaseBackupRequest *request;
        int since;
        const char *command;
        const char *refusal;
    } rows[] = {
        {&incremental, 17, INCREMENTAL_NEW, NO_INCREMENTAL},
        {&targeted, 15, TARGET_NEW, NO_TARGET},
        {&compressed, 15, COMPRESSION_NEW, NO_COMPRESSION},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        for (int major = SERVER_MAJOR_MIN; major <= SERVER_MAJOR_MAX; major++) {
            if (major < rows[i].since)
                assert_refused(major, rows[i].request, rows[i].refusal, rows[i].since);
            else
                assert_command(major, rows[i].request, rows[i].command);
        }
    }
}

/* Of several things that a server lacks the first one is named, in the order of the command. */
static void
first_lack_is_named(void **state)
{
    const BaseBackupRequest all = {
        .label = "a", .incremental = true, .target = "blackhole", .compression = "gzip"};
    const BaseBackupRequest two = {.label = "a", .target = "blackhole", .compression = "gzip"};

    (void)state;
    assert_refused(16, &all, NO_INCREMENTAL, 17);
    assert_refused(10, &all, NO_INCREMENTAL, 17);
    assert_refused(14, &two, NO_TARGET, 15);
}

static void
newer_options_in_the_stock_order(void **state)
{
    static const struct {
        BaseBackupRequest request;
        const char *command;
    } cases[] = {
        {{.label = "a",
          .incremental = true,
          .progress = true,
          .include_wal = true,
          .fast_checkpoint = true,
          .no_wait = true,
          .max_rate_kb = 32,
          .tablespace_map = true,
          .manifest = MANIFEST_YES,
          .manifest_checksums = "NONE",
          .target = "server",
          .target_detail = "/d",
          .compression = "lz4",
          .compression_detail = "1"},
         "BASE_BACKUP (INCREMENTAL, LABEL 'a', PROGRESS, WAL, CHECKPOINT 'fast', WAIT 0, MAX_RATE "
         "32, VERIFY_CHECKSUMS 0, MANIFEST 'yes', MANIFEST_CHECKSUMS 'NONE', TABLESPACE_MAP, "
         "TARGET 'server', TARGET_DETAIL '/d', COMPRESSION 'lz4', COMPRESSION_DETAIL '1')"},
        {{.label = "a", .target = "blackhole"},
         "BASE_BACKUP (LABEL 'a', VERIFY_CHECKSUMS 0, TABLESPACE_MAP, TARGET 'blackhole')"},
        /* an empty detail is for the server to judge */
        {{.label = "a", .target = "x", .target_detail = ""},
         "BASE_BACKUP (LABEL 'a', VERIFY_CHECKSUMS 0, TABLESPACE_MAP, TARGET 'x', TARGET_DETAIL "
         "'')"},
        {{.label = "a", .compression = "gzip"},
         "BASE_BACKUP (LABEL 'a', VERIFY_CHECKSUMS 0, TARGET 'client', COMPRESSION 'gzip')"},
        {{.label = "a", .tablespace_map = true, .compression = "none", .compression_detail = ""},
         "BASE_BACKUP (LABEL 'a', TABLESPACE_MAP, VERIFY_CHECKSUMS 0, TARGET 'client', COMPRESSION "
         "'none', COMPRESSION_DETAIL '')"},
        /* a detail of nothing is not sent */
        {{.label = "a", .target_detail = "/d", .compression_detail = "9"},
         "BASE_BACKUP (LABEL 'a', VERIFY_CHECKSUMS 0, TARGET 'client')"},
        /* no value can end its literal */
        {{.label = "a",
          .target = "t'",
          .target_detail = "', WAL, LABEL '",
          .compression = "'",
          .compression_detail = "''"},
         "BASE_BACKUP (LABEL 'a', VERIFY_CHECKSUMS 0, TABLESPACE_MAP, TARGET 't''', TARGET_DETAIL "
         "''', WAL, LABEL ''', COMPRESSION '''', COMPRESSION_DETAIL '''''')"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_command(18, &cases[i].request, cases[i].command);
}

static void
command_is_appended(void **state)
{
    ServerFeatures features;
    Error err = ERROR_INIT;
    Buf command = BUF_INIT;

    (void)state;
    assert_true(server_features(100001, "x", &features, &err));
    assert_true(buf_printf(&command, &err, "before "));
    assert_true(base_backup_command(&nothing, &features, &command, &err));
    assert_string_equal(buf_text(&command), "before BASE_BACKUP LABEL ''");
    buf_free(&command);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_major_version),
        cmocka_unit_test(single_options),
        cmocka_unit_test(newer_options_over_every_major_version),
        cmocka_unit_test(first_lack_is_named),
        cmocka_unit_test(newer_options_in_the_stock_order),
        cmocka_unit_test(command_is_appended),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
