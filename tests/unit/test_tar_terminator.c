/* tar_terminator: two blocks of zeros behind whatever was there. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "stream/stage.h"
#include "support/chunker.h"
#include "support/recorder.h"
#include "support/tar_builder.h"

static const Archive base = {.name = "base.tar"};

static void
add_members(Buf *tar)
{
    tar_add(tar, &(TarMember){TAR_FILE("PG_VERSION", "14\n")});
    tar_add(tar, &(TarMember){TAR_DIRECTORY("base/")});
}

static void
test_end_blocks_are_added(void **state)
{
    static const size_t pieces[] = {0, 1, 511, 512, 513, 1024};
    Buf tar = BUF_INIT;
    Buf ended = BUF_INIT;

    (void)state;
    add_members(&tar);
    add_members(&ended);
    tar_end(&ended);
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        Recording recording = RECORDING_INIT;
        Error err = ERROR_INIT;
        Sink *sink = tar_terminator_new(recorder_new(&recording, &err), &err);

        assert_true(chunk_archive(sink, &base, tar_span(&tar), pieces[i], &err));
        assert_true(sink_finish(sink, &err));
        assert_int_equal(recording.bytes.len, ended.len);
        assert_memory_equal(recording.bytes.data, ended.data, ended.len);
        sink_free(sink);
        assert_int_equal(recording.released, 1);
        recording_free(&recording);
    }
    buf_free(&tar);
    buf_free(&ended);
}

static void
test_every_archive_gets_its_own(void **state)
{
    static const uint8_t zeros[1024];
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = tar_terminator_new(recorder_new(&recording, &err), &err);

    (void)state;
    assert_true(sink_archive_begin(sink, &base, &err)); /* a tablespace may be empty */
    assert_true(sink_archive_end(sink, &err));
    assert_true(sink_archive_begin(sink, &(Archive){.name = "1.tar", .tablespace = 1}, &err));
    assert_true(sink_flush(sink, 5, &err));
    assert_true(sink_archive_end(sink, &err));
    assert_true(sink_finish(sink, &err));
    assert_string_equal(recording_text(&recording), "archive base.tar 0\n"
                                                    "data 1024 crc=EEAEDE7C\n"
                                                    "archive end\n"
                                                    "archive 1.tar 1\n"
                                                    "flush 0/5\n"
                                                    "data 1024 crc=EEAEDE7C\n"
                                                    "archive end\n"
                                                    "finish\n");
    assert_int_equal(recording.bytes.len, 2 * sizeof zeros);
    assert_memory_equal(recording.bytes.data, zeros, sizeof zeros);
    sink_free(sink);
    recording_free(&recording);
}

/* What an old server sends is whole for a reader that insists on the end. */
static void
test_reader_is_satisfied(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = recorder_new(&recording, &err);
    Buf tar = BUF_INIT;

    (void)state;
    tar_add(&tar, &(TarMember){TAR_FILE("f", "x"), .mtime = 1});
    sink = tar_terminator_new(tar_reader_new(sink, TAR_END_REQUIRED, &err), &err);
    assert_true(chunk_archive(sink, &base, tar_span(&tar), 100, &err));
    assert_true(sink_finish(sink, &err));
    assert_string_equal(recording_text(&recording), "archive base.tar 0\n"
                                                    "file f size=1 mode=0600 mtime=1\n"
                                                    "data 1 crc=A93C5F93\n"
                                                    "end complete\n"
                                                    "archive end\n"
                                                    "finish\n");
    sink_free(sink);
    recording_free(&recording);
    buf_free(&tar);
}

static void
test_failure_of_next_at_every_event(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 4; n++) { /* begin, data, the end blocks, end */
        Recording recording = {.fail_at = n};
        Error err = ERROR_INIT;
        Sink *sink = tar_terminator_new(recorder_new(&recording, &err), &err);

        assert_false(chunk_archive(sink, &base, span_of("data"), 0, &err));
        assert_int_equal(err.sys_errno, EIO);
        assert_int_equal(recording.events, n);
        sink_free(sink);
        assert_int_equal(recording.released, 1);
        recording_free(&recording);
    }
}

static void
test_archive_with_entries_is_a_bug(void **state)
{
    Recording recording = RECORDING_INIT;
    Error err = ERROR_INIT;
    Sink *sink = tar_terminator_new(recorder_new(&recording, &err), &err);

    (void)state;
    assert_true(sink_archive_begin(sink, &base, &err));
    assert_false(sink_entry_begin(sink, &(Entry){.path = "f"}, &err));
    assert_int_equal(err.code, ERR_BUG);
    assert_string_equal(err.message, "tar_terminator got an archive with entries already");
    sink_free(sink);
    recording_free(&recording);
}

static void
test_no_next(void **state)
{
    Error err = ERROR_INIT;

    (void)state;
    (void)error_set(&err, ERR_MEMORY, "out of memory");
    assert_null(tar_terminator_new(NULL, &err));
    assert_int_equal(err.code, ERR_MEMORY);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_end_blocks_are_added),
        cmocka_unit_test(test_every_archive_gets_its_own),
        cmocka_unit_test(test_reader_is_satisfied),
        cmocka_unit_test(test_failure_of_next_at_every_event),
        cmocka_unit_test(test_archive_with_entries_is_a_bug),
        cmocka_unit_test(test_no_next),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
