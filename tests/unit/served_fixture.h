/*
 * An archive and a data directory for the tests of what is fetched and pushed: WAL of timeline 1 in
 * segments of 1 MiB, of the cluster whose pg_control the data directory has. Failures end the test.
 */
#ifndef PGSTOW_TESTS_SERVED_FIXTURE_H
#define PGSTOW_TESTS_SERVED_FIXTURE_H

#include "archive/archive.h"
#include "support/temp_dir.h"
#include "support/wal_builder.h"

#define MB            ((uint32_t)1 << 20)
#define SERVED_SYSTEM 7710238870352072901u
#define SERVED_LAST   6 /* the number of the last whole segment; the first is 1 */

typedef struct Served {
    TempDir dir; /* "archive", and "data" with "pg_wal" and "global/pg_control" */
    WalBuilder wal;
    ArchiveFetched fetched;
    Error err;
} Served;

/* For cmocka; *state is a Served. The archive is empty but for a file "stray". */
int served_set_up(void **state);
int served_tear_down(void **state);

/* WAL of another cluster, or timeline. */
void served_other_wal(WalBuilder *wal, uint64_t system_id, TimeLineID timeline);

/* "TTTTTTTT00000000NNNNNNNN"; valid until some more have been asked for. */
const char *served_name(TimeLineID timeline, uint64_t number);
Span served_segment(const Served *here, uint64_t number);

/* `name` is below the directory: "archive/...". */
void served_put(Served *here, const char *name, CompressionMethod compression, Span bytes);

/* archive_fetch of this name, to "data/pg_wal/RECOVERYXLOG". */
bool served_fetch(Served *here, const char *name, const char *spool);

/* It was found, and is this. */
void assert_served(Served *here, const char *name, Span bytes);
void assert_missing(Served *here, const char *name);

/* It fails, with this in its message. */
void assert_trouble(Served *here, const char *name, ErrorCode code, const char *text);

#endif
