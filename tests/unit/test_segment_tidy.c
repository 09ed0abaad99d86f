/*
 * What a run that was killed has left of segments that have their names: it goes when a stage
 * begins behind them, and only then.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "unit/archive_fixture.h"

/* A byte that is checked whatever the records are: of the address in a page's header. */
#define PAGE_ADDRESS ((off_t)64 * WAL_BUILDER_PAGE + 9)

static bool
has_partial(TestArchive *here, TimeLineID timeline, uint64_t number)
{
    return temp_dir_exists(&here->dir, archive_file_name(here, timeline, number, PLAIN, PARTIAL));
}

/* Begins segment `number` in a WAL directory and ends it there. */
static void
begin_segment(TestArchive *here, TimeLineID timeline, uint64_t number, WalRemainder remainder)
{
    const WalDirConfig config = {.directory = here->dir.path,
                                 .segment_size = here->segment_size,
                                 .file_mode = 0600,
                                 .remainder = remainder};
    const Archive archive = {.name = "pg_wal"};
    Entry entry = {.kind = ENTRY_FILE, .size = here->segment_size, .mode = 0600};
    Error err = ERROR_INIT;
    Sink *sink = wal_dir_new(&config, &err);

    entry.path = archive_file_name(here, timeline, number, PLAIN, COMPLETE);
    if (!sink_archive_begin(sink, &archive, &err) || !sink_entry_begin(sink, &entry, &err) ||
        !sink_entry_end(sink, false, &err) || !sink_archive_end(sink, &err) ||
        !sink_finish(sink, &err))
        fail_msg("%s", err.message);
    sink_free(sink);
}

/* In every form; as many as were on their way. */
static void
test_named_segments(void **state)
{
    for (size_t i = 0; i < ARCHIVE_METHODS; i++) {
        TestArchive *here = *state;

        archive_clear(here);
        for (uint64_t number = 1; number < ARCHIVE_SEGMENTS; number++) {
            archive_put(here, 1, number, archive_methods[i], COMPLETE);
            archive_put(here, 1, number, PLAIN, PARTIAL);
        }
        begin_segment(here, 1, ARCHIVE_SEGMENTS, WAL_KEEP_PARTIAL);
        for (uint64_t number = 1; number < ARCHIVE_SEGMENTS; number++)
            assert_false(has_partial(here, 1, number));
        assert_true(has_partial(here, 1, ARCHIVE_SEGMENTS));
        assert_at_segment(here, 1, ARCHIVE_SEGMENTS);
    }
}

/* It is the only one that is good. */
static void
test_damaged_segments(void **state)
{
    for (size_t i = 0; i < ARCHIVE_METHODS; i++) {
        TestArchive *here = *state;

        archive_clear(here);
        archive_put(here, 1, 3, archive_methods[i], COMPLETE);
        archive_change_byte(here, archive_file_name(here, 1, 3, archive_methods[i], COMPLETE),
                            PAGE_ADDRESS);
        archive_put(here, 1, 3, PLAIN, PARTIAL);
        begin_segment(here, 1, 4, WAL_KEEP_PARTIAL);
        assert_true(has_partial(here, 1, 3));
    }
}

static void
test_what_is_not_ours(void **state)
{
    TestArchive *here = *state;

    /* Not named yet; of another timeline; in the middle of an archive. */
    archive_put(here, 1, 3, PLAIN, PARTIAL);
    archive_put(here, 1, 2, PLAIN, COMPLETE);
    archive_put(here, 2, 2, PLAIN, PARTIAL);
    begin_segment(here, 1, 4, WAL_KEEP_PARTIAL);
    assert_true(has_partial(here, 1, 3));
    assert_true(has_partial(here, 2, 2));
    archive_put(here, 1, 2, PLAIN, PARTIAL);
    begin_segment(here, 1, 3 + COMPLETION_QUEUE, WAL_KEEP_PARTIAL);
    assert_true(has_partial(here, 1, 2));
    /* A backup's directory is new. */
    begin_segment(here, 1, 3, WAL_PAD);
    assert_true(has_partial(here, 1, 2));
    archive_clear(here);
    begin_segment(here, 1, 0, WAL_KEEP_PARTIAL);
    assert_true(has_partial(here, 1, 0));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_named_segments, archive_set_up, archive_tear_down),
        cmocka_unit_test_setup_teardown(test_damaged_segments, archive_set_up, archive_tear_down),
        cmocka_unit_test_setup_teardown(test_what_is_not_ours, archive_set_up, archive_tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
