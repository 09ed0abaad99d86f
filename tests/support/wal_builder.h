/*
 * Builds valid WAL in memory, record by record: pages with their headers, records cut at page and
 * segment ends, switches, records broken off and replaced. Shares no code with pgformat, so that
 * one checks the other.
 *
 *     WalBuilder wal;
 *     wal_builder_init(&wal, &(WalBuilderConfig){.magic = 0xD118, .timeline = 1, .system_id = 7,
 *                                                .segment_size = 1 << 20, .start = 0x1000000});
 *     Lsn lsn = wal_builder_record(&wal, 10, 0x00, 500);
 *     (void)wal_builder_switch(&wal);
 *     feed(wal_builder_span(&wal, wal.begin, wal.end));
 *     wal_builder_free(&wal);
 *
 * `timeline` and `magic` of the config may be changed between records: later pages have the new
 * ones. Running out of memory ends the test program.
 */
#ifndef PGSTOW_WAL_BUILDER_H
#define PGSTOW_WAL_BUILDER_H

#include "common/bytes.h"
#include "common/pgtypes.h"

#define WAL_BUILDER_PAGE 8192u

/* Records of resource manager 0 that mean something to who follows the chain. */
#define WAL_NOOP       0x20
#define WAL_SWITCH     0x40
#define WAL_BACKUP_END 0x50
#define WAL_OVERWRITE  0xD0

typedef struct WalBuilderConfig {
    uint16_t magic;
    TimeLineID timeline;
    uint64_t system_id;
    uint32_t segment_size;
    Lsn start; /* a page boundary, or a multiple of 8 behind a page's header */
} WalBuilderConfig;

typedef struct WalBuilder {
    WalBuilderConfig config;
    Lsn begin;    /* of the first byte: the page boundary at or before config.start */
    Lsn end;      /* of the next byte; a multiple of 8 */
    Lsn previous; /* what the next record has as its back link; 0 before the first */
    uint64_t noise;
    Buf bytes;
} WalBuilder;

void wal_builder_init(WalBuilder *wal, const WalBuilderConfig *config);
void wal_builder_free(WalBuilder *wal);

/*
 * A record of `length` bytes in all (24 at least) with a body of noise; returns where it begins,
 * which is behind the page header when `end` was a page boundary. `end` is then the end of its
 * padding.
 */
Lsn wal_builder_record(WalBuilder *wal, uint8_t rmgr, uint8_t info, uint32_t length);

/* A record that says where a backup began: its body is that LSN. */
Lsn wal_builder_backup_end(WalBuilder *wal, Lsn backup_start);

/* A record that ends exactly at `end`: a page boundary or at least 24 bytes behind the next record.
 */
Lsn wal_builder_record_until(WalBuilder *wal, Lsn end);

/* A switch; the rest of its segment is zero, `end` is the next segment's start. */
Lsn wal_builder_switch(WalBuilder *wal);

/*
 * A record of `length` bytes that breaks off at the end of the page it begins on or, for `pages`
 * over 1, of a later one, and the record that replaces it; returns where that one begins.
 */
Lsn wal_builder_overwrite(WalBuilder *wal, uint32_t length, uint32_t pages);

/* Zero bytes up to `end`, without page headers: what a server has not written yet. */
void wal_builder_zero(WalBuilder *wal, Lsn end);

/* What was built, from one LSN up to another. Valid until the next change. */
Span wal_builder_span(const WalBuilder *wal, Lsn from, Lsn to);

/* The byte at `lsn`, to damage it. Valid until the next change. */
uint8_t *wal_builder_at(const WalBuilder *wal, Lsn lsn);

/* Give the record at `lsn` the checksum that its changed content asks for. */
void wal_builder_seal(const WalBuilder *wal, Lsn lsn);

#endif
