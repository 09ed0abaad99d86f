/*
 * An archive for the tests of what it holds: a directory, WAL to fill it with, and what was found
 * in it. The WAL begins with segment 1 of timeline 1, ends behind segment ARCHIVE_SEGMENTS, and its
 * segments have 1 MiB, unless a test makes another one. Failures end the test.
 */
#ifndef PGSTOW_TESTS_ARCHIVE_FIXTURE_H
#define PGSTOW_TESTS_ARCHIVE_FIXTURE_H

#include "support/temp_dir.h"
#include "support/wal_builder.h"
#include "walrecv/internal.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MB           ((uint32_t)1 << 20)

#define ARCHIVE_SEGMENTS  8
#define ARCHIVE_SYSTEM_ID 7710238945929971264u
#define HEAP              10 /* a resource manager whose records nobody looks into */

#define PLAIN    COMPRESSION_NONE
#define COMPLETE false
#define PARTIAL  true

/* How a segment may be compressed; the first is not at all. */
#define ARCHIVE_METHODS 4
extern const CompressionMethod archive_methods[ARCHIVE_METHODS];

typedef struct TestArchive {
    TempDir dir;
    uint32_t segment_size;
    WalBuilder wal;
    const TimelineHistory *history; /* what the server's is; NULL: nobody knows */
    Buf skipped;                    /* a line "NAME: REASON" for each */
    Buf holes;                      /* "TIMELINE FIRST LAST\n" for each */
    WalResume resume;
    Buf tail; /* its bytes */
} TestArchive;

/* For cmocka; *state is a TestArchive. */
int archive_set_up(void **state);
int archive_tear_down(void **state);

/* ---- its WAL ---- */

/* Of timeline 1, from segment 1 on. */
WalBuilderConfig archive_wal_config(uint32_t segment_size);

/* Other WAL, without any record yet. */
void archive_wal(TestArchive *here, const WalBuilderConfig *config);

/* Records of many lengths, some over several pages, up to `end` or behind it. */
void archive_records(WalBuilder *wal, Lsn end);

/* The last one ends there. */
void archive_records_until(WalBuilder *wal, Lsn end);

/* Where segment `number` begins. */
Lsn archive_start(const TestArchive *here, uint64_t number);

/* The end of the last record that is whole before `end`: a parser follows them from the first one
 * on. */
Lsn archive_record_end(const TestArchive *here, Lsn end);

/* ---- its files ---- */

/* Valid until some more have been asked for. */
const char *archive_file_name(const TestArchive *here, TimeLineID timeline, uint64_t number,
                              CompressionMethod compression, bool partial);

/* An empty directory again; the WAL stays. */
void archive_clear(TestArchive *here);

void archive_put_bytes(TestArchive *here, const char *name, CompressionMethod compression,
                       Span bytes);

/* A whole segment. */
void archive_put(TestArchive *here, TimeLineID timeline, uint64_t number,
                 CompressionMethod compression, bool partial);

/* Plain, of timeline 1. */
void archive_put_complete(TestArchive *here, uint64_t number);

/* The first `len` bytes, in a partial file of that size, or compressed and never ended. */
void archive_put_begin(TestArchive *here, TimeLineID timeline, uint64_t number,
                       CompressionMethod compression, size_t len);

/* As wal_dir leaves it: plain, of full size, zeros behind what there is. */
void archive_put_partial(TestArchive *here, TimeLineID timeline, uint64_t number, size_t len);

/* A file of `size` bytes, zeros where there was nothing. */
void archive_resize(TestArchive *here, const char *name, off_t size);
void archive_change_byte(TestArchive *here, const char *name, off_t at);

/* ---- what is found ---- */

/* wal_resume_find, noting all that it tells. */
bool archive_find(TestArchive *here, WalTail **tail, Error *err);

/* All bytes of the tail, in pieces that are not too large. */
bool archive_read_tail(WalTail *tail, Buf *bytes, Error *err);

void assert_lsn(const char *what, Lsn found, Lsn expected);

/* And reads the tail, which must be as long as the answer says; so do the following. */
void archive_find_all(TestArchive *here);
void assert_resume(TestArchive *here, TimeLineID timeline, Lsn start, Lsn end);

/* At the start of this segment, without a tail. */
void assert_at_segment(TestArchive *here, TimeLineID timeline, uint64_t number);

/* With a tail that is as the WAL was built. */
void assert_tail(TestArchive *here, TimeLineID timeline, uint64_t number, Lsn end);
void assert_no_segment(TestArchive *here);

/* What was told when it was found last. */
void assert_skipped(const TestArchive *here, const char *lines);
void assert_holes(const TestArchive *here, const char *lines);

#endif
