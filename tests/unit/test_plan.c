/*
 * What follows from the options and from what the server can do.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "basebackup/internal.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static ServerFeatures
features_of(int major)
{
    ServerFeatures features;
    Error err = ERROR_INIT;

    assert_true(server_features(major * 10000 + 1, "x", &features, &err));
    return features;
}

static Plan
plan_of(const BackupOptions *options, int major)
{
    const ServerFeatures features = features_of(major);
    Error err = ERROR_INIT;
    Plan plan;

    if (!plan_make(options, &features, "18.1", &plan, &err))
        fail_msg("%s", err.message);
    assert_int_equal(err.code, ERR_NONE);
    return plan;
}

static void
assert_refused(const BackupOptions *options, int major, ErrorCode code, const char *message,
               const char *hint)
{
    const ServerFeatures features = features_of(major);
    Error err = ERROR_INIT;
    Plan plan = {.rewrite = true};

    assert_false(plan_make(options, &features, "14.3", &plan, &err));
    assert_int_equal(err.code, code);
    assert_string_equal(err.message, message);
    assert_string_equal(err.hint, hint);
    assert_true(plan.rewrite);
}

static void
test_plain(void **state)
{
    const BackupOptions options = {.directory = "/b", .manifest = MANIFEST_YES};
    Plan plan = plan_of(&options, 18);

    (void)state;
    assert_int_equal(plan.format, FORMAT_PLAIN);
    assert_false(plan.to_server || plan.to_stdout || plan.in_stream || plan.rewrite);
    assert_true(plan.in_flight);
    assert_true(plan.page_check);
    assert_int_equal(plan.arriving, COMPRESSION_NONE);
    assert_int_equal(plan.leaving.method, COMPRESSION_NONE);
    assert_int_equal(plan.manifest, MANIFEST_YES);
}

/* Older servers have no manifest, and before 11 they do not look at pages either. */
static void
test_by_version(void **state)
{
    const BackupOptions options = {.directory = "/b", .manifest = MANIFEST_FORCE_ENCODE};

    (void)state;
    for (int major = SERVER_MAJOR_MIN; major <= SERVER_MAJOR_MAX; major++) {
        Plan plan = plan_of(&options, major);

        assert_int_equal(plan.manifest, major >= 13 ? MANIFEST_FORCE_ENCODE : MANIFEST_NO);
        assert_int_equal(plan.in_flight, major >= 13);
        assert_int_equal(plan.page_check, major >= 11);
    }
}

static void
test_without_checks(void **state)
{
    const BackupOptions options = {
        .directory = "/b", .manifest = MANIFEST_NO, .no_verify_checksums = true};
    Plan plan = plan_of(&options, 18);

    (void)state;
    assert_false(plan.in_flight);
    assert_false(plan.page_check);
}

static void
test_page_digests(void **state)
{
    BackupOptions options = {.directory = "/b", .manifest = MANIFEST_YES};

    (void)state;
    assert_false(plan_of(&options, 18).page_digests);
    options.page_digests = true;
    assert_true(plan_of(&options, 18).page_digests);
    options.no_verify_checksums = true;
    assert_true(plan_of(&options, 13).page_digests);
    options.format = FORMAT_TAR;
    assert_true(plan_of(&options, 18).page_digests);
    for (int major = SERVER_MAJOR_MIN; major < 13; major++)
        assert_refused(&options, major, ERR_UNSUPPORTED,
                       "server does not make the manifest without which page digests are of no "
                       "use",
                       "The server's version is 14.3; this needs version 13 or later.");
    /* Nothing to put them beside: the command line refuses these. */
    options.directory = "-";
    assert_false(plan_of(&options, 18).page_digests);
    options.manifest = MANIFEST_NO;
    assert_false(plan_of(&options, 18).page_digests);
}

/* "-" is a directory's name unless archives are asked for. */
static void
test_standard_output(void **state)
{
    BackupOptions options = {.directory = "-", .format = FORMAT_TAR, .manifest = MANIFEST_YES};
    Plan plan = plan_of(&options, 18);

    (void)state;
    assert_true(plan.to_stdout);
    assert_true(plan.in_stream);
    assert_true(plan.rewrite);

    /* Nothing to put in: as the server sends it. */
    options.manifest = MANIFEST_NO;
    plan = plan_of(&options, 18);
    assert_true(plan.to_stdout);
    assert_false(plan.in_stream || plan.rewrite);

    options.directory = "/b";
    options.manifest = MANIFEST_YES;
    plan = plan_of(&options, 18);
    assert_false(plan.to_stdout || plan.in_stream || plan.rewrite);

    options.directory = "-";
    options.format = FORMAT_PLAIN;
    assert_false(plan_of(&options, 18).to_stdout);
}

static void
test_only_one_archive_fits_into_standard_output(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    assert_true(plan_check_tablespaces(&(Plan){.to_stdout = true}, 1, &err));
    assert_true(plan_check_tablespaces(&(Plan){.to_stdout = false}, 7, &err));
    assert_int_equal(err.code, ERR_NONE);
    assert_false(plan_check_tablespaces(&(Plan){.to_stdout = true}, 2, &err));
    assert_string_equal(err.message, "can only write single tablespace to stdout, database has 2");
}

static void
test_compression(void **state)
{
    BackupOptions options = {.directory = "/b",
                             .format = FORMAT_TAR,
                             .compression = {.method = COMPRESSION_ZSTD, .level = 7}};
    Plan plan = plan_of(&options, 10);

    (void)state;
    assert_int_equal(plan.arriving, COMPRESSION_NONE);
    assert_int_equal(plan.leaving.method, COMPRESSION_ZSTD);
    assert_int_equal(plan.leaving.level, 7);

    /* The server's archives are kept as they are. */
    options.compression = (Compression){.method = COMPRESSION_NONE};
    options.server_compression = "gzip";
    options.server_compression_detail = "5";
    plan = plan_of(&options, 15);
    assert_int_equal(plan.arriving, COMPRESSION_GZIP);
    assert_int_equal(plan.leaving.method, COMPRESSION_NONE);

    /* What is put in has to be compressed like the rest. */
    options.write_recovery = true;
    plan = plan_of(&options, 15);
    assert_true(plan.rewrite);
    assert_int_equal(plan.arriving, COMPRESSION_GZIP);
    assert_int_equal(plan.leaving.method, COMPRESSION_GZIP);
    assert_int_equal(plan.leaving.level, 5);

    /* A detail that only the server understands. */
    options.server_compression_detail = "novel=1";
    plan = plan_of(&options, 15);
    assert_int_equal(plan.leaving.method, COMPRESSION_GZIP);
    assert_int_equal(plan.leaving.level, COMPRESSION_GZIP_DEFAULT);

    /* Laid out in directories, nothing leaves compressed. */
    options.format = FORMAT_PLAIN;
    plan = plan_of(&options, 15);
    assert_int_equal(plan.arriving, COMPRESSION_GZIP);
    assert_int_equal(plan.leaving.method, COMPRESSION_NONE);

    /* A method that we do not know, or none. */
    options.server_compression = "brotli";
    assert_int_equal(plan_of(&options, 15).arriving, COMPRESSION_NONE);
    options.server_compression = "none";
    assert_int_equal(plan_of(&options, 15).arriving, COMPRESSION_NONE);
}

static void
test_elsewhere(void **state)
{
    BackupOptions options = {.target = "server",
                             .target_detail = "/srv/b",
                             .server_compression = "lz4",
                             .manifest = MANIFEST_YES};
    Plan plan = plan_of(&options, 15);

    (void)state;
    assert_true(plan.to_server);
    assert_false(plan.in_flight || plan.page_check || plan.to_stdout || plan.rewrite);
    assert_int_equal(plan.manifest, MANIFEST_YES);
    assert_int_equal(plan.arriving, COMPRESSION_LZ4); /* their names say so */
    assert_int_equal(plan.leaving.method, COMPRESSION_NONE);
}

static void
test_what_a_server_cannot_do(void **state)
{
    static const struct {
        BackupOptions options;
        int until;
        const char *message;
        const char *hint;
    } cases[] = {
        {{.target = "blackhole"},
         14,
         "backup targets are not supported by this server version",
         "The server's version is 14.3; this needs version 15 or later."},
        {{.directory = "/b", .server_compression = "gzip"},
         14,
         "server does not support server-side compression",
         "The server's version is 14.3; this needs version 15 or later."},
        {{.directory = "/b", .incremental = "/a/backup_manifest"},
         16,
         "server does not support incremental backup",
         "The server's version is 14.3; this needs version 17 or later."},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        for (int major = SERVER_MAJOR_MIN; major <= SERVER_MAJOR_MAX; major++) {
            if (major <= cases[i].until)
                assert_refused(&cases[i].options, major, ERR_UNSUPPORTED, cases[i].message,
                               cases[i].hint);
            else
                (void)plan_of(&cases[i].options, major);
        }
    }
}

static void
test_what_does_not_go_together(void **state)
{
    const BackupOptions recovery = {.target = "blackhole", .write_recovery = true};
    const BackupOptions compressed = {.directory = "-",
                                      .format = FORMAT_TAR,
                                      .manifest = MANIFEST_YES,
                                      .server_compression = "lz4"};

    (void)state;
    assert_refused(&recovery, 18, ERR_USAGE,
                   "recovery configuration cannot be written when a backup target is used", "");
    assert_refused(&compressed, 18, ERR_USAGE, "cannot inject manifest into a compressed tar file",
                   "Use client-side compression, send the output to a directory rather than "
                   "standard output, or use --no-manifest.");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_by_version),
        cmocka_unit_test(test_without_checks),
        cmocka_unit_test(test_page_digests),
        cmocka_unit_test(test_standard_output),
        cmocka_unit_test(test_only_one_archive_fits_into_standard_output),
        cmocka_unit_test(test_compression),
        cmocka_unit_test(test_elsewhere),
        cmocka_unit_test(test_what_a_server_cannot_do),
        cmocka_unit_test(test_what_does_not_go_together),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
