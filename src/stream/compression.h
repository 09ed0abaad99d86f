/*
 * Compression: what a user may ask for, and the stages that do it.
 *
 * A specification is a method and a detail, in the words of the stock tools (common/compression.c
 * of PostgreSQL 18): "METHOD[:DETAIL]", DETAIL a level or "level=N,workers=N,long[=BOOL]". Pure; an
 * invalid one is ERR_USAGE with the stock text.
 *
 * The stages take and give opaque archives whose name gains or loses the method's suffix. What we
 * write is one gzip member, one lz4 frame, one zstd frame per archive; what we read may be several,
 * one behind the other. An archive that ends within one, damaged data and bytes behind the last are
 * ERR_FORMAT; what could be unpacked in front of the damage has gone on then. A FLUSH makes all
 * before it readable from what has been pushed on.
 */
#ifndef PGSTOW_COMPRESSION_H
#define PGSTOW_COMPRESSION_H

#include "common/bytes.h"
#include "common/error.h"
#include "stream/stream.h"

typedef enum CompressionMethod {
    COMPRESSION_NONE,
    COMPRESSION_GZIP,
    COMPRESSION_LZ4,
    COMPRESSION_ZSTD
} CompressionMethod;

typedef struct Compression {
    CompressionMethod method;
    int level;          /* the method's default unless given; COMPRESSION_GZIP_DEFAULT for gzip */
    int workers;        /* zstd, where a user may say it, and gzip, where it changes no byte of what
                         * comes out; 0: none besides the calling thread */
    bool has_workers;   /* the user has said how many */
    bool long_distance; /* zstd only */
} Compression;

/* zlib's own default, which is no number between 1 and 9; it means 6. */
#define COMPRESSION_GZIP_DEFAULT (-1)

/* "none", "gzip", "lz4", "zstd", exactly; false for any other name. */
bool compression_method_parse(const char *name, CompressionMethod *ret_method);
const char *compression_method_name(CompressionMethod method);

/* "", ".gz", ".lz4", ".zst". */
const char *compression_suffix(CompressionMethod method);

/* Which method the suffix of a file name says; ".tgz" stands for ".tar.gz". */
CompressionMethod compression_of_name(const char *name);

/* `detail` may be NULL. The message is what stands behind "invalid compression specification: ". */
bool compression_parse(CompressionMethod method, const char *detail, Compression *ret_compression,
                       Error *err) MUST_USE;

/*
 * The same with as many workers as `processors` suggest, for whoever has nothing better to do with
 * them: with gzip and zstd, unless the user has said how many, there is one processor only, or each
 * worker of that level would want more than 16 MiB. Pure.
 */
Compression compression_in_parallel(const Compression *asked, size_t processors);

/* Without a method (COMPRESSION_NONE) these give back `next` itself. */
Sink *compress_new(Sink *next, const Compression *compression, Error *err) MUST_USE;
Sink *decompress_new(Sink *next, CompressionMethod method, Error *err) MUST_USE;

/*
 * For who takes what `decompress` (not of COMPRESSION_NONE) pushes and would copy it: while DATA is
 * being pushed its memory and that of `memory` change owners. The stage unpacks into the latter
 * next, or into new memory if it is empty.
 */
void decompress_exchange(Sink *decompress, Buf *memory);

#endif
