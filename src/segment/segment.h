/*
 * The files that hold WAL segments, in a pg_wal or an archive: their names, which of them a
 * directory has, their content plain or decompressed, and how much of it is WAL (page headers and
 * record chain, access/xlog_internal.h and xlogrecord.h of PostgreSQL).
 *
 * Everything here reads. Nothing is shared between threads; each object belongs to the thread that
 * uses it. Positions and lengths are bytes of the segment, not of a compressed file.
 */
#ifndef PGSTOW_SEGMENT_H
#define PGSTOW_SEGMENT_H

#include "common/bytes.h"
#include "common/error.h"
#include "pgformat/walfile.h"
#include "pgformat/walrecord.h"
#include "stream/compression.h"

/* ---- names ---- */

/* How a segment lies in a directory: NAME, NAME.gz, NAME.lz4, NAME.zst, each also with .partial. */
typedef struct WalSegmentFile {
    TimeLineID timeline;
    uint64_t number;
    CompressionMethod compression;
    bool partial;
} WalSegmentFile;

/* Strict: false for everything that is not exactly such a name. Pure. */
bool wal_segment_file_parse(const char *name, uint32_t segment_size, WalSegmentFile *ret_file);

/* Room for "%08X%08X%08X.lz4.partial". */
#define WAL_SEGMENT_FILE_SIZE (WAL_NAME_SIZE + sizeof ".lz4.partial")

/* What wal_segment_file_parse parses. Pure. */
void wal_segment_file_name(char name[WAL_SEGMENT_FILE_SIZE], const WalSegmentFile *file,
                           uint32_t segment_size);

/* ---- content ---- */

typedef struct SegmentSource {
    const char *path; /* copied */
    CompressionMethod compression;
    uint32_t segment_size;
    uint64_t from; /* where in the segment to begin; saves reading in a plain file only */
} SegmentSource;

typedef struct SegmentReader SegmentReader;

/* NULL with ERR_FORMAT when it is no regular file. Messages of ERR_FORMAT do not name the file. */
SegmentReader *segment_reader_open(const SegmentSource *source, Error *err) MUST_USE;

/*
 * The next bytes of the segment, 128 KiB at most, valid until the next call; none at its end. As in
 * wal_segment_read all that can be read is given before it fails; it is not called after that.
 */
bool segment_reader_next(SegmentReader *reader, Span *ret_bytes, Error *err) MUST_USE;

/* A plain file of another size than a segment's is ERR_FORMAT. */
bool segment_reader_check_size(const SegmentReader *reader, Error *err) MUST_USE;

/* Whether reading has failed because the file ends too early. */
bool segment_reader_is_cut(const SegmentReader *reader);
void segment_reader_free(SegmentReader *reader);

/*
 * Reads a segment's file, decompressed, and gives its bytes to `take` in order, at most one more
 * than a segment has; false from `take` ends the reading, as a success. A file that is damaged, cut
 * short or longer than a segment gives what can be read of it and then fails with ERR_FORMAT; a
 * file that cannot be read is ERR_SYSTEM.
 */
bool wal_segment_read(const char *path, CompressionMethod compression, uint32_t segment_size,
                      bool (*take)(void *ctx, Span bytes), void *ctx, Error *err) MUST_USE;

/* ---- segment_list: which segments a directory has, by their names ---- */

/* The newest first: highest number, then highest timeline, then complete before partial. */
typedef struct SegmentList {
    WalSegmentFile *files;
    size_t count;
    size_t capacity;
} SegmentList;

/* `list` is to be freed in any case. */
bool segment_list_read(SegmentList *list, const char *directory, uint32_t segment_size,
                       Error *err) MUST_USE;
void segment_list_free(SegmentList *list);

/* Those whose timeline was set to 0, which none has, are gone. */
void segment_list_drop(SegmentList *list);

typedef enum SegmentState { SEGMENT_COMPLETE, SEGMENT_PARTIAL } SegmentState;

/* Of the segment's number, on this timeline or the highest one below it; NULL: none. */
const WalSegmentFile *segment_list_find(const SegmentList *list, uint64_t number,
                                        TimeLineID timeline, SegmentState state);

/* Exactly this one. */
bool segment_list_has_partial(const SegmentList *list, uint64_t number, TimeLineID timeline);

/*
 * The numbers that are missing, from the oldest on, each time with the timeline of what follows.
 * Up to `base` (NULL: nothing) only complete segments count: partial ones there stay what they are.
 */
void segment_list_holes(const SegmentList *list, const WalSegmentFile *base,
                        void (*hole)(void *ctx, TimeLineID timeline, uint64_t first, uint64_t last),
                        void *ctx);

/* ---- segment_check: what of a segment's file is WAL ---- */

typedef struct SegmentPlace {
    const char *directory;
    uint32_t segment_size;
} SegmentPlace;

SegmentReader *segment_open(const SegmentPlace *place, const WalSegmentFile *file, uint64_t from,
                            Error *err) MUST_USE;

/* Whether an error tells of a file's content, or that it is gone, and not of the system. */
bool segment_is_odd(const Error *err);

/* The header of its first page, and whether that is the one which the file's name says: not so for
 * an odd file either, of which there may be no header. */
bool segment_header(const SegmentPlace *place, const WalSegmentFile *file,
                    WalLongHeader *ret_header, bool *ret_fits, Error *err) MUST_USE;

/* The cluster that it names; 0 when it has none, or one of another place. */
bool segment_system_id(const SegmentPlace *place, const WalSegmentFile *file,
                       uint64_t *ret_system_id, Error *err) MUST_USE;

/* That it has its size and an intact record chain, as far as that can be told from it alone:
 * otherwise ERR_FORMAT, without the file's name. */
bool segment_check_complete(const SegmentPlace *place, const WalSegmentFile *file,
                            Error *err) MUST_USE;

/* How to find what is before a partial segment. */
typedef struct SegmentsBefore {
    const SegmentPlace *place;
    /* The file of segment `number`, complete or good to its end; false: there is none. */
    bool (*find)(void *ctx, uint64_t number, WalSegmentFile *ret_file);
    void *ctx;
} SegmentsBefore;

#define SEGMENT_BLOCK ((size_t)128 * 1024)

typedef struct SegmentGood {
    WalSegmentFile file;
    Lsn valid_end;   /* of its records; when it has none, not behind its start */
    bool whole;      /* good to its very end, even if that is within a record */
    uint64_t length; /* of what was read, to which the following belong: */
    Buf sums;        /* CRC-32C of each SEGMENT_BLOCK, also of a shorter one at the end */
    uint32_t crc;    /* of that one so far */
} SegmentGood;

/* Up to where a partial segment is good. The caller frees `sums`. */
bool segment_check_partial(const SegmentsBefore *before, const WalSegmentFile *file,
                           TimeLineID timeline, SegmentGood *ret_good, Error *err) MUST_USE;

#endif
