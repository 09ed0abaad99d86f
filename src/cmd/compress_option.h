/*
 * -Z/--compress, as every command with that option takes it.
 */
#ifndef PGSTOW_COMPRESS_OPTION_H
#define PGSTOW_COMPRESS_OPTION_H

#include "stream/compression.h"

/* A value as it was given, not looked at yet. Starts as all zero: no compression. */
typedef struct CompressOption {
    char *text;         /* owned; holds the two below, unless they are fixed texts */
    const char *method; /* NULL: none was given */
    const char *detail; /* or NULL */
} CompressOption;

/*
 * "METHOD[:DETAIL]", or a number: a level of gzip, and 0 for none. Takes the place of an earlier
 * value. False when memory is out, which has been printed.
 */
bool compress_option_set(CompressOption *option, const char *value);

/* What it asks of our side; false when that makes no sense, which has been printed. */
bool compress_option_parse(const CompressOption *option, Compression *ret_compression);

void compress_option_free(CompressOption *option);

#endif
