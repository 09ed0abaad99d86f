#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "protocol/protocol.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* What each major version can do; a new version is a new row. */
static void
every_major_version(void **state)
{
    static const ServerFeatures rows[] = {
        {.version = 100023, .major = 10},
        {.version = 110022,
         .major = 11,
         .group_access = true,
         .verify_checksums = true,
         .drop_slot_wait = true},
        {.version = 120022,
         .major = 12,
         .group_access = true,
         .verify_checksums = true,
         .drop_slot_wait = true,
         .recovery_settings = true},
        {.version = 130023,
         .major = 13,
         .group_access = true,
         .verify_checksums = true,
         .drop_slot_wait = true,
         .manifest = true,
         .recovery_settings = true},
        {.version = 140023,
         .major = 14,
         .group_access = true,
         .verify_checksums = true,
         .drop_slot_wait = true,
         .manifest = true,
         .recovery_settings = true},
        {.version = 150018,
         .major = 15,
         .group_access = true,
         .verify_checksums = true,
         .drop_slot_wait = true,
         .manifest = true,
         .command_options = true,
         .typed_copy = true,
         .read_slot = true,
         .backup_targets = true,
         .compression = true,
         .recovery_settings = true},
        {.version = 160014,
         .major = 16,
         .group_access = true,
         .verify_checksums = true,
         .drop_slot_wait = true,
         .manifest = true,
         .command_options = true,
         .typed_copy = true,
         .read_slot = true,
         .backup_targets = true,
         .compression = true,
         .recovery_settings = true},
        {.version = 170010,
         .major = 17,
         .group_access = true,
         .verify_checksums = true,
         .drop_slot_wait = true,
         .manifest = true,
         .command_options = true,
         .typed_copy = true,
         .read_slot = true,
         .manifest_system_id = true,
         .wal_summaries = true,
         .backup_targets = true,
         .compression = true,
         .recovery_settings = true},
        {.version = 180004,
         .major = 18,
         .group_access = true,
         .verify_checksums = true,
         .drop_slot_wait = true,
         .manifest = true,
         .command_options = true,
         .typed_copy = true,
         .read_slot = true,
         .manifest_system_id = true,
         .wal_summaries = true,
         .backup_targets = true,
         .compression = true,
         .recovery_settings = true},
    };

    (void)state;
    assert_int_equal(COUNT(rows), SERVER_MAJOR_MAX - SERVER_MAJOR_MIN + 1);
    for (size_t i = 0; i < COUNT(rows); i++) {
        const ServerFeatures *row = &rows[i];
        ServerFeatures got;
        Error err = ERROR_INIT;

        assert_true(server_features(row->version, "x", &got, &err));
        assert_int_equal(got.version, row->version);
        assert_int_equal(got.major, SERVER_MAJOR_MIN + (int)i);
        assert_int_equal(got.major, row->major);
        assert_int_equal(got.command_options, row->command_options);
        assert_int_equal(got.typed_copy, row->typed_copy);
        assert_int_equal(got.group_access, row->group_access);
        assert_int_equal(got.verify_checksums, row->verify_checksums);
        assert_int_equal(got.manifest, row->manifest);
        assert_int_equal(got.manifest_system_id, row->manifest_system_id);
        assert_int_equal(got.read_slot, row->read_slot);
        assert_int_equal(got.drop_slot_wait, row->drop_slot_wait);
        assert_int_equal(got.wal_summaries, row->wal_summaries);
        assert_int_equal(got.backup_targets, row->backup_targets);
        assert_int_equal(got.compression, row->compression);
        assert_int_equal(got.recovery_settings, row->recovery_settings);
        assert_int_equal(err.code, ERR_NONE);
    }
}

/* Development versions of a supported major are of that major. */
static void
first_and_last_of_the_range(void **state)
{
    ServerFeatures got;
    Error err = ERROR_INIT;

    (void)state;
    assert_true(server_features(100000, "10devel", &got, &err));
    assert_int_equal(got.major, 10);
    assert_true(server_features(189999, "18.9999", &got, &err));
    assert_int_equal(got.major, 18);
}

static void
other_versions_are_refused_by_name(void **state)
{
    static const struct {
        int version;
        const char *text;
        const char *message;
    } cases[] = {
        {90624, "9.6.24", "incompatible server version 9.6.24"},
        {99999, "9.9", "incompatible server version 9.9"},
        {190000, "19beta1", "incompatible server version 19beta1"},
        {0, "'unknown'", "incompatible server version 'unknown'"},
        {-1, "-1", "incompatible server version -1"},
        {INT32_MAX, "%s%n", "incompatible server version %s%n"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        ServerFeatures got = {.major = 77};
        Error err = ERROR_INIT;

        assert_false(server_features(cases[i].version, cases[i].text, &got, &err));
        assert_int_equal(err.code, ERR_UNSUPPORTED);
        assert_string_equal(err.message, cases[i].message);
        assert_string_equal(err.hint, "Servers of the major versions 10 to 18 are supported.");
        assert_int_equal(got.major, 77);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_major_version),
        cmocka_unit_test(first_and_last_of_the_range),
        cmocka_unit_test(other_versions_are_refused_by_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
