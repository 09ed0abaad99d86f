/*
 * File digests as backup manifests name them (documentation: Backup Manifest Format).
 *
 * A Checksum is one running digest. CRC-32C is ours; SHA-2 is OpenSSL's. checksum_free takes any
 * state. One object belongs to one thread at a time.
 */
#ifndef PGSTOW_CHECKSUM_H
#define PGSTOW_CHECKSUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

typedef enum ChecksumType {
    CHECKSUM_NONE,
    CHECKSUM_CRC32C,
    CHECKSUM_SHA224,
    CHECKSUM_SHA256,
    CHECKSUM_SHA384,
    CHECKSUM_SHA512
} ChecksumType;

#define CHECKSUM_MAX 64 /* bytes of the longest digest */

/* A finished digest; CRC-32C is stored as PostgreSQL does, in little-endian order. */
typedef struct Digest {
    ChecksumType type;
    uint8_t len;
    uint8_t bytes[CHECKSUM_MAX];
} Digest;

/* Case-insensitive, as the server reads it: NONE, CRC32C, SHA224, SHA256, SHA384, SHA512. */
bool checksum_type_parse(const char *name, ChecksumType *ret_type);
const char *checksum_type_name(ChecksumType type);
size_t checksum_length(ChecksumType type);

typedef struct Checksum {
    ChecksumType type;
    uint32_t crc;
    void *sha; /* OpenSSL's context, kept for the next begin */
} Checksum;

#define CHECKSUM_INIT ((Checksum){.type = CHECKSUM_NONE})

/* Start a new digest; an unfinished one is dropped. May be called again and again. */
bool checksum_begin(Checksum *checksum, ChecksumType type, Error *err) MUST_USE;
bool checksum_update(Checksum *checksum, const void *data, size_t len, Error *err) MUST_USE;
bool checksum_finish(Checksum *checksum, Digest *ret_digest, Error *err) MUST_USE;
void checksum_free(Checksum *checksum);

bool digest_equal(const Digest *a, const Digest *b);

#endif
