/*
 * CRC-32C (Castagnoli, reflected 0x82F63B78), the checksum of manifests, pg_control and WAL
 * records.
 *
 * The running value is the plain (already finalised) CRC: crc32c(0, data, len) is the CRC of data
 * and crc32c(crc32c(0, a), b) that of a followed by b. Uses the CPU's instruction where there is
 * one. Pure; any thread.
 */
#ifndef PGSTOW_CRC32C_H
#define PGSTOW_CRC32C_H

#include <stddef.h>
#include <stdint.h>

uint32_t crc32c(uint32_t crc, const void *data, size_t len);

/* The CRC of a followed by b from their two CRCs and the length of b. */
uint32_t crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t len_b);

/* The same for many b of one length, such as pages: four look-ups each. */
typedef struct Crc32cJoin {
    uint32_t table[4][256]; /* of a byte at each place, moved on by that length */
} Crc32cJoin;

void crc32c_join_init(Crc32cJoin *join, uint64_t len_b);
uint32_t crc32c_join(const Crc32cJoin *join, uint32_t crc_a, uint32_t crc_b);

/* The table-driven form, whatever the CPU; for tests. */
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t len);

#endif
