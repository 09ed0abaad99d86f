/*
 * What partial segments are worth: one in every form and state, the record that continues into it,
 * and several in a row.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "pgformat/walrecord.h"
#include "unit/archive_fixture.h"

/* ---- one partial segment ---- */

/* Whatever its size, up to its last whole record. */
static void
test_partial_of_any_size(void **state)
{
    static const size_t sizes[] = {0,    1,    23,     24,     39,     40,     47,    8191,
                                   8192, 8193, 131071, 131072, 131073, 500001, MB - 1};

    for (size_t i = 0; i < COUNT(sizes); i++) {
        for (int full = 0; full < 2; full++) {
            TestArchive *here = *state;
            Lsn start = archive_start(here, 3);
            Lsn end = archive_record_end(here, start + sizes[i]);

            archive_clear(here);
            archive_put_complete(here, 2);
            if (full != 0)
                archive_put_partial(here, 1, 3, sizes[i]);
            else
                archive_put_begin(here, 1, 3, PLAIN, sizes[i]);
            assert_tail(here, 1, 3, end > start ? end : start);
            assert_skipped(here, "");
        }
    }
}

static void
test_compressed_partial(void **state)
{
    static const size_t sizes[] = {0, 1, 40, 8192, 131073, 500001, MB - 1, MB};

    for (size_t i = 0; i < COUNT(sizes); i++) {
        for (size_t m = 1; m < ARCHIVE_METHODS; m++) {
            TestArchive *here = *state;
            Lsn start = archive_start(here, 3);
            Lsn end = archive_record_end(here, start + sizes[i]);

            archive_clear(here);
            archive_put_complete(here, 2);
            archive_put_begin(here, 1, 3, archive_methods[m], sizes[i]);
            assert_tail(here, 1, 3, end > start ? end : start);
            /* One that was ended, and one whose disk had no room for its last bytes. */
            archive_put_bytes(here, archive_file_name(here, 1, 3, archive_methods[m], PARTIAL),
                              archive_methods[m],
                              wal_builder_span(&here->wal, start, start + sizes[i]));
            assert_tail(here, 1, 3, end > start ? end : start);
        }
    }
}

/* Cut off anywhere, all that can be decoded is good. */
static void
test_compressed_partial_cut_short(void **state)
{
    for (size_t m = 1; m < ARCHIVE_METHODS; m++) {
        TestArchive *here = *state;
        const char *name = archive_file_name(here, 1, 3, archive_methods[m], PARTIAL);
        Lsn last = archive_start(here, 3);
        struct stat st;

        archive_clear(here);
        archive_put_complete(here, 2);
        archive_put_bytes(
            here, name, archive_methods[m],
            wal_builder_span(&here->wal, archive_start(here, 3), archive_start(here, 4)));
        assert_int_equal(stat(temp_dir_path(&here->dir, name), &st), 0);
        for (off_t i = 0; i <= 8; i++) {
            archive_put(here, 1, 3, archive_methods[m], PARTIAL);
            archive_resize(here, name, st.st_size * i / 8);
            archive_find_all(here);
            assert_true(here->resume.end >= last);
            assert_tail(here, 1, 3, here->resume.end);
            last = here->resume.end;
        }
        assert_lsn("end", last, archive_record_end(here, archive_start(here, 4)));
    }
}

/* All that was written, longer than a segment: what is behind its end does not belong to it. */
static void
test_partial_longer_than_a_segment(void **state)
{
    TestArchive *here = *state;

    archive_put_complete(here, 2);
    archive_put_bytes(here, "000000010000000000000003.partial", PLAIN,
                      wal_builder_span(&here->wal, archive_start(here, 3), archive_start(here, 5)));
    assert_tail(here, 1, 3, archive_record_end(here, archive_start(here, 4)));
    archive_put_begin(here, 1, 3, PLAIN, 100000);
    archive_resize(here, "000000010000000000000003.partial", 20 * (off_t)MB);
    assert_tail(here, 1, 3, archive_record_end(here, archive_start(here, 3) + 100000));
}

static void
test_partial_of_nothing(void **state)
{
    TestArchive *here = *state;

    archive_put_complete(here, 2);
    archive_resize(here, "000000010000000000000003.partial", MB);
    assert_at_segment(here, 1, 3);
    archive_put_bytes(here, "000000010000000000000003.gz.partial", PLAIN, span_of("garbage"));
    archive_put_bytes(here, "000000010000000000000003.lz4.partial", PLAIN, span_of(""));
    assert_at_segment(here, 1, 3);
    assert_skipped(here, "");
}

/* Alone, it must begin with a record of its own. */
static void
test_partial_alone(void **state)
{
    TestArchive *here = *state;
    WalBuilderConfig config = archive_wal_config(MB);

    /* Segment 3 continues a record. */
    archive_put_partial(here, 1, 3, 300000);
    assert_at_segment(here, 1, 3);
    assert_int_equal(here->resume.system_id, ARCHIVE_SYSTEM_ID);

    archive_wal(here, &config);
    archive_records_until(&here->wal, archive_start(here, 3));
    archive_records(&here->wal, archive_start(here, 4));
    archive_put_partial(here, 1, 3, 300000);
    assert_tail(here, 1, 3, archive_record_end(here, archive_start(here, 3) + 300000));
}

/* Whatever the damage, good is what is before the record that it is in. */
static void
test_damaged_partial(void **state)
{
    TestArchive *here = *state;
    const char *name = "000000010000000000000003.partial";

    archive_put_complete(here, 2);
    for (off_t at = 0; at < MB; at += 21013) {
        Lsn lsn = archive_start(here, 3) + (Lsn)at;
        Lsn end;

        archive_put_partial(here, 1, 3, MB);
        archive_change_byte(here, name, at);
        *wal_builder_at(&here->wal, lsn) ^= 0x10;
        end = archive_record_end(here, archive_start(here, 4));
        assert_tail(here, 1, 3, end > archive_start(here, 3) ? end : archive_start(here, 3));
        *wal_builder_at(&here->wal, lsn) ^= 0x10;
    }
}

/* Old content behind the new: the chain does not lead into it. */
static void
test_recycled_partial(void **state)
{
    TestArchive *here = *state;
    int fd;

    archive_put_complete(here, 2);
    archive_put_bytes(here, "000000010000000000000003.partial", PLAIN,
                      wal_builder_span(&here->wal, archive_start(here, 6), archive_start(here, 7)));
    assert_at_segment(here, 1, 3);
    fd = open(temp_dir_path(&here->dir, "000000010000000000000003.partial"), O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, wal_builder_at(&here->wal, archive_start(here, 3)), 200000, 0),
                     200000);
    assert_int_equal(close(fd), 0);
    assert_tail(here, 1, 3, archive_record_end(here, archive_start(here, 3) + 200000));
}

/* The same segment in several forms: the one with most good bytes wins, whichever that is. */
static void
test_several_forms(void **state)
{
    for (size_t best = 0; best < ARCHIVE_METHODS; best++) {
        for (unsigned with = 0; with < 1U << ARCHIVE_METHODS; with++) {
            TestArchive *here = *state;

            archive_clear(here);
            archive_put_complete(here, 2);
            for (size_t m = 0; m < ARCHIVE_METHODS; m++) {
                if (m == best)
                    archive_put_begin(here, 1, 3, archive_methods[m], 400000);
                else if ((with & 1U << m) != 0)
                    archive_put_begin(here, 1, 3, archive_methods[m], 100000 * m);
            }
            assert_tail(here, 1, 3, archive_record_end(here, archive_start(here, 3) + 400000));
        }
    }
}

/* Nor does a complete one that is none come between them. */
static void
test_forms_beside_a_damaged_segment(void **state)
{
    TestArchive *here = *state;

    archive_put_complete(here, 2);
    archive_put_begin(here, 1, 3, PLAIN, 100000);
    archive_put_bytes(here, "000000010000000000000003.gz", PLAIN, span_of("x"));
    archive_put_begin(here, 1, 3, COMPRESSION_ZSTD, 400000);
    assert_tail(here, 1, 3, archive_record_end(here, archive_start(here, 3) + 400000));
}

/* The records that are whole are the same, but only one of them has all of the next one's begin. */
static void
test_whole_form_beside_one_cut_short(void **state)
{
    TestArchive *here = *state;

    archive_put_complete(here, 2);
    archive_put_begin(here, 1, 3, PLAIN, MB - 1);
    archive_put(here, 1, 3, COMPRESSION_ZSTD, PARTIAL);
    archive_put_begin(here, 1, 3, COMPRESSION_LZ4, MB - 1);
    archive_put_partial(here, 1, 4, 300000);
    assert_tail(here, 1, 3, archive_record_end(here, archive_start(here, 4) + 300000));
}

/* A larger file is not a better one. */
static void
test_damaged_form_beside_a_good_one(void **state)
{
    TestArchive *here = *state;

    archive_put_complete(here, 2);
    archive_put_partial(here, 1, 3, MB);
    archive_change_byte(here, "000000010000000000000003.partial", 9000);
    archive_put_begin(here, 1, 3, COMPRESSION_ZSTD, 50000);
    assert_tail(here, 1, 3, archive_record_end(here, archive_start(here, 3) + 50000));
}

/* ---- the record that continues from the segment before ---- */

static void
test_segment_before_in_every_form(void **state)
{
    for (size_t m = 0; m < ARCHIVE_METHODS; m++) {
        TestArchive *here = *state;
        Lsn end = archive_record_end(here, archive_start(here, 3) + 300000);

        archive_clear(here);
        archive_put(here, 1, 2, archive_methods[m], COMPLETE);
        archive_put_partial(here, 1, 3, 300000);
        assert_tail(here, 1, 3, end);
        /* A damaged continuation is found by the begin of its record. */
        archive_change_byte(here, "000000010000000000000003.partial", 45);
        assert_at_segment(here, 1, 3);
    }
}

/* That a record begins there is for the segment before to say. */
static void
test_segment_before_of_other_content(void **state)
{
    TestArchive *here = *state;
    WalBuilderConfig config = archive_wal_config(MB);
    Buf third = BUF_INIT;
    Error err = ERROR_INIT;

    assert_true(buf_append(&third, wal_builder_at(&here->wal, archive_start(here, 3)), MB, &err));
    archive_wal(here, &config);
    archive_records_until(&here->wal, archive_start(here, 3));
    archive_put_complete(here, 2);
    archive_put_bytes(here, "000000010000000000000003.partial", PLAIN,
                      (Span){.data = third.data, .len = third.len});
    assert_at_segment(here, 1, 3);
    buf_free(&third);
}

/* Records that are longer than segments: they begin where nobody would look first. */
static void
test_long_records(void **state)
{
    TestArchive *here = *state;
    WalBuilderConfig config = archive_wal_config(MB);
    Lsn long_record;
    Lsn end;

    archive_wal(here, &config);
    archive_records(&here->wal, archive_start(here, 2) + 500000);
    long_record = wal_builder_record(&here->wal, HEAP, 0, 3 * MB); /* into segment 5 */
    end = here->wal.end;
    assert_true(long_record < archive_start(here, 3) && end > archive_start(here, 5));
    archive_records(&here->wal, archive_start(here, 6));

    archive_put_complete(here, 2);
    archive_put(here, 1, 3, COMPRESSION_GZIP, COMPLETE);
    archive_put_complete(here, 4);
    archive_put_partial(here, 1, 5, (size_t)(end - archive_start(here, 5)));
    assert_tail(here, 1, 5, end);
    /* Its begin is not here: nobody can tell whether what is here is its end. */
    assert_int_equal(unlink(temp_dir_path(&here->dir, "000000010000000000000002")), 0);
    assert_at_segment(here, 1, 5);
    archive_put_partial(here, 1, 5, MB);
    assert_at_segment(here, 1, 5);
    /* A damaged begin is none. */
    archive_put_complete(here, 2);
    archive_change_byte(here, "000000010000000000000002", MB - 5);
    assert_at_segment(here, 1, 5);
    archive_put_complete(here, 2);
    assert_tail(here, 1, 5, archive_record_end(here, archive_start(here, 6)));
    assert_int_equal(unlink(temp_dir_path(&here->dir, "000000010000000000000003.gz")), 0);
    assert_at_segment(here, 1, 5);
}

/* It ends where the partial segment begins, or shortly behind: then its begin is needed. */
static void
test_end_of_a_long_record(void **state)
{
    static const unsigned rests[] = {0, 8, 24, 96, 4000};

    for (size_t i = 0; i < COUNT(rests); i++) {
        TestArchive *here = *state;
        WalBuilderConfig config = archive_wal_config(MB);
        Lsn start = archive_start(here, 4);
        Lsn end = rests[i] == 0 ? start : start + WAL_LONG_HEADER + rests[i];

        archive_clear(here);
        archive_wal(here, &config);
        archive_records_until(&here->wal, archive_start(here, 2) + 500000);
        (void)wal_builder_record_until(&here->wal, end);
        archive_records(&here->wal, archive_start(here, 5));
        archive_put_complete(here, 3);
        archive_put_partial(here, 1, 4, 300000);
        if (rests[i] == 0)
            assert_tail(here, 1, 4, archive_record_end(here, start + 300000));
        else
            assert_at_segment(here, 1, 4);
        archive_put_complete(here, 2);
        assert_tail(here, 1, 4, archive_record_end(here, start + 300000));
    }
}

/* All four segments of such a record are partial. */
static void
test_long_record_in_partial_segments(void **state)
{
    TestArchive *here = *state;
    WalBuilderConfig config = archive_wal_config(MB);
    Lsn end;

    archive_wal(here, &config);
    archive_records(&here->wal, archive_start(here, 2) + 500000);
    (void)wal_builder_record(&here->wal, HEAP, 0, 3 * MB);
    end = here->wal.end;
    archive_records(&here->wal, archive_start(here, 6));

    archive_put_complete(here, 1);
    archive_put_partial(here, 1, 2, MB);
    archive_put_partial(here, 1, 3, MB);
    archive_put_partial(here, 1, 4, MB);
    archive_put_begin(here, 1, 5, PLAIN, (size_t)(end - archive_start(here, 5)) - 1);
    /* A byte is missing: the record counts nowhere. */
    assert_tail(here, 1, 2, archive_record_end(here, archive_start(here, 2) + 600000));
    archive_put_begin(here, 1, 5, PLAIN, (size_t)(end - archive_start(here, 5)));
    assert_tail(here, 1, 2, end);
    archive_put_begin(here, 1, 5, PLAIN, MB);
    assert_tail(here, 1, 2, archive_record_end(here, archive_start(here, 6)));
}

/* A record that ends with its segment, its padding included. */
static void
test_record_ends_with_segment(void **state)
{
    for (unsigned cut = 0; cut < 8; cut++) {
        TestArchive *here = *state;
        WalBuilderConfig config = archive_wal_config(MB);

        archive_clear(here);
        archive_wal(here, &config);
        archive_records_until(&here->wal, archive_start(here, 3) - 400);
        (void)wal_builder_record(&here->wal, HEAP, 0, 400 - cut);
        assert_lsn("record end", here->wal.end, archive_start(here, 3));
        archive_records(&here->wal, archive_start(here, 4));

        archive_put_complete(here, 1);
        archive_put_partial(here, 1, 2, MB);
        assert_tail(here, 1, 2, archive_start(here, 3));
        archive_put_partial(here, 1, 3, 200000);
        assert_tail(here, 1, 2, archive_record_end(here, archive_start(here, 3) + 200000));
    }
}

/* ---- runs of partial segments ---- */

/* Full, but not named when the power failed. */
static void
test_run(void **state)
{
    TestArchive *here = *state;

    archive_put_complete(here, 2);
    archive_put_partial(here, 1, 3, MB);
    assert_tail(here, 1, 3, archive_record_end(here, archive_start(here, 4)));
    archive_put_partial(here, 1, 4, MB);
    archive_put_partial(here, 1, 5, MB);
    archive_put_partial(here, 1, 6, 700000);
    assert_tail(here, 1, 3, archive_record_end(here, archive_start(here, 6) + 700000));
    assert_holes(here, "");
    /* The next one had got its room, but nothing else. */
    archive_resize(here, "000000010000000000000007.partial", MB);
    assert_tail(here, 1, 3, archive_record_end(here, archive_start(here, 6) + 700000));
    assert_skipped(here, "");
}

/* Each in another form. */
static void
test_run_in_all_forms(void **state)
{
    TestArchive *here = *state;

    archive_put(here, 1, 1, COMPRESSION_ZSTD, COMPLETE);
    archive_put(here, 1, 2, COMPRESSION_GZIP, PARTIAL);
    archive_put(here, 1, 3, COMPRESSION_LZ4, PARTIAL);
    archive_put(here, 1, 4, PLAIN, PARTIAL);
    archive_put_begin(here, 1, 5, COMPRESSION_ZSTD, MB);
    archive_put_begin(here, 1, 6, COMPRESSION_GZIP, 345678);
    assert_tail(here, 1, 2, archive_record_end(here, archive_start(here, 6) + 345678));
}

/* What is behind the first damage is received again. */
static void
test_run_that_breaks_off(void **state)
{
    TestArchive *here = *state;

    archive_put_complete(here, 2);
    archive_put_partial(here, 1, 3, MB);
    archive_put_partial(here, 1, 4, 600000);
    archive_put_partial(here, 1, 5, MB);
    archive_put_partial(here, 1, 6, 700000);
    assert_tail(here, 1, 3, archive_record_end(here, archive_start(here, 4) + 600000));
    archive_put_partial(here, 1, 3, 0);
    assert_at_segment(here, 1, 3);
    archive_put_partial(here, 1, 3, MB - 1);
    assert_tail(here, 1, 3, archive_record_end(here, archive_start(here, 4) - 1));
}

/* A switch: the rest of its segment is zeros, and good. */
static void
test_run_with_a_switch(void **state)
{
    TestArchive *here = *state;
    WalBuilderConfig config = archive_wal_config(MB);

    archive_wal(here, &config);
    archive_records(&here->wal, archive_start(here, 3) + 300000);
    (void)wal_builder_switch(&here->wal);
    archive_records(&here->wal, archive_start(here, 5));

    archive_put_complete(here, 2);
    archive_put_partial(here, 1, 3, 400000);
    assert_tail(here, 1, 3, archive_start(here, 4));
    archive_put_partial(here, 1, 4, 400000);
    assert_tail(here, 1, 3, archive_record_end(here, archive_start(here, 4) + 400000));
    archive_put_complete(here, 3);
    assert_tail(here, 1, 4, archive_record_end(here, archive_start(here, 4) + 400000));
}

/* A server that lost the end of a record after a crash put another one in its place. */
static void
test_run_with_a_replaced_record(void **state)
{
    TestArchive *here = *state;
    WalBuilderConfig config = archive_wal_config(MB);

    archive_wal(here, &config);
    archive_records_until(&here->wal, archive_start(here, 3) - 304);
    (void)wal_builder_overwrite(&here->wal, 30000, 1);
    archive_records(&here->wal, archive_start(here, 4));
    archive_put_complete(here, 2);
    archive_put_partial(here, 1, 3, 400000);
    assert_tail(here, 1, 3, archive_record_end(here, archive_start(here, 3) + 400000));
    assert_int_equal(unlink(temp_dir_path(&here->dir, "000000010000000000000002")), 0);
    assert_tail(here, 1, 3, archive_record_end(here, archive_start(here, 3) + 400000));
}

/* Without any complete segment the oldest partial one begins it. */
static void
test_run_without_complete_segments(void **state)
{
    TestArchive *here = *state;

    archive_put_partial(here, 1, 1, MB); /* the first of the WAL: nothing continues in it */
    archive_put_partial(here, 1, 2, MB);
    archive_put_partial(here, 1, 3, 5000);
    assert_tail(here, 1, 1, archive_record_end(here, archive_start(here, 3) + 5000));
}

/* ---- large segments ---- */

static bool
find_first_segment(void *ctx, uint64_t number, WalSegmentFile *ret_file)
{
    (void)ctx;
    *ret_file = (WalSegmentFile){.timeline = 1, .number = 1};
    return number == 1;
}

/* What the partial segment 2 is worth behind segment 1. */
static Lsn
valid_end_of_second(TestArchive *here)
{
    SegmentPlace place = {.directory = here->dir.path, .segment_size = here->segment_size};
    SegmentsBefore before = {.place = &place, .find = find_first_segment};
    WalSegmentFile file = {.timeline = 1, .number = 2, .partial = true};
    Error err = ERROR_INIT;
    SegmentGood good;

    if (!segment_check_partial(&before, &file, 1, &good, &err))
        fail_msg("%s", err.message);
    buf_free(&good.sums);
    return good.valid_end;
}

/* Of large segments only the end of the one before is read to get at the records of the next:
 * damage that is further back is not seen. */
static void
test_lead_up_in_large_segments(void **state)
{
    static const struct {
        uint32_t length;
        uint32_t before; /* the end of the segment it begins */
    } cases[] = {{100, 17 * MB}, {2 * MB, 17 * MB}, {20 * MB, 20 * MB - MB / 2}};

    for (size_t i = 0; i < COUNT(cases); i++) {
        TestArchive *here = *state;
        WalBuilderConfig config = archive_wal_config(32 * MB);
        Lsn end;

        archive_wal(here, &config);
        archive_records(&here->wal, archive_start(here, 2) - cases[i].before);
        (void)wal_builder_record(&here->wal, HEAP, 0, cases[i].length);
        archive_records(&here->wal, archive_start(here, 2) + MB);
        end = archive_record_end(here, archive_start(here, 2) + 900000);
        archive_put_complete(here, 1);
        archive_put_begin(here, 1, 2, PLAIN, 900000);
        if (end < archive_start(here, 2))
            fail_msg("the partial segment has no record");
        assert_lsn("end", valid_end_of_second(here), end);
        assert_tail(here, 1, 2, end);

        archive_change_byte(here, "000000010000000000000001", MB);
        if (cases[i].length > 16 * MB)
            end = archive_start(here, 2);
        assert_lsn("end", valid_end_of_second(here), end);
        archive_put_complete(here, 1);
        archive_change_byte(here, "000000010000000000000001", 31 * MB);
        assert_lsn("end", valid_end_of_second(here), archive_start(here, 2));
    }
}

#define ARCHIVE_TEST(function)                                                                     \
    cmocka_unit_test_setup_teardown(function, archive_set_up, archive_tear_down)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        ARCHIVE_TEST(test_partial_of_any_size),
        ARCHIVE_TEST(test_compressed_partial),
        ARCHIVE_TEST(test_compressed_partial_cut_short),
        ARCHIVE_TEST(test_partial_longer_than_a_segment),
        ARCHIVE_TEST(test_partial_of_nothing),
        ARCHIVE_TEST(test_partial_alone),
        ARCHIVE_TEST(test_damaged_partial),
        ARCHIVE_TEST(test_recycled_partial),
        ARCHIVE_TEST(test_several_forms),
        ARCHIVE_TEST(test_forms_beside_a_damaged_segment),
        ARCHIVE_TEST(test_whole_form_beside_one_cut_short),
        ARCHIVE_TEST(test_damaged_form_beside_a_good_one),
        ARCHIVE_TEST(test_segment_before_in_every_form),
        ARCHIVE_TEST(test_segment_before_of_other_content),
        ARCHIVE_TEST(test_long_records),
        ARCHIVE_TEST(test_end_of_a_long_record),
        ARCHIVE_TEST(test_long_record_in_partial_segments),
        ARCHIVE_TEST(test_record_ends_with_segment),
        ARCHIVE_TEST(test_run),
        ARCHIVE_TEST(test_run_in_all_forms),
        ARCHIVE_TEST(test_run_that_breaks_off),
        ARCHIVE_TEST(test_run_with_a_switch),
        ARCHIVE_TEST(test_run_with_a_replaced_record),
        ARCHIVE_TEST(test_run_without_complete_segments),
        ARCHIVE_TEST(test_lead_up_in_large_segments),
    };

    return cmocka_run_group_tests_name("resume_partial", tests, NULL, NULL);
}
