/*
 * Feeds bytes into a sink in pieces: what a stage makes of them must not depend on where they are
 * cut.
 *
 * Every piece is handed over in a block of exactly its size that is freed afterwards, so that a
 * sanitizer sees a stage that reads beyond its data or keeps it.
 */
#ifndef PGSTOW_TESTS_CHUNKER_H
#define PGSTOW_TESTS_CHUNKER_H

#include "stream/stream.h"

/* Pieces of `piece` bytes, the last one shorter; 0: all in one. */
bool chunk_push(Sink *sink, Span data, size_t piece, Error *err) MUST_USE;

/* Pieces of 1 to 700 bytes, often around a tar block's size: always the same ones for one seed. */
bool chunk_push_random(Sink *sink, Span data, uint32_t seed, Error *err) MUST_USE;

/* ARCHIVE_BEGIN, the data in pieces, ARCHIVE_END. */
bool chunk_archive(Sink *sink, const Archive *archive, Span data, size_t piece,
                   Error *err) MUST_USE;

#endif
