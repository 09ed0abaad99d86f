/*
 * Bytes as the program's own stages compress them, for tests of what reads them. What fails here
 * ends the process.
 */
#ifndef PGSTOW_TESTS_COMPRESSED_H
#define PGSTOW_TESTS_COMPRESSED_H

#include "common/bytes.h"
#include "stream/compression.h"

/* One archive of `content`, with the method's default level. */
Buf compressed(CompressionMethod method, Span content);

/* As one that nobody ended: all of `content` can be read, and then it breaks off. */
Buf compressed_open(CompressionMethod method, Span content);

#endif
